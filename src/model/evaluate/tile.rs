//! A tile: cells of one shape evaluated together in n rows, each from where its work starts.

use tch::{Kind, Tensor};

use super::shape::{Shape, ShapeEdit, Start};
use crate::model::cell::{Cell, Edit};
use crate::model::error::Result;
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{PrefixStore, Rows, SeenFrom};
use crate::model::transformer::{KeysValues, Tap, TapEdit, Transformer};

/// Rows of one tile: cells and where their prompts are.
pub(in crate::model) struct Tile<'a> {
    pub(in crate::model) transformer: &'a Transformer,
    pub(in crate::model) cells: Vec<&'a Cell>,
    pub(in crate::model) rows: Rows<'a>,
    edits: &'a [ShapeEdit],
    /// Number of positions computed of each row, ending with the last of the prompt.
    pub(in crate::model) suffix: usize,
}

/// Takes (layer, keys and values) of positions just computed, `[n, kv, S, dh]`.
type Keep<'k> = dyn FnMut(usize, KeysValues) -> Result<()> + 'k;

impl<'a> Tile<'a> {
    /// The tile of some cells of one shape, padded with copies of the first.
    pub(super) fn new(
        transformer: &'a Transformer,
        store: &'a PrefixStore,
        cells: &'a [Cell],
        shape: &'a Shape,
    ) -> Result<Self> {
        let padded = cells.iter().chain(std::iter::repeat(&cells[0]));
        let cells: Vec<&Cell> = padded.take(shape.rows()).collect();
        let rows = cells.iter().map(|cell| store.row(&cell.tokens));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok(Tile {
            transformer,
            rows: Rows::new(transformer, &rows, shape.group())?,
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
                    let cells = self.cells.iter();
                    let each = cells.map(|cell| &cell.interventions[number].edit);
                    tap.edits.push(TapEdit {
                        hook: edit.hook,
                        position: position as i64,
                        rows: None,
                        operation: edit.operation,
                        vectors: self.vectors(each)?,
                    });
                }
            }
        }
        Ok(tap)
    }

    /// What the edits of some rows add, ablate or put in place, `[n, d_model]`.
    pub(super) fn vectors<'e>(&self, edits: impl Iterator<Item = &'e Edit>) -> Result<Tensor> {
        let width = self.transformer.config.d_model as i64;
        let mut data: Vec<f32> = Vec::new();
        for edit in edits {
            let values = edit.vector().values();
            match edit {
                // The product is formed in float32 in the order of the definition: h + α·v.
                Edit::Add { scale, .. } => data.extend(values.iter().map(|v| (*scale as f32) * v)),
                Edit::Ablate(_) | Edit::Replace(_) => data.extend(values),
            }
        }
        Ok(Tensor::f_from_slice(&data)?
            .f_view([-1, width])?
            .f_to_device(self.transformer.device)?
            .f_to_kind(self.transformer.kind)?)
    }

    /// Runs from the start to the end of the last block: the residual stream there, `[n, suffix, d_model]`.
    pub(super) fn run(&self, start: &Start, tap: &mut Tap) -> Result<Tensor> {
        let transformer = self.transformer;
        let n_layers = transformer.config.n_layers;
        let (x, next) = match start {
            Start::Embedding => (self.enter(tap)?, 0),
            Start::Block(layer) if *layer == n_layers => {
                let last = HookPoint::block(n_layers - 1, Site::ResidPost);
                (tap.pass(last, self.rows.entering(last)?)?, n_layers)
            }
            Start::Block(layer) => {
                let first = HookPoint::block(*layer, Site::ResidPre);
                (self.rows.entering(first)?, *layer)
            }
            Start::Each(_) => self.begin_each(tap)?,
        };
        self.run_blocks(next, x, tap, &mut |_, _| Ok(()))
    }

    /// The stream with which the suffix enters the first block, `[n, suffix, d_model]`.
    pub(in crate::model) fn enter(&self, tap: &mut Tap) -> Result<Tensor> {
        let embedded = self.transformer.embed(&self.suffix_ids()?)?;
        let embedded = tap.pass(HookPoint::Embed, embedded)?;
        let positions = self.rows.positions(self.suffix)?;
        self.transformer.placed(embedded, &positions)
    }

    /// Runs blocks `from..` over the suffix against the cached prefix. `keep` is handed the keys and values of the suffix.
    pub(in crate::model) fn run_blocks(
        &self,
        from: usize,
        x: Tensor,
        tap: &mut Tap,
        keep: &mut Keep<'_>,
    ) -> Result<Tensor> {
        let transformer = self.transformer;
        let n_layers = transformer.config.n_layers;
        let mut x = x;
        if from == n_layers {
            return Ok(x);
        }
        let masks = self.rows.masks(self.suffix, SeenFrom::Suffix)?;
        let rotaries = self.rows.rotaries(&self.rows.positions(self.suffix)?)?;
        let causal = transformer.by_window(self.suffix, |window| {
            // A single position has nothing to hide from itself.
            let suffix = (self.suffix > 1).then_some(self.suffix as i64);
            let mask = suffix.map(|s| transformer.causal_mask(0, s, window));
            mask.transpose()
        })?;
        for layer in from..n_layers {
            let cached = self.rows.cached(layer)?;
            let earlier = cached.earlier(&masks)?;
            let causal = transformer.at_layer(&causal, layer)?.as_ref();
            let (next, own) = transformer.block(layer, &x, &rotaries, &earlier, causal, tap)?;
            if let Some(own) = own {
                keep(layer, own)?;
            }
            x = next;
        }
        Ok(x)
    }

    /// Token ids of the suffix, `[n, suffix]`.
    pub(in crate::model) fn suffix_ids(&self) -> Result<Tensor> {
        let rows = self.cells.iter().map(|cell| cell.tokens.ids());
        let ids = rows.flat_map(|ids| &ids[ids.len() - self.suffix..]);
        let ids = self.transformer.index(ids.map(|&id| id.into()))?;
        Ok(ids.f_view([self.cells.len() as i64, self.suffix as i64])?)
    }

    /// The final norm's output for the residual stream `x [n, 1, d_model]` that leaves the last block, `[n, d_model]`. A row whose mean
    /// square is not finite becomes NaN: the norm would make zeros of it, and a score that looks like one.
    pub(in crate::model) fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let squares = x.f_to_kind(Kind::Float)?.f_square()?;
        let mean_square = squares.f_mean_dim([1i64, 2].as_slice(), true, Kind::Float)?;
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
