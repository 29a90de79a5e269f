//! Edits on a condition: found, held to, and as cheap as two cells and a choice. On the model with two planted concepts.

use std::sync::OnceLock;

use crate::checkpoint::{self, TWO, dot, second_direction};
use crate::prompts::{Prompt, of_two_concepts};
use crate::workbench::{Run, Table, Workbench};

/// Split by what they are to be told apart by.
fn prompts() -> Vec<Prompt> {
    let of = |prompt: Prompt| Prompt {
        split: prompt.category,
        category: prompt.split,
        ..prompt
    };
    of_two_concepts(80).into_iter().map(of).collect()
}

const DIRECTIONS: &str = r#"
[models.inst]
source = "models/two"
[prompts.main]
path = "main.jsonl"
[stages.refusal]
kind = "direction"
model = "inst"
prompts = "main"
select = "column"
column = "category"
a = "harmful"
b = "edge"
layer = 2
[stages.warmth]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "warm"
b = "cold"
layer = "1..4"
[stages.condition]
model = "inst"
prompts = "main"
direction = "warmth"
open = "warm"
closed = "cold"
over = "last"
"#;

fn steer(name: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"refusal\"\nalpha = [0, 4]\n{more}\n"
    )
}

fn on(side: &str) -> String {
    format!("when = {{ direction = \"warmth\", layer = 2, over = \"last\", {side} }}")
}

fn text() -> String {
    let stages = [
        steer("found", "when = { condition = \"condition\" }"),
        steer("always", &on("above = -1.5")),
        steer("never", &on("above = 1.5")),
        steer("none", ""),
        steer(
            "tokens",
            "when = { direction = \"warmth\", layer = 2, above = [0.0, 0.1], similarity = \"cast\" }",
        ),
    ];
    let more = r#"
[stages.random]
model = "inst"
prompts = "main"
seed = "0..2"
layer = 2
alpha = [0, 4]
when = { condition = "condition" }
[stages.ablated]
kind = "steer"
model = "inst"
prompts = "main"
direction = "refusal"
mode = "ablate_everywhere"
when = { condition = "condition" }
[stages.texts]
kind = "generate"
model = "inst"
prompts = "main"
limit = 3
direction = "refusal"
alpha = [0, 8]
max_new_tokens = 3
when = { condition = "condition" }
[stages.plain]
kind = "generate"
model = "inst"
prompts = "main"
limit = 3
direction = "refusal"
alpha = [0, 8]
max_new_tokens = 3
"#;
    [DIRECTIONS, &stages.concat(), more].concat()
}

fn study() -> &'static (Workbench, Run) {
    static STUDY_RUN: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDY_RUN.get_or_init(|| {
        let bench = Workbench::new(&prompts());
        checkpoint::write(&bench.path("models/two"), TWO);
        let run = bench.run(&text()).ok();
        (bench, run)
    })
}

fn table(name: &str) -> Table {
    let (bench, run) = study();
    run.table(bench, name)
}

#[test]
fn the_planted_condition_is_found() {
    let chosen = table("condition.chosen");
    let chosen = chosen.only();
    let layer: usize = chosen.text("layer").parse().unwrap();
    assert_eq!(chosen.text("when"), "above");
    assert!(
        chosen.number("f1_train") > 0.9 && chosen.number("f1") > 0.85,
        "{chosen:?}"
    );
    assert!(chosen.number("f1_low") <= chosen.number("f1"));
    assert!(chosen.number("f1_of_all") < 0.75);
    assert_eq!(table("condition").0.len(), 3);
    let (bench, run) = study();
    let found = run.direction(bench, &format!("condition.layer{layer}.resid_pre"));
    assert!(dot(&found, &second_direction()) > 0.7);
    // What is said of the held-out half follows from the prompts' own rows.
    let prompts = table("condition.likeness").with(&[("half", "holdout")]);
    let count = |wanted: &str, edited: &str| {
        let rows = prompts.with(&[("wanted", wanted), ("edited", edited)]);
        rows.0.len() as f64
    };
    let (right, missed, wrong) = (
        count("true", "true"),
        count("true", "false"),
        count("false", "true"),
    );
    assert!((chosen.number("precision") - right / (right + wrong)).abs() < 1e-12);
    assert!((chosen.number("recall") - right / (right + missed)).abs() < 1e-12);
    let f1 = 2.0 * right / (2.0 * right + missed + wrong);
    assert!((chosen.number("f1") - f1).abs() < 1e-12);
}

#[test]
fn conditions_are_compared_between_runs() {
    let (bench, run) = study();
    let folder = run.json["run_dir"].as_str().unwrap();
    let said = bench.dial(&["diff", folder, folder, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let compared = told["difference"]["comparisons"].as_array().unwrap();
    let of = |kind: &str, quantity: &str| {
        let found = compared
            .iter()
            .find(|c| c["kind"] == kind && c["quantity"] == quantity);
        let found = found.unwrap_or_else(|| panic!("no {kind} {quantity} in {compared:?}"));
        found["matched"].as_u64().unwrap()
    };
    let likely = table("condition.likeness").0.len() as u64;
    assert_eq!(of("condition likeness", "likeness"), likely);
    for quantity in ["threshold", "f1", "precision", "recall", "auroc"] {
        assert_eq!(of("condition", quantity), 3, "{quantity}");
    }
}

#[test]
fn each_row_is_the_edited_one_or_the_unedited_one() {
    let (found, none) = (table("found"), table("none"));
    let plain = |id: &str, alpha: &str| {
        let row = none.with(&[("id", id), ("alpha", alpha)]);
        row.only().text("score").to_string()
    };
    let mut edited = 0;
    for row in &found.with(&[("alpha", "4.0")]).0 {
        let is_edited = row.text("edited") == "true";
        assert_eq!(is_edited, row.number("likeness") > row.number("threshold"));
        let alpha = if is_edited { "4.0" } else { "0.0" };
        assert_eq!(row.text("score"), plain(row.text("id"), alpha));
        edited += usize::from(is_edited);
    }
    assert!((35..=45).contains(&edited), "{edited}");
    let direction = found.0[0].text("direction").to_string();
    assert!(direction.contains("+if(warm_minus_cold@"), "{direction}");
    for (name, alphas) in [("always", ["0.0", "4.0"]), ("never", ["0.0", "0.0"])] {
        for (asked, given) in ["0.0", "4.0"].into_iter().zip(alphas) {
            for row in &table(name).with(&[("alpha", asked)]).0 {
                assert_eq!(row.text("score"), plain(row.text("id"), given), "{name}");
            }
        }
    }
}

#[test]
fn texts_controls_and_ablations_are_on_the_condition_too() {
    let (texts, plain) = (table("texts"), table("plain"));
    for row in &texts.0 {
        let alpha = match row.text("edited") {
            "true" => row.text("alpha"),
            _ => "0.0",
        };
        let same = plain.with(&[("id", row.text("id")), ("alpha", alpha)]);
        assert_eq!(row.text("text"), same.only().text("text"));
    }
    let edited = |rows: &Table| rows.with(&[("edited", "true")]).0.len();
    assert_eq!(edited(&texts), 3 * 2);
    assert_eq!(edited(&table("random")) % 4, 0);
    let ablated = table("ablated");
    assert_eq!(ablated.0.len(), 80);
    assert!(
        ablated.0[0]
            .text("direction")
            .starts_with("harmful_minus_edge_ablated_at_every_site+if(")
    );
    // The mean over all tokens, CAST's way: never below 0, and one run for each threshold.
    let tokens = table("tokens");
    assert_eq!(tokens.0.len(), 2 * 2 * 80);
    assert!(
        tokens
            .numbers("likeness")
            .iter()
            .all(|likeness| *likeness >= 0.0)
    );
}

#[test]
fn no_threshold_asks_for_another_cell() {
    let (bench, _) = study();
    let again = bench.run(&text()).ok();
    assert!(
        again.all_computed().is_empty(),
        "{:?}",
        again.all_computed()
    );
    let other = text().replace("above = 1.5", "below = [-0.3, 0.0, 0.05, 0.2]");
    let other = bench.run(&other).ok();
    assert!(
        other.all_computed().is_empty(),
        "{:?}",
        other.all_computed()
    );
    assert_eq!(other.table(bench, "never").0.len(), 4 * 2 * 80);
    // Another condition on the same direction asks for what the prompts are like, and no more.
    let last = text().replace(
        "layer = 2, over = \"last\", above = 1.5",
        "layer = 3, above = 0.0",
    );
    assert_eq!(bench.run(&last).ok().all_computed(), [("never", 80)]);
}

#[test]
fn a_file_of_the_study_agrees_when_everything_is_computed_again() {
    let (bench, run) = study();
    run.assert_comes_out_again(bench, "models/two");
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let (bench, _) = study();
    let told = |more: &str| bench.refusal(&[DIRECTIONS, more].concat()).stderr;
    for (when, expected) in [
        (
            "{ direction = \"warmth\", layer = 2 }",
            "a threshold on one side: `above` or `below`",
        ),
        (
            "{ direction = \"warmth\", layer = 2, above = 0, below = 1 }",
            "a threshold on one side",
        ),
        (
            "{ direction = \"warmth\", above = 0 }",
            "makes directions at several layers",
        ),
        (
            "{ direction = \"warmth\", layer = 0, above = 0 }",
            "makes no direction at layer 0",
        ),
        ("{ direction = \"nothing\", above = 0 }", "`nothing`"),
        ("{ condition = \"condition\", above = 0 }", "`above`"),
        ("{ condition = \"warmth\" }", "gives directions"),
        (
            "{ direction = \"warmth\", layer = 2, above = 0, over = \"all\" }",
            "`mean`",
        ),
    ] {
        let message = told(&steer("wrong", &format!("when = {when}")));
        assert!(message.contains(expected), "{when}: {message}");
    }
    let both = "[stages.wrong]\nkind = \"condition\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"warmth\"\nopen = \"warm\"\nclosed = [\"cold\", \"warm\"]\n";
    assert!(told(both).contains("is to be acted on and left alone"));
}
