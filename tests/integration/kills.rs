//! A run that is killed a hundred times: what was committed is never computed again, and the numbers come out the same, to the bit.
//!
//! The moments are drawn from a fixed seed: a short time after one of the files that an uninterrupted run puts on the disk. So they fall into
//! loading, computing, committing, storing tables, and drawing the report, and some of them into the middle of a long stage.

use std::time::Duration;

use crate::hold::{self, Place};
use crate::prompts::main_set;
use crate::workbench::{Workbench, committed_cells, computed_twice, files_below, long_study};

/// Kills that have to meet a run that is alive.
const KILLS: usize = 100;
/// Those among them that meet a study of one long stage.
const LONG_KILLS: usize = 12;
const SEED: u64 = 20_261_124;
/// The longest time between a place that a run comes to and its end.
const LONGEST_WAIT: Duration = Duration::from_millis(60);

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

/// Starts the study and kills it a moment after it has come to that place; whether it was still alive.
fn killed(bench: &Workbench, at: Place, after: Duration) -> bool {
    let command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let mut running = hold::start(bench, command, at);
    running.wait() && {
        running.let_go();
        std::thread::sleep(after);
        running.kill()
    }
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

/// Kills a study until that many kills have met it alive, each a moment after it has come to a place drawn from `places`, which are counted
/// from the beginning of the run at hand. A study goes on until it comes to its end between two kills, or has met enough of them; then it
/// is run to its end.
fn kill(
    study: &str,
    kills: usize,
    (place, places): (fn(usize) -> Place, usize),
    draws: &mut Draws,
) -> Outcome {
    let bench = fresh(study);
    let whole_run = bench.run(study).ok();
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
            let at = place(1 + (draws.unit() * places as f64) as usize);
            let after = LONGEST_WAIT.mul_f64(draws.unit());
            if !killed(&bench, at, after) {
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
    let bench = fresh(STUDY);
    let command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let writes = hold::writes(&bench, command);
    let short = kill(
        STUDY,
        KILLS - LONG_KILLS,
        (Place::Writes, writes),
        &mut draws,
    );
    assert!(short.resumed > short.kills / 4, "{short:?}");
    // A stage of several commits, after the first and before the last.
    let long = kill(&long_study(500), LONG_KILLS, (Place::Packs, 2), &mut draws);
    assert!(long.half_committed > long.kills / 4, "{long:?}");
}
