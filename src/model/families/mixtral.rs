//! `mixtral`: Mixtral, a mixtral whose MLPs are mixtures of experts.
//!
//! Reference: `modeling_mixtral.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, Writer, attention_parameters, check_experts, experts_writers, linear, n_experts};
use crate::model::config::{Activation, Defaults, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, Experts, Head, Heads, Linear, Loader, Network, Norm,
    Projected, RmsNorm, Rotary, Routing,
};

/// What a mixtral is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mixtral {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of the experts.
    pub activation: Activation,
    /// The positions that one attends to, itself among them, in every layer; none for all.
    pub sliding_window: Option<usize>,
    pub n_experts: usize,
    /// Experts of each position.
    pub experts_per_token: usize,
}

impl Architecture for Mixtral {
    const NAME: &'static str = "mixtral";
    const CLASSES: [&'static str; 2] = ["MixtralForCausalLM", "MixtralModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(8),
            end_of_text: &[2],            ..Defaults::of(131_072)
        })?;
        let mixtral = Mixtral {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-5),
            rope: fields.rope(1_000_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            sliding_window: fields.window(None)?,
            n_experts: n_experts(fields, 8)?,
            experts_per_token: fields.count("num_experts_per_tok")?.unwrap_or(2),
        };
        Ok((sizes, mixtral))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        check_experts(("num_local_experts", self.n_experts), self.experts_per_token)?;
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![d_model]));
        let attention = attention_parameters(&block, sizes, [false, false]);
        let router = format!("{block}.block_sparse_moe.gate");
        let router = linear(router, [self.n_experts, d_model], false);
        let experts = (0..self.n_experts).flat_map(|expert| {
            let [gate, up, down] = expert_names(&block, expert);
            [(gate, [d_mlp, d_model]), (up, [d_mlp, d_model]), (down, [d_model, d_mlp])]
        });
        let experts = experts.map(|(name, shape)| (format!("{name}.weight"), shape.to_vec()));
        norms.into_iter().chain(attention).chain(router).chain(experts).collect()
    }

    fn has(&self, _layer: usize, site: Site) -> bool {
        site != Site::MlpPost
    }

    fn neurons(&self, sizes: &Sizes, _layer: usize) -> usize {
        self.experts_per_token * sizes.d_mlp
    }

    fn writers(&self, _: &Sizes, layer: usize) -> Result<Vec<Writer>, &'static str> {
        let block = format!("model.layers.{layer}");
        let experts = (0..self.n_experts).map(|expert| {
            let [_, _, down] = expert_names(&block, expert);
            down
        });
        Ok(experts_writers(&block, experts))
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| MixtralBlock::load(self, sizes, loader, &format!("model.layers.{layer}"));
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

/// Gate, up and down of an expert.
fn expert_names(block: &str, expert: usize) -> [String; 3] {
    ["w1", "w3", "w2"].map(|name| format!("{block}.block_sparse_moe.experts.{expert}.{name}"))
}

/// A block: x + attention(norm(x)), then x + experts(norm(x)).
struct MixtralBlock {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    experts: Experts,
    heads: Heads,
    attention: Attention,
}

impl MixtralBlock {
    fn load(mixtral: &Mixtral, sizes: &Sizes, loader: &Loader<'_>, block: &str) -> Result<Self> {
        let attention = format!("{block}.self_attn");
        let routing = Routing {
            per_token: mixtral.experts_per_token,
            normalized: true,
            rounded: false,
        };
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), mixtral.rms_norm_eps);
        Ok(MixtralBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            experts: Experts::load(
                loader,
                &format!("{block}.block_sparse_moe.gate"),
                mixtral.n_experts,
                |expert| expert_names(block, expert),
                (routing, mixtral.activation),
            )?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: mixtral.sliding_window,
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for MixtralBlock {
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
        let mlp_out = tap.mlp_out(&x, |_| {
            self.experts.forward(&self.post_attention_layernorm.forward(&x)?)
        })?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::families::{Family, read_changed};

    fn read(changes: Value) -> Result<(Sizes, Mixtral), String> {
        let config = read_changed("mixtral", changes)?;
        match config.family {
            Family::Mixtral(mixtral) => Ok((config.sizes, mixtral)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, mixtral) = read(json!({"num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head), (8, 8));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (131_072, false));
        assert_eq!(sizes.end_of_text, [2]);
        assert_eq!((mixtral.rms_norm_eps, mixtral.rope.theta), (1e-5, 1_000_000.0));
        assert_eq!((mixtral.n_experts, mixtral.experts_per_token), (8, 2));
        assert_eq!(mixtral.sliding_window, None);
        assert!(!mixtral.has(0, Site::MlpPost) && mixtral.has(0, Site::MlpOut));
        assert_eq!(mixtral.neurons(&sizes, 0), 2 * 96);
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 1e5, "head_dim": null, "sliding_window": 9, "num_local_experts": 4, "num_experts_per_tok": 1});
        let new = json!({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "sliding_window": 9, "num_experts": 4,
            "num_experts_per_tok": 1});
        let (_, mixtral) = read(old.clone()).unwrap();
        assert_eq!((mixtral.n_experts, mixtral.experts_per_token), (4, 1));
        assert_eq!((mixtral.sliding_window, mixtral.rope.theta), (Some(9), 1e5));
        assert_eq!(read(old), read(new));
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (changes, expected) in [
            (json!({"sliding_window": 0}), "`sliding_window` is `0`"),
            (json!({"num_local_experts": 0}), "`num_local_experts` is `0`, expected 1 to 4096"),
            (json!({"num_experts_per_tok": 9}), "`num_experts_per_tok` is `9`, expected 1 to `num_local_experts`, which is `8`"),
            (json!({"num_experts_per_tok": 0}), "`num_experts_per_tok` is `0`"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
