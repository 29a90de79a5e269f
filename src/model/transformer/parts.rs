//! What blocks are built of: linear maps, norms, MLPs; and what stands before and behind the blocks.

use tch::{Kind, Tensor};

use super::Loader;
use super::rotary::AT_ONCE;
use super::tap::BlockTap;
use crate::model::config::Activation;
use crate::model::error::Result;
use crate::model::hooks::Site;

/// An affine map y = x Wᵀ + b.
pub(in crate::model) struct Linear {
    /// `[out, in]`
    pub(super) weight: Tensor,
    /// `[out]`
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    pub(in crate::model) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_linear(&self.weight, self.bias.as_ref())?)
    }
}

/// A norm over the last dimension, in its two steps.
pub(in crate::model) trait Norm: Send {
    /// x of mean square, or variance, 1: before gain and bias.
    fn normalized(&self, x: &Tensor) -> Result<Tensor>;

    /// What is normalized, times the gain.
    fn gained(&self, normalized: Tensor) -> Result<Tensor>;

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.gained(self.normalized(x)?)
    }
}

/// x · gain / rms(x), with the mean square in float32 as in transformers' `LlamaRMSNorm`.
pub(in crate::model) struct RmsNorm {
    /// `[width]`
    pub(super) gain: Tensor,
    pub(super) epsilon: f64,
}

impl Norm for RmsNorm {
    fn normalized(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.f_to_kind(Kind::Float)?;
        let mut scale = wide.f_square()?.f_mean_dim(-1i64, true, Kind::Float)?;
        let _ = scale.f_add_scalar_(self.epsilon)?.f_rsqrt_()?;
        Ok(wide.f_mul(&scale)?.f_to_kind(x.kind())?)
    }

    fn gained(&self, normalized: Tensor) -> Result<Tensor> {
        Ok(normalized.f_mul(&self.gain)?)
    }
}

/// x · gain / rms(x), all in float32: the norm of the gemmas, whose files have gain − 1, and of the olmos.
pub(in crate::model) struct WideRmsNorm {
    /// `[width]`, float32
    pub(super) gain: Tensor,
    pub(super) epsilon: f64,
    pub(super) kind: Kind,
}

impl Norm for WideRmsNorm {
    /// In float32: it is rounded to the model's dtype behind the gain.
    fn normalized(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.f_to_kind(Kind::Float)?;
        let mut scale = wide.f_square()?.f_mean_dim(-1i64, true, Kind::Float)?;
        let _ = scale.f_add_scalar_(self.epsilon)?.f_rsqrt_()?;
        Ok(wide.f_mul(&scale)?)
    }

    fn gained(&self, normalized: Tensor) -> Result<Tensor> {
        Ok(normalized.f_mul(&self.gain)?.f_to_kind(self.kind)?)
    }
}

/// (x − mean(x)) · gain / √(variance(x) + ε) + bias, all in float32.
pub(in crate::model) struct LayerNorm {
    /// `[width]`, or `[head, width]` where each head has its own; float32
    pub(super) gain: Tensor,
    /// As the gain.
    pub(super) bias: Option<Tensor>,
    pub(super) epsilon: f64,
    pub(super) kind: Kind,
}

impl Norm for LayerNorm {
    /// In float32: it is rounded to the model's dtype behind gain and bias.
    fn normalized(&self, x: &Tensor) -> Result<Tensor> {
        let wide = x.f_to_kind(Kind::Float)?;
        let centred = wide.f_sub(&wide.f_mean_dim(-1i64, true, Kind::Float)?)?;
        let mut scale = centred.f_square()?.f_mean_dim(-1i64, true, Kind::Float)?;
        let _ = scale.f_add_scalar_(self.epsilon)?.f_rsqrt_()?;
        Ok(centred.f_mul(&scale)?)
    }

    fn gained(&self, normalized: Tensor) -> Result<Tensor> {
        let gained = normalized.f_mul(&self.gain)?;
        let gained = match &self.bias {
            None => gained,
            Some(bias) => gained.f_add(bias)?,
        };
        Ok(gained.f_to_kind(self.kind)?)
    }
}

impl Activation {
    /// Of each element. What would be left behind the last whole registers is computed by other instructions, with other last bits than the
    /// same number has elsewhere; so a tensor is filled up, which those of usual widths need not be.
    fn of(self, x: &Tensor) -> Result<Tensor> {
        let left = x.numel() % AT_ONCE;
        if left == 0 {
            return self.of_whole(x);
        }
        let flat = x.f_reshape(-1i64)?;
        let filled = flat.f_constant_pad_nd([0, (AT_ONCE - left) as i64])?;
        let result = self.of_whole(&filled)?.f_narrow(0, 0, x.numel() as i64)?;
        Ok(result.f_view(x.size().as_slice())?)
    }

    fn of_whole(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Activation::Silu => x.f_silu()?,
            Activation::Gelu => x.f_gelu("none")?,
            Activation::GeluTanh => x.f_gelu("tanh")?,
        })
    }
}

/// down(act(gate(x)) · up(x)). Gate and up are not stored as one matrix: a product with fewer columns stays in the processor's cache.
pub(in crate::model) struct GatedMlp {
    pub(super) gate_proj: Linear,
    pub(super) up_proj: Linear,
    pub(super) down_proj: Linear,
    pub(super) activation: Activation,
}

impl GatedMlp {
    /// Of the norm's output `[B, S, d_model]`.
    pub(in crate::model) fn forward(&self, x: &Tensor, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let post = tap.pass(Site::MlpPost, self.post(x)?)?;
        self.down_proj.forward(&post)
    }

    /// act(gate(x)) · up(x), `[.., d_mlp]`.
    pub(super) fn post(&self, x: &Tensor) -> Result<Tensor> {
        let gate = self.gate_proj.forward(x)?;
        let up = self.up_proj.forward(x)?;
        Ok(self.activation.of(&gate)?.f_mul_(&up)?)
    }
}

/// proj(act(fc(x))).
pub(in crate::model) struct PlainMlp {
    pub(in crate::model) fc: Linear,
    pub(in crate::model) proj: Linear,
    pub(in crate::model) activation: Activation,
}

impl PlainMlp {
    /// Of the norm's output `[B, S, d_model]`.
    pub(in crate::model) fn forward(&self, x: &Tensor, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let post = self.activation.of(&self.fc.forward(x)?)?;
        self.proj.forward(&tap.pass(Site::MlpPost, post)?)
    }
}

/// What token ids become.
pub(in crate::model) struct Embedding {
    /// `[d_vocab, d_model]`
    table: Tensor,
    /// What the rows are multiplied by.
    scale: Option<f64>,
    /// Learned positions, `[context_length, d_model]`.
    positions: Option<Tensor>,
}

impl Embedding {
    /// The rows of a table.
    pub(in crate::model) fn new(table: Tensor) -> Self {
        Embedding {
            table,
            scale: None,
            positions: None,
        }
    }

    /// Times a factor, which is rounded to the table's dtype first.
    pub(in crate::model) fn scaled(self, factor: f64) -> Result<Self> {
        let rounded = Tensor::f_from_slice(&[factor])?.f_to_kind(self.table.kind())?;
        Ok(self.times(rounded.f_double_value(&[0])?))
    }

    /// Times a factor.
    pub(in crate::model) fn times(self, factor: f64) -> Self {
        Embedding {
            scale: Some(factor),
            ..self
        }
    }

    /// Plus the rows of a table of positions.
    pub(in crate::model) fn with_positions(self, positions: Tensor) -> Self {
        Embedding {
            positions: Some(positions),
            ..self
        }
    }

    pub(super) fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let rows = Tensor::f_embedding(&self.table, ids, -1, false, false)?;
        Ok(match self.scale {
            None => rows,
            Some(scale) => rows.f_mul_scalar(scale)?,
        })
    }

    pub(super) fn placed(&self, embedded: Tensor, positions: &Tensor) -> Result<Tensor> {
        let Some(table) = &self.positions else {
            return Ok(embedded);
        };
        let rows = Tensor::f_embedding(table, positions, -1, false, false)?;
        Ok(embedded.f_add(&rows)?)
    }
}

/// The unembedding.
pub(in crate::model) struct Head {
    /// `[d_vocab, d_model]`
    weight: Tensor,
    /// What the logits are multiplied by.
    scale: Option<f64>,
    /// c, where the logits are c · tanh(logits / c).
    soft_cap: Option<f64>,
}

impl Head {
    /// The tensor of that name, or the embedding's table where they are tied.
    pub(in crate::model) fn of(
        embedding: &Embedding,
        name: &str,
        loader: &Loader<'_>,
    ) -> Result<Self> {
        Ok(Head {
            weight: match loader.config.tied_embeddings {
                true => embedding.table.shallow_clone(),
                false => loader.tensor(name)?,
            },
            scale: None,
            soft_cap: None,
        })
    }

    /// Logits times a factor.
    pub(in crate::model) fn scaled(self, factor: f64) -> Self {
        Head {
            scale: Some(factor),
            ..self
        }
    }

    /// Logits between −`cap` and `cap`, where there is one.
    pub(in crate::model) fn soft_capped(self, cap: Option<f64>) -> Self {
        Head {
            soft_cap: cap,
            ..self
        }
    }

    pub(super) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.finished(hidden.f_linear::<Tensor>(&self.weight, None)?)
    }

    /// Logits of some tokens, `[token]` int64.
    pub(super) fn some_logits(&self, hidden: &Tensor, ids: &Tensor, kind: Kind) -> Result<Tensor> {
        let rows = self.weight.f_index_select(0, ids)?.f_to_kind(kind)?;
        self.finished(hidden.f_to_kind(kind)?.f_linear::<Tensor>(&rows, None)?)
    }

    fn finished(&self, mut logits: Tensor) -> Result<Tensor> {
        if let Some(scale) = self.scale {
            logits = logits.f_mul_scalar(scale)?;
        }
        match self.soft_cap {
            None => Ok(logits),
            Some(cap) => soft_capped(&logits, cap),
        }
    }
}

/// cap · tanh(x / cap).
pub(super) fn soft_capped(x: &Tensor, cap: f64) -> Result<Tensor> {
    Ok(x.f_div_scalar(cap)?.f_tanh()?.f_mul_scalar(cap)?)
}
