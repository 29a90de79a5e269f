//! Which cells there are to draw from, and the drawn ones themselves: both are seen while stages are made again from stored values.
//!
//! All cells of a study may be more than should lie in memory at once, so that stages are made twice: first their keys are noted, which are what is
//! drawn from, then the cells that were drawn are kept, with their stored values.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::cache::Key;
use crate::model::{Cell, HookPoint, Readout, Value};

use super::super::again::See;
use super::recomputed::Stratum;

/// Cells of each stratum that are kept to learn how long one takes.
const EXAMPLES: usize = 8;

/// Notes the keys of the cells that stages ask for.
pub(crate) struct Keys {
    /// Names of the models in the study, by fingerprint.
    models: HashMap<blake3::Hash, String>,
    seen: HashSet<Key>,
    strata: Vec<Stratum>,
    /// The models of activations of which only the hash is stored, by that.
    donors: HashMap<blake3::Hash, String>,
    hashes: HashSet<(String, Key)>,
    /// Some cells of each stratum: those with the smallest keys, which are as good as drawn.
    examples: Vec<BTreeMap<Key, Cell>>,
    /// A cell at each layer of each stratum, likewise.
    at_layers: Vec<BTreeMap<usize, Key>>,
}

/// What is known of the cells that there are.
#[derive(Default)]
pub(crate) struct Known {
    /// Activations of which only the hash is stored, each as often as a stage has it.
    pub(crate) hashes: u64,
    /// The cells of each stage and model that no stage before it has, in the order of the stages.
    pub(crate) strata: Vec<Stratum>,
    /// Of each stratum.
    pub(crate) examples: Vec<Vec<Cell>>,
    /// Of each stratum a cell at each layer that any is at.
    pub(crate) at_layers: Vec<BTreeMap<usize, Key>>,
}

/// Keeps the cells that are wanted, with their stored values.
pub(crate) struct Kept {
    wanted: BTreeSet<Key>,
    pub(crate) cells: BTreeMap<Key, (Cell, Value)>,
    /// Cells of activations of which only the hash is stored, by that.
    pub(crate) donors: HashMap<blake3::Hash, Cell>,
}

impl Keys {
    pub(crate) fn new(models: HashMap<blake3::Hash, String>) -> Self {
        Keys {
            models,
            seen: HashSet::new(),
            strata: Vec::new(),
            donors: HashMap::new(),
            hashes: HashSet::new(),
            examples: Vec::new(),
            at_layers: Vec::new(),
        }
    }

    pub(crate) fn into_known(self) -> Known {
        let examples = self.examples.into_iter();
        Known {
            hashes: self.hashes.len() as u64,
            strata: self.strata,
            examples: examples
                .map(|cells| cells.into_values().collect())
                .collect(),
            at_layers: self.at_layers,
        }
    }

    /// The number of the stratum of a stage and a model.
    fn stratum(&mut self, stage: &str, cell: &Cell) -> usize {
        let model = self.models.get(&cell.model).cloned().unwrap_or_default();
        let mut known = self.strata.iter();
        let known = known.rposition(|stratum| stratum.stage == stage && stratum.model == model);
        known.unwrap_or_else(|| {
            self.strata.push(Stratum {
                stage: stage.to_string(),
                model,
                keys: BTreeSet::new(),
                donors: BTreeSet::new(),
                longest: 0,
            });
            self.examples.push(BTreeMap::new());
            self.at_layers.push(BTreeMap::new());
            self.strata.len() - 1
        })
    }
}

impl See for Keys {
    fn see(&mut self, stage: &str, key: Key, cell: &Cell, _: &Value) {
        if !self.seen.insert(key) {
            return;
        }
        let number = self.stratum(stage, cell);
        let stratum = &mut self.strata[number];
        stratum.keys.insert(key);
        if let Readout::Generation { max_new_tokens, .. } = &cell.readout {
            stratum.longest = stratum.longest.max(*max_new_tokens);
        }
        if !self.donors.is_empty() {
            let vectors = cell.interventions.iter().flat_map(|i| i.edit.vectors());
            let vectors = vectors.filter_map(|vector| self.donors.get(&vector.hash()));
            stratum.donors.extend(vectors.cloned());
        }
        if let Some(layer) = layer_of(cell) {
            let at_layer = self.at_layers[number].entry(layer).or_insert(key);
            *at_layer = key.min(*at_layer);
        }
        let examples = &mut self.examples[number];
        let is_full = examples.len() == EXAMPLES;
        if !is_full || examples.keys().next_back().is_some_and(|last| key < *last) {
            examples.insert(key, cell.clone());
        }
        if examples.len() > EXAMPLES {
            examples.pop_last();
        }
    }

    fn see_hash(&mut self, stage: &str, hash: blake3::Hash, cell: &Cell) {
        self.hashes.insert((stage.to_string(), cell.key().into()));
        let model = self.models.get(&cell.model).cloned().unwrap_or_default();
        self.donors.insert(hash, model);
    }
}

impl Kept {
    pub(crate) fn new(wanted: BTreeSet<Key>) -> Self {
        Kept {
            wanted,
            cells: BTreeMap::new(),
            donors: HashMap::new(),
        }
    }
}

impl See for Kept {
    fn see(&mut self, _: &str, key: Key, cell: &Cell, value: &Value) {
        if self.wanted.contains(&key) {
            self.cells
                .entry(key)
                .or_insert_with(|| (cell.clone(), value.clone()));
        }
    }

    fn see_hash(&mut self, _: &str, hash: blake3::Hash, cell: &Cell) {
        self.donors.entry(hash).or_insert_with(|| cell.clone());
    }
}

/// The layer that a cell is about: of its first edit, or of the activation that is read; none of a plain score.
pub(crate) fn layer_of(cell: &Cell) -> Option<usize> {
    let edited = cell.interventions.first().map(|edit| edit.hook);
    match edited.or(cell.readout.hook()) {
        Some(HookPoint::Block { layer, .. }) => Some(layer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::Tokens;

    fn cell(model: &[u8], token: u32) -> Cell {
        let readout = Readout::LogProbabilities(Arc::new(vec![1]));
        Cell::new(
            blake3::hash(model),
            Arc::new(Tokens::new(vec![token])),
            Vec::new(),
            readout,
            2,
        )
    }

    #[test]
    fn a_cell_belongs_to_the_first_stage_that_asks_for_it_and_is_kept_if_it_was_drawn() {
        let stages = [
            (
                "score",
                vec![cell(b"a", 1), cell(b"b", 1), cell(b"a", 2), cell(b"a", 1)],
            ),
            ("steer", vec![cell(b"a", 2), cell(b"a", 3)]),
        ];
        let go = |by: &mut dyn See| {
            for (stage, cells) in &stages {
                for cell in cells {
                    let value = Value::Generation(cell.tokens.ids().to_vec());
                    by.see(stage, cell.key().into(), cell, &value);
                }
            }
        };
        let names = [
            (blake3::hash(b"a"), "a".to_string()),
            (blake3::hash(b"b"), "b".to_string()),
        ];
        let mut keys = Keys::new(names.into());
        go(&mut keys);
        let known = keys.into_known();
        let counts: Vec<_> = known
            .strata
            .iter()
            .map(|s| (s.stage.as_str(), s.model.as_str(), s.keys.len()))
            .collect();
        assert_eq!(
            counts,
            [("score", "a", 2), ("score", "b", 1), ("steer", "a", 1)]
        );
        let examples: Vec<usize> = known.examples.iter().map(Vec::len).collect();
        assert_eq!(examples, [2, 1, 1]);
        let mut kept = Kept::new(known.strata[2].keys.clone());
        go(&mut kept);
        let cells: Vec<_> = kept.cells.into_values().collect();
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].1, Value::Generation(vec![3]));
    }

    #[test]
    fn examples_are_the_cells_with_the_smallest_keys() {
        let mut keys = Keys::new(HashMap::new());
        let cells: Vec<Cell> = (0..100).map(|token| cell(b"a", token)).collect();
        for cell in &cells {
            keys.see("score", cell.key().into(), cell, &Value::Score(0.0));
        }
        let mut all: Vec<Key> = cells.iter().map(|cell| cell.key().into()).collect();
        all.sort_unstable();
        let known = keys.into_known();
        let examples: Vec<Key> = known.examples[0].iter().map(|c| c.key().into()).collect();
        assert_eq!(examples, all[..EXAMPLES]);
    }
}
