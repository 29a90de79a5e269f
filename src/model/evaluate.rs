//! `evaluate(cells) → values`, the one primitive of the model room, with as little arithmetic as causality allows.
//!
//! Cells of one [`Shape`] (where the work starts, how many positions it covers, which kinds of edit it makes, what is read) are packed
//! into tiles of [`TILE_ROWS`] rows, padded with copies of the first. A tile starts from what the prefix store holds: for the last
//! position, at the first edited site itself; for an earlier position, at the embedding of the suffix. In float32 on the CPU a row's
//! bits depend on nothing but its cell, so a sweep that is resumed, extended or reordered gives the same numbers.

mod check;
mod readout;
mod shape;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use tch::{Kind, Tensor};

use super::cell::{Cell, Edit, Tokens, Value};
use super::error::ModelError;
use super::generate;
use super::hooks::{HookPoint, Site};
use super::prefix::{Place, PrefixStore, PromptBlock, TILE_ROWS, bucket};
use super::transformer::{Rotary, RowEdit, Segment, Tap, Transformer};

use check::{check, finite};
use readout::{log_probabilities, score};
use shape::{Entry, Operation, ReadoutShape, Shape, ShapeEdit, shape};

pub(super) use readout::to_rows;

type Result<T> = std::result::Result<T, ModelError>;

/// What an evaluation tells its caller while it runs.
#[derive(Debug)]
pub enum Step {
    /// Prompts prefilled so far, of those that are needed now.
    Prefilled {
        /// So far.
        done: usize,
        /// Of these.
        total: usize,
    },
    /// Values that are final: (index of the cell, value).
    Values(Vec<(usize, Value)>),
}

/// A model's weights with the prefixes computed so far.
pub struct Evaluator {
    pub(super) transformer: Transformer,
    store: PrefixStore,
}

/// Rows of one tile: cells and where their prompts are.
pub(super) struct Tile<'a> {
    pub(super) cells: Vec<&'a Cell>,
    pub(super) places: Vec<Place>,
    pub(super) edits: &'a [ShapeEdit],
    /// Number of positions computed of each row, ending with the last of the prompt.
    pub(super) suffix: usize,
}

impl Evaluator {
    /// Takes a loaded model; prefixes will take at most about `budget_bytes`.
    pub fn new(transformer: Transformer, budget_bytes: usize) -> Self {
        Evaluator {
            transformer,
            store: PrefixStore::new(budget_bytes),
        }
    }

    /// Computes the cells, in the order that suits the work. `on_step` hears of progress and takes the values; breaking from it stops
    /// the work, which is then said in the result.
    ///
    /// # Errors
    /// An intervention that the model cannot make (layer, position or width out of range), a prompt longer than the context, a
    /// value that is not finite, or libtorch running out of memory.
    pub fn evaluate(
        &mut self,
        cells: &[Cell],
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let _no_grad = tch::no_grad_guard();
        for cell in cells {
            check(cell, self.transformer.config())?;
        }
        let mut by_prompt: Vec<(Arc<Tokens>, Vec<usize>)> = Vec::new();
        let mut known: HashMap<blake3::Hash, usize> = HashMap::new();
        for (index, cell) in cells.iter().enumerate() {
            let slot = *known.entry(cell.tokens.hash()).or_insert_with(|| {
                by_prompt.push((Arc::clone(&cell.tokens), Vec::new()));
                by_prompt.len() - 1
            });
            by_prompt[slot].1.push(index);
        }
        let mut rest = by_prompt.as_slice();
        while !rest.is_empty() {
            let prompts: Vec<Arc<Tokens>> = rest.iter().map(|(p, _)| Arc::clone(p)).collect();
            let (now, later) = rest.split_at(self.store.fitting(&self.transformer, &prompts));
            let mut indices: Vec<usize> = now.iter().flat_map(|(_, list)| list).copied().collect();
            indices.sort_unstable();
            if self
                .evaluate_held(cells, &indices, &prompts[..now.len()], on_step)?
                .is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
            rest = later;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The cells of prompts that fit in memory together.
    fn evaluate_held(
        &mut self,
        cells: &[Cell],
        indices: &[usize],
        prompts: &[Arc<Tokens>],
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let mut prefilled = |done, total| on_step(Step::Prefilled { done, total });
        if self
            .store
            .ensure(&self.transformer, prompts, &mut prefilled)?
            .is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        let n_layers = self.transformer.config().n_layers;
        let mut groups: Vec<(Shape, Vec<usize>)> = Vec::new();
        let mut known: HashMap<Shape, usize> = HashMap::new();
        for &index in indices {
            let shape = shape(&cells[index], n_layers);
            match known.get(&shape) {
                Some(&slot) => groups[slot].1.push(index),
                None => {
                    known.insert(shape.clone(), groups.len());
                    groups.push((shape, vec![index]));
                }
            }
        }
        for (shape, mut members) in groups {
            // Stable: within a block the order of asking stays, which puts the rows of one variant side by side.
            members.sort_by_key(|&i| self.store.place(&cells[i].tokens).map(|p| p.block));
            for chunk in members.chunks(TILE_ROWS) {
                let values = self.evaluate_tile(cells, &shape, chunk)?;
                if on_step(Step::Values(values)).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn evaluate_tile(
        &self,
        cells: &[Cell],
        shape: &Shape,
        chunk: &[usize],
    ) -> Result<Vec<(usize, Value)>> {
        let rows: Vec<&Cell> = chunk.iter().map(|&i| &cells[i]).collect();
        let tile = self.tile(&rows, shape)?;
        let values = match &shape.readout {
            ReadoutShape::Generation { max_new_tokens } => {
                generate::continuations(self, &tile, *max_new_tokens)?
            }
            ReadoutShape::Activation { hook, offset } => {
                self.read_activation(shape, &tile, *hook, *offset)?
            }
            ReadoutShape::Score(sets) => {
                let hidden = self.final_hidden(shape, &tile)?;
                score(&self.transformer, &hidden, sets)?
                    .into_iter()
                    .map(Value::Score)
                    .collect()
            }
            ReadoutShape::LogProbabilities(ids) => {
                let hidden = self.final_hidden(shape, &tile)?;
                log_probabilities(&self.transformer, &hidden, ids)?
            }
        };
        chunk
            .iter()
            .copied()
            .zip(values)
            .map(|(index, value)| finite(&cells[index], &value).map(|()| (index, value)))
            .collect()
    }

    /// The tile of some cells of one shape, padded with copies of the first.
    fn tile<'a>(&self, rows: &[&'a Cell], shape: &'a Shape) -> Result<Tile<'a>> {
        let padded = (0..TILE_ROWS).map(|i| *rows.get(i).unwrap_or(&rows[0]));
        let cells: Vec<&Cell> = padded.collect();
        let places = cells
            .iter()
            .map(|cell| {
                self.store
                    .place(&cell.tokens)
                    .ok_or_else(|| ModelError::Internal("a prompt was not prefilled".to_string()))
            })
            .collect::<Result<_>>()?;
        Ok(Tile {
            cells,
            places,
            edits: &shape.edits,
            suffix: shape.suffix,
        })
    }

    /// The final norm's output at the last position, `[TILE_ROWS, d_model]`.
    fn final_hidden(&self, shape: &Shape, tile: &Tile<'_>) -> Result<Tensor> {
        let mut tap = self.tap(tile, 0)?;
        let x = self.run_tile(shape.entry, tile, &mut tap)?;
        let x = x.f_narrow(1, tile.suffix as i64 - 1, 1)?;
        Ok(self
            .transformer
            .final_norm(&x, &mut tap)?
            .f_squeeze_dim(1)?)
    }

    fn read_activation(
        &self,
        shape: &Shape,
        tile: &Tile<'_>,
        hook: HookPoint,
        offset: usize,
    ) -> Result<Vec<Value>> {
        let vectors = match self.stored(tile, hook)? {
            Some(vectors) if shape.edits.is_empty() && tile.suffix == 1 => vectors,
            _ => {
                let mut tap = self.tap(tile, 0)?;
                tap.wanted.push(hook);
                let x = self.run_tile(shape.entry, tile, &mut tap)?;
                if hook == HookPoint::FinalNormalized {
                    let _ = self.transformer.final_norm(&x, &mut tap)?;
                }
                let (_, kept) = tap
                    .kept
                    .pop()
                    .ok_or_else(|| ModelError::Internal(format!("nothing passed `{hook}`")))?;
                kept.f_select(1, offset as i64)?
            }
        };
        Ok(to_rows(&vectors)?
            .into_iter()
            .map(Value::Activation)
            .collect())
    }

    /// The edits of a tile that act at the positions computed now, of which the first has that index in the suffix.
    pub(super) fn tap(&self, tile: &Tile<'_>, first_index: usize) -> Result<Tap> {
        let mut tap = Tap::default();
        let count = if first_index == 0 { tile.suffix } else { 1 };
        for (number, edit) in tile.edits.iter().enumerate() {
            for position in 0..count {
                if edit.acts_at(first_index + position) {
                    let rows = self.edit_rows(tile, number, edit.operation)?;
                    tap.edits.push((edit.hook, position as i64, rows));
                }
            }
        }
        Ok(tap)
    }

    /// The vectors of one edit of every row of the tile, `[TILE_ROWS, d_model]`.
    fn edit_rows(&self, tile: &Tile<'_>, number: usize, operation: Operation) -> Result<RowEdit> {
        let width = self.transformer.config().d_model;
        let mut data: Vec<f32> = Vec::with_capacity(TILE_ROWS * width);
        for cell in &tile.cells {
            match &cell.interventions[number].edit {
                // The product is formed in float32 in the order of the definition: h + α·v.
                Edit::Add { vector, scale } => {
                    data.extend(vector.values().iter().map(|v| (*scale as f32) * v))
                }
                Edit::Ablate(vector) | Edit::Replace(vector) => data.extend(vector.values()),
            }
        }
        let rows = Tensor::from_slice(&data)
            .f_view([TILE_ROWS as i64, width as i64].as_slice())?
            .f_to_device(self.transformer.device())?
            .f_to_kind(self.transformer.kind())?;
        Ok(match operation {
            Operation::Add => RowEdit::Add(rows),
            Operation::Ablate => RowEdit::Ablate(rows),
            Operation::Replace => RowEdit::Replace(rows),
        })
    }

    /// Runs a tile from its entry to the end of the last block: the residual stream there, `[TILE_ROWS, suffix, d_model]`.
    fn run_tile(&self, entry: Entry, tile: &Tile<'_>, tap: &mut Tap) -> Result<Tensor> {
        let n_layers = self.transformer.config().n_layers;
        let stored = |hook: HookPoint| -> Result<Tensor> {
            let vectors = self.stored(tile, hook)?;
            let vectors =
                vectors.ok_or_else(|| ModelError::Internal(format!("`{hook}` is not stored")))?;
            Ok(vectors.f_unsqueeze(1)?)
        };
        let resid_pre = |layer: usize| match layer == n_layers {
            true => stored(HookPoint::block(n_layers - 1, Site::ResidPost)),
            false => stored(HookPoint::block(layer, Site::ResidPre)),
        };
        let (x, next) = match entry {
            Entry::Embedding => {
                let x = self.transformer.embed(&self.suffix_ids(tile)?)?;
                (tap.pass(HookPoint::Embed, x)?, 0)
            }
            Entry::Block(layer) if layer == n_layers => {
                let x = resid_pre(layer)?;
                (
                    tap.pass(HookPoint::block(n_layers - 1, Site::ResidPost), x)?,
                    layer,
                )
            }
            Entry::Block(layer) => (resid_pre(layer)?, layer),
            Entry::AfterAttention(layer) => {
                let out = tap.pass(
                    HookPoint::block(layer, Site::AttnOut),
                    stored(HookPoint::block(layer, Site::AttnOut))?,
                )?;
                let x = resid_pre(layer)?.f_add(&out)?;
                (self.transformer.after_attention(layer, x, tap)?, layer + 1)
            }
            Entry::AfterMlp(layer) => {
                let x = stored(HookPoint::block(layer, Site::ResidMid))?;
                let out = stored(HookPoint::block(layer, Site::MlpOut))?;
                (self.transformer.after_mlp(layer, &x, out, tap)?, layer + 1)
            }
        };
        self.run_blocks(next, x, tile, tap, &mut |_, _, _| Ok(()))
    }

    /// Runs blocks `from..` over a tile's suffix against its cached prefix. `keep` is handed (layer, keys, values) of the suffix.
    pub(super) fn run_blocks(
        &self,
        from: usize,
        x: Tensor,
        tile: &Tile<'_>,
        tap: &mut Tap,
        keep: &mut dyn FnMut(usize, Tensor, Tensor) -> Result<()>,
    ) -> Result<Tensor> {
        let n_layers = self.transformer.config().n_layers;
        let mut x = x;
        if from == n_layers {
            return Ok(x);
        }
        let context = self.context(tile)?;
        let rotary = self.suffix_rotary(tile)?;
        let causal = self.transformer.causal_mask(tile.suffix as i64)?;
        for layer in from..n_layers {
            let (keys, values) = context.layer(layer)?;
            let segment = Segment {
                keys: &keys,
                values: &values,
                mask: Some(&context.mask),
            };
            let (next, keys, values) =
                self.transformer
                    .block(layer, &x, &rotary, &[segment], causal.as_ref(), tap)?;
            keep(layer, keys, values)?;
            x = next;
        }
        Ok(x)
    }

    pub(super) fn suffix_ids(&self, tile: &Tile<'_>) -> Result<Tensor> {
        let ids: Vec<i64> = tile
            .cells
            .iter()
            .flat_map(|cell| {
                cell.tokens.ids()[cell.tokens.len() - tile.suffix..]
                    .iter()
                    .map(|&id| i64::from(id))
            })
            .collect();
        Ok(Tensor::from_slice(&ids)
            .f_view([TILE_ROWS as i64, tile.suffix as i64].as_slice())?
            .f_to_device(self.transformer.device())?)
    }

    fn suffix_rotary(&self, tile: &Tile<'_>) -> Result<Rotary> {
        let positions: Vec<i64> = tile
            .cells
            .iter()
            .flat_map(|cell| (cell.tokens.len() - tile.suffix..cell.tokens.len()).map(|p| p as i64))
            .collect();
        let positions = Tensor::from_slice(&positions)
            .f_view([TILE_ROWS as i64, tile.suffix as i64].as_slice())?
            .f_to_device(self.transformer.device())?;
        self.transformer.rotary(&positions)
    }

    /// The stored last-position vectors of a hook point, `[TILE_ROWS, d_model]`; None for a hook point that is not stored.
    fn stored(&self, tile: &Tile<'_>, hook: HookPoint) -> Result<Option<Tensor>> {
        let HookPoint::Block { layer, site } = hook else {
            return Ok(None);
        };
        type Pick = fn(&PromptBlock, usize) -> &Tensor;
        let pick: Pick = match site {
            Site::ResidPre => |block, layer| &block.resid_pre[layer],
            Site::ResidPost => |block, layer| &block.resid_pre[layer + 1],
            Site::AttnOut => |block, layer| &block.attn_out[layer],
            Site::MlpOut => |block, layer| &block.mlp_out[layer],
            Site::ResidMid => {
                let before = self.gather(&tile.places, |block| &block.resid_pre[layer])?;
                let out = self.gather(&tile.places, |block| &block.attn_out[layer])?;
                return Ok(Some(before.f_add(&out)?));
            }
            Site::AttnZ | Site::MlpPost => return Ok(None),
        };
        self.gather(&tile.places, |block| pick(block, layer))
            .map(Some)
    }

    /// Rows of block tensors (first dimension: the block's rows), in the order of the places.
    fn gather<'s>(
        &'s self,
        places: &[Place],
        pick: impl Fn(&'s PromptBlock) -> &'s Tensor,
    ) -> Result<Tensor> {
        let mut parts = Vec::new();
        for run in places.chunk_by(|a, b| a.block == b.block) {
            let tensor = pick(self.store.block(run[0].block)?);
            let whole = run.len() as i64 == tensor.size()[0]
                && run.iter().enumerate().all(|(i, p)| p.row == i);
            parts.push(if whole {
                tensor.shallow_clone()
            } else {
                let rows: Vec<i64> = run.iter().map(|p| p.row as i64).collect();
                tensor
                    .f_index_select(0, &Tensor::from_slice(&rows).f_to_device(tensor.device())?)?
            });
        }
        Ok(match parts.as_slice() {
            [one] => one.shallow_clone(),
            several => Tensor::f_cat(several, 0)?,
        })
    }

    /// The cached prefix of a tile: the positions before its suffix.
    pub(super) fn context<'s>(&'s self, tile: &'s Tile<'_>) -> Result<Context<'s>> {
        let bucket = bucket(tile.cells[0].tokens.len()) as i64;
        let device = self.transformer.device();
        let starts: Vec<i64> = tile
            .cells
            .iter()
            .map(|c| (c.tokens.len() - tile.suffix) as i64)
            .collect();
        let starts = Tensor::from_slice(&starts)
            .f_unsqueeze(1)?
            .f_to_device(device)?;
        let columns = Tensor::f_arange(bucket, (Kind::Int64, device))?.f_unsqueeze(0)?;
        let hidden = columns.f_ge_tensor(&starts)?;
        let zeros = Tensor::f_zeros(
            [TILE_ROWS as i64, bucket].as_slice(),
            (self.transformer.kind(), device),
        )?;
        let mask = zeros
            .f_masked_fill(&hidden, f64::NEG_INFINITY)?
            .f_view([TILE_ROWS as i64, 1, 1, bucket].as_slice())?;
        Ok(Context {
            evaluator: self,
            places: &tile.places,
            mask,
        })
    }
}

/// The cached prefix of a tile's rows.
pub(super) struct Context<'s> {
    evaluator: &'s Evaluator,
    places: &'s [Place],
    /// `[TILE_ROWS, 1, 1, T]`
    pub(super) mask: Tensor,
}

impl Context<'_> {
    /// Keys and values of one layer, each `[TILE_ROWS, kv, T, dh]`. No copy where the tile is exactly a block.
    pub(super) fn layer(&self, layer: usize) -> Result<(Tensor, Tensor)> {
        Ok((
            self.evaluator
                .gather(self.places, |block| &block.keys[layer])?,
            self.evaluator
                .gather(self.places, |block| &block.values[layer])?,
        ))
    }
}
