//! The rows of a tile, wherever their prompts lie, and the cached positions that they attend to.

use tch::{Kind, Tensor};

use super::{BlockRow, PromptBlock, Template};
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{Earlier, Groups, KeysValues, Rotary, Segment, Transformer};

/// Prompts of one template and bucket, in the order of a tile's rows; n rows.
pub(in crate::model) struct Rows<'s> {
    transformer: &'s Transformer,
    prompts: Prompts<'s>,
    /// Where several neighbouring rows of one prompt attend together: how, and the prompts of the groups.
    groups: Option<(Groups, Prompts<'s>)>,
    template: Option<&'s Template>,
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
        self.prompts.gather(|block| block.stored(hook))
    }

    /// [`Rows::stored`] as the stream of single positions, `[n, 1, d_model]`.
    pub(in crate::model) fn entering(&self, hook: HookPoint) -> Result<Tensor> {
        match self.stored(hook)? {
            Some(vectors) => Ok(vectors.f_unsqueeze(1)?),
            None => Err(ModelError::Internal(format!("`{hook}` is not stored"))),
        }
    }

    /// Rotary angles of each row's last `suffix` positions.
    pub(in crate::model) fn rotary(&self, suffix: usize) -> Result<Rotary> {
        let lengths = &self.prompts.lengths;
        let positions = lengths.iter().flat_map(|length| length - suffix..*length);
        let positions = self
            .transformer
            .index(positions.map(|position| position as i64))?;
        let positions = positions.f_view([lengths.len() as i64, suffix as i64])?;
        self.transformer.rotary(&positions)
    }

    /// What each row's last `suffix` positions attend to: those before them.
    pub(in crate::model) fn context(&self, suffix: usize) -> Result<Context<'_>> {
        let in_template = self.template.map_or(0, |template| template.length);
        let lengths = self.attending().lengths.iter();
        let starts = lengths.map(|length| length - suffix);
        let own = starts
            .clone()
            .map(|start| start.saturating_sub(in_template));
        let visible: Vec<usize> = starts.map(|start| start.min(in_template)).collect();
        let sees_all = visible.iter().all(|count| *count == in_template);
        Ok(Context {
            rows: self,
            template_mask: match sees_all {
                true => None,
                false => Some(self.mask(visible.into_iter(), in_template)?),
            },
            mask: self.mask(own, self.bucket)?,
        })
    }

    /// What has one copy of keys and values each: the groups, or else the rows.
    fn attending(&self) -> &Prompts<'s> {
        self.groups
            .as_ref()
            .map_or(&self.prompts, |(_, prompts)| prompts)
    }

    /// 0 for the first so many columns of each row and −∞ for the others, `[n, 1, 1, width]`.
    fn mask(&self, visible: impl Iterator<Item = usize>, width: usize) -> Result<Tensor> {
        let (kind, device) = (self.transformer.kind, self.transformer.device);
        let visible = self.transformer.index(visible.map(|count| count as i64))?;
        let (rows, width) = (visible.size()[0], width as i64);
        let columns = Tensor::f_arange(width, (Kind::Int64, device))?;
        let hidden = columns.f_ge_tensor(&visible.f_view([rows, 1, 1, 1])?)?;
        let zeros = Tensor::f_zeros([rows, 1, 1, width], (kind, device))?;
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
        pick: impl Fn(&'s PromptBlock) -> Option<&'s Tensor>,
    ) -> Result<Option<Tensor>> {
        let mut parts = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            let Some(tensor) = pick(run.block) else {
                return Ok(None);
            };
            parts.push(match &run.rows {
                None => tensor.shallow_clone(),
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

/// The cached positions of a tile's rows, or of its groups: m of either.
pub(in crate::model) struct Context<'r> {
    rows: &'r Rows<'r>,
    /// `[m, 1, 1, P]`, where some row does not see all of the template
    template_mask: Option<Tensor>,
    /// `[m, 1, 1, T]`
    mask: Tensor,
}

/// Keys and values of one layer for a tile's rows.
pub(in crate::model) struct Cached<'c> {
    groups: Option<&'c Groups>,
    template: Option<Segment<'c>>,
    own: KeysValues,
    mask: &'c Tensor,
}

impl Context<'_> {
    /// Keys and values of one layer. No copy where the tile is exactly a block.
    pub(in crate::model) fn layer(&self, layer: usize) -> Result<Cached<'_>> {
        let missing = || ModelError::Internal(format!("layer {layer} is not cached"));
        let prompts = self.rows.attending();
        let keys = prompts.gather(|block| Some(&block.cached.get(layer)?.keys))?;
        let values = prompts.gather(|block| Some(&block.cached.get(layer)?.values))?;
        Ok(Cached {
            groups: self.rows.groups.as_ref().map(|(groups, _)| groups),
            template: self.rows.template.map(|template| Segment {
                cached: &template.cached[layer],
                mask: self.template_mask.as_ref(),
            }),
            own: KeysValues {
                keys: keys.ok_or_else(missing)?,
                values: values.ok_or_else(missing)?,
            },
            mask: &self.mask,
        })
    }
}

impl Cached<'_> {
    /// As what [`Transformer::block`] attends to.
    pub(in crate::model) fn earlier(&self) -> Earlier<'_> {
        let own = Segment {
            cached: &self.own,
            mask: Some(self.mask),
        };
        Earlier {
            segments: self.template.into_iter().chain([own]).collect(),
            groups: self.groups,
        }
    }
}
