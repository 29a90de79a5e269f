//! Prompt sets and vocabularies that are sound and odd, told before a run: names that look alike, fields that stand twice, tokens without an
//! embedding, ends that cannot come.

use std::path::Path;

use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};

use crate::prompts::{jsonl, main_set};
use crate::workbench::{Workbench, copy_folder};

const STUDY: &str = r#"
[models.own]
source = "own"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "own"
prompts = "main"
"#;

#[test]
fn names_that_look_the_same_are_a_finding_that_names_them() {
    let mut prompts = main_set(6, 2);
    prompts[0].id = "caf\u{e9}".to_string();
    prompts[3].id = "cafe\u{301}".to_string();
    prompts[4].split = "edge ".to_string();
    let bench = Workbench::new(&prompts);
    let study = STUDY.replace("\"own\"\n[prompts", "\"models/inst\"\n[prompts");
    bench.write("study.toml", &study);
    let plan = bench.dial(&["plan", "study.toml"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let run = bench.run(&study).ok();
    let told = [plan.stdout + &plan.stderr, run.said.stderr];
    for said in &told {
        assert!(
            said.contains("prompt set `main`: ids that look the same and differ in Unicode form"),
            "{said}"
        );
        assert!(
            said.contains("`caf\u{e9}` (line 1) and `cafe\u{301}` (line 4)"),
            "{said}"
        );
        assert!(
            said.contains("`edge` (line 1) and `edge ` (line 5)"),
            "{said}"
        );
    }
}

#[test]
fn a_field_twice_in_one_object_is_refused_at_its_place() {
    let prompts = main_set(3, 2);
    let bench = Workbench::new(&prompts);
    let text = jsonl(&prompts).replacen("{", "{\"prompt\": \"calm1\", ", 1);
    bench.write("main.jsonl", text);
    let study = STUDY.replace("\"own\"\n[prompts", "\"models/inst\"\n[prompts");
    let said = bench.refusal(&study);
    let message = said.message(2);
    assert!(message.contains("main.jsonl:1:"), "{message}");
    assert!(
        message.contains("field `prompt` stands twice in one object"),
        "{message}"
    );
}

/// The planted model with an embedding of so many rows, from the first.
fn with_rows(rows: usize, change: impl Fn(&mut Value)) -> Workbench {
    let bench = Workbench::new(&main_set(6, 4));
    let own = bench.path("own");
    copy_folder(&bench.path("models/inst").canonicalize().unwrap(), &own);
    let config = own.join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&config).unwrap()).unwrap();
    json["vocab_size"] = json!(rows);
    change(&mut json);
    std::fs::write(&config, json.to_string()).unwrap();
    shorten(&own.join("model.safetensors"), rows);
    bench
}

fn shorten(path: &Path, rows: usize) {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let views = tensors.tensors().into_iter().map(|(name, view)| {
        let mut shape = view.shape().to_vec();
        let mut data = view.data();
        if name.contains("embed_tokens") || name.contains("lm_head") {
            let width = data.len() / shape[0];
            shape[0] = rows;
            data = &data[..rows * width];
        }
        (name, TensorView::new(view.dtype(), shape, data).unwrap())
    });
    let views: Vec<(String, TensorView<'_>)> = views.collect();
    let shorter = safetensors::serialize(views, None).unwrap();
    std::fs::write(path, shorter).unwrap();
}

/// The number of tokens of the planted model.
fn d_vocab() -> usize {
    let bench = Workbench::new(&main_set(2, 2));
    let path = bench.path("models/inst/config.json");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    usize::try_from(json["vocab_size"].as_u64().unwrap()).unwrap()
}

#[test]
fn tokens_without_an_embedding_are_a_finding_until_a_text_uses_one() {
    let rows = d_vocab() - 3;
    let bench = with_rows(rows, |_| {});
    // The last words are those that are left over.
    let first = format!("calm{}", 150 - 3);
    bench.write("main.jsonl", "{\"id\": \"a\", \"prompt\": \"calm1 calm2\"}\n{\"id\": \"b\", \"prompt\": \"harm1 calm2\"}");
    let run = bench.run(STUDY).ok();
    let told = format!(
        "note: model `own`: its tokenizer has tokens up to {} (`calm149`), but its embedding has {rows} rows",
        rows + 2
    );
    assert!(run.said.stderr.contains(&told), "{}", run.said.stderr);
    let bad = format!(
        "{{\"id\": \"a\", \"prompt\": \"calm1\"}}\n{{\"id\": \"b\", \"prompt\": \"calm2 {first}\"}}"
    );
    bench.write("main.jsonl", bad);
    for command in ["plan", "run"] {
        let said = bench.dial(&[command, "study.toml"]);
        let message = said.message(2);
        let expected = format!(
            "error: prompt `b` of `main` has token {rows} (`{first}`), for which model `own` has no embedding"
        );
        assert!(message.starts_with(&expected), "{message}");
        assert!(message.contains("study.toml:7:9"), "{message}");
    }
}

#[test]
fn a_score_word_without_a_row_is_refused() {
    let bench = with_rows(d_vocab() - 1, |_| {});
    bench.write("main.jsonl", "{\"id\": \"a\", \"prompt\": \"calm1\"}");
    let said = bench.refusal(&format!("[score]\nrefuse = [\"calm149\"]\n{STUDY}"));
    let message = said.message(2);
    assert!(
        message.contains(
            "(`calm149`) is the first token of a score word, and model `own` has no row for it"
        ),
        "{message}"
    );
    assert!(message.contains("study.toml:1:1"), "{message}");
}

#[test]
fn an_end_that_cannot_come_is_a_finding() {
    let rows = d_vocab();
    let bench = with_rows(rows, |config| config["eos_token_id"] = json!([2, 9999]));
    bench.write("study.toml", STUDY);
    let plan = bench.dial(&["plan", "study.toml"]);
    let told = format!(
        "model `own`: its end-of-text token 9999 is beyond its vocabulary of {rows}: no text ends there"
    );
    assert!(
        (plan.stdout.clone() + &plan.stderr).contains(&told),
        "{plan:?}"
    );
}
