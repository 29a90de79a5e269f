//! One stage of a run: its output from the cache, or computed, stored and handed to the person.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::{Value as Json, json};

use crate::cache::{Cache, CacheError, Key, Lease};
use crate::model::Dtype;
use crate::plan::{self, StageRecord, StageSpec, StoredOutput};
use crate::stages::{Artifacts, Direction, Inputs, StageError};

use super::evaluator::CachedEvaluator;
use super::folder::RunFolder;
use super::models::LoadedModels;
use super::{Event, Options, StageReport, StageStatus};

/// What a stage is run among.
pub(super) struct Surroundings<'a> {
    pub(super) cache: &'a Cache,
    pub(super) folder: &'a mut RunFolder,
    pub(super) stop: &'a AtomicBool,
    pub(super) on_event: &'a mut dyn FnMut(Event<'_>),
}

/// What has been learned so far.
pub(super) struct State {
    lease: Lease,
    pub(super) inputs: Inputs,
    /// Content hashes of the outputs, by name of the stage.
    contents: BTreeMap<String, Key>,
    models: LoadedModels,
    /// Names of the stages that are computed again although they are cached.
    force: BTreeSet<String>,
}

impl State {
    pub(super) fn new(inputs: &Inputs, options: &Options, lease: Lease) -> Self {
        State {
            lease,
            inputs: inputs.clone(),
            contents: BTreeMap::new(),
            models: LoadedModels::new(options.device, options.prefix_bytes),
            force: options.force.iter().cloned().collect(),
        }
    }

    /// Forgets what the stages gave: it may rest on values that cannot be trusted, and what does is gone from the cache by now.
    pub(super) fn start_over(&mut self) {
        self.contents.clear();
        self.inputs.stages.clear();
    }

    /// Whether a stage that it needs has not given its output.
    pub(super) fn is_blocked(&self, spec: &StageSpec) -> bool {
        let needs = spec.stage.needs().stages;
        needs
            .iter()
            .any(|(name, _)| !self.contents.contains_key(&name.value))
    }

    pub(super) fn run_stage(
        &mut self,
        spec: &StageSpec,
        around: &mut Surroundings<'_>,
    ) -> (StageReport, Result<StageRecord, StageError>) {
        let started = Instant::now();
        let mut report = StageReport::of(spec, StageStatus::Failed);
        let output = self.output(spec, around, &mut report);
        // What cannot be handed to the person is a failure of the stage, too.
        let outcome = output.and_then(|(key, record, left)| {
            around
                .folder
                .add_stage(&spec.name, &key, &record, (&report, around.cache))
                .map_err(cache_failed)?;
            self.contents.insert(spec.name.clone(), record.content());
            self.inputs.stages.insert(spec.name.clone(), left.into());
            Ok(record)
        });
        report.seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok(_) => {}
            Err(StageError::Interrupted) => report.status = StageStatus::Interrupted,
            Err(_) => report.status = StageStatus::Failed,
        }
        (report, outcome)
    }

    /// The stage's key, record and what it left, from the cache or by running it.
    fn output(
        &mut self,
        spec: &StageSpec,
        around: &mut Surroundings<'_>,
        report: &mut StageReport,
    ) -> Result<(Key, StageRecord, Artifacts), StageError> {
        if around.stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        let parts = plan::key_parts(spec, &self.inputs, &self.contents).ok_or_else(|| {
            StageError::Internal(format!("stage `{}` runs before what it needs", spec.name))
        })?;
        let key = plan::key_of(&parts);
        let cached = around.cache.stage_record::<StageRecord>(&key);
        let cached = cached.map_err(cache_failed)?;
        let forced = self.force.contains(&spec.name);
        if let (Some(record), false) = (&cached, forced)
            && let Some(left) = plan::load_artifacts(record, around.cache)?
        {
            report.status = StageStatus::Cached;
            report.cells_cached = record.cells;
            return Ok((key, record.clone(), left));
        }
        around
            .folder
            .stage_computes(&spec.name)
            .map_err(cache_failed)?;
        // One that is not cached is just run: its cells may be what a forced run that was killed has left.
        let again = forced && cached.is_some();
        let (record, directions) = self.compute(spec, around, (parts, again), report)?;
        if let (Some(cached), true) = (&cached, forced) {
            if record.content() != cached.content() {
                return Err(StageError::NotReproduced(different_artifacts(
                    cached, &record,
                )));
            }
            report.status = StageStatus::Recomputed;
        }
        let put = around.cache.put_stage_record(&key, &record);
        put.map_err(cache_failed)?;
        let left = plan::stored_artifacts(&record, directions, around.cache);
        Ok((key, record, left))
    }

    /// Runs a stage, its cached cells computed `again` or not, and stores what it gives, but not yet its record. Also its directions.
    fn compute(
        &mut self,
        spec: &StageSpec,
        around: &mut Surroundings<'_>,
        (parts, again): (Json, bool),
        report: &mut StageReport,
    ) -> Result<(StageRecord, Vec<Direction>), StageError> {
        let started = Instant::now();
        let weights = self.weights(spec);
        let mut origin = around.folder.origin(spec);
        origin["weights"] = json!(weights);
        let mut on_event = |event: Event<'_>| {
            if let Event::Computed { done, total } = event
                && !around.folder.stage_has(done, total)
            {
                // The run has failed, and says so when it ends.
                around.stop.store(true, Ordering::Relaxed);
            }
            (around.on_event)(event);
        };
        let mut evaluator = CachedEvaluator::new(
            (around.cache, &self.lease, origin),
            &self.inputs,
            &mut self.models,
            around.stop,
            &mut on_event,
        );
        if again {
            evaluator.compute_again();
        }
        let outcome = spec.stage.run(&self.inputs, &mut evaluator);
        (report.cells_computed, report.cells_cached) = evaluator.counts();
        evaluator.check_reproduced()?;
        let mut output = outcome?;
        let packs = evaluator.packs()?;
        output.findings.extend(self.rounding(spec));
        let stored = StoredOutput::store(&output, around.cache)?;
        report.status = StageStatus::Computed;
        let record = StageRecord {
            tables: stored.tables,
            directions: stored.directions,
            findings: output.findings,
            key_parts: parts,
            seconds: started.elapsed().as_secs_f64(),
            cells: report.cells_computed + report.cells_cached,
            packs,
            weights,
            stage: spec.name.clone(),
            created: jiff::Timestamp::now().to_string(),
        };
        Ok((record, output.directions))
    }

    /// The hashes of the weight files that a stage's models are read from.
    fn weights(&self, spec: &StageSpec) -> Vec<Key> {
        let needs = spec.stage.needs().models.into_iter();
        let models = needs.filter_map(|name| self.inputs.models.get(&name.value));
        let hashes: BTreeSet<Key> = models
            .flat_map(|model| model.weight_hashes().iter().copied().map(Key::from))
            .collect();
        hashes.into_iter().collect()
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
}

/// Says which artifacts of a stage are not the same as before.
fn different_artifacts(cached: &StageRecord, now: &StageRecord) -> String {
    let tables = now.tables.iter().filter(|table| {
        let before = cached.tables.iter().find(|t| t.name == table.name);
        before.is_none_or(|before| before.csv != table.csv)
    });
    let named = |table: &plan::TableRecord| match table.name.as_str() {
        "" => "its main table".to_string(),
        name => format!("table `{name}`"),
    };
    let mut different: Vec<String> = tables.map(named).collect();
    let directions = now.directions.iter().zip(&cached.directions);
    let changed = directions.filter(|((now, _), (before, _))| now.key != before.key);
    different.extend(changed.map(|((now, _), _)| format!("direction `{}`", now.file)));
    format!(
        "computed again, its cells are the same, but not what it made of them: {}; the cached output is kept. Please report this: the \
         stage's code has changed and its version has not",
        different.join(", ")
    )
}

fn cache_failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}
