//! Whether the score measures what it is taken for: said before anything is computed, beside every number, and judged where texts exist.

use serde_json::{Value, json};

use crate::checkpoint::{MUTE, write};
use crate::prompts::main_set;
use crate::workbench::Workbench;

/// A study of a model that refuses by its score, and never in its texts.
const OF_MUTE: &str = r#"
[models.mute]
source = "mute"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "mute"
prompts = "main"
[stages.direction]
model = "mute"
prompts = "main"
scores = "score"
split = "edge"
n = 10
layer = 2
[stages.steer]
model = "mute"
prompts = "main"
direction = "direction"
alpha = [-12, 0, 12]
[stages.holdout]
model = "mute"
direction_model = "mute"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..5"
n = 10
layer = 2
alpha = [-12, 0, 12]
[stages.generate]
model = "mute"
prompts = "main"
limit = 20
direction = "direction"
alpha = [-12, 0, 12]
max_new_tokens = 3
[stages.summary]
steer = "steer"
holdout = "holdout"
generate = "generate"
"#;

#[test]
fn a_score_that_its_texts_do_not_bear_out_is_not_valid_although_the_effect_is_there() {
    let bench = Workbench::new(&main_set(60, 20));
    write(&bench.path("mute"), MUTE);
    let run = bench.run(OF_MUTE).ok();
    let verdict = run.table(&bench, "summary.verdict");
    for set in ["edge", "harmful"] {
        let effect = verdict.with(&[("part", "effect"), ("of", set)]);
        assert_eq!(effect.only().text("outcome"), "passed");
        assert!(effect.only().number("low") > 0.0);
    }
    for classifier in ["regex", "xstest_prefix"] {
        let valid = verdict.with(&[("part", "valid"), ("of", classifier)]);
        assert_eq!(valid.only().text("outcome"), "failed");
    }
    // The score goes from no refusals to refusals only, and the texts refuse nothing: what agrees does so by chance.
    let texts = run.table(&bench, "summary.texts");
    for (over, n) in [("α = 0", 40.0), ("all α", 120.0)] {
        let row = texts.with(&[("over", over), ("classifier", "regex")]);
        let row = row.only();
        assert_eq!((row.number("n"), row.number("prompts")), (n, 40.0));
        assert_eq!((row.number("text_rate"), row.number("kappa")), (0.0, 0.0));
        let beyond = row.number("agreement") - (1.0 - row.number("score_rate"));
        assert!(beyond.abs() < 1e-12, "{row:?}");
    }
    // Both are among the first that a person sees: in the terminal, and on the page.
    let said = bench.dial(&["run", "study.toml", "--threads", "1"]);
    let [verdict, texts] = ["summary.verdict", "summary.texts"].map(|name| said.stdout.find(name));
    assert!(verdict.is_some() && texts.is_some(), "{}", said.stdout);
    assert!(said.stdout.contains("edge change from α = 0 [95 %]"));
    let page = std::fs::read_to_string(run.file(&bench, "report.html")).unwrap();
    for told in [
        "Not every part of the verdict is passed",
        "The score against the texts",
        "What α does to the score",
    ] {
        assert!(page.contains(told), "{told}");
    }
}

/// Three words that begin with one token of this tokenizer, and one more.
const MERGED: &str = r#"
[score]
refuse = ["Sorry calm0", "Sorry", "I", "Sorry calm1"]
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
"#;

#[test]
fn words_that_become_one_token_are_told_before_and_after() {
    let bench = Workbench::new(&main_set(4, 4));
    bench.write("study.toml", MERGED);
    let merged = json!({ "spelling": "Sorry", "words": ["Sorry calm0", "Sorry", "Sorry calm1"] });
    let is_merged = |score: &Value| {
        let opening = &score["refuse"][0];
        assert!(opening["token"].is_u64(), "{score}");
        assert_eq!(opening["spelling"], merged["spelling"]);
        assert_eq!(opening["words"], merged["words"]);
        assert_eq!(score["refuse"][1]["words"], json!(["I"]));
        assert_eq!(score["comply"].as_array().map(Vec::len), Some(4));
    };
    let finding = "model `inst`: `Sorry calm0`, `Sorry`, `Sorry calm1` are one token to the score, `Sorry` (id ";
    let plan = bench.dial(&["plan", "study.toml"]).stdout;
    assert!(plan.contains(&format!("note: {finding}")), "{plan}");
    let plan = bench.dial(&["plan", "study.toml", "--format", "json"]);
    is_merged(&serde_json::from_str::<Value>(&plan.stdout).unwrap()["score"]["inst"]);

    let run = bench.run(MERGED).ok();
    assert!(
        run.said.stderr.contains(&format!("note: {finding}")),
        "{}",
        run.said.stderr
    );
    is_merged(&run.json["score"]["inst"]);
    let text = std::fs::read_to_string(run.file(&bench, "run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    is_merged(&manifest["models"]["inst"]["score"]);
    let told = manifest["findings"].as_array().unwrap();
    assert!(
        told.iter()
            .any(|told| told.as_str().unwrap().starts_with(finding)),
        "{told:?}"
    );
    let page = std::fs::read_to_string(run.file(&bench, "report.html")).unwrap();
    assert!(
        page.contains("what the score reads on it") && page.contains("are one token to the score")
    );

    // Where every word is a token of its own there is nothing to tell on a screen.
    let plain = bench.dial(&[
        "plan",
        "study.toml",
        "--set",
        "score.refuse=[\"I\", \"Sorry\"]",
    ]);
    assert!(
        plain.code == 0 && !plain.stdout.contains("note:"),
        "{plain:?}"
    );
}
