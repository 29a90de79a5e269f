//! Answers a stage's cells: from the cache where they are, from a model where they are not, committing as it goes.
//!
//! Of the cells themselves only those of one batch lie in memory, prompt by prompt; of the others their numbers. A batch that other runs
//! have claimed is put off, and the next is taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cache::{Cache, CacheError, CellSet, Key, Lease};
use crate::model::{Cell, Cells, ModelError, ModelHandle, Value};
use crate::plan::cached_value;
use crate::stages::{Evaluate, Inputs, StageError};

use super::Event;
use super::models::LoadedModels;

mod batch;
mod compute;

use batch::{Ask, Batch};

/// Cells of a batch: many tiles of every shape, and few enough to hold.
const BATCH_CELLS: usize = 1 << 16;
/// How soon a run that waits for others looks for what they have committed; less often the longer nothing comes, down to [`LOOK_RARELY`].
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOK_RARELY: Duration = Duration::from_secs(2);

type Result<T> = std::result::Result<T, StageError>;
/// Takes the value of the cell of a number.
type Take<'t> = &'t mut dyn FnMut(usize, Value);

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
    /// What this stage has computed.
    computed: CellSet,
    /// What this stage has found in the cache.
    found: CellSet,
    /// What was computed although it was cached, where that is asked for.
    again: Option<Comparison>,
}

/// Cells that are computed again, against what the cache has.
#[derive(Default)]
struct Comparison {
    compared: u64,
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
            computed: CellSet::default(),
            found: CellSet::default(),
            again: None,
        }
    }

    /// Computes every cell from here on, and compares those that are cached. What is cached stays as it is.
    pub(super) fn compute_again(&mut self) {
        self.again = Some(Comparison::default());
    }

    /// Fails where a cell that was computed again is not what was cached, to the bit.
    pub(super) fn check_reproduced(&self) -> Result<()> {
        match &self.again {
            Some(again) if again.different > 0 => Err(StageError::NotReproduced(format!(
                "computed again, {} of {} cached cells are not the same to the bit; the cached ones are kept. They may come from another \
                 device, processor or libtorch: give this one a cache of its own with `--cache`",
                again.different, again.compared
            ))),
            _ => Ok(()),
        }
    }

    /// The packs that hold the cells that were asked for.
    pub(super) fn packs(&self) -> Result<Vec<Key>> {
        let packs = self.cache.cells().packs_of(&[&self.computed, &self.found]);
        packs.map_err(failed)
    }

    /// Distinct cells computed, and distinct cells found in the cache.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.computed.count(), self.found.count())
    }

    /// The value of a cell that need not be computed; none for one that must be.
    fn cached(&mut self, key: &Key, cell: impl FnOnce() -> Cell) -> Result<Option<Value>> {
        // Most are missing, and looking takes less than making a cell.
        if self.cache.cells().place(key).map_err(failed)?.is_none() {
            return Ok(None);
        }
        let cell = cell();
        let model = self.models_by_fingerprint.get(&cell.model);
        let config = model.ok_or_else(unknown_model)?.config();
        let Some((place, value)) = cached_value(self.cache, &cell, key, config)? else {
            return Ok(None);
        };
        if !self.computed.contains(place) {
            if self.again.is_some() {
                return Ok(None);
            }
            self.found.insert(place);
        }
        Ok(Some(value))
    }

    /// Hands over what need not be computed, and says what is left, model by model and prompt by prompt. Also the model of each prompt.
    fn take_cached(
        &mut self,
        cells: &dyn Cells,
        take: Take<'_>,
    ) -> Result<(Vec<Ask>, Vec<Arc<ModelHandle>>)> {
        let mut left = Vec::new();
        let mut prompts: HashMap<(blake3::Hash, blake3::Hash), u32> = HashMap::new();
        let mut models = Vec::new();
        for number in 0..cells.count() {
            let cell = cells.cell(number);
            if let Some(value) = self.cached(&cell.key().into(), || cell.clone())? {
                take(number, value);
                continue;
            }
            let next = models.len();
            let prompt = match prompts.get(&(cell.model, cell.tokens.hash())) {
                Some(prompt) => *prompt,
                None => {
                    let model = self.models_by_fingerprint.get(&cell.model);
                    models.push(Arc::clone(model.ok_or_else(unknown_model)?));
                    let prompt = short(next)?;
                    prompts.insert((cell.model, cell.tokens.hash()), prompt);
                    prompt
                }
            };
            left.push(Ask {
                prompt,
                number: short(number)?,
            });
        }
        // Whoever holds a model or a prompt in memory computes all of its cells, before the next takes its place.
        // Sorted in place: there may be many.
        let model_of = |ask: &Ask| *models[ask.prompt as usize].fingerprint().as_bytes();
        left.sort_unstable_by_key(|ask| (model_of(ask), *ask));
        Ok((left, models))
    }
}

fn unknown_model() -> StageError {
    StageError::Internal("a cell of a model that the study does not name".to_string())
}

fn short(number: usize) -> Result<u32> {
    let too_many = |_| StageError::Data("a stage asks for more than 4 billion cells".to_string());
    u32::try_from(number).map_err(too_many)
}

impl Evaluate for CachedEvaluator<'_> {
    fn evaluate_each(&mut self, cells: &dyn Cells, take: Take<'_>) -> Result<()> {
        let (left, models) = self.take_cached(cells, take)?;
        let (total, mut done) = (left.len(), 0);
        let mut queue: VecDeque<Queued<'_>> = left
            .chunk_by(|a, b| Arc::ptr_eq(&models[a.prompt as usize], &models[b.prompt as usize]))
            .flat_map(|of_model| of_model.chunks(BATCH_CELLS))
            .map(|asks| Queued::New(asks.to_vec()))
            .collect();
        drop(left);
        let mut failures = Failures::default();
        // Batches in a row that others have claimed.
        let (mut others, mut pause) = (0, LOOK_AGAIN);
        while let Some(queued) = queue.pop_front() {
            let mut batch = queued.begin(cells);
            let asked = batch.asked();
            let model = &models[batch.prompt(0) as usize];
            let worked = self.work_off(model, &mut batch, (done, total), take);
            if worked.is_err() {
                self.lease.release();
            }
            let Some(has_claimed) = failures.keep(worked)? else {
                continue;
            };
            batch.forget_settled();
            done += asked - batch.asked();
            if has_claimed || batch.asked() < asked {
                (others, pause) = (0, LOOK_AGAIN);
            } else {
                others += 1;
            }
            let wanted = (others > queue.len()).then(|| batch.wanted());
            if batch.len() > 0 {
                queue.push_back(Queued::Begun(batch));
            }
            // There is nothing else to do.
            if let Some(wanted) = wanted {
                self.lease.wait_for(&wanted);
                std::thread::sleep(pause);
                pause = (2 * pause).min(LOOK_RARELY);
            }
        }
        self.lease.release();
        failures.into_result()
    }
}

/// Some cells that are to be computed.
enum Queued<'a> {
    New(Vec<Ask>),
    /// Put off, or shared with others.
    Begun(Batch<'a>),
}

impl<'a> Queued<'a> {
    fn begin(self, cells: &'a dyn Cells) -> Batch<'a> {
        match self {
            Queued::New(asks) => Batch::new(cells, asks),
            Queued::Begun(batch) => batch,
        }
    }
}

impl CachedEvaluator<'_> {
    /// Gets values of a batch's cells: those that have come to the cache meanwhile, and computes what no other run is computing. What is
    /// left then is others', or was left to others that asked for it. Says whether there was anything that no other run was computing.
    fn work_off(
        &mut self,
        model: &ModelHandle,
        batch: &mut Batch<'_>,
        progress: (usize, usize),
        take: Take<'_>,
    ) -> Result<bool> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(StageError::Interrupted);
        }
        // An earlier batch may have had an equal cell.
        self.look_again(batch, take)?;
        let mine = match self.again {
            Some(_) => (0..batch.len()).collect(),
            None => {
                let mine = self.lease.claim(&batch.wanted());
                // Before a claim is given up its cells are committed: what nobody claims is either there by now, or missing. Whoever
                // committed it may be gone.
                self.cache.cells().refresh().map_err(failed)?;
                self.look_again(batch, take)?;
                mine
            }
        };
        self.compute(model, batch, &mine, progress, take)?;
        Ok(!mine.is_empty())
    }

    /// Hands over the cells of a batch that the cache has now.
    fn look_again(&mut self, batch: &mut Batch<'_>, take: Take<'_>) -> Result<()> {
        for at in 0..batch.len() {
            if batch.is_missing(at)
                && let Some(value) = self.cached(&batch.key(at), || batch.cell(at))?
            {
                batch.settle(at, value, take);
            }
        }
        Ok(())
    }
}

/// Cells without a value, over all batches.
#[derive(Default)]
struct Failures(Option<(String, usize)>);

impl Failures {
    /// What a batch ended with; none if with such cells, the rest of it being computed. Other errors pass.
    fn keep<T>(&mut self, worked: Result<T>) -> Result<Option<T>> {
        match worked {
            Ok(worked) => Ok(Some(worked)),
            Err(StageError::Model(ModelError::Cells { first, more })) => {
                match &mut self.0 {
                    None => self.0 = Some((first, more)),
                    Some((_, count)) => *count += more + 1,
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn into_result(self) -> Result<()> {
        match self.0 {
            None => Ok(()),
            Some((first, more)) => Err(StageError::Model(ModelError::Cells { first, more })),
        }
    }
}
