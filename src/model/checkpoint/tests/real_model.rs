//! SmolLM2-135M-Instruct as downloaded, against what Hugging Face transformers makes of the same file.

use std::path::PathBuf;

use super::*;
use crate::model::chat::Message;

/// A file relative to the project's root, or a message that the test is skipped.
fn at_hand(relative: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(relative);
    if !path.exists() {
        eprintln!("skipped: `{relative}` is not there");
        return None;
    }
    Some(path)
}

fn smollm2() -> Option<Checkpoint> {
    let path = at_hand("third_party/models/SmolLM2-135M-Instruct.Q4_1.gguf")?;
    Some(Checkpoint::open(&path, &NoMemory).unwrap())
}

fn oracle(name: &str) -> Option<Value> {
    let path = at_hand(&format!("../shared/oracle/smollm2/{name}"))?;
    Some(serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

/// The message between the last `user` header and its end.
fn user_message(prompt: &str) -> &str {
    let after = prompt.split_once("<|im_start|>user\n").unwrap().1;
    after
        .strip_suffix("<|im_end|>\n<|im_start|>assistant\n")
        .unwrap()
}

#[test]
fn the_configuration_is_that_of_the_model() {
    let Some(checkpoint) = smollm2() else { return };
    let config = &checkpoint.config;
    assert_eq!(
        (
            config.d_model,
            config.n_layers,
            config.n_heads,
            config.n_kv_heads
        ),
        (576, 30, 9, 3)
    );
    assert_eq!(
        (config.d_head, config.d_mlp, config.d_vocab),
        (64, 1536, 49152)
    );
    assert_eq!(config.context_length, 8192);
    assert!(config.tied_embeddings);
    let llama = config.clone().llama().clone();
    assert_eq!((llama.rope.theta, llama.qkv_bias), (100_000.0, false));
    assert_eq!(config.end_of_text, [2]);
    assert_eq!(checkpoint.tokenizer.d_vocab(), 49152);
    let tensor = checkpoint
        .tensor("model.layers.29.mlp.down_proj.weight", Dtype::BFloat16)
        .unwrap();
    assert_eq!(
        (tensor.shape.as_slice(), tensor.bytes().len()),
        (&[576, 1536][..], 576 * 1536 * 2)
    );
}

#[test]
fn prompts_and_ids_equal_those_of_transformers() {
    let (Some(checkpoint), Some(expected)) = (smollm2(), oracle("tokens.json")) else {
        return;
    };
    let template = checkpoint.chat_template.as_ref().unwrap();
    let prompts = expected["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 200);
    for prompt in prompts {
        let text = prompt["text"].as_str().unwrap();
        let system = expected["system"].as_str().unwrap();
        let messages = [
            Message::new("system", system),
            Message::new("user", user_message(text)),
        ];
        assert_eq!(template.render(&messages, true).unwrap(), text);
        assert_eq!(
            checkpoint.tokenizer.encode(text).unwrap(),
            ids(&prompt["ids"]),
            "{text}"
        );
    }
}

#[test]
fn first_tokens_equal_those_of_transformers() {
    let (Some(checkpoint), Some(expected)) = (smollm2(), oracle("tokens.json")) else {
        return;
    };
    let first = |words: &[&str]| -> Vec<u32> {
        let ids: std::collections::BTreeSet<u32> = words
            .iter()
            .map(|word| checkpoint.tokenizer.first_token(word).unwrap())
            .collect();
        ids.into_iter().collect()
    };
    assert_eq!(
        first(&["I'm", "I", "Sorry", "I\u{2019}m"]),
        ids(&expected["refuse_ids"])
    );
    assert_eq!(
        first(&["Sure", "Yes", "Here", "Of"]),
        ids(&expected["comply_ids"])
    );
}

#[test]
fn generated_ids_decode_to_the_texts_of_transformers() {
    let (Some(checkpoint), Some(expected)) = (smollm2(), oracle("greedy_l20.json")) else {
        return;
    };
    for row in expected.as_array().unwrap() {
        let text = checkpoint
            .tokenizer
            .decode(&ids(&row["ids"]), false)
            .unwrap();
        assert_eq!(text, row["text"].as_str().unwrap());
    }
}
