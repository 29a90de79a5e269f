//! Computing cells on a model, and committing them while that goes on.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value as Json;

use crate::cache::{self, Cache, Key};
use crate::model::{Cell, ModelHandle, Provenance, Step};
use crate::plan::cached_value;
use crate::run::Event;
use crate::stages::StageError;

use super::batch::Batch;
use super::{CachedEvaluator, Result, Take, failed};

/// Cells are committed as soon as one is there and the last commit, or the beginning of the work, is this long ago: what a kill can cost.
const COMMIT_AFTER: Duration = Duration::from_secs(2);
/// Or when their values take so many bytes, which is what they may take in memory.
const COMMIT_BYTES: usize = 32 << 20;

impl CachedEvaluator<'_> {
    /// Computes those of some cells of a batch that are missing; fewer where another run asks for a share. `done` of `total` were there
    /// before.
    pub(super) fn compute(
        &mut self,
        model: &ModelHandle,
        batch: &mut Batch<'_>,
        places: &[usize],
        (mut done, total): (usize, usize),
        take: Take<'_>,
    ) -> Result<()> {
        let places: Vec<usize> = places
            .iter()
            .copied()
            .filter(|&at| batch.is_missing(at))
            .collect();
        let Some(&first) = places.first() else {
            return Ok(());
        };
        let can_share = places
            .iter()
            .any(|&at| batch.prompt(at) != batch.prompt(first));
        if !self.models.holds(model) {
            (self.on_event)(Event::Loading {
                model: model.name(),
            });
        }
        let provenance = self.provenance();
        let evaluator = self.models.get(model)?;
        let chosen = batch.chosen(places);
        let mut pending = Pending::new(self.cache, provenance);
        let (on_event, stop, lease) = (&mut self.on_event, self.stop, self.lease);
        // What is computed again is nobody else's.
        let shares = self.again.is_none();
        let (cache, again) = (self.cache, &mut self.again);
        let mut problem = None;
        let outcome = evaluator.evaluate(&chosen, &mut |step| {
            match step {
                Step::Prefilled { done, total } => {
                    // Not for those who ask for a share: what is prefilled would be lost, and they get it after the first values.
                    on_event(Event::Prefilled { done, total });
                    let is_over = stop.load(Ordering::Relaxed) || shares && lease.is_overruled();
                    return stop_if(is_over);
                }
                Step::Values(values) => {
                    for (number, value) in values {
                        let at = chosen.places[number];
                        let key = batch.key(at);
                        let bytes = value.to_bytes();
                        let is_new = match again.as_mut() {
                            None => Ok(true),
                            Some(again) => again.compare(cache, (model, &batch.cell(at)), &bytes),
                        };
                        match is_new {
                            Ok(true) => pending.push(key, &bytes),
                            Ok(false) => {}
                            Err(error) => problem = Some(error),
                        }
                        done += batch.settle(at, value, take);
                    }
                    on_event(Event::Computed { done, total });
                    if let Err(error) = pending.commit_if_due() {
                        problem = Some(error);
                    }
                    if problem.is_some() {
                        return ControlFlow::Break(());
                    }
                }
            }
            let is_asked =
                shares && (can_share && lease.is_asked_to_share() || lease.is_overruled());
            stop_if(stop.load(Ordering::Relaxed) || is_asked)
        });
        // What was computed is kept even where the rest failed.
        let committed = pending.commit();
        self.mark_computed(batch, &chosen.places)?;
        if let Some(error) = problem {
            return Err(error);
        }
        let flow = outcome?;
        committed?;
        match flow {
            ControlFlow::Break(()) if self.stop.load(Ordering::Relaxed) => {
                Err(StageError::Interrupted)
            }
            _ => Ok(()),
        }
    }

    /// What the packs say of where their cells come from.
    fn provenance(&self) -> Json {
        let here = Provenance::here(self.models.device());
        let mut provenance = serde_json::to_value(here).unwrap_or_default();
        if let (Some(all), Some(origin)) = (provenance.as_object_mut(), self.origin.as_object()) {
            all.extend(origin.clone());
        }
        provenance
    }

    /// Counts those of the cells that have a value now and are in the cache.
    fn mark_computed(&mut self, batch: &Batch<'_>, places: &[usize]) -> Result<()> {
        for &at in places.iter().filter(|&&at| !batch.is_missing(at)) {
            let place = self.cache.cells().place(&batch.key(at)).map_err(failed)?;
            if let Some(place) = place {
                self.computed.insert(place);
            }
        }
        Ok(())
    }
}

fn stop_if(is_over: bool) -> ControlFlow<()> {
    match is_over {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

impl super::Comparison {
    /// Compares a value that was computed again with what is cached; whether nothing is.
    fn compare(
        &mut self,
        cache: &Cache,
        (model, cell): (&ModelHandle, &Cell),
        bytes: &[u8],
    ) -> Result<bool> {
        let cached = cached_value(cache, cell, &cell.key().into(), model.config())?;
        let Some((_, cached)) = cached else {
            return Ok(true);
        };
        self.compared += 1;
        self.different += u64::from(cached.to_bytes() != bytes);
        Ok(false)
    }
}

/// Cells that are computed but not yet committed.
struct Pending<'a> {
    cache: &'a Cache,
    provenance: Json,
    batch: cache::Batch,
    /// When the work on them began.
    began: Instant,
}

impl<'a> Pending<'a> {
    fn new(cache: &'a Cache, provenance: Json) -> Self {
        Pending {
            cache,
            provenance,
            batch: cache::Batch::default(),
            began: Instant::now(),
        }
    }

    fn push(&mut self, key: Key, value: &[u8]) {
        self.batch.push(key, value);
    }

    fn commit_if_due(&mut self) -> Result<()> {
        let is_due =
            self.began.elapsed() >= COMMIT_AFTER || self.batch.value_bytes() >= COMMIT_BYTES;
        match is_due && !self.batch.is_empty() {
            true => self.commit(),
            false => Ok(()),
        }
    }

    fn commit(&mut self) -> Result<()> {
        self.provenance["seconds"] = self.began.elapsed().as_secs_f64().into();
        self.provenance["created"] = jiff::Timestamp::now().to_string().into();
        self.began = Instant::now();
        let committed = self.cache.cells().commit(&self.batch, &self.provenance);
        self.batch.clear();
        committed.map_err(failed)
    }
}
