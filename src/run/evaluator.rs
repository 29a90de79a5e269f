//! Answers a stage's cells: from the cache where they are, from a model where they are not, committing as it goes.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cache::{Cache, CacheError, Key, Lease};
use crate::model::{Cell, ModelHandle, Provenance, Step, Value};
use crate::stages::{Evaluate, Inputs, StageError};

use super::Event;
use super::models::LoadedModels;

/// Cells are committed when the oldest that is not has waited this long: what a kill can cost.
const COMMIT_AFTER: Duration = Duration::from_secs(2);
/// How often a run that waits for others looks for what they have committed.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An evaluator for one stage of a run.
pub(super) struct CachedEvaluator<'a> {
    cache: &'a Cache,
    lease: &'a Lease,
    /// What is computing: stage, kind and run, for the packs' provenance.
    origin: serde_json::Value,
    models_by_fingerprint: HashMap<blake3::Hash, Arc<ModelHandle>>,
    models: &'a mut LoadedModels,
    stop: &'a AtomicBool,
    on_event: &'a mut dyn FnMut(Event<'_>),
    computed: HashSet<Key>,
    found: HashSet<Key>,
    /// What was cached, where it is computed again to be compared.
    again: Option<Comparison>,
}

/// Cells that are computed again, against what the cache has.
#[derive(Default)]
struct Comparison {
    cached: HashMap<Key, Value>,
    different: u64,
}

fn failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}

impl<'a> CachedEvaluator<'a> {
    pub(super) fn new(
        (cache, lease, origin): (&'a Cache, &'a Lease, serde_json::Value),
        inputs: &Inputs,
        models: &'a mut LoadedModels,
        stop: &'a AtomicBool,
        on_event: &'a mut dyn FnMut(Event<'_>),
    ) -> Self {
        CachedEvaluator {
            cache,
            lease,
            origin,
            models_by_fingerprint: inputs
                .models
                .values()
                .map(|m| (m.fingerprint(), Arc::clone(m)))
                .collect(),
            models,
            stop,
            on_event,
            computed: HashSet::new(),
            found: HashSet::new(),
            again: None,
        }
    }

    /// Computes every cell from here on, and compares those that are cached. What is cached stays as it is.
    pub(super) fn compute_again(&mut self) {
        self.again = Some(Comparison::default());
    }

    /// Fails where a cell that was computed again is not what was cached, to the bit.
    pub(super) fn check_reproduced(&self) -> Result<(), StageError> {
        match &self.again {
            Some(again) if again.different > 0 => Err(StageError::NotReproduced(format!(
                "computed again, {} of {} cached cells are not the same to the bit; the cached ones are kept. They may come from another \
                 device, processor or libtorch: give this one a cache of its own with `--cache`",
                again.different,
                again.cached.len()
            ))),
            _ => Ok(()),
        }
    }

    /// The packs that hold the cells that were asked for.
    pub(super) fn packs(&self) -> Result<Vec<Key>, StageError> {
        let cells = self.computed.iter().chain(&self.found);
        self.cache.cells().packs_of(cells).map_err(failed)
    }

    /// Distinct cells computed, and distinct cells found in the cache.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.computed.len() as u64, self.found.len() as u64)
    }

    /// The values of distinct cells that the cache has.
    fn look_up(&mut self, keys: &[Key]) -> Result<HashMap<Key, Value>, StageError> {
        let mut values = HashMap::with_capacity(keys.len());
        for key in keys {
            if values.contains_key(key) {
                continue;
            }
            let bytes = self.cache.cells().get(key).map_err(failed)?;
            if let Some(value) = bytes.and_then(|bytes| Value::from_bytes(&bytes)) {
                values.insert(*key, value);
            }
        }
        Ok(values)
    }

    /// Gets the values of distinct missing cells of one model: computes what no other run is computing, and takes the rest from the
    /// cache as the others commit it. What the others leave undone is computed here in the end.
    fn compute_shared(
        &mut self,
        model: &ModelHandle,
        missing: &[(Cell, Key)],
        values: &mut HashMap<Key, Value>,
    ) -> Result<(), StageError> {
        let total = missing.len();
        let mut left: Vec<&(Cell, Key)> = missing.iter().collect();
        while !left.is_empty() {
            // Prompts are told apart by where their tokens are; they are what prefills cost.
            let wanted: Vec<(Key, usize)> = left
                .iter()
                .map(|(cell, key)| (*key, Arc::as_ptr(&cell.tokens) as usize))
                .collect();
            let claimed = self.lease.claim(&wanted);
            // Before a claim is given up its cells are committed: what nobody claims is either there by now, or missing.
            if self.lease.is_shared() || claimed.len() < left.len() {
                self.take_from_others(&wanted, values)?;
            }
            let mine: Vec<&(Cell, Key)> = claimed
                .iter()
                .map(|&i| left[i])
                .filter(|(_, key)| !values.contains_key(key))
                .collect();
            if mine.is_empty() && claimed.is_empty() {
                std::thread::sleep(LOOK_AGAIN);
            }
            let done = total - left.len();
            let outcome = self.compute(model, &mine, (done, total), values);
            left.retain(|(_, key)| !values.contains_key(key));
            if outcome.is_err() {
                self.lease.release();
            }
            outcome?;
        }
        self.lease.release();
        Ok(())
    }

    /// Computes distinct cells of one model, whatever other runs do.
    fn compute_all(
        &mut self,
        model: &ModelHandle,
        cells: &[(Cell, Key)],
        values: &mut HashMap<Key, Value>,
    ) -> Result<(), StageError> {
        let total = cells.len();
        let mut left: Vec<&(Cell, Key)> = cells.iter().collect();
        while !left.is_empty() {
            self.compute(model, &left, (total - left.len(), total), values)?;
            left.retain(|(_, key)| !values.contains_key(key));
        }
        Ok(())
    }

    /// Looks again for cells that other runs may have committed.
    fn take_from_others(
        &mut self,
        wanted: &[(Key, usize)],
        values: &mut HashMap<Key, Value>,
    ) -> Result<(), StageError> {
        self.cache.cells().refresh().map_err(failed)?;
        let keys: Vec<Key> = wanted.iter().map(|(key, _)| *key).collect();
        let found = self.look_up(&keys)?;
        self.found.extend(found.keys());
        values.extend(found);
        Ok(())
    }

    /// Computes distinct cells of one model; fewer where another run asks for a share. `done` of `total` were there before.
    fn compute(
        &mut self,
        model: &ModelHandle,
        missing: &[&(Cell, Key)],
        (mut done, total): (usize, usize),
        values: &mut HashMap<Key, Value>,
    ) -> Result<(), StageError> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        let Some((first, _)) = missing.first() else {
            return Ok(());
        };
        let can_share = missing
            .iter()
            .any(|(cell, _)| !Arc::ptr_eq(&cell.tokens, &first.tokens));
        if !self.models.holds(model) {
            (self.on_event)(Event::Loading {
                model: model.name(),
            });
        }
        let device = self.models.device();
        let evaluator = self.models.get(model)?;
        let mut provenance = serde_json::to_value(Provenance::here(device)).unwrap_or_default();
        if let (Some(all), Some(origin)) = (provenance.as_object_mut(), self.origin.as_object()) {
            all.extend(origin.clone());
        }
        let mut pending = Pending::new(self.cache, provenance);
        let (on_event, stop, lease) = (&mut self.on_event, self.stop, self.lease);
        let mut problem = None;
        let cells: Vec<Cell> = missing.iter().map(|(cell, _)| cell.clone()).collect();
        let outcome = evaluator.evaluate(&cells, &mut |step| {
            match step {
                Step::Prefilled { done, total } => on_event(Event::Prefilled { done, total }),
                Step::Values(batch) => {
                    done += batch.len();
                    for (index, value) in batch {
                        let (_, key) = missing[index];
                        let bytes = value.to_bytes();
                        let cached = self.again.as_ref().and_then(|a| a.cached.get(key));
                        match cached.map(|cached| cached.to_bytes() == bytes) {
                            None => pending.push(*key, bytes),
                            Some(true) => {}
                            Some(false) => {
                                if let Some(again) = &mut self.again {
                                    again.different += 1;
                                }
                            }
                        }
                        values.insert(*key, value);
                        self.computed.insert(*key);
                    }
                    on_event(Event::Computed { done, total });
                    if let Err(error) = pending.commit_if_due() {
                        problem = Some(error);
                        return ControlFlow::Break(());
                    }
                }
            }
            if stop.load(Ordering::Relaxed) || can_share && lease.is_asked_to_share() {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        // What was computed is kept even where the rest failed.
        let committed = pending.commit();
        if let Some(error) = problem {
            return Err(error);
        }
        let flow = outcome?;
        committed?;
        match flow {
            ControlFlow::Break(()) if stop.load(Ordering::Relaxed) => Err(StageError::Interrupted),
            _ => Ok(()),
        }
    }
}

impl Evaluate for CachedEvaluator<'_> {
    fn evaluate(&mut self, cells: &[Cell]) -> Result<Vec<Value>, StageError> {
        let keys: Vec<Key> = cells.iter().map(|cell| Key::from(cell.key())).collect();
        let mut values = self.look_up(&keys)?;
        if let Some(again) = &mut self.again {
            let computed = &self.computed;
            again
                .cached
                .extend(values.extract_if(|key, _| !computed.contains(key)));
        }
        self.found
            .extend(values.keys().filter(|key| !self.computed.contains(*key)));
        // Missing cells by model, each once.
        let mut missing: Vec<(blake3::Hash, Vec<(Cell, Key)>)> = Vec::new();
        let mut seen = HashSet::new();
        for (cell, key) in cells.iter().zip(&keys) {
            if values.contains_key(key) || !seen.insert(*key) {
                continue;
            }
            let slot = match missing.iter().position(|(model, _)| *model == cell.model) {
                Some(slot) => slot,
                None => {
                    missing.push((cell.model, Vec::new()));
                    missing.len() - 1
                }
            };
            missing[slot].1.push((cell.clone(), *key));
        }
        for (fingerprint, missing) in missing {
            let model = self.models_by_fingerprint.get(&fingerprint).cloned();
            let model = model.ok_or_else(|| {
                StageError::Internal("a cell of a model that the study does not name".to_string())
            })?;
            match self.again {
                None => self.compute_shared(&model, &missing, &mut values)?,
                Some(_) => self.compute_all(&model, &missing, &mut values)?,
            }
        }
        keys.iter()
            .map(|key| {
                let value = values.get(key).cloned();
                value.ok_or_else(|| {
                    StageError::Internal("a cell was left without a value".to_string())
                })
            })
            .collect()
    }
}

/// Cells that are computed but not yet committed.
struct Pending<'a> {
    cache: &'a Cache,
    provenance: serde_json::Value,
    cells: Vec<(Key, Vec<u8>)>,
    /// When the first of them was computed.
    since: Instant,
    /// When the work on them began.
    began: Instant,
}

impl<'a> Pending<'a> {
    fn new(cache: &'a Cache, provenance: serde_json::Value) -> Self {
        Pending {
            cache,
            provenance,
            cells: Vec::new(),
            since: Instant::now(),
            began: Instant::now(),
        }
    }

    fn push(&mut self, key: Key, value: Vec<u8>) {
        if self.cells.is_empty() {
            self.since = Instant::now();
        }
        self.cells.push((key, value));
    }

    fn commit_if_due(&mut self) -> Result<(), StageError> {
        if self.since.elapsed() >= COMMIT_AFTER {
            self.commit()
        } else {
            Ok(())
        }
    }

    fn commit(&mut self) -> Result<(), StageError> {
        let cells = std::mem::take(&mut self.cells);
        self.provenance["seconds"] = self.began.elapsed().as_secs_f64().into();
        self.provenance["created"] = jiff::Timestamp::now().to_string().into();
        self.began = Instant::now();
        self.cache
            .cells()
            .commit(&cells, &self.provenance)
            .map_err(failed)
    }
}
