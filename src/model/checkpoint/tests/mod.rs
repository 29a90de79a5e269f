//! Tests that open models: tiny ones made here, and the real one where it is at hand.

mod ablated;
mod buffers;
mod folders;
mod gguf;
mod gguf_faults;
mod gguf_file;
mod hub;
mod hugging_face;
mod quantised;
mod real_model;
mod recorded;
mod renamed;
mod without_weights;

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

use super::*;

/// Two blocks, two query heads of width 4 on one key head, biases where qwen2 has them, untied.
fn tiny_config(model_type: &str) -> Value {
    json!({
        "architectures": [if model_type == "qwen2" { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" }],
        "model_type": model_type, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 260, "eos_token_id": 257,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    })
}

fn parsed(config: &Value) -> ModelConfig {
    ModelConfig::from_hugging_face(Path::new("config.json"), &config.to_string(), None).unwrap()
}

/// Small numbers that float16 and bfloat16 hold exactly, different for every tensor and element.
fn numbers(name: &str, count: usize) -> Vec<f32> {
    let mut state = blake3::hash(name.as_bytes()).as_bytes()[0] as u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 25) as f32 / 64.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// The 256 bytes, two special tokens (256 `<|im_start|>`, 257 `<|im_end|>`) and one merge, `hi` (258).
fn tiny_vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = ByteLevel::alphabet()
        .into_iter()
        .map(String::from)
        .collect();
    tokens.sort();
    tokens.extend(["<|im_start|>", "<|im_end|>", "hi"].map(String::from));
    tokens
}

fn tiny_tokenizer() -> tokenizers::Tokenizer {
    let vocab: Vocab = tiny_vocabulary().into_iter().zip(0..).collect();
    let merges = vec![("h".to_string(), "i".to_string())];
    let mut tokenizer = tokenizers::Tokenizer::new(BPE::new(vocab, merges));
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special =
        ["<|im_start|>", "<|im_end|>"].map(|text| tokenizers::AddedToken::from(text, true));
    tokenizer.add_special_tokens(special).unwrap();
    tokenizer
}

const TINY_TEMPLATE: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ eos_token }}\n{% endfor %}";

/// Writes tensors into a safetensors file.
fn write_tensors(path: &Path, tensors: &[(String, Vec<usize>)], dtype: Dtype) {
    let kind = match dtype {
        Dtype::Float32 => safetensors::Dtype::F32,
        Dtype::BFloat16 => safetensors::Dtype::BF16,
        Dtype::Float16 => safetensors::Dtype::F16,
    };
    let bytes: Vec<(String, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let values = numbers(name, shape.iter().product());
            let mut bytes = vec![0; values.len() * dtype.size()];
            host_tensor::encode(&values, dtype, &mut bytes);
            (name.clone(), bytes)
        })
        .collect();
    let views: HashMap<&str, TensorView> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape), (_, data))| {
            (
                name.as_str(),
                TensorView::new(kind, shape.clone(), data).unwrap(),
            )
        })
        .collect();
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// Writes the files around the weights.
fn write_tiny_folder(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    tiny_tokenizer()
        .save(folder.join("tokenizer.json"), false)
        .unwrap();
    let tokenizer_config =
        json!({"chat_template": TINY_TEMPLATE, "eos_token": {"content": "<|im_end|>"}});
    std::fs::write(
        folder.join("tokenizer_config.json"),
        tokenizer_config.to_string(),
    )
    .unwrap();
}

/// A whole tiny model in one file of weights.
fn write_tiny_model(folder: &Path, config: &Value, dtype: Dtype) {
    write_tiny_folder(folder, config);
    write_tensors(
        &folder.join("model.safetensors"),
        &parsed(config).parameter_shapes(),
        dtype,
    );
}

/// A whole tiny model, for tests of other rooms, which read it and compute nothing with it.
pub(crate) fn write_any_model(folder: &Path) {
    write_tiny_model(folder, &tiny_config("llama"), Dtype::Float32);
}

/// The same model in two shards and an index.
fn write_tiny_shards(folder: &Path, config: &Value) {
    write_tiny_folder(folder, config);
    let shapes = parsed(config).parameter_shapes();
    let (first, second) = shapes.split_at(shapes.len() / 2);
    let mut weight_map = serde_json::Map::new();
    for (shard, tensors) in [("a.safetensors", first), ("b.safetensors", second)] {
        write_tensors(&folder.join(shard), tensors, Dtype::Float32);
        weight_map.extend(tensors.iter().map(|(name, _)| (name.clone(), json!(shard))));
    }
    let index = json!({"metadata": {}, "weight_map": weight_map});
    std::fs::write(folder.join(super::hugging_face::INDEX), index.to_string()).unwrap();
}

/// The message of opening `path`, which must fail.
fn refusal(path: &Path) -> String {
    Checkpoint::open(path, &NoMemory).unwrap_err().to_string()
}
