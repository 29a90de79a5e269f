//! What each stage of a study would do now.

use std::collections::{BTreeMap, HashSet};

use crate::cache::{Cache, CacheError, Key};
use crate::model::{Cell, Value};
use crate::stages::{Cost, Evaluate, Inputs, Output, StageError};

use super::estimate::Estimate;
use super::key::{key_of, key_parts};
use super::record::{StageRecord, load_output};
use super::resolve::PlanError;
use super::study::{StageSpec, Study};
use super::why::reason;

/// What a stage would do.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// Its output is in the cache.
    Cached,
    /// It would run, and what it needs is there.
    Run {
        /// Cells that are missing in its next round.
        missing: u64,
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
struct LookUp<'a> {
    cache: &'a Cache,
    /// Distinct cells found so far.
    found: HashSet<Key>,
}

impl Evaluate for LookUp<'_> {
    fn evaluate(&mut self, cells: &[Cell]) -> Result<Vec<Value>, StageError> {
        let keys: Vec<Key> = cells.iter().map(|cell| Key::from(cell.key())).collect();
        let missing = self.cache.cells().missing(&keys).map_err(cache_failed)?;
        let missing: HashSet<Key> = missing.into_iter().collect();
        self.found
            .extend(keys.iter().filter(|key| !missing.contains(*key)));
        if !missing.is_empty() {
            return Err(StageError::Missing(missing.len() as u64));
        }
        keys.iter()
            .map(|key| {
                let bytes = self.cache.cells().get(key).map_err(cache_failed)?;
                bytes
                    .and_then(|b| Value::from_bytes(&b))
                    .ok_or(StageError::Missing(1))
            })
            .collect()
    }
}

impl Plan {
    /// Walks the study's stages. `inputs` come from [`super::open_study`].
    ///
    /// # Errors
    /// A cache that cannot be read, or a stage whose inputs already show that it cannot run.
    pub fn new(
        study: &Study,
        inputs: &Inputs,
        cache: &Cache,
        threads: usize,
    ) -> Result<Self, PlanError> {
        let mut walk = Walk {
            inputs: inputs.clone(),
            outputs: BTreeMap::new(),
            records: None,
            cache,
        };
        let mut stages = Vec::new();
        for spec in &study.stages {
            let (status, found) = walk.status(spec).map_err(|error| PlanError::Stage {
                stage: spec.name.clone(),
                error,
            })?;
            let cost = spec.stage.cost(&walk.inputs);
            let share = match &status {
                Status::Cached => 0.0,
                _ => 1.0 - found as f64 / cost.cells_at_most.max(found).max(1) as f64,
            };
            let needed = spec.stage.needs().stages.into_iter();
            stages.push(PlannedStage {
                name: spec.name.clone(),
                kind: spec.kind.name,
                after: needed.map(|(name, _)| name.value).collect(),
                estimate: Estimate::of_stage(spec, &walk.inputs, share, threads),
                status,
                cost,
            });
        }
        let idle = stages.iter().all(|s| s.status == Status::Cached);
        let prefill = if idle {
            Estimate::default()
        } else {
            Estimate::of_prefills(inputs, threads)
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

/// What has been learned on the way through the graph.
struct Walk<'a> {
    inputs: Inputs,
    /// Content hashes of the outputs that are cached, by name of the stage.
    outputs: BTreeMap<String, Key>,
    /// Every stage record of the cache, read when first asked for.
    records: Option<Vec<StageRecord>>,
    cache: &'a Cache,
}

impl Walk<'_> {
    /// What a stage would do, and how many distinct cells of it were found before the first that are missing.
    fn status(&mut self, spec: &StageSpec) -> Result<(Status, u64), StageError> {
        let Some(parts) = key_parts(spec, &self.inputs, &self.outputs) else {
            return Ok((self.waits(spec), 0));
        };
        if let Some((record, output)) = cached(&key_of(&parts), self.cache)? {
            self.outputs.insert(spec.name.clone(), record.content());
            self.inputs.stages.insert(spec.name.clone(), output.into());
            return Ok((Status::Cached, 0));
        }
        let mut look_up = LookUp {
            cache: self.cache,
            found: HashSet::new(),
        };
        let missing = match spec.stage.run(&self.inputs, &mut look_up) {
            Ok(_) => 0,
            Err(StageError::Missing(missing)) => missing,
            Err(error) => return Err(error),
        };
        let reason = reason(&parts, self.records()?);
        Ok((Status::Run { missing, reason }, look_up.found.len() as u64))
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

fn cache_failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}

fn cached(key: &Key, cache: &Cache) -> Result<Option<(StageRecord, Output)>, StageError> {
    let record = cache
        .stage_record::<StageRecord>(key)
        .map_err(cache_failed)?;
    let Some(record) = record else {
        return Ok(None);
    };
    Ok(load_output(&record, cache)?.map(|output| (record, output)))
}
