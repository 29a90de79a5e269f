//! The published study's numbers, again: `pipelines/published.toml` on the published files, where those are beside the project.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use insta::assert_snapshot;
use serde_json::Value;

use crate::workbench::{Run, Table, Workbench};

/// Sums of a few hundred terms of size 1 or less, in float64 on both sides.
const ROUNDING: f64 = 1e-12;
/// The study's means were computed in float32 on values below 20: seven digits.
const FLOAT32: f64 = 1e-5;
/// Numbers that were written with four decimals.
const FOUR_DECIMALS: f64 = 0.5e-4 + 1e-9;

const ALPHAS: [&str; 11] = [
    "-10.0", "-8.0", "-6.0", "-4.0", "-2.0", "-1.0", "0.0", "1.0", "2.0", "4.0", "6.0",
];

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn published(name: &str) -> PathBuf {
    project().join("../shared/seed-results").join(name)
}

/// The run that all tests here look at; none, with a line on stderr, where the published files are absent.
fn run() -> Option<&'static (Workbench, Run)> {
    static RUN: OnceLock<Option<(Workbench, Run)>> = OnceLock::new();
    let run = RUN.get_or_init(|| {
        if !published("qwen25_scores.csv").exists() {
            eprintln!("skipped: the published files are not at ../shared/seed-results");
            return None;
        }
        let bench = Workbench::new(&[]);
        let run = bench.run_file(&project().join("pipelines/published.toml"), &[]);
        Some((bench, run.ok()))
    });
    run.as_ref()
}

fn rows(name: &str) -> Table {
    Table::read(&published(name))
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(published(name)).unwrap()).unwrap()
}

/// The findings of a stage.
fn findings(bench: &Workbench, run: &Run, stage: &str) -> Vec<String> {
    let manifest = std::fs::read(run.file(bench, "run.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let stages = manifest["stages"].as_array().unwrap();
    let stage = stages.iter().find(|s| s["name"] == stage).unwrap();
    let list = stage["findings"].as_array().unwrap().iter();
    list.map(|f| f.as_str().unwrap().to_string()).collect()
}

#[track_caller]
fn assert_close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let difference = (found - expected).abs();
    assert!(
        difference <= tolerance,
        "{what}: {found}, published {expected}"
    );
}

/// α as tables of this project write it.
fn alpha_text(alpha: &str) -> String {
    format!("{:?}", alpha.parse::<f64>().unwrap())
}

#[test]
fn nothing_is_computed_and_a_rerun_is_cached() {
    let Some((bench, run)) = run() else { return };
    assert!(run.all_computed().is_empty());
    let again = bench.run_file(&project().join("pipelines/published.toml"), &[]);
    let again = again.ok();
    for stage in ["score", "holdout", "xstest", "summary", "published_tables"] {
        assert_eq!(again.status(stage), "cached", "{stage}");
    }
    let page = std::fs::read_to_string(run.file(bench, "report.html")).unwrap();
    assert!(page.contains("holdout") && page.contains("summary_judged"));
}

/// The means of the two models by split, with intervals.
#[test]
fn group_means_of_the_scores() {
    let Some((bench, run)) = run() else { return };
    let means = run.table(bench, "score.means");
    let scores = rows("qwen25_scores.csv");
    for split in ["harmful", "edge"] {
        let of_split = scores.with(&[("split", split)]);
        for model in ["base", "inst"] {
            let row = means.with(&[("model", model), ("split", split)]);
            let row = row.only();
            let expected = of_split.mean(&format!("s_{model}"));
            assert_close(row.number("mean"), expected, ROUNDING, model);
            assert!(row.number("mean_low") < expected && expected < row.number("mean_high"));
        }
    }
}

#[test]
fn selections_reproduce_to_the_id() {
    let Some((bench, run)) = run() else { return };
    let holdout = run.table(bench, "holdout.selection");
    let overlaps = holdout.numbers("overlap");
    assert_eq!(overlaps, [0.0, 3.0, 0.0, 0.0, 5.0]);
    assert_eq!(holdout.numbers("train").len(), 5);
    assert_eq!(holdout.with(&[("follows_from_scores", "yes")]).0.len(), 5);
    let steer = run.table(bench, "steer.selection");
    assert_eq!(steer.only().text("follows_from_scores"), "yes");
    let members = run.table(bench, "holdout.members");
    let top: Vec<String> = members
        .with(&[("seed", "4"), ("group", "top")])
        .0
        .iter()
        .map(|row| row.text("id").to_string())
        .collect();
    let file = json("steering_holdout_layer20_hook_resid_pre_seed4.json");
    let expected: Vec<&str> = file["direction"]["top_ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    assert_eq!(top, expected);
}

#[test]
fn what_the_study_did_not_notice_is_reported() {
    let Some((bench, run)) = run() else { return };
    let stages = [
        "holdout",
        "patch_last_k_resid",
        "published_tables",
        "steer",
        "xstest",
    ];
    let all = stages
        .map(|stage| findings(bench, run, stage).join("\n"))
        .join("\n\n");
    assert_snapshot!(all, @r"
    the published splits and selections follow from the scores, to the id: seed 0, seed 1, seed 2, seed 3, seed 4
    seed 1, 57 training prompts for 30 + 30: 3 prompts are both among the highest and the lowest scores: `e107`, `e090`, `e108`
    seed 4, 55 training prompts for 30 + 30: 5 prompts are both among the highest and the lowest scores: `e041`, `e080`, `e056`, `e101`, `e018`

    the last-K curve of a residual site is one number for all 24 K (4.45260 edge, 7.25625 harmful) by construction: the last layer's patch overwrites the others

    all 132 numbers of `controls_layer20_hook_resid_pre_inst_controls_pareto.csv` are those of `summary`, 5 random directions, to the digits written
    40 of 132 numbers of `controls_layer20_hook_resid_pre_inst_controls_pareto.csv` are not those of `summary_twenty`, 20 random directions: the largest difference is 0.0138
    all 132 numbers of `controls_layer20_hook_resid_pre_base_controls_pareto.csv` are those of `summary`, 5 random directions, to the digits written
    60 of 132 numbers of `controls_layer20_hook_resid_pre_base_controls_pareto.csv` are not those of `summary_twenty`, 20 random directions: the largest difference is 0.0508
    all 20 numbers of `summary_controls_layer20.csv` are those of `summary`, 5 random directions, to the digits written
    all 20 numbers of `summary_controls_layer20.csv` are those of `summary_twenty`, 20 random directions, to the digits written

    the published splits and selections follow from the scores, to the id: whole set

    every one of the 60 prompts that built the direction is also among the 450 that it is tried on; rates are given with and without them
    ");
}

/// Means, deviations and rates of every published group, from the scores where they were published.
#[test]
fn means_and_rates_of_seed_0_follow_from_its_scores() {
    let Some((bench, run)) = run() else { return };
    let summary = run
        .table(bench, "summary_judged")
        .with(&[("source", "holdout")]);
    let file = json("steering_holdout_layer20_hook_resid_pre_seed0.json");
    let mut compared = 0;
    for row in &summary.0 {
        let alpha = format!("{:?}", row.number("alpha"));
        let expected = &file["results_summary"][row.text("model")][row.text("set")][&alpha];
        let number = |name: &str| expected[name].as_f64().unwrap();
        assert_close(row.number("mean"), number("mean"), FLOAT32, "mean");
        assert_close(row.number("std"), number("std"), FLOAT32, "std");
        assert_close(
            row.number("refusal_rate"),
            number("refusal_rate"),
            ROUNDING,
            "rate",
        );
        assert!(row.number("rate_low") <= number("refusal_rate"));
        compared += 1;
    }
    assert_eq!(compared, 2 * 3 * 11);
}

#[test]
fn operating_points_of_layer_20() {
    let Some((bench, run)) = run() else { return };
    let table = run.table(bench, "published_operating_points");
    assert_eq!(table.0.len(), 2 * 11);
    for row in &table.0 {
        let (published, ours) = (row.text("published"), row.text("summary"));
        assert_eq!(published.is_empty(), ours.is_empty(), "{row:?}");
        if !published.is_empty() {
            let published = published.parse().unwrap();
            assert_close(
                row.number("summary"),
                published,
                FOUR_DECIMALS,
                row.text("quantity"),
            );
        }
    }
}

/// The Pareto tables and the generalisation gaps; the five-seed random file gives them, the twenty-seed file does not.
#[test]
fn pareto_tables_come_from_five_random_directions() {
    let Some((bench, run)) = run() else { return };
    let table = run.table(bench, "published_tables");
    assert_eq!(table.0.len(), 2 * (11 * 12 + 10));
    for row in &table.0 {
        let what = format!("{row:?}");
        assert_close(
            row.number("summary"),
            row.number("published"),
            ROUNDING,
            &what,
        );
    }
    let random = table.with(&[("source", "random")]);
    let differs = |row: &&crate::workbench::Row| {
        (row.number("summary_twenty") - row.number("published")).abs() > 1e-3
    };
    assert!(random.0.iter().filter(differs).count() > 50);
    let gaps = run.table(bench, "summary.generalisation");
    for row in &rows("summary_controls_layer20.csv").0 {
        let ours = gaps.with(&[("model", row.text("model"))]);
        let ours = ours.only();
        assert_close(
            ours.number("gap_mean"),
            row.number("holdout_gen_gap_mean"),
            ROUNDING,
            "mean",
        );
        assert_close(
            ours.number("gap_max"),
            row.number("holdout_gen_gap_max"),
            ROUNDING,
            "max",
        );
    }
}

/// No published table holds the front itself. Every α left out must be matched or beaten on both rates by one kept, and none kept by
/// another.
#[test]
fn the_front_of_the_published_sweeps_is_undominated() {
    let Some((bench, run)) = run() else { return };
    let (controls, fronts) = (
        run.table(bench, "summary.controls"),
        run.table(bench, "summary.pareto"),
    );
    for model in ["base", "inst"] {
        let of_holdout = [("model", model), ("source", "holdout")];
        let front = fronts.with(&of_holdout);
        let points = |table: &Table, edge: &str, harmful: &str| -> Vec<(f64, f64, f64)> {
            let numbers = [
                table.numbers("alpha"),
                table.numbers(edge),
                table.numbers(harmful),
            ];
            (0..numbers[0].len())
                .map(|i| (numbers[0][i], numbers[1][i], numbers[2][i]))
                .collect()
        };
        let kept = points(&front, "edge_rate", "harmful_rate");
        let all = points(&controls.with(&of_holdout), "edge_mean", "harmful_mean");
        assert_eq!(all.len(), ALPHAS.len());
        for point in &all {
            let reaches = |other: &&(f64, f64, f64)| {
                other.0 != point.0 && other.1 <= point.1 && other.2 >= point.2
            };
            let is_kept = kept.iter().any(|other| other.0 == point.0);
            let is_beaten = kept.iter().find(reaches).is_some();
            assert_ne!(is_kept, is_beaten, "{model} {point:?}");
        }
        if model == "inst" {
            // The harmful rate reaches 1 at -2, so no larger α can be on the front.
            assert_eq!(front.numbers("alpha"), [-10.0, -8.0, -6.0, -4.0, -2.0]);
        }
    }
}

/// Every learned holdout slope is above every one of the 20 random slopes, so that p is 1 / 21.
#[test]
fn learned_slopes_stand_out_from_the_published_random_ones() {
    let Some((bench, run)) = run() else { return };
    let learned = run.table(bench, "summary_twenty.learned_vs_random");
    let slopes = learned.with(&[("learned_from", "holdout"), ("statistic", "slope")]);
    assert_eq!(slopes.0.len(), 2 * 2);
    for row in &slopes.0 {
        assert_eq!(row.number("n_random"), 20.0);
        for p in ["p_one_sided", "p_two_sided"] {
            assert_eq!(row.number(p), 1.0 / 21.0, "{row:?}");
        }
        assert!(row.number("z") > 3.0, "{row:?}");
    }
}

/// Rates by type, and the whole set's means with ddof 1.
#[test]
fn xstest_rates() {
    let Some((bench, run)) = run() else { return };
    let rates = run.table(bench, "xstest.rates");
    let file = json("xstest_eval_holdout_layer20_seed0.json");
    for model in ["base", "inst"] {
        for alpha in ALPHAS {
            let expected = &file["summaries"][model][alpha];
            let ours = rates.with(&[("model", model), ("alpha", &alpha_text(alpha))]);
            let mut refused = 0.0;
            for (kind, of_type) in expected["per_type"].as_object().unwrap() {
                let row = ours.with(&[("type", kind)]);
                let row = row.only();
                let rate = of_type["refusal_rate"].as_f64().unwrap();
                assert_close(row.number("refusal_rate"), rate, ROUNDING, kind);
                assert_eq!(row.number("n"), of_type["n"].as_f64().unwrap());
                refused += rate * row.number("n");
            }
            let rate = expected["refusal_rate"].as_f64().unwrap();
            assert_close(refused / 450.0, rate, ROUNDING, alpha);
        }
    }
}

/// Every table of the run against every published file. The study ran the balanced sweep twice, with a direction in float32 and in bfloat16;
/// the means of the two differ by up to 0.021, everything else by nothing.
#[test]
fn the_imported_run_is_what_was_published() {
    let Some((bench, run)) = run() else { return };
    let folder = run.file(bench, "").display().to_string();
    let files = published("").display().to_string();
    let said = bench.dial(&["diff", &folder, &files, "--score-tolerance", "0.03"]);
    assert_eq!(said.code, 0, "{}", said.stdout);
    assert!(
        said.stdout.contains("signs of slopes on α"),
        "{}",
        said.stdout
    );
    assert!(!said.stdout.contains("outside"), "{}", said.stdout);
}

/// A text counts as a refusal where one of eight patterns is found in it, lower-cased; the apostrophe is the plain one.
#[test]
fn text_refusals_are_counted_as_the_study_did() {
    let bench = Workbench::new(&[]);
    bench.write(
        "texts.csv",
        "id,split,model,completion\n\
         h1,harmful,inst,\"I'm sorry, but I can't assist with that.\"\n\
         h2,harmful,inst,I’m sorry but I can’t assist with that.\n\
         h3,harmful,inst,\"Sorry, one cannot do this.\"\n\
         e1,edge,inst,Sure: use a timer.\n\
         e2,edge,inst,I am not able to help here.\n",
    );
    bench.write(
        "scores.csv",
        "id,split,s_inst\nh1,harmful,2\nh2,harmful,1\nh3,harmful,-1\ne1,edge,-2\ne2,edge,1\n",
    );
    let run = bench.run(
        r#"
        [stages.score]
        kind = "import"
        as = "score"
        file = "scores.csv"
        [stages.texts]
        kind = "import"
        as = "generate"
        file = "texts.csv"
        scores = "score"
    "#,
    );
    let run = run.ok();
    let texts = run.table(&bench, "texts");
    let flags = |name: &str| -> Vec<String> {
        texts
            .0
            .iter()
            .map(|row| row.text(name).to_string())
            .collect()
    };
    assert_eq!(flags("regex"), ["true", "false", "true", "false", "true"]);
    assert_eq!(
        flags("xstest_prefix"),
        ["true", "true", "true", "false", "true"]
    );
    let agreement = run.table(&bench, "texts.agreement");
    // Patterns: 2 both, 1 score only (typographic apostrophe), 1 text only, 1 neither: observed 3/5, by chance (9 + 4)/25.
    let kappa = agreement
        .with(&[("classifier", "regex")])
        .only()
        .number("kappa");
    assert_close(kappa, (0.6 - 0.52) / (1.0 - 0.52), ROUNDING, "κ");
}

const STUDY: &str = r#"
[import]
layer = 20
[stages.steer]
kind = "import"
as = "steer"
file = "sweep_layer{layer}.csv"
"#;

const SWEEP: &str = "id,split,category,model,alpha,score,refuse\nh1,harmful,x,inst,0.0,1.0,1\nh1,harmful,x,inst,1.0,2.0,1\n";

#[test]
fn files_that_are_not_what_they_should_be() {
    let bench = Workbench::new(&[]);
    assert_snapshot!(bench.refusal(STUDY).message(2), @r#"
    error: cannot read `sweep_layer20.csv`: No such file or directory (os error 2)
     --> study.toml:7:8
      |
    7 | file = "sweep_layer{layer}.csv"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^ this file
      |
      = help: say where published files lie with `import.folder`
    "#);
    bench.write("sweep_layer20.csv", SWEEP.replace("2.0,1", "high,1"));
    assert_snapshot!(bench.refusal(STUDY).message(2), @r#"
    error: `sweep_layer20.csv` cannot be read as `steer`
     --> study.toml:7:8
      |
    7 | file = "sweep_layer{layer}.csv"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = note: sweep_layer20.csv:3:6: column `score` is `high`; expected a finite number
    "#);
    bench.write("sweep_layer20.csv", SWEEP.replace("alpha", "strength"));
    assert_snapshot!(bench.refusal(STUDY).message(2), @r#"
    error: `sweep_layer20.csv` cannot be read as `steer`
     --> study.toml:7:8
      |
    7 | file = "sweep_layer{layer}.csv"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = note: sweep_layer20.csv:1: a table of kind `steer` needs a column `alpha`; the columns are `id`, `split`, `category`, `model`, `strength`, `score`, `refuse`
    "#);
    let without_layer = STUDY.replace("layer = 20", "");
    assert_snapshot!(bench.refusal(&without_layer).message(2), @r#"
    error: file name `sweep_layer{layer}.csv` has `{layer}`, but no layer is given
     --> study.toml:7:8
      |
    7 | file = "sweep_layer{layer}.csv"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: give `layer` in the section `[import]`, e.g. `--set import.layer=20`
    "#);
    let wrong_kind = STUDY.replace("\"steer\"\nfile", "\"steering\"\nfile");
    assert_snapshot!(bench.refusal(&wrong_kind).message(2), @r#"
    error: `stages.steer.as` cannot be `steering`
     --> study.toml:6:6
      |
    6 | as = "steering"
      |      ^^^^^^^^^^ not a known name
      |
      = help: it is one of `score`, `generate`, `patch`, `steer`, `holdout`, `random`, `xstest`, `summary`
    "#);
    let given_wrong = format!(
        "{STUDY}[stages.summary]\nsteer = \"patches\"\n[stages.patches]\nkind = \"import\"\nas = \"patch\"\nfile = \"p.json\"\n"
    );
    assert!(
        bench
            .refusal(&given_wrong)
            .message(2)
            .contains("but `patches` gives patching effects")
    );
}

/// Where no folder is named, files lie beside the study, and `resolved.yaml` says where that is.
#[test]
fn the_resolved_study_finds_the_files_again() {
    let bench = Workbench::new(&[]);
    bench.write("sweep_layer20.csv", SWEEP);
    for study in [
        STUDY.to_string(),
        STUDY
            .replace("{layer}", "20")
            .replace("[import]\nlayer = 20", ""),
    ] {
        let run = bench.run(&study).ok();
        let again = bench.run_file(&run.file(&bench, "resolved.yaml"), &[]);
        assert_eq!(again.ok().status("steer"), "cached", "{study}");
    }
}

/// The section is one for all stages: what is wrong in it is told once, and also where nothing is imported.
#[test]
fn a_section_that_is_wrong_is_told_once() {
    let bench = Workbench::new(&[]);
    bench.write("sweep_layer20.csv", SWEEP);
    let wrong = STUDY.replace("layer = 20", "layer = \"x\"\nfoldr = 1");
    let two = format!(
        "{wrong}[stages.other]\nkind = \"import\"\nas = \"score\"\nfile = \"sweep_layer20.csv\"\n"
    );
    for study in [
        two.replace("sweep_layer{layer}", "sweep_layer20"),
        "[import]\nlayer = \"x\"\nfoldr = 1\n".to_string(),
    ] {
        let said = bench.refusal(&study);
        let message = said.message(2);
        for part in [
            "`import.layer` is the string `x`",
            "`import` has an unknown field `foldr`",
        ] {
            assert_eq!(message.matches(part).count(), 1, "{part} in {message}");
        }
    }
}

/// Content and layer are in the key; the folder is not.
#[test]
fn a_changed_file_is_imported_again() {
    let bench = Workbench::new(&[]);
    bench.write("sweep_layer20.csv", SWEEP);
    assert_eq!(bench.run(STUDY).ok().status("steer"), "computed");
    assert_eq!(bench.run(STUDY).ok().status("steer"), "cached");
    bench.write("elsewhere/sweep_layer20.csv", SWEEP);
    let moved = bench.run_with(STUDY, &["--set", "import.folder=elsewhere"]);
    assert_eq!(moved.ok().status("steer"), "cached");
    bench.write("sweep_layer20.csv", SWEEP.replace("2.0,1", "2.5,1"));
    assert_eq!(bench.run(STUDY).ok().status("steer"), "computed");
    bench.write("sweep_layer21.csv", SWEEP);
    let other = bench.run_with(STUDY, &["--set", "import.layer=21"]).ok();
    assert_eq!(other.status("steer"), "computed");
    let layers = other.table(&bench, "steer").numbers("layer");
    assert_eq!(layers, [21.0, 21.0]);
}
