//! Two runs on one cache at once: they divide the work, one takes over what the other leaves, and the numbers are those of one run. And a
//! study whose file is edited while it runs.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::prompts::main_set;
use crate::workbench::{Said, Workbench, committed_cells, computed_twice, files_below, long_study};

/// Random directions of a study that takes some seconds, and its cells.
const SEEDS: usize = 200;
const CELLS: usize = 50 + 400 * SEEDS;
/// Those of a study that takes several times the two seconds after which a run hears that another waits.
const MANY: usize = 500;

fn bench(seeds: usize) -> Workbench {
    let bench = Workbench::new(&main_set(30, 20));
    let study = long_study(seeds);
    bench.write("study.toml", &study);
    // The same cells under another name, and some of its own.
    bench.write("other.toml", format!("{study}[stages.more]\nkind = \"random\"\nmodel = \"inst\"\nprompts = \"main\"\nseed = \"0..4\"\nlayer = 1\nalpha = [1]\n"));
    bench
}

fn start(bench: &Workbench, file: &str, runs: &str) -> Child {
    let mut command = bench.command(&[
        "run",
        file,
        "--format",
        "json",
        "--threads",
        "1",
        "--runs",
        runs,
    ]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn end(child: Child, bench: &Workbench) -> Said {
    let said = Said::of(child.wait_with_output().unwrap(), &bench.path(""));
    assert_eq!(said.code, 0, "{said:?}");
    said
}

/// Cells that a run says it computed.
fn computed(said: &Said) -> u64 {
    let json: serde_json::Value = serde_json::from_str(said.stdout.trim()).unwrap();
    let stages = json["stages"].as_array().unwrap();
    stages
        .iter()
        .map(|stage| stage["cells_computed"].as_u64().unwrap())
        .sum()
}

/// The tables of the two stages, of the only run in a folder of runs.
fn tables(bench: &Workbench, runs: &str) -> Vec<Vec<u8>> {
    let files = files_below(&bench.path(runs)).into_iter();
    let tables = files.filter(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        !file.to_string_lossy().contains("/latest/") && ["score.csv", "random.csv"].contains(&name)
    });
    let tables: Vec<Vec<u8>> = tables.map(|file| std::fs::read(file).unwrap()).collect();
    assert_eq!(tables.len(), 2);
    tables
}

fn wait_for_a_commit(bench: &Workbench, beyond: usize) {
    let started = Instant::now();
    while committed_cells(&bench.path("cache")).len() <= beyond {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "nothing is committed"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_runs_divide_the_work_and_give_the_same_bits() {
    let bench = bench(MANY);
    let (one, other) = (
        start(&bench, "study.toml", "one"),
        start(&bench, "other.toml", "two"),
    );
    let (one, other) = (end(one, &bench), end(other, &bench));
    assert_eq!(tables(&bench, "one"), tables(&bench, "two"));
    let twice = computed_twice(&bench.path("cache"));
    assert!(twice <= CELLS / 50, "{twice} cells were computed twice");
    let least = computed(&one).min(computed(&other));
    assert!(
        least as usize > CELLS / 20,
        "the work was not divided: {} and {}",
        computed(&one),
        computed(&other)
    );
    assert_eq!(files_below(&bench.path("cache/v1/leases")).len(), 0);

    let alone = self::bench(MANY);
    end(start(&alone, "study.toml", "one"), &alone);
    assert_eq!(tables(&alone, "one"), tables(&bench, "one"));
}

#[test]
fn what_a_killed_run_had_claimed_is_taken_over() {
    let bench = bench(SEEDS);
    let mut killed = start(&bench, "study.toml", "one");
    wait_for_a_commit(&bench, 0);
    let other = start(&bench, "study.toml", "two");
    std::thread::sleep(Duration::from_millis(700));
    killed.kill().unwrap();
    killed.wait().unwrap();
    end(other, &bench);
    let cells = committed_cells(&bench.path("cache")).len();
    let twice = computed_twice(&bench.path("cache"));
    assert_eq!(cells - twice, CELLS);
    assert_eq!(twice, 0, "cells were computed twice");
    let again = end(start(&bench, "study.toml", "three"), &bench);
    assert_eq!(computed(&again), 0);
    assert_eq!(tables(&bench, "two"), tables(&bench, "three"));
}

/// What a run commits is found by another that comes to it when the first has long ended.
#[test]
fn what_a_run_that_has_ended_left_is_found() {
    let bench = bench(SEEDS);
    let more = "[stages.more]\nkind = \"random\"\nmodel = \"inst\"\nprompts = \"main\"\nseed = \"300..310\"\nlayer = 1\nalpha = [1]\n";
    let study = long_study(SEEDS);
    bench.write("study.toml", format!("{study}{more}"));
    let quick = study.split("[stages.random]").next().unwrap();
    bench.write("other.toml", format!("{quick}{more}"));
    let long = start(&bench, "study.toml", "one");
    wait_for_a_commit(&bench, 50);
    let quick = end(start(&bench, "other.toml", "two"), &bench);
    assert_eq!(computed(&quick), 500);
    let long = end(long, &bench);
    assert_eq!(computed(&long) as usize, CELLS);
    assert_eq!(computed_twice(&bench.path("cache")), 0);
}

/// A run that is stopped for longer than a lease lives, and goes on: the other has taken its cells over, and it sees that.
#[test]
fn a_run_that_slept_does_not_repeat_what_another_took_over() {
    let bench = bench(1200);
    let sleeper = start(&bench, "study.toml", "one");
    wait_for_a_commit(&bench, 50);
    let signal = |name: &str| {
        let id = sleeper.id().to_string();
        let status = std::process::Command::new("kill")
            .args([name, &id])
            .status();
        assert!(status.unwrap().success());
    };
    signal("-STOP");
    let heir = start(&bench, "study.toml", "two");
    std::thread::sleep(Duration::from_secs(14));
    signal("-CONT");
    let (sleeper, heir) = (end(sleeper, &bench), end(heir, &bench));
    assert_eq!(tables(&bench, "one"), tables(&bench, "two"));
    assert!(computed(&heir) > 0);
    let cells = committed_cells(&bench.path("cache")).len();
    let twice = computed_twice(&bench.path("cache"));
    assert!(
        twice < cells / 5,
        "{twice} of {cells} cells were computed twice, by {} and {}",
        computed(&sleeper),
        computed(&heir)
    );
}

#[test]
fn editing_the_study_while_it_runs_changes_nothing_in_the_running_one() {
    let bench = bench(SEEDS);
    let running = start(&bench, "study.toml", "one");
    // The first stage is committed: everything was read before.
    wait_for_a_commit(&bench, 0);
    bench.write("study.toml", long_study(3));
    bench.write("main.jsonl", crate::prompts::jsonl(&main_set(3, 3)));
    end(running, &bench);
    let edited = tables(&bench, "one");
    let kept = files_below(&bench.path("one"));
    let kept = kept
        .iter()
        .find(|file| file.ends_with("study.toml"))
        .unwrap();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), long_study(SEEDS));
    let untouched = self::bench(SEEDS);
    end(start(&untouched, "study.toml", "one"), &untouched);
    assert_eq!(edited, tables(&untouched, "one"));
}
