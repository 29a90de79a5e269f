//! Looking up: which of a stage's cells are in the cache, which are missing, and which of the values came from where.

use std::collections::{BTreeMap, HashMap};

use crate::cache::{Cache, CellSet, Key};
use crate::model::{Cell, Cells, ModelConfig, Value};
use crate::plan::cached_value;
use crate::stages::StageError;

use super::batch::{Ask, Batch};
use super::{Result, Take};

/// The values that a stage need not compute.
pub(in crate::run) struct LookUp<'a> {
    cache: &'a Cache,
    /// By fingerprint.
    models: HashMap<blake3::Hash, ModelConfig>,
    /// What this stage has computed.
    computed: CellSet,
    /// What this stage has found in the cache.
    found: CellSet,
    /// Where what is cached is computed again, and compared.
    comparison: Option<Comparison>,
}

/// Cells that are computed again, against what the cache has.
#[derive(Default)]
struct Comparison {
    compared: u64,
    different: u64,
}

impl<'a> LookUp<'a> {
    pub(super) fn new(cache: &'a Cache, models: HashMap<blake3::Hash, ModelConfig>) -> Self {
        LookUp {
            cache,
            models,
            computed: CellSet::default(),
            found: CellSet::default(),
            comparison: None,
        }
    }

    /// From here on every cell counts as missing; values are compared with those of the cache, which stay as they are.
    pub(in crate::run) fn compare(&mut self) {
        self.comparison = Some(Comparison::default());
    }

    pub(super) fn compares(&self) -> bool {
        self.comparison.is_some()
    }

    /// The value of a cell that need not be computed; none for one that must be.
    fn value(&mut self, key: &Key, cell: impl FnOnce() -> Cell) -> Result<Option<Value>> {
        // Most are missing, and looking takes less than making a cell.
        if self.cache.cells().place(key)?.is_none() {
            return Ok(None);
        }
        let cell = cell();
        let found = cached_value(self.cache, &cell, key, self.config(&cell)?)?;
        let Some((place, value)) = found else {
            return Ok(None);
        };
        if !self.computed.contains(place) {
            if self.compares() {
                return Ok(None);
            }
            self.found.insert(place);
        }
        Ok(Some(value))
    }

    fn config(&self, cell: &Cell) -> Result<&ModelConfig> {
        let unknown = "a cell of a model that the study does not name";
        let unknown = || StageError::Internal(unknown.to_string());
        self.models.get(&cell.model).ok_or_else(unknown)
    }

    /// Hands over what is cached, and says what is missing.
    pub(super) fn take_cached(&mut self, cells: &dyn Cells, take: Take<'_>) -> Result<Missing> {
        let mut missing = Missing::default();
        for number in 0..cells.count() {
            let cell = cells.cell(number);
            match self.value(&cell.key().into(), || cell.clone())? {
                Some(value) => take(number, value),
                None => {
                    self.config(&cell)?;
                    missing.add(number, &cell)?;
                }
            }
        }
        missing.sort();
        Ok(missing)
    }

    /// Hands over the cells of a batch that the cache has by now: of an earlier batch, or of another run.
    pub(super) fn look_again(&mut self, batch: &mut Batch<'_>, take: Take<'_>) -> Result<()> {
        for at in 0..batch.len() {
            if batch.is_missing(at)
                && let Some(value) = self.value(&batch.key(at), || batch.cell(at))?
            {
                batch.settle(at, value, take);
            }
        }
        Ok(())
    }

    /// Whether a value that was computed is to be kept: not where the cache has one to compare it with.
    pub(super) fn is_new(
        &mut self,
        key: &Key,
        cell: impl FnOnce() -> Cell,
        bytes: &[u8],
    ) -> Result<bool> {
        if !self.compares() {
            return Ok(true);
        }
        let cell = cell();
        let cached = cached_value(self.cache, &cell, key, self.config(&cell)?)?;
        if let (Some((_, cached)), Some(comparison)) = (&cached, &mut self.comparison) {
            comparison.compared += 1;
            comparison.different += u64::from(cached.to_bytes() != bytes);
        }
        Ok(cached.is_none())
    }

    /// Counts those of a batch's cells that have a value now and are in the cache as computed by this stage.
    pub(super) fn mark_computed(&mut self, batch: &Batch<'_>, places: &[usize]) -> Result<()> {
        for &at in places.iter().filter(|&&at| !batch.is_missing(at)) {
            if let Some(place) = self.cache.cells().place(&batch.key(at))? {
                self.computed.insert(place);
            }
        }
        Ok(())
    }

    /// Fails where a cell that was computed again is not what was cached, to the bit.
    pub(in crate::run) fn check_reproduced(&self) -> Result<()> {
        match &self.comparison {
            Some(comparison) if comparison.different > 0 => {
                Err(StageError::NotReproduced(format!(
                    "computed again, {} of {} cached cells are not the same to the bit; the cached ones are kept. They may come from another \
                     device, processor or libtorch: give this one a cache of its own with `--cache`",
                    comparison.different, comparison.compared
                )))
            }
            _ => Ok(()),
        }
    }

    /// The packs that hold the cells that were asked for.
    pub(in crate::run) fn packs(&self) -> Result<Vec<Key>> {
        let packs = self.cache.cells().packs_of(&[&self.computed, &self.found]);
        Ok(packs?)
    }

    /// The cells that were computed, and of those found in the cache how many each of some sets has.
    pub(in crate::run) fn into_computed(
        self,
        earlier: &[(String, CellSet)],
    ) -> (CellSet, BTreeMap<String, u64>) {
        let shared = earlier
            .iter()
            .map(|(stage, cells)| (stage.clone(), self.found.shared(cells)));
        let shared = shared.filter(|(_, cells)| *cells > 0).collect();
        (self.computed, shared)
    }

    /// Distinct cells computed, and distinct cells found in the cache.
    pub(in crate::run) fn counts(&self) -> (u64, u64) {
        (self.computed.count(), self.found.count())
    }
}

/// Asks for cells that are not in the cache.
#[derive(Default)]
pub(super) struct Missing {
    asks: Vec<Ask>,
    /// The model of each prompt.
    models: Vec<blake3::Hash>,
    /// The number of a prompt on a model.
    prompts: HashMap<(blake3::Hash, blake3::Hash), u32>,
}

impl Missing {
    fn add(&mut self, number: usize, cell: &Cell) -> Result<()> {
        let next = short(self.models.len())?;
        let prompt = (cell.model, cell.tokens.hash());
        let prompt = *self.prompts.entry(prompt).or_insert(next);
        if prompt == next {
            self.models.push(cell.model);
        }
        self.asks.push(Ask {
            prompt,
            number: short(number)?,
        });
        Ok(())
    }

    /// Whoever holds a model or a prompt in memory computes all of its cells, before the next takes its place.
    fn sort(&mut self) {
        let models = &self.models;
        // In place: there may be many.
        self.asks
            .sort_unstable_by_key(|ask| (*models[ask.prompt as usize].as_bytes(), *ask));
    }

    pub(super) fn len(&self) -> usize {
        self.asks.len()
    }

    /// The asks in portions of at most so many, each of one model.
    pub(super) fn portions(&self, most: usize) -> impl Iterator<Item = &[Ask]> {
        let model_of = |ask: &Ask| self.models[ask.prompt as usize];
        self.asks
            .chunk_by(move |a, b| model_of(a) == model_of(b))
            .flat_map(move |of_model| of_model.chunks(most))
    }
}

fn short(number: usize) -> Result<u32> {
    let too_many = |_| StageError::Data("a stage asks for more than 4 billion cells".to_string());
    u32::try_from(number).map_err(too_many)
}
