//! Models: formats, files and what their configurations ask for.

use super::*;
use crate::fuzz::gguf::{Gguf, Value};

/// What the program says to a study with this model.
fn refusal(bench: &Workbench, source: &str) -> String {
    bench
        .refusal(&STUDY.replace("models/inst", source))
        .message(2)
        .to_string()
}

/// What the program says to a copy of the model that was changed.
fn refusal_after(change: impl Fn(&Path)) -> String {
    let bench = bench();
    change(&copied(&planted_models().join("inst"), bench.path("copy")));
    refusal(&bench, "copy")
}

fn with_config(key: &str, value: serde_json::Value) -> String {
    refusal_after(|folder| {
        let mut config = config();
        config[key] = value.clone();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    })
}

/// What the program says to a GGUF file that is sound but for this entry of its metadata.
fn refusal_of_gguf(key: &str, value: &str) -> String {
    let bench = bench();
    let mut file = Gguf::good();
    file.set(key, Value::Text(value.to_string()));
    bench.write("model.gguf", file.bytes());
    refusal(&bench, "model.gguf")
}

#[test]
fn a_path_that_leads_nowhere() {
    assert_snapshot!(refusal(&bench(), "models/other"), @r#"
    error: model `inst` cannot be used: model source `models/other`: `models/other` does not exist; expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`
     --> study.toml:2:10
      |
    2 | source = "models/other"
      |          ^^^^^^^^^^^^^^ this source
    "#);
    assert_snapshot!(refusal(&bench(), "main.jsonl"), @r#"
    error: model `inst` cannot be used: `main.jsonl`: a model file of this kind is not supported (supported: a Hugging Face folder, a `.gguf` file)
     --> study.toml:2:10
      |
    2 | source = "main.jsonl"
      |          ^^^^^^^^^^^^ this source
    "#);
    assert_snapshot!(refusal(&bench(), "hf:only-a-name"), @r#"
    error: model `inst` cannot be used: model source `hf:only-a-name`: `only-a-name` is not a repository, expected `org/name`
     --> study.toml:2:10
      |
    2 | source = "hf:only-a-name"
      |          ^^^^^^^^^^^^^^^^ this source
    "#);
}

#[test]
fn an_architecture_that_is_not_computed() {
    assert_snapshot!(with_config("model_type", json!("mamba")), @r#"
    error: model `inst` cannot be used: `copy/config.json`: `model_type` `mamba` is not supported (supported: `cohere2`, `gemma`, `gemma2`, `gemma3`, `gemma3_text`, `glm4`, `gpt2`, `gpt_neox`, `granite`, `llama`, `mistral`, `mixtral`, `olmo2`, `olmo3`, `phi3`, `qwen2`, `qwen3`, `qwen3_moe`, `smollm3`, `stablelm`)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
    assert_snapshot!(refusal_of_gguf("general.architecture", "gemma2"), @r#"
    error: model `inst` cannot be used: `model.gguf`: architecture `gemma2` is not supported (supported: `llama`, `qwen2`; for others use the Hugging Face folder)
     --> study.toml:2:10
      |
    2 | source = "model.gguf"
      |          ^^^^^^^^^^^^ this source
    "#);
}

#[test]
fn what_would_change_the_computation() {
    assert_snapshot!(with_config("hidden_act", json!("gelu")), @r#"
    error: model `inst` cannot be used: `copy/config.json`: `hidden_act` `gelu` is not supported (supported: `silu`)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
    assert_snapshot!(with_config("quantization_config", json!({"bits": 4})), @r#"
    error: model `inst` cannot be used: `copy/config.json`: a checkpoint whose weights are quantised (`quantization_config`) is not supported (supported: the float32, float16 or bfloat16 model that was quantised, or a GGUF file of it)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
}

#[test]
fn a_pre_tokeniser_that_is_not_known() {
    assert_snapshot!(refusal_of_gguf("tokenizer.ggml.pre", "deepseek-llm"), @r#"
    error: model `inst` cannot be used: `model.gguf`: pre-tokeniser `deepseek-llm` is not supported (supported: `gpt-2`, `smollm`, `qwen2`, `llama-bpe`)
     --> study.toml:2:10
      |
    2 | source = "model.gguf"
      |          ^^^^^^^^^^^^ this source
    "#);
}

/// The file has nothing but a tensor of this type.
#[test]
fn a_quantisation_that_is_not_read() {
    let bench = bench();
    let mut bytes: Vec<u8> = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    // One tensor, one entry of metadata.
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    for text in ["general.architecture", "llama", "t"] {
        if text == "llama" {
            bytes.extend(8u32.to_le_bytes());
        }
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(256u64.to_le_bytes());
    bytes.extend(20u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bench.write("model.gguf", bytes);
    assert_snapshot!(refusal(&bench, "model.gguf"), @r#"
    error: model `inst` cannot be used: `model.gguf`: type `IQ4_NL` of tensor `t` is not supported (supported: `F32`, `F16`, `BF16`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q2_K`, `Q3_K`, `Q4_K`, `Q5_K`, `Q6_K`)
     --> study.toml:2:10
      |
    2 | source = "model.gguf"
      |          ^^^^^^^^^^^^ this source
    "#);
}

#[test]
fn a_file_that_is_no_gguf() {
    let bench = bench();
    bench.write("model.gguf", "text");
    assert_snapshot!(refusal(&bench, "model.gguf"), @r#"
    error: model `inst` cannot be used: `model.gguf`: not a GGUF file: it does not begin with `GGUF`; download it again
     --> study.toml:2:10
      |
    2 | source = "model.gguf"
      |          ^^^^^^^^^^^^ this source
    "#);
}

#[test]
fn files_that_are_missing_or_cut_short() {
    assert_snapshot!(refusal_after(|folder| std::fs::remove_file(folder.join("model.safetensors")).unwrap()), @r#"
    error: model `inst` cannot be used: `copy`: no weights: expected `model.safetensors` or `model.safetensors.index.json`
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
    assert_snapshot!(refusal_after(|folder| std::fs::remove_file(folder.join("tokenizer.json")).unwrap()), @r#"
    error: model `inst` cannot be used: cannot read `copy/tokenizer.json`: No such file or directory (os error 2)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
    let cut = |folder: &Path| {
        let path = folder.join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    };
    assert_snapshot!(refusal_after(cut), @r#"
    error: model `inst` cannot be used: `copy/model.safetensors`: not a complete safetensors file (its header tells of 595200 bytes of data, but there are 295028); download it again
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
}

#[test]
fn dimensions_that_the_weights_have_not() {
    assert_snapshot!(with_config("intermediate_size", json!(D_MODEL)), @r#"
    error: model `inst` cannot be used: `copy`: tensor `model.layers.0.mlp.gate_proj.weight` has shape `[96, 64]`, expected `[64, 64]` by the configuration
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
}

#[test]
fn a_model_without_a_chat_template() {
    let bench = bench();
    let folder = copied(&planted_models().join("inst"), bench.path("copy"));
    std::fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    let said = bench.refusal(&STUDY.replace("models/inst", "copy"));
    assert_snapshot!(said.message(2), @r#"
    error: chat template: model `inst` has no chat template; name a model that has one with `template_from` under `[models.inst]`
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this model
    "#);
    // With the template of another it is the same model as that.
    let lent = "[models.lender]\nsource = \"models/inst\"\n[models.inst]\nsource = \"copy\"\ntemplate_from = \"lender\"";
    bench
        .run(&STUDY.replace("[models.inst]\nsource = \"models/inst\"", lent))
        .ok();
}

/// The configuration says that there is no head but the embedding; the file has one.
#[test]
fn a_head_that_is_said_to_be_the_embedding_and_is_not() {
    let bench = bench();
    let inst = bench.run(STUDY).ok();
    let folder = copied(&planted_models().join("inst"), bench.path("copy"));
    let mut config = config();
    config["tie_word_embeddings"] = json!(true);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let study = STUDY.replace("models/inst", "copy");
    let copy = bench.run(&study).ok();
    // The same weights, used in the same way: nothing is left to compute.
    assert_eq!(copy.all_computed(), []);
    let scores = |run: &Run| run.table(&bench, "score").numbers("score");
    assert_eq!(scores(&copy), scores(&inst));
    let plan = bench.dial(&["plan", "study.toml"]);
    assert!(plan.stdout.contains("model `inst`: says `tie_word_embeddings: true`, but holds an `lm_head.weight` that differs"), "{}", plan.stdout);
}
