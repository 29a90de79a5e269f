//! The transformer of the `llama` and `qwen2` architectures, in plain tensor operations.
//!
//! Field names are the weight names of the Hugging Face checkpoint. One function computes a block, for whole prompts and for
//! suffixes alike: the queries of the rows at hand attend to [`Segment`]s of earlier keys and values (if any) and to themselves.
//! Edits and reads are values in a [`Tap`], consulted at each hook point; nothing is registered on the model.
//!
//! Shapes: B rows (prompts), S positions of each row computed now, T cached positions, `kv` key-value heads of `g` query heads each,
//! `dh` elements a head.

mod attention;
mod load;
mod tap;

use tch::{Device, Kind, Tensor};

use super::config::{Dtype, ModelConfig};
use super::error::Result;
use super::hooks::{HookPoint, Site};

use attention::{Angles, attend_rows, rotate};
pub(crate) use attention::{
    Earlier, Groups, KeysValues, Projected, Rotary, Segment, Span, attend_packed,
};
pub(crate) use tap::{Tap, TapEdit};

/// The libtorch scalar type of a dtype.
pub(crate) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::BFloat16 => Kind::BFloat16,
        Dtype::Float16 => Kind::Half,
    }
}

/// An affine map y = x Wᵀ + b.
struct Linear {
    /// `[out, in]`
    weight: Tensor,
    /// `[out]`
    bias: Option<Tensor>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// One block. Queries, keys and values are stored as one matrix, because one product is quicker than several small; gate and up are not,
/// because a product with fewer columns stays in the processor's cache.
struct Block {
    input_layernorm: Tensor,
    /// rows: query heads, key heads, value heads
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

/// The weights, ready to compute with.
pub(super) struct Transformer {
    pub(super) config: ModelConfig,
    pub(super) device: Device,
    /// Of weights and activations.
    pub(super) kind: Kind,
    /// `[d_vocab, d_model]`
    embed_tokens: Tensor,
    layers: Vec<Block>,
    /// `[d_model]`
    norm: Tensor,
    /// `[d_vocab, d_model]`
    lm_head: Tensor,
    angles: Angles,
}

// SAFETY: weights are only read, and a tensor's reference count is atomic.
unsafe impl Sync for Transformer {}

impl Transformer {
    /// Whole numbers on the device, `[n]` int64.
    pub(crate) fn index(&self, values: impl IntoIterator<Item = i64>) -> Result<Tensor> {
        let values: Vec<i64> = values.into_iter().collect();
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.device)?)
    }

    /// Token ids `[B, S]` (int64) → embeddings `[B, S, d_model]`, before any edit.
    pub(super) fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let table = &self.embed_tokens;
        Ok(Tensor::f_embedding(table, ids, -1, false, false)?)
    }

    /// Rotary angles of positions `[B or 1, S]` (int64).
    pub(super) fn rotary(&self, positions: &Tensor) -> Result<Rotary> {
        self.angles.rotary(positions, self.kind)
    }

    /// One whole block, for the rows of a tile.
    ///
    /// `x [B, S, d_model]` enters; `causal [1, 1, g·S, S]` is the mask among the S positions (none when S = 1). Returns what leaves and
    /// the keys and values of the S positions, `[B, kv, S, dh]`; none of these where nobody uses what attention gives.
    pub(crate) fn block(
        &self,
        layer: usize,
        x: &Tensor,
        rotary: &Rotary,
        earlier: &Earlier<'_>,
        causal: Option<&Tensor>,
        tap: &mut Tap,
    ) -> Result<(Tensor, Option<KeysValues>)> {
        let x = tap.pass_site(layer, Site::ResidPre, x.shallow_clone())?;
        if tap.is_unused(layer, Site::AttnOut) {
            let attn_out = x.f_zeros_like()?;
            return Ok((self.after_attention(layer, &x, attn_out, tap)?, None));
        }
        let projected = self.project(layer, &x, rotary)?;
        let (z, own) = attend_rows(&projected, earlier, causal)?;
        Ok((self.after_heads(layer, &x, z, tap)?, Some(own)))
    }

    /// Queries, keys and values of `x [B, S, d_model]`, which enters the block.
    pub(crate) fn project(&self, layer: usize, x: &Tensor, rotary: &Rotary) -> Result<Projected> {
        let block = &self.layers[layer];
        let size = x.size();
        let (kv, dh) = (self.config.n_kv_heads as i64, self.config.d_head as i64);
        let heads = self.config.n_heads as i64;
        let hidden = self.normalize(x, &block.input_layernorm)?;
        let qkv = block.qkv_proj.forward(&hidden)?;
        let qkv = qkv.f_view([size[0], size[1], heads + 2 * kv, dh])?;
        let rotated = rotate(&qkv.f_narrow(2, 0, heads + kv)?, rotary)?;
        Ok(Projected {
            queries: rotated.f_narrow(2, 0, heads)?,
            own: KeysValues {
                keys: rotated.f_narrow(2, heads, kv)?,
                values: qkv.f_narrow(2, heads + kv, kv)?,
            },
        })
    }

    /// The rest of a block behind the heads' output `z [B, S, n_heads · dh]`; `x [B, S, d_model]` entered the block.
    pub(super) fn after_heads(
        &self,
        layer: usize,
        x: &Tensor,
        z: Tensor,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let z = tap.pass_site(layer, Site::AttnZ, z)?;
        let attn_out = self.layers[layer].o_proj.forward(&z)?;
        self.after_attention(layer, x, attn_out, tap)
    }

    /// Adds the attention's output to the stream `x`, both `[B, S, d_model]`, and computes the second half of the block.
    fn after_attention(
        &self,
        layer: usize,
        x: &Tensor,
        attn_out: Tensor,
        tap: &mut Tap,
    ) -> Result<Tensor> {
        let attn_out = tap.pass_site(layer, Site::AttnOut, attn_out)?;
        let x = tap.pass_site(layer, Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = match tap.is_unused(layer, Site::MlpOut) {
            true => x.f_zeros_like()?,
            false => self.mlp(layer, &x, tap)?,
        };
        let mlp_out = tap.pass_site(layer, Site::MlpOut, mlp_out)?;
        tap.pass_site(layer, Site::ResidPost, x.f_add(&mlp_out)?)
    }

    /// What the MLP adds to the stream `x`, both `[B, S, d_model]`.
    fn mlp(&self, layer: usize, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let block = &self.layers[layer];
        let hidden = self.normalize(x, &block.post_attention_layernorm)?;
        let gate = block.gate_proj.forward(&hidden)?;
        let up = block.up_proj.forward(&hidden)?;
        let post = tap.pass_site(layer, Site::MlpPost, gate.f_silu()?.f_mul_(&up)?)?;
        block.down_proj.forward(&post)
    }

    /// x · gain / rms(x).
    fn normalize(&self, x: &Tensor, gain: &Tensor) -> Result<Tensor> {
        Ok(self.unit_rms(x)?.f_mul_(gain)?)
    }

    /// x / rms(x), with the mean square in float32 as in transformers' `LlamaRMSNorm`.
    fn unit_rms(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.f_to_kind(Kind::Float)?;
        let mut scale = wide.f_square()?.f_mean_dim(-1i64, true, Kind::Float)?;
        let _ = scale.f_add_scalar_(self.config.rms_norm_eps)?.f_rsqrt_()?;
        Ok(wide.f_mul(&scale)?.f_to_kind(self.kind)?)
    }

    /// The residual stream leaving the last block, `[B, S, d_model]` → the final norm's output, of the same shape.
    pub(super) fn final_norm(&self, x: &Tensor, tap: &mut Tap) -> Result<Tensor> {
        let normalized = tap.pass(HookPoint::FinalNormalized, self.unit_rms(x)?)?;
        Ok(normalized.f_mul(&self.norm)?)
    }

    /// The final norm's output `[.., d_model]` → logits of the whole vocabulary `[.., d_vocab]`, in the model's dtype.
    pub(super) fn unembed(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(hidden.f_linear::<Tensor>(&self.lm_head, None)?)
    }

    /// The unembedding rows of the given tokens, `[token, d_model]`.
    pub(super) fn unembedding_rows(&self, ids: &[u32]) -> Result<Tensor> {
        let index = self.index(ids.iter().map(|&id| id.into()))?;
        Ok(self.lm_head.f_index_select(0, &index)?)
    }

    /// The causal mask of S positions, all of which see the P positions before them, repeated for the g query heads of a group:
    /// `[1, 1, g·S, P + S]`.
    pub(super) fn causal_mask(&self, p: i64, s: i64) -> Result<Tensor> {
        let g = (self.config.n_heads / self.config.n_kv_heads) as i64;
        let size = [s, p + s];
        let options = (self.kind, self.device);
        let mask = Tensor::f_full(size.as_slice(), f64::NEG_INFINITY, options)?
            .f_triu(p + 1)?
            .f_repeat([g, 1])?;
        Ok(mask.f_view([1, 1, g * s, p + s])?)
    }
}
