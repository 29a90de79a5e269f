//! What each stage of a study would do now.

use std::collections::{BTreeMap, BTreeSet};

use crate::cache::{Cache, CacheError, CellSet, Key};
use crate::model::{Cells, Value};
use crate::stages::{Cost, Evaluate, Inputs, StageError};

use super::estimate::Estimate;
use super::explain::complete_record;
use super::key::{key_of, key_parts, known_parts};
use super::record::{StageRecord, load_artifacts};
use super::resolve::PlanError;
use super::study::{StageSpec, Study};
use super::trust::cached_value;
use super::why::{in_a_few_words, nearest};

/// What a stage would do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Status {
    /// Its output is in the cache.
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
        /// Names of those models.
        models: Vec<String>,
    },
    /// It waits for other stages, whose output decides its cells.
    Waits {
        /// Names of those stages.
        stages: Vec<String>,
    },
}

/// One line of a plan.
#[derive(Clone, Debug)]
pub(crate) struct PlannedStage {
    /// Name of the stage.
    pub(crate) name: String,
    /// Name of its kind.
    pub(crate) kind: &'static str,
    /// Names of the stages it refers to.
    pub(crate) after: Vec<String>,
    /// What it would do.
    pub(crate) status: Status,
    /// What it costs at most.
    pub(crate) cost: Cost,
    /// How long that would take.
    pub(crate) estimate: Estimate,
}

/// A study's stages and what each would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of running.
    pub(crate) stages: Vec<PlannedStage>,
    /// Time for the prefills, if any stage has to compute.
    pub(crate) prefill: Estimate,
}

/// Looks values up and computes none.
struct LookUp<'a> {
    cache: &'a Cache,
    inputs: &'a Inputs,
    /// Distinct cells found so far.
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
            match store.place(&key).map_err(cache_failed)? {
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
            let model = models.find(|model| model.fingerprint() == cell.model);
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
        let mut damaged = BTreeSet::new();
        // An output that turns out to be damaged when it is needed makes its stage one that would run.
        loop {
            let mut walk = Walk::new(inputs, cache, &damaged);
            match walk.stages(study, threads) {
                Ok(stages) => {
                    let planned = study.stages.iter().zip(&stages);
                    let would_run = planned
                        .filter(|(_, planned)| planned.computes_at_most() > 0)
                        .map(|(spec, _)| spec);
                    let prefill = Estimate::of_prefills(would_run, inputs, threads);
                    return Ok(Plan { stages, prefill });
                }
                Err(Stop::Damaged(stage)) => drop(damaged.insert(stage)),
                // What rested on it is gone from the cache by now.
                Err(Stop::Failed(PlanError::Stage {
                    error: StageError::Untrusted(_),
                    ..
                })) => {}
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
    }

    /// Full forward passes that a script would make for all stages.
    pub(crate) fn equivalent_forward_passes(&self) -> u64 {
        self.stages
            .iter()
            .map(|s| s.cost.equivalent_forward_passes)
            .fold(0, u64::saturating_add)
    }

    /// Seconds that the missing work would take, roughly.
    pub fn seconds(&self) -> f64 {
        self.prefill.seconds + self.stages.iter().map(|s| s.estimate.seconds).sum::<f64>()
    }
}

/// Why a walk ended early.
enum Stop {
    /// The output of this stage is not as its record says.
    Damaged(String),
    Failed(PlanError),
}

/// What has been learned on the way through the graph.
struct Walk<'a> {
    inputs: Inputs,
    /// Content hashes of the outputs that are cached, by name of the stage.
    outputs: BTreeMap<String, Key>,
    /// The records of the stages that are cached.
    cached: BTreeMap<String, StageRecord>,
    /// Stages whose output is not to be had, whatever their record says.
    damaged: &'a BTreeSet<String>,
    /// Every stage record of the cache, read when first asked for.
    records: Option<Vec<StageRecord>>,
    cache: &'a Cache,
}

impl<'a> Walk<'a> {
    fn new(inputs: &Inputs, cache: &'a Cache, damaged: &'a BTreeSet<String>) -> Self {
        Walk {
            inputs: inputs.clone(),
            outputs: BTreeMap::new(),
            cached: BTreeMap::new(),
            damaged,
            records: None,
            cache,
        }
    }

    fn stages(&mut self, study: &Study, threads: usize) -> Result<Vec<PlannedStage>, Stop> {
        let mut stages = Vec::new();
        for spec in &study.stages {
            let cost = spec.stage.cost(&self.inputs);
            let failed = |error| {
                Stop::Failed(PlanError::Stage {
                    stage: spec.name.clone(),
                    error,
                })
            };
            let (status, found) = match self.known_status(spec).map_err(failed)? {
                Some(status) => (status, 0),
                None => {
                    self.provide(spec, failed)?;
                    self.missing(spec, cost).map_err(failed)?
                }
            };
            let share = match &status {
                Status::Cached => 0.0,
                _ => 1.0 - found as f64 / cost.cells_at_most.max(found).max(1) as f64,
            };
            let needed = spec.stage.needs().stages.into_iter();
            stages.push(PlannedStage {
                name: spec.name.clone(),
                kind: spec.kind.name,
                after: needed.map(|(name, _)| name.value).collect(),
                estimate: Estimate::of_stage(spec, &self.inputs, share, threads),
                status,
                cost,
            });
        }
        Ok(stages)
    }

    /// What a stage would do; none for one that would run, since its cells must be looked up then.
    fn known_status(&mut self, spec: &StageSpec) -> Result<Option<Status>, StageError> {
        let Some(parts) = key_parts(spec, &self.inputs, &self.outputs) else {
            return Ok(Some(self.waits(spec)));
        };
        if self.damaged.contains(&spec.name) {
            return Ok(None);
        }
        let record = complete_record(&key_of(&parts), self.cache).map_err(cache_failed)?;
        Ok(record.map(|record| {
            self.outputs.insert(spec.name.clone(), record.content());
            self.cached.insert(spec.name.clone(), record);
            Status::Cached
        }))
    }

    /// Provides what the stages left that a stage needs.
    fn provide(
        &mut self,
        spec: &StageSpec,
        failed: impl Fn(StageError) -> Stop,
    ) -> Result<(), Stop> {
        for (name, _) in spec.stage.needs().stages {
            let name = name.value;
            let Some(record) = self.cached.get(&name) else {
                continue;
            };
            if !self.inputs.stages.contains_key(&name) {
                let left = load_artifacts(record, self.cache).map_err(&failed)?;
                let left = left.ok_or_else(|| Stop::Damaged(name.clone()))?;
                self.inputs.stages.insert(name, left.into());
            }
        }
        Ok(())
    }

    /// What a stage that would run would compute, and how many distinct cells were found before the first that are missing.
    fn missing(&mut self, spec: &StageSpec, cost: Cost) -> Result<(Status, u64), StageError> {
        let mut look_up = LookUp {
            cache: self.cache,
            inputs: &self.inputs,
            found: CellSet::default(),
            asked: 0,
        };
        let missing = match spec.stage.run(&self.inputs, &mut look_up) {
            Ok(_) => 0,
            Err(StageError::Missing(missing)) => missing,
            Err(error) => return Err(error),
        };
        let found = look_up.found.count();
        // What it has not asked for yet depends on what is missing.
        let asks_for_more = missing > 0 && look_up.asked < cost.cells_at_most;
        let at_most = match asks_for_more {
            true => cost.cells_at_most.saturating_sub(found).max(missing),
            false => missing,
        };
        let parts = known_parts(spec, &self.inputs, &self.outputs);
        let nearest = nearest(spec, &parts, self.records()?);
        let status = Status::Run {
            missing,
            at_most,
            reason: in_a_few_words(nearest.as_ref()),
        };
        Ok((status, found))
    }

    fn waits(&self, spec: &StageSpec) -> Status {
        let needs = spec.stage.needs();
        let models = needs.models.into_iter().map(|name| name.value);
        let models: Vec<String> = models
            .filter(|name| !self.inputs.models.contains_key(name))
            .collect();
        if !models.is_empty() {
            return Status::Unfetched { models };
        }
        let stages = needs.stages.into_iter().map(|(name, _)| name.value);
        Status::Waits {
            stages: stages
                .filter(|name| !self.outputs.contains_key(name))
                .collect(),
        }
    }

    fn records(&mut self) -> Result<&[StageRecord], StageError> {
        if self.records.is_none() {
            let records = self.cache.stage_records().map_err(cache_failed)?;
            self.records = Some(records);
        }
        Ok(self.records.as_deref().unwrap_or_default())
    }
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

fn cache_failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}
