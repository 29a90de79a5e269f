//! `gemma`: the first Gemma. A llama whose norms' gains are stored less 1, with scaled embeddings and a gated MLP of the tanh form of GELU.
//!
//! Reference: `modeling_gemma.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, attention_parameters, gated_mlp_parameters};
use crate::model::config::{Activation, Defaults, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Projected, Rotary, WideRmsNorm,
};

/// What a gemma is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gemma {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
}

/// What all gemmas have where a file has nothing.
pub(super) const DEFAULTS: Defaults = Defaults {
    d_head: Some(256),
    tied_embeddings: true,
    end_of_text: &[1],
    ..Defaults::of(8192)
};

impl Architecture for Gemma {
    const NAME: &'static str = "gemma";
    const CLASSES: [&'static str; 2] = ["GemmaForCausalLM", "GemmaModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(16),
            ..DEFAULTS
        })?;
        let gemma = Gemma {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: match fields.activation("hidden_act", Activation::GeluTanh)? {
                // What the first files call so is the tanh form all the same.
                Activation::Gelu => Activation::GeluTanh,
                other => other,
            },
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
        };
        Ok((sizes, gemma))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let matrices = matrices(&block, sizes, self.attention_bias);
        norms.into_iter().chain(matrices).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = scaled_embedding(loader)?;
        let block = |layer| GemmaBlock::load(self, loader, &format!("model.layers.{layer}"));
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.offset_rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// The matrices of a block of any gemma, and the biases of attention where it has them.
pub(super) fn matrices(block: &str, sizes: &Sizes, attention_bias: bool) -> Vec<Parameter> {
    let attention = attention_parameters(block, sizes, [attention_bias; 2]);
    let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
    attention.into_iter().chain(mlp).collect()
}

/// The embedding of any gemma, times √`d_model`. Where the head is tied to it, that is without the factor.
pub(super) fn scaled_embedding(loader: &Loader<'_>) -> Result<Embedding> {
    let table = loader.tensor("model.embed_tokens.weight")?;
    Embedding::new(table).scaled((loader.config.sizes.d_model as f64).sqrt())
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct GemmaBlock {
    input_layernorm: WideRmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: WideRmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl GemmaBlock {
    fn load(gemma: &Gemma, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let sizes = &loader.config.sizes;
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.offset_rms_norm(&format!("{block}.{name}"), gemma.rms_norm_eps);
        Ok(GemmaBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), gemma.activation)?,
            heads: Heads::of(sizes),
            attention: Attention::of_width(sizes.d_head),
        })
    }
}

impl Block for GemmaBlock {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        self.heads.turned(&qkv, &rotaries[0])
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| self.o_proj.forward(z))?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| {
            self.mlp.forward(&self.post_attention_layernorm.forward(&x)?, tap)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}
