//! The texts that cells are read of: cells that differ in what is read are one, whichever of the edits they leave out.

use std::ops::Range;

use crate::model::cell::{Cell, Intervention, Operation, Readout};
use crate::model::evaluate::outcomes::AtHand;
use crate::model::evaluate::shape::entry;
use crate::model::evaluate::tile::ingredients_of;
use crate::model::hooks::HookPoint;
use crate::model::prefix::prompt_key;
use crate::model::transformer::Transformer;

/// Texts whose passes do the same to vectors of their own.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(in crate::model::evaluate) struct Kind {
    pub(super) template: blake3::Hash,
    pub(super) is_long: bool,
    /// The first layer that is computed; none where a text starts with its embedding.
    pub(super) start: Option<usize>,
    pub(super) edits: Vec<(HookPoint, Operation)>,
    /// Where vectors are read, in the order of the computation; nowhere where logits are.
    pub(super) hooks: Vec<HookPoint>,
}

/// A text under edits, and the cells that are read of it: neighbours among the numbers.
pub(super) struct Row {
    /// The hash of what the edits are made of.
    pub(super) edits: blake3::Hash,
    /// How many of its own tokens are computed.
    pub(super) own: usize,
    /// The number of the cell with all of the edits.
    pub(super) whole: u32,
    pub(super) members: Range<usize>,
}

/// The texts of the cells, each with its kind.
pub(super) fn rows_of(
    at_hand: &AtHand<'_>,
    numbers: &[u32],
    transformer: &Transformer,
) -> Vec<(Kind, Row)> {
    let mut rows = Vec::new();
    let mut last: Option<Growing> = None;
    for (index, &number) in numbers.iter().enumerate() {
        let cell = at_hand.cell(number);
        let taken = last.as_mut().is_some_and(|row| row.takes(number, &cell));
        if !taken {
            let next = Growing::new((index, number), cell);
            rows.extend(last.replace(next).map(|row| row.done(index, transformer)));
        }
    }
    rows.extend(last.map(|row| row.done(numbers.len(), transformer)));
    rows
}

/// A row that may take further cells.
struct Growing {
    cell: Cell,
    whole: u32,
    start: usize,
    /// Where vectors are read; the last is where the deepest is.
    hooks: Vec<HookPoint>,
}

impl Growing {
    fn new((start, whole): (usize, u32), cell: Cell) -> Self {
        Growing {
            whole,
            start,
            hooks: cell.readout.hook().into_iter().collect(),
            cell,
        }
    }

    /// Takes a cell, if it is read of the same text, whose edits behind what is read may be left out.
    fn takes(&mut self, number: u32, cell: &Cell) -> bool {
        let text = |cell: &Cell| (prompt_key(&cell.tokens), end(cell));
        if text(&self.cell) != text(cell) {
            return false;
        }
        let up_to = |edits: &[Intervention], hook: HookPoint| {
            edits.iter().take_while(|i| i.hook <= hook).count()
        };
        match (self.hooks.last().copied(), cell.readout.hook()) {
            (None, None) => self.cell.interventions == cell.interventions,
            (Some(deepest), Some(hook)) if hook <= deepest => {
                let (mine, theirs) = (&self.cell.interventions, &cell.interventions);
                let taken = mine[..up_to(mine, hook)] == theirs[..];
                if taken && !self.hooks.contains(&hook) {
                    self.hooks.push(hook);
                    self.hooks.sort_unstable();
                }
                taken
            }
            (Some(deepest), Some(hook)) => {
                let (mine, theirs) = (&self.cell.interventions, &cell.interventions);
                let taken = mine[..] == theirs[..up_to(theirs, deepest)];
                if taken {
                    self.hooks.push(hook);
                    self.whole = number;
                    self.cell = cell.clone();
                }
                taken
            }
            _ => false,
        }
    }

    fn done(self, end_of_members: usize, transformer: &Transformer) -> (Kind, Row) {
        let cell = &self.cell;
        let mut edits = blake3::Hasher::new();
        for (hash, number) in cell
            .interventions
            .iter()
            .flat_map(|i| ingredients_of(&i.edit))
        {
            edits.update(hash.as_bytes());
            edits.update(&number.to_le_bytes());
        }
        let row = Row {
            edits: edits.finalize(),
            own: end(cell) - cell.tokens.template().len(),
            whole: self.whole,
            members: self.start..end_of_members,
        };
        let kind = Kind {
            template: cell.tokens.template_hash(),
            is_long: transformer.is_long(cell.tokens.len()),
            start: first_layer(cell, transformer.config.n_layers),
            edits: cell
                .interventions
                .iter()
                .map(|i| (i.hook, i.edit.operation()))
                .collect(),
            hooks: self.hooks,
        };
        (kind, row)
    }
}

impl Kind {
    /// The layers that are computed.
    pub(super) fn layers(&self, n_layers: usize) -> Range<usize> {
        let end = match self.hooks.last() {
            Some(HookPoint::Block { layer, .. }) => layer + 1,
            _ => n_layers,
        };
        self.start.unwrap_or(0)..end
    }
}

/// The layer with whose unedited stream a text that is edited throughout starts; none where it starts with its embedding.
pub(in crate::model::evaluate) fn first_layer(cell: &Cell, n_layers: usize) -> Option<usize> {
    if cell
        .interventions
        .iter()
        .any(|i| i.hook == HookPoint::Embed)
    {
        return None;
    }
    let layer = entry(cell, n_layers).map_or(n_layers - 1, |entry| entry.layer);
    Some(layer).filter(|layer| *layer > 0)
}

/// How many tokens of a cell's text are computed.
fn end(cell: &Cell) -> usize {
    match cell.readout {
        Readout::Activation { position, .. } => position + 1,
        _ => cell.tokens.len(),
    }
}
