//! A tile: cells of one shape evaluated together in n rows, each from where its work starts.

use tch::{Kind, Tensor};

use super::shape::{Operation, Shape, ShapeEdit, Start};
use crate::model::cell::{Cell, Edit};
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{Context, PrefixStore, Rows};
use crate::model::transformer::{RowEdit, Tap, TapEdit, Transformer};

/// Rows of one tile: cells and where their prompts are.
pub(in crate::model) struct Tile<'a> {
    pub(in crate::model) transformer: &'a Transformer,
    pub(in crate::model) cells: Vec<&'a Cell>,
    rows: Rows<'a>,
    edits: &'a [ShapeEdit],
    /// Number of positions computed of each row, ending with the last of the prompt.
    pub(in crate::model) suffix: usize,
}

/// Takes (layer, keys, values) of positions just computed, `[n, kv, S, dh]` each.
pub(in crate::model) type Keep<'k> = dyn FnMut(usize, Tensor, Tensor) -> Result<()> + 'k;

impl<'a> Tile<'a> {
    /// The tile of some cells of one shape, padded with copies of the first.
    pub(super) fn new(
        transformer: &'a Transformer,
        store: &'a PrefixStore,
        cells: &[&'a Cell],
        shape: &'a Shape,
    ) -> Result<Self> {
        let cells: Vec<&Cell> = (0..shape.rows())
            .map(|i| *cells.get(i).unwrap_or(&cells[0]))
            .collect();
        let places = cells
            .iter()
            .map(|cell| {
                let place = store.place(&cell.tokens).ok_or_else(|| {
                    ModelError::Internal("a prompt was not prefilled".to_string())
                })?;
                Ok((store.block(place.block)?, place.row))
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Tile {
            transformer,
            rows: Rows::new(&places, shape.group(), transformer)?,
            cells,
            edits: &shape.edits,
            suffix: shape.suffix,
        })
    }

    /// The edits that act at the positions computed now, of which the first has that index in the suffix.
    pub(in crate::model) fn tap(&self, first_index: usize) -> Result<Tap> {
        let mut tap = Tap::default();
        let count = if first_index == 0 { self.suffix } else { 1 };
        for (number, edit) in self.edits.iter().enumerate() {
            for position in 0..count {
                if edit.acts_at(first_index + position) {
                    let each = self
                        .cells
                        .iter()
                        .map(|cell| &cell.interventions[number].edit);
                    tap.edits.push(TapEdit {
                        hook: edit.hook,
                        position: position as i64,
                        rows: None,
                        edit: self.row_edit(each, edit.operation)?,
                    });
                }
            }
        }
        Ok(tap)
    }

    /// One edit of so many rows.
    pub(super) fn row_edit<'e>(
        &self,
        edits: impl Iterator<Item = &'e Edit>,
        operation: Operation,
    ) -> Result<RowEdit> {
        let width = self.transformer.config().d_model as i64;
        let mut data: Vec<f32> = Vec::new();
        for edit in edits {
            match edit {
                // The product is formed in float32 in the order of the definition: h + α·v.
                Edit::Add { vector, scale } => {
                    data.extend(vector.values().iter().map(|v| (*scale as f32) * v))
                }
                Edit::Ablate(vector) | Edit::Replace(vector) => data.extend(vector.values()),
            }
        }
        let rows = Tensor::f_from_slice(&data)?
            .f_view([-1, width])?
            .f_to_device(self.transformer.device())?
            .f_to_kind(self.transformer.kind())?;
        Ok(match operation {
            Operation::Add => RowEdit::Add(rows),
            Operation::Ablate => RowEdit::Ablate(rows),
            Operation::Replace => RowEdit::Replace(rows),
        })
    }

    /// The stored last-position vectors of a hook point, `[n, d_model]`; None for a hook point that is not stored.
    pub(super) fn stored(&self, hook: HookPoint) -> Result<Option<Tensor>> {
        let HookPoint::Block { layer, site } = hook else {
            return Ok(None);
        };
        let gather = |pick: fn(&crate::model::prefix::PromptBlock, usize) -> &Tensor| {
            self.rows.gather(|block| pick(block, layer))
        };
        Ok(Some(match site {
            Site::ResidPre => gather(|block, layer| &block.resid_pre[layer])?,
            Site::ResidPost => gather(|block, layer| &block.resid_pre[layer + 1])?,
            Site::AttnOut => gather(|block, layer| &block.attn_out[layer])?,
            Site::MlpOut => gather(|block, layer| &block.mlp_out[layer])?,
            Site::ResidMid => {
                let before = gather(|block, layer| &block.resid_pre[layer])?;
                before.f_add(&gather(|block, layer| &block.attn_out[layer])?)?
            }
            Site::AttnZ | Site::MlpPost => return Ok(None),
        }))
    }

    /// Runs from the start to the end of the last block: the residual stream there, `[n, suffix, d_model]`.
    pub(super) fn run(&self, start: &Start, tap: &mut Tap) -> Result<Tensor> {
        let transformer = self.transformer;
        let n_layers = transformer.config().n_layers;
        let (x, next) = match start {
            Start::Embedding => {
                let x = transformer.embed(&self.suffix_ids()?)?;
                (tap.pass(HookPoint::Embed, x)?, 0)
            }
            Start::Block(layer) if *layer == n_layers => {
                let last = HookPoint::block(n_layers - 1, Site::ResidPost);
                (tap.pass(last, self.entering(last)?)?, n_layers)
            }
            Start::Block(layer) => {
                let first = HookPoint::block(*layer, Site::ResidPre);
                (self.entering(first)?, *layer)
            }
            Start::Each(_) => self.begin_each(tap)?,
        };
        self.run_blocks(next, x, tap, &mut |_, _, _| Ok(()))
    }

    /// The stored last-position vectors of a hook point that is stored, `[n, 1, d_model]`.
    pub(super) fn entering(&self, hook: HookPoint) -> Result<Tensor> {
        let vectors = self.stored(hook)?;
        let vectors =
            vectors.ok_or_else(|| ModelError::Internal(format!("`{hook}` is not stored")))?;
        Ok(vectors.f_unsqueeze(1)?)
    }

    /// Runs blocks `from..` over the suffix against the cached prefix. `keep` is handed the keys and values of the suffix.
    pub(in crate::model) fn run_blocks(
        &self,
        from: usize,
        x: Tensor,
        tap: &mut Tap,
        keep: &mut Keep<'_>,
    ) -> Result<Tensor> {
        let n_layers = self.transformer.config().n_layers;
        let mut x = x;
        if from == n_layers {
            return Ok(x);
        }
        let context = self.context()?;
        let rotary = self.rows.rotary(self.transformer, self.suffix)?;
        // A single position has nothing to hide from itself.
        let causal = match self.suffix {
            1 => None,
            s => Some(self.transformer.causal_mask(0, s as i64)?),
        };
        for layer in from..n_layers {
            let cached = context.layer(layer)?;
            let (next, own) = self.transformer.block(
                layer,
                &x,
                &rotary,
                &cached.earlier(),
                causal.as_ref(),
                tap,
            )?;
            if let Some((keys, values)) = own {
                keep(layer, keys, values)?;
            }
            x = next;
        }
        Ok(x)
    }

    /// The positions before the suffix.
    pub(in crate::model) fn context(&self) -> Result<Context<'_, 'a>> {
        self.rows.context(self.transformer, self.suffix)
    }

    /// Token ids of the suffix, `[n, suffix]`.
    pub(in crate::model) fn suffix_ids(&self) -> Result<Tensor> {
        let ids: Vec<i64> = self
            .cells
            .iter()
            .flat_map(|cell| &cell.tokens.ids()[cell.tokens.len() - self.suffix..])
            .map(|&id| i64::from(id))
            .collect();
        Ok(Tensor::f_from_slice(&ids)?
            .f_view([self.cells.len() as i64, self.suffix as i64])?
            .f_to_device(self.transformer.device())?)
    }

    /// The final norm's output for the residual stream `x [n, 1, d_model]` that leaves the last block, `[n, d_model]`. A row whose mean
    /// square is not finite becomes NaN: the norm would make zeros of it, and a score that looks like one.
    pub(in crate::model) fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let mean_square = x.f_to_kind(Kind::Float)?.f_square()?.f_mean_dim(
            [1i64, 2].as_slice(),
            true,
            Kind::Float,
        )?;
        let finite = mean_square.f_isfinite()?;
        let hidden = match bool::try_from(finite.f_all()?)? {
            true => self.transformer.final_norm(x, tap)?,
            false => {
                let spoiled = x.f_masked_fill(&finite.f_logical_not()?, f64::NAN)?;
                self.transformer.final_norm(&spoiled, tap)?
            }
        };
        Ok(hidden.f_squeeze_dim(1)?)
    }
}
