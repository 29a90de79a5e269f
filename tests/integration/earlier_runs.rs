//! A run that dial 0.1 left, whose `run.json` has the first format, and one that a later dial leaves.
//!
//! `run_of_0_1/run` is the folder of a run that dial 0.1.0 made in a workbench with `main_set(8, 5)`: one stage of every kind, and a table of
//! scores that is imported. Its figures, page and CSV files are left out, and the machine's paths and processor have other names.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::prompts::main_set;
use crate::workbench::{Said, Workbench, copy_folder};

const RUN: &str = "runs/study/20261126T221138.225Z-44d547e3";

fn kept(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/run_of_0_1");
    folder.join(name)
}

/// A workbench with the run, its prompts and its study.
fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(8, 5));
    copy_folder(&kept("run"), &bench.path(RUN));
    for (name, from) in [
        ("study.toml", "run/study.toml"),
        ("told_scores.csv", "told_scores.csv"),
    ] {
        std::fs::copy(kept(from), bench.path(name)).unwrap();
    }
    bench
}

#[track_caller]
fn ok(said: Said) -> String {
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    said.stdout
}

fn change_manifest(bench: &Workbench, change: impl FnOnce(&mut Value)) {
    let path = bench.path(&format!("{RUN}/run.json"));
    let mut manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    std::fs::write(path, manifest.to_string()).unwrap();
}

#[test]
fn a_run_of_0_1_has_its_figures_its_page_and_every_prompt() {
    let bench = bench();
    ok(bench.dial(&["report", RUN]));
    for figure in [
        "score.histogram",
        "patch.heatmap",
        "direction.cosine",
        "direction.shuffled",
        "steer.score",
        "steer.gap",
        "steer.pareto",
        "generate.classifiers",
        "random.refusals",
        "holdout.cosine",
        "holdout.gap",
        "xstest.types",
        "summary.operating_points",
        "told.histogram",
    ] {
        let file = bench.path(&format!("{RUN}/figures/{figure}.svg"));
        assert!(file.is_file(), "no {figure}");
    }
    // A random sweep is what others are compared with, and has no gap of its own.
    assert!(
        !bench
            .path(&format!("{RUN}/figures/random.gap.svg"))
            .exists()
    );
    let page = std::fs::read_to_string(bench.path(&format!("{RUN}/report.html"))).unwrap();
    let dag = page.split("<svg class=\"dag\"").nth(1).unwrap();
    let dag = dag.split("</svg>").next().unwrap();
    assert_eq!(dag.matches("<rect").count(), 10, "stages");
    // score → direction, holdout; direction → steer, generate; holdout → xstest; four → summary.
    assert_eq!(dag.matches("<path").count(), 9, "references");
    assert!(page.contains("The controls do not all pass (0 of 4 comparisons)"));
    assert!(page.contains("The learned direction against random ones"));
    let last = main_set(8, 5).pop().unwrap().text;
    assert!(page.contains(&last), "its text is shown");
}

#[test]
fn a_run_of_0_1_is_shown_and_listed() {
    let bench = bench();
    let shown = ok(bench.dial(&["show", RUN]));
    assert!(shown.starts_with("study: complete, 2.8 s\nDoes a run of dial 0.1 still open?\n"));
    for table in [
        "score.means",
        "told.means",
        "summary.learned_vs_random",
        "summary.operating_points",
    ] {
        assert!(shown.contains(&format!("\n{table}\n")), "no {table}");
    }
    assert!(shown.contains("note: with 2 random directions"), "{shown}");
    let stage = ok(bench.dial(&["show", RUN, "holdout"]));
    assert!(stage.contains("\nholdout.members\n"), "{stage}");
    let listed = ok(bench.dial(&["status", "--format", "json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let run = &listed["runs"][0];
    assert_eq!(
        (&run["state"], &run["stages_done"]),
        (&json!("complete"), &json!(10))
    );
    assert_eq!(run["cells_computed"], 489);
}

#[test]
fn a_run_of_0_1_that_was_killed_tells_how_to_resume_it() {
    let bench = bench();
    change_manifest(&bench, |manifest| {
        manifest["status"] = json!("running");
        manifest["computing"] = json!("random");
        manifest["cells_in_hand"] = json!([7, 52]);
        manifest["stages"].as_array_mut().unwrap().truncate(6);
        // Of a status that is not known it is not known whether the stage is done.
        manifest["stages"][5]["status"] = json!("postponed");
        for name in ["seconds", "error", "equivalent_forward_passes"] {
            manifest.as_object_mut().unwrap().remove(name);
        }
    });
    let listed = ok(bench.dial(&["status"]));
    for part in ["killed  5 of 10 ", " random, 7 of 52 cells "] {
        assert!(listed.contains(part), "{listed}");
    }
    // Its own file is gone; the copy runs as it was.
    let resume = format!("dial run {RUN}/resolved.yaml --threads 1");
    assert!(listed.contains(&resume), "{listed}");
    // What was not run is of the study all the same.
    ok(bench.dial(&["report", RUN]));
    let page = std::fs::read_to_string(bench.path(&format!("{RUN}/report.html"))).unwrap();
    assert!(page.contains("id=\"stage-summary\""));
    assert!(page.contains(">not run<"));
}

#[test]
fn a_run_of_0_1_is_compared_with_one_of_today() {
    let bench = bench();
    let today = bench.dial(&["run", "study.toml", "--threads", "1"]);
    assert_eq!(today.code, 0, "{today:?}");
    let told = ok(bench.dial(&["diff", RUN, "runs/study/latest", "--format", "json"]));
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["within"], true, "{told}");
    let difference = &told["difference"];
    // Paths, and what is said of the machine, apart, it is the same study.
    let parameters = difference["parameters"].as_array().unwrap().iter();
    let mut other = parameters.filter(|p| !p["path"].as_str().unwrap().starts_with("provenance."));
    assert_eq!(other.next(), None);
    let compared = difference["comparisons"].as_array().unwrap();
    for kind in [
        "score",
        "patch",
        "steer",
        "random",
        "holdout",
        "xstest",
        "direction",
    ] {
        assert!(compared.iter().any(|c| c["kind"] == kind), "no {kind}");
    }
    assert!(
        compared
            .iter()
            .all(|c| c["only_left"] == 0 && c["only_right"] == 0)
    );
}

#[test]
fn a_run_of_a_later_format_says_which_and_what_to_do() {
    let bench = bench();
    change_manifest(&bench, |manifest| manifest["format"] = json!(3));
    let why = "it has format 3, and this dial, ";
    let what = " reads formats 1 to 2; read it with the dial that wrote it, or a later one";
    for command in [
        &["report", RUN][..],
        &["show", RUN],
        &["diff", RUN, RUN],
        &["cache", "gc", "--unreferenced"],
    ] {
        if command[0] == "cache" {
            // Made by whoever runs first.
            bench.dial(&["run", "study.toml", "--only", "score", "--runs", "others"]);
        }
        let said = bench.dial(command);
        assert!(said.message(1).contains(why), "{said:?}");
        assert!(said.message(1).contains(what), "{said:?}");
    }
    let listed = ok(bench.dial(&["status", "--format", "json"]));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["runs"][0]["state"], "unreadable");
    assert!(listed["runs"][0]["error"].as_str().unwrap().contains(why));
}
