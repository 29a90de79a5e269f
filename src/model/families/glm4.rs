//! `glm4`: GLM-4 of 2025. Norms before and behind attention and MLP, and a rotary embedding that turns neighbours in a part of each head.
//!
//! Reference: `modeling_glm4.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, NORMALIZED, Parameter, Writer, attention_parameters, linear};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, rotary_width,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Pairs, Projected, RmsNorm, Rotary,
};

/// What a glm 4 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Glm4 {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// How many elements of each head are turned: its first.
    pub rotary_width: usize,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
}

/// The tokens that end a text where the file names none.
const ENDS: [u32; 3] = [151_329, 151_336, 151_338];

impl Architecture for Glm4 {
    const NAME: &'static str = "glm4";
    const CLASSES: [&'static str; 2] = ["Glm4ForCausalLM", "Glm4Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let mut sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(2),
            d_head: Some(128),
            ..Defaults::of(131_072)
        })?;
        // Where it is null, too.
        if fields.value("eos_token_id").is_none() {
            sizes.end_of_text = ENDS.to_vec();
        }
        let (rope, share) = fields.partial_rope(10_000.0, 0.5, sizes.context_length)?;
        let glm = Glm4 {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1.5625e-7),
            rope,
            rotary_width: rotary_width(sizes.d_head, share)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            qkv_bias: fields.switch("attention_bias")?.unwrap_or(true),
        };
        Ok((sizes, glm))
    }

    fn validate(&self, _: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.validate(self.rotary_width)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
        let block = format!("model.layers.{layer}");
        let norms = [
            "input_layernorm",
            "post_self_attn_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![d_model]));
        let attention = attention_parameters(&block, sizes, [self.qkv_bias, false]);
        let matrices = [
            ("mlp.gate_up_proj", [2 * d_mlp, d_model]),
            ("mlp.down_proj", [d_model, d_mlp]),
        ];
        let linear = |(name, shape)| linear(format!("{block}.{name}"), shape, false);
        let matrices = matrices.into_iter().flat_map(linear);
        norms.into_iter().chain(attention).chain(matrices).collect()
    }

    fn writers(&self, _: &Sizes, _: usize) -> Result<Vec<Writer>, &'static str> {
        Err(NORMALIZED)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let block = |layer| Glm4Block::load(self, loader, &format!("model.layers.{layer}"));
        let angles = loader.partial_angles(&self.rope, self.rotary_width, Pairs::Neighbours)?;
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![angles],
        })
    }
}

/// A block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x))).
struct Glm4Block {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_self_attn_layernorm: RmsNorm,
    /// Behind attention and its norm: before the MLP.
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    post_mlp_layernorm: RmsNorm,
    heads: Heads,
    attention: Attention,
}

impl Glm4Block {
    fn load(glm: &Glm4, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let sizes = &loader.config.sizes;
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), glm.rms_norm_eps);
        Ok(Glm4Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_self_attn_layernorm: norm("post_self_attn_layernorm")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.fused_gated_mlp(&format!("{block}.mlp"), glm.activation)?,
            post_mlp_layernorm: norm("post_mlp_layernorm")?,
            heads: Heads::of(sizes),
            attention: Attention::of_width(sizes.d_head),
        })
    }
}

impl Block for Glm4Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        self.heads.turned(&qkv, &rotaries[0])
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| {
            self.post_self_attn_layernorm.forward(&self.o_proj.forward(z)?)
        })?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| {
            let normed = self.post_attention_layernorm.forward(&x)?;
            self.post_mlp_layernorm.forward(&self.mlp.forward(&normed, tap)?)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}
