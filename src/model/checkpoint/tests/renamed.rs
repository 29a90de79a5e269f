//! A `gemma3` under the names that its files have had, and what stands beside its text model.

use super::*;

fn config() -> Value {
    json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "head_dim": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 260, "max_position_embeddings": 64,
        },
        "vision_config": {"num_hidden_layers": 27},
    })
}

/// Opens a folder whose tensors are those of the text model, named by `name`, and others.
fn open(
    config: &Value,
    name: impl Fn(&str) -> String,
    others: &[&str],
) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), config);
    let own = parsed(config).parameter_shapes().into_iter();
    let own = own.map(|(known, shape)| (name(&known), shape));
    let others = others.iter().map(|name| (name.to_string(), vec![3]));
    let tensors: Vec<_> = own.chain(others).collect();
    write_tensors(
        &folder.path().join("model.safetensors"),
        &tensors,
        Dtype::Float32,
    );
    Checkpoint::open(folder.path(), &NoMemory).map_err(|error| error.to_string())
}

#[test]
fn the_text_model_of_gemma3_is_found_by_each_of_its_names() {
    let untied = with_head(&config());
    let published = |name: &str| format!("language_model.{name}");
    let newer = |name: &str| name.replace("model.", "model.language_model.");
    let backbone = |name: &str| name.replace("model.", "language_model.");
    let vision = [
        "vision_tower.post_layernorm.bias",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    ];
    for (config, name) in [
        (&config(), &published as &dyn Fn(&str) -> String),
        (&untied, &published),
        (&config(), &newer),
        (&untied, &newer),
        (&config(), &backbone),
    ] {
        let checkpoint = open(config, name, &vision).unwrap();
        assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
        let norm = "model.layers.1.self_attn.q_norm.weight";
        let read = checkpoint.tensor(norm, Dtype::Float32).unwrap();
        let values = read.bytes().chunks_exact(4);
        let values: Vec<f32> = values
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(values, numbers(&name(norm), 4));
    }
    let newer_vision = [
        "model.vision_tower.post_layernorm.bias",
        "model.multi_modal_projector.a",
    ];
    assert!(open(&config(), newer, &newer_vision).is_ok());
}

/// With a head of its own.
fn with_head(config: &Value) -> Value {
    let mut config = config.clone();
    config["tie_word_embeddings"] = json!(false);
    config
}

#[test]
fn a_head_that_differs_is_told_by_either_name() {
    let named = |name: &str| format!("language_model.{name}");
    let (mut tied, untied) = (config(), with_head(&config()));
    let folder = tempfile::tempdir().unwrap();
    tied["tie_word_embeddings"] = json!(true);
    write_tiny_folder(folder.path(), &tied);
    let tensors = parsed(&untied).parameter_shapes().into_iter();
    let tensors: Vec<_> = tensors.map(|(name, shape)| (named(&name), shape)).collect();
    write_tensors(
        &folder.path().join("model.safetensors"),
        &tensors,
        Dtype::Float32,
    );
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert!(!checkpoint.config.tied_embeddings);
    assert!(checkpoint.findings[0].contains("differs from its embedding"));
}

#[test]
fn what_is_no_part_of_gemma3_is_refused() {
    let published = |name: &str| format!("language_model.{name}");
    let refused = |others: &[&str]| open(&config(), published, others).unwrap_err();
    let message = refused(&["language_model.model.layers.0.self_attn.sinks"]);
    assert!(
        message.contains("tensor `model.layers.0.self_attn.sinks` is not supported"),
        "{message}"
    );
    let message = refused(&["audio_tower.weight"]);
    assert!(
        message.contains("tensor `audio_tower.weight` is not supported"),
        "{message}"
    );
    let message = refused(&["model.norm.weight"]);
    assert!(message.contains("by another name"), "{message}");
    let message = open(&config(), |name| format!("text.{name}"), &[]).unwrap_err();
    assert!(
        message.contains("tensor `model.embed_tokens.weight` is missing"),
        "{message}"
    );
}
