//! Some of a stage's missing cells: as many as are worked on at once, equal ones together.

use std::collections::HashMap;

use crate::cache::{Key, Wanted};
use crate::model::{Cell, Cells, Value};

use super::Take;

/// A cell that a stage asks for, by its number, and the number of its prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ask {
    pub(super) prompt: u32,
    pub(super) number: u32,
}

/// The distinct cells of some asks.
pub(super) struct Batch<'a> {
    cells: &'a dyn Cells,
    /// The first ask for each cell.
    asks: Vec<Ask>,
    keys: Vec<Key>,
    missing: Vec<bool>,
    /// Further asks for the same cell, by its place here; α = 0 is one cell for every direction.
    repeats: HashMap<usize, Vec<Ask>>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(cells: &'a dyn Cells, asks: Vec<Ask>) -> Self {
        let mut batch = Batch {
            cells,
            asks: Vec::with_capacity(asks.len()),
            keys: Vec::with_capacity(asks.len()),
            missing: Vec::new(),
            repeats: HashMap::new(),
        };
        let mut known: HashMap<Key, usize> = HashMap::with_capacity(asks.len());
        for ask in asks {
            let key = Key::from(cells.cell(ask.number as usize).key());
            let place = *known.entry(key).or_insert(batch.asks.len());
            if place < batch.asks.len() {
                batch.repeats.entry(place).or_default().push(ask);
            } else {
                batch.asks.push(ask);
                batch.keys.push(key);
            }
        }
        batch.missing = vec![true; batch.asks.len()];
        batch
    }

    /// Number of distinct cells.
    pub(super) fn len(&self) -> usize {
        self.asks.len()
    }

    pub(super) fn key(&self, at: usize) -> Key {
        self.keys[at]
    }

    pub(super) fn is_missing(&self, at: usize) -> bool {
        self.missing[at]
    }

    /// Number of the prompt of a cell.
    pub(super) fn prompt(&self, at: usize) -> u32 {
        self.asks[at].prompt
    }

    /// The cells as a lease takes them.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let cells = self.keys.iter().zip(&self.asks);
        let wanted = cells.map(|(key, ask)| Wanted {
            key: *key,
            prompt: ask.prompt,
        });
        wanted.collect()
    }

    /// Hands a cell's value to everyone who asked for it. How many that are.
    pub(super) fn settle(&mut self, at: usize, value: Value, take: Take<'_>) -> usize {
        self.missing[at] = false;
        let repeats = self.repeats.get(&at).map_or(&[][..], Vec::as_slice);
        for ask in repeats {
            take(ask.number as usize, value.clone());
        }
        take(self.asks[at].number as usize, value);
        1 + repeats.len()
    }

    /// What was asked for and has no value yet.
    pub(super) fn left(&self) -> Vec<Ask> {
        let missing = (0..self.len()).filter(|at| self.missing[*at]);
        let mut left: Vec<Ask> = missing
            .flat_map(|at| {
                let repeats = self.repeats.get(&at).into_iter().flatten();
                repeats.chain([&self.asks[at]])
            })
            .copied()
            .collect();
        left.sort_unstable();
        left
    }

    /// Some of the cells, to be evaluated.
    pub(super) fn chosen(&self, places: Vec<usize>) -> Chosen<'a> {
        let numbers = places.iter().map(|&at| self.asks[at].number).collect();
        Chosen {
            cells: self.cells,
            numbers,
            places,
        }
    }
}

/// Some cells of a batch.
pub(super) struct Chosen<'a> {
    cells: &'a dyn Cells,
    numbers: Vec<u32>,
    /// Where each is in the batch.
    pub(super) places: Vec<usize>,
}

impl Cells for Chosen<'_> {
    fn count(&self) -> usize {
        self.numbers.len()
    }

    fn cell(&self, number: usize) -> Cell {
        self.cells.cell(self.numbers[number] as usize)
    }
}
