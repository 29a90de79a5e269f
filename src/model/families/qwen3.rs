//! `qwen3`: the dense Qwen3, a llama whose query and key heads are normalized before they are turned, and whose upper layers may attend to a
//! window.
//!
//! Reference: `modeling_qwen3.py` in Hugging Face transformers 5.23.

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

/// What a qwen3 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Qwen3 {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the MLPs.
    pub activation: Activation,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// The positions that one attends to in each layer, itself among them; none for all.
    pub windows: Vec<Option<usize>>,
}

impl Architecture for Qwen3 {
    const NAME: &'static str = "qwen3";
    const CLASSES: [&'static str; 2] = ["Qwen3ForCausalLM", "Qwen3Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(32),
            d_head: Some(128),            ..Defaults::of(32_768)
        })?;
        // A list by layers is made below.
        sizes.validate()?;
        let window = match fields.switch("use_sliding_window")?.unwrap_or(false) {
            true => fields.window(Some(4096))?,
            false => None,
        };
        let first = fields.count("max_window_layers")?.unwrap_or(28);
        let qwen3 = Qwen3 {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            windows: fields.windows_of(&sizes, window, |layer| window.is_some() && layer >= first)?,
        };
        Ok((sizes, qwen3))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let head_norms = ["self_attn.q_norm", "self_attn.k_norm"];
        let head_norms = head_norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_head]));
        let attention = attention_parameters(&block, sizes, [self.attention_bias; 2]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
        let norms = norms.into_iter().chain(head_norms);
        norms.chain(attention).chain(mlp).collect()
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| Qwen3Block::load(self, sizes, loader, layer);
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
struct Qwen3Block {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    /// Of each query head.
    q_norm: RmsNorm,
    /// Of each key head.
    k_norm: RmsNorm,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl Qwen3Block {
    fn load(qwen3: &Qwen3, sizes: &Sizes, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), qwen3.rms_norm_eps);
        Ok(Qwen3Block {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            q_norm: norm("self_attn.q_norm")?,
            k_norm: norm("self_attn.k_norm")?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: loader.gated_mlp(&format!("{block}.mlp"), qwen3.activation)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: qwen3.windows[layer],
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for Qwen3Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        let [queries, keys, values] = self.heads.apart(&qkv)?;
        let turned = |norm: &RmsNorm, of: &Tensor| rotaries[0].turn(&norm.forward(of)?);
        let (queries, keys) = (turned(&self.q_norm, &queries)?, turned(&self.k_norm, &keys)?);
        Ok(Projected::new(queries, keys, values))
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

    fn read(changes: Value) -> Result<(Sizes, Qwen3), String> {
        let config = read_changed("qwen3", changes)?;
        match config.family {
            Family::Qwen3(qwen3) => Ok((config.sizes, qwen3)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, qwen3) =
            read(json!({"num_attention_heads": 32, "num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (32, 128));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (32_768, false));
        assert!(sizes.end_of_text.is_empty());
        assert_eq!((qwen3.rms_norm_eps, qwen3.rope.theta, qwen3.attention_bias), (1e-6, 10_000.0, false));
        assert_eq!(qwen3.windows, [None; 4]);
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 1e6, "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 2});
        let new = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "use_sliding_window": true,
            "sliding_window": 9, "layer_types": ["full_attention", "full_attention", "sliding_attention", "sliding_attention"]});
        let (_, qwen3) = read(old.clone()).unwrap();
        assert_eq!(qwen3.windows, [None, None, Some(9), Some(9)]);
        assert_eq!(read(old), read(new));
        // The window counts only where it is switched on.
        for unused in [json!({"sliding_window": 9, "max_window_layers": 0}), json!({"use_sliding_window": true})] {
            assert_eq!(read(unused), read(json!({})));
        }
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        let sliding = ["sliding_attention"; 4];
        for (changes, expected) in [
            (json!({"use_sliding_window": true, "sliding_window": 0}), "`sliding_window` is `0`"),
            (json!({"sliding_window": 9, "layer_types": sliding}), "`sliding_window` is `null`, expected a positive"),
            (json!({"layer_types": ["full_attention"]}), "`layer_types` has `1` entries"),
            (json!({"layer_types": vec!["chunked_attention"; 4]}), "`chunked_attention` in `layer_types` is not supported"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
            (json!({"num_hidden_layers": 1_000_000_000}), "`num_hidden_layers` is `1000000000`"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
