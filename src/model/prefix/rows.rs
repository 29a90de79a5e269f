//! The rows of a tile, wherever their prompts lie, and the cached positions that they attend to.

use tch::{Kind, TchError, Tensor};

use super::{BlockRow, PromptBlock, Template, not_kept};
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{
    ByWindow, Earlier, Groups, KeysValues, Rotary, Segment, Transformer,
};

/// Prompts that are alike, in the order of a tile's rows; n rows.
pub(in crate::model) struct Rows<'s> {
    transformer: &'s Transformer,
    prompts: Prompts<'s>,
    /// Where several neighbouring rows of one prompt attend together: how, and the prompts of the groups.
    groups: Option<(Groups, Prompts<'s>)>,
    template: Option<&'s Template>,
    is_long: bool,
    /// T
    bucket: usize,
}

/// Prompts where they lie.
struct Prompts<'s> {
    runs: Vec<Run<'s>>,
    /// Numbers of tokens.
    lengths: Vec<usize>,
}

/// Neighbouring rows that lie in one block.
struct Run<'s> {
    block: &'s PromptBlock,
    /// Rows of the block, int64; none where they are the whole block in its order, which then needs no copy.
    rows: Option<Tensor>,
}

impl<'s> Rows<'s> {
    /// Up to `group` neighbouring rows of one prompt attend together.
    pub(in crate::model) fn new(
        transformer: &'s Transformer,
        rows: &[BlockRow<'s>],
        group: usize,
    ) -> Result<Self> {
        let Some(first) = rows.first() else {
            return Err(ModelError::Internal("a tile has no rows".to_string()));
        };
        Ok(Rows {
            transformer,
            prompts: Prompts::new(transformer, rows)?,
            groups: match group {
                1 => None,
                group => Some(in_groups(transformer, rows, group)?),
            },
            template: first.block.template.as_deref(),
            is_long: first.block.is_long,
            bucket: first.block.bucket,
        })
    }

    /// What the prefill left of the last positions at a hook point, `[n, d_model]`; none for a hook point that is not stored.
    pub(in crate::model) fn stored(&self, hook: HookPoint) -> Result<Option<Tensor>> {
        if let HookPoint::Block { layer, site } = hook
            && site == Site::ResidMid
        {
            let part = |site| self.stored(HookPoint::block(layer, site));
            let parts = part(Site::ResidPre)?.zip(part(Site::AttnOut)?);
            return Ok(parts.map(|(x, attn_out)| x.f_add(&attn_out)).transpose()?);
        }
        self.prompts
            .gather(|block| Some(Ok(block.stored(hook)?.shallow_clone())))
    }

    /// [`Rows::stored`] as the stream of single positions, `[n, 1, d_model]`.
    pub(in crate::model) fn entering(&self, hook: HookPoint) -> Result<Tensor> {
        match self.stored(hook)? {
            Some(vectors) => Ok(vectors.f_unsqueeze(1)?),
            None => Err(ModelError::Internal(format!("`{hook}` is not stored"))),
        }
    }

    /// The stream that enters a layer at the last `suffix` positions of each row, `[n, suffix, d_model]`.
    pub(in crate::model) fn stream(&self, layer: usize, suffix: usize) -> Result<Tensor> {
        if suffix == 1 {
            return self.entering(HookPoint::block(layer, Site::ResidPre));
        }
        let missing = || not_kept(layer);
        // Blocks that were filled for other cells may keep more.
        let width = suffix.min(self.bucket);
        let kept = self.prompts.gather(|block| {
            let stream = block.streams.get(&layer)?;
            let start = stream.size()[1] - width as i64;
            Some(stream.f_narrow(1, start, width as i64))
        })?;
        let kept = kept.ok_or_else(missing)?;
        let in_template = self.template.map_or(0, |template| template.length);
        let own = |length: &usize| length - in_template;
        if self
            .prompts
            .lengths
            .iter()
            .all(|length| own(length) >= suffix)
        {
            return Ok(kept);
        }
        let of_template = &self.template.ok_or_else(missing)?.streams[layer];
        let row = |(row, length): (usize, &usize)| -> Result<Tensor> {
            let count = own(length).min(suffix);
            let start = width.checked_sub(count).ok_or_else(missing)?;
            let own = kept
                .f_select(0, row as i64)?
                .f_narrow(0, start as i64, count as i64)?;
            let before = (suffix - count) as i64;
            let shared = of_template.f_narrow(0, in_template as i64 - before, before)?;
            Ok(Tensor::f_cat(&[shared, own], 0)?)
        };
        let rows = self.prompts.lengths.iter().enumerate().map(row);
        Ok(Tensor::f_stack(&rows.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The last `suffix` positions of each row, `[n, suffix]` int64.
    pub(in crate::model) fn positions(&self, suffix: usize) -> Result<Tensor> {
        let lengths = &self.prompts.lengths;
        let positions = lengths.iter().flat_map(|length| length - suffix..*length);
        let positions = positions.map(|position| position as i64);
        let positions = self.transformer.index(positions)?;
        Ok(positions.f_view([lengths.len() as i64, suffix as i64])?)
    }

    /// Rotary angles of positions of the rows, `[n, S]` int64.
    pub(in crate::model) fn rotaries(&self, positions: &Tensor) -> Result<Vec<Rotary>> {
        self.transformer.rotaries(positions, self.is_long)
    }

    /// What of the cached positions, those before the last `suffix` of each row, is seen from these positions.
    pub(in crate::model) fn masks(&self, suffix: usize, seen_from: SeenFrom) -> Result<Masks> {
        let lengths = &self.attending().lengths;
        let longest = lengths.iter().copied().max().unwrap_or_default();
        let made = self
            .transformer
            .by_window(longest + seen_from.ahead(), |window| {
                self.masks_of_window(suffix, seen_from, window)
            });
        made.map(Masks)
    }

    fn masks_of_window(
        &self,
        suffix: usize,
        seen_from: SeenFrom,
        window: Option<usize>,
    ) -> Result<SegmentMasks> {
        let in_template = self.template.map_or(0, |template| template.length);
        let lengths = self.attending().lengths.iter();
        let starts: Vec<usize> = lengths.map(|length| length - suffix).collect();
        let own = starts.iter().map(|start| start.saturating_sub(in_template));
        let visible: Vec<usize> = starts
            .iter()
            .map(|start| *start.min(&in_template))
            .collect();
        let sees_all = window.is_none() && visible.iter().all(|count| *count == in_template);
        // The first position that each of those at hand sees.
        let first_seen = window.map(|window| {
            let at_hand = starts
                .iter()
                .map(|start| seen_from.positions(*start, suffix));
            at_hand
                .map(|at| {
                    at.map(|position| (position + 1).saturating_sub(window))
                        .collect()
                })
                .collect()
        });
        let first_seen: Option<Vec<Vec<usize>>> = first_seen;
        Ok(SegmentMasks {
            template: match sees_all {
                true => None,
                false => Some(self.mask(visible.into_iter(), in_template, (0, &first_seen))?),
            },
            own: self.mask(own, self.bucket, (in_template, &first_seen))?,
        })
    }

    /// What has one copy of keys and values each: the groups, or else the rows.
    fn attending(&self) -> &Prompts<'s> {
        self.groups
            .as_ref()
            .map_or(&self.prompts, |(_, prompts)| prompts)
    }

    /// 0 for the first so many columns of each row, unless they stand before the first position that is seen, and −∞ for the others:
    /// `[n, 1, 1 or g·S, width]`. The first column is the position `start`.
    fn mask(
        &self,
        visible: impl Iterator<Item = usize>,
        width: usize,
        (start, first_seen): (usize, &Option<Vec<Vec<usize>>>),
    ) -> Result<Tensor> {
        let transformer = self.transformer;
        let (kind, device) = (transformer.kind, transformer.device);
        let visible = transformer.index(visible.map(|count| count as i64))?;
        let (rows, width) = (visible.size()[0], width as i64);
        let columns = Tensor::f_arange(width, (Kind::Int64, device))?;
        let mut hidden = columns.f_ge_tensor(&visible.f_view([rows, 1, 1, 1])?)?;
        if let Some(first_seen) = first_seen {
            let at_hand = first_seen.first().map_or(0, Vec::len) as i64;
            let first = first_seen.iter().flatten();
            let first = transformer.index(first.map(|at| *at as i64 - start as i64))?;
            let passed = columns.f_lt_tensor(&first.f_view([rows, 1, at_hand, 1])?)?;
            hidden = hidden.f_logical_or(&passed)?;
            if at_hand > 1 {
                let g = (transformer.config.n_heads / transformer.config.n_kv_heads) as i64;
                hidden = hidden.f_repeat([1, 1, g, 1])?;
            }
        }
        let zeros = Tensor::f_zeros(hidden.size(), (kind, device))?;
        Ok(zeros.f_masked_fill(&hidden, f64::NEG_INFINITY)?)
    }
}

impl<'s> Prompts<'s> {
    fn new(transformer: &Transformer, rows: &[BlockRow<'s>]) -> Result<Self> {
        let run = |run: &[BlockRow<'s>]| -> Result<Run<'s>> {
            let block = run[0].block;
            let numbers = || run.iter().map(|row| row.row);
            let rows = match numbers().eq(0..block.prompts.len()) {
                true => None,
                false => Some(transformer.index(numbers().map(|row| row as i64))?),
            };
            Ok(Run { block, rows })
        };
        let in_one_block = rows.chunk_by(|a, b| std::ptr::eq(a.block, b.block));
        Ok(Prompts {
            runs: in_one_block.map(run).collect::<Result<_>>()?,
            lengths: rows.iter().map(|row| row.prompt().len()).collect(),
        })
    }

    /// Rows of block tensors (first dimension: the block's rows), in this order; none where a block has no such tensor.
    fn gather(
        &self,
        pick: impl Fn(&'s PromptBlock) -> Option<std::result::Result<Tensor, TchError>>,
    ) -> Result<Option<Tensor>> {
        let mut parts = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let Some(tensor) = pick(run.block).transpose()? else {
                return Ok(None);
            };
            parts.push(match &run.rows {
                None => tensor,
                Some(rows) => tensor.f_index_select(0, rows)?,
            });
        }
        match parts.len() {
            1 => Ok(parts.pop()),
            _ => Ok(Some(Tensor::f_cat(&parts, 0)?)),
        }
    }
}

/// Groups of up to `size` neighbouring rows of one prompt, and the prompts of the groups.
fn in_groups<'s>(
    transformer: &Transformer,
    rows: &[BlockRow<'s>],
    size: usize,
) -> Result<(Groups, Prompts<'s>)> {
    let same =
        |a: &BlockRow<'s>, b: &BlockRow<'s>| std::ptr::eq(a.block, b.block) && a.row == b.row;
    let mut prompts = Vec::new();
    let (mut row_in_place, mut place_of_row) = (Vec::new(), Vec::new());
    for of_prompt in rows.chunk_by(same) {
        for members in of_prompt.chunks(size) {
            let first = place_of_row.len();
            place_of_row.extend((0..members.len()).map(|i| (row_in_place.len() + i) as i64));
            let row = |i| (if i < members.len() { first + i } else { first }) as i64;
            row_in_place.extend((0..size).map(row));
            prompts.push(members[0]);
        }
    }
    let groups = Groups {
        size: size as i64,
        rows: transformer.index(row_in_place)?,
        places: transformer.index(place_of_row)?,
    };
    Ok((groups, Prompts::new(transformer, &prompts)?))
}

/// From where cached positions are seen.
#[derive(Clone, Copy, Debug)]
pub(in crate::model) enum SeenFrom {
    /// The suffix of each row.
    Suffix,
    /// The generated token of this index alone.
    Generated(usize),
}

impl SeenFrom {
    /// Positions behind the prompt.
    fn ahead(self) -> usize {
        match self {
            SeenFrom::Suffix => 0,
            SeenFrom::Generated(step) => step + 1,
        }
    }

    /// For a suffix that starts there.
    fn positions(self, start: usize, suffix: usize) -> std::ops::Range<usize> {
        match self {
            SeenFrom::Suffix => start..start + suffix,
            SeenFrom::Generated(step) => start + suffix + step..start + suffix + step + 1,
        }
    }
}

/// What is seen of the cached positions of a tile's rows, or of its groups: m of either.
pub(in crate::model) struct Masks(ByWindow<SegmentMasks>);

struct SegmentMasks {
    /// `[m, 1, 1 or g·S, P]`, where some row does not see all of the template
    template: Option<Tensor>,
    /// `[m, 1, 1 or g·S, T]`
    own: Tensor,
}

/// Keys and values of one layer for a tile's rows.
pub(in crate::model) struct Cached<'c> {
    rows: &'c Rows<'c>,
    layer: usize,
    template: Option<&'c KeysValues>,
    own: KeysValues,
}

impl Rows<'_> {
    /// Keys and values of one layer. No copy where the tile is exactly a block.
    pub(in crate::model) fn cached(&self, layer: usize) -> Result<Cached<'_>> {
        let missing = || ModelError::Internal(format!("layer {layer} is not cached"));
        let prompts = self.attending();
        let of_layer = |of: fn(&KeysValues) -> &Tensor| {
            prompts.gather(|block| Some(Ok(of(block.cached.get(layer)?).shallow_clone())))
        };
        let keys = of_layer(|cached| &cached.keys)?;
        let values = of_layer(|cached| &cached.values)?;
        Ok(Cached {
            rows: self,
            layer,
            template: self.template.map(|template| &template.cached[layer]),
            own: KeysValues {
                keys: keys.ok_or_else(missing)?,
                values: values.ok_or_else(missing)?,
            },
        })
    }
}

impl Cached<'_> {
    /// As what [`Transformer::block`] attends to.
    pub(in crate::model) fn earlier<'s>(&'s self, masks: &'s Masks) -> Result<Earlier<'s>> {
        let masks = self.rows.transformer.at_layer(&masks.0, self.layer)?;
        let own = Segment {
            cached: &self.own,
            mask: Some(&masks.own),
        };
        let template = self.template.map(|cached| Segment {
            cached,
            mask: masks.template.as_ref(),
        });
        let groups = self.rows.groups.as_ref();
        Ok(Earlier {
            segments: template.into_iter().chain([own]).collect(),
            groups: groups.map(|(groups, _)| groups),
        })
    }
}
