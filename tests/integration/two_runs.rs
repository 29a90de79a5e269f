//! Two runs on one cache at once: they divide the work, one takes over what the other leaves, and the numbers are those of one run. And a
//! study whose file is edited while it runs.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::hold::{self, Held, Place};
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

fn command(bench: &Workbench, file: &str, runs: &str) -> Command {
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
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A run that waits at a place of its work. The first pack is that of the quick stage.
fn held(bench: &Workbench, runs: &str, at: Place) -> Held {
    hold::start(bench, command(bench, "study.toml", runs), at).surely()
}

/// A whole run.
fn whole(bench: &Workbench, file: &str, runs: &str) -> Said {
    ended(command(bench, file, runs).spawn().unwrap(), bench)
}

fn ended(running: Child, bench: &Workbench) -> Said {
    went_well(Said::of(
        running.wait_with_output().unwrap(),
        &bench.path(""),
    ))
}

fn went_well(said: Said) -> Said {
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

/// What a run says of itself to the others.
struct Lease {
    /// Raised again and again while it is alive, always after a look at the others.
    counter: u64,
    /// Whether it waits for what another has claimed.
    waits: bool,
}

fn leases(bench: &Workbench) -> Vec<Lease> {
    let texts = files_below(&bench.path("cache/v1/leases")).into_iter();
    let texts = texts.filter_map(|file| std::fs::read_to_string(file).ok());
    let leases = texts.filter_map(|text| {
        let counter = text.split("\"counter\":").nth(1)?;
        let digits: String = counter.chars().take_while(char::is_ascii_digit).collect();
        Some(Lease {
            counter: digits.parse().ok()?,
            waits: text.contains("\"waits_for\":[\""),
        })
    });
    leases.collect()
}

fn wait_until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until one of two runs has said that it waits for what the other has claimed, and the other has heard it.
fn wait_until_one_waits(bench: &Workbench) {
    wait_until(|| leases(bench).iter().any(|lease| lease.waits));
    let counters = || leases(bench).into_iter().map(|lease| lease.counter);
    let now = counters().max();
    wait_until(|| counters().count() == 2 && counters().min() > now.map(|now| now + 1));
}

#[test]
fn two_runs_divide_the_work_and_give_the_same_bits() {
    let bench = bench(MANY);
    // One has claimed a part of the long stage when the other comes, which takes the rest and then waits for that part.
    let one = held(&bench, "one", Place::BeforePack(2));
    let other = command(&bench, "other.toml", "two").spawn().unwrap();
    wait_until_one_waits(&bench);
    let one = went_well(one.end(&bench));
    let other = ended(other, &bench);
    assert_eq!(tables(&bench, "one"), tables(&bench, "two"));
    let twice = computed_twice(&bench.path("cache"));
    assert!(twice <= CELLS / 50, "{twice} cells were computed twice");
    // A run claims so many cells at a time.
    let unclaimed = 400 * MANY - (1 << 16);
    let (one_did, other_did) = (computed(&one) as usize, computed(&other) as usize);
    assert!(
        one_did > 50 && other_did >= unclaimed,
        "the work was not divided: {one_did} and {other_did}"
    );
    assert_eq!(files_below(&bench.path("cache/v1/leases")).len(), 0);

    let alone = self::bench(MANY);
    whole(&alone, "study.toml", "one");
    assert_eq!(tables(&alone, "one"), tables(&bench, "one"));
}

#[test]
fn what_a_killed_run_had_claimed_is_taken_over() {
    let bench = bench(SEEDS);
    let killed = held(&bench, "one", Place::BeforePack(2));
    let other = command(&bench, "study.toml", "two").spawn().unwrap();
    wait_until_one_waits(&bench);
    assert!(killed.kill());
    ended(other, &bench);
    let cells = committed_cells(&bench.path("cache")).len();
    let twice = computed_twice(&bench.path("cache"));
    assert_eq!(cells - twice, CELLS);
    assert_eq!(twice, 0, "cells were computed twice");
    let again = whole(&bench, "study.toml", "three");
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
    let long = held(&bench, "one", Place::Packs(2));
    let quick = whole(&bench, "other.toml", "two");
    assert_eq!(computed(&quick), 500);
    let long = went_well(long.end(&bench));
    assert_eq!(computed(&long) as usize, CELLS);
    assert_eq!(computed_twice(&bench.path("cache")), 0);
}

/// A run that is stopped for longer than a lease lives, and goes on: the other has taken its cells over, and it sees that.
#[test]
fn a_run_that_slept_does_not_repeat_what_another_took_over() {
    let bench = bench(1200);
    let sleeper = held(&bench, "one", Place::Packs(2));
    let before = committed_cells(&bench.path("cache")).len();
    sleeper.signal("-STOP");
    sleeper.let_go();
    let heir = command(&bench, "study.toml", "two").spawn().unwrap();
    wait_until(|| committed_cells(&bench.path("cache")).len() > before);
    sleeper.signal("-CONT");
    let sleeper = went_well(sleeper.end(&bench));
    let heir = ended(heir, &bench);
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
    // The first stage is committed: everything was read before.
    let running = held(&bench, "one", Place::Packs(1));
    bench.write("study.toml", long_study(3));
    bench.write("main.jsonl", crate::prompts::jsonl(&main_set(3, 3)));
    went_well(running.end(&bench));
    let edited = tables(&bench, "one");
    let kept = files_below(&bench.path("one"));
    let kept = kept
        .iter()
        .find(|file| file.ends_with("study.toml"))
        .unwrap();
    assert_eq!(std::fs::read_to_string(kept).unwrap(), long_study(SEEDS));
    let untouched = self::bench(SEEDS);
    whole(&untouched, "study.toml", "one");
    assert_eq!(edited, tables(&untouched, "one"));
}
