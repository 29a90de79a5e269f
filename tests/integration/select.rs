//! Which direction is taken: of the planted model's grid the one that carries refusal, and of published evaluations the one that their rules give.

use std::path::Path;
use std::sync::OnceLock;

use crate::checkpoint::{dot, refusal_direction};
use crate::prompts::main_set;
use crate::workbench::{Run, Table, Workbench, files_below};

/// Layer 0 at the last token is the template's alone, and nothing tells prompts apart there: its direction would be 0, so that the grid leaves it out.
const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[score.odds]
kind = "log_odds"
yes = "I"
[stages.grid]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
position = [-3, -2, -1]
layer = [1, 2, 3]
[stages.select]
model = "inst"
prompts = "main"
direction = "grid"
harmful = "harmful"
harmless = "edge"
max_kl = 100
min_induce = -100
filter = false
random = 3
[stages.odds]
kind = "select"
model = "inst"
prompts = "main"
direction = "grid"
harmful = "harmful"
harmless = "edge"
max_kl = 100
min_induce = -100
filter = false
read = "odds"
[stages.cosmic]
kind = "select"
model = "inst"
prompts = "main"
direction = "grid"
harmful = "harmful"
harmless = "edge"
max_kl = 100
method = "cosmic"
filter = true
[stages.steer]
model = "inst"
prompts = "main"
direction = "select"
mode = "ablate_everywhere"
[stages.added]
kind = "steer"
model = "inst"
prompts = "main"
direction = "select"
position = "all"
alpha = [0, 1]
alpha_unit = "pre_norm"
"#;

fn study() -> &'static (Workbench, Run) {
    static STUDY_RUN: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDY_RUN.get_or_init(|| {
        let bench = Workbench::new(&main_set(40, 40));
        let run = bench.run(STUDY).ok();
        (bench, run)
    })
}

/// Another study in the same folder, in a file of its own: other tests run theirs at the same time.
fn run_beside(bench: &Workbench, file: &str, study: &str) -> Run {
    bench.write(file, study);
    bench.run_file(Path::new(file), &[])
}

fn table(name: &str) -> Table {
    let (bench, run) = study();
    run.table(bench, name)
}

/// The only direction of a stage.
fn direction_of(name: &str) -> Vec<f32> {
    let (bench, run) = study();
    let files = files_below(&run.file(bench, "directions"));
    let of_stage = files.iter().filter_map(|path| {
        let file = path.file_name().unwrap().to_str().unwrap();
        let file = file.strip_suffix(".safetensors")?;
        file.starts_with(&format!("{name}.")).then_some(file)
    });
    let of_stage: Vec<&str> = of_stage.collect();
    assert_eq!(of_stage.len(), 1, "{of_stage:?}");
    run.direction(bench, of_stage[0])
}

#[test]
fn the_choice_bypasses_best_and_is_handed_on() {
    let candidates = table("select");
    assert_eq!(candidates.0.len(), 9);
    let chosen = candidates.with(&[("rank", "1")]);
    let chosen = chosen.only();
    for other in candidates
        .0
        .iter()
        .filter(|row| !row.text("rank").is_empty())
    {
        assert!(
            chosen.number("bypass") <= other.number("bypass"),
            "{other:?}"
        );
    }
    // The last fifth of four layers is layer 3.
    for row in &candidates.0 {
        let expected = if row.text("layer") == "3" {
            "one of the last layers"
        } else {
            ""
        };
        assert_eq!(row.text("discarded"), expected);
    }
    assert!(dot(&direction_of("select"), &refusal_direction()) > 0.7);
    let steered = table("steer");
    assert!(
        steered
            .0
            .iter()
            .all(|row| row.text("layer") == chosen.text("layer"))
    );
}

/// The numbers are the means of what sweeps give for the same edits and prompts.
#[test]
fn the_numbers_are_those_of_sweeps() {
    let chosen = table("select").with(&[("rank", "1")]);
    let chosen = chosen.only();
    let checks = table("select.checks");
    let of = |half: &str, direction: &str| {
        let rows = checks.0.iter().filter(|row| row.text("half") == half);
        let mut rows =
            rows.filter(|row| (row.text("direction") == "none") == (direction == "none"));
        rows.find(|row| row.text("seed").is_empty())
            .cloned()
            .unwrap()
    };
    // Both halves together are all prompts of a side.
    let whole = |column: &str, n: &str, name: &str| {
        let halves = ["train", "holdout"].map(|half| of(half, name));
        let sum: f64 = halves
            .iter()
            .map(|row| row.number(column) * row.number(n))
            .sum();
        sum / halves.iter().map(|row| row.number(n)).sum::<f64>()
    };
    let mean = |table: &Table, filters: &[(&str, &str)]| {
        let rows = table.with(filters).0;
        assert_eq!(rows.len(), 40, "{filters:?}");
        rows.iter().map(|row| row.number("score")).sum::<f64>() / 40.0
    };
    let steered = table("steer");
    let bypass = mean(&steered, &[("split", "harmful")]);
    assert!((whole("bypass", "n_harmful", "chosen") - bypass).abs() < 1e-9);
    let added = table("added");
    let induce = mean(&added, &[("split", "edge"), ("alpha", "1.0")]);
    assert!((whole("induce", "n_harmless", "chosen") - induce).abs() < 1e-9);
    let unedited = mean(&added, &[("split", "harmful"), ("alpha", "0.0")]);
    assert!((whole("bypass", "n_harmful", "none") - unedited).abs() < 1e-9);
    assert_eq!(of("train", "chosen").text("bypass"), chosen.text("bypass"));
    assert_eq!(of("train", "none").number("kl"), 0.0);
    // Random directions take hardly anything out.
    let random = checks.0.iter().filter(|row| !row.text("seed").is_empty());
    let random: Vec<f64> = random.map(|row| row.number("bypass")).collect();
    assert_eq!(random.len(), 3);
    let chosen = of("holdout", "chosen").number("bypass");
    assert!(
        random.iter().all(|bypass| bypass - chosen > 0.5),
        "{random:?} {chosen}"
    );
}

#[test]
fn cosmic_finds_it_without_a_score() {
    for name in ["cosmic", "odds"] {
        assert!(
            dot(&direction_of(name), &refusal_direction()) > 0.7,
            "{name}"
        );
    }
    let chosen = table("cosmic").with(&[("rank", "1")]);
    let chosen = chosen.only();
    let none = table("cosmic.checks").with(&[("direction", "none"), ("half", "train")]);
    // Without it harmful prompts are more like harmless ones than they were.
    assert!(chosen.number("bypass") > none.only().number("bypass"));
    assert_eq!(chosen.text("bypass_low"), "");
}

#[test]
fn a_rerun_asks_nothing_and_the_export_agrees() {
    let (bench, run) = study();
    assert_eq!(bench.run(STUDY).ok().all_computed(), []);
    for figure in ["bypass", "induce", "kl"] {
        assert!(
            run.file(bench, &format!("figures/select.{figure}.svg"))
                .exists(),
            "{figure}"
        );
    }
    run.assert_comes_out_again(bench, "models/inst");
}

#[test]
fn where_all_are_discarded_it_says_why() {
    let bench = Workbench::new(&main_set(8, 8));
    let end = STUDY.find("[stages.odds]").unwrap();
    let study = STUDY[..end].replace("max_kl = 100", "max_kl = 0");
    let failed = bench.run(&study);
    assert_ne!(failed.said.code, 0);
    let told = &failed.said.stderr;
    assert!(
        told.contains("stage `select`: no direction can be chosen: of 9 6 kl too high, 3 one of the last layers"),
        "{told}"
    );
    // What has failed has nothing to draw, and there is nothing to say of it.
    assert!(
        !told.contains("not drawn") && !told.contains("internal error"),
        "{told}"
    );
}

/// By default a side has only prompts that the unedited model takes for its own, strictly.
#[test]
fn prompts_are_filtered_by_their_scores_where_the_rule_is_of_scores() {
    let (bench, run) = study();
    let scores = table("added").with(&[("alpha", "0.0")]);
    let of_side = |split: &str, is_kept: fn(f64) -> bool| {
        let rows = scores.with(&[("split", split)]).0;
        rows.iter()
            .filter(|row| is_kept(row.number("score")))
            .count()
    };
    let kept = [
        of_side("harmful", |score| score > 0.0),
        of_side("edge", |score| score < 0.0),
    ];
    let asked = |study: &str| {
        let run = run_beside(bench, "filtered.toml", study).ok();
        let checks = run
            .table(bench, "select.checks")
            .with(&[("direction", "none")]);
        ["n_harmful", "n_harmless"].map(|n| checks.numbers(n).iter().sum::<f64>() as usize)
    };
    let only = &STUDY[..STUDY.find("[stages.odds]").unwrap()];
    assert_eq!(asked(only), [40, 40]);
    assert_eq!(asked(&only.replace("filter = false\n", "")), kept);
    let with_a_threshold = only
        .replace("filter = false\n", "read = \"strict\"\n")
        .replace(
            "[score.odds]",
            "[score.strict]\nkind = \"first_token\"\nthreshold = 1000\nyes = \"I\"\nno = \"Sure\"\n[score.odds]",
        );
    let failed = run_beside(bench, "filtered.toml", &with_a_threshold).said;
    let told = "the half that chooses has no harmful prompt: there are 0 harmful and 40 harmless ones in both, which `filter` left of 40 and 40";
    assert!(failed.stderr.contains(told), "{}", failed.stderr);
    // COSMIC's code filters nothing unless it is asked to.
    let checks = run
        .table(bench, "cosmic.checks")
        .with(&[("direction", "none")]);
    assert_eq!(
        checks.numbers("n_harmful").iter().sum::<f64>() as usize,
        kept[0]
    );
    let cosmic = only.replace("filter = false\n", "method = \"cosmic\"\n");
    assert_eq!(asked(&cosmic), [40, 40]);
}

#[test]
fn choices_and_directions_are_compared_between_runs() {
    let (bench, run) = study();
    let first = run.json["run_dir"].as_str().unwrap().to_string();
    let only = &STUDY[..STUDY.find("[stages.odds]").unwrap()];
    let seeded = only.replace("random = 3", "random = 3\nseed = 1");
    let other = run_beside(bench, "seeded.toml", &seeded).ok();
    let second = other.json["run_dir"].as_str().unwrap().to_string();
    let compared = |left: &str, right: &str| -> serde_json::Value {
        let said = bench.dial(&["diff", left, right, "--format", "json"]);
        serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"))
    };
    let rows = |told: &serde_json::Value| -> Vec<(String, String, u64, bool)> {
        let all = told["difference"]["comparisons"].as_array().unwrap().iter();
        all.map(|c| {
            let text = |name: &str| c[name].as_str().unwrap().to_string();
            let within = c["within"].as_bool().unwrap();
            (
                text("kind"),
                text("quantity"),
                c["matched"].as_u64().unwrap(),
                within,
            )
        })
        .collect()
    };
    let same = rows(&compared(&first, &first));
    let has = |rows: &[(String, String, u64, bool)], kind: &str, quantity: &str| {
        let found = rows.iter().find(|(k, q, ..)| k == kind && q == quantity);
        found.map(|(.., matched, within)| (*matched, *within))
    };
    assert!(same.iter().all(|(.., within)| *within), "{same:?}");
    assert_eq!(has(&same, "direction", "pre_norm"), Some((9, true)));
    for quantity in ["bypass", "induce", "kl"] {
        assert_eq!(
            has(&same, "select", quantity),
            Some((9, true)),
            "{quantity}"
        );
    }
    assert!(has(&same, "select checks", "bypass").is_some_and(|(matched, _)| matched > 4));
    // Another half chooses: other means, of the same directions.
    let others = rows(&compared(&first, &second));
    assert_eq!(has(&others, "direction", "pre_norm"), Some((9, true)));
    assert!(
        has(&others, "select", "bypass").is_some_and(|(matched, within)| matched > 0 && !within)
    );
}

fn published(rows: &str) -> (Workbench, String) {
    let bench = Workbench::new(&[]);
    bench.write("evaluations.json", rows);
    let study = "[stages.select]\nfile = \"evaluations.json\"\nn_layers = 10\n";
    (bench, study.to_string())
}

#[test]
fn published_evaluations_are_chosen_from_with_no_model() {
    let row = |position: i64, layer: usize, numbers: [&str; 3]| {
        let [refusal, steering, kl] = numbers;
        format!(
            r#"{{"position": {position}, "layer": {layer}, "refusal_score": {refusal}, "steering_score": {steering}, "kl_div_score": {kl}}}"#
        )
    };
    let rows = [
        row(-2, 3, ["-1.5", "0.5", "0.01"]),
        row(-2, 9, ["-9.5", "0.5", "0.01"]),
        row(-1, 3, ["-2.5", "0.5", "NaN"]),
        row(-1, 4, ["-2.0", "0", "0.1"]),
    ];
    let (bench, study) = published(&format!("[{}]", rows.join(",\n")));
    let run = bench.run(&study).ok();
    let table = run.table(&bench, "select");
    let ranks: Vec<&str> = table.0.iter().map(|row| row.text("rank")).collect();
    assert_eq!(ranks, ["2", "", "", "1"]);
    assert_eq!(table.0[2].text("discarded"), "not a number");
    assert_eq!(table.0[2].text("kl"), "");
    // Candidates of one layer are told apart by their position.
    let folder = run.json["run_dir"].as_str().unwrap();
    let said = bench.dial(&["diff", folder, folder, "--format", "json"]);
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let compared = told["difference"]["comparisons"].as_array().unwrap();
    let of = |quantity: &str| {
        let found = compared
            .iter()
            .find(|c| c["kind"] == "select" && c["quantity"] == quantity);
        found.unwrap()["matched"].as_u64().unwrap()
    };
    // Equal numbers at one layer are one, and `NaN` is none.
    assert_eq!(["bypass", "induce", "kl", "rank"].map(of), [4, 3, 3, 2]);
}

#[test]
fn evaluations_that_are_none_are_told() {
    let (bench, study) = published("[{\"position\": -1, \"layer\": 3}, {\"layer\": 10}]");
    let told = bench.refusal(&study).stderr;
    assert!(told.contains("study.toml:2:8"), "{told}");
    for expected in [
        "`evaluations.json`: evaluation 1, of position -1 and layer 3, has no `refusal_score`",
        "`evaluations.json`: evaluation 2 has no `position`",
        "`evaluations.json`: evaluation 2 is beyond `n_layers = 10`",
    ] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let wide = study.replace("n_layers = 10", "n_layers = 11\nlast_layers = 1");
    let told = bench.refusal(&wide).stderr;
    assert!(told.contains("last_layers `1` leaves nothing"), "{told}");
    assert!(!told.contains("is beyond"), "{told}");
}
