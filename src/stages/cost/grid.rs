//! Everything that is measured under everything that is done: the cells, and their values by what is done and by prompt.

use std::sync::Arc;

use crate::model::{Cell, Cells, Intervention, ModelHandle, Positions, Readout, Tokens, Value};
use crate::prompts::Prompt;
use crate::stages::action::Line;
use crate::stages::generate::Steering;
use crate::stages::position::{Layout, Selection};
use crate::stages::{Evaluate, Settings, StageError, sweep};

/// What is done in one run: a direction at an α, or nothing.
#[derive(Clone, Copy)]
pub(super) struct Point<'a> {
    pub(super) line: Option<&'a Line>,
    pub(super) alpha: f64,
}

/// A prompt, and what is read behind it.
pub(super) struct Item<'a> {
    pub(super) prompt: &'a Prompt,
    /// What the model is asked: an edit's positions are counted in these tokens, and what stands behind them is as if it were generated.
    pub(super) asked: Arc<Tokens>,
    /// What a condition is held against, where that is not what is asked.
    pub(super) whole: Option<Arc<Tokens>>,
    /// Whether it is read as it is, without the chat.
    pub(super) is_plain: bool,
    pub(super) readings: Vec<Reading>,
}

/// What is read, of tokens that begin with those that are asked.
pub(super) struct Reading {
    pub(super) tokens: Arc<Tokens>,
    pub(super) readout: Readout,
}

/// A model, and how it is edited.
pub(super) struct Bench<'a> {
    pub(super) model: &'a ModelHandle,
    pub(super) steering: &'a Steering,
    pub(super) settings: &'a Settings,
    /// The first is the unedited run.
    pub(super) points: &'a [Point<'a>],
}

/// The values of each point, by item and reading.
pub(super) type Values = Vec<Vec<Vec<Value>>>;

/// The cells of a bench and some items: points × items × readings, in that order.
struct Grid<'a> {
    bench: &'a Bench<'a>,
    items: &'a [Item<'a>],
    /// By item, the number of its first reading; and behind them, how many readings there are.
    starts: Vec<usize>,
    /// By item, where each edit of a run acts.
    positions: Vec<Vec<Positions>>,
}

impl Item<'_> {
    /// How many tokens are predicted.
    pub(super) fn predicted(&self) -> usize {
        let predicted = |reading: &Reading| match &reading.readout {
            Readout::Continuation(ids) => ids.len(),
            _ => 1,
        };
        self.readings.iter().map(predicted).sum()
    }
}

impl Bench<'_> {
    /// A cell without edits.
    pub(super) fn unedited(&self, tokens: &Arc<Tokens>, readout: Readout) -> Cell {
        self.cell((tokens, readout), Vec::new())
    }

    fn cell(&self, (tokens, readout): (&Arc<Tokens>, Readout), edits: Vec<Intervention>) -> Cell {
        let (fingerprint, n_layers) = (self.model.fingerprint, self.model.config().n_layers);
        Cell::new(fingerprint, Arc::clone(tokens), edits, readout, n_layers)
    }

    /// What is read of the items at every point. Where a condition is not met, that is what is read unedited; both are asked for, whatever the
    /// threshold is.
    ///
    /// # Errors
    /// Those of the evaluator; a prompt without the positions of an edit.
    pub(super) fn read(
        &self,
        items: &[Item<'_>],
        evaluator: &mut dyn Evaluate,
    ) -> Result<Values, StageError> {
        let likeness = self.likeness(items, evaluator)?;
        let mut starts = vec![0];
        for item in items {
            starts.push(starts.last().unwrap_or(&0) + item.readings.len());
        }
        let grid = Grid {
            bench: self,
            items,
            starts,
            positions: self.positions(items)?,
        };
        let mut values = evaluator.evaluate_all(&grid)?.into_iter();
        let of_point = |_| -> Vec<Vec<Value>> {
            let of_item = |item: &Item<'_>| values.by_ref().take(item.readings.len()).collect();
            items.iter().map(of_item).collect()
        };
        let mut read: Values = self.points.iter().map(of_point).collect();
        let Some((unedited, edited)) = read.split_first_mut() else {
            return Ok(read);
        };
        for (point, values) in self.points[1..].iter().zip(edited) {
            let gate = point.line.and_then(|line| line.gate.as_ref());
            for (index, values) in values.iter_mut().enumerate() {
                if gate.is_some_and(|gate| !gate.is_open(likeness[index])) {
                    values.clone_from(&unedited[index]);
                }
            }
        }
        Ok(read)
    }

    /// How like the direction of the condition each item is; none without a condition.
    fn likeness(
        &self,
        items: &[Item<'_>],
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<f64>, StageError> {
        let mut gates = self.points.iter().filter_map(|p| p.line?.gate.as_ref());
        let Some(gate) = gates.next() else {
            return Ok(Vec::new());
        };
        let cell = |item: &Item<'_>| {
            let tokens = item.whole.as_ref().unwrap_or(&item.asked);
            gate.likeness.cell(self.model, tokens)
        };
        let asked = items.iter().map(cell).enumerate();
        let found = sweep::likenesses(&gate.likeness, asked.collect(), evaluator)?;
        Ok(found.into_iter().map(|(_, likeness)| likeness).collect())
    }

    /// Where each edit of a run acts in each item.
    fn positions(&self, items: &[Item<'_>]) -> Result<Vec<Vec<Positions>>, StageError> {
        let layout = |selection| match items.iter().all(|item| item.is_plain) {
            true => Ok(Layout::none()),
            false => Layout::of(selection, self.model, &self.settings.chat),
        };
        let selections = self.steering.selections().into_iter();
        let selections = selections.map(|selection| Ok((selection, layout(selection)?)));
        let selections: Vec<(&Selection, Layout)> =
            selections.collect::<Result<_, StageError>>()?;
        let of_item = |item: &Item<'_>| {
            let each = selections.iter();
            let each =
                each.map(|(selection, layout)| selection.of(layout, &item.asked, item.prompt));
            each.collect::<Result<Vec<Positions>, StageError>>()
        };
        items.iter().map(of_item).collect()
    }
}

impl Cells for Grid<'_> {
    fn count(&self) -> usize {
        self.bench.points.len() * self.starts.last().unwrap_or(&0)
    }

    fn cell(&self, number: usize) -> Cell {
        let of_point = self.starts.last().copied().unwrap_or(0).max(1);
        let (point, number) = (self.bench.points[number / of_point], number % of_point);
        let item = self.starts.partition_point(|start| *start <= number) - 1;
        let reading = &self.items[item].readings[number - self.starts[item]];
        let config = self.bench.model.config();
        let edits = point.line.map_or(Vec::new(), |line| {
            line.edits(point.alpha, &self.positions[item], config)
        });
        let read = (&reading.tokens, reading.readout.clone());
        self.bench.cell(read, edits)
    }
}
