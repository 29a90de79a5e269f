//! Which cells there are to draw from, and the drawn ones themselves: both are seen while stages are made again from stored values.
//!
//! All cells of a study may be more than should lie in memory at once, so that stages are made twice: first their keys are noted, which are what is
//! drawn from, then the cells that were drawn are kept, with their stored values.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::cache::Key;
use crate::model::{Cell, Cells, Value};
use crate::stages::{Evaluate, StageError};

use super::recomputed::Stratum;

/// Notes the keys of the cells that stages ask for.
pub(crate) struct Keys {
    /// Names of the models in the study, by fingerprint.
    models: HashMap<blake3::Hash, String>,
    seen: HashSet<Key>,
    strata: Vec<Stratum>,
}

/// Keeps the cells that were drawn, with their stored values, by key.
pub(crate) struct Kept {
    wanted: BTreeSet<Key>,
    pub(crate) cells: BTreeMap<Key, (Cell, Value)>,
}

/// What sees the cells of a stage.
pub(crate) trait See {
    /// Sees a cell and its stored value.
    fn see(&mut self, stage: &str, key: Key, cell: &Cell, value: &Value);
}

impl Keys {
    pub(crate) fn new(models: HashMap<blake3::Hash, String>) -> Self {
        Keys {
            models,
            seen: HashSet::new(),
            strata: Vec::new(),
        }
    }

    /// The cells of each stage and model that no stage before it has, in the order of the stages.
    pub(crate) fn into_strata(self) -> Vec<Stratum> {
        self.strata
    }
}

impl See for Keys {
    fn see(&mut self, stage: &str, key: Key, cell: &Cell, _: &Value) {
        if !self.seen.insert(key) {
            return;
        }
        let model = self.models.get(&cell.model).cloned().unwrap_or_default();
        let known = self.strata.iter_mut().rev();
        let mut known = known.filter(|stratum| stratum.stage == stage && stratum.model == model);
        match known.next() {
            Some(stratum) => drop(stratum.keys.insert(key)),
            None => self.strata.push(Stratum {
                stage: stage.to_string(),
                model,
                keys: BTreeSet::from([key]),
            }),
        }
    }
}

impl Kept {
    pub(crate) fn new(drawn: &[BTreeSet<Key>]) -> Self {
        Kept {
            wanted: drawn.iter().flatten().copied().collect(),
            cells: BTreeMap::new(),
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
}

/// An evaluator of one stage whose cells are seen.
pub(crate) struct Seen<'a> {
    pub(crate) stage: &'a str,
    /// What has the stored values.
    pub(crate) inner: &'a mut dyn Evaluate,
    pub(crate) by: &'a mut dyn See,
}

impl Evaluate for Seen<'_> {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        let (stage, by) = (self.stage, &mut *self.by);
        self.inner.evaluate_each(cells, &mut |number, value| {
            let cell = cells.cell(number);
            by.see(stage, cell.key().into(), &cell, &value);
            take(number, value);
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Readout, Tokens};

    /// Values by the first token.
    struct Stored;

    impl Evaluate for Stored {
        fn evaluate_each(
            &mut self,
            cells: &dyn Cells,
            take: &mut dyn FnMut(usize, Value),
        ) -> Result<(), StageError> {
            for number in 0..cells.count() {
                take(
                    number,
                    Value::Generation(cells.cell(number).tokens.ids().to_vec()),
                );
            }
            Ok(())
        }
    }

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
        let mut taken = 0;
        let mut go = |by: &mut dyn See| {
            for (stage, cells) in &stages {
                let mut seen = Seen {
                    stage,
                    inner: &mut Stored,
                    by: &mut *by,
                };
                seen.evaluate_each(&cells.as_slice(), &mut |_, _| taken += 1)
                    .unwrap();
            }
        };
        let names = [
            (blake3::hash(b"a"), "a".to_string()),
            (blake3::hash(b"b"), "b".to_string()),
        ];
        let mut keys = Keys::new(names.into());
        go(&mut keys);
        let strata = keys.into_strata();
        let counts: Vec<_> = strata
            .iter()
            .map(|s| (s.stage.as_str(), s.model.as_str(), s.keys.len()))
            .collect();
        assert_eq!(
            counts,
            [("score", "a", 2), ("score", "b", 1), ("steer", "a", 1)]
        );
        let mut kept = Kept::new(&[strata[2].keys.clone()]);
        go(&mut kept);
        let cells: Vec<_> = kept.cells.into_values().collect();
        assert_eq!(cells.len(), 1);
        assert_eq!(cells[0].1, Value::Generation(vec![3]));
        assert_eq!(taken, 12);
    }
}
