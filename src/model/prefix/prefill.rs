//! Prefill: the pass over whole prompts that fills the store.
//!
//! Prompts are packed one after another into batches of a constant number of positions, so that nearly nothing is computed for padding. All
//! products over positions then have one size; attention is computed prompt by prompt. The last block is computed for all positions only as far
//! as their keys and values, and then, by the arithmetic of suffixes, for the last position of each prompt.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use tch::Tensor;

use super::rows::Rows;
use super::{PromptBlock, SWEEP_ROWS, Template};
use crate::model::cell::Tokens;
use crate::model::error::Result;
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{Projected, Span, Tap, Transformer, attend_packed};

/// Positions of a prefill batch: constant, so that a prompt's bits do not depend on which others are prefilled with it. A longer prompt has
/// a batch to itself, of a multiple of this.
const BATCH_POSITIONS: usize = 256;

/// A template's batch holds a multiple of this many positions.
const TEMPLATE_POSITIONS: usize = 32;

/// One prefill batch.
pub(super) struct Batch {
    /// (number of the block, row in it)
    pub(super) members: Vec<(usize, usize)>,
    positions: usize,
}

/// Packs all prompts of the blocks; a batch's prompts share their template.
pub(super) fn pack(blocks: &[PromptBlock]) -> Vec<Batch> {
    let prompt = |&(block, row): &(usize, usize)| &blocks[block].prompts[row];
    let own = |place: &(usize, usize)| prompt(place).own().len();
    let template = |place: &(usize, usize)| *prompt(place).template_hash().as_bytes();
    let rows = |(number, block): (usize, &PromptBlock)| {
        (0..block.prompts.len()).map(move |row| (number, row))
    };
    let mut places: Vec<(usize, usize)> = blocks.iter().enumerate().flat_map(rows).collect();
    // The longest first, and the shortest into what room is left.
    places.sort_by_key(|place| (template(place), Reverse(own(place))));
    let mut batches = Vec::new();
    for same in places.chunk_by(|a, b| template(a) == template(b)) {
        let mut left = VecDeque::from(same.to_vec());
        while let Some(first) = left.pop_front() {
            let mut room = BATCH_POSITIONS.saturating_sub(own(&first));
            let mut members = vec![first];
            loop {
                let fits = |place: &&(usize, usize)| own(place) <= room;
                let next = match (left.front().filter(fits), left.back().filter(fits)) {
                    (Some(_), _) => left.pop_front(),
                    (None, Some(_)) => left.pop_back(),
                    (None, None) => None,
                };
                let Some(next) = next else { break };
                room -= own(&next);
                members.push(next);
            }
            batches.push(Batch {
                positions: own(&first).next_multiple_of(BATCH_POSITIONS),
                members,
            });
        }
    }
    batches
}

/// Computes what all prompts of a chat start with.
pub(super) fn prefill_template(transformer: &Transformer, ids: &[u32]) -> Result<Template> {
    let alone = Arc::new(Tokens::new(ids.to_vec()));
    let block = PromptBlock::empty(transformer, None, ids.len(), &[alone])?;
    let blocks = [block];
    let batch = Batch {
        members: vec![(0, 0)],
        // There is only one of these, and most are short.
        positions: ids.len().next_multiple_of(TEMPLATE_POSITIONS),
    };
    prefill_batch(transformer, &blocks, &batch)?;
    let first = |tensors: &[Tensor]| -> Result<Vec<Tensor>> {
        tensors.iter().map(|t| Ok(t.f_select(0, 0)?)).collect()
    };
    Ok(Template {
        length: ids.len(),
        keys: first(&blocks[0].keys)?,
        values: first(&blocks[0].values)?,
    })
}

/// What a batch is made of, laid out along its positions.
struct Layout {
    ids: Vec<i64>,
    positions: Vec<i64>,
    spans: Vec<Span>,
}

impl Layout {
    /// `before` is the number of positions of the template.
    fn new(
        transformer: &Transformer,
        blocks: &[PromptBlock],
        batch: &Batch,
        before: usize,
    ) -> Result<Self> {
        let mut layout = Layout {
            ids: Vec::with_capacity(batch.positions),
            positions: Vec::with_capacity(batch.positions),
            spans: Vec::with_capacity(batch.members.len()),
        };
        for &(block, row) in &batch.members {
            let own = blocks[block].prompts[row].own();
            layout.spans.push(Span {
                start: layout.ids.len() as i64,
                length: own.len() as i64,
                mask: transformer
                    .causal_mask(before as i64, own.len() as i64)?
                    .f_squeeze_dim(0)?,
            });
            layout.ids.extend(own.iter().map(|&id| i64::from(id)));
            let positions = before..before + own.len();
            layout.positions.extend(positions.map(|p| p as i64));
        }
        layout.ids.resize(batch.positions, 0);
        layout.positions.resize(batch.positions, 0);
        Ok(layout)
    }

    /// Where each prompt's last position is.
    fn last(&self) -> Vec<i64> {
        let end = |span: &Span| span.start + span.length - 1;
        self.spans.iter().map(end).collect()
    }
}

/// Computes one batch and leaves the results in the blocks, all but what the last layer makes of the last positions.
pub(super) fn prefill_batch(
    transformer: &Transformer,
    blocks: &[PromptBlock],
    batch: &Batch,
) -> Result<()> {
    let first = batch.members.first().map(|(block, _)| &blocks[*block]);
    let template = first.and_then(|block| block.template.as_deref());
    let before = template.map_or(0, |template| template.length);
    let layout = Layout::new(transformer, blocks, batch, before)?;
    let device = transformer.device();
    let row = |values: &[i64]| -> Result<Tensor> {
        Ok(Tensor::f_from_slice(values)?
            .f_unsqueeze(0)?
            .f_to_device(device)?)
    };
    let n_layers = transformer.config().n_layers;
    let mut tap = Tap {
        wanted: (0..n_layers)
            .flat_map(|layer| {
                [Site::ResidPre, Site::AttnOut, Site::MlpOut].map(|s| HookPoint::block(layer, s))
            })
            .collect(),
        kept_rows: Some(Tensor::f_from_slice(&layout.last())?.f_to_device(device)?),
        ..Tap::default()
    };
    let rotary = transformer.rotary(&row(&layout.positions)?)?;
    let mut x = transformer.embed(&row(&layout.ids)?)?;
    for layer in 0..n_layers {
        x = tap.pass(HookPoint::block(layer, Site::ResidPre), x)?;
        let projected = transformer.project(layer, &x, &rotary)?;
        store_keys(&projected, blocks, batch, &layout.spans, layer)?;
        if layer + 1 < n_layers {
            let before = template.map(|t| (&t.keys[layer], &t.values[layer]));
            let z = attend_packed(&projected, before, &layout.spans)?;
            x = transformer.leave(layer, &x, z, &mut tap)?;
        }
        store_last(blocks, batch, &mut tap)?;
    }
    Ok(())
}

/// Copies a layer's keys and values of a batch into the blocks.
fn store_keys(
    projected: &Projected,
    blocks: &[PromptBlock],
    batch: &Batch,
    spans: &[Span],
    layer: usize,
) -> Result<()> {
    for (&(block, row), span) in batch.members.iter().zip(spans) {
        let block = &blocks[block];
        for (into, from) in [
            (&block.keys[layer], &projected.keys),
            (&block.values[layer], &projected.values),
        ] {
            let own = from
                .f_select(0, 0)?
                .f_narrow(0, span.start, span.length)?
                .f_transpose(0, 1)?;
            into.f_select(0, row as i64)?
                .f_narrow(1, 0, span.length)?
                .f_copy_(&own)?;
        }
    }
    Ok(())
}

/// Copies the last positions' vectors of a batch into the blocks.
fn store_last(blocks: &[PromptBlock], batch: &Batch, tap: &mut Tap) -> Result<()> {
    for (hook, vectors) in tap.kept.drain(..) {
        for (i, &(block, row)) in batch.members.iter().enumerate() {
            if let Some(into) = blocks[block].stored(hook) {
                into.f_select(0, row as i64)?
                    .f_copy_(&vectors.f_select(0, i as i64)?)?;
            }
        }
    }
    Ok(())
}

/// Computes the last layer at the last position of a block's prompts.
pub(super) fn prefill_last_layer(transformer: &Transformer, block: &PromptBlock) -> Result<()> {
    let layer = transformer.config().n_layers - 1;
    let count = block.prompts.len();
    let places: Vec<(&PromptBlock, usize)> = (0..SWEEP_ROWS)
        .map(|row| (block, if row < count { row } else { 0 }))
        .collect();
    let rows = Rows::new(&places, 1, transformer)?;
    let context = rows.context(transformer, 1)?;
    let mut tap = Tap {
        wanted: [Site::AttnOut, Site::MlpOut, Site::ResidPost]
            .map(|site| HookPoint::block(layer, site))
            .to_vec(),
        ..Tap::default()
    };
    let x = rows
        .gather(|block| &block.resid_pre[layer])?
        .f_unsqueeze(1)?;
    let cached = context.layer(layer)?;
    let rotary = rows.rotary(transformer, 1)?;
    let _ = transformer.block(layer, &x, &rotary, &cached.earlier(), None, &mut tap)?;
    for (hook, vectors) in &tap.kept {
        if let Some(into) = block.stored(*hook) {
            let computed = vectors.f_select(1, 0)?.f_narrow(0, 0, count as i64)?;
            let mut into = into.shallow_clone();
            into.f_copy_(&computed)?;
        }
    }
    Ok(())
}
