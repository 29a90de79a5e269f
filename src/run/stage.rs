//! The stages of a run: the output of each from the cache, or computed, stored and handed to the person.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;

use crate::cache::{Cache, CacheError, CellSet, Key, Lease};
use crate::plan::{self, ModelParts, Next, StageRecord, StageSpec, State, Visited, Walk};
use crate::stages::{Artifacts, Direction, Inputs, Output, StageError};

use super::engine::Engine;
use super::evaluator::CachedEvaluator;
use super::folder::RunFolder;
use super::{Event, Options, RunReport, StageReport, StageStatus};

/// Runs the stages that a walk comes to.
pub(super) struct Runner<'a> {
    pub(super) lease: &'a Lease,
    pub(super) engine: &'a mut dyn Engine,
    pub(super) folder: &'a mut RunFolder,
    pub(super) options: &'a Options,
    pub(super) stop: &'a AtomicBool,
    pub(super) on_event: &'a mut dyn FnMut(Event<'_>),
    pub(super) report: &'a mut RunReport,
    /// What each stage has computed in this run.
    pub(super) computed: Vec<(String, CellSet)>,
}

impl Runner<'_> {
    pub(super) fn visit(
        &mut self,
        stage: Visited<'_>,
        state: Result<State, CacheError>,
        walk: &mut Walk<'_>,
    ) -> Result<Next, Infallible> {
        let spec = stage.spec;
        if matches!(&state, Ok(State::Unknown { stages, .. }) if !stages.is_empty()) {
            self.ended(StageReport::of(spec, StageStatus::Blocked), &[]);
            return Ok(Next::Unknown);
        }
        (self.on_event)(Event::StageStarted { name: &spec.name });
        let mut report = StageReport::of(spec, StageStatus::Failed);
        let outcome = self.run_stage(&stage, state, walk, &mut report);
        Ok(match outcome {
            Ok((record, artifacts)) => {
                self.ended(report, &record.findings);
                let passes = spec.stage.cost(&walk.inputs).equivalent_forward_passes;
                let all = &mut self.report.equivalent_forward_passes;
                *all = all.saturating_add(passes);
                Next::Known(record, Some(artifacts))
            }
            // What is wrong has been moved aside, so that starting over comes to an end.
            Err(StageError::Untrusted(_)) => {
                *self.report = RunReport::default();
                self.folder.start_over();
                Next::StartOver
            }
            Err(error) => {
                if let StageError::Interrupted = error {
                    report.status = StageStatus::Interrupted;
                }
                self.ended(report, &[]);
                let ends = !self.options.keep_going
                    || matches!(error, StageError::Interrupted)
                    || self.folder.disk.check_is_there().is_err();
                self.report.failures.push((spec.name.clone(), error));
                match ends {
                    true => Next::End,
                    false => Next::Unknown,
                }
            }
        })
    }

    fn ended(&mut self, report: StageReport, findings: &[String]) {
        (self.on_event)(Event::StageEnded {
            report: &report,
            findings,
        });
        self.report.stages.push(report);
    }

    /// The stage's record and what it left, from the cache or by running it; handed to the person.
    fn run_stage(
        &mut self,
        stage: &Visited<'_>,
        state: Result<State, CacheError>,
        walk: &Walk<'_>,
        report: &mut StageReport,
    ) -> Result<(Box<StageRecord>, Artifacts), StageError> {
        let started = Instant::now();
        let key = plan::key_of(&stage.key_parts);
        // What cannot be handed to the person is a failure of the stage, too.
        let outcome = self.output(stage, (&key, state), walk, report);
        report.seconds = started.elapsed().as_secs_f64();
        match &outcome {
            Ok((record, _)) => self.folder.add_stage(&key, record, report),
            Err(_) => report.status = StageStatus::Failed,
        }
        outcome
    }

    fn output(
        &mut self,
        stage: &Visited<'_>,
        (key, state): (&Key, Result<State, CacheError>),
        walk: &Walk<'_>,
        report: &mut StageReport,
    ) -> Result<(Box<StageRecord>, Artifacts), StageError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        let name = &stage.spec.name;
        let cached = match state? {
            State::Cached(record) | State::Incomplete(record) => Some(record),
            State::Missing => None,
            State::Unknown { .. } => {
                let message = format!("stage `{name}` runs before what it needs");
                return Err(StageError::Internal(message));
            }
        };
        let forced = self.options.force.contains(name);
        if let (Some(record), false) = (&cached, forced)
            && let Some(artifacts) = self.take_cached(name, record, walk.cache)?
        {
            report.status = StageStatus::Cached;
            report.cells_cached = record.cells;
            return Ok((record.clone(), artifacts));
        }
        self.folder.stage_computes(name)?;
        // One that is not cached is just run: its cells may be what a forced run that was killed has left.
        let recompute = forced && cached.is_some();
        let (record, directions) = self.compute(stage, walk, recompute, report)?;
        report.status = StageStatus::Computed;
        if let (Some(cached), true) = (&cached, forced) {
            if record.content() != cached.content() {
                return Err(StageError::NotReproduced(different_artifacts(
                    cached, &record,
                )));
            }
            report.status = StageStatus::Recomputed;
        }
        walk.cache.put_stage_record(key, &record)?;
        if !self.folder.copy_artifacts(name, &record, walk.cache)? {
            return Err(StageError::Cache(
                "what it has just stored is not in the cache any more; run the same command again"
                    .to_string(),
            ));
        }
        let artifacts = plan::stored_artifacts(&record, directions, walk.cache);
        Ok((Box::new(record), artifacts))
    }

    /// What a cached stage left, handed to the person; none where an artifact of it is gone or damaged. Tables are checked as they are copied.
    fn take_cached(
        &mut self,
        name: &str,
        record: &StageRecord,
        cache: &Cache,
    ) -> Result<Option<Artifacts>, StageError> {
        match plan::is_incomplete(record, cache)
            || !self.folder.copy_artifacts(name, record, cache)?
        {
            true => Ok(None),
            false => plan::load_directions(record, cache),
        }
    }

    /// Runs a stage, its cached cells, too, with `recompute`, and stores what it gives, but not yet its record. Also its directions.
    fn compute(
        &mut self,
        stage: &Visited<'_>,
        walk: &Walk<'_>,
        recompute: bool,
        report: &mut StageReport,
    ) -> Result<(StageRecord, Vec<Direction>), StageError> {
        let started = Instant::now();
        let weights = weights(stage.spec, &walk.inputs);
        let (mut output, packs) = self.evaluate(stage.spec, walk, (recompute, &weights), report)?;
        output.findings.extend(stage.spec.rounding(&walk.inputs));
        let stored = plan::store(&output, walk.cache)?;
        let record = StageRecord {
            findings: output.findings,
            key_parts: stage.key_parts.clone(),
            seconds: started.elapsed().as_secs_f64(),
            cells: report.cells_computed + report.cells_cached,
            packs,
            weights,
            models: models(stage.spec, &walk.inputs),
            stage: stage.spec.name.clone(),
            created: jiff::Timestamp::now().to_string(),
            ..stored
        };
        Ok((record, output.directions))
    }

    /// What a stage gives, and the packs that hold its cells.
    fn evaluate(
        &mut self,
        spec: &StageSpec,
        walk: &Walk<'_>,
        (recompute, weights): (bool, &[Key]),
        report: &mut StageReport,
    ) -> Result<(Output, Vec<Key>), StageError> {
        let mut origin = self.folder.origin(spec);
        origin["weights"] = json!(weights);
        let mut on_event = |event: Event<'_>| {
            if let Event::Computed { done, total } = event
                && !self.folder.stage_has(done, total)
            {
                // The run has failed, and says so when it ends.
                self.stop.store(true, Ordering::Relaxed);
            }
            (self.on_event)(event);
        };
        let mut evaluator = CachedEvaluator::new(
            (walk.cache, self.lease),
            &origin,
            &mut *self.engine,
            self.stop,
            &mut on_event,
        );
        if recompute {
            evaluator.values.compare();
        }
        let outcome = spec.stage.run(&walk.inputs, &mut evaluator);
        (report.cells_computed, report.cells_cached) = evaluator.values.counts();
        evaluator.values.check_reproduced()?;
        let packs = evaluator.values.packs()?;
        let (computed, shared) = evaluator.values.into_computed(&self.computed);
        self.computed.push((spec.name.clone(), computed));
        report.cells_shared = shared;
        Ok((outcome?, packs))
    }
}

/// The hashes of the weight files that a stage's models are read from.
fn weights(spec: &StageSpec, inputs: &Inputs) -> Vec<Key> {
    let needs = spec.stage.needs().models.into_iter();
    let models = needs.filter_map(|name| inputs.models.get(&name.value));
    let hashes: BTreeSet<Key> = models
        .flat_map(|model| model.weight_hashes.iter().copied().map(Key::from))
        .collect();
    hashes.into_iter().collect()
}

/// What a stage's models are made of.
fn models(spec: &StageSpec, inputs: &Inputs) -> BTreeMap<String, ModelParts> {
    let needs = spec.stage.needs().models.into_iter();
    let models = needs.filter_map(|name| inputs.models.get(&name.value));
    let named = models.map(|model| {
        (
            model.fingerprint.to_hex().to_string(),
            ModelParts::of(model),
        )
    });
    named.collect()
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
    let tensors = now.tensors.iter().zip(&cached.tensors);
    let changed = tensors.filter(|(now, before)| now.key != before.key);
    different.extend(changed.map(|(now, _)| format!("arrays `{}`", now.file)));
    format!(
        "computed again, its cells are the same, but not what it made of them: {}; the cached output is kept. Please report this: the \
         stage's code has changed and its version has not",
        different.join(", ")
    )
}
