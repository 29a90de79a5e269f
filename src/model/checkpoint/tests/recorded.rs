//! Fingerprints of sound models, as recorded: what is cached under them must be found again by every later version.

use super::*;
use crate::model::checkpoint::NoMemory;

/// The fingerprint of the model at `path`, of its working dtype float32.
fn fingerprint(path: &Path) -> String {
    let checkpoint = Checkpoint::open(path, &NoMemory).unwrap();
    let weights = checkpoint.file_hashes(&NoMemory).unwrap();
    let (config, tokenizer) = (&checkpoint.config, &checkpoint.tokenizer);
    let template = checkpoint.chat_template.as_ref();
    let hash = Checkpoint::fingerprint(&weights, config, tokenizer, template, Dtype::Float32);
    hash.to_hex()[..16].to_string()
}

#[test]
fn folders_keep_their_fingerprints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_tiny_model(path, &tiny_config("llama"), Dtype::Float32);
    assert_eq!(fingerprint(path), "c284883133253f69");
    write_tiny_model(path, &tiny_config("qwen2"), Dtype::BFloat16);
    assert_eq!(fingerprint(path), "0e5279c4d5f57ba9");
    let mut tied = tiny_config("qwen2");
    tied["tie_word_embeddings"] = json!(true);
    write_tiny_model(path, &tied, Dtype::Float16);
    assert_eq!(fingerprint(path), "8ce182589dd88701");
    let mut stretched = tiny_config("llama");
    stretched["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    write_tiny_model(path, &stretched, Dtype::Float32);
    assert_eq!(fingerprint(path), "89ee68f8015c50a6");

    let shards = tempfile::tempdir().unwrap();
    write_tiny_shards(shards.path(), &tiny_config("qwen2"));
    assert_eq!(fingerprint(shards.path()), "5ca16e6b4c3a6e9f");
}

#[test]
fn gguf_files_keep_their_fingerprints() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for (section, expected) in [("llama", "bba8970868607df2"), ("qwen2", "d55c0a727094f322")] {
        gguf_file::write(&path, &gguf::metadata(section), &gguf::tensors(section));
        assert_eq!(fingerprint(&path), expected, "{section}");
    }
}
