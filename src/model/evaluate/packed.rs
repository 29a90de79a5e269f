//! Texts packed one after another, each under edits of its own.
//!
//! A position is a row: the stream is `[S, 1, d_model]`, so that what is done to a position is a row of an edit's operands. S is constant, so
//! that a text's bits do not depend on what it is packed with.

use std::ops::Range;

use tch::{Kind, Tensor};

use super::throughout::{LOGIT_ROWS, padded};
use super::tile::{Ingredients, ingredients_of, operands};
use crate::model::cell::{Edit, Intervention};
use crate::model::error::{ModelError, Result};
use crate::model::hooks::{HookPoint, Site};
use crate::model::transformer::{
    KeysValues, Operands, Projected, Rotary, Span, Tap, TapEdit, Transformer, attend_packed,
};

/// A text, or the part of one behind a template.
pub(super) struct Text<'t> {
    pub(super) ids: &'t [u32],
    /// Each at every position, all texts' at the same hook points and of the same kinds.
    pub(super) edits: &'t [Intervention],
    /// The template before it, under the same edits.
    pub(super) before: Option<&'t EditedTemplate>,
    /// The stream with which it enters the first block that is computed, `[n, d_model]`; none where it starts with its embedding.
    pub(super) entering: Option<Tensor>,
}

/// What is kept of a template under edits; P positions.
pub(super) struct EditedTemplate {
    /// P
    length: usize,
    first_layer: usize,
    /// From the first layer on, `[kv, P, dh]` each.
    cached: Vec<KeysValues>,
    /// Of those layers, whether the stream that enters is a number everywhere.
    sound: Vec<bool>,
}

// SAFETY: a tensor's reference count is atomic, and these are written by the thread that makes them alone.
unsafe impl Send for EditedTemplate {}
// SAFETY: as above.
unsafe impl Sync for EditedTemplate {}

/// Texts on their way through the blocks, S positions.
pub(super) struct Packed<'p> {
    pub(super) transformer: &'p Transformer,
    texts: &'p [Text<'p>],
    spans: Vec<Span>,
    positions: usize,
    rotaries: Vec<Rotary>,
    tap: Tap,
    /// Of each text, whether the streams that entered layers so far are numbers everywhere.
    sound: Vec<bool>,
}

/// What was read at a hook point, `[n, width]`, and of which texts it is worth something.
pub(super) struct ReadAt {
    pub(super) hook: HookPoint,
    pub(super) vectors: Tensor,
    pub(super) sound: Vec<bool>,
}

impl EditedTemplate {
    /// Computes a template under edits, from a layer on to before another.
    pub(super) fn compute(
        transformer: &Transformer,
        text: Text<'_>,
        (layers, positions): (Range<usize>, usize),
        is_long: bool,
    ) -> Result<Self> {
        let length = text.ids.len();
        let texts = [text];
        let mut packed = Packed::new(transformer, &texts, positions, is_long)?;
        let mut template = EditedTemplate {
            length,
            first_layer: layers.start,
            cached: Vec::new(),
            sound: Vec::new(),
        };
        let mut x = packed.enter()?;
        let end = layers.end;
        for layer in layers {
            x = packed.enter_block(layer, x)?;
            template.sound.push(packed.sound[0]);
            let projected = transformer.project(layer, &x, &packed.rotaries)?.packed()?;
            let own = packed.spans[0].own(&projected)?;
            template.cached.push(own.map(|of| Ok(of.f_contiguous()?))?);
            // Of the last layer nobody sees more.
            if layer + 1 < end {
                x = packed.finish_block(layer, &x, &projected)?;
            }
        }
        Ok(template)
    }

    /// What it takes of memory.
    pub(super) fn bytes(&self) -> usize {
        let of = |tensor: &Tensor| tensor.numel() * tensor.kind().elt_size_in_bytes();
        let each = self.cached.iter();
        each.map(|layer| of(&layer.keys) + of(&layer.values)).sum()
    }

    fn cached(&self, layer: usize) -> Option<&KeysValues> {
        self.cached.get(layer - self.first_layer)
    }

    fn is_sound(&self, layer: usize) -> bool {
        let entering = self.sound.get(layer - self.first_layer);
        entering.copied().unwrap_or(false)
    }
}

impl<'p> Packed<'p> {
    /// Texts along so many positions.
    pub(super) fn new(
        transformer: &'p Transformer,
        texts: &'p [Text<'p>],
        positions: usize,
        is_long: bool,
    ) -> Result<Self> {
        let mut packed = Packed {
            transformer,
            texts,
            spans: spans(transformer, texts)?,
            positions,
            rotaries: Vec::new(),
            tap: Tap::default(),
            sound: vec![true; texts.len()],
        };
        packed.rotaries = transformer.rotaries(&packed.place()?, is_long)?;
        packed.tap.edits = packed.edits()?;
        Ok(packed)
    }

    /// Runs the blocks of a range: the stream that leaves the last of them at some positions, `[n, d_model]`. That block is finished for these
    /// alone, in products of [`LOGIT_ROWS`] rows.
    pub(super) fn run(&mut self, layers: Range<usize>, places: &[i64]) -> Result<Tensor> {
        let mut x = self.enter()?;
        let last = layers.end - 1;
        for layer in layers.start..last {
            x = self.enter_block(layer, x)?;
            let projected = self.transformer.project(layer, &x, &self.rotaries)?;
            x = self.finish_block(layer, &x, &projected.packed()?)?;
        }
        x = self.enter_block(last, x)?;
        let projected = self.transformer.project(last, &x, &self.rotaries)?;
        let z = self.heads(last, &projected.packed()?)?;
        let mut leaving = Vec::new();
        for some in places.chunks(LOGIT_ROWS) {
            let rows = self.transformer.index(padded(some).copied())?;
            let at = |x: &Tensor| x.f_index_select(0, &rows);
            let mut tap = Tap {
                edits: self.edits_at(last, &rows)?,
                ..Tap::default()
            };
            let left = self
                .transformer
                .after_heads(last, &at(&x)?, at(&z)?, &mut tap)?;
            leaving.push(left.f_narrow(0, 0, some.len() as i64)?);
        }
        Ok(Tensor::f_cat(&leaving, 0)?.f_squeeze_dim(1)?)
    }

    /// The edits in a block at some of the positions.
    fn edits_at(&self, layer: usize, rows: &Tensor) -> Result<Vec<TapEdit>> {
        let at = |list: &[Tensor]| -> Result<Vec<Tensor>> {
            let at = list.iter().map(|operand| match operand.size()[0] {
                1 => Ok(operand.shallow_clone()),
                _ => Ok(operand.f_index_select(0, rows)?),
            });
            at.collect()
        };
        let here = |edit: &&TapEdit| matches!(edit.hook, HookPoint::Block { layer: of, .. } if of == layer);
        let edits = self.tap.edits.iter().filter(here).map(|edit| {
            Ok(TapEdit {
                operands: Operands {
                    vectors: at(&edit.operands.vectors)?,
                    numbers: at(&edit.operands.numbers)?,
                },
                rows: None,
                ..*edit
            })
        });
        edits.collect()
    }

    /// What is at hook points in blocks, at the last position of each text, from a layer on.
    pub(super) fn read(&mut self, first: usize, hooks: &[HookPoint]) -> Result<Vec<ReadAt>> {
        let last = self.spans.iter().map(|span| span.start + span.length - 1);
        self.tap.kept_rows = Some(self.transformer.index(last)?);
        self.tap.wanted = hooks.to_vec();
        let mut x = self.enter()?;
        let mut read = Vec::with_capacity(hooks.len());
        for layer in first.. {
            x = self.enter_block(layer, x)?;
            // What enters the block is all that is looked at of the last.
            let is_wanted = |site: &Site| hooks.contains(&HookPoint::block(layer, *site));
            let is_inside = Site::ALL[1..].iter().any(is_wanted);
            if is_inside || read.len() + self.tap.kept.len() < hooks.len() {
                let projected = self.transformer.project(layer, &x, &self.rotaries)?;
                x = self.finish_block(layer, &x, &projected.packed()?)?;
            }
            for (hook, vectors) in std::mem::take(&mut self.tap.kept) {
                read.push(ReadAt {
                    hook,
                    vectors,
                    sound: self.sound.clone(),
                });
            }
            if read.len() >= hooks.len() {
                return Ok(read);
            }
            if layer + 1 >= self.transformer.config.n_layers {
                break;
            }
        }
        Err(ModelError::Internal(
            "a pass ended before all was read".to_string(),
        ))
    }

    /// The first position of the last so many of a text, along S.
    pub(super) fn last_of(&self, text: usize, count: usize) -> i64 {
        let span = &self.spans[text];
        span.start + span.length - count as i64
    }

    /// The stream that enters the first block that is computed, `[S, 1, d_model]`.
    fn enter(&mut self) -> Result<Tensor> {
        let entering = self.texts.iter().map(|text| text.entering.as_ref());
        if let Some(parts) = entering.collect::<Option<Vec<&Tensor>>>() {
            let d_model = self.transformer.config.d_model as i64;
            let padding = self.positions as i64 - parts.iter().map(|x| x.size()[0]).sum::<i64>();
            let padding =
                parts[0].f_new_zeros([padding, d_model], (parts[0].kind(), parts[0].device()))?;
            let parts: Vec<&Tensor> = parts.into_iter().chain([&padding]).collect();
            return Ok(Tensor::f_cat(&parts, 0)?.f_unsqueeze(1)?);
        }
        let ids = self.texts.iter().flat_map(|text| text.ids);
        let ids = self.padded(ids.map(|&id| id.into()))?;
        let embedded = self.transformer.embed(&ids)?;
        let embedded = self.tap.pass(HookPoint::Embed, embedded)?;
        self.transformer.placed(embedded, &self.place()?)
    }

    fn enter_block(&mut self, layer: usize, x: Tensor) -> Result<Tensor> {
        let x = self.tap.pass_site(layer, Site::ResidPre, x)?;
        let squares = x.f_to_kind(Kind::Float)?.f_square()?;
        let mean_square = squares.f_mean_dim([-1i64].as_slice(), false, Kind::Float)?;
        // A norm would make zeros of what left the format, and numbers of them again.
        let finite = Vec::<bool>::try_from(mean_square.f_isfinite()?.f_view(-1i64)?)?;
        for ((sound, span), text) in self.sound.iter_mut().zip(&self.spans).zip(self.texts) {
            let own = span.start as usize..(span.start + span.length) as usize;
            let before = text.before.is_none_or(|before| before.is_sound(layer));
            *sound &= before && finite[own].iter().all(|finite| *finite);
        }
        Ok(x)
    }

    fn finish_block(&mut self, layer: usize, x: &Tensor, projected: &Projected) -> Result<Tensor> {
        let z = self.heads(layer, projected)?;
        self.transformer.after_heads(layer, x, z, &mut self.tap)
    }

    /// What the heads of a block give, `[S, 1, n_heads · dh]`.
    fn heads(&self, layer: usize, projected: &Projected) -> Result<Tensor> {
        let before = |text: usize| self.texts[text].before?.cached(layer);
        let attention = self.transformer.attention(layer);
        let z = attend_packed(projected, attention, before, &self.spans)?;
        // A view of rows, and no transposed one: that a product would take row by row.
        Ok(z.f_view([self.positions as i64, 1, -1])?)
    }

    /// The position in its text of each of the S, 0 where there is none, `[S, 1]` int64.
    fn place(&self) -> Result<Tensor> {
        let places = self.texts.iter().flat_map(|text| {
            let before = text.before.map_or(0, |before| before.length);
            before..before + text.ids.len()
        });
        self.padded(places.map(|place| place as i64))
    }

    /// Numbers along the positions, with 0 for those that belong to no text, `[S, 1]` int64.
    fn padded(&self, numbers: impl Iterator<Item = i64>) -> Result<Tensor> {
        let padded = numbers.chain(std::iter::repeat(0)).take(self.positions);
        Ok(self.transformer.index(padded)?.f_unsqueeze(1)?)
    }

    /// What is done to the positions.
    fn edits(&self) -> Result<Vec<TapEdit>> {
        let numbers = self.texts.iter().enumerate();
        let text_of =
            numbers.flat_map(|(number, text)| text.ids.iter().map(move |_| number as i64));
        let text_of = self.padded(text_of)?.f_squeeze_dim(1)?;
        // Edits of many places have the same operands, one after another.
        let mut before: Option<(Vec<Ingredients>, Operands)> = None;
        let of_first = self.texts.first().map_or(&[][..], |text| text.edits);
        let edits = of_first.iter().enumerate().map(|(number, first)| {
            let of_texts = || self.texts.iter().map(|text| &text.edits[number].edit);
            let ingredients: Vec<Ingredients> = of_texts()
                .map(|edit| ingredients_of(edit).collect())
                .collect();
            let operands = match &before {
                Some((same, operands)) if *same == ingredients => operands.clone(),
                _ => self.operands(&of_texts().collect::<Vec<_>>(), &ingredients, &text_of)?,
            };
            before = Some((ingredients, operands.clone()));
            Ok(TapEdit {
                hook: first.hook,
                position: 0,
                count: 1,
                rows: None,
                operation: first.edit.operation(),
                operands,
            })
        });
        edits.collect()
    }

    /// Rows of the positions' operands: one where it is the same for all.
    fn operands(
        &self,
        edits: &[&Edit],
        ingredients: &[Ingredients],
        text_of: &Tensor,
    ) -> Result<Operands> {
        if ingredients.iter().all(|of_text| *of_text == ingredients[0]) {
            return operands(self.transformer, &edits[..1]);
        }
        let of_texts = operands(self.transformer, edits)?;
        let along = |list: &[Tensor]| -> Result<Vec<Tensor>> {
            let rows = list.iter().map(|rows| Ok(rows.f_index_select(0, text_of)?));
            rows.collect()
        };
        Ok(Operands {
            vectors: along(&of_texts.vectors)?,
            numbers: along(&of_texts.numbers)?,
        })
    }
}

/// Where the texts are along the positions.
fn spans(transformer: &Transformer, texts: &[Text<'_>]) -> Result<Vec<Span>> {
    let mut start = 0;
    let spans = texts.iter().map(|text| {
        let length = text.ids.len() as i64;
        let before = text.before.map_or(0, |before| before.length);
        let mask = transformer.by_window(before + text.ids.len(), |window| {
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
