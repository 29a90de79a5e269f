//! Running a study: stage by stage, cells looked up, the missing computed and committed, a folder left behind.
//!
//! Nothing here prints. What happens is told as [`Event`]s to a callback; only `cli` shows them.

mod evaluator;
mod folder;
mod models;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::cache::{Cache, CacheError, Key, Lease};
use crate::model::{DeviceName, Dtype};
use crate::plan::{self, PlanError, StageRecord, StageSpec, StoredOutput, Study};
use crate::stages::{Inputs, Output, StageError};

use evaluator::CachedEvaluator;
use folder::RunFolder;
use models::LoadedModels;

/// How a study is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that holds one folder per study.
    pub runs: PathBuf,
    /// Where models run.
    pub device: DeviceName,
    /// Bytes that the keys, values and residual streams of prefilled prompts may take, for each model; half of the free memory where none
    /// is given. What does not fit is computed again.
    pub prefix_bytes: Option<usize>,
    /// Run this stage and what it needs, and nothing else.
    pub only: Option<String>,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StageStatus {
    /// Its output was in the cache.
    Cached,
    /// It ran.
    Computed,
    /// It failed.
    Failed,
    /// The person stopped it.
    Interrupted,
}

/// What became of one stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// Name in the study.
    pub name: String,
    /// Name of its kind.
    pub kind: &'static str,
    /// How it ended.
    pub status: StageStatus,
    /// Distinct cells computed.
    pub cells_computed: u64,
    /// Distinct cells found in the cache; for a stage that is cached as a whole, all that it had asked for.
    pub cells_cached: u64,
    /// Wall time.
    pub seconds: f64,
}

/// What became of a run.
#[derive(Debug)]
pub struct RunReport {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Its stages, as far as it got.
    pub stages: Vec<StageReport>,
    /// Outputs, by name of the stage.
    pub outputs: BTreeMap<String, std::sync::Arc<Output>>,
    /// Full forward passes that a script would make for the stages that are done.
    pub equivalent_forward_passes: u64,
    /// Wall time.
    pub seconds: f64,
    /// Why it ended early, with the name of the stage.
    pub failure: Option<(String, StageError)>,
}

/// What happens while a study runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// The run's folder was made.
    Started {
        /// The folder.
        run_dir: &'a std::path::Path,
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
pub enum RunError {
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
pub fn run(
    study: &Study,
    inputs: &Inputs,
    cache: &Cache,
    options: &Options,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(Event<'_>),
) -> Result<RunReport, RunError> {
    let started = Instant::now();
    let wanted = wanted_stages(study, options.only.as_deref())?;
    let mut folder = RunFolder::create(study, inputs, options)?;
    on_event(Event::Started {
        run_dir: folder.path(),
    });
    let mut state = State {
        lease: cache.lease(folder.path()),
        inputs: inputs.clone(),
        contents: BTreeMap::new(),
        models: LoadedModels::new(options.device, options.prefix_bytes),
    };
    let mut report = RunReport::of(&folder);
    for spec in study.stages.iter().filter(|s| wanted.contains(&s.name)) {
        on_event(Event::StageStarted { name: &spec.name });
        let (stage_report, outcome) = state.run_stage(spec, cache, stop, &mut folder, on_event);
        let findings = outcome.as_ref().map_or(&[][..], |record| &record.findings);
        on_event(Event::StageEnded {
            report: &stage_report,
            findings,
        });
        report.stages.push(stage_report);
        if let Err(error) = outcome {
            report.failure = Some((spec.name.clone(), error));
            break;
        }
        report.equivalent_forward_passes +=
            spec.stage.cost(&state.inputs).equivalent_forward_passes;
    }
    report.outputs = state.inputs.stages;
    report.seconds = started.elapsed().as_secs_f64();
    folder.finish(&report)?;
    Ok(report)
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
            failure: None,
        }
    }
}

/// Names of the stages to run: all, or one and what it needs.
fn wanted_stages(study: &Study, only: Option<&str>) -> Result<BTreeSet<String>, RunError> {
    let Some(only) = only else {
        return Ok(study.stages.iter().map(|s| s.name.clone()).collect());
    };
    if !study.stages.iter().any(|s| s.name == only) {
        let names = study.stages.iter().map(|s| s.name.as_str());
        let meant = crate::spec::suggest(only, names.clone());
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!(
                "its stages are `{}`",
                names.collect::<Vec<_>>().join("`, `")
            ),
        };
        return Err(RunError::UnknownStage(format!(
            "the study has no stage `{only}` to run with `--only`; {hint}"
        )));
    }
    let mut wanted = BTreeSet::from([only.to_string()]);
    // Stages come after those they need, so one walk backwards finds everything.
    for spec in study.stages.iter().rev() {
        if wanted.contains(&spec.name) {
            wanted.extend(
                spec.stage
                    .needs()
                    .stages
                    .into_iter()
                    .map(|(name, _)| name.value),
            );
        }
    }
    Ok(wanted)
}

/// What has been learned so far.
struct State {
    lease: Lease,
    inputs: Inputs,
    /// Content hashes of the outputs, by name of the stage.
    contents: BTreeMap<String, Key>,
    models: LoadedModels,
}

impl State {
    fn run_stage(
        &mut self,
        spec: &StageSpec,
        cache: &Cache,
        stop: &AtomicBool,
        folder: &mut RunFolder,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> (StageReport, Result<StageRecord, StageError>) {
        let started = Instant::now();
        let mut report = StageReport {
            name: spec.name.clone(),
            kind: spec.kind.name,
            status: StageStatus::Failed,
            cells_computed: 0,
            cells_cached: 0,
            seconds: 0.0,
        };
        let output = self.stage_output(spec, cache, stop, on_event, &mut report);
        // What cannot be handed to the person is a failure of the stage, too.
        let outcome = output.and_then(|(key, record)| {
            folder
                .add_stage(&spec.name, &key, &record, cache)
                .map(|()| record)
                .map_err(cache_failed)
        });
        report.seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(_) => {}
            Err(StageError::Interrupted) => report.status = StageStatus::Interrupted,
            Err(_) => report.status = StageStatus::Failed,
        }
        (report, outcome)
    }

    /// The stage's key and record, from the cache or by running it.
    fn stage_output(
        &mut self,
        spec: &StageSpec,
        cache: &Cache,
        stop: &AtomicBool,
        on_event: &mut dyn FnMut(Event<'_>),
        report: &mut StageReport,
    ) -> Result<(Key, StageRecord), StageError> {
        if stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        let parts = plan::key_parts(spec, &self.inputs, &self.contents).ok_or_else(|| {
            StageError::Internal(format!("stage `{}` runs before what it needs", spec.name))
        })?;
        let key = plan::key_of(&parts);
        let found = cache.stage_record::<StageRecord>(&key);
        if let Some(record) = found.map_err(cache_failed)?
            && let Some(output) = plan::load_output(&record, cache)?
        {
            report.status = StageStatus::Cached;
            report.cells_cached = record.cells;
            self.remember(spec, &record, output);
            return Ok((key, record));
        }
        let started = Instant::now();
        let mut evaluator = CachedEvaluator::new(
            (cache, &self.lease),
            &self.inputs,
            &mut self.models,
            stop,
            on_event,
        );
        let outcome = spec.stage.run(&self.inputs, &mut evaluator);
        (report.cells_computed, report.cells_cached) = evaluator.counts();
        let mut output = outcome?;
        output.findings.extend(self.rounding(spec));
        let stored = StoredOutput::store(output, cache)?;
        let record = StageRecord {
            tables: stored.tables,
            directions: stored.directions,
            findings: stored.output.findings.clone(),
            key_parts: parts,
            seconds: started.elapsed().as_secs_f64(),
            cells: report.cells_computed + report.cells_cached,
            stage: spec.name.clone(),
            created: jiff::Timestamp::now().to_string(),
        };
        cache
            .put_stage_record(&key, &record)
            .map_err(cache_failed)?;
        report.status = StageStatus::Computed;
        self.remember(spec, &record, stored.output);
        Ok((key, record))
    }

    /// Says of a stage whose models compute in a short format that its numbers carry that format's rounding.
    fn rounding(&self, spec: &StageSpec) -> Vec<String> {
        let needs = spec.stage.needs();
        let models = needs.models.iter().filter_map(|name| {
            let model = self.inputs.models.get(&name.value)?;
            let digits = match model.dtype() {
                Dtype::Float32 => return None,
                Dtype::BFloat16 => 8,
                Dtype::Float16 => 11,
            };
            Some(format!(
                "model `{}` computes in {}: its numbers carry the rounding of {digits} significant bits",
                name.value,
                model.dtype().name()
            ))
        });
        models.collect()
    }

    fn remember(&mut self, spec: &StageSpec, record: &StageRecord, output: Output) {
        self.contents.insert(spec.name.clone(), record.content());
        self.inputs.stages.insert(spec.name.clone(), output.into());
    }
}

fn cache_failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}
