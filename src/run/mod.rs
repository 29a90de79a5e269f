//! Running a study: stage by stage, cells looked up, the missing computed and committed, a folder left behind.
//!
//! Nothing here prints. What happens is told as [`Event`]s to a callback; only `cli` shows them.

mod engine;
mod evaluator;
mod folder;
mod stage;
mod status;
mod storage;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cache::{CacheError, Lease};
use crate::model::{self, DeviceName, ModelError};
use crate::plan::{Next, Opened, StageSpec, State, Study, Walk};
use crate::stages::{Artifacts, StageError};

use engine::{Engine, LocalEngine};
use folder::RunFolder;
use stage::Runner;

pub(crate) use crate::manifest::StageStatus;
pub(crate) use folder::manifest_models;
pub use status::run_summaries;
pub(crate) use status::{RunState, RunSummary};
pub(crate) use storage::{Criteria, Usage, collect};
pub use storage::{usage, verify};

/// How a study is run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The folder that holds one folder per study.
    pub(crate) runs: PathBuf,
    pub(crate) device: DeviceName,
    /// Bytes that the keys, values and residual streams of prefilled prompts may take, for each model; half of the free memory where none
    /// is given. What does not fit is computed again.
    pub(crate) prefix_bytes: Option<usize>,
    /// Stages that are computed again although they are cached, and compared with what is cached.
    pub(crate) force: Vec<String>,
    /// Whether stages that do not build on one that failed are run.
    pub(crate) keep_going: bool,
    /// The arguments of the program, which `dial status` gives back to a person who wants to resume.
    pub(crate) command: Vec<String>,
}

/// What became of one stage.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StageReport {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) status: StageStatus,
    /// Distinct cells computed.
    pub(crate) cells_computed: u64,
    /// Distinct cells found in the cache; for a stage that is cached as a whole, all that it had asked for.
    pub(crate) cells_cached: u64,
    /// Of those the ones that an earlier stage of this run has computed, by its name.
    pub(crate) cells_shared: BTreeMap<String, u64>,
    pub(crate) seconds: f64,
}

/// What became of a run.
#[derive(Debug, Default)]
pub(crate) struct RunReport {
    pub(crate) run_dir: PathBuf,
    /// Its stages, as far as it got.
    pub(crate) stages: Vec<StageReport>,
    /// What the stages left, by name of the stage.
    pub(crate) outputs: BTreeMap<String, std::sync::Arc<Artifacts>>,
    /// Full forward passes that a script would make for the stages that are done.
    pub(crate) equivalent_forward_passes: u64,
    pub(crate) seconds: f64,
    /// Why stages gave no output, each with the name of the stage; one at most unless the run was to keep going.
    pub(crate) failures: Vec<(String, StageError)>,
}

/// What happens while a study runs.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    Started {
        run_dir: &'a std::path::Path,
        /// What a reader should know of models and prompt sets.
        findings: &'a [String],
    },
    StageStarted {
        name: &'a str,
    },
    /// The weights of the model of that name are about to be loaded.
    Loading {
        model: &'a str,
    },
    /// So many of the prompts that are needed now are prefilled.
    Prefilled {
        done: usize,
        total: usize,
    },
    /// So many of the cells that were missing in this round have a value.
    Computed {
        done: usize,
        total: usize,
    },
    StageEnded {
        report: &'a StageReport,
        findings: &'a [String],
    },
}

/// Why a run could not start or go on.
#[derive(Debug)]
pub(crate) enum RunError {
    /// There is no stage of that name to compute again.
    UnknownStage(String),
    /// Cells must be computed, which takes libtorch, and this program is not linked with it. No run has begun.
    NeedsLibtorch,
    /// The cache or the run's folder cannot be written.
    Cache(CacheError),
}

impl From<CacheError> for RunError {
    fn from(error: CacheError) -> Self {
        RunError::Cache(error)
    }
}

/// Runs the stages of a study that are to be run. `stop` is looked at between tiles; once set, the work in hand is committed and the run
/// ends as interrupted.
///
/// # Errors
/// [`RunError`] where the run could not start or its folder could not be written; a stage that fails is told in the report.
pub(crate) fn run(
    opened: &Opened,
    options: &Options,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<RunReport, RunError> {
    if !options.force.is_empty() || !all_cached(opened) {
        model::check_linked().map_err(|_| RunError::NeedsLibtorch)?;
    }
    let mut engine = LocalEngine::new(&opened.inputs, options.device, options.prefix_bytes);
    run_on(&mut engine, opened, options, stop, on_event)
}

/// The same on any engine that has the study's models.
fn run_on(
    engine: &mut dyn Engine,
    opened: &Opened,
    options: &Options,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let Opened {
        study,
        inputs,
        cache,
        wanted,
        ..
    } = opened;
    check_forced(study, wanted, &options.force)?;
    let mut folder = RunFolder::create(study, inputs, (&cache.folder, options, wanted))?;
    on_event(Event::Started {
        run_dir: &folder.disk.path,
        findings: &inputs.findings,
    });
    folder.disk.expect("log.jsonl");
    let lease = cache.lease(&folder.disk.path);
    wait_for_collection(&lease, stop);
    let mut report = RunReport::default();
    let mut runner = Runner {
        lease: &lease,
        engine,
        folder: &mut folder,
        options,
        stop,
        on_event,
        report: &mut report,
        computed: Vec::new(),
    };
    let mut walk = Walk::new(inputs, cache);
    let stages = study.stages.iter().filter(|s| wanted.contains(&s.name));
    let Ok(()) = walk.go(stages, |stage, state, walk| {
        runner.visit(stage, state, walk)
    });
    let mut errors = report.failures.iter().map(|(_, error)| error);
    if errors.any(|error| matches!(error, StageError::Model(ModelError::NeedsLibtorch))) {
        // Something cached turned out to be damaged.
        folder.disk.remove()?;
        return Err(RunError::NeedsLibtorch);
    }
    report.run_dir.clone_from(&folder.disk.path);
    report.outputs = walk.inputs.stages;
    report.seconds = started.elapsed().as_secs_f64();
    folder.finish(&report)?;
    Ok(report)
}

/// Whether the cache has every stage that is to be run.
fn all_cached(opened: &Opened) -> bool {
    let stages = &opened.study.stages;
    let stages = stages.iter().filter(|s| opened.wanted.contains(&s.name));
    let mut all = true;
    let Ok(()) = Walk::new(&opened.inputs, &opened.cache).go(stages, |_, state, _| {
        Ok::<Next, Infallible>(match state {
            Ok(State::Cached(record)) => Next::Known(record, None),
            _ => {
                all = false;
                Next::End
            }
        })
    });
    all
}

/// Checks that the stages to compute again are among those to run.
fn check_forced(
    study: &Study,
    wanted: &BTreeSet<String>,
    forced: &[String],
) -> Result<(), RunError> {
    let Some(stage) = forced.iter().find(|stage| !wanted.contains(*stage)) else {
        return Ok(());
    };
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    Err(RunError::UnknownStage(match study.unknown_stage(stage) {
        Some(hint) => format!("the study has no stage `{stage}` to run with `--force`; {hint}"),
        None => format!(
            "stage `{stage}` is to be computed again with `--force`, but is not among the stages to run: `{}`",
            wanted.join("`, `")
        ),
    }))
}

/// Waits while somebody deletes from the cache, who may have looked for runs before this one was there.
fn wait_for_collection(lease: &Lease, stop: &AtomicBool) {
    let mut is_told = false;
    while lease.sees_collection() && !stop.load(Ordering::Relaxed) {
        if !is_told {
            tracing::warn!(
                "`dial cache gc` is deleting from the cache; the run goes on when it has ended"
            );
            is_told = true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

impl StageReport {
    /// Of a stage for which nothing has been done.
    fn of(spec: &StageSpec, status: StageStatus) -> Self {
        StageReport {
            name: spec.name.clone(),
            kind: spec.kind.name,
            status,
            cells_computed: 0,
            cells_cached: 0,
            cells_shared: BTreeMap::new(),
            seconds: 0.0,
        }
    }
}
