//! Directions from groups that a study names: splits, a column's values, labels of a table. No score is needed.

use insta::assert_snapshot;
use serde_json::json;

use crate::prompts::{Prompt, main_set};
use crate::workbench::{Run, Workbench};

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
"#;

/// The same two groups, told in each of the three ways, and half of each.
const WAYS: &str = r#"
[stages.splits]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = [2, 3]
[stages.column]
kind = "direction"
model = "inst"
prompts = "main"
select = "column"
column = "level"
a = ["7", "high"]
b = "low"
layer = [2, 3]
[stages.labels]
kind = "direction"
model = "inst"
prompts = "main"
select = "labels"
labels = "labels.csv"
a = "yes"
b = "no"
layer = [2, 3]
[stages.few]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
n = 3
layer = 2
"#;

const HELD_OUT: &str = r#"
[stages.steer]
model = "inst"
prompts = "main"
direction = "splits"
alpha = [-8, 0, 8]
layer = 2
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
seed = "0..5"
layer = 2
alpha = [-8, 0, 8]
[stages.random]
model = "inst"
prompts = "main"
seed = "0..19"
layer = 2
alpha = [-8, 0, 8]
[stages.summary]
holdout = "holdout"
random = "random"
"#;

/// The prompts with the column `level`, and a table of labels that tells the same groups apart.
fn write_prompts(bench: &Workbench, prompts: &[Prompt]) {
    let (mut lines, mut labels) = (String::new(), String::from("label,id\n"));
    for (number, p) in prompts.iter().enumerate() {
        let is_harmful = p.split == "harmful";
        let level = match (is_harmful, number % 2) {
            (true, 0) => json!("high"),
            (true, _) => json!(7),
            (false, _) => json!("low"),
        };
        let line = json!({"id": p.id, "prompt": p.text, "split": p.split, "category": p.category, "level": level});
        lines += &format!("{line}\n");
        labels += &format!("{},{}\n", if is_harmful { "yes" } else { "no" }, p.id);
    }
    bench.write("main.jsonl", lines);
    bench.write("labels.csv", labels);
}

fn bench() -> Workbench {
    let bench = Workbench::new(&[]);
    write_prompts(&bench, &main_set(24, 20));
    bench
}

fn direction(bench: &Workbench, run: &Run, stage: &str) -> Vec<u8> {
    let file = format!("directions/{stage}.layer2.resid_pre.safetensors");
    std::fs::read(run.file(bench, &file)).unwrap()
}

#[test]
fn groups_that_are_told_in_three_ways_make_one_direction_and_no_score_is_asked_for() {
    let bench = bench();
    let run = bench.run(&format!("{HEAD}{WAYS}")).ok();
    let of_splits = direction(&bench, &run, "splits");
    assert_eq!(of_splits, direction(&bench, &run, "column"));
    assert_eq!(of_splits, direction(&bench, &run, "labels"));
    assert_ne!(of_splits, direction(&bench, &run, "few"));
    for (stage, label, n) in [
        ("splits", "harmful_minus_edge", [20.0, 24.0]),
        ("column", "7+high_minus_low", [20.0, 24.0]),
        ("labels", "yes_minus_no", [20.0, 24.0]),
        ("few", "harmful_minus_edge", [3.0, 3.0]),
    ] {
        let table = run.table(&bench, stage);
        let row = &table.with(&[("layer", "2")]).0[0];
        assert_eq!(row.text("direction"), label);
        assert_eq!([row.number("n_top"), row.number("n_bottom")], n, "{stage}");
        for column in ["top_score_low", "bottom_score_high"] {
            assert_eq!(row.text(column), "", "{stage}");
        }
        // What separates the groups is no accident of the labels.
        let shuffled = run.table(&bench, &format!("{stage}.shuffled"));
        let shuffled = shuffled.with(&[("layer", "2")]).numbers("pre_norm");
        let is_larger = |norm: &f64| *norm < row.number("pre_norm");
        assert!(stage == "few" || shuffled.iter().all(is_larger), "{stage}");
    }
    let members = run.table(&bench, "few.members");
    let ids: Vec<&str> = members.0.iter().map(|row| row.text("id")).collect();
    let first = [
        "harmful-00",
        "harmful-01",
        "harmful-02",
        "edge-00",
        "edge-01",
        "edge-02",
    ];
    assert_eq!(ids, first);
    // A label decides the key by the content of the file.
    let labels = std::fs::read_to_string(bench.path("labels.csv")).unwrap();
    bench.write(
        "labels.csv",
        labels.replace("yes,harmful-03", "no,harmful-03"),
    );
    let again = bench.run(&format!("{HEAD}{WAYS}")).ok();
    assert_eq!(
        [again.status("splits"), again.status("labels")],
        ["cached", "computed"]
    );
}

#[test]
fn both_groups_are_held_out_and_a_summary_reads_the_halves() {
    let bench = bench();
    let study = format!("{HEAD}{WAYS}{HELD_OUT}");
    let run = bench.run(&study).ok();
    let held_out = run.table(&bench, "holdout");
    let sets = [
        "harmful_train",
        "harmful_holdout",
        "edge_train",
        "edge_holdout",
    ];
    for set in sets {
        let rows = held_out.with(&[("set", set)]);
        assert!(!rows.0.is_empty(), "{set}");
        let built = rows.with(&[("built_direction", "true")]).0.len();
        let expected = if set.ends_with("_train") {
            rows.0.len()
        } else {
            0
        };
        assert_eq!(built, expected, "{set}");
        let split = set.split('_').next().unwrap();
        assert_eq!(rows.with(&[("split", split)]).0.len(), rows.0.len());
    }
    let of_first_seed = held_out.with(&[("seed", "0"), ("alpha", "0.0")]);
    assert_eq!(of_first_seed.0.len(), 44, "every prompt is in one half");
    assert_eq!(
        held_out.0[0].text("direction"),
        "holdout_harmful_minus_edge"
    );
    // What refusals are unwanted and wanted is read off the halves that made no direction.
    let verdict = run.table(&bench, "summary.verdict");
    for set in ["edge", "harmful"] {
        let effect = verdict.with(&[("part", "effect"), ("of", set)]);
        assert_eq!(effect.only().text("outcome"), "passed", "{set}");
    }
    let controls = run.table(&bench, "summary.controls");
    let at = controls.with(&[("source", "holdout"), ("alpha", "8.0")]);
    let rows = held_out.with(&[("alpha", "8.0")]);
    let rates = (0..5).map(|seed| {
        let seed = seed.to_string();
        let of_seed = rows.with(&[("set", "harmful_holdout"), ("seed", &seed)]);
        of_seed.with(&[("refused", "true")]).0.len() as f64 / of_seed.0.len() as f64
    });
    let mean = rates.sum::<f64>() / 5.0;
    assert!((at.only().number("harmful_mean") - mean).abs() < 1e-12);
    let gap = run.table(&bench, "summary.generalisation");
    assert_eq!(gap.only().number("seeds"), 5.0);
    let figures = std::fs::read_dir(run.file(&bench, "figures")).unwrap();
    let names = figures.map(|file| file.unwrap().file_name().into_string().unwrap());
    let names: Vec<String> = names.collect();
    assert!(
        names.iter().any(|name| name == "holdout.gap.svg"),
        "{names:?}"
    );
    // Shared with the table of labels, and checked by whoever gets it.
    run.assert_comes_out_again(&bench, "models/inst");
    let said = bench.dial(&["unpack", "run.zip", "unpacked"]);
    assert_eq!(said.code, 0, "{said:?}");
    let labels = std::fs::read(bench.path("unpacked/files/labels.csv"));
    assert_eq!(
        labels.unwrap(),
        std::fs::read(bench.path("labels.csv")).unwrap()
    );
}

#[test]
fn prompts_of_both_groups_are_recorded_where_that_is_allowed() {
    let bench = bench();
    let stage =
        "select = \"splits\"\na = \"harmful\"\nb = [\"edge\", \"harmful\"]\nallow_overlap = true\n";
    let run = bench.run(&format!("{HEAD}{DIRECTION}{stage}")).ok();
    let table = run.table(&bench, "direction");
    assert_eq!(table.only().text("direction"), "harmful_minus_edge+harmful");
    assert_eq!(table.only().number("n_bottom"), 44.0);
    let manifest = std::fs::read_to_string(run.file(&bench, "run.json")).unwrap();
    let told = "20 prompts are both in A (`harmful`) and in B (`edge+harmful`): `harmful-00`";
    assert!(manifest.contains(told), "{manifest}");
}

/// What is said of a study with this stage in it.
fn refusal(bench: &Workbench, stage: &str) -> String {
    bench.write("study.toml", format!("{HEAD}{stage}"));
    let said = bench.dial(&["plan", "study.toml"]);
    said.message(2).to_string()
}

const DIRECTION: &str = "[stages.direction]\nmodel = \"inst\"\nprompts = \"main\"\nlayer = 2\n";

#[test]
fn groups_that_are_not_there_are_told() {
    let bench = bench();
    let direction = |more: &str| refusal(&bench, &format!("{DIRECTION}{more}"));
    assert_snapshot!(direction("select = \"splits\"\na = \"harmfull\"\nb = [\"edge\", \"calm\"]\nn = 0"), @r#"
    error: prompt set `main` has no split `harmfull`
      --> study.toml:11:5
       |
    11 | a = "harmfull"
       |     ^^^^^^^^^^ did you mean `harmful`?

    error: prompt set `main` has no split `calm`
      --> study.toml:12:14
       |
    12 | b = ["edge", "calm"]
       |              ^^^^^^ there are `edge`, `harmful` among 44 prompts

    error: `n` must be at least 1: a direction is made of two groups of prompts
      --> study.toml:13:5
       |
    13 | n = 0
       |     ^
    "#);
    assert_snapshot!(direction("select = \"splits\"\na = \"harmful\"\nb = [\"edge\", \"calm\"]"), @r#"
    error: prompt set `main` has no split `calm`
      --> study.toml:12:14
       |
    12 | b = ["edge", "calm"]
       |              ^^^^^^ there are `edge`, `harmful` among 44 prompts
    "#);
    assert_snapshot!(direction("select = \"splits\"\na = \"harmful\"\nb = [\"edge\", \"harmful\"]"), @r#"
    error: `harmful` is in `a` and in `b`
      --> study.toml:11:5
       |
    11 | a = "harmful"
       |     ^^^^^^^^^ its prompts would be in both groups
       |
       = help: take it out of one of them, or set `allow_overlap = true` to record this and go on
    "#);
    assert_snapshot!(direction("select = \"splits\"\na = \"harmful\"\nscores = \"score\"\nsplit = \"edge\"\nt = 1"), @r#"
    error: `stages.direction` has no field `b`
     --> study.toml:6:1
      |
    6 | [stages.direction]
      | ^^^^^^^^^^^^^^^^^^ `b` is missing
      |
      = help: give it a string or a list

    error: `scores` belongs to `select = "top_bottom"` or `"threshold"`
      --> study.toml:12:10
       |
    12 | scores = "score"
       |          ^^^^^^^

    error: `split` belongs to `select = "top_bottom"` or `"threshold"`
      --> study.toml:13:9
       |
    13 | split = "edge"
       |         ^^^^^^

    error: `t` belongs to `select = "threshold"`
      --> study.toml:14:5
       |
    14 | t = 1
       |     ^
    "#);
    assert_snapshot!(direction("select = \"column\"\ncolumn = \"levels\"\na = \"low\"\nb = \"high\""), @r#"
    error: no prompt of `main` has anything in a column `levels`
      --> study.toml:11:10
       |
    11 | column = "levels"
       |          ^^^^^^^^ did you mean `level`?
    "#);
    assert_snapshot!(direction("select = \"column\"\ncolumn = \"level\"\na = \"low\"\nb = \"8\""), @r#"
    error: no prompt of `main` has `8` in its column `level`
      --> study.toml:13:5
       |
    13 | b = "8"
       |     ^^^ did you mean `7`?
    "#);
    assert_snapshot!(direction("a = \"low\"\nb = \"8\"\nscores = \"score\"\nsplit = \"edge\"\nn = 1"), @r#"
    error: `a` belongs to `select = "splits"`, `"column"` or `"labels"`
      --> study.toml:10:5
       |
    10 | a = "low"
       |     ^^^^^

    error: `b` belongs to `select = "splits"`, `"column"` or `"labels"`
      --> study.toml:11:5
       |
    11 | b = "8"
       |     ^^^

    error: there is no stage `score`
      --> study.toml:12:10
       |
    12 | scores = "score"
       |          ^^^^^^^ the study has `direction`
    "#);
}

#[test]
fn a_table_of_labels_that_does_not_fit_is_told_line_by_line() {
    let bench = bench();
    let labels = "select = \"labels\"\nlabels = \"labels.csv\"\na = \"yes\"\nb = \"maybe\"";
    let direction = |name: &str, text: &str| {
        bench.write(name, text);
        let study = format!("{DIRECTION}{}", labels.replace("labels.csv", name));
        refusal(&bench, &study)
    };
    assert_snapshot!(direction("labels.csv", "id,label\nedge-01,yes\nedge-1,yes\nedge-01,maybe\nedge-02,\n"), @r#"
    error: labels of `main` cannot be used
      --> study.toml:11:10
       |
    11 | labels = "labels.csv"
       |          ^^^^^^^^^^^^
       |
       = note: labels.csv:3: no prompt of the set has the id `edge-1`; take the row out, or correct its id
               labels.csv:4: duplicate `id` `edge-01`, first used in line 2; give each prompt an id of its own
               labels.csv:5: empty `label`; write a text or remove the prompt
    "#);
    assert_snapshot!(direction("labels.csv", "id,label\nedge-01,yes\nedge-02,no\n"), @r#"
    error: no prompt of `main` has the label `maybe`
      --> study.toml:13:5
       |
    13 | b = "maybe"
       |     ^^^^^^^ there are `yes`, `no` among 44 prompts
    "#);
    assert_snapshot!(direction("labels.doc", "edge-01 yes\n"), @r#"
    error: labels of `main` cannot be used
      --> study.toml:11:10
       |
    11 | labels = "labels.doc"
       |          ^^^^^^^^^^^^
       |
       = note: labels.doc: unknown prompt format `doc`; expected a file name that ends in `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.txt` or `.parquet`
    "#);
    let study = format!("{DIRECTION}{}", labels.replace("labels.csv", "absent.csv"));
    assert_snapshot!(refusal(&bench, &study), @r#"
    error: cannot read `absent.csv`: No such file or directory (os error 2)
      --> study.toml:11:10
       |
    11 | labels = "absent.csv"
       |          ^^^^^^^^^^^^ this file
       |
       = help: say where published files lie with `import.folder`
    "#);
}

#[test]
fn halves_of_groups_that_leave_nothing_are_told() {
    let bench = bench();
    let holdout = |more: &str| {
        let stage = "[stages.holdout]\nmodel = \"inst\"\ndirection_model = \"inst\"\nprompts = \"main\"\nlayer = 2\nalpha = 1\nseed = 0\nselect = \"splits\"\n";
        refusal(&bench, &format!("{stage}{more}"))
    };
    assert_snapshot!(holdout("a = \"harmful\"\nb = \"edge\"\nfraction = 0.0001"), @r"
    error: seed 0 holds out none of the prompts of `harmful`
      --> study.toml:12:8
       |
    12 | seed = 0
       |        ^ leaves nothing to try it on; raise `fraction`, or add prompts to the group

    error: seed 0 holds out none of the prompts of `edge`
      --> study.toml:12:8
       |
    12 | seed = 0
       |        ^ leaves nothing to try it on; raise `fraction`, or add prompts to the group
    ");
    assert_snapshot!(holdout("a = \"harmful\"\nb = \"edge\"\nfraction = 0.9999"), @r"
    error: seed 0 leaves no training prompts of `harmful`
      --> study.toml:12:8
       |
    12 | seed = 0
       |        ^ leaves nothing to make a direction of; lower `fraction`, or add prompts to the group

    error: seed 0 leaves no training prompts of `edge`
      --> study.toml:12:8
       |
    12 | seed = 0
       |        ^ leaves nothing to make a direction of; lower `fraction`, or add prompts to the group
    ");
    assert_snapshot!(holdout("a = \"harmful\"\nb = \"edge\"\ncompare = \"edge\""), @r#"
    error: `compare` belongs to `select = "top_bottom"`
      --> study.toml:16:11
       |
    16 | compare = "edge"
       |           ^^^^^^
    "#);
}
