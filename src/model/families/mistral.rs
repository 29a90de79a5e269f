//! `mistral`: Mistral and what publishes itself as one: a llama without biases, whose layers may all attend to a window.
//!
//! Reference: `modeling_mistral.py` in Hugging Face transformers 5.23.

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

/// What a mistral is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mistral {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// The positions that one attends to, itself among them, in every layer; none for all.
    pub sliding_window: Option<usize>,
}

impl Architecture for Mistral {
    const NAME: &'static str = "mistral";
    const CLASSES: [&'static str; 2] = ["MistralForCausalLM", "MistralModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(8),
            end_of_text: &[2],            ..Defaults::of(131_072)
        })?;
        let mistral = Mistral {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            // `layer_types` is not read there, either.
            sliding_window: fields.window(Some(4096))?,
        };
        Ok((sizes, mistral))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let attention = attention_parameters(&block, sizes, [false, false]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
        norms.into_iter().chain(attention).chain(mlp).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| MistralBlock::load(self, sizes, loader, &format!("model.layers.{layer}"));
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct MistralBlock {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl MistralBlock {
    fn load(mistral: &Mistral, sizes: &Sizes, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), mistral.rms_norm_eps);
        Ok(MistralBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), mistral.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: mistral.sliding_window,
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for MistralBlock {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::families::{Family, read_changed};

    fn read(changes: Value) -> Result<(Sizes, Mistral), String> {
        let config = read_changed("mistral", changes)?;
        match config.family {
            Family::Mistral(mistral) => Ok((config.sizes, mistral)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, mistral) = read(json!({"num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (8, 8));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (131_072, false));
        assert_eq!(sizes.end_of_text, [2]);
        assert_eq!((mistral.rms_norm_eps, mistral.rope.theta), (1e-6, 10_000.0));
        assert_eq!(mistral.sliding_window, Some(4096));
        let (sizes, mistral) =
            read(json!({"num_key_value_heads": null, "sliding_window": null, "eos_token_id": null})).unwrap();
        assert_eq!((sizes.n_kv_heads, mistral.sliding_window), (8, None));
        assert!(sizes.end_of_text.is_empty());
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 1e6, "head_dim": 16, "sliding_window": 32, "layer_types": ["full_attention"]});
        let new = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "head_dim": 16, "sliding_window": 32});
        let (sizes, mistral) = read(old.clone()).unwrap();
        assert_eq!((sizes.d_head, mistral.rope.theta, mistral.sliding_window), (16, 1e6, Some(32)));
        assert_eq!(read(old), read(new));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (changes, expected) in [
            (json!({"sliding_window": 0}), "`sliding_window` is `0`"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
            (json!({"head_dim": 5}), "expected an even number"),
            (json!({"is_causal": false}), "`is_causal` `false`"),
            (json!({"num_local_experts": 8}), "`num_local_experts` `8`"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
