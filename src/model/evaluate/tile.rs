//! A tile: cells of one shape evaluated together in n rows, each from where its work starts.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::shape::{Shape, ShapeEdit, Start};
use crate::model::cell::{Cell, Edit};
use crate::model::error::Result;
use crate::model::hooks::{HookPoint, Site};
use crate::model::prefix::{BlockRow, Rows, SeenFrom};
use crate::model::transformer::{Earlier, KeysValues, Operands, Tap, TapEdit, Transformer};

/// Rows of one tile: cells and where their prompts are.
pub(in crate::model) struct Tile<'a> {
    pub(in crate::model) transformer: &'a Transformer,
    pub(in crate::model) cells: Vec<&'a Cell>,
    pub(in crate::model) rows: Rows<'a>,
    edits: &'a [ShapeEdit],
    /// Number of positions computed of each row, ending with the last of its text.
    pub(in crate::model) suffix: usize,
    /// Whether that is the whole text.
    pub(in crate::model) is_whole: bool,
}

/// What edits of some rows are made of: the numbers behind a tensor, to know the same ones again.
pub(super) type Ingredients = Vec<(blake3::Hash, u64)>;

/// Takes (layer, keys and values) of positions just computed, `[n, kv, S, dh]`.
type Keep<'k> = dyn FnMut(usize, KeysValues) -> Result<()> + 'k;

impl<'a> Tile<'a> {
    /// The tile of some cells of one shape and where their prompts are, padded with copies of the first.
    pub(super) fn new(
        transformer: &'a Transformer,
        (cells, rows): (&'a [&'a Cell], &[BlockRow<'a>]),
        shape: &'a Shape,
    ) -> Result<Self> {
        let count = shape.rows();
        let padded = cells.iter().chain(std::iter::repeat(&cells[0]));
        let places = rows.iter().chain(std::iter::repeat(&rows[0]));
        let places: Vec<BlockRow<'_>> = places.copied().take(count).collect();
        Ok(Tile {
            transformer,
            rows: Rows::new(transformer, &places, shape.group())?,
            cells: padded.copied().take(count).collect(),
            edits: &shape.edits,
            suffix: shape.suffix,
            is_whole: shape.is_whole,
        })
    }

    /// The edits that act at the positions computed now, of which the first has that index in the suffix.
    pub(in crate::model) fn tap(&self, first_index: usize) -> Result<Tap> {
        let mut tap = Tap::default();
        let count = if first_index == 0 { self.suffix } else { 1 };
        // Edits of many places have the same operands, one after another.
        let mut before: Option<(Ingredients, Operands)> = None;
        for (number, edit) in self.edits.iter().enumerate() {
            let each = || {
                self.cells
                    .iter()
                    .map(|cell| &cell.interventions[number].edit)
            };
            for (start, end) in edit.acts_at(first_index, count) {
                let ingredients = each().flat_map(ingredients_of).collect();
                let operands = match &before {
                    Some((same, operands)) if *same == ingredients => operands.clone(),
                    _ => operands(self.transformer, &each().collect::<Vec<_>>())?,
                };
                before = Some((ingredients, operands.clone()));
                tap.edits.push(TapEdit {
                    hook: edit.hook,
                    position: start as i64,
                    count: (end - start) as i64,
                    rows: None,
                    operation: edit.operation,
                    operands,
                });
            }
        }
        Ok(tap)
    }

    /// Runs from the start to the end of the last block, or of the one before `end`: the residual stream there, `[n, suffix, d_model]`.
    pub(super) fn run(&self, start: &Start, end: usize, tap: &mut Tap) -> Result<Tensor> {
        self.run_keeping(start, end, tap, &mut |_, _| Ok(()))
    }

    /// [`Tile::run`] that hands out the keys and values of the suffix.
    pub(in crate::model) fn run_keeping(
        &self,
        start: &Start,
        end: usize,
        tap: &mut Tap,
        keep: &mut Keep<'_>,
    ) -> Result<Tensor> {
        let n_layers = self.transformer.config.n_layers;
        let (x, next) = match start {
            Start::Embedding => (self.enter(tap)?, 0),
            Start::Block(layer) if *layer == n_layers => {
                let last = HookPoint::block(n_layers - 1, Site::ResidPost);
                (tap.pass(last, self.rows.entering(last)?)?, n_layers)
            }
            Start::Block(layer) => (self.rows.stream(*layer, self.suffix)?, *layer),
            Start::Each(_) => self.begin_each(tap)?,
        };
        self.run_blocks(next..end, x, tap, keep)
    }

    /// The stream with which the suffix enters the first block, `[n, suffix, d_model]`.
    fn enter(&self, tap: &mut Tap) -> Result<Tensor> {
        let embedded = self.transformer.embed(&self.suffix_ids()?)?;
        let embedded = tap.pass(HookPoint::Embed, embedded)?;
        let positions = self.rows.positions(self.suffix)?;
        self.transformer.placed(embedded, &positions)
    }

    /// Runs some blocks over the suffix against the cached prefix. `keep` is handed the keys and values of the suffix.
    fn run_blocks(
        &self,
        layers: Range<usize>,
        x: Tensor,
        tap: &mut Tap,
        keep: &mut Keep<'_>,
    ) -> Result<Tensor> {
        let transformer = self.transformer;
        let mut x = x;
        if layers.is_empty() {
            return Ok(x);
        }
        let masks = match self.is_whole {
            true => None,
            false => Some(self.rows.masks(self.suffix, SeenFrom::Suffix)?),
        };
        let rotaries = self.rows.rotaries(&self.rows.positions(self.suffix)?)?;
        let causal = transformer.by_window(self.suffix, |window| {
            // A single position has nothing to hide from itself.
            let suffix = (self.suffix > 1).then_some(self.suffix as i64);
            let mask = suffix.map(|s| transformer.causal_mask(0, s, window));
            mask.transpose()
        })?;
        for layer in layers {
            let cached = match &masks {
                Some(_) => Some(self.rows.cached(layer)?),
                None => None,
            };
            let earlier = match (&cached, &masks) {
                (Some(cached), Some(masks)) => cached.earlier(masks)?,
                _ => Earlier::none(),
            };
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
    fn suffix_ids(&self) -> Result<Tensor> {
        let rows = self.cells.iter().map(|cell| cell.tokens.ids());
        let ids = rows.flat_map(|ids| &ids[ids.len() - self.suffix..]);
        let ids = self.transformer.index(ids.map(|&id| id.into()))?;
        Ok(ids.f_view([self.cells.len() as i64, self.suffix as i64])?)
    }

    /// [`final_norm`] of the tile's model.
    pub(in crate::model) fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        final_norm(self.transformer, x, tap)
    }
}

/// The final norm's output for the residual stream `x [n, S, d_model]` that leaves the last block, `[n·S, d_model]`. A position whose mean
/// square is not finite becomes NaN: the norm would make zeros of it, and a score that looks like one.
pub(super) fn final_norm(transformer: &Transformer, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
    let squares = x.f_to_kind(Kind::Float)?.f_square()?;
    let mean_square = squares.f_mean_dim([2i64].as_slice(), true, Kind::Float)?;
    let finite = mean_square.f_isfinite()?;
    let hidden = match bool::try_from(finite.f_all()?)? {
        true => transformer.final_norm(x, tap)?,
        false => {
            let spoiled = x.f_masked_fill(&finite.f_logical_not()?, f64::NAN)?;
            transformer.final_norm(&spoiled, tap)?
        }
    };
    Ok(hidden.f_flatten(0, 1)?)
}

/// What edits of one kind, one a row, are made of.
pub(super) fn operands(transformer: &Transformer, edits: &[&Edit]) -> Result<Operands> {
    let vectors = edits.first().map_or(0, |edit| edit.vectors().count());
    let vectors = (0..vectors).map(|place| {
        let width = transformer.config.d_model;
        let mut data: Vec<f32> = Vec::with_capacity(edits.len() * width);
        for edit in edits {
            let values = edit.vectors().nth(place).map_or(&[][..], |v| v.values());
            match edit {
                // The product is formed in float32 in the order of the definition: h + α·v.
                Edit::Add { scale, .. } => {
                    data.extend(values.iter().map(|v| (*scale as f32) * v));
                }
                _ => data.extend(values),
            }
        }
        on_device(transformer, &data, width)
    });
    let angles = |of: fn(f64) -> f64| {
        let numbers = edits.iter().filter_map(|edit| match edit {
            Edit::Rotate { degrees, .. } => Some(of(degrees.to_radians()) as f32),
            _ => None,
        });
        on_device(transformer, &numbers.collect::<Vec<f32>>(), 1)
    };
    let levels = || {
        let numbers = edits.iter().filter_map(|edit| match edit {
            Edit::SetLevel { level, .. } => Some(*level as f32),
            _ => None,
        });
        on_device(transformer, &numbers.collect::<Vec<f32>>(), 1)
    };
    Ok(Operands {
        vectors: vectors.collect::<Result<_>>()?,
        numbers: match edits.first() {
            Some(Edit::Rotate { .. }) => vec![angles(f64::cos)?, angles(f64::sin)?],
            Some(Edit::SetLevel { .. }) => vec![levels()?],
            _ => Vec::new(),
        },
    })
}

/// Numbers as `[n, width]`, in the model's dtype.
fn on_device(transformer: &Transformer, data: &[f32], width: usize) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(data)?
        .f_view([-1, width as i64])?
        .f_to_device(transformer.device)?
        .f_to_kind(transformer.kind)?)
}

/// Content of vectors and numbers.
pub(super) fn ingredients_of(edit: &Edit) -> impl Iterator<Item = (blake3::Hash, u64)> {
    let number = edit.number().unwrap_or_default().to_bits();
    edit.vectors().map(move |vector| (vector.hash(), number))
}
