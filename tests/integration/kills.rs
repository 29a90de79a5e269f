//! A run that is killed a hundred times: what was committed is never computed again, and the numbers come out the same, to the bit.
//!
//! The moments are drawn from a fixed seed over the time that an uninterrupted run takes, so they fall into loading, computing, committing,
//! storing tables, and drawing the report, and some of them into the middle of a long stage. Bounded: a hundred runs, each ended within
//! the time of a whole one.

use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::prompts::main_set;
use crate::workbench::{Workbench, committed_cells, computed_twice, files_below, long_study};

/// Kills that have to meet a run that is alive.
const KILLS: usize = 100;
/// Those among them that meet a study of one long stage.
const LONG_KILLS: usize = 12;
const SEED: u64 = 20_261_124;

/// Every kind of commit in a second: stages of one round and of several, directions, texts, statistics.
const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 6
layer = [1, 2, 3]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, -1, 0, 1, 2]
[stages.random]
model = "inst"
prompts = "main"
seed = "0..10"
layer = "all"
alpha = [-2, 2]
[stages.generate]
model = "inst"
prompts = "main"
limit = 5
direction = "direction"
alpha = [-4, 4]
max_new_tokens = 4
[stages.summary]
steer = "steer"
random = "random"
"#;

/// A linear congruential generator (Knuth's MMIX): the same moments every time.
struct Draws(u64);

impl Draws {
    fn unit(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A folder with a study.
fn fresh(study: &str) -> Workbench {
    let bench = Workbench::new(&main_set(30, 20));
    bench.write("study.toml", study);
    bench
}

/// Starts the study and kills it; whether it was still alive.
fn killed(bench: &Workbench, after: Duration) -> bool {
    let mut command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    child.kill().unwrap();
    child.wait().unwrap().signal() == Some(9)
}

/// What became of a number of kills.
#[derive(Debug, Default)]
struct Outcome {
    kills: usize,
    /// Kills of runs that had found committed cells of an earlier one.
    resumed: usize,
    /// Kills that left a stage with some of its cells committed, and not all.
    half_committed: usize,
}

/// Kills a study until that many kills have met it alive, each at a moment drawn from that part of a whole run's time. A study goes on until
/// it comes to its end between two kills, or has met enough of them; then it is run to its end.
fn kill(study: &str, kills: usize, part: Range<f64>, draws: &mut Draws) -> Outcome {
    let bench = fresh(study);
    let started = Instant::now();
    let whole_run = bench.run(study).ok();
    let whole = started.elapsed();
    let expected = whole_run.artifacts(&bench);
    let cells = committed_cells(&bench.path("cache")).len();
    let mut between = vec![0];
    for (_, count) in whole_run.all_computed() {
        between.push(between[between.len() - 1] + count as usize);
    }
    let mut outcome = Outcome::default();
    while outcome.kills < kills {
        let bench = fresh(study);
        let mut committed = 0;
        for _ in 0..12 {
            let moment = part.start + (part.end - part.start) * draws.unit();
            let after = whole.mul_f64(moment);
            if !killed(&bench, after) {
                break;
            }
            outcome.kills += 1;
            let now = committed_cells(&bench.path("cache")).len();
            let place = format!("seed {SEED}, kill {}", outcome.kills);
            assert!(now >= committed, "{place}: committed cells are gone");
            outcome.resumed += usize::from(committed > 0);
            outcome.half_committed += usize::from(!between.contains(&now));
            committed = now;
        }
        let committed = committed_cells(&bench.path("cache")).len();
        let run = bench.run(study).ok();
        let computed: u64 = run.all_computed().iter().map(|(_, count)| count).sum();
        let place = format!("seed {SEED}, after kill {}", outcome.kills);
        assert_eq!(computed_twice(&bench.path("cache")), 0, "{place}");
        assert_eq!(committed as u64 + computed, cells as u64, "{place}");
        let damaged = files_below(&bench.path("cache/v1/damaged"));
        assert_eq!(damaged.len(), 0, "{place}");
        assert!(
            run.artifacts(&bench) == expected,
            "{place}: other artifacts"
        );
    }
    outcome
}

#[test]
fn a_hundred_kills_lose_nothing_that_was_committed() {
    let mut draws = Draws(SEED);
    let short = kill(STUDY, KILLS - LONG_KILLS, 0.0..1.0, &mut draws);
    assert!(short.resumed > short.kills / 4, "{short:?}");
    // A stage of several commits, after the first and before the last.
    let long = kill(&long_study(500), LONG_KILLS, 0.35..0.75, &mut draws);
    assert!(long.half_committed > long.kills / 4, "{long:?}");
}
