//! `smollm3`: SmolLM3, a llama that turns no heads in some of its layers.
//!
//! Reference: `modeling_smollm3.py` in Hugging Face transformers 5.23.

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

/// What a smollm3 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmolLm3 {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// Whether the three MLP projections have biases.
    pub mlp_bias: bool,
    /// Whether each layer's heads are turned.
    pub rotary: Vec<bool>,
    /// The positions that one attends to in each layer, itself among them; none for all.
    pub windows: Vec<Option<usize>>,
}

impl Architecture for SmolLm3 {
    const NAME: &'static str = "smollm3";
    const CLASSES: [&'static str; 2] = ["SmolLM3ForCausalLM", "SmolLM3Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(4),
            tied_embeddings: true,
            end_of_text: &[128_001],            ..Defaults::of(32_768)
        })?;
        // Lists by layers are made below.
        sizes.validate()?;
        let rotary = rotary_layers(fields, sizes.n_layers)?;
        let window = fields.window(None)?;
        let use_window = fields.switch("use_sliding_window")?.unwrap_or(false);
        let smollm3 = SmolLm3 {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(2_000_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.switch("mlp_bias")?.unwrap_or(false),
            windows: fields.windows_of(&sizes, window, |layer| {
                use_window && window.is_some() && !rotary[layer]
            })?,
            rotary,
        };
        Ok((sizes, smollm3))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
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
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| SmolLm3Block::load(self, sizes, loader, layer);
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// Which layers turn their heads: `no_rope_layers` has 1 for those that do, and without it one in every `no_rope_layer_interval` does not.
fn rotary_layers(fields: &Fields, n_layers: usize) -> Result<Vec<bool>, String> {
    let interval = fields.count("no_rope_layer_interval")?.unwrap_or(4);
    let Some(given) = fields.list::<usize>("no_rope_layers")? else {
        let turns = |layer: usize| match (layer + 1).checked_rem(interval) {
            Some(rest) => Ok(rest != 0),
            None => Err("`no_rope_layer_interval` is `0`, expected a positive number".to_string()),
        };
        return (0..n_layers).map(turns).collect();
    };
    match given.len() >= n_layers {
        true => Ok(given[..n_layers].iter().map(|turns| *turns != 0).collect()),
        false => Err(format!(
            "`no_rope_layers` has `{}` entries, expected one for each of `{n_layers}` layers",
            given.len()
        )),
    }
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct SmolLm3Block {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
    /// Whether queries and keys are turned.
    rotary: bool,
}

impl SmolLm3Block {
    fn load(smollm3: &SmolLm3, sizes: &Sizes, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), smollm3.rms_norm_eps);
        Ok(SmolLm3Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), smollm3.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: smollm3.windows[layer],
                ..Attention::of_width(sizes.d_head)
            },
            rotary: smollm3.rotary[layer],
        })
    }
}

impl Block for SmolLm3Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        match self.rotary {
            true => self.heads.turned(&qkv, &rotaries[0]),
            false => {
                let [queries, keys, values] = self.heads.apart(&qkv)?;
                Ok(Projected::new(queries, keys, values))
            }
        }
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

    fn read(changes: Value) -> Result<(Sizes, SmolLm3), String> {
        let config = read_changed("smollm3", changes)?;
        match config.family {
            Family::SmolLm3(smollm3) => Ok((config.sizes, smollm3)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, smollm3) = read(json!({"num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (4, 8));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (32_768, true));
        assert_eq!(sizes.end_of_text, [128_001]);
        assert_eq!((smollm3.rms_norm_eps, smollm3.rope.theta), (1e-6, 2_000_000.0));
        assert_eq!((smollm3.attention_bias, smollm3.mlp_bias), (false, false));
        assert_eq!((smollm3.rotary, smollm3.windows), (vec![true, true, true, false], vec![None; 4]));
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 5e6, "no_rope_layer_interval": 2, "use_sliding_window": true, "sliding_window": 9});
        let new = json!({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}, "no_rope_layers": [1, 0, 1, 0],
            "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]});
        let (_, smollm3) = read(old.clone()).unwrap();
        assert_eq!(smollm3.rotary, [true, false, true, false]);
        assert_eq!(smollm3.windows, [None, Some(9), None, Some(9)]);
        assert_eq!(read(old), read(new));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (changes, expected) in [
            (json!({"sliding_window": 0}), "`sliding_window` is `0`"),
            (json!({"layer_types": vec!["sliding_attention"; 4]}), "`sliding_window` is `null`, expected a positive"),
            (json!({"no_rope_layers": [1, 0]}), "`no_rope_layers` has `2` entries"),
            (json!({"no_rope_layers": [1, -1, 0, 0]}), "`no_rope_layers` is `[1,-1,0,0]`, expected a list"),
            (json!({"no_rope_layer_interval": 0}), "`no_rope_layer_interval` is `0`"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
