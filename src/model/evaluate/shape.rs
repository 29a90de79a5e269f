//! The shape of a cell: where its work starts, how many positions it covers, which kinds of edit it makes, what is read. Cells of one
//! shape share tiles; everything in a shape follows from the cell alone.

use std::sync::Arc;

use crate::model::cell::{Cell, Edit, Positions, Readout, TokenSets};
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{SWEEP_ROWS, TILE_ROWS, bucket};

/// Where a tile's work starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Entry {
    /// At the embedding of the suffix, with every block computed.
    Embedding,
    /// With the residual stream that enters a block (or, for the number of blocks, leaves the last).
    Block(usize),
    /// Between attention and MLP of a block.
    AfterAttention(usize),
    /// After the MLP of a block, before its output is added.
    AfterMlp(usize),
}

/// Which kind of edit, without its vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Operation {
    Add,
    Ablate,
    Replace,
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
    pub(super) entry: Entry,
    template: blake3::Hash,
    bucket: usize,
    pub(super) suffix: usize,
    pub(super) edits: Vec<ShapeEdit>,
    pub(super) readout: ReadoutShape,
}

impl Shape {
    /// Rows of a tile of this shape. Steered scores come in thousands; patches and reads by the pair, layer and site.
    pub(super) fn rows(&self) -> usize {
        let adds = |edit: &ShapeEdit| edit.operation == Operation::Add;
        match self.readout {
            ReadoutShape::Score(_) if self.edits.iter().all(adds) => SWEEP_ROWS,
            _ => TILE_ROWS,
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

/// The shape of a cell, for a model of that many blocks.
pub(super) fn shape(cell: &Cell, n_layers: usize) -> Shape {
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
            operation: match i.edit {
                Edit::Add { .. } => Operation::Add,
                Edit::Ablate(_) => Operation::Ablate,
                Edit::Replace(_) => Operation::Replace,
            },
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
    let entry = if suffix > 1 || generates {
        Entry::Embedding
    } else {
        entry(&edits, &readout, n_layers)
    };
    Shape {
        entry,
        template: cell.tokens.template_hash(),
        bucket: bucket(&cell.tokens),
        suffix,
        edits,
        readout,
    }
}

/// The latest place from which everything that the edits change, and what is read, is computed.
fn entry(edits: &[ShapeEdit], readout: &ReadoutShape, n_layers: usize) -> Entry {
    let of_hook = |hook: HookPoint| match hook {
        HookPoint::Embed => Entry::Embedding,
        HookPoint::FinalNormalized => Entry::Block(n_layers),
        HookPoint::Block { layer, site } => match site {
            Site::ResidPre | Site::AttnZ => Entry::Block(layer),
            Site::AttnOut | Site::ResidMid | Site::MlpPost => Entry::AfterAttention(layer),
            Site::ResidPost if layer + 1 == n_layers => Entry::Block(n_layers),
            Site::MlpOut | Site::ResidPost => Entry::AfterMlp(layer),
        },
    };
    let read = match readout {
        ReadoutShape::Activation { hook, .. } => Some(*hook),
        _ => None,
    };
    let first = edits.iter().map(|edit| edit.hook).chain(read).min();
    first.map_or(Entry::Block(n_layers), of_hook)
}
