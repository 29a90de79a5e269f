//! The shape of a cell: where its work starts, how many positions it covers, which kinds of edit it makes, from what its value is read. Cells of
//! one shape share tiles; everything in a shape follows from the cell alone.

use std::collections::BTreeSet;

use crate::model::cell::{Cell, Intervention, Operation, Positions, Readout};
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{Alike, GENERATION_ROWS, SWEEP_ROWS, TILE_POSITIONS, TILE_ROWS};

/// Rows of a prompt that share its keys and values in attention. Twelve are no quicker, and a sweep of few α would fill no group.
const GROUP_ROWS: usize = 4;

/// Where a tile's work starts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::model) enum Start {
    /// At the embedding of the suffix, with every block computed.
    Embedding,
    /// With the residual stream that enters a block (or, for the number of blocks, leaves the last).
    Block(usize),
    /// Each row at its own [`Entry`]. What is edited, and how, is the same in all rows; the layers are not.
    Each(Vec<(Site, Operation)>),
}

impl Start {
    /// The first layer that is computed of all rows, from the suffix's first position on.
    pub(in crate::model) fn first_layer(&self) -> usize {
        match self {
            Start::Block(layer) => *layer,
            Start::Embedding | Start::Each(_) => 0,
        }
    }
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

/// An edit of a shape: where, at which of the suffix's positions (counted from its first), and what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::model) struct ShapeEdit {
    pub(super) hook: HookPoint,
    /// Half-open, ascending.
    offsets: Vec<(usize, usize)>,
    pub(super) operation: Operation,
}

impl ShapeEdit {
    /// Where the edit acts among `count` positions of which the first has that index in the suffix: half-open, counted from that one.
    pub(in crate::model) fn acts_at(
        &self,
        first_index: usize,
        count: usize,
    ) -> impl Iterator<Item = (usize, usize)> {
        let inside =
            move |index: usize| index.clamp(first_index, first_index + count) - first_index;
        let ranges = self.offsets.iter();
        let ranges = ranges.map(move |(start, end)| (inside(*start), inside(*end)));
        ranges.filter(|(start, end)| start < end)
    }
}

/// Cells of equal shape can share a tile. Everything in it follows from the cell alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) start: Start,
    prompts: Alike,
    /// Number of positions computed of each row, ending with the last of its text.
    pub(super) suffix: usize,
    /// Whether that is the whole text, so that nothing before it is looked at.
    pub(super) is_whole: bool,
    /// In the order of the cells' interventions; left empty where [`Start::Each`] says what they are.
    pub(super) edits: Vec<ShapeEdit>,
    pub(super) readout: ReadoutShape,
}

impl Shape {
    /// For a model of so many blocks, which turns the prompt as long texts are or not. What follows the prompt and is given is among the
    /// cell's tokens.
    pub(super) fn of(cell: &Cell, n_layers: usize, is_long: bool) -> Self {
        let start = start_of(cell);
        let suffix = cell.tokens.len() - start;
        let offset = |position: usize| match position {
            Positions::OPEN => Positions::OPEN,
            position => position - start,
        };
        let edit = |i: &Intervention| ShapeEdit {
            hook: i.hook,
            offsets: i
                .positions
                .ranges()
                .map(|(start, end)| (offset(start), offset(end)))
                .collect(),
            operation: i.edit.operation(),
        };
        let edits: Vec<ShapeEdit> = cell.interventions.iter().map(edit).collect();
        let readout = match &cell.readout {
            readout if readout.is_of_last_position() => ReadoutShape::Last,
            Readout::Continuation(ids) => ReadoutShape::Continuation { count: ids.len() },
            Readout::Activation { hook, position } => ReadoutShape::Activation {
                hook: *hook,
                offset: position - start,
            },
            Readout::Mean { hook } => ReadoutShape::Mean { hook: *hook },
            Readout::Generation { max_new_tokens, .. } => ReadoutShape::Generation {
                max_new_tokens: *max_new_tokens,
            },
            _ => ReadoutShape::Last,
        };
        let generates = matches!(readout, ReadoutShape::Generation { .. });
        let work = match (first_hook(cell), entry(cell, n_layers)) {
            // One position costs less than what is read of it.
            _ if generates && suffix == 1 => Start::Embedding,
            (Some(HookPoint::Embed), _) => Start::Embedding,
            (_, Some(entry)) if suffix > 1 && entry.layer == 0 => Start::Embedding,
            (_, Some(entry)) if suffix > 1 => Start::Block(entry.layer),
            // The stream that leaves the last block is kept of the last position alone.
            (_, None) if suffix > 1 => Start::Block(n_layers - 1),
            (_, None) => Start::Block(n_layers),
            (_, Some(entry)) => match readout {
                ReadoutShape::Activation { .. } | ReadoutShape::Mean { .. } => {
                    Start::Block(entry.layer)
                }
                _ => Start::Each(kinds(&edits)),
            },
        };
        Shape {
            edits: match work {
                Start::Each(_) => Vec::new(),
                _ => edits,
            },
            start: work,
            prompts: Alike::of(&cell.tokens, is_long),
            suffix,
            is_whole: start == 0 && suffix > 1,
            readout,
        }
    }

    /// Whether it is computed of its text alone, with nothing that a prefill leaves.
    pub(super) fn starts_anew(&self) -> bool {
        self.is_whole && self.start == Start::Embedding
    }

    /// The layer with whose stream it starts, and at how many of the last positions; none where the last alone will do.
    pub(super) fn stream(&self) -> Option<(usize, usize)> {
        match self.start {
            Start::Block(layer) if self.suffix > 1 => Some((layer, self.suffix)),
            _ => None,
        }
    }

    /// Rows of a tile of this shape. Scores of the last position come in thousands, reads and longer suffixes by the prompt.
    pub(super) fn rows(&self) -> usize {
        let adds = |edit: &ShapeEdit| edit.operation == Operation::Add;
        let rows = match (&self.start, &self.readout) {
            (Start::Each(_), _) => SWEEP_ROWS,
            (_, ReadoutShape::Generation { .. }) => GENERATION_ROWS,
            (_, ReadoutShape::Last) if self.edits.iter().all(adds) => SWEEP_ROWS,
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

/// From what the value is read, with positions counted from the start of the suffix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum ReadoutShape {
    /// The logits of the last position.
    Last,
    /// Those of so many last positions.
    Continuation {
        count: usize,
    },
    Activation {
        hook: HookPoint,
        offset: usize,
    },
    Mean {
        hook: HookPoint,
    },
    Generation {
        max_new_tokens: usize,
    },
}

/// Whether the last position of a cell's text is all that is computed.
pub(super) fn is_of_last_alone(cell: &Cell) -> bool {
    start_of(cell) + 1 == cell.tokens.len()
}

/// The first position that is computed of a cell's text.
fn start_of(cell: &Cell) -> usize {
    let last = cell.tokens.len() - 1;
    let read = match &cell.readout {
        Readout::Activation { position, .. } => *position,
        Readout::Mean { .. } => 0,
        Readout::Continuation(ids) => last + 1 - ids.len().clamp(1, last + 1),
        _ => last,
    };
    let edited = cell.interventions.iter().map(|i| i.positions.first());
    edited.chain([read]).min().unwrap_or(last).min(last)
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
    let read = cell.readout.hook();
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
    use std::sync::Arc;

    use super::*;
    use crate::model::cell::{Edit, Tokens, Vector};

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
        assert_eq!([4, 5, 100, 5000].map(rows), [64, 51, 2, 1]);
    }
}
