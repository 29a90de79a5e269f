use super::*;
use crate::model::config::{Rope, RopeScaling};
use serde_json::{Value, json};

fn base(model_type: &str) -> Value {
    json!({
        "model_type": model_type, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
        "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 100, "eos_token_id": 7,
        "rope_theta": 1000.0,
    })
}

fn read(config: &Value) -> Result<ModelConfig, String> {
    ModelConfig::from_hugging_face(Path::new("config.json"), &config.to_string(), None)
        .map_err(|error| error.to_string())
}

fn with(mut config: Value, changes: Value) -> Value {
    if let (Some(config), Value::Object(changes)) = (config.as_object_mut(), changes) {
        config.extend(changes);
    }
    config
}

#[test]
fn the_defaults_are_those_of_transformers() {
    let qwen = read(&base("qwen2")).unwrap();
    assert_eq!(
        (qwen.qkv_bias, qwen.attention_output_bias, qwen.mlp_bias),
        (true, false, false)
    );
    assert_eq!(
        (qwen.d_head, qwen.context_length, qwen.rms_norm_eps),
        (8, 32768, 1e-6)
    );
    assert!(!qwen.tied_embeddings);
    let llama = read(&with(
        base("llama"),
        json!({"attention_bias": true, "mlp_bias": true, "head_dim": 16}),
    ));
    let llama = llama.unwrap();
    assert_eq!(
        (llama.qkv_bias, llama.attention_output_bias, llama.mlp_bias),
        (true, true, true)
    );
    assert_eq!((llama.d_head, llama.context_length), (16, 2048));
}

#[test]
fn rope_is_read_from_the_old_and_the_new_place() {
    let old = json!({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}});
    let new = json!({"rope_theta": null, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "linear", "factor": 2.0}});
    let expected = Rope {
        theta: 1000.0,
        scaling: RopeScaling::Linear { factor: 2.0 },
    };
    assert_eq!(read(&with(base("llama"), old)).unwrap().rope, expected);
    assert_eq!(read(&with(base("llama"), new)).unwrap().rope, expected);
}

#[test]
fn yarn_takes_its_defaults_from_the_context_lengths() {
    let changes = json!({"max_position_embeddings": 400, "rope_scaling":
        {"rope_type": "yarn", "original_max_position_embeddings": 100}});
    let RopeScaling::Yarn {
        factor,
        original_context_length,
        ..
    } = read(&with(base("qwen2"), changes)).unwrap().rope.scaling
    else {
        panic!("expected yarn");
    };
    assert_eq!((factor, original_context_length), (4.0, 100));
}

#[test]
fn both_files_name_ends_of_text() {
    let generation = (
        Path::new("generation_config.json"),
        r#"{"eos_token_id": [9, 7]}"#,
    );
    let text = base("llama").to_string();
    let config = ModelConfig::from_hugging_face(Path::new("config.json"), &text, Some(generation));
    assert_eq!(config.unwrap().end_of_text, [7, 9]);
}

#[test]
fn what_would_be_computed_wrongly_is_refused() {
    for (changes, expected) in [
        (
            json!({"model_type": "gemma2"}),
            "`model_type` `gemma2` is not supported (supported: `llama`, `qwen2`)",
        ),
        (json!({"hidden_act": "gelu"}), "`hidden_act` `gelu`"),
        (
            json!({"use_sliding_window": true, "max_window_layers": 2}),
            "sliding-window attention",
        ),
        (
            json!({"layer_types": ["sliding_attention"]}),
            "sliding-window attention",
        ),
        (
            json!({"quantization_config": {"bits": 4}}),
            "`quantization_config`",
        ),
        (
            json!({"architectures": ["Qwen2ForRewardModel"]}),
            "`Qwen2ForCausalLM`",
        ),
        (
            json!({"rope_scaling": {"rope_type": "longrope"}}),
            "rope type `longrope`",
        ),
        (
            json!({"rope_scaling": {"mrope_section": [1]}}),
            "rope parameter `mrope_section`",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` `0.5`",
        ),
    ] {
        let message = read(&with(base("qwen2"), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let unused = json!({"use_sliding_window": true, "max_window_layers": 3, "sliding_window": 10});
    assert!(read(&with(base("qwen2"), unused)).is_ok());
}

#[test]
fn what_does_not_fit_together_is_an_error() {
    for (changes, expected) in [
        (
            json!({"num_attention_heads": 7}),
            "`hidden_size` is `64`, expected a multiple",
        ),
        (
            json!({"num_attention_heads": 0}),
            "`hidden_size` is `64`, expected a multiple",
        ),
        (
            json!({"num_key_value_heads": 3}),
            "expected a multiple of `num_key_value_heads`, which is `3`",
        ),
        (json!({"head_dim": 5}), "expected an even number"),
        (json!({"vocab_size": 0}), "`vocab_size` is `0`"),
        (json!({"hidden_size": "wide"}), "expected usize"),
        (
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            "`low_freq_factor` is missing",
        ),
    ] {
        let message = read(&with(base("llama"), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn every_field_is_part_of_the_serialised_form() {
    let text = serde_json::to_string(&read(&base("qwen2")).unwrap()).unwrap();
    for field in [
        "architecture",
        "d_model",
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "d_head",
        "d_mlp",
        "d_vocab",
    ] {
        assert!(text.contains(&format!("\"{field}\":")), "{text}");
    }
    assert!(
        text.contains(r#""rope":{"theta":1000.0,"scaling":{"type":"none"}}"#),
        "{text}"
    );
    assert!(text.contains(r#""end_of_text":[7]"#), "{text}");
}
