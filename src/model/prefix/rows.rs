//! The rows of a tile, wherever their prompts lie, and the cached positions that they attend to.

use tch::{Kind, Tensor};

use super::{PromptBlock, Template};
use crate::model::error::{ModelError, Result};
use crate::model::transformer::{Earlier, Groups, Rotary, Segment, Transformer};

/// Prompts of one template and bucket, in the order of a tile's rows; n rows.
pub(crate) struct Rows<'s> {
    runs: Vec<Run<'s>>,
    lengths: Vec<usize>,
    /// Where several neighbouring rows of one prompt attend together.
    groups: Option<PromptGroups<'s>>,
    template: Option<&'s Template>,
    /// T
    bucket: usize,
}

/// The prompts of a tile's groups.
struct PromptGroups<'s> {
    groups: Groups,
    runs: Vec<Run<'s>>,
    lengths: Vec<usize>,
}

/// Neighbouring rows that lie in one block.
struct Run<'s> {
    block: &'s PromptBlock,
    /// Rows of the block, int64; none where they are the whole block in its order, which then needs no copy.
    rows: Option<Tensor>,
}

/// A prompt's block and its row in it.
type At<'s> = (&'s PromptBlock, usize);

impl<'s> Rows<'s> {
    /// Rows by block and row of the block. Up to `group` neighbours of one prompt attend together.
    pub(crate) fn new(places: &[At<'s>], group: usize, transformer: &Transformer) -> Result<Self> {
        let Some((first, _)) = places.first() else {
            return Err(ModelError::Internal("a tile has no rows".to_string()));
        };
        Ok(Rows {
            runs: runs(places, transformer)?,
            lengths: lengths(places),
            groups: match group {
                1 => None,
                group => Some(PromptGroups::new(places, group, transformer)?),
            },
            template: first.template.as_deref(),
            bucket: first.bucket,
        })
    }

    /// Rows of block tensors (first dimension: the block's rows), in the order of the tile.
    pub(crate) fn gather(&self, pick: impl Fn(&'s PromptBlock) -> &'s Tensor) -> Result<Tensor> {
        gather(&self.runs, pick)
    }

    /// Rotary angles of each row's last `suffix` positions.
    pub(crate) fn rotary(&self, transformer: &Transformer, suffix: usize) -> Result<Rotary> {
        let positions: Vec<i64> = self
            .lengths
            .iter()
            .flat_map(|length| length - suffix..*length)
            .map(|position| position as i64)
            .collect();
        let positions = Tensor::f_from_slice(&positions)?
            .f_view([self.lengths.len() as i64, suffix as i64])?
            .f_to_device(transformer.device())?;
        transformer.rotary(&positions)
    }

    /// What each row's last `suffix` positions attend to: those before them.
    pub(crate) fn context<'r>(
        &'r self,
        transformer: &Transformer,
        suffix: usize,
    ) -> Result<Context<'r, 's>> {
        let in_template = self.template.map_or(0, |template| template.length);
        let (_, lengths) = self.attending();
        let starts = lengths.iter().map(|length| length - suffix);
        let visible_own: Vec<usize> = starts
            .clone()
            .map(|s| s.saturating_sub(in_template))
            .collect();
        let visible: Vec<usize> = starts.map(|start| start.min(in_template)).collect();
        let template_mask = match visible.iter().any(|&count| count < in_template) {
            true => Some(mask(transformer, &visible, in_template)?),
            false => None,
        };
        Ok(Context {
            rows: self,
            template_mask,
            mask: mask(transformer, &visible_own, self.bucket)?,
        })
    }

    /// What has one copy of keys and values each, and its number of tokens: the groups, or else the rows.
    fn attending(&self) -> (&[Run<'s>], &[usize]) {
        match &self.groups {
            Some(groups) => (&groups.runs, &groups.lengths),
            None => (&self.runs, &self.lengths),
        }
    }
}

impl<'s> PromptGroups<'s> {
    fn new(places: &[At<'s>], size: usize, transformer: &Transformer) -> Result<Self> {
        let same = |a: &At<'s>, b: &At<'s>| std::ptr::eq(a.0, b.0) && a.1 == b.1;
        let mut prompts = Vec::new();
        let (mut row_in_place, mut place_of_row) = (Vec::new(), Vec::new());
        for of_prompt in places.chunk_by(same) {
            for members in of_prompt.chunks(size) {
                let first = place_of_row.len();
                place_of_row.extend((0..members.len()).map(|i| (row_in_place.len() + i) as i64));
                let row = |i| (if i < members.len() { first + i } else { first }) as i64;
                row_in_place.extend((0..size).map(row));
                prompts.push(members[0]);
            }
        }
        let device = transformer.device();
        Ok(PromptGroups {
            groups: Groups {
                size: size as i64,
                rows: Tensor::f_from_slice(&row_in_place)?.f_to_device(device)?,
                places: Tensor::f_from_slice(&place_of_row)?.f_to_device(device)?,
            },
            runs: runs(&prompts, transformer)?,
            lengths: lengths(&prompts),
        })
    }
}

fn lengths(places: &[At<'_>]) -> Vec<usize> {
    let length = |(block, row): &At<'_>| block.prompts[*row].len();
    places.iter().map(length).collect()
}

fn runs<'s>(places: &[At<'s>], transformer: &Transformer) -> Result<Vec<Run<'s>>> {
    let in_one_block = places.chunk_by(|a, b| std::ptr::eq(a.0, b.0));
    let run = |run: &[At<'s>]| -> Result<Run<'s>> {
        let block = run[0].0;
        let whole = run.len() == block.prompts.len()
            && run.iter().enumerate().all(|(i, (_, row))| *row == i);
        let rows: Vec<i64> = run.iter().map(|(_, row)| *row as i64).collect();
        Ok(Run {
            block,
            rows: match whole {
                true => None,
                false => Some(Tensor::f_from_slice(&rows)?.f_to_device(transformer.device())?),
            },
        })
    };
    in_one_block.map(run).collect()
}

fn gather<'s>(runs: &[Run<'s>], pick: impl Fn(&'s PromptBlock) -> &'s Tensor) -> Result<Tensor> {
    let parts = runs
        .iter()
        .map(|run| {
            let tensor = pick(run.block);
            Ok(match &run.rows {
                None => tensor.shallow_clone(),
                Some(rows) => tensor.f_index_select(0, rows)?,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(match parts.as_slice() {
        [one] => one.shallow_clone(),
        several => Tensor::f_cat(several, 0)?,
    })
}

/// 0 for the first so many columns of each row and −∞ for the others, `[n, 1, 1, width]`.
fn mask(transformer: &Transformer, visible: &[usize], width: usize) -> Result<Tensor> {
    let device = transformer.device();
    let visible: Vec<i64> = visible.iter().map(|&count| count as i64).collect();
    let size = [visible.len() as i64, 1, 1, width as i64];
    let visible = Tensor::f_from_slice(&visible)?
        .f_view([size[0], 1, 1, 1].as_slice())?
        .f_to_device(device)?;
    let hidden = Tensor::f_arange(size[3], (Kind::Int64, device))?.f_ge_tensor(&visible)?;
    let zeros = Tensor::f_zeros(size.as_slice(), (transformer.kind(), device))?;
    Ok(zeros.f_masked_fill(&hidden, f64::NEG_INFINITY)?)
}

/// The cached positions of a tile's rows, or of its groups: m of either.
pub(crate) struct Context<'r, 's> {
    rows: &'r Rows<'s>,
    /// `[m, 1, 1, P]`, where some row does not see all of the template
    template_mask: Option<Tensor>,
    /// `[m, 1, 1, T]`
    mask: Tensor,
}

/// Keys and values of one layer for a tile's rows.
pub(crate) struct Cached<'c> {
    groups: Option<&'c Groups>,
    template: Option<Segment<'c>>,
    keys: Tensor,
    values: Tensor,
    mask: &'c Tensor,
}

impl<'s> Context<'_, 's> {
    /// Keys and values of one layer. No copy where the tile is exactly a block.
    pub(crate) fn layer(&self, layer: usize) -> Result<Cached<'_>> {
        let (runs, _) = self.rows.attending();
        Ok(Cached {
            groups: self.rows.groups.as_ref().map(|groups| &groups.groups),
            template: self.rows.template.map(|template| Segment {
                keys: &template.keys[layer],
                values: &template.values[layer],
                mask: self.template_mask.as_ref(),
            }),
            keys: gather(runs, |block| &block.keys[layer])?,
            values: gather(runs, |block| &block.values[layer])?,
            mask: &self.mask,
        })
    }
}

impl Cached<'_> {
    /// As what [`Transformer::block`] attends to.
    pub(crate) fn earlier(&self) -> Earlier<'_> {
        let template = self.template.as_ref().map(|template| Segment {
            keys: template.keys,
            values: template.values,
            mask: template.mask,
        });
        let own = Segment {
            keys: &self.keys,
            values: &self.values,
            mask: Some(self.mask),
        };
        Earlier {
            segments: template.into_iter().chain([own]).collect(),
            groups: self.groups,
        }
    }
}
