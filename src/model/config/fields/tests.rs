use super::*;
use crate::model::config::{Rope, RopeScaling};
use crate::model::families::Llama;
use serde_json::{Value, json};

mod gemma;
mod olmo_glm;

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
    let biases = |llama: &Llama| (llama.qkv_bias, llama.attention_output_bias, llama.mlp_bias);
    let mut config = read(&base("qwen2")).unwrap();
    assert_eq!((config.d_head, config.context_length), (8, 32768));
    assert!(!config.tied_embeddings);
    let qwen = config.llama();
    assert_eq!(biases(qwen), (true, false, false));
    assert_eq!(qwen.rms_norm_eps, 1e-6);
    let config = read(&with(
        base("llama"),
        json!({"attention_bias": true, "mlp_bias": true, "head_dim": 16}),
    ));
    let mut config = config.unwrap();
    assert_eq!((config.d_head, config.context_length), (16, 2048));
    assert_eq!(biases(config.llama()), (true, true, true));
}

#[test]
fn rope_is_read_from_the_old_and_the_new_place() {
    let old = json!({"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}});
    let new = json!({"rope_theta": null, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "linear", "factor": 2.0}});
    let expected = Rope {
        theta: 1000.0,
        scaling: RopeScaling::Linear { factor: 2.0 },
    };
    assert_eq!(
        read(&with(base("llama"), old)).unwrap().llama().rope,
        expected
    );
    assert_eq!(
        read(&with(base("llama"), new)).unwrap().llama().rope,
        expected
    );
}

#[test]
fn yarn_takes_its_defaults_from_the_context_lengths() {
    let changes = json!({"max_position_embeddings": 400, "rope_scaling":
        {"rope_type": "yarn", "original_max_position_embeddings": 100}});
    let RopeScaling::Yarn {
        factor,
        original_context_length,
        ..
    } = read(&with(base("qwen2"), changes))
        .unwrap()
        .llama()
        .rope
        .scaling
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
            json!({"model_type": "gemma4"}),
            "`model_type` `gemma4` is not supported (supported: `cohere2`, `gemma`, ",
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
        (
            json!({"hidden_size": "wide"}),
            "`hidden_size` is `\"wide\"`, expected a whole number",
        ),
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
fn a_rope_number_that_nothing_would_read_is_refused() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    for (rope, expected) in [
        (
            json!({"factor": 4.0}),
            "the rope parameters have no `rope_type`, so that `factor`, which is `4`, would not be used",
        ),
        (
            json!({"rope_type": "default", "factor": 4.0}),
            "the rope parameters are of type `default`, so that `factor`",
        ),
        (
            json!({"type": "default", "original_max_position_embeddings": 100}),
            "`original_max_position_embeddings`, which is `100`, would not",
        ),
        (
            json!({"type": "linear", "factor": 2.0, "attention_factor": 1.5}),
            "`attention_factor`",
        ),
        (
            json!({"type": "dynamic", "factor": 2.0, "low_freq_factor": 1.0}),
            "`low_freq_factor`",
        ),
        (with(llama3, json!({"beta_fast": 32.0})), "`beta_fast`"),
        (
            json!({"type": "yarn", "factor": 2.0, "high_freq_factor": 1.0}),
            "`high_freq_factor`",
        ),
        (
            json!({"type": "yarn", "factor": 2.0, "mscale": 0.7}),
            "`mscale`",
        ),
        (
            json!({"type": "yarn", "factor": 2.0, "attention_factor": 1.1, "mscale": 0.7, "mscale_all_dim": 0.7}),
            "`mscale`",
        ),
        (
            json!({"rope_type": "linear", "type": "yarn", "factor": 2.0}),
            "`rope_type` is `linear`, but `type` is `yarn`",
        ),
        (
            json!({"rope_type": "longrope", "factor": 2.0}),
            "rope type `longrope` is not supported",
        ),
        (
            json!({"rope_theta": 500.0}),
            "`rope_theta` is given twice, as `500`",
        ),
    ] {
        let config = with(base("llama"), json!({"rope_scaling": rope}));
        let message = read(&config).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let both = json!({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}});
    let message = read(&with(base("llama"), both)).unwrap_err();
    assert!(
        message.contains("`rope_scaling` and `rope_parameters` differ"),
        "{message}"
    );
}

#[test]
fn rope_numbers_that_change_nothing_may_stand() {
    for rope in [
        json!({}),
        json!({"rope_type": "default", "factor": 1.0, "rope_theta": 1000.0}),
        json!({"type": "default", "original_max_position_embeddings": 2048}),
    ] {
        let config = with(
            base("llama"),
            json!({"rope_scaling": rope, "rope_parameters": rope}),
        );
        assert_eq!(
            read(&config).unwrap().llama().rope.scaling,
            RopeScaling::None
        );
    }
}

#[test]
fn numbers_of_other_families_are_refused_unless_they_change_nothing() {
    for (changes, expected) in [
        (json!({"logit_scale": 0.0625}), "`logit_scale` `0.0625`"),
        (
            json!({"attention_multiplier": 0.1}),
            "`attention_multiplier` `0.1`",
        ),
        (
            json!({"final_logit_softcapping": 30.0}),
            "`final_logit_softcapping`",
        ),
        (json!({"num_local_experts": 8}), "`num_local_experts` `8`"),
        (json!({"is_causal": false}), "`is_causal` `false`"),
        (
            json!({"rope_interleaved": true}),
            "`rope_interleaved` `true`",
        ),
    ] {
        let message = read(&with(base("llama"), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let neutral = json!({"logit_scale": 1, "attention_multiplier": null, "num_experts": 0, "is_causal": true, "rope_interleaved": false});
    assert_eq!(
        read(&with(base("llama"), neutral)).unwrap(),
        read(&base("llama")).unwrap()
    );
}

#[test]
fn a_key_given_twice_is_an_error() {
    let twice = |key: &str| {
        let text = base("llama").to_string();
        let text = format!(r#"{{{key}: 3, {key}: 4, {}"#, &text[1..]);
        let config = ModelConfig::from_hugging_face(Path::new("config.json"), &text, None);
        config.unwrap_err().to_string()
    };
    assert!(twice(r#""logit_scale""#).contains("key `logit_scale` is given twice"));
    assert!(twice(r#""head_dim""#).contains("key `head_dim` is given twice"));
    let nested = base("llama").to_string().replace(
        r#""rope_theta":1000.0"#,
        r#""rope_scaling":{"mrope":1,"mrope":2}"#,
    );
    let config = ModelConfig::from_hugging_face(Path::new("config.json"), &nested, None);
    assert!(
        config
            .unwrap_err()
            .to_string()
            .contains("key `mrope` is given twice")
    );
    let generation = (
        Path::new("generation_config.json"),
        r#"{"eos_token_id": 1, "eos_token_id": 2}"#,
    );
    let text = base("llama").to_string();
    let config = ModelConfig::from_hugging_face(Path::new("config.json"), &text, Some(generation));
    assert!(
        config
            .unwrap_err()
            .to_string()
            .contains("generation_config.json`: not as expected: key")
    );
}

#[test]
fn numbers_that_make_no_model_are_named() {
    for (changes, expected) in [
        (
            json!({"rms_norm_eps": -1e-6}),
            "`rms_norm_eps` is `-0.000001`",
        ),
        (json!({"rms_norm_eps": 2.0}), "`rms_norm_eps` is `2`"),
        (json!({"rope_theta": 0.0}), "`rope_theta` is `0`"),
        (json!({"rope_theta": -1e4}), "`rope_theta` is `-10000`"),
        (json!({"rope_theta": 1e300}), "up to 1e15"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 1e-300}}),
            "expected a positive number from 1e-9 to 1e9",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 0}}),
            "expected a positive number from 1e-9 to 1e9",
        ),
        (json!({"hidden_size": u64::MAX}), "`hidden_size` is"),
        (
            json!({"num_hidden_layers": 1_000_000_000}),
            "`num_hidden_layers` is `1000000000`",
        ),
        (json!({"head_dim": 0}), "`head_dim` is `0`"),
        (
            json!({"num_key_value_heads": 0}),
            "`num_key_value_heads` is `0`",
        ),
        (
            json!({"intermediate_size": 1u64 << 40}),
            "`intermediate_size` is",
        ),
        (
            json!({"vocab_size": -1}),
            "`vocab_size` is `-1`, expected a whole number",
        ),
    ] {
        let message = read(&with(base("llama"), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    for number in ["NaN", "Infinity", "1e999"] {
        let text = base("llama").to_string().replace("1000.0", number);
        assert!(ModelConfig::from_hugging_face(Path::new("config.json"), &text, None).is_err());
    }
}

#[test]
fn code_and_quantised_weights_are_said_by_name() {
    for (changes, expected) in [
        (
            json!({"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}),
            "`model_type` `mine`, which is code of the repository's own (`auto_map`, `trust_remote_code`), is not supported (supported: `cohere2`, `gemma`, ",
        ),
        (
            json!({"quantization_config": {"quant_method": "awq", "bits": 4}}),
            "quantised by `awq` (`quantization_config`) is not supported (supported: the float32, float16 or bfloat16 model that was quantised, or a GGUF",
        ),
        (
            json!({"quantization": {"bits": 4}}),
            "quantised (`quantization`)",
        ),
        (
            json!({"compression_config": {}}),
            "quantised (`compression_config`)",
        ),
    ] {
        let message = read(&with(base("llama"), changes)).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    let text = with(base("llama"), json!({"auto_map": {"AutoModel": "x.Y"}})).to_string();
    assert!(
        super::code_of_its_own(&text)
            .unwrap()
            .contains("(`auto_map`: `AutoModel`)")
    );
    assert_eq!(super::code_of_its_own(&base("llama").to_string()), None);
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

mod gpt;
mod phi3_stablelm_cohere2;
