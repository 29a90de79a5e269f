//! What becomes of cells: values, which go to the caller at once, what is said of cells without one, and continuations that have to be begun
//! again.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::Step;
use super::check::not_finite;
use crate::model::cell::{Cell, Cells, Readout, Value};
use crate::model::error::{ModelError, Result};
use crate::model::generate::{Row, Stopped};

/// What becomes of a cell.
pub(super) enum Outcome {
    Value(Value),
    /// What to say of one that has none.
    Nothing(String),
    /// A continuation whose text has grown long.
    Grown(Row),
}

impl Outcome {
    pub(super) fn of_value(cell: &Cell, value: Value) -> Self {
        match value.is_finite() {
            true => Outcome::Value(value),
            false => Outcome::Nothing(not_finite(cell)),
        }
    }

    pub(super) fn of_row(cell: &Cell, row: Row) -> Self {
        match row.stopped {
            Some(Stopped::NotFinite) => Outcome::Nothing(not_finite(cell)),
            Some(Stopped::Grown) => Outcome::Grown(row),
            _ => Outcome::Value(Value::Generation(row.ids)),
        }
    }
}

/// The cells that are being computed: those that were asked for, or the continuations among them that have grown long, each with what it has
/// so far as a part of its prompt.
pub(super) struct AtHand<'c> {
    pub(super) cells: &'c dyn Cells,
    begun: BTreeMap<u32, Row>,
}

impl<'c> AtHand<'c> {
    pub(super) fn new(cells: &'c dyn Cells) -> Self {
        let begun = BTreeMap::new();
        AtHand { cells, begun }
    }

    /// The numbers of the continuations that have grown long.
    pub(super) fn begun(&self) -> impl Iterator<Item = u32> {
        self.begun.keys().copied()
    }

    /// The cell with all that is given of its text.
    pub(super) fn cell(&self, number: u32) -> Cell {
        self.computed(number, self.cells.cell(number as usize))
    }

    /// A cell as it is computed: behind its prompt what it has of a continuation so far, or the text whose probability is asked for, but for its
    /// last token, which is only read.
    pub(super) fn computed(&self, number: u32, mut cell: Cell) -> Cell {
        if let Some(row) = self.begun.get(&number) {
            cell.tokens = Arc::new(cell.tokens.continued(&row.ids));
        }
        if let Readout::Continuation(ids) = &cell.readout
            && let [before @ .., _] = &ids[..]
            && !before.is_empty()
        {
            cell.tokens = Arc::new(cell.tokens.continued(before));
        }
        cell
    }

    /// The text of a continuation so far; texts of more than `border` tokens are long.
    pub(super) fn row(&self, number: u32, cell: &Cell, border: Option<usize>) -> Row {
        match self.begun.get(&number) {
            Some(row) => row.resumed(),
            None => Row::new(cell, border),
        }
    }
}

/// Where the outcomes of an evaluation go: values to the caller at once, what is said of cells without one into the error at the end.
pub(super) struct Outcomes<'s> {
    pub(super) on_step: &'s mut dyn FnMut(Step) -> ControlFlow<()>,
    /// Continuations that have grown long, by number.
    grown: BTreeMap<u32, Row>,
    failures: usize,
    /// The failed cell that was asked for first.
    first: Option<(u32, String)>,
}

impl<'s> Outcomes<'s> {
    pub(super) fn new(on_step: &'s mut dyn FnMut(Step) -> ControlFlow<()>) -> Self {
        Outcomes {
            on_step,
            grown: BTreeMap::new(),
            failures: 0,
            first: None,
        }
    }

    pub(super) fn take(&mut self, outcomes: Vec<(u32, Outcome)>) -> ControlFlow<()> {
        let mut values = Vec::with_capacity(outcomes.len());
        for (number, outcome) in outcomes {
            match outcome {
                Outcome::Value(value) => values.push((number as usize, value)),
                Outcome::Nothing(message) => self.fail(number, message),
                Outcome::Grown(row) => {
                    self.grown.insert(number, row);
                }
            }
        }
        (self.on_step)(Step::Values(values))
    }

    pub(super) fn fail(&mut self, number: u32, message: String) {
        self.failures += 1;
        if self.first.as_ref().is_none_or(|(first, _)| number < *first) {
            self.first = Some((number, message));
        }
    }

    /// The continuations that have grown long since this was asked last.
    pub(super) fn grown<'c>(&mut self, cells: &'c dyn Cells) -> AtHand<'c> {
        let begun = std::mem::take(&mut self.grown);
        AtHand { cells, begun }
    }

    pub(super) fn into_result(self) -> Result<ControlFlow<()>> {
        match self.first {
            None => Ok(ControlFlow::Continue(())),
            Some((_, first)) => Err(ModelError::Cells {
                first,
                more: self.failures - 1,
            }),
        }
    }
}
