//! Where a continuation ends: at every token that one of a model's files names, also where only `tokenizer_config.json` does.

use std::path::Path;

use serde_json::{Value, json};

use crate::prompts::main_set;
use crate::workbench::{Run, Workbench, copy_folder};

const STUDY: &str = r#"
[models.own]
source = "own"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "own"
prompts = "main"
[stages.generate]
model = "own"
prompts = "main"
max_new_tokens = 5
"#;

fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let text = std::fs::read_to_string(path).unwrap();
    let mut json = serde_json::from_str(&text).unwrap();
    change(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// A model whose configuration ends a text at these tokens, and its tokenizer's configuration at that one.
fn bench(in_config: Value, in_tokenizer_config: Value) -> Workbench {
    let bench = Workbench::new(&main_set(8, 4));
    let own = bench.path("own");
    copy_folder(&bench.path("models/inst").canonicalize().unwrap(), &own);
    edit(&own.join("config.json"), |json| {
        json["eos_token_id"] = in_config.clone()
    });
    edit(&own.join("tokenizer_config.json"), |json| {
        json["eos_token"] = in_tokenizer_config.clone();
    });
    bench
}

fn manifest(run: &Run, bench: &Workbench) -> Value {
    serde_json::from_str(&std::fs::read_to_string(run.file(bench, "run.json")).unwrap()).unwrap()
}

fn texts(run: &Run, bench: &Workbench) -> Vec<String> {
    let table = run.table(bench, "generate");
    table
        .0
        .iter()
        .map(|row| row.text("text").to_string())
        .collect()
}

/// The id of a token of the planted model.
fn id_of(bench: &Workbench, token: &str) -> u64 {
    let text = std::fs::read_to_string(bench.path("own/tokenizer.json")).unwrap();
    let tokenizer: Value = serde_json::from_str(&text).unwrap();
    tokenizer["model"]["vocab"][token].as_u64().unwrap()
}

#[test]
fn a_token_that_only_the_tokenizer_s_configuration_names_ends_a_text() {
    let bench = bench(json!(0), json!({"content": "Sure", "special": true}));
    let run = bench.run(STUDY).ok();
    let texts = texts(&run, &bench);
    let ended: Vec<&String> = texts
        .iter()
        .filter(|text| text.starts_with("Sure"))
        .collect();
    assert!(!ended.is_empty(), "{texts:?}");
    assert!(ended.iter().all(|text| *text == "Sure"), "{texts:?}");
    let id = id_of(&bench, "Sure");
    let manifest = manifest(&run, &bench);
    assert_eq!(manifest["models"]["own"]["end_of_text"], json!([0, id]));
    assert_eq!(
        manifest["models"]["own"]["config"]["end_of_text"],
        json!([0])
    );
    // It is in the key of the texts, and in no other.
    let stages = manifest["stages"].as_array().unwrap();
    let parts = |name: &str| {
        let stage = stages.iter().find(|stage| stage["name"] == name).unwrap();
        stage["inputs"]["further_ends"].clone()
    };
    assert_eq!(
        (parts("score"), parts("generate")),
        (Value::Null, json!([[id]]))
    );
    // Without stopping, the same tokens go on.
    let on = bench.run(&format!("{STUDY}stop_at_end = false\n")).ok();
    let longer = self::texts(&on, &bench);
    for (text, longer) in texts.iter().zip(&longer) {
        assert!(longer.starts_with(text.as_str()), "{text}: {longer}");
    }
    assert!(
        longer.iter().any(|text| text.starts_with("Sure ")),
        "{longer:?}"
    );
}

#[test]
fn one_that_is_named_twice_changes_no_key() {
    let bench = bench(json!([0, 2]), json!("<|im_end|>"));
    let run = bench.run(STUDY).ok();
    let manifest = manifest(&run, &bench);
    assert_eq!(manifest["models"]["own"]["end_of_text"], json!([0, 2]));
    for stage in manifest["stages"].as_array().unwrap() {
        assert!(stage["inputs"].get("further_ends").is_none(), "{stage}");
    }
}

#[test]
fn one_that_is_no_token_is_told() {
    let bench = bench(json!(2), json!("</gone>"));
    let run = bench.run(STUDY).ok();
    let told =
        "note: model `own`: `eos_token` in `tokenizer_config.json` is `</gone>`, which is no token";
    assert!(run.said.stderr.contains(told), "{}", run.said.stderr);
}
