//! What steering costs on the planted model: nothing without an edit, and with one the numbers that other stages and plain sums give.

mod against_transformers;

use std::sync::OnceLock;

use serde_json::json;

use crate::prompts::{main_set, sentence};
use crate::workbench::{Row, Run, Table, Workbench};

const BEFORE: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[prompts.questions]
path = "questions.jsonl"
[prompts.texts]
path = "texts.jsonl"
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
"#;

const STUDY: &str = r#"
[stages.cost]
model = "inst"
direction = "direction"
alpha = [0, 6, -6]
random = 2
kl = { prompts = "main", split = "edge", limit = 12 }
texts = { prompts = "texts", max_tokens = 10 }
answers = { prompts = "main", split = "edge", limit = 4, max_new_tokens = 3 }
choices = { prompts = "questions", form = "continuations", in_chat = true }
effect = { prompts = "main", split = "harmful", limit = 8 }
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [0, 6, -6]
[stages.random]
model = "inst"
prompts = "main"
seed = [0, 1]
layer = 2
alpha = [0, 6, -6]
[stages.ablated]
kind = "cost"
model = "inst"
direction = "direction"
mode = "ablate_everywhere"
random = 1
kl = { prompts = "main", split = "edge", variant = "refusal_direction" }
[stages.select]
model = "inst"
prompts = "main"
direction = "direction"
harmful = "harmful"
harmless = "edge"
max_kl = 1000
min_induce = -1000
last_layers = 0
random = 1
filter = false
[stages.begun]
kind = "cost"
model = "inst"
direction = "direction"
alpha = 6
positions = "last_prompt"
random = 0
kl = { prompts = "main", split = "edge", limit = 6, variant = "heretic" }
texts = { prompts = "texts", start = "calm3 calm5 " }
[stages.everywhere]
kind = "cost"
model = "inst"
direction = "direction"
alpha = 6
positions = "all"
random = 0
kl = { prompts = "main", split = "edge", limit = 12 }
texts = { prompts = "texts", max_tokens = 10 }
"#;

/// Prompts, questions that harmful words answer, and texts.
fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(20, 20));
    let question = |number: usize| {
        let asked = sentence(number, number % 2 * 7);
        json!({ "id": number, "prompt": asked, "choices": ["Sure", "Sorry", "Here"], "answer": number % 2 }).to_string()
    };
    let questions: Vec<String> = (0..8).map(question).collect();
    bench.write("questions.jsonl", questions.join("\n"));
    let text = |number: usize| {
        json!({ "id": format!("t{number}"), "text": sentence(number, number) }).to_string()
    };
    let texts: Vec<String> = (0..4).map(text).collect();
    bench.write("texts.jsonl", texts.join("\n"));
    bench
}

fn study() -> &'static (Workbench, Run) {
    static STUDY_RUN: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDY_RUN.get_or_init(|| {
        let bench = bench();
        let run = bench.run(&format!("{BEFORE}{STUDY}")).ok();
        (bench, run)
    })
}

fn table(name: &str) -> Table {
    let (bench, run) = study();
    run.table(bench, name)
}

/// The learned direction's run at an α, or the unedited one.
fn run_at(table: &Table, alpha: &str) -> Row {
    let is_learned = |row: &&Row| row.text("seed").is_empty() && row.text("direction") != "none";
    let rows = table.with(&[("alpha", alpha)]);
    rows.0.iter().find(is_learned).unwrap().clone()
}

#[test]
fn without_an_edit_nothing_is_lost() {
    let all = table("cost");
    assert_eq!(all.0.len(), 1 + 3 * 3);
    let unedited = &all.0[0];
    assert_eq!(unedited.text("direction"), "none");
    for row in all.with(&[("alpha", "0.0")]).0 {
        for column in [
            "kl",
            "kl_median",
            "kl_p95",
            "texts_change",
            "texts_change_high",
            "answers_change",
            "answers_change_low",
            "accuracy_change",
            "change",
        ] {
            assert_eq!(row.number(column), 0.0, "{column}: {row:?}");
        }
        for column in ["same_token", "same_choice", "mcnemar_p"] {
            assert_eq!(row.number(column), 1.0, "{column}: {row:?}");
        }
        for column in ["texts_ce", "answers_ppl", "accuracy", "p_correct", "mean"] {
            assert_eq!(row.text(column), unedited.text(column), "{column}");
        }
    }
    let ablated = table("ablated");
    let none = &ablated.with(&[("direction", "none")]);
    assert_eq!(none.only().number("kl"), 0.0);
    // Without α, and with as many rows as directions.
    assert_eq!(ablated.0.len(), 3);
    assert!(ablated.0[1].text("alpha").is_empty());
}

#[test]
fn an_edit_costs_what_its_prompts_say() {
    let all = table("cost");
    for alpha in ["6.0", "-6.0"] {
        let row = run_at(&all, alpha);
        let of = |name: &str| {
            let direction = row.text("direction");
            table(&format!("cost.{name}")).with(&[("alpha", alpha), ("direction", direction)])
        };
        let close = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        };
        close(row.number("kl"), of("kl").mean("kl"));
        assert!(row.number("kl") > 0.01);
        assert!(
            row.number("kl_low") < row.number("kl") && row.number("kl") < row.number("kl_high")
        );
        for (name, tokens) in [("texts", 4 * 9), ("answers", 4 * 3)] {
            let by_prompt = of(name);
            let sum = |column: &str| by_prompt.numbers(column).iter().sum::<f64>();
            assert_eq!(sum("tokens"), f64::from(tokens), "{name}");
            let found = row.number(&format!("{name}_ce"));
            close(found, sum("nll") / sum("tokens"));
            close(row.number(&format!("{name}_ppl")), found.exp());
            let change = row.number(&format!("{name}_change"));
            close(change, found - all.0[0].number(&format!("{name}_ce")));
            assert!(change.abs() > 1e-4, "{name}: {change}");
        }
        let choices = of("choices");
        let right = choices.with(&[("right", "true")]).0.len() as f64;
        close(row.number("accuracy"), right / 8.0);
        close(row.number("p_correct"), choices.mean("p_correct"));
    }
    // Towards refusal questions are answered with it.
    let chosen = |alpha: &str| {
        let chosen = table("cost.choices").with(&[("alpha", alpha), ("seed", "")]);
        chosen
            .0
            .iter()
            .filter(|row| row.text("chosen") == "B")
            .count()
    };
    assert!(chosen("6.0") > chosen("-6.0"));
    let row = run_at(&all, "6.0");
    let changes = row.number("won") - row.number("lost");
    assert_eq!(row.number("accuracy_change"), changes / 8.0);
    // What the model writes by itself is what it finds most probable.
    assert!(all.0[0].number("answers_ce") < row.number("answers_ce"));
}

/// The scores are those of a sweep, along random directions those of the control.
#[test]
fn the_effect_is_that_of_sweeps() {
    let effect = table("cost.effect");
    for (sweep, seed) in [("steer", ""), ("random", "0"), ("random", "1")] {
        for alpha in ["0.0", "6.0", "-6.0"] {
            let of = |table: &Table| table.with(&[("alpha", alpha), ("seed", seed)]);
            let swept = of(&table(sweep)).with(&[("split", "harmful")]);
            let found = of(&effect);
            let found = Table(
                found
                    .0
                    .into_iter()
                    .filter(|row| row.text("direction") != "none")
                    .collect(),
            );
            assert_eq!(found.numbers("score"), swept.numbers("score")[..8]);
        }
    }
    let (bench, run) = study();
    // The sweep asks for the other prompts alone.
    assert!(run.cached("steer") >= 8 * 3, "{}", run.cached("steer"));
    assert!(run.file(bench, "figures/cost.gain.svg").exists());
    assert!(run.file(bench, "figures/cost.over_alpha.svg").exists());
}

/// refusal_direction's divergence is the one that chooses directions.
#[test]
fn the_divergence_is_that_of_a_selection() {
    let checks = table("select.checks");
    for (direction, seed) in [("direction", ""), ("random", "0")] {
        let is_it = |row: &&Row| row.text("seed") == seed && row.text("direction") != "none";
        let halves: Vec<&Row> = checks.0.iter().filter(is_it).collect();
        let ablated = table("ablated.kl");
        let mine: Vec<f64> = ablated
            .0
            .iter()
            .filter(is_it)
            .map(|row| row.number("kl"))
            .collect();
        assert_eq!(mine.len(), 20, "{direction}");
        if direction == "random" {
            // On the half that did not choose alone.
            assert_eq!(halves.len(), 1);
            continue;
        }
        let sum: f64 = halves
            .iter()
            .map(|row| row.number("kl") * row.number("n_harmless"))
            .sum();
        let total: f64 = mine.iter().sum();
        assert!((sum - total).abs() < 1e-9, "{sum} {total}");
    }
}

#[test]
fn positions_reach_what_stands_behind_a_prompt() {
    let all = table("cost");
    let both = run_at(&all, "6.0");
    let everywhere = run_at(&table("everywhere"), "6.0");
    // A plain text is its first token and what follows: `both` edits all of it, as `all` does. Of a prompt `all` edits more.
    assert_eq!(everywhere.text("texts_ce"), both.text("texts_ce"));
    assert_ne!(everywhere.text("kl"), both.text("kl"));
    assert_eq!(everywhere.text("position"), "all");
    let begun = run_at(&table("begun"), "6.0");
    // `last_prompt` is the first token of a text, and two more are read with the start.
    assert_eq!(begun.number("texts_tokens"), 4.0 * 13.0);
    let (_, run) = study();
    assert!(
        run.said.stderr.contains("the unedited answers"),
        "{}",
        run.said.stderr
    );
}

#[test]
fn a_rerun_asks_nothing_and_the_export_agrees() {
    let (bench, run) = study();
    let again = bench.run(&format!("{BEFORE}{STUDY}")).ok();
    assert_eq!(again.all_computed(), []);
    let json = |run: &Run| run.json["run_dir"].as_str().unwrap().to_string();
    let compared = bench.dial(&["diff", &json(run), &json(&again)]);
    assert_eq!(compared.code, 0, "{compared:?}");
    for quantity in ["kl", "texts_ce", "answers_ce", "accuracy"] {
        assert!(compared.stdout.contains(quantity), "{compared:?}");
    }
    let shown = bench.dial(&["show", &json(run), "cost"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    run.assert_comes_out_again(bench, "models/inst");
}

/// Prompts that do not meet the condition cost nothing; no threshold asks for anything else.
#[test]
fn a_condition_keeps_the_cost_from_others() {
    let bench = bench();
    let study = |above: &str| {
        format!(
            "{BEFORE}[stages.cost]\nmodel = \"inst\"\ndirection = \"direction\"\nalpha = 6\nrandom = 0\n\
             kl = {{ prompts = \"main\", limit = 6 }}\ntexts = {{ prompts = \"texts\" }}\n\
             when = {{ direction = \"direction\", above = {above} }}\n"
        )
    };
    let run = bench.run(&study("[-1, 1]")).ok();
    let all = run.table(&bench, "cost");
    let of = |threshold: &str| all.with(&[("threshold", threshold)]).only().clone();
    let (always, never) = (of("-1.0"), of("1.0"));
    assert!(always.number("kl") > 0.01);
    for column in ["kl", "texts_change"] {
        assert_eq!(never.number(column), 0.0, "{column}");
    }
    let other = bench.run(&study("[-0.5, 0.1, 0.5]")).ok();
    assert_eq!(other.computed("cost"), 0);
}

#[test]
fn what_cannot_be_measured_is_told_before_anything_runs() {
    let bench = bench();
    let cost = |more: &str| {
        let stage = "[stages.cost]\nmodel = \"inst\"\ndirection = \"direction\"\nalpha = 6\n";
        bench.refusal(&format!("{BEFORE}{stage}{more}\n")).stderr
    };
    for (more, told) in [
        ("", "nothing is measured"),
        (
            "kl = { prompts = \"main\", split = \"egde\" }",
            "did you mean `edge`?",
        ),
        (
            "choices = { prompts = \"main\" }",
            "prompt `edge-00` (line 1) has no field `choices`",
        ),
        (
            "choices = { prompts = \"questions\", answer = \"right\" }",
            "so it is with 8 of 8 prompts",
        ),
        (
            "texts = { prompts = \"texts\" }\npositions = \"post_instruction\"",
            "which a plain text does not have",
        ),
        (
            "answers = { prompts = \"main\", max_new_tokens = 100000 }",
            "leaves no room for a prompt",
        ),
        (
            "kl = { prompts = \"main\" }\npositions = \"generated\"",
            "`positions` holds no token of it",
        ),
        (
            "kl = { prompts = \"main\", epsilon = 1 }",
            "unknown field `epsilon`",
        ),
    ] {
        let found = cost(more);
        assert!(found.contains(told), "{more}: {found}");
    }
}

/// Letters are one token to a model that knows words alone.
#[test]
fn choices_that_are_the_same_tokens_are_refused() {
    let bench = bench();
    let failed = bench.run(&format!(
        "{BEFORE}[stages.cost]\nmodel = \"inst\"\ndirection = \"direction\"\nalpha = 6\nchoices = {{ prompts = \"questions\" }}\n"
    ));
    assert_ne!(failed.said.code, 0);
    let told = "the choices ` A` and ` B` are the same tokens to model `inst`";
    assert!(failed.said.stderr.contains(told), "{}", failed.said.stderr);
}
