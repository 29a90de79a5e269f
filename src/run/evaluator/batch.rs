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
    distinct: Vec<Distinct>,
}

struct Distinct {
    key: Key,
    is_missing: bool,
    /// The first ask for it.
    ask: Ask,
    /// Further asks; α = 0 is one cell for every direction.
    repeats: Vec<Ask>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(cells: &'a dyn Cells, mut asks: Vec<Ask>) -> Self {
        // In the order of asking, in which the rows of one variant stand side by side.
        asks.sort_unstable_by_key(|ask| ask.number);
        let mut distinct: Vec<Distinct> = Vec::with_capacity(asks.len());
        let mut known: HashMap<Key, usize> = HashMap::with_capacity(asks.len());
        for ask in asks {
            let key = Key::from(cells.cell(ask.number as usize).key());
            let place = *known.entry(key).or_insert(distinct.len());
            match distinct.get_mut(place) {
                Some(cell) => cell.repeats.push(ask),
                None => distinct.push(Distinct {
                    key,
                    is_missing: true,
                    ask,
                    repeats: Vec::new(),
                }),
            }
        }
        Batch { cells, distinct }
    }

    /// Number of distinct cells.
    pub(super) fn len(&self) -> usize {
        self.distinct.len()
    }

    /// Number of asks for them.
    pub(super) fn asked(&self) -> usize {
        self.distinct
            .iter()
            .map(|cell| 1 + cell.repeats.len())
            .sum()
    }

    pub(super) fn key(&self, at: usize) -> Key {
        self.distinct[at].key
    }

    pub(super) fn cell(&self, at: usize) -> Cell {
        self.cells.cell(self.distinct[at].ask.number as usize)
    }

    pub(super) fn is_missing(&self, at: usize) -> bool {
        self.distinct[at].is_missing
    }

    /// Number of the prompt of a cell.
    pub(super) fn prompt(&self, at: usize) -> u32 {
        self.distinct[at].ask.prompt
    }

    /// The cells as a lease takes them.
    pub(super) fn wanted(&self) -> Vec<Wanted> {
        let wanted = self.distinct.iter().map(|cell| Wanted {
            key: cell.key,
            prompt: cell.ask.prompt,
        });
        wanted.collect()
    }

    /// Hands a cell's value to everyone who asked for it. How many that are.
    pub(super) fn settle(&mut self, at: usize, value: Value, take: Take<'_>) -> usize {
        let cell = &mut self.distinct[at];
        cell.is_missing = false;
        for ask in &cell.repeats {
            take(ask.number as usize, value.clone());
        }
        take(cell.ask.number as usize, value);
        1 + cell.repeats.len()
    }

    /// Leaves only what has no value yet.
    pub(super) fn forget_settled(&mut self) {
        self.distinct.retain(|cell| cell.is_missing);
    }

    /// Some of the cells, to be evaluated.
    pub(super) fn chosen(&self, places: &[usize]) -> Chosen<'a> {
        let numbers = places.iter().map(|&at| self.distinct[at].ask.number);
        Chosen {
            cells: self.cells,
            numbers: numbers.collect(),
        }
    }
}

/// Some cells of a batch.
pub(super) struct Chosen<'a> {
    cells: &'a dyn Cells,
    numbers: Vec<u32>,
}

impl Cells for Chosen<'_> {
    fn count(&self) -> usize {
        self.numbers.len()
    }

    fn cell(&self, number: usize) -> Cell {
        self.cells.cell(self.numbers[number] as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::model::ScoreDtype;
    use crate::model::{Readout, TokenSets, Tokens};

    use super::*;

    /// Cells of three prompts, asked for again and again.
    struct Three;

    impl Cells for Three {
        fn count(&self) -> usize {
            9
        }

        fn cell(&self, number: usize) -> Cell {
            let tokens = Arc::new(Tokens::new(vec![number as u32 % 3]));
            let sets = TokenSets {
                refuse: vec![1],
                comply: vec![2],
                dtype: ScoreDtype::Float32,
            };
            let readout = Readout::Score(Arc::new(sets));
            Cell::new(blake3::hash(b"model"), tokens, vec![], readout, 1)
        }
    }

    #[test]
    fn equal_cells_are_one_and_everyone_who_asked_gets_the_value() {
        let asks = (0..9).map(|number| Ask {
            prompt: number % 3,
            number,
        });
        let mut asks: Vec<Ask> = asks.collect();
        asks.sort_unstable();
        let mut batch = Batch::new(&Three, asks);
        assert_eq!((batch.len(), batch.asked()), (3, 9));
        let mut taken = Vec::new();
        let settled = batch.settle(1, Value::Score(1.5), &mut |number, _| taken.push(number));
        taken.sort_unstable();
        assert_eq!((settled, taken), (3, vec![1, 4, 7]));
        batch.forget_settled();
        assert_eq!((batch.len(), batch.asked()), (2, 6));
        let mut taken = Vec::new();
        batch.settle(1, Value::Score(2.5), &mut |number, _| taken.push(number));
        taken.sort_unstable();
        assert_eq!(taken, [2, 5, 8]);
        batch.forget_settled();
        assert_eq!(batch.chosen(&[0]).cell(0).key(), Three.cell(0).key());
        assert_eq!(batch.wanted().len(), 1);
    }
}
