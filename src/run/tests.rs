//! Runs of a small study on an engine that makes numbers up: what is looked up, shared, kept and told, without a model.

mod engine;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, mpsc};

use super::*;
use crate::cache::{Batch, Cache, Key};
use crate::model::{ModelError, Value};
use crate::plan::{Fetch, open_study};
use crate::spec;

use engine::{Fake, value_of};

/// 4 cells for `score`. `random` asks for 48, of which those of α = 0 are the 4 of `score`, and the other 32 are distinct.
const STUDY: &str = r#"
[models.m]
source = "model"
[prompts.p]
path = "prompts.jsonl"
[chat]
system = false
[score]
refuse = ["a"]
comply = ["b"]
[stages.score]
model = "m"
prompts = "p"
[stages.random]
model = "m"
prompts = "p"
seed = "0..2"
layer = [0, 1]
alpha = [0, 1, 2]
"#;
const PROMPTS: usize = 4;
const SCORED: usize = PROMPTS;
const STEERED: usize = 8 * PROMPTS;

/// A folder with a model that nobody computes with, prompts, and what runs leave.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Bench(tempfile::tempdir().unwrap());
        std::fs::create_dir(bench.path("model")).unwrap();
        crate::model::write_any_model(&bench.path("model"));
        let prompts = (0..PROMPTS).map(|number| {
            let text = "?".repeat(1 + number);
            format!("{{\"id\": \"p{number}\", \"prompt\": \"{text}\", \"split\": \"s\", \"category\": \"c\"}}\n")
        });
        std::fs::write(bench.path("prompts.jsonl"), prompts.collect::<String>()).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, study: &str) -> Opened {
        let name = format!("{}.toml", blake3::hash(study.as_bytes()).to_hex());
        std::fs::write(self.path(&name), study).unwrap();
        let document = spec::load(&self.path(&name), &[]).unwrap();
        let opened = open_study(document, "study", &self.path("cache"), Fetch::Never);
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a study on an engine.
    fn run_with(&self, study: &str, engine: &mut Fake, force: &[&str]) -> Ran {
        let opened = self.open(study);
        engine.know(&opened.inputs);
        let options = Options {
            runs: self.path("runs"),
            device: DeviceName::Cpu,
            prefix_bytes: None,
            force: force.iter().map(|name| name.to_string()).collect(),
            keep_going: false,
            command: Vec::new(),
        };
        let mut started = Vec::new();
        let stop = Arc::clone(&engine.stop);
        let report = run_on(engine, &opened, &options, &stop, &mut |event| {
            if let Event::StageStarted { name } = event {
                started.push(name.to_string());
            }
        });
        Ran {
            report: report.unwrap(),
            started,
        }
    }

    fn run(&self, engine: &mut Fake) -> Ran {
        self.run_with(STUDY, engine, &[])
    }

    fn packs(&self) -> Vec<PathBuf> {
        let shelves = entries(&self.path("cache/v1/packs"));
        shelves.iter().flat_map(|shelf| entries(shelf)).collect()
    }

    fn forget_stage(&self, name: &str) {
        let shelves = entries(&self.path("cache/v1/stages"));
        for record in shelves.iter().flat_map(|shelf| entries(shelf)) {
            let text = std::fs::read_to_string(&record).unwrap();
            if text.contains(&format!("\"stage\":\"{name}\"")) {
                std::fs::remove_file(record).unwrap();
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A run that has ended.
struct Ran {
    report: RunReport,
    /// Names of the stages that were started, in order.
    started: Vec<String>,
}

impl Ran {
    /// How a stage ended, with the cells that it computed and found.
    fn stage(&self, name: &str) -> (StageStatus, usize, usize) {
        let mut stages = self.report.stages.iter();
        let stage = stages.find(|stage| stage.name == name).unwrap();
        let counts = (stage.cells_computed as usize, stage.cells_cached as usize);
        (stage.status, counts.0, counts.1)
    }

    fn table(&self, name: &str) -> String {
        let file = self.report.run_dir.join(format!("tables/{name}.csv"));
        std::fs::read_to_string(file).unwrap()
    }

    /// The only failure: stage and message.
    fn failure(&self) -> (&str, String) {
        let [(stage, error)] = &self.report.failures[..] else {
            panic!("{:?}", self.report.failures);
        };
        (stage, error.to_string())
    }

    fn ok(self) -> Self {
        assert!(
            self.report.failures.is_empty(),
            "{:?}",
            self.report.failures
        );
        self
    }
}

fn distinct(keys: &[Key]) -> HashSet<Key> {
    keys.iter().copied().collect()
}

#[test]
fn distinct_cells_are_computed_once_and_then_found() {
    let bench = Bench::new();
    let mut engine = Fake::default();
    let ran = bench.run(&mut engine).ok();
    assert_eq!(ran.stage("score"), (StageStatus::Computed, SCORED, 0));
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Computed, STEERED, SCORED)
    );
    assert_eq!(engine.computed.len(), SCORED + STEERED);
    assert_eq!(distinct(&engine.computed).len(), SCORED + STEERED);
    let mut idle = Fake::default();
    let again = bench.run(&mut idle).ok();
    assert_eq!(
        again.stage("random"),
        (StageStatus::Cached, 0, SCORED + STEERED)
    );
    assert_eq!(idle.computed, []);
    assert_eq!(again.table("random"), ran.table("random"));
}

/// Without `score` the cells of α = 0 are missing, and asked for once for each direction and layer.
#[test]
fn equal_cells_of_one_stage_are_computed_once() {
    let bench = Bench::new();
    let mut engine = Fake::default();
    let (alone, _) = STUDY.split_once("[stages.score]").unwrap();
    let (_, random) = STUDY.split_once("[stages.random]").unwrap();
    let study = format!("{alone}[stages.random]{random}");
    let ran = bench.run_with(&study, &mut engine, &[]).ok();
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Computed, SCORED + STEERED, 0)
    );
    assert_eq!(engine.computed.len(), SCORED + STEERED);
    assert_eq!(distinct(&engine.computed).len(), SCORED + STEERED);
    // Every one of those that asked got the value.
    let table = ran.table("random");
    assert_eq!(table.lines().count(), 1 + 12 * PROMPTS);
    assert_eq!(
        ran.table("random"),
        Bench::new().run(&mut Fake::default()).table("random")
    );
}

#[test]
fn values_may_come_in_any_order() {
    let bench = Bench::new();
    let in_order = bench.run(&mut Fake::default()).ok();
    let orders: [fn(&mut Vec<usize>); 2] = [
        |numbers| numbers.reverse(),
        |numbers| numbers.sort_by_key(|number| (number % 5, *number)),
    ];
    for order in orders {
        for block in [1, 7, 100] {
            let mut engine = Fake {
                order,
                block,
                ..Fake::default()
            };
            let bench = Bench::new();
            let ran = bench.run(&mut engine).ok();
            for table in ["score", "random"] {
                assert_eq!(ran.table(table), in_order.table(table));
            }
        }
    }
}

#[test]
fn a_cell_without_a_value_fails_its_stage_and_the_others_are_kept() {
    let bench = Bench::new();
    let mut engine = Fake {
        // Steered cells of the longest prompt, a quarter of them.
        lacks: |cell, longest| !cell.interventions.is_empty() && cell.tokens.len() == longest,
        ..Fake::default()
    };
    let ran = bench.run(&mut engine);
    let lacking = STEERED / PROMPTS;
    let (stage, message) = ran.failure();
    assert_eq!(stage, "random");
    assert_eq!(
        message,
        format!(
            "prompt `p3`: no value ({} more cells like this; all others are kept)",
            lacking - 1
        )
    );
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Failed, STEERED - lacking, SCORED)
    );
    let mut sound = Fake::default();
    let mended = bench.run(&mut sound).ok();
    assert_eq!(
        mended.stage("random"),
        (StageStatus::Computed, lacking, SCORED + STEERED - lacking)
    );
    assert_eq!(sound.computed.len(), lacking);
}

#[test]
fn an_engine_that_breaks_down_loses_nothing_that_it_gave() {
    let bench = Bench::new();
    let mut engine = Fake {
        block: 5,
        before_block: Box::new(|given| match given == SCORED + 10 {
            true => Err(ModelError::Internal("the device is gone".to_string())),
            false => Ok(()),
        }),
        ..Fake::default()
    };
    let ran = bench.run(&mut engine);
    assert_eq!(ran.failure(), ("random", "the device is gone".to_string()));
    assert_eq!(ran.stage("random"), (StageStatus::Failed, 10, SCORED));
    let mut sound = Fake::default();
    bench.run(&mut sound).ok();
    assert_eq!(sound.computed.len(), STEERED - 10);
    assert!(distinct(&sound.computed).is_disjoint(&distinct(&engine.computed)));
}

#[test]
fn what_was_computed_before_an_interrupt_is_not_computed_again() {
    let bench = Bench::new();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let mut engine = Fake {
        stop,
        block: 5,
        // The person asks while the third block of `random` is computed: it is kept, and no fourth is begun.
        before_block: Box::new(move |given| {
            asked.fetch_or(given == SCORED + 10, Ordering::Relaxed);
            Ok(())
        }),
        ..Fake::default()
    };
    let ran = bench.run(&mut engine);
    assert_eq!(ran.failure(), ("random", "interrupted".to_string()));
    assert_eq!(ran.stage("random"), (StageStatus::Interrupted, 15, SCORED));
    let mut rest = Fake::default();
    let resumed = bench.run(&mut rest).ok();
    assert_eq!(resumed.stage("score"), (StageStatus::Cached, 0, SCORED));
    assert_eq!(
        resumed.stage("random"),
        (StageStatus::Computed, STEERED - 15, SCORED + 15)
    );
    assert!(distinct(&rest.computed).is_disjoint(&distinct(&engine.computed)));
    assert_eq!(
        resumed.table("random"),
        Bench::new().run(&mut Fake::default()).table("random")
    );
}

#[test]
fn a_damaged_pack_is_moved_aside_and_its_cells_are_computed_again() {
    let bench = Bench::new();
    let mut engine = Fake::default();
    let first = bench.run(&mut engine).ok();
    bench.forget_stage("random");
    let packs = bench.packs();
    let largest = packs
        .iter()
        .max_by_key(|pack| pack.metadata().unwrap().len());
    let mut bytes = std::fs::read(largest.unwrap()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(largest.unwrap(), bytes).unwrap();
    let mut again = Fake::default();
    let ran = bench.run(&mut again).ok();
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Computed, STEERED, SCORED)
    );
    assert_eq!(again.computed.len(), STEERED);
    assert_eq!(ran.table("random"), first.table("random"));
    assert_eq!(entries(&bench.path("cache/v1/damaged")).len(), 1);
}

/// Two packs hold a cell with different values, which shows only when `score`, made from one of them, has been taken from the cache.
#[test]
fn a_run_that_meets_packs_at_odds_starts_over_without_them() {
    let bench = Bench::new();
    let mut engine = Fake::default();
    let first = bench.run(&mut engine).ok();
    bench.forget_stage("random");
    let mut wrong = Batch::default();
    wrong.push(engine.computed[0], &Value::Score(0.125).to_bytes());
    let cache = Cache::open(&bench.path("cache")).unwrap();
    cache
        .cells()
        .commit(&wrong, &serde_json::json!({}))
        .unwrap();
    let mut again = Fake::default();
    let ran = bench.run(&mut again).ok();
    assert_eq!(ran.started, ["score", "random", "score", "random"]);
    assert_eq!(ran.report.stages.len(), 2);
    assert_eq!(ran.stage("score"), (StageStatus::Computed, SCORED, 0));
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Computed, 0, SCORED + STEERED)
    );
    assert_eq!(again.computed.len(), SCORED);
    assert_eq!(ran.table("random"), first.table("random"));
    assert_eq!(
        entries(&bench.path("cache/v1/damaged")).len(),
        3,
        "two packs, and the record of `score`"
    );
}

#[test]
fn a_forced_stage_is_compared_with_what_is_cached() {
    let bench = Bench::new();
    bench.run(&mut Fake::default()).ok();
    let mut same = Fake::default();
    let ran = bench.run_with(STUDY, &mut same, &["random"]).ok();
    assert_eq!(
        ran.stage("random"),
        (StageStatus::Recomputed, SCORED + STEERED, 0)
    );
    assert_eq!(ran.stage("score"), (StageStatus::Cached, 0, SCORED));
    assert_eq!(same.computed.len(), SCORED + STEERED);
    let packs = bench.packs().len();
    let mut other = Fake {
        value: |cell| match cell.interventions.is_empty() {
            true => Value::Score(0.125),
            false => value_of(cell),
        },
        ..Fake::default()
    };
    let ran = bench.run_with(STUDY, &mut other, &["random"]);
    let (stage, message) = ran.failure();
    assert_eq!(stage, "random");
    let expected = format!(
        "computed again, {SCORED} of {} cached cells are not the same",
        SCORED + STEERED
    );
    assert!(message.starts_with(&expected), "{message}");
    assert_eq!(bench.packs().len(), packs, "what is cached stays as it is");
}

/// One run is held with cells in hand while another asks for the same and some more: it computes what is free, and the first is let go.
#[test]
fn two_runs_compute_every_cell_once() {
    let bench = Bench::new();
    let more = STUDY.replace("[0, 1, 2]", "[0, 1, 2, 3]");
    let (holds, is_held) = mpsc::channel();
    let (lets_go, is_let_go) = mpsc::channel::<()>();
    let (begins, has_begun) = mpsc::channel();
    let mut first = Fake {
        block: 3,
        before_block: Box::new(move |given| {
            if given == SCORED {
                holds.send(()).unwrap();
                is_let_go.recv().unwrap();
            }
            Ok(())
        }),
        ..Fake::default()
    };
    let mut second = Fake {
        before_block: Box::new(move |given| {
            if given == 0 {
                begins.send(()).unwrap();
            }
            Ok(())
        }),
        ..Fake::default()
    };
    std::thread::scope(|scope| {
        let one = scope.spawn(|| bench.run(&mut first).ok());
        is_held.recv().unwrap();
        let other = scope.spawn(|| bench.run_with(&more, &mut second, &[]).ok());
        has_begun.recv().unwrap();
        lets_go.send(()).unwrap();
        let (one, other) = (one.join().unwrap(), other.join().unwrap());
        assert_eq!(one.stage("random").0, StageStatus::Computed);
        assert_eq!(other.stage("score"), (StageStatus::Cached, 0, SCORED));
    });
    let (one, other) = (distinct(&first.computed), distinct(&second.computed));
    assert!(one.is_disjoint(&other));
    assert_eq!(
        first.computed.len() + second.computed.len(),
        one.len() + other.len()
    );
    assert_eq!(one.len() + other.len(), SCORED + STEERED + STEERED / 2);
    assert!(other.len() >= STEERED / 2);
    let mut idle = Fake::default();
    let ran = bench.run_with(&more, &mut idle, &[]).ok();
    assert_eq!(idle.computed, []);
    let other_bench = Bench::new();
    let alone = other_bench.run_with(&more, &mut Fake::default(), &[]).ok();
    assert_eq!(ran.table("random"), alone.table("random"));
}
