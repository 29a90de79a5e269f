//! `olmo2`: OLMo 2. Attention and MLP take the stream as it is and are normalized behind; queries and keys are, each over all heads.
//!
//! Reference: `modeling_olmo2.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, NORMALIZED, Parameter, Writer, attention_parameters, gated_mlp_parameters};
use crate::model::config::{Activation, Defaults, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Projected, Rotary, WideRmsNorm,
};

/// What an olmo 2 is besides its sizes and its rotary embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Olmo2 {
    #[serde(flatten)]
    pub blocks: OlmoBlocks,
    pub rope: Rope,
}

/// What olmo 2 and olmo 3 have in common.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OlmoBlocks {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
}

/// What the olmos have where a file has nothing.
pub(super) const DEFAULTS: Defaults = Defaults {
    end_of_text: &[50_279],
    ..Defaults::of(2048)
};

impl Architecture for Olmo2 {
    const NAME: &'static str = "olmo2";
    const CLASSES: [&'static str; 2] = ["Olmo2ForCausalLM", "Olmo2Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&DEFAULTS)?;
        let olmo = Olmo2 {
            blocks: OlmoBlocks::read(fields)?,
            rope: fields.rope(10_000.0, sizes.context_length)?,
        };
        Ok((sizes, olmo))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.blocks.rms_norm_eps)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        self.blocks.parameters(sizes, layer)
    }

    fn writers(&self, _: &Sizes, _: usize) -> Result<Vec<Writer>, &'static str> {
        Err(NORMALIZED)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let attention = Attention::of_width(loader.config.sizes.d_head);
        let block = |layer| self.blocks.load(loader, layer, attention, 0);
        network(loader, &self.blocks, block, &[&self.rope])
    }
}

/// What stands around the blocks of an olmo.
pub(super) fn network(
    loader: &Loader<'_>,
    olmo: &OlmoBlocks,
    block: impl Fn(usize) -> Result<OlmoBlock>,
    ropes: &[&Rope],
) -> Result<Network> {
    let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
    let angles = |rope: &&Rope| Ok(loader.angles(rope)?.in_float32());
    Ok(Network {
        head: Head::of(&embedding, "lm_head.weight", loader)?,
        embedding,
        blocks: loader.blocks(block)?,
        norm: Box::new(loader.wide_rms_norm("model.norm", olmo.rms_norm_eps)?),
        rotaries: ropes.iter().map(angles).collect::<Result<_>>()?,
    })
}

impl OlmoBlocks {
    pub(super) fn read(fields: &Fields) -> Result<Self, String> {
        Ok(OlmoBlocks {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5),
            activation: fields.activation("hidden_act", Activation::Silu)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
        })
    }

    pub(super) fn parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let d_model = sizes.d_model;
        let (d_query, d_key) = (sizes.n_heads * sizes.d_head, sizes.n_kv_heads * sizes.d_head);
        let block = format!("model.layers.{layer}");
        let norms = [
            ("post_attention_layernorm", d_model),
            ("post_feedforward_layernorm", d_model),
            ("self_attn.q_norm", d_query),
            ("self_attn.k_norm", d_key),
        ];
        let norms = norms.map(|(norm, width)| (format!("{block}.{norm}.weight"), vec![width]));
        let attention = attention_parameters(&block, sizes, [self.attention_bias; 2]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
        norms.into_iter().chain(attention).chain(mlp).collect()
    }

    /// A layer's block, which attends so and turns by the rotary embedding of that number.
    pub(super) fn load(
        &self,
        loader: &Loader<'_>,
        layer: usize,
        attends: Attention,
        rotary: usize,
    ) -> Result<OlmoBlock> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.wide_rms_norm(&format!("{block}.{name}"), self.rms_norm_eps);
        Ok(OlmoBlock {
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            q_norm: norm("self_attn.q_norm")?,
            k_norm: norm("self_attn.k_norm")?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), self.activation)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            heads: Heads::of(&loader.config.sizes),
            attention: attends,
            rotary,
        })
    }
}

/// A block: x + norm(attention(x)), then x + norm(mlp(x)).
pub(super) struct OlmoBlock {
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    /// Of all query heads as one vector.
    q_norm: WideRmsNorm,
    /// Of all key heads as one vector.
    k_norm: WideRmsNorm,
    o_proj: Linear,
    post_attention_layernorm: WideRmsNorm,
    mlp: GatedMlp,
    post_feedforward_layernorm: WideRmsNorm,
    heads: Heads,
    attention: Attention,
    /// Which of the model's rotary embeddings.
    rotary: usize,
}

impl Block for OlmoBlock {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let [queries, keys, values] = self.heads.apart(&self.qkv_proj.forward(x)?)?;
        let rotary = &rotaries[self.rotary];
        let turned = |norm: &WideRmsNorm, heads: &Tensor| -> Result<Tensor> {
            let normed = norm.forward(&heads.f_flatten(2, 3)?)?;
            rotary.turn(&normed.f_view_as(heads)?)
        };
        let queries = turned(&self.q_norm, &queries)?;
        let keys = turned(&self.k_norm, &keys)?;
        Ok(Projected::new(queries, keys, values))
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| {
            self.post_attention_layernorm.forward(&self.o_proj.forward(z)?)
        })?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| {
            self.post_feedforward_layernorm.forward(&self.mlp.forward(&x, tap)?)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}
