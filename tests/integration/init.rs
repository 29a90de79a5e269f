//! `dial init`: a file that runs as it is written, on its own prompts and on those that are there.

use insta::assert_snapshot;

use crate::prompts::{jsonl, main_set};
use crate::workbench::Workbench;

/// What was written, by the name of the file.
fn text(bench: &Workbench, name: &str) -> String {
    std::fs::read_to_string(bench.path(name)).unwrap()
}

/// Runs the study of a file, with fewer random directions than it asks for.
#[track_caller]
fn runs(bench: &Workbench, file: &str) {
    let fewer = ["--set", "stages.random.seed=[0,1]", "--threads", "1"];
    let said = bench.dial(&[&["run", file], fewer.as_slice()].concat());
    assert_eq!(said.code, 0, "{}", said.stderr);
}

#[test]
fn a_starter_runs_on_the_prompts_that_are_written_beside_it() {
    let bench = Workbench::new(&[]);
    let said = bench.dial(&["init", "--model", "models/inst"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_snapshot!(said.stderr, @r"
    wrote study.toml, prompts.jsonl with prompts to begin with, and, for editors, dial.schema.json
    next: dial plan study.toml
    ");
    let study = text(&bench, "study.toml");
    assert!(study.contains("source = \"models/inst\""), "{study}");
    // 20 of 24 layers are 3 of 4.
    assert_eq!(study.matches("layer = 3").count(), 3, "{study}");
    assert_eq!(study.matches("n = 30").count(), 2, "{study}");
    assert_eq!(text(&bench, "prompts.jsonl").lines().count(), 300);
    runs(&bench, "study.toml");
}

#[test]
fn prompts_that_are_there_are_kept_and_decide_the_size_of_groups() {
    let bench = Workbench::new(&[]);
    bench.write("prompts.jsonl", jsonl(&main_set(40, 20)));
    let before = text(&bench, "prompts.jsonl");
    let said = bench.dial(&["init", "small.toml", "--model", "models/inst"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_snapshot!(said.stderr, @r"
    wrote small.toml and, for editors, dial.schema.json
    next: dial plan small.toml
    ");
    assert_eq!(text(&bench, "prompts.jsonl"), before);
    assert_eq!(text(&bench, "small.toml").matches("n = 6\n").count(), 2);
    runs(&bench, "small.toml");
}

#[test]
fn a_model_that_cannot_be_used_and_prompts_that_cannot_be_read_leave_nothing_behind() {
    let bench = Workbench::new(&[]);
    let said = bench.dial(&["init", "--model", "models/none"]);
    assert_snapshot!(said.message(1), @"error: model source `models/none`: `models/none` does not exist; expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`");
    bench.write("prompts.jsonl", "{");
    let said = bench.dial(&["init"]);
    assert_snapshot!(said.message(1), @r#"error: prompts.jsonl:1:1: bad JSON: EOF while parsing an object; each line must be one object such as `{"id": "e1", "prompt": "…"}`"#);
    assert!(!bench.path("study.toml").exists());
    assert!(!bench.path("dial.schema.json").exists());
}

#[test]
fn in_another_folder_the_model_is_still_found() {
    let bench = Workbench::new(&[]);
    std::fs::create_dir(bench.path("new")).unwrap();
    let said = bench.dial(&["init", "new/study.toml", "--model", "models/inst"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(bench.dial(&["plan", "new/study.toml"]).code, 0);
}
