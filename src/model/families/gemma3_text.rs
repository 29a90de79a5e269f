//! `gemma3_text`: the text model of Gemma 3. A gemma 2 that normalizes queries and keys instead of capping their products, with a rotary
//! embedding for layers that attend to everything and another for those that attend to a window.
//!
//! Reference: `modeling_gemma3.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::gemma::{DEFAULTS, matrices, scaled_embedding};
use super::gemma2::NORMS;
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

/// What the text model of a gemma 3 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gemma3Text {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    /// Of layers that attend to everything.
    pub full_rope: Rope,
    /// Of layers that attend to a window.
    pub sliding_rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four projections of attention have biases.
    pub attention_bias: bool,
    /// q, where the products of queries and keys are divided by √q.
    pub query_pre_attn_scalar: f64,
    /// c, where the logits become c · tanh(logits / c).
    pub final_logit_softcapping: Option<f64>,
    /// The window of each layer, `[n_layers]`; none for one that attends to everything.
    pub windows: Vec<Option<usize>>,
}

impl Architecture for Gemma3Text {
    const NAME: &'static str = "gemma3_text";
    const CLASSES: [&'static str; 2] = ["Gemma3ForCausalLM", "Gemma3TextModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_heads: Some(8),
            n_kv_heads: Some(4),
            d_vocab: Some(262_208),
            context_length: 131_072,
            ..DEFAULTS
        })?;
        let thetas = [
            (Some("rope_theta"), 1e6),
            (Some("rope_local_base_freq"), 1e4),
        ];
        let [full_rope, sliding_rope] = fields.ropes_by_layer(thetas, sizes.context_length)?;
        // A number that nothing in transformers passes on to the attention of this family.
        fields.number("attn_logit_softcapping")?;
        let gemma = Gemma3Text {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            full_rope,
            sliding_rope,
            activation: fields.activation("hidden_activation", Activation::GeluTanh)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            query_pre_attn_scalar: fields.number("query_pre_attn_scalar")?.unwrap_or(256.0),
            final_logit_softcapping: fields.number("final_logit_softcapping")?,
            windows: windows(fields, &sizes)?,
        };
        Ok((sizes, gemma))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        check_positive("query_pre_attn_scalar", self.query_pre_attn_scalar)?;
        let cap = self.final_logit_softcapping;
        cap.map_or(Ok(()), |cap| check_positive("final_logit_softcapping", cap))?;
        self.full_rope.validate(sizes.d_head)?;
        self.sliding_rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = NORMS.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let head_norms = ["q_norm", "k_norm"]
            .map(|norm| (format!("{block}.self_attn.{norm}.weight"), vec![sizes.d_head]));
        let matrices = matrices(&block, sizes, self.attention_bias);
        let norms = norms.into_iter().chain(head_norms);
        norms.chain(matrices).collect()
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
            blocks: loader.blocks(|layer| Gemma3Block::load(self, loader, layer))?,
            norm: Box::new(loader.offset_rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![
                loader.angles(&self.full_rope)?,
                loader.angles(&self.sliding_rope)?,
            ],
        })
    }
}

/// The window of each layer. Where the file does not list them, every `sliding_window_pattern`-th layer attends to everything.
fn windows(fields: &Fields, sizes: &Sizes) -> Result<Vec<Option<usize>>, String> {
    let pattern = fields.count("sliding_window_pattern")?.unwrap_or(6);
    if pattern == 0 {
        return Err("`sliding_window_pattern` is `0`, expected a positive number of layers".into());
    }
    fields.windows(sizes, 4096, |layer| !(layer + 1).is_multiple_of(pattern))
}

/// A block: x + norm(attention(norm(x))), then x + norm(mlp(norm(x))).
struct Gemma3Block {
    input_layernorm: WideRmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    /// Of each query head.
    q_norm: WideRmsNorm,
    /// Of each key head.
    k_norm: WideRmsNorm,
    o_proj: Linear,
    post_attention_layernorm: WideRmsNorm,
    pre_feedforward_layernorm: WideRmsNorm,
    mlp: GatedMlp,
    post_feedforward_layernorm: WideRmsNorm,
    heads: Heads,
    attention: Attention,
    /// Which of the model's rotary embeddings.
    rotary: usize,
}

impl Gemma3Block {
    fn load(gemma: &Gemma3Text, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.offset_rms_norm(&format!("{block}.{name}"), gemma.rms_norm_eps);
        let window = gemma.windows[layer];
        Ok(Gemma3Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            q_norm: norm("self_attn.q_norm")?,
            k_norm: norm("self_attn.k_norm")?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            pre_feedforward_layernorm: norm("pre_feedforward_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), gemma.activation)?,
            post_feedforward_layernorm: norm("post_feedforward_layernorm")?,
            heads: Heads::of(&loader.config.sizes),
            attention: Attention {
                scale: gemma.query_pre_attn_scalar.powf(-0.5),
                window,
                soft_cap: None,
            },
            rotary: usize::from(window.is_some()),
        })
    }
}

impl Block for Gemma3Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        let [queries, keys, values] = self.heads.apart(&qkv)?;
        let rotary = &rotaries[self.rotary];
        let queries = rotary.turn(&self.q_norm.forward(&queries)?)?;
        let keys = rotary.turn(&self.k_norm.forward(&keys)?)?;
        Ok(Projected::new(queries, keys, values))
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
