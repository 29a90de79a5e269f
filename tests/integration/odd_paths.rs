//! Folders and files whose names are not UTF-8: they work, and what is shown of them is legible.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::prompts::main_set;
use crate::workbench::{SCORES, Said, Workbench};

/// A name in Latin-1.
fn odd(name: &str) -> OsString {
    let bytes = [name.as_bytes(), b"\xE9"].concat();
    OsStr::from_bytes(&bytes).to_os_string()
}

/// A workbench inside a folder of that name, and the folder.
fn bench() -> (Workbench, PathBuf) {
    let bench = Workbench::new(&main_set(12, 8));
    let inside = bench.path("").join(odd("caf"));
    std::fs::create_dir(&inside).unwrap();
    for name in ["models", "main.jsonl"] {
        std::fs::rename(bench.path(name), inside.join(name)).unwrap();
    }
    let mut name = odd("stud");
    name.push(".toml");
    std::fs::write(inside.join(name), SCORES).unwrap();
    (bench, inside)
}

fn said(bench: &Workbench, inside: &PathBuf, arguments: &[&OsStr]) -> Said {
    let mut command = bench.command(&[]);
    command.current_dir(inside).args(arguments);
    Said::of(command.output().unwrap(), inside)
}

fn json(said: &Said) -> Value {
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("no JSON: {said:?}"))
}

#[test]
fn a_study_runs_and_is_listed_where_no_name_is_utf8() {
    let (bench, inside) = bench();
    let (cache, runs, mut study) = (odd("cach"), odd("run"), odd("stud"));
    study.push(".toml");
    let words = |words: &str| -> Vec<OsString> { words.split(' ').map(OsString::from).collect() };
    let run = |more: &[OsString]| {
        let mut all = words("run --threads 1 --format json --cache");
        all.extend([cache.clone(), "--runs".into(), runs.clone(), study.clone()]);
        all.extend_from_slice(more);
        let all: Vec<&OsStr> = all.iter().map(OsString::as_os_str).collect();
        json(&said(&bench, &inside, &all))
    };
    let first = run(&[]);
    assert_eq!(first["stages"][0]["cells_computed"], 20, "{first}");
    assert_eq!(
        first["run_dir"].as_str().unwrap().find("bytes:run%E9/"),
        Some(0)
    );
    let again = run(&[]);
    assert_eq!(again["stages"][0]["status"], "cached", "{again}");

    let latest = inside.join(&runs).join("stud_").join("latest");
    let manifest = std::fs::read(latest.join("run.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let directory = manifest["directory"].as_str().unwrap();
    assert!(
        directory.starts_with("bytes:/") && directory.ends_with("/caf%E9"),
        "{directory}"
    );
    assert!(latest.join("tables/score.csv").is_file());
    assert!(latest.join("report.html").is_file());

    let os: fn(&str) -> &OsStr = OsStr::new;
    let listed = said(
        &bench,
        &inside,
        &[
            os("status"),
            os("--runs"),
            &runs,
            os("--format"),
            os("json"),
        ],
    );
    assert_eq!(json(&listed)["runs"][0]["state"], "complete");
    let usage = [
        os("cache"),
        os("stats"),
        os("--cache"),
        &cache,
        os("--runs"),
        &runs,
        os("--format"),
        os("json"),
    ];
    assert_eq!(
        json(&said(&bench, &inside, &usage))["runs"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    let resolved = latest.join("resolved.yaml");
    let planned = [
        os("plan"),
        resolved.as_os_str(),
        os("--cache"),
        &cache,
        os("--format"),
        os("json"),
    ];
    assert_eq!(
        json(&said(&bench, &inside, &planned))["stages"][0]["status"],
        "cached"
    );
}

#[test]
fn a_run_that_failed_is_resumed_by_the_command_that_is_shown() {
    let (bench, inside) = bench();
    let mut study = odd("broken");
    study.push(".toml");
    // Cells that cannot be computed: a position that no prompt has.
    let failing = format!(
        "{SCORES}\n[stages.random]\nmodel = \"inst\"\nprompts = \"main\"\nseed = 0\nlayer = 1\nalpha = 1\nposition = -1000\n"
    );
    std::fs::write(inside.join(&study), failing).unwrap();
    let os: fn(&str) -> &OsStr = OsStr::new;
    let failed = said(
        &bench,
        &inside,
        &[os("run"), &study, os("--threads"), os("1")],
    );
    assert_eq!(failed.code, 1, "{failed:?}");
    let listed = said(&bench, &inside, &[os("status")]);
    let shown = "dial run $'broken\\xe9.toml' --threads 1";
    assert!(listed.stdout.contains(shown), "{listed:?}");
}

#[test]
fn a_pipe_is_no_input() {
    let bench = Workbench::new(&main_set(12, 8));
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo")
            .arg(bench.path(name))
            .status();
        assert!(made.unwrap().success());
    };
    pipe("study.toml");
    let said = bench.dial(&["plan", "study.toml"]);
    assert_eq!(
        said.message(2),
        "error: cannot read `study.toml`: it is a pipe or a device, expected a regular file"
    );
    pipe("other.jsonl");
    bench.write("a.toml", SCORES.replace("main.jsonl", "other.jsonl"));
    let said = bench.dial(&["plan", "a.toml"]);
    assert!(
        said.message(2).contains("it is a pipe or a device"),
        "{said:?}"
    );
    std::fs::create_dir_all(bench.path("runs/a/run")).unwrap();
    pipe("runs/a/run/run.json");
    let said = bench.dial(&["status"]);
    assert!(said.stdout.contains("unreadable"), "{said:?}");
    let said = bench.dial(&["report", "runs/a/run"]);
    assert!(
        said.message(1).contains("it is a pipe or a device"),
        "{said:?}"
    );
    std::fs::create_dir(bench.path("cache")).unwrap();
    pipe("cache/VERSION");
    bench.write("b.toml", SCORES);
    let said = bench.dial(&["plan", "b.toml"]);
    assert!(
        said.message(1).contains("it is a pipe or a device"),
        "{said:?}"
    );
}
