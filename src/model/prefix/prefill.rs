//! Prefill: the pass over whole prompts that fills the store.
//!
//! Prompts are packed one after another into batches of a constant number of positions, so that nearly nothing is computed for padding. All
//! products over positions then have one size; attention is computed prompt by prompt. The last block is computed for all positions only as far
//! as their keys and values, and then, by the arithmetic of suffixes, for the last position of each prompt.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::sync::Arc;

use tch::Tensor;

use super::rows::{Rows, SeenFrom};
use super::{Alike, BlockRow, PromptBlock, SWEEP_ROWS, Streams, Template};
use crate::model::cell::Tokens;
use crate::model::error::Result;
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{Span, Tap, Transformer, attend_packed};

/// Positions of a prefill batch: constant, so that a prompt's bits do not depend on which others are prefilled with it. A longer prompt has
/// a batch to itself, of a multiple of this.
const BATCH_POSITIONS: usize = 256;

/// A template's batch holds a multiple of this many positions.
const TEMPLATE_POSITIONS: usize = 32;

/// Positions of the batch of a template of so many tokens, of which there is only one, and most are short.
pub(in crate::model) fn template_positions(length: usize) -> usize {
    length.next_multiple_of(TEMPLATE_POSITIONS)
}

/// Texts, the longest first, brought together in batches of so many positions; the shortest go into what room is left.
pub(in crate::model) fn packed<T>(
    texts: Vec<T>,
    positions: usize,
    length: impl Fn(&T) -> usize,
) -> Vec<Vec<T>> {
    let mut unpacked = VecDeque::from(texts);
    let mut batches = Vec::new();
    while let Some(first) = unpacked.pop_front() {
        let mut room = positions.saturating_sub(length(&first));
        let mut texts = vec![first];
        loop {
            let fits = |text: &&T| length(text) <= room;
            let ends = (
                unpacked.front().filter(fits).is_some(),
                unpacked.back().filter(fits).is_some(),
            );
            let next = match ends {
                (true, _) => unpacked.pop_front(),
                (false, true) => unpacked.pop_back(),
                (false, false) => None,
            };
            let Some(next) = next else { break };
            room -= length(&next);
            texts.push(next);
        }
        batches.push(texts);
    }
    batches
}

/// Prompts of one template, all long or all not, that are prefilled together, packed one after another.
pub(super) struct Batch<'b> {
    pub(super) rows: Vec<BlockRow<'b>>,
    positions: usize,
}

pub(super) fn pack(blocks: &[PromptBlock]) -> Vec<Batch<'_>> {
    let length = |row: &BlockRow<'_>| row.prompt().own().len();
    let template = |row: &BlockRow<'_>| {
        let hash = *row.prompt().template_hash().as_bytes();
        (hash, row.block.is_long)
    };
    let mut rows: Vec<BlockRow<'_>> = blocks.iter().flat_map(PromptBlock::rows).collect();
    rows.sort_by_key(|row| (template(row), Reverse(length(row))));
    let mut batches = Vec::new();
    for same in rows.chunk_by(|a, b| template(a) == template(b)) {
        let of_rows = packed(same.to_vec(), BATCH_POSITIONS, length);
        batches.extend(of_rows.into_iter().map(|rows| Batch {
            positions: length(&rows[0]).next_multiple_of(BATCH_POSITIONS),
            rows,
        }));
    }
    batches
}

/// Computes what all prompts of a chat start with, or all that are long.
pub(super) fn prefill_template(
    transformer: &Transformer,
    ids: &[u32],
    is_long: bool,
) -> Result<Template> {
    let alone = Arc::new(Tokens::new(ids.to_vec()));
    let alike = Alike {
        bucket: ids.len(),
        ..Alike::of(&alone, is_long)
    };
    let kept = Streams {
        layers: (0..transformer.config.n_layers).collect(),
        positions: ids.len(),
    };
    let mut block = PromptBlock::empty(transformer, None, alike, &[alone], kept)?;
    let batch = Batch {
        rows: block.rows().collect(),
        positions: template_positions(ids.len()),
    };
    batch.prefill(transformer)?;
    let first = block
        .cached
        .iter()
        .map(|cached| cached.map(|of| Ok(of.f_select(0, 0)?)));
    let cached = first.collect::<Result<_>>()?;
    let streams = std::mem::take(&mut block.streams).into_values();
    let streams = streams.map(|stream| Ok(stream.f_select(0, 0)?));
    Ok(Template {
        length: ids.len(),
        cached,
        streams: streams.collect::<Result<_>>()?,
    })
}

impl Batch<'_> {
    /// Where the rows are along the batch's positions; `before` is the number of positions of the template.
    fn spans(&self, transformer: &Transformer, before: usize) -> Result<Vec<Span>> {
        let mut start = 0;
        let spans = self.rows.iter().map(|row| {
            let length = row.prompt().own().len() as i64;
            let mask = transformer.by_window(before + length as usize, |window| {
                let mask = transformer.causal_mask(before as i64, length, window)?;
                Ok(mask.f_squeeze_dim(0)?)
            });
            let span = Span {
                start,
                length,
                mask: mask?,
            };
            start += length;
            Ok(span)
        });
        spans.collect()
    }

    /// Numbers along the batch's positions, with 0 for those that belong to no row, `[1, S]` int64.
    fn padded(
        &self,
        transformer: &Transformer,
        of_rows: impl Iterator<Item = i64>,
    ) -> Result<Tensor> {
        let padded = of_rows.chain(std::iter::repeat(0)).take(self.positions);
        Ok(transformer.index(padded)?.f_unsqueeze(0)?)
    }

    /// Computes the batch and leaves the results in the blocks, all but what the last layer makes of the last positions.
    pub(super) fn prefill(&self, transformer: &Transformer) -> Result<()> {
        let block = self.rows[0].block;
        let template = block.template.as_deref();
        let before = template.map_or(0, |template| template.length);
        let spans = self.spans(transformer, before)?;
        let n_layers = transformer.config.n_layers;
        let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
        let hooks = (0..n_layers).flat_map(|l| sites.map(|site| HookPoint::block(l, site)));
        let last = spans.iter().map(|span| span.start + span.length - 1);
        let mut tap = Tap {
            wanted: hooks.collect(),
            kept_rows: Some(transformer.index(last)?),
            ..Tap::default()
        };
        let own = || self.rows.iter().map(|row| row.prompt().own());
        let positions = own().flat_map(|own| before..before + own.len());
        let positions = self.padded(transformer, positions.map(|p| p as i64))?;
        let rotaries = transformer.rotaries(&positions, block.is_long)?;
        let ids = self.padded(transformer, own().flatten().map(|&id| id.into()))?;
        let mut x = transformer.placed(transformer.embed(&ids)?, &positions)?;
        for layer in 0..n_layers {
            x = tap.pass_site(layer, Site::ResidPre, x)?;
            self.store_stream(layer, &x, &spans)?;
            let projected = transformer.project(layer, &x, &rotaries)?;
            for (row, span) in self.rows.iter().zip(&spans) {
                let place = row.block.cached[layer].map(|of| {
                    let of = of.f_select(0, row.row as i64)?;
                    Ok(of.f_narrow(1, 0, span.length)?)
                });
                place?.write(&span.own(&projected)?)?;
            }
            if layer + 1 < n_layers {
                let before = |_| template.map(|template| &template.cached[layer]);
                let attention = transformer.attention(layer);
                let z = attend_packed(&projected, attention, before, &spans)?;
                x = transformer.after_heads(layer, &x, z, &mut tap)?;
            }
            self.store_last(&mut tap)?;
        }
        Ok(())
    }

    /// Copies what enters a layer, `x [1, S, d_model]`, into the blocks that keep it.
    fn store_stream(&self, layer: usize, x: &Tensor, spans: &[Span]) -> Result<()> {
        for (row, span) in self.rows.iter().zip(spans) {
            let Some(stream) = row.block.streams.get(&layer) else {
                continue;
            };
            let positions = stream.size()[1];
            let count = positions.min(span.length);
            let from = x
                .f_select(0, 0)?
                .f_narrow(0, span.start + span.length - count, count)?;
            let of_row = stream.f_select(0, row.row as i64)?;
            of_row
                .f_narrow(0, positions - count, count)?
                .f_copy_(&from)?;
        }
        Ok(())
    }

    /// Copies the last positions' vectors into the blocks.
    fn store_last(&self, tap: &mut Tap) -> Result<()> {
        for (hook, vectors) in tap.kept.drain(..) {
            for (i, row) in self.rows.iter().enumerate() {
                if let Some(stored) = row.block.stored(hook) {
                    let mut place = stored.f_select(0, row.row as i64)?;
                    place.f_copy_(&vectors.f_select(0, i as i64)?)?;
                }
            }
        }
        Ok(())
    }
}

/// Computes the last layer at the last position of a block's prompts.
pub(super) fn prefill_last_layer(transformer: &Transformer, block: &PromptBlock) -> Result<()> {
    let layer = transformer.config.n_layers - 1;
    let count = block.prompts.len();
    let padding = BlockRow { block, row: 0 };
    let rows: Vec<_> = block
        .rows()
        .chain(std::iter::repeat(padding))
        .take(SWEEP_ROWS)
        .collect();
    let rows = Rows::new(transformer, &rows, 1)?;
    let masks = rows.masks(1, SeenFrom::Suffix)?;
    let wanted = [Site::AttnOut, Site::MlpOut, Site::ResidPost];
    let mut tap = Tap {
        wanted: wanted.map(|site| HookPoint::block(layer, site)).to_vec(),
        ..Tap::default()
    };
    let x = rows.entering(HookPoint::block(layer, Site::ResidPre))?;
    let cached = rows.cached(layer)?;
    let earlier = cached.earlier(&masks)?;
    let rotaries = rows.rotaries(&rows.positions(1)?)?;
    let _ = transformer.block(layer, &x, &rotaries, &earlier, None, &mut tap)?;
    for (hook, vectors) in &tap.kept {
        if let Some(stored) = block.stored(*hook) {
            let computed = vectors.f_select(1, 0)?.f_narrow(0, 0, count as i64)?;
            stored.shallow_clone().f_copy_(&computed)?;
        }
    }
    Ok(())
}
