//! `granite`: IBM's Granite 3, a llama with multipliers: of the embedding, of the products of queries and keys, of what attention and MLP add
//! to the stream, and a divisor of the logits.
//!
//! Reference: `modeling_granite.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, attention_parameters, gated_mlp_parameters};
use crate::model::config::{Activation, Defaults, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, Linear, Loader, Network, Norm,
    Projected, RmsNorm, Rotary,
};

/// What a granite is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granite {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Whether the three MLP projections have biases.
    pub mlp_bias: bool,
    /// What the embedding is multiplied by.
    pub embedding_multiplier: f64,
    /// What the products of queries and keys are multiplied by, in the place of 1 / √`d_head`.
    pub attention_multiplier: f64,
    /// What attention and MLP give is multiplied by before it is added to the stream.
    pub residual_multiplier: f64,
    /// What the logits are divided by.
    pub logits_scaling: f64,
}

impl Architecture for Granite {
    const NAME: &'static str = "granite";
    const CLASSES: [&'static str; 2] = ["GraniteForCausalLM", "GraniteModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            end_of_text: &[2],            ..Defaults::of(2048)
        })?;
        let factor = |name| Ok::<_, String>(fields.number(name)?.unwrap_or(1.0));
        let granite = Granite {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.switch("mlp_bias")?.unwrap_or(false),
            embedding_multiplier: factor("embedding_multiplier")?,
            attention_multiplier: factor("attention_multiplier")?,
            residual_multiplier: factor("residual_multiplier")?,
            logits_scaling: factor("logits_scaling")?,
        };
        Ok((sizes, granite))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        for (name, value) in [
            ("embedding_multiplier", self.embedding_multiplier),
            ("attention_multiplier", self.attention_multiplier),
            ("residual_multiplier", self.residual_multiplier),
            ("logits_scaling", self.logits_scaling),
        ] {
            // The comparisons are false for what is not a number.
            if !(value > 1e-9 && value < 1e9) {
                return Err(format!(
                    "`{name}` is `{value}`, expected a positive number from 1e-9 to 1e9"
                ));
            }
        }
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let attention = attention_parameters(&block, sizes, [self.attention_bias, self.attention_bias]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, self.mlp_bias);
        norms.into_iter().chain(attention).chain(mlp).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?)
            .times(self.embedding_multiplier);
        let head = Head::of(&embedding, "lm_head.weight", loader)?;
        let sizes = &loader.config.sizes;
        let block = |layer| GraniteBlock::load(self, sizes, loader, &format!("model.layers.{layer}"));
        Ok(Network {
            head: head.scaled(self.logits_scaling.recip()),
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// A block: x + m · attention(norm(x)), then x + m · mlp(norm(x)).
struct GraniteBlock {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
    /// m
    residual_multiplier: f64,
}

impl GraniteBlock {
    fn load(granite: &Granite, sizes: &Sizes, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), granite.rms_norm_eps);
        Ok(GraniteBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), granite.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                scale: granite.attention_multiplier,
                ..Attention::of_width(sizes.d_head)
            },
            residual_multiplier: granite.residual_multiplier,
        })
    }
}

impl Block for GraniteBlock {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        self.heads.turned(&qkv, &rotaries[0])
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let times = |y: Tensor| -> Result<Tensor> { Ok(y.f_mul_scalar(self.residual_multiplier)?) };
        let attn_out = tap.attn_out(x, z, |z| times(self.o_proj.forward(z)?))?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| {
            times(self.mlp.forward(&self.post_attention_layernorm.forward(&x)?, tap)?)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::families::{Family, read_changed};

    fn read(changes: Value) -> Result<(Sizes, Granite), String> {
        let config = read_changed("granite", changes)?;
        match config.family {
            Family::Granite(granite) => Ok((config.sizes, granite)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, granite) = read(json!({"num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (8, 8));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (2048, false));
        assert_eq!(sizes.end_of_text, [2]);
        assert_eq!((granite.rms_norm_eps, granite.rope.theta), (1e-6, 10_000.0));
        assert_eq!((granite.attention_bias, granite.mlp_bias), (false, false));
        let factors = [granite.embedding_multiplier, granite.attention_multiplier, granite.residual_multiplier];
        assert_eq!((factors, granite.logits_scaling), ([1.0; 3], 1.0));
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 1e6, "attention_multiplier": 0.0078125, "logits_scaling": 8.0, "embedding_multiplier": 12});
        let mut new = old.clone();
        new["rope_theta"] = json!("absent");
        new["rope_parameters"] = json!({"rope_theta": 1e6, "rope_type": "default"});
        let (_, granite) = read(old.clone()).unwrap();
        assert_eq!((granite.rope.theta, granite.attention_multiplier), (1e6, 0.0078125));
        assert_eq!((granite.logits_scaling, granite.embedding_multiplier), (8.0, 12.0));
        assert_eq!(read(old), read(new));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (changes, expected) in [
            (json!({"logits_scaling": 0.0}), "`logits_scaling` is `0`"),
            (json!({"residual_multiplier": -0.2}), "`residual_multiplier` is `-0.2`"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
            (json!({"num_local_experts": 8}), "`num_local_experts` `8`"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
