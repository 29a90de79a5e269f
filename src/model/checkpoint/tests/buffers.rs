//! Older families: tensors without the prefix, a head by another name, and buffers beside the weights, whatever they are stored as.

use safetensors::tensor::TensorView;

use super::*;

fn gpt2() -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": 12,
        "n_positions": 64, "vocab_size": 260, "eos_token_id": 257,
    })
}

fn gpt_neox() -> Value {
    json!({
        "architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_size": 8, "intermediate_size": 12,
        "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 260, "eos_token_id": 257, "max_position_embeddings": 64,
        "rotary_pct": 0.5,
    })
}

/// Opens a folder with a model's parameters, named by `name`, and with `buffers` of truth values, one element each.
fn open(
    config: &Value,
    name: impl Fn(&str) -> String,
    buffers: &[String],
) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), config);
    let parameters: Vec<(String, Vec<usize>, Vec<u8>)> = parsed(config)
        .parameter_shapes()
        .into_iter()
        .map(|(known, shape)| {
            let values = numbers(&known, shape.iter().product());
            let bytes = values.iter().flat_map(|value| value.to_le_bytes());
            (name(&known), shape, bytes.collect())
        })
        .collect();
    let weights = parameters.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name.clone(), view.unwrap())
    });
    let buffers = buffers.iter().map(|name| {
        let view = TensorView::new(safetensors::Dtype::BOOL, vec![1, 1], &[1]);
        (name.clone(), view.unwrap())
    });
    let all: HashMap<String, TensorView<'_>> = weights.chain(buffers).collect();
    let path = folder.path().join("model.safetensors");
    safetensors::serialize_to_file(all, None, &path).unwrap();
    Checkpoint::open(folder.path(), &NoMemory).map_err(|error| error.to_string())
}

fn same(name: &str) -> String {
    name.to_string()
}

#[test]
fn a_model_is_found_with_and_without_its_prefix() {
    for (config, prefix, buffers, norm) in [
        (
            gpt2(),
            "transformer.",
            ["h.0.attn.bias", "h.1.attn.masked_bias"],
            "transformer.h.1.ln_2.weight",
        ),
        (
            gpt_neox(),
            "gpt_neox.",
            [
                "layers.0.attention.bias",
                "layers.1.attention.rotary_emb.inv_freq",
            ],
            "gpt_neox.layers.1.input_layernorm.bias",
        ),
    ] {
        let bare = |name: &str| name.strip_prefix(prefix).unwrap_or(name).to_string();
        let with_prefix = buffers.map(|name| format!("{prefix}{name}"));
        for opened in [
            open(&config, same, &with_prefix),
            open(&config, bare, &buffers.map(same)),
        ] {
            let checkpoint = opened.unwrap();
            assert!(checkpoint.findings.is_empty(), "{:?}", checkpoint.findings);
            let read = checkpoint.tensor(norm, Dtype::Float32).unwrap();
            let expected = numbers(norm, 8);
            let expected = expected.iter().flat_map(|value| value.to_le_bytes());
            assert_eq!(read.bytes(), expected.collect::<Vec<u8>>());
        }
        // What is no buffer has to be numbers.
        let message = open(&config, same, &[bare(norm)]).unwrap_err();
        assert!(message.contains("dtype `BOOL` of tensor"), "{message}");

        let folder = tempfile::tempdir().unwrap();
        write_tiny_folder(folder.path(), &config);
        let mut tensors = parsed(&config).parameter_shapes();
        tensors.push((bare(norm), vec![8]));
        let path = folder.path().join("model.safetensors");
        write_tensors(&path, &tensors, Dtype::Float32);
        let message = refusal(folder.path());
        assert!(message.contains("by another name"), "{message}");
    }
}

#[test]
fn the_head_of_gpt_neox_has_two_names() {
    let other = |name: &str| name.replace("embed_out.", "lm_head.");
    assert!(open(&gpt_neox(), other, &[]).is_ok());
    let none = |name: &str| name.replace("embed_out.weight", "layers.0.attention.bias");
    let message = open(&gpt_neox(), none, &[]).unwrap_err();
    assert!(
        message.contains("`embed_out.weight` is missing: these are the weights of a backbone"),
        "{message}"
    );
}

#[test]
fn a_head_that_differs_is_told_whatever_it_is_called() {
    let folder = tempfile::tempdir().unwrap();
    let mut tied = gpt_neox();
    tied["tie_word_embeddings"] = json!(true);
    write_tiny_folder(folder.path(), &tied);
    write_tensors(
        &folder.path().join("model.safetensors"),
        &parsed(&gpt_neox()).parameter_shapes(),
        Dtype::Float32,
    );
    let checkpoint = Checkpoint::open(folder.path(), &NoMemory).unwrap();
    assert!(!checkpoint.config.tied_embeddings);
    assert!(
        checkpoint.findings[0].contains("holds an `embed_out.weight` that differs"),
        "{:?}",
        checkpoint.findings
    );
}

#[test]
fn missing_layers_are_told_of_every_family() {
    let mut more = gpt2();
    more["n_layer"] = json!(3);
    let folder = tempfile::tempdir().unwrap();
    write_tiny_folder(folder.path(), &more);
    write_tensors(
        &folder.path().join("model.safetensors"),
        &parsed(&gpt2()).parameter_shapes(),
        Dtype::Float32,
    );
    let message = refusal(folder.path());
    assert!(
        message.contains("the configuration has `3` layers, the weights have fewer"),
        "{message}"
    );
}
