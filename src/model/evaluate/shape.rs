//! The shape of a cell: where its work starts, how many positions it covers, which kinds of edit it makes, what is read. Cells of one
//! shape share tiles; everything in a shape follows from the cell alone.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::cell::{Cell, Operation, Positions, Readout, TokenSets};
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{Alike, GENERATION_ROWS, SWEEP_ROWS, TILE_POSITIONS, TILE_ROWS};

/// Rows of a prompt that share its keys and values in attention. Twelve are no quicker, and a sweep of few α would fill no group.
const GROUP_ROWS: usize = 4;

/// Where a tile's work starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Start {
    /// At the embedding of the suffix, with every block computed.
    Embedding,
    /// With the residual stream that enters a block (or, for the number of blocks, leaves the last).
    Block(usize),
    /// Each row at its own [`Entry`]. What is edited, and how, is the same in all rows; the layers are not.
    Each(Vec<(Site, Operation)>),
}

/// Where the work of one cell starts, at the last position. Ordered as the passes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) layer: usize,
    pub(super) step: EntryStep,
}

/// The first part of a block that has to be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum EntryStep {
    Attention,
    Mlp,
    /// The sum at the end of the block.
    Sum,
}

/// An edit of a shape: where, at which of the suffix's positions (counted from its first; None beyond the prompt), and what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::model) struct ShapeEdit {
    pub(super) hook: HookPoint,
    offset: usize,
    open: bool,
    pub(super) operation: Operation,
}

impl ShapeEdit {
    /// Whether the edit acts at the suffix's position of that index.
    pub(in crate::model) fn acts_at(&self, index: usize) -> bool {
        index == self.offset || self.open && index > self.offset
    }
}

/// Cells of equal shape can share a tile. Everything in it follows from the cell alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) start: Start,
    prompts: Alike,
    pub(super) suffix: usize,
    /// In the order of the cells' interventions; left empty where [`Start::Each`] says what they are.
    pub(super) edits: Vec<ShapeEdit>,
    pub(super) readout: ReadoutShape,
}

impl Shape {
    /// For a model of so many blocks, which turns the prompt as long texts are or not.
    pub(super) fn of(cell: &Cell, n_layers: usize, is_long: bool) -> Self {
        let last = cell.tokens.len() - 1;
        let first_edit = cell.interventions.iter().map(|i| i.positions.first()).min();
        let generates = matches!(cell.readout, Readout::Generation { .. });
        let read = match cell.readout {
            Readout::Activation { position, .. } => position,
            _ => last,
        };
        let start = first_edit.unwrap_or(last).min(read).min(last);
        let suffix = last - start + 1;
        let edits: Vec<ShapeEdit> = cell
            .interventions
            .iter()
            .map(|i| ShapeEdit {
                hook: i.hook,
                offset: i.positions.first() - start,
                open: matches!(i.positions, Positions::From(_)),
                operation: i.edit.operation(),
            })
            .collect();
        let readout = match &cell.readout {
            Readout::Score(sets) => ReadoutShape::Score(Arc::clone(sets)),
            Readout::LogProbabilities(ids) => ReadoutShape::LogProbabilities(Arc::clone(ids)),
            Readout::Activation { hook, position } => ReadoutShape::Activation {
                hook: *hook,
                offset: position - start,
            },
            Readout::Generation { max_new_tokens, .. } => ReadoutShape::Generation {
                max_new_tokens: *max_new_tokens,
            },
        };
        let start = match (first_hook(cell), entry(cell, n_layers), &readout) {
            _ if suffix > 1 || generates => Start::Embedding,
            (Some(HookPoint::Embed), ..) => Start::Embedding,
            (_, None, _) => Start::Block(n_layers),
            (_, Some(entry), ReadoutShape::Activation { .. }) => Start::Block(entry.layer),
            (_, Some(_), _) => Start::Each(kinds(&edits)),
        };
        Shape {
            edits: match start {
                Start::Each(_) => Vec::new(),
                _ => edits,
            },
            start,
            prompts: Alike::of(&cell.tokens, is_long),
            suffix,
            readout,
        }
    }

    /// Rows of a tile of this shape. Scores of the last position come in thousands, reads and longer suffixes by the prompt.
    pub(super) fn rows(&self) -> usize {
        let adds = |edit: &ShapeEdit| edit.operation == Operation::Add;
        let rows = match (&self.start, &self.readout) {
            (Start::Each(_), _) => SWEEP_ROWS,
            (_, ReadoutShape::Generation { .. }) => GENERATION_ROWS,
            (_, ReadoutShape::Score(_)) if self.edits.iter().all(adds) => SWEEP_ROWS,
            _ => TILE_ROWS,
        };
        rows.min((TILE_POSITIONS / self.suffix).max(1))
    }

    /// Neighbouring rows of one prompt that attend together. A sweep has many α for each prompt, a patch seldom two donors.
    pub(super) fn group(&self) -> usize {
        let adds = |(_, operation): &(Site, Operation)| *operation == Operation::Add;
        match &self.start {
            Start::Each(kinds) if kinds.iter().all(adds) => GROUP_ROWS,
            _ => 1,
        }
    }
}

/// What is read, with positions counted from the start of the suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReadoutShape {
    Score(Arc<TokenSets>),
    LogProbabilities(Arc<Vec<u32>>),
    Activation { hook: HookPoint, offset: usize },
    Generation { max_new_tokens: usize },
}

/// What is edited and how, whatever the layer.
fn kinds(edits: &[ShapeEdit]) -> Vec<(Site, Operation)> {
    let kinds = edits.iter().filter_map(|edit| match edit.hook {
        HookPoint::Block { site, .. } => Some((site, edit.operation)),
        _ => None,
    });
    kinds.collect::<BTreeSet<_>>().into_iter().collect()
}

fn first_hook(cell: &Cell) -> Option<HookPoint> {
    let read = match cell.readout {
        Readout::Activation { hook, .. } => Some(hook),
        _ => None,
    };
    cell.interventions.iter().map(|i| i.hook).chain(read).min()
}

/// Where the work of a cell of a shape that starts with [`Start::Each`] begins: the latest place from which everything is computed that its
/// first edit or read concerns; none where that is behind the last block.
pub(super) fn entry(cell: &Cell, n_layers: usize) -> Option<Entry> {
    let HookPoint::Block { layer, site } = first_hook(cell)? else {
        return None;
    };
    let step = match site {
        Site::ResidPre | Site::AttnZ => EntryStep::Attention,
        Site::AttnOut | Site::ResidMid | Site::MlpPost => EntryStep::Mlp,
        Site::ResidPost if layer + 1 == n_layers => return None,
        Site::MlpOut | Site::ResidPost => EntryStep::Sum,
    };
    Some(Entry { layer, step })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::cell::{Edit, Intervention, Tokens, Vector};

    #[test]
    fn the_further_back_an_edit_the_fewer_rows() {
        let rows = |length: usize| {
            let edit = Intervention {
                hook: HookPoint::block(0, Site::ResidPre),
                positions: Positions::At(0),
                edit: Edit::Replace(Arc::new(Vector::new(vec![1.0]))),
            };
            let tokens = Arc::new(Tokens::new(vec![5; length]));
            let readout = Readout::LogProbabilities(Arc::new(vec![1]));
            let cell = Cell::new(blake3::hash(b"model"), tokens, vec![edit], readout, 2);
            Shape::of(&cell, 2, false).rows()
        };
        assert_eq!([16, 17, 100, 5000].map(rows), [64, 60, 10, 1]);
    }
}
