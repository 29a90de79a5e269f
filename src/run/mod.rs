//! Running a study: stage by stage, cells looked up, the missing computed and committed, a folder left behind.
//!
//! Nothing here prints. What happens is told as [`Event`]s to a callback; only `cli` shows them.

mod evaluator;
mod folder;
mod models;
mod selection;
mod stage;
mod status;
mod storage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cache::{Cache, CacheError, Lease};
use crate::model::DeviceName;
use crate::plan::{PlanError, StageSpec, Study};
use crate::stages::{Artifacts, Inputs, StageError};

use folder::RunFolder;
use stage::{State, Surroundings};

pub(crate) use crate::manifest::StageStatus;
pub(crate) use selection::Selection;
pub use status::run_summaries;
pub(crate) use status::{RunState, RunSummary};
pub(crate) use storage::{Criteria, Usage, collect};
pub use storage::{usage, verify};

/// How a study is run.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The folder that holds one folder per study.
    pub(crate) runs: PathBuf,
    /// Where models run.
    pub(crate) device: DeviceName,
    /// Bytes that the keys, values and residual streams of prefilled prompts may take, for each model; half of the free memory where none
    /// is given. What does not fit is computed again.
    pub(crate) prefix_bytes: Option<usize>,
    /// Which stages to run.
    pub(crate) selection: Selection,
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
    /// Name in the study.
    pub(crate) name: String,
    /// Name of its kind.
    pub(crate) kind: &'static str,
    /// How it ended.
    pub(crate) status: StageStatus,
    /// Distinct cells computed.
    pub(crate) cells_computed: u64,
    /// Distinct cells found in the cache; for a stage that is cached as a whole, all that it had asked for.
    pub(crate) cells_cached: u64,
    /// Wall time.
    pub(crate) seconds: f64,
}

/// What became of a run.
#[derive(Debug)]
pub(crate) struct RunReport {
    /// The run's folder.
    pub(crate) run_dir: PathBuf,
    /// Its stages, as far as it got.
    pub(crate) stages: Vec<StageReport>,
    /// What the stages left, by name of the stage.
    pub(crate) outputs: BTreeMap<String, std::sync::Arc<Artifacts>>,
    /// Full forward passes that a script would make for the stages that are done.
    pub(crate) equivalent_forward_passes: u64,
    /// Wall time.
    pub(crate) seconds: f64,
    /// Why stages gave no output, each with the name of the stage; one at most unless the run was to keep going.
    pub(crate) failures: Vec<(String, StageError)>,
}

/// What happens while a study runs.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The run's folder was made.
    Started {
        /// The folder.
        run_dir: &'a std::path::Path,
        /// What a reader should know of models and prompt sets.
        findings: &'a [String],
    },
    /// A stage starts.
    StageStarted {
        /// Its name.
        name: &'a str,
    },
    /// A model's weights are being loaded.
    Loading {
        /// Name of the model.
        model: &'a str,
    },
    /// Prompts were prefilled.
    Prefilled {
        /// So far.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// Cells were computed.
    Computed {
        /// So far in this round.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// A stage ended.
    StageEnded {
        /// What became of it.
        report: &'a StageReport,
        /// Sentences worth a reader's attention.
        findings: &'a [String],
    },
}

/// Why a run could not start or go on.
#[derive(Debug)]
pub(crate) enum RunError {
    /// The study cannot be done as written.
    Plan(PlanError),
    /// There is no stage of that name to run.
    UnknownStage(String),
    /// The cache or the run's folder cannot be written.
    Cache(CacheError),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Plan(error) => write!(f, "{error}"),
            RunError::UnknownStage(message) => f.write_str(message),
            RunError::Cache(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<PlanError> for RunError {
    fn from(error: PlanError) -> Self {
        RunError::Plan(error)
    }
}

impl From<CacheError> for RunError {
    fn from(error: CacheError) -> Self {
        RunError::Cache(error)
    }
}

/// Runs a study. `stop` is looked at between tiles; once set, the work in hand is committed and the run ends as interrupted.
///
/// # Errors
/// [`RunError`] where the run could not start or its folder could not be written; a stage that fails is told in the report.
pub(crate) fn run(
    study: &Study,
    inputs: &Inputs,
    cache: &Cache,
    options: &Options,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let wanted = options.selection.stages(study)?;
    selection::check_forced(study, &wanted, &options.force)?;
    let mut folder = RunFolder::create(study, inputs, (cache.folder(), options, &wanted))?;
    on_event(Event::Started {
        run_dir: folder.path(),
        findings: &inputs.findings,
    });
    folder.expect("log.jsonl");
    let lease = cache.lease(folder.path());
    wait_for_collection(&lease, stop);
    let mut state = State::new(inputs, options, lease);
    let mut report = loop {
        let stages = study.stages.iter().filter(|s| wanted.contains(&s.name));
        let mut around = Surroundings {
            cache,
            folder: &mut folder,
            stop,
            on_event: &mut *on_event,
        };
        if let Some(report) = go_through(stages, &mut state, &mut around, options) {
            break report;
        }
        // Each time packs have been moved aside, so that this comes to an end.
        state.start_over();
        folder.start_over();
    };
    report.outputs = state.inputs.stages;
    report.seconds = started.elapsed().as_secs_f64();
    folder.finish(&report)?;
    Ok(report)
}

/// Runs stage after stage. None where the cache turned out to hold what cannot be right, on which some of the stages may rest.
fn go_through<'s>(
    stages: impl Iterator<Item = &'s StageSpec>,
    state: &mut State,
    around: &mut Surroundings<'_>,
    options: &Options,
) -> Option<RunReport> {
    let mut report = RunReport::of(around.folder);
    for spec in stages {
        if state.is_blocked(spec) {
            let blocked = StageReport::of(spec, StageStatus::Blocked);
            (around.on_event)(Event::StageEnded {
                report: &blocked,
                findings: &[],
            });
            report.stages.push(blocked);
            continue;
        }
        (around.on_event)(Event::StageStarted { name: &spec.name });
        let (stage_report, outcome) = state.run_stage(spec, around);
        if let Err(StageError::Untrusted(_)) = &outcome {
            return None;
        }
        let findings = outcome.as_ref().map_or(&[][..], |record| &record.findings);
        (around.on_event)(Event::StageEnded {
            report: &stage_report,
            findings,
        });
        report.stages.push(stage_report);
        match outcome {
            Ok(_) => {
                let passes = spec.stage.cost(&state.inputs).equivalent_forward_passes;
                report.equivalent_forward_passes =
                    report.equivalent_forward_passes.saturating_add(passes);
            }
            Err(error) => {
                let ends = !options.keep_going
                    || matches!(error, StageError::Interrupted)
                    || around.folder.check_is_there().is_err();
                report.failures.push((spec.name.clone(), error));
                if ends {
                    break;
                }
            }
        }
    }
    Some(report)
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
            seconds: 0.0,
        }
    }
}

impl RunReport {
    /// Of a run that has only begun.
    fn of(folder: &RunFolder) -> Self {
        RunReport {
            run_dir: folder.path().to_path_buf(),
            stages: Vec::new(),
            outputs: BTreeMap::new(),
            equivalent_forward_passes: 0,
            seconds: 0.0,
            failures: Vec::new(),
        }
    }
}
