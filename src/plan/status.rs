//! What each stage of a study would do now.

use std::collections::BTreeSet;

use crate::cache::{Cache, CacheError, CellSet, Key};
use crate::model::{Cells, Value};
use crate::stages::{Artifacts, Cost, Evaluate, Inputs, StageError};

use super::estimate;
use super::record::{StageRecord, describe};
use super::resolve::PlanError;
use super::study::{StageSpec, Study};
use super::trust::cached_value;
use super::walk::{Next, State, Visited, Walk};
use super::why::in_a_few_words;

/// What a stage would do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Status {
    Cached,
    /// It would run, and what it needs is there.
    Run {
        /// Distinct cells that are missing among those it is known to ask for.
        missing: u64,
        /// Distinct cells that it computes at most. More than `missing` where those decide what it asks for next.
        at_most: u64,
        /// What has changed since the most similar run, in a few words.
        reason: String,
    },
    /// It would run once these models are fetched; what is cached shows only then.
    Unfetched {
        models: Vec<String>,
    },
    /// It waits for other stages, whose output decides its cells.
    Waits {
        stages: Vec<String>,
    },
}

/// One line of a plan.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStage {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) after: Vec<String>,
    pub(crate) status: Status,
    pub(crate) cost: Cost,
    /// How long what is missing would take, roughly; prefills not included.
    pub(crate) seconds: f64,
}

/// A study's stages and what each would do.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) stages: Vec<PlannedStage>,
    /// Time for the prefills, if any stage has to compute.
    prefill_seconds: f64,
}

/// Looks values up and computes none.
struct LookUp<'a> {
    cache: &'a Cache,
    inputs: &'a Inputs,
    found: CellSet,
    /// Cells asked for so far, equal ones counted as often as they were given.
    asked: u64,
}

impl Evaluate for LookUp<'_> {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        self.asked += cells.count() as u64;
        let store = self.cache.cells();
        let mut missing = Vec::new();
        for number in 0..cells.count() {
            let key = Key::from(cells.cell(number).key());
            match store.place(&key)? {
                Some(place) => drop(self.found.insert(place)),
                None => missing.push(key.prefix()),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            return Err(StageError::Missing(missing.len() as u64));
        }
        for number in 0..cells.count() {
            let cell = cells.cell(number);
            let mut models = self.inputs.models.values();
            let model = models.find(|model| model.fingerprint == cell.model);
            let model = model.ok_or(StageError::Missing(1))?;
            let found = cached_value(self.cache, &cell, &cell.key().into(), model.config())?;
            let (_, value) = found.ok_or(StageError::Missing(1))?;
            take(number, value);
        }
        Ok(())
    }
}

impl Plan {
    /// Walks the study's stages. Of those that are cached only the record is read, unless a stage that would run needs their output.
    /// `inputs` come from [`super::open_study`].
    ///
    /// # Errors
    /// A cache that cannot be read, or a stage whose inputs already show that it cannot run.
    pub fn new(
        study: &Study,
        inputs: &Inputs,
        cache: &Cache,
        threads: usize,
    ) -> Result<Self, PlanError> {
        let mut planner = Planner {
            threads,
            damaged: BTreeSet::new(),
            stages: Vec::new(),
        };
        Walk::new(inputs, cache).go(study.stages.iter(), |stage, state, walk| {
            planner.visit(&stage, state, walk)
        })?;
        let stages = planner.stages;
        let planned = study.stages.iter().zip(&stages);
        let would_run = planned.filter(|(_, planned)| planned.computes_at_most() > 0);
        let prefill_seconds = estimate::prefills(would_run.map(|(spec, _)| spec), inputs, threads);
        Ok(Plan {
            stages,
            prefill_seconds,
        })
    }

    /// Full forward passes that a script would make for all stages.
    pub(crate) fn equivalent_forward_passes(&self) -> u64 {
        let passes = self.stages.iter().map(|s| s.cost.equivalent_forward_passes);
        passes.fold(0, u64::saturating_add)
    }

    /// Seconds that the missing work would take, roughly.
    pub fn seconds(&self) -> f64 {
        self.prefill_seconds + self.stages.iter().map(|s| s.seconds).sum::<f64>()
    }
}

/// Counts what each stage would compute.
struct Planner {
    threads: usize,
    /// Stages whose output turned out to be damaged when another needed it: they would run, whatever their record says.
    damaged: BTreeSet<String>,
    stages: Vec<PlannedStage>,
}

impl Planner {
    fn visit(
        &mut self,
        stage: &Visited<'_>,
        state: Result<State, CacheError>,
        walk: &mut Walk<'_>,
    ) -> Result<Next, PlanError> {
        let planned = match state.map_err(StageError::from) {
            Ok(State::Cached(record)) if !self.damaged.contains(&stage.spec.name) => {
                self.add(stage.spec, Status::Cached, walk);
                return Ok(Next::Known(record, None));
            }
            Ok(State::Unknown { models, .. }) if !models.is_empty() => {
                Ok(LookedUp::nothing(Status::Unfetched { models }))
            }
            Ok(State::Unknown { stages, .. }) => Ok(LookedUp::nothing(Status::Waits { stages })),
            Ok(_) => match walk.load_needs(stage.spec) {
                Ok(None) => missing(stage, walk),
                Ok(Some(damaged)) => {
                    self.damaged.insert(damaged);
                    return Ok(self.start_over());
                }
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match planned {
            Ok(looked_up) => {
                self.add(stage.spec, looked_up.status, walk);
                Ok(match looked_up.output {
                    Some((record, artifacts)) => Next::Known(record, Some(artifacts)),
                    None => Next::Unknown,
                })
            }
            // What rested on it is gone from the cache by now.
            Err(StageError::Untrusted(_)) => Ok(self.start_over()),
            Err(error) => Err(PlanError::Stage {
                stage: stage.spec.name.clone(),
                error,
            }),
        }
    }

    fn start_over(&mut self) -> Next {
        self.stages.clear();
        Next::StartOver
    }

    fn add(&mut self, spec: &StageSpec, status: Status, walk: &Walk<'_>) {
        let cost = spec.stage.cost(&walk.inputs);
        let share = match &status {
            Status::Cached => 0.0,
            Status::Run { at_most, .. } => {
                *at_most as f64 / cost.cells_at_most.max(*at_most).max(1) as f64
            }
            Status::Unfetched { .. } | Status::Waits { .. } => 1.0,
        };
        let needed = spec.stage.needs().stages.into_iter();
        self.stages.push(PlannedStage {
            name: spec.name.clone(),
            kind: spec.kind.name,
            after: needed.map(|(name, _)| name.value).collect(),
            seconds: estimate::stage(spec, &walk.inputs, share, self.threads),
            status,
            cost,
        });
    }
}

/// What looking a stage's cells up has shown.
struct LookedUp {
    status: Status,
    /// What it would leave, where no cell is missing: then what later stages would do is known, too.
    output: Option<(Box<StageRecord>, Artifacts)>,
}

impl LookedUp {
    fn nothing(status: Status) -> Self {
        LookedUp {
            status,
            output: None,
        }
    }
}

/// What a stage that would run would compute.
fn missing(stage: &Visited<'_>, walk: &mut Walk<'_>) -> Result<LookedUp, StageError> {
    let mut look_up = LookUp {
        cache: walk.cache,
        inputs: &walk.inputs,
        found: CellSet::default(),
        asked: 0,
    };
    let (missing, output) = match stage.spec.stage.run(&walk.inputs, &mut look_up) {
        Ok(output) => (0, Some((Box::new(describe(&output)?), output.into()))),
        Err(StageError::Missing(missing)) => (missing, None),
        Err(error) => return Err(error),
    };
    let found = look_up.found.count();
    let most = stage.spec.stage.cost(&walk.inputs).cells_at_most;
    let status = Status::Run {
        missing,
        // What it has not asked for yet depends on what is missing.
        at_most: match missing > 0 && look_up.asked < most {
            true => most.saturating_sub(found).max(missing),
            false => missing,
        },
        reason: in_a_few_words(walk.nearest(stage)?.as_ref()),
    };
    Ok(LookedUp { status, output })
}

impl PlannedStage {
    /// Distinct cells that a run would compute for this stage at most, if nothing in the cache turns out to be damaged.
    pub(crate) fn computes_at_most(&self) -> u64 {
        match self.status {
            Status::Cached => 0,
            Status::Run { at_most, .. } => at_most,
            Status::Waits { .. } | Status::Unfetched { .. } => self.cost.cells_at_most,
        }
    }
}
