//! `gemma2`: Gemma 2. A gemma with norms before and behind attention and MLP, windows in every other layer, and soft caps.
//!
//! Reference: `modeling_gemma2.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::gemma::{DEFAULTS, matrices, scaled_embedding};
use super::{Architecture, NORMALIZED, Parameter, Writer};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, check_positive,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, GatedMlp, Head, Heads, Linear, Loader, Network, Norm, Projected,
    Rotary, WideRmsNorm,
};

/// What a gemma 2 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gemma2 {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
    /// q, where the products of queries and keys are divided by √q.
    pub query_pre_attn_scalar: f64,
    /// c, where these products become c · tanh(products / c) then.
    pub attn_logit_softcapping: Option<f64>,
    /// c, where the logits become c · tanh(logits / c).
    pub final_logit_softcapping: Option<f64>,
    /// The window of each layer, `[n_layers]`; none for one that attends to everything.
    pub windows: Vec<Option<usize>>,
}

impl Architecture for Gemma2 {
    const NAME: &'static str = "gemma2";
    const CLASSES: [&'static str; 2] = ["Gemma2ForCausalLM", "Gemma2Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(4),
            ..DEFAULTS
        })?;
        let cap = |name, default| fields.number_unless_null(name, Some(default));
        let gemma = Gemma2 {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_activation", Activation::GeluTanh)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            query_pre_attn_scalar: fields.number("query_pre_attn_scalar")?.unwrap_or(256.0),
            attn_logit_softcapping: cap("attn_logit_softcapping", 50.0)?,
            final_logit_softcapping: cap("final_logit_softcapping", 30.0)?,
            windows: fields.windows(&sizes, 4096, |layer| layer.is_multiple_of(2))?,
        };
        Ok((sizes, gemma))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        check_positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        for (name, cap) in [
            ("attn_logit_softcapping", self.attn_logit_softcapping),
            ("final_logit_softcapping", self.final_logit_softcapping),
        ] {
            cap.map_or(Ok(()), |cap| check_positive(name, cap))?;
        }
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = NORMS.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let matrices = matrices(&block, sizes, self.attention_bias);
        norms.into_iter().chain(matrices).collect()
    }

    fn writers(&self, _: &Sizes, _: usize) -> Result<Vec<Writer>, &'static str> {
        Err(NORMALIZED)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = scaled_embedding(loader)?;
        let head = Head::of(&embedding, "lm_head.weight", loader)?;
        Ok(Network {
            head: head.soft_capped(self.final_logit_softcapping),
            embedding,
            blocks: loader.blocks(|layer| Gemma2Block::load(self, loader, layer))?,
            norm: Box::new(loader.offset_rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// The norms of a block.
pub(super) const NORMS: [&str; 4] = [
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
];

/// A block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x))).
struct Gemma2Block {
    input_layernorm: WideRmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: WideRmsNorm,
    pre_feedforward_layernorm: WideRmsNorm,
    mlp: GatedMlp,
    post_feedforward_layernorm: WideRmsNorm,
    heads: Heads,
    attention: Attention,
}

impl Gemma2Block {
    fn load(gemma: &Gemma2, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.offset_rms_norm(&format!("{block}.{name}"), gemma.rms_norm_eps);
        Ok(Gemma2Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), gemma.activation)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            heads: Heads::of(&loader.config.sizes),
            attention: Attention {
                scale: gemma.query_pre_attn_scalar.powf(-0.5),
                window: gemma.windows[layer],
                soft_cap: gemma.attn_logit_softcapping,
            },
        })
    }
}

impl Block for Gemma2Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        self.heads.turned(&qkv, &rotaries[0])
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| {
            self.post_attention_layernorm.forward(&self.o_proj.forward(z)?)
        })?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| {
            let normed = self.pre_feedforward_layernorm.forward(&x)?;
            self.post_feedforward_layernorm.forward(&self.mlp.forward(&normed, tap)?)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}
