//! Where and what: positions, several layers and edits at once, and every kind of edit, on the model whose refusal direction is known.

use std::sync::OnceLock;

use crate::checkpoint::{self, COLD, TWO, WARM, dot, refusal_direction, second_direction};
use crate::prompts::{main_set, of_two_concepts};
use crate::workbench::{Run, Table, Workbench};

const MODEL: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
"#;

/// Three tokens stand behind the instruction: `<|im_end|>`, `<|im_start|>`, `assistant`.
const GRID: &str = r#"
[stages.grid]
kind = "direction"
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 20
position = ["instruction_end", "post_instruction"]
layer = [0, 2, 3]

[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 20
layer = [1, 2]
affine = true

[stages.short]
kind = "direction"
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 5
layer = 2
"#;

fn steer(name: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"direction\"\n{more}\n"
    )
}

fn random(name: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"random\"\nmodel = \"inst\"\nprompts = \"main\"\nseed = \"0..4\"\nlayer = 2\n{more}\n"
    )
}

fn text() -> String {
    let stages = [
        steer("last", "layer = [0, 3]\nalpha = [0, 4]"),
        steer("before", "layer = [0, 3]\nposition = -3\nalpha = [0, 4]"),
        steer("all", "layer = 3\nposition = \"all\"\nalpha = [0, 4]"),
        steer(
            "window",
            "layer = 3\nposition = { include = \"-6..\", exclude = [\"instruction_end\", -6] }\nalpha = 4",
        ),
        steer("everywhere", "mode = \"ablate_everywhere\""),
        steer("span", "mode = \"ablate_span\"\nlayer = 3"),
        steer("ace", "mode = \"ace\"\nalpha = [0, 1]"),
        steer("leace", "mode = \"leace\""),
        steer(
            "rotate",
            "mode = \"rotate\"\nplane = \"short\"\nalpha = [0, 90, 180]\nlayer = 2",
        ),
        steer("together", "together = true\nalpha = [0, 2]"),
        steer("both", "layer = [1, 2]\ntogether = true\nalpha = 2"),
        steer(
            "sum",
            "layer = 2\nalpha = [0, 2]\nwith = [{ direction = \"direction\", layer = 2, alpha = [0, 3] }, { direction = \"short\", mode = \"ablate\", position = -2 }]",
        ),
        steer("five", "layer = 2\nalpha = [0, 2, 3, 5]"),
        random("random_everywhere", "mode = \"ablate_everywhere\""),
        random(
            "random_span",
            "mode = \"ablate_span\"\nreference = \"direction\"",
        ),
        random(
            "random_ace",
            "mode = \"ace\"\nreference = \"direction\"\nalpha = [0, 1]",
        ),
        random(
            "random_leace",
            "mode = \"leace\"\nreference = \"direction\"",
        ),
        random(
            "random_rotate",
            "mode = \"rotate\"\nplane = \"short\"\nalpha = [0, 180]",
        ),
    ];
    let more = r#"
[stages.texts]
kind = "generate"
model = "inst"
prompts = "main"
limit = 3
direction = "direction"
layer = 2
mode = "ablate_everywhere"
max_new_tokens = 4

[stages.turned]
kind = "generate"
model = "inst"
prompts = "main"
limit = 2
direction = "direction"
layer = 2
mode = "rotate"
plane = "short"
alpha = [0, 180]
positions = ["last", "generated"]
max_new_tokens = 3

[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..2"
n = 8
layer = 2
mode = "ace"
alpha = [0, 1]

[stages.patch]
pairing = "prompts"
model = "inst"
donors = "harmful"
recipients = "edge"
prompts = "main"
layer = [0, 3]
site = "resid_pre"
position = ["instruction_end", "post_instruction"]
limit = 4

[stages.summary]
steer = "sum"
"#;
    [MODEL, GRID, &stages.concat(), more].concat()
}

fn study() -> &'static (Workbench, Run) {
    static STUDY_RUN: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDY_RUN.get_or_init(|| {
        let bench = Workbench::new(&main_set(60, 40));
        let run = bench.run(&text()).ok();
        (bench, run)
    })
}

fn table(name: &str) -> Table {
    let (bench, run) = study();
    run.table(bench, name)
}

fn vector(file: &str) -> Vec<f32> {
    let (bench, run) = study();
    run.direction(bench, file)
}

fn mean(table: &Table, split: &str, alpha: &str) -> f64 {
    table
        .with(&[("split", split), ("alpha", alpha)])
        .mean("score")
}

/// How far harmful prompts score above edge prompts.
fn gap(table: &Table) -> f64 {
    table.with(&[("split", "harmful")]).mean("score")
        - table.with(&[("split", "edge")]).mean("score")
}

#[test]
fn a_grid_finds_where_the_direction_is() {
    let grid = table("grid");
    // At tokens that all prompts have, nothing tells prompts apart before attention has read the others.
    assert_eq!(grid.0.len(), 3 + 3 * 2);
    assert_eq!(grid.with(&[("layer", "0")]).only().text("position"), "-4");
    for (position, token) in [
        ("-4", ""),
        ("-3", "<|im_end|>"),
        ("-2", "<|im_start|>"),
        ("-1", "assistant"),
    ] {
        let rows = grid.with(&[("position", position), ("layer", "3")]);
        assert_eq!(rows.only().text("token"), token);
        assert!(
            rows.only()
                .text("direction")
                .ends_with(&format!("_at_{position}"))
        );
    }
    let r = refusal_direction();
    for position in [-3, -2] {
        let file = format!("grid.layer3.resid_pre.position{position}");
        let found = dot(&vector(&file), &r);
        assert!(found > 0.9, "{position}: {found}");
    }
    let found = dot(&vector("grid.layer3.resid_pre"), &r);
    assert!(found > 0.9, "-1: {found}");
    let (bench, run) = study();
    let record = std::fs::read_to_string(run.file(bench, "run.json")).unwrap();
    for position in [-3, -2, -1] {
        let told =
            format!("position {position}, the mean activations of the two groups are the same");
        assert!(record.contains(&told), "{told}");
    }
}

/// The model's first two blocks move what earlier tokens hold to the last one; the others move nothing.
#[test]
fn an_edit_at_an_earlier_token_acts_where_attention_still_reads_it() {
    let effect = |name: &str, layer: &str| {
        let rows = table(name).with(&[("layer", layer)]);
        mean(&rows, "edge", "4.0") - mean(&rows, "edge", "0.0")
    };
    let (early, late) = (effect("before", "0"), effect("before", "3"));
    assert!(early > 0.2, "{early}");
    assert!(late.abs() < 0.1 * early, "{late} of {early}");
    assert!(effect("last", "3") > 3.0);
    // At all tokens of a late layer the last is what counts.
    let (all, last) = (effect("all", "3"), effect("last", "3"));
    assert!((all / last - 1.0).abs() < 0.05, "{all} {last}");
    let row = table("before");
    assert_eq!(
        (row.0[0].text("position"), row.0[0].text("token")),
        ("-3", "<|im_end|>")
    );
    assert_eq!(table("all").0[0].text("position"), "all");
    assert_eq!(
        table("window").0[0].text("position"),
        "-6.. without -6, instruction_end"
    );
}

#[test]
fn every_way_to_take_the_direction_out_takes_it_out() {
    let before = gap(&table("score"));
    let unsteered = |table: &Table| gap(&table.with(&[("layer", "2")]));
    for (name, most) in [("everywhere", 0.15), ("leace", 0.35)] {
        let after = unsteered(&table(name));
        assert!(after.abs() < most * before, "{name}: {after} of {before}");
    }
    let span = gap(&table("span"));
    assert!(span.abs() < 0.2 * before, "{span} of {before}");
    let ablated = &table("everywhere").0[0];
    assert_eq!(ablated.text("alpha"), "");
    assert_eq!(
        ablated.text("direction"),
        "top_bottom_20_ablated_at_every_site"
    );
    // Their controls leave it in.
    for name in ["random_everywhere", "random_span", "random_leace"] {
        let rows = table(name);
        let kept = gap(&rows) / before;
        assert!(kept > 0.6, "{name}: {kept}");
        assert_eq!(rows.with(&[("seed", "3")]).0.len(), 100);
    }
}

#[test]
fn a_level_is_that_of_the_group() {
    let ace = table("ace").with(&[("layer", "2")]);
    let (low, high) = (mean(&ace, "edge", "0.0"), mean(&ace, "edge", "1.0"));
    let score = table("score");
    let members = table("direction.members").with(&[("layer", "2")]);
    let of = |group: &str| {
        let rows = members.with(&[("group", group)]);
        let scores = rows
            .0
            .iter()
            .map(|row| score.with(&[("id", row.text("id"))]).only().number("score"));
        let scores: Vec<f64> = scores.collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    };
    let (bottom, top) = (of("bottom"), of("top"));
    assert!(
        (low - bottom).abs() < 0.25 * (top - bottom),
        "{low} {bottom}"
    );
    assert!((high - top).abs() < 0.25 * (top - bottom), "{high} {top}");
    // Whatever the prompt was, it is at the level now.
    assert!(gap(&ace.with(&[("alpha", "0.0")])).abs() < 0.3 * gap(&score));
    let random = table("random_ace");
    assert!(gap(&random.with(&[("alpha", "0.0")])) > 0.6 * gap(&score));
    let held_out = table("holdout").with(&[("set", "edge_holdout")]);
    assert!(mean(&held_out, "edge", "1.0") > mean(&held_out, "edge", "0.0") + 1.0);
}

#[test]
fn a_rotation_turns_the_score_over() {
    let rotated = table("rotate");
    let at = |alpha: &str| mean(&rotated, "edge", alpha);
    assert!(
        at("0.0") > at("90.0") && at("90.0") > at("180.0"),
        "{} {} {}",
        at("0.0"),
        at("90.0"),
        at("180.0")
    );
    assert_eq!(
        rotated.0[0].text("direction"),
        "top_bottom_20_rotated_from_layer_1"
    );
}

#[test]
fn several_edits_add_up() {
    let sum = table("sum").with(&[("alpha_2", "3.0")]);
    assert_eq!(sum.0[0].text("alpha_3"), "");
    let names: Vec<&str> = sum.0.iter().map(|row| row.text("direction")).collect();
    let of_first = "top_bottom_20_from_layer_1+top_bottom_20_from_layer_1(3)+top_bottom_5_ablated";
    assert!(names.contains(&of_first), "{names:?}");
    // What is ablated at an earlier token of a layer behind which nothing is moved changes nothing.
    let home = |table: &Table, name: &str| table.with(&[("direction", name)]);
    let five = home(&table("five"), "top_bottom_20");
    let sum = home(&sum, "top_bottom_20+top_bottom_20(3)+top_bottom_5_ablated");
    let (together, alone) = (mean(&sum, "edge", "2.0"), mean(&five, "edge", "5.0"));
    assert!((together - alone).abs() < 0.05, "{together} {alone}");
    let at_once = table("together");
    assert_eq!(at_once.0[0].text("layers"), "1+2");
    assert_eq!(table("both").0[0].text("layers"), "1+2");
    assert!(mean(&at_once, "edge", "2.0") > mean(&five, "edge", "2.0") + 0.5);
    // A summary tells directions of one place apart.
    let means = table("summary");
    let distinct: std::collections::BTreeSet<&str> =
        means.0.iter().map(|row| row.text("direction")).collect();
    assert_eq!(distinct.len(), 4);
}

#[test]
fn an_ablation_has_its_texts() {
    let texts = table("texts");
    assert_eq!(texts.0.len(), 6 * 2);
    assert_eq!(texts.0[0].text("position"), "all");
    assert_eq!(texts.0[0].text("alpha"), "");
    assert_eq!(table("turned").0.len(), 4 * 2 * 2);
}

#[test]
fn patched_at_all_tokens_from_the_instruction_on_the_score_is_the_donors() {
    let rows = table("patch").with(&[("layer", "3")]);
    for row in &rows.0 {
        let (patched, donor) = (row.number("score_patched"), row.number("score_donor"));
        assert!((patched - donor).abs() < 0.3, "{patched} {donor}");
    }
    assert_eq!(rows.0.len(), 4);
}

#[test]
fn nothing_is_computed_again_and_one_value_more_is_its_cells_alone() {
    let (bench, _) = study();
    let again = bench.run(&text()).ok();
    assert!(
        again.all_computed().is_empty(),
        "{:?}",
        again.all_computed()
    );
    let more = text().replace(
        "position = -3\nalpha = [0, 4]",
        "position = -3\nalpha = [0, 4, 5]",
    );
    let more = bench.run(&more).ok();
    // Two directions, each at two layers.
    assert_eq!(more.all_computed(), [("before", 2 * 2 * 100)]);
}

#[test]
fn mistakes_are_told_where_they_stand() {
    let bench = Workbench::new(&main_set(60, 40));
    let told = |more: &str| {
        let said = bench.refusal(&[MODEL, GRID, more].concat());
        said.message(2).to_string()
    };
    for (fields, expected) in [
        ("position = \"lst\"\nalpha = 1", "did you mean `last`?"),
        ("position = []\nalpha = 1", "is an empty list"),
        ("position = \"-1..-4\"\nalpha = 1", "is an empty window"),
        (
            "position = \"generated\"\nalpha = 1",
            "holds no token of the prompt",
        ),
        (
            "mode = \"ablate_span\"\nalpha = 1",
            "`alpha` is given, but `mode` is an ablation",
        ),
        ("mode = \"rotate\"\nalpha = 1", "no field `plane`"),
        (
            "mode = \"ace\"\nalpha = 1\nalpha_unit = \"unit\"",
            "`alpha_unit` is given, but `mode` is `ace`",
        ),
        (
            "alpha = 1\nplane = \"short\"",
            "`plane` is given, but `mode` is `add`",
        ),
        ("alpha = 1\nwith = [{ alpha = 1 }]", "no field `direction`"),
        (
            "alpha = 1\nwith = [{ direction = \"nothing\", alpha = 1 }]",
            "`nothing`",
        ),
    ] {
        let message = told(&steer("wrong", fields));
        assert!(message.contains(expected), "{fields}: {message}");
    }
}

#[test]
fn what_a_stage_cannot_do_is_an_error_of_its_run() {
    let bench = Workbench::new(&main_set(60, 40));
    let told = |more: &str| bench.refusal(&[MODEL, GRID, more].concat()).stderr;
    let without = "[stages.wrong]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"short\"\nmode = \"ace\"\nalpha = 1\n";
    assert!(told(without).contains("set `affine = true` in the stage that makes it"));
    let nowhere = steer(
        "wrong",
        "position = { include = \"..2\", exclude = \"0..3\" }\nalpha = 1",
    );
    assert!(
        told(&nowhere).contains("prompt `edge-00` has"),
        "{}",
        told(&nowhere)
    );
    let grid = "[stages.wrong]\nkind = \"direction\"\nmodel = \"inst\"\nprompts = \"main\"\nscores = \"score\"\nsplit = \"edge\"\nn = 5\nlayer = 2\nposition = \"all\"\n";
    assert!(told(grid).contains("a direction is made at single tokens, which `all` does not name"));
}

/// Two concepts in one model, each with a direction, a score and words of its own: made of two splits, and of two values of a column.
const TWO_CONCEPTS: &str = r#"
[models.inst]
source = "models/two"
[prompts.main]
path = "main.jsonl"
[score.warm]
yes = "helpful"
no = "careful"
[stages.score]
model = "inst"
prompts = "main"
read = ["refused", "warm"]
[stages.refusal]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
[stages.warmth]
kind = "direction"
model = "inst"
prompts = "main"
select = "column"
column = "category"
a = "warm"
b = "cold"
layer = 2
[stages.both]
kind = "steer"
model = "inst"
prompts = "main"
direction = "refusal"
alpha = [0, 4]
with = [{ direction = "warmth", alpha = [0, 4] }]
read = ["refused", "warm"]
[stages.neither]
kind = "steer"
model = "inst"
prompts = "main"
direction = "refusal"
mode = "ablate_everywhere"
with = [{ direction = "warmth", mode = "ablate_everywhere" }]
read = ["refused", "warm"]
"#;

#[test]
fn two_planted_directions_are_told_apart() {
    assert_eq!((WARM, COLD), ("helpful", "careful"));
    let bench = Workbench::new(&of_two_concepts(80));
    checkpoint::write(&bench.path("models/two"), TWO);
    let run = bench.run(TWO_CONCEPTS).ok();
    let found = |stage: &str| run.direction(&bench, &format!("{stage}.layer2.resid_pre"));
    let (r, q) = (refusal_direction(), second_direction());
    let (refusal, warmth) = (found("refusal"), found("warmth"));
    assert!(
        dot(&refusal, &r) > 0.8 && dot(&refusal, &q).abs() < 0.4,
        "{} {}",
        dot(&refusal, &r),
        dot(&refusal, &q)
    );
    assert!(
        dot(&warmth, &q) > 0.8 && dot(&warmth, &r).abs() < 0.3,
        "{} {}",
        dot(&warmth, &q),
        dot(&warmth, &r)
    );
    // Each moves its own score, and both at once move both.
    let mean = |table: &Table, alphas: [&str; 2]| {
        let [first, second] = alphas;
        table
            .with(&[("alpha", first), ("alpha_2", second)])
            .mean("score")
    };
    for (table, own, other) in [
        ("both", ["4.0", "0.0"], ["0.0", "4.0"]),
        ("both.warm", ["0.0", "4.0"], ["4.0", "0.0"]),
    ] {
        let table = run.table(&bench, table);
        let at_zero = mean(&table, ["0.0", "0.0"]);
        let by_own = mean(&table, own) - at_zero;
        let by_other = mean(&table, other) - at_zero;
        assert!(
            by_own > 1.0 && by_other.abs() < 0.2 * by_own,
            "{by_own} {by_other}"
        );
        let by_both = mean(&table, ["4.0", "4.0"]) - at_zero;
        assert!(by_both > 0.5 * by_own, "{by_both} {by_own}");
    }
    // With both gone nothing is left of either.
    let spread = |table: &Table| {
        let scores = table.numbers("score");
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        (scores.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / scores.len() as f64).sqrt()
    };
    for (scores, ablated) in [("score", "neither"), ("score.warm", "neither.warm")] {
        let (before, after) = (run.table(&bench, scores), run.table(&bench, ablated));
        let (before, after) = (spread(&before), spread(&after));
        assert!(after < 0.4 * before, "{scores}: {after} of {before}");
    }
}

/// Whatever is done and wherever, whoever gets the file finds the same.
#[test]
fn a_file_of_the_study_agrees_when_everything_is_computed_again() {
    let (bench, run) = study();
    run.assert_comes_out_again(bench, "models/inst");
}
