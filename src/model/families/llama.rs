//! `llama`: Llama and everything that publishes itself as one (SmolLM2, TinyLlama, …).
//!
//! Reference: `modeling_llama.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize, Serializer};
use tch::Tensor;

use super::{Architecture, Parameter, attention_parameters, gated_mlp_parameters};
use crate::model::config::{Activation, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Projected, RmsNorm, Rotary,
};

/// What a llama is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Llama {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub attention_output_bias: bool,
    /// Whether the three MLP projections have biases.
    pub mlp_bias: bool,
}

impl Architecture for Llama {
    const NAME: &'static str = "llama";
    const CLASSES: [&'static str; 2] = ["LlamaForCausalLM", "LlamaModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        fields.silu()?;
        fields.full_attention(false)?;
        let sizes = fields.sizes(2048)?;
        let attention_bias = fields.switch("attention_bias")?.unwrap_or(false);
        let llama = Llama {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            qkv_bias: attention_bias,
            attention_output_bias: attention_bias,
            mlp_bias: fields.switch("mlp_bias")?.unwrap_or(false),
        };
        Ok((sizes, llama))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let attention = attention_parameters(&block, sizes, [self.qkv_bias, self.attention_output_bias]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, self.mlp_bias);
        norms.into_iter().chain(attention).chain(mlp).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| LlamaBlock::load(self, sizes, loader, &format!("model.layers.{layer}"));
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }

    /// As it was before there were other families, so that fingerprints stay.
    fn serialize_with<S: Serializer>(&self, sizes: &Sizes, serializer: S) -> Result<S::Ok, S::Error> {
        FirstForm::of(Self::NAME, sizes, self).serialize(serializer)
    }
}

/// A configuration as fingerprints of the first two families have it.
#[derive(Serialize)]
pub(super) struct FirstForm<'f> {
    architecture: &'static str,
    d_model: usize,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    d_head: usize,
    d_mlp: usize,
    d_vocab: usize,
    rms_norm_eps: f64,
    rope: &'f Rope,
    tied_embeddings: bool,
    qkv_bias: bool,
    attention_output_bias: bool,
    mlp_bias: bool,
    context_length: usize,
    end_of_text: &'f [u32],
}

impl<'f> FirstForm<'f> {
    pub(super) fn of(architecture: &'static str, sizes: &'f Sizes, llama: &'f Llama) -> Self {
        FirstForm {
            architecture,
            d_model: sizes.d_model,
            n_layers: sizes.n_layers,
            n_heads: sizes.n_heads,
            n_kv_heads: sizes.n_kv_heads,
            d_head: sizes.d_head,
            d_mlp: sizes.d_mlp,
            d_vocab: sizes.d_vocab,
            rms_norm_eps: llama.rms_norm_eps,
            rope: &llama.rope,
            tied_embeddings: sizes.tied_embeddings,
            qkv_bias: llama.qkv_bias,
            attention_output_bias: llama.attention_output_bias,
            mlp_bias: llama.mlp_bias,
            context_length: sizes.context_length,
            end_of_text: &sizes.end_of_text,
        }
    }
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct LlamaBlock {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl LlamaBlock {
    fn load(llama: &Llama, sizes: &Sizes, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), llama.rms_norm_eps);
        Ok(LlamaBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), Activation::Silu)?,
            heads: Heads::of(sizes),
            attention: Attention::of_width(sizes.d_head),
        })
    }
}

impl Block for LlamaBlock {
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
