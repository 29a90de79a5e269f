//! The stages of a run made once more, from stored values: which these are no record says. What they give is compared with what is recorded.
//!
//! A stage that puts one run's activations into another's asks for them to name the cells that it then asks for, and nothing else comes of their
//! values. They are the most bytes of all, so that a shared file has the hash of each in its place. A made-up vector stands in for one there: the
//! cells that it is put into are looked up under the hash of the true one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cache::{Cache, Key};
use crate::model::{
    Cell, Cells, Intervention, ModelConfig, ModelError, ModelHandle, Value, Vector,
};
use crate::plan::{Opened, Visited, Walk, cached_value};
use crate::stages::{Evaluate, Output, StageError};

/// Why a stage was not made again.
pub(super) enum NotMade {
    /// The value of a cell is not stored.
    Gone,
    NeedsLibtorch,
    Failed(StageError),
}

/// Hashes of activations that are not stored themselves, by the keys of their cells.
pub(super) type Hashes = BTreeMap<Key, blake3::Hash>;

/// A file of `hashes/`: key and hash of each, 32 bytes each.
pub(super) fn hashes_as_bytes(hashes: &Hashes) -> Vec<u8> {
    let both = hashes
        .iter()
        .map(|(key, hash)| [*key.as_bytes(), *hash.as_bytes()]);
    both.flatten().flatten().collect()
}

/// The same read back; none of bytes that are no such file.
pub(super) fn hashes_from_bytes(bytes: &[u8]) -> Option<Hashes> {
    let (pairs, rest) = bytes.as_chunks::<64>();
    let pairs = pairs.iter().map(|pair| {
        let (key, hash) = pair.split_first_chunk::<32>()?;
        Some((
            Key::from(blake3::Hash::from_bytes(*key)),
            blake3::Hash::from_slice(hash).ok()?,
        ))
    });
    let hashes: Hashes = pairs.collect::<Option<_>>()?;
    (rest.is_empty() && 64 * hashes.len() == bytes.len()).then_some(hashes)
}

/// Which made-up vectors stand in for those that are not stored. What is made with the one and with the other must be the same.
#[derive(Clone, Copy)]
pub(super) enum StandIns {
    Some,
    Others,
}

/// What sees the cells of a stage, each as often as it is asked for.
pub(super) trait See {
    /// Sees a cell and its stored value.
    fn see(&mut self, stage: &str, key: Key, cell: &Cell, value: &Value);

    /// Sees the cell of an activation of which only the hash is stored.
    fn see_hash(&mut self, _stage: &str, _hash: blake3::Hash, _cell: &Cell) {}
}

/// Sees nothing.
pub(super) struct Nobody;

impl See for Nobody {
    fn see(&mut self, _: &str, _: Key, _: &Cell, _: &Value) {}
}

/// The models of a study by fingerprint.
pub(super) struct Models(HashMap<blake3::Hash, Arc<ModelHandle>>);

impl Models {
    pub(super) fn of(opened: &Opened) -> Self {
        let models = opened.inputs.models.values();
        Models(
            models
                .map(|model| (model.fingerprint, Arc::clone(model)))
                .collect(),
        )
    }

    fn config(&self, fingerprint: &blake3::Hash) -> Option<&ModelConfig> {
        self.0.get(fingerprint).map(|model| model.config())
    }
}

/// Makes a stage again, as a walk comes to it.
///
/// # Errors
/// [`NotMade`].
pub(super) fn make(
    stage: &Visited<'_>,
    walk: &Walk<'_>,
    (models, hashes, stand_ins): (&Models, &Hashes, StandIns),
    see: &mut dyn See,
) -> Result<Output, NotMade> {
    let mut stored = Stored {
        stage: &stage.spec.name,
        cache: walk.cache,
        models,
        hashes,
        stand_ins,
        true_ones: HashMap::new(),
        see,
    };
    let output = stage.spec.stage.run(&walk.inputs, &mut stored);
    output.map_err(|error| match error {
        StageError::Missing(_) => NotMade::Gone,
        StageError::Model(ModelError::NeedsLibtorch) => NotMade::NeedsLibtorch,
        other => NotMade::Failed(other),
    })
}

/// Gives the stored values of a stage's cells.
struct Stored<'a> {
    stage: &'a str,
    cache: &'a Cache,
    models: &'a Models,
    hashes: &'a Hashes,
    stand_ins: StandIns,
    /// The vectors that others stand in for, by the hash of what stands in: known by their own hash, with made-up values.
    true_ones: HashMap<blake3::Hash, Arc<Vector>>,
    see: &'a mut dyn See,
}

impl Evaluate for Stored<'_> {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        for number in 0..cells.count() {
            let cell = self.with_true_ones(cells.cell(number));
            let key = Key::from(cell.key());
            let config = self.models.config(&cell.model);
            let config = config.ok_or(StageError::Missing(1))?;
            let value = match self.hashes.get(&key) {
                Some(hash) => {
                    let value = self.standing_in(&key, &cell, *hash, config)?;
                    self.see.see_hash(self.stage, *hash, &cell);
                    value
                }
                None => {
                    let found = cached_value(self.cache, &cell, &key, config)?;
                    let (_, value) = found.ok_or(StageError::Missing(1))?;
                    self.see.see(self.stage, key, &cell, &value);
                    value
                }
            };
            take(number, value);
        }
        Ok(())
    }
}

impl Stored<'_> {
    /// A vector that stands in for the one with a hash: one that no other cell has.
    fn standing_in(
        &mut self,
        key: &Key,
        cell: &Cell,
        hash: blake3::Hash,
        config: &ModelConfig,
    ) -> Result<Value, StageError> {
        let Some(hook) = cell.readout.hook() else {
            return Err(StageError::Data(format!(
                "the file has a hash in the place of the value of cell `{key}`, which is no activation"
            )));
        };
        let mut stream = blake3::Hasher::new_derive_key("dial stand-in for an activation");
        stream.update(key.as_bytes());
        stream.update(&[self.stand_ins as u8]);
        let mut bytes = vec![0; 4 * hook.width(config)];
        stream.finalize_xof().fill(&mut bytes);
        let values = bytes.chunks_exact(4).map(|bytes| {
            let number = bytes.iter().fold(0u32, |n, byte| n << 8 | u32::from(*byte));
            number as f32 / u32::MAX as f32 - 0.5
        });
        let values: Vec<f32> = values.collect();
        let known = Arc::new(Vector::known_by(hash, values.clone()));
        self.true_ones
            .insert(Vector::new(values.clone()).hash(), known);
        Ok(Value::Activation(values))
    }

    /// The cell under the key that it is stored under.
    fn with_true_ones(&self, mut cell: Cell) -> Cell {
        if !self.true_ones.is_empty() {
            put_in_place(&mut cell.interventions, |hash| {
                self.true_ones.get(&hash).cloned()
            });
        }
        cell
    }
}

/// Puts other vectors in the place of some of those that edits put in the place of what is there.
pub(super) fn put_in_place(
    interventions: &mut [Intervention],
    other: impl Fn(blake3::Hash) -> Option<Arc<Vector>>,
) {
    for intervention in interventions {
        let edit = &intervention.edit;
        intervention.edit =
            edit.with(|vector| other(vector.hash()).unwrap_or_else(|| Arc::clone(vector)));
    }
}
