//! `phi3`: Phi-3, Phi-3.5 and Phi-4, mini and medium.
//!
//! Reference: `modeling_phi3.py` in Hugging Face transformers 5.23. A llama whose query, key and value projections are stored as one matrix, and
//! whose gate and up projections are another. Those for long contexts turn every position by one of two lists, of which the length of the whole
//! text decides (`config/rope_parameters/longrope.rs`).

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, linear};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, rotary_width,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Pairs, Projected, RmsNorm, Rotary,
};

/// What a phi3 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Phi3 {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub activation: Activation,
    pub rope: Rope,
    /// How many of a head's elements turn, its first.
    pub rotary_width: usize,
    /// What every layer attends to; none for everything.
    pub sliding_window: Option<usize>,
}

impl Architecture for Phi3 {
    const NAME: &'static str = "phi3";
    const CLASSES: [&'static str; 2] = ["Phi3ForCausalLM", "Phi3Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            end_of_text: &[32_000],
            ..Defaults::of(4096)
        })?;
        let original = fields.count("original_max_position_embeddings")?;
        let lengths = [original.unwrap_or(4096), sizes.context_length];
        let (rope, share) = fields.plain_or_long_rope(10_000.0, lengths)?;
        let phi3 = Phi3 {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5),
            activation: fields.activation("hidden_act", Activation::Silu)?,
            rope,
            rotary_width: rotary_width(sizes.d_head, share)?,
            sliding_window: fields.count("sliding_window")?,
        };
        Ok((sizes, phi3))
    }

    fn validate(&self, _: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        if self.sliding_window == Some(0) {
            return Err("`sliding_window` is `0`, expected a positive number of tokens, or `null` for no window".into());
        }
        self.rope.validate(self.rotary_width)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
        let (d_query, d_key) = (sizes.n_heads * sizes.d_head, sizes.n_kv_heads * sizes.d_head);
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![d_model]));
        let matrices = [
            ("self_attn.qkv_proj", [d_query + 2 * d_key, d_model]),
            ("self_attn.o_proj", [d_model, d_query]),
            ("mlp.gate_up_proj", [2 * d_mlp, d_model]),
            ("mlp.down_proj", [d_model, d_mlp]),
        ];
        let linear = |(name, shape)| linear(format!("{block}.{name}"), shape, false);
        let matrices = matrices.into_iter().flat_map(linear);
        norms.into_iter().chain(matrices).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        Ok(Network {
            head: Head::of(&embedding, self.head(), loader)?,
            embedding,
            blocks: loader.blocks(|layer| Phi3Block::load(self, loader, layer))?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.partial_angles(&self.rope, self.rotary_width, Pairs::Halves)?],
        })
    }
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct Phi3Block {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl Phi3Block {
    fn load(phi3: &Phi3, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let (block, sizes) = (format!("model.layers.{layer}"), &loader.config.sizes);
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), phi3.rms_norm_eps);
        let linear = |name| loader.linear(&format!("{block}.{name}"));
        Ok(Phi3Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: linear("self_attn.qkv_proj")?,
            o_proj: linear("self_attn.o_proj")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.fused_gated_mlp(&format!("{block}.mlp"), phi3.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: phi3.sliding_window,
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for Phi3Block {
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
