//! What each stage of a study would do now.

use std::collections::{BTreeMap, HashSet};

use crate::cache::{Cache, Key};
use crate::model::{Cell, Value};
use crate::stages::{Cost, Evaluate, Inputs, StageError};

use super::estimate::Estimate;
use super::key::stage_key;
use super::record::{StageRecord, load_output};
use super::resolve::PlanError;
use super::study::{StageSpec, Study};

/// What a stage would do.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Its output is in the cache.
    Cached,
    /// It would run: this many cells are missing in its next round, of which nothing or more is already there.
    Run {
        /// Cells that are known to be missing.
        missing: u64,
        /// Why, in a few words.
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
pub struct PlannedStage {
    /// Name of the stage.
    pub name: String,
    /// Name of its kind.
    pub kind: &'static str,
    /// Names of the stages it refers to.
    pub after: Vec<String>,
    /// What it would do.
    pub status: Status,
    /// What it costs at most.
    pub cost: Cost,
    /// How long that would take.
    pub estimate: Estimate,
}

/// A study's stages and what each would do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// In the order of running.
    pub stages: Vec<PlannedStage>,
    /// Time for the prefills, if any stage has to compute.
    pub prefill: Estimate,
}

/// Looks values up and computes none.
struct LookUp<'a>(&'a Cache);

impl Evaluate for LookUp<'_> {
    fn evaluate(&mut self, cells: &[Cell]) -> Result<Vec<Value>, StageError> {
        let keys: Vec<Key> = cells.iter().map(|cell| Key::from(cell.key())).collect();
        let failed = |error: crate::cache::CacheError| StageError::Cache(error.to_string());
        let missing = self.0.cells().missing(&keys).map_err(failed)?;
        if !missing.is_empty() {
            let distinct: HashSet<Key> = missing.into_iter().collect();
            return Err(StageError::Missing(distinct.len() as u64));
        }
        keys.iter()
            .map(|key| {
                let bytes = self.0.cells().get(key).map_err(failed)?;
                bytes
                    .and_then(|b| Value::from_bytes(&b))
                    .ok_or(StageError::Missing(1))
            })
            .collect()
    }
}

impl Plan {
    /// Walks the study's stages. `inputs` come from [`super::resolve`].
    ///
    /// # Errors
    /// A cache that cannot be read, or a stage whose inputs already show that it cannot run.
    pub fn new(
        study: &Study,
        inputs: &Inputs,
        cache: &Cache,
        threads: usize,
    ) -> Result<Self, PlanError> {
        let mut inputs = inputs.clone();
        let mut outputs: BTreeMap<String, Key> = BTreeMap::new();
        let mut stages = Vec::new();
        for spec in &study.stages {
            let fail = |error| PlanError::Stage {
                stage: spec.name.clone(),
                error,
            };
            let after: Vec<String> = spec
                .stage
                .needs()
                .stages
                .into_iter()
                .map(|(n, _)| n.value)
                .collect();
            let absent = absent_models(spec, &inputs);
            let status = match stage_key(spec, &inputs, &outputs) {
                None if !absent.is_empty() => Status::Unfetched { models: absent },
                None => Status::Waits {
                    stages: after
                        .iter()
                        .filter(|n| !outputs.contains_key(*n))
                        .cloned()
                        .collect(),
                },
                Some(key) => match cached(&key, cache).map_err(fail)? {
                    Some((record, output)) => {
                        outputs.insert(spec.name.clone(), record.content());
                        inputs.stages.insert(spec.name.clone(), output.into());
                        Status::Cached
                    }
                    None => would_run(spec.stage.run(&inputs, &mut LookUp(cache))).map_err(fail)?,
                },
            };
            let cost = spec.stage.cost(&inputs);
            let missing = match &status {
                Status::Cached => 0,
                _ => cost.cells_at_most,
            };
            stages.push(PlannedStage {
                name: spec.name.clone(),
                kind: spec.kind.name,
                after,
                status,
                cost,
                estimate: Estimate::of_cells(spec, &inputs, missing, threads),
            });
        }
        let idle = stages.iter().all(|s| s.status == Status::Cached);
        let prefill = if idle {
            Estimate::default()
        } else {
            Estimate::of_prefills(&inputs, threads)
        };
        Ok(Plan { stages, prefill })
    }

    /// Full forward passes that a script would make for all stages.
    pub fn equivalent_forward_passes(&self) -> u64 {
        self.stages
            .iter()
            .map(|s| s.cost.equivalent_forward_passes)
            .sum()
    }

    /// Seconds that the missing work would take, roughly.
    pub fn seconds(&self) -> f64 {
        self.prefill.seconds + self.stages.iter().map(|s| s.estimate.seconds).sum::<f64>()
    }
}

fn absent_models(spec: &StageSpec, inputs: &Inputs) -> Vec<String> {
    let needed = spec.stage.needs().models.into_iter().map(|name| name.value);
    needed
        .filter(|name| !inputs.models.contains_key(name))
        .collect()
}

fn cached(
    key: &Key,
    cache: &Cache,
) -> Result<Option<(StageRecord, crate::stages::Output)>, StageError> {
    let record = cache
        .stage_record::<StageRecord>(key)
        .map_err(|e| StageError::Cache(e.to_string()))?;
    let Some(record) = record else {
        return Ok(None);
    };
    Ok(load_output(&record, cache)?.map(|output| (record, output)))
}

fn would_run(outcome: Result<crate::stages::Output, StageError>) -> Result<Status, StageError> {
    match outcome {
        Ok(_) => Ok(Status::Run {
            missing: 0,
            reason: "its table is not in the cache; all of its cells are".to_string(),
        }),
        Err(StageError::Missing(missing)) => Ok(Status::Run {
            missing,
            reason: format!("{missing} of its cells are not in the cache"),
        }),
        Err(error) => Err(error),
    }
}
