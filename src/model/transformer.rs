//! A decoder-only transformer, whichever family it is of: embedding, blocks, final norm, unembedding.
//!
//! What differs between families stands in their own files (`families`), each of which makes a [`Network`] of its weights. One function computes
//! a block, for whole prompts and for suffixes alike: the queries of the rows at hand attend to [`Segment`]s of earlier keys and values (if
//! any) and to themselves. Edits and reads are values in a [`Tap`], consulted at each hook point; nothing is registered on the model.
//!
//! Shapes: B rows (prompts), S positions of each row computed now, T cached positions, `kv` key-value heads of `g` query heads each,
//! `dh` elements a head.

mod attention;
mod experts;
mod load;
mod parts;
mod rotary;
mod tap;

use tch::{Device, Kind, Tensor};

use super::config::{Dtype, ModelConfig};
use super::error::{ModelError, Result};
use super::hooks::{HookPoint, Site};

use attention::attend_rows;
pub(super) use attention::{Attention, Heads};
pub(crate) use attention::{Earlier, Groups, KeysValues, Projected, Segment, Span, attend_packed};
pub(super) use experts::{Experts, Routing};
pub(super) use load::Loader;
pub(super) use parts::{
    Embedding, GatedMlp, Head, LayerNorm, Linear, Norm, PlainMlp, RmsNorm, WideRmsNorm,
};
pub(crate) use rotary::Rotary;
pub(super) use rotary::{Angles, Pairs};
pub(super) use tap::BlockTap;
pub(crate) use tap::{Operands, Tap, TapEdit};

/// The libtorch scalar type of a dtype.
pub(crate) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::BFloat16 => Kind::BFloat16,
        Dtype::Float16 => Kind::Half,
    }
}

/// A family's block with its weights. Whatever a block computes, it is these two steps with attention between them.
pub(super) trait Block: Send {
    /// How its heads attend.
    fn attention(&self) -> Attention;

    /// Queries, keys and values of `x [B, S, d_model]`, which enters the block.
    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected>;

    /// The rest of the block behind the heads' output `z [B, S, n_heads · dh]`, which is none where nobody uses what attention gives. `x`
    /// entered the block; what leaves it is `[B, S, d_model]`, too. Every site that the block has behind the heads is passed to the tap.
    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor>;
}

/// A model's weights, as its family computes with them.
pub(super) struct Network {
    pub(super) embedding: Embedding,
    pub(super) blocks: Vec<Box<dyn Block>>,
    /// The final norm.
    pub(super) norm: Box<dyn Norm>,
    pub(super) head: Head,
    /// The rotary embeddings that its blocks use, each by its number.
    pub(super) rotaries: Vec<Angles>,
}

/// The weights, ready to compute with.
pub(super) struct Transformer {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    /// Of weights and activations.
    pub(super) kind: Kind,
    network: Network,
    /// The windows of its blocks' attention, each once.
    windows: Vec<Option<usize>>,
    /// The longest text, in tokens, that is not turned as long ones are; none where all are turned alike.
    pub(super) border: Option<usize>,
}

// SAFETY: weights are only read, and a tensor's reference count is atomic.
unsafe impl Sync for Transformer {}

/// Something for each window that blocks attend to: positions back from the one that attends, itself among them; none for all.
pub(crate) struct ByWindow<T>(Vec<(Option<usize>, T)>);

impl<T> ByWindow<T> {
    fn of(&self, window: Option<usize>) -> Result<&T> {
        let found = self.0.iter().find(|(of, _)| *of == window);
        let missing =
            || ModelError::Internal(format!("nothing was made for the window {window:?}"));
        found.map(|(_, value)| value).ok_or_else(missing)
    }
}

impl Transformer {
    /// Whole numbers on the device, `[n]` int64.
    pub(crate) fn index(&self, values: impl IntoIterator<Item = i64>) -> Result<Tensor> {
        let values: Vec<i64> = values.into_iter().collect();
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.device)?)
    }

    /// Token ids `[B, S]` (int64) → embeddings `[B, S, d_model]`, before any edit and without learned positions.
    pub(super) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.network.embedding.forward(ids)
    }

    /// The stream that enters the first block, of embeddings `[B, S, d_model]` at these positions, `[B or 1, S]` (int64).
    pub(super) fn placed(&self, embedded: Tensor, positions: &Tensor) -> Result<Tensor> {
        self.network.embedding.placed(embedded, positions)
    }

    /// Rotary angles of positions `[B or 1, S]` (int64) of texts that are all long or all not, of each of the model's rotary embeddings.
    pub(super) fn rotaries(&self, positions: &Tensor, is_long: bool) -> Result<Vec<Rotary>> {
        let rotaries = self.network.rotaries.iter();
        let at = rotaries.map(|angles| angles.rotary(positions, is_long, self.kind));
        at.collect()
    }

    /// Whether a text of so many tokens is turned, at each of its positions, as long ones are.
    pub(super) fn is_long(&self, length: usize) -> bool {
        self.border.is_some_and(|border| length > border)
    }

    /// How a layer's heads attend.
    pub(crate) fn attention(&self, layer: usize) -> Attention {
        self.network.blocks[layer].attention()
    }

    /// Makes something for each window that the model's blocks attend to, none of which is as long as `length` positions: for those it is
    /// what it is without a window.
    pub(crate) fn by_window<T>(
        &self,
        length: usize,
        make: impl Fn(Option<usize>) -> Result<T>,
    ) -> Result<ByWindow<T>> {
        let windows = self.windows.iter();
        let made = windows.map(|window| Ok((*window, make(window.filter(|w| *w < length))?)));
        Ok(ByWindow(made.collect::<Result<_>>()?))
    }

    /// What was made for the window of a layer.
    pub(crate) fn at_layer<'m, T>(&self, made: &'m ByWindow<T>, layer: usize) -> Result<&'m T> {
        made.of(self.attention(layer).window)
    }

    /// One whole block, for the rows of a tile.
    ///
    /// `x [B, S, d_model]` enters; `causal [1, 1, g·S, S]` is the mask among the S positions (none when S = 1). Returns what leaves and
    /// the keys and values of the S positions, `[B, kv, S, dh]`; none of these where nobody uses what attention gives.
    pub(crate) fn block(
        &self,
        layer: usize,
        x: &Tensor,
        rotaries: &[Rotary],
        earlier: &Earlier<'_>,
        causal: Option<&Tensor>,
        tap: &mut Tap,
    ) -> Result<(Tensor, Option<KeysValues>)> {
        let block = &self.network.blocks[layer];
        let x = tap.pass_site(layer, Site::ResidPre, x.shallow_clone())?;
        if tap.is_unused(layer, Site::AttnOut) {
            return Ok((
                block.finish(&x, None, &mut BlockTap::new(layer, tap))?,
                None,
            ));
        }
        let projected = block.project(&x, rotaries)?;
        let (z, own) = attend_rows(&projected, block.attention(), earlier, causal)?;
        Ok((self.after_heads(layer, &x, z, tap)?, Some(own)))
    }

    /// Queries, keys and values of `x [B, S, d_model]`, which enters the block.
    pub(crate) fn project(
        &self,
        layer: usize,
        x: &Tensor,
        rotaries: &[Rotary],
    ) -> Result<Projected> {
        self.network.blocks[layer].project(x, rotaries)
    }

    /// The rest of a block behind the heads' output `z [B, S, n_heads · dh]`; `x [B, S, d_model]` entered the block.
    pub(super) fn after_heads(
        &self,
        layer: usize,
        x: &Tensor,
        z: Tensor,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let block = &self.network.blocks[layer];
        block.finish(x, Some(z), &mut BlockTap::new(layer, tap))
    }

    /// The residual stream leaving the last block, `[B, S, d_model]` → the final norm's output, of the same shape.
    pub(super) fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let normalized = self.network.norm.normalized(x)?;
        let normalized = tap.pass(HookPoint::FinalNormalized, normalized)?;
        tap.pass(HookPoint::FinalNorm, self.network.norm.gained(normalized)?)
    }

    /// The final norm's output `[.., d_model]` → logits of the whole vocabulary `[.., d_vocab]`, in the model's dtype.
    pub(super) fn unembed(&self, hidden: &Tensor) -> Result<Tensor> {
        self.network.head.logits(hidden)
    }

    /// The final norm's output `[n, d_model]` → logits of these tokens `[n, token]`, computed in `kind`.
    pub(super) fn unembed_some(&self, hidden: &Tensor, ids: &[u32], kind: Kind) -> Result<Tensor> {
        let index = self.index(ids.iter().map(|&id| id.into()))?;
        self.network.head.some_logits(hidden, &index, kind)
    }

    /// The causal mask of S positions, which see the P positions before them as far as a window reaches, repeated for the g query heads
    /// of a group: `[1, 1, g·S, P + S]`.
    pub(super) fn causal_mask(&self, p: i64, s: i64, window: Option<usize>) -> Result<Tensor> {
        let g = (self.config.n_heads / self.config.n_kv_heads) as i64;
        let size = [s, p + s];
        let options = (self.kind, self.device);
        let hidden = || Tensor::f_full(size.as_slice(), f64::NEG_INFINITY, options);
        let mut mask = hidden()?.f_triu(p + 1)?;
        if let Some(window) = window {
            mask = mask.f_add(&hidden()?.f_tril(p - window as i64)?)?;
        }
        Ok(mask.f_repeat([g, 1])?.f_view([1, 1, g * s, p + s])?)
    }
}
