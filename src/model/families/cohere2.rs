//! `cohere2`: Command R7B, Command A and what is built like them.
//!
//! Reference: `modeling_cohere2.py` in Hugging Face transformers 5.23. Attention and MLP read the same stream through one norm, so that there is no
//! `hook_resid_mid`. Layers that attend to a window have a rotary embedding, those that attend to everything have none.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, attention_parameters, gated_mlp_parameters};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, check_positive,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, LayerNorm, Linear, Loader,
    Network, Norm, Pairs, Projected, Rotary,
};

/// What a cohere2 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cohere2 {
    /// The ε in (x − mean(x)) / √(variance(x) + ε).
    pub layer_norm_eps: f64,
    pub activation: Activation,
    /// Of the layers that attend to a window.
    pub rope: Rope,
    /// The window of each layer; none for one that attends to everything, and whose heads do not turn.
    pub windows: Vec<Option<usize>>,
    /// Whether the projections of attention have biases.
    pub attention_bias: bool,
    /// What the logits are multiplied by.
    pub logit_scale: f64,
}

impl Architecture for Cohere2 {
    const NAME: &'static str = "cohere2";
    const CLASSES: [&'static str; 2] = ["Cohere2ForCausalLM", "Cohere2Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            tied_embeddings: true,
            end_of_text: &[255_001],
            ..Defaults::of(8192)
        })?;
        let pattern = fields.count("sliding_window_pattern")?.unwrap_or(4);
        if pattern == 0 {
            return Err("`sliding_window_pattern` is `0`, expected a positive number of layers".into());
        }
        let cohere2 = Cohere2 {
            layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5),
            activation: fields.activation("hidden_act", Activation::Silu)?,
            rope: fields.rope(10_000.0, sizes.context_length)?,
            windows: fields.windows(&sizes, 4096, |layer| !(layer + 1).is_multiple_of(pattern))?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            logit_scale: fields.number("logit_scale")?.unwrap_or(0.0625),
        };
        Ok((sizes, cohere2))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("layer_norm_eps", self.layer_norm_eps)?;
        check_positive("logit_scale", self.logit_scale)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norm = (format!("{block}.input_layernorm.weight"), vec![sizes.d_model]);
        let attention = attention_parameters(&block, sizes, [self.attention_bias; 2]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
        [norm].into_iter().chain(attention).chain(mlp).collect()
    }

    fn has(&self, _: usize, site: Site) -> bool {
        site != Site::ResidMid
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let rotary = loader.partial_angles(&self.rope, loader.config.d_head, Pairs::Neighbours)?;
        Ok(Network {
            head: Head::of(&embedding, self.head(), loader)?.scaled(self.logit_scale),
            embedding,
            blocks: loader.blocks(|layer| Cohere2Block::load(self, loader, layer))?,
            norm: Box::new(loader.layer_norm("model.norm", self.layer_norm_eps)?),
            rotaries: vec![rotary],
        })
    }
}

/// A block: x + attention(norm(x)) + mlp(norm(x)).
struct Cohere2Block {
    input_layernorm: LayerNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl Cohere2Block {
    fn load(cohere2: &Cohere2, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let (block, sizes) = (format!("model.layers.{layer}"), &loader.config.sizes);
        let attention = format!("{block}.self_attn");
        let norm = format!("{block}.input_layernorm");
        Ok(Cohere2Block {
            input_layernorm: loader.layer_norm(&norm, cohere2.layer_norm_eps)?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), cohere2.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: cohere2.windows[layer],
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for Cohere2Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        match self.attention.window {
            Some(_) => self.heads.turned(&qkv, &rotaries[0]),
            None => {
                let [queries, keys, values] = self.heads.apart(&qkv)?;
                Ok(Projected::new(queries, keys, values))
            }
        }
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| self.o_proj.forward(z))?;
        let mlp_out = tap.mlp_out(x, |tap| {
            self.mlp.forward(&self.input_layernorm.forward(x)?, tap)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&attn_out)?.f_add(&mlp_out)?)
    }
}
