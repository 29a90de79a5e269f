//! `qwen3_moe`: Qwen3's mixtures of experts: a qwen3 whose MLPs are experts in most layers or all.
//!
//! Reference: `modeling_qwen3_moe.py` in Hugging Face transformers 5.23.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{
    Architecture, Parameter, Writer, attention_parameters, check_experts, experts_writers, linear, linear_writers, n_experts,
};
use crate::model::config::{Activation, Defaults, Fields, Rope, Sizes, check_epsilon};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, Experts, GatedMlp, Head, Heads, Linear, Loader, Network,
    Norm, Projected, RmsNorm, Rotary, Routing,
};

/// What a qwen3_moe is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Qwen3Moe {
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Of MLPs and experts.
    pub activation: Activation,
    /// Whether the four attention projections have biases.
    pub attention_bias: bool,
    /// The positions that one attends to, itself among them, in every layer; none for all.
    pub sliding_window: Option<usize>,
    /// Of each layer that has any.
    pub n_experts: usize,
    /// Experts of each position.
    pub experts_per_token: usize,
    /// Whether the weights of a position's experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Whether each layer's MLP is a mixture of experts.
    pub sparse: Vec<bool>,
    /// Neurons of the MLP of a layer without experts.
    pub d_dense: usize,
}

impl Architecture for Qwen3Moe {
    const NAME: &'static str = "qwen3_moe";
    const CLASSES: [&'static str; 2] = ["Qwen3MoeForCausalLM", "Qwen3MoeModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        let mut sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(4),            ..Defaults::of(32_768)
        })?;
        // A list by layers is made below.
        sizes.validate()?;
        let n_experts = n_experts(fields, 128)?;
        let qwen3_moe = Qwen3Moe {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            activation: fields.activation("hidden_act", Activation::Silu)?,
            attention_bias: fields.switch("attention_bias")?.unwrap_or(false),
            // In every layer: `max_window_layers` and `layer_types` are not read there, either.
            sliding_window: match fields.switch("use_sliding_window")?.unwrap_or(false) {
                true => fields.window(Some(4096))?,
                false => None,
            },
            n_experts,
            experts_per_token: fields.count("num_experts_per_tok")?.unwrap_or(8),
            norm_topk_prob: fields.switch("norm_topk_prob")?.unwrap_or(false),
            sparse: sparse_layers(fields, sizes.n_layers, n_experts)?,
            d_dense: sizes.d_mlp,
        };
        sizes.d_mlp = expert_width(fields)?;
        Ok((sizes, qwen3_moe))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("rms_norm_eps", self.rms_norm_eps)?;
        if self.sparse.contains(&true) {
            check_experts(("num_experts", self.n_experts), self.experts_per_token)?;
        }
        let (width, most) = (self.d_dense, 1 << 20);
        if width == 0 || width > most {
            return Err(format!("`intermediate_size` is `{width}`, expected 1 to {most}"));
        }
        self.rope.validate(sizes.d_head)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let block = format!("model.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_model]));
        let head_norms = ["self_attn.q_norm", "self_attn.k_norm"];
        let head_norms = head_norms.map(|norm| (format!("{block}.{norm}.weight"), vec![sizes.d_head]));
        let attention = attention_parameters(&block, sizes, [self.attention_bias; 2]);
        let norms = norms.into_iter().chain(head_norms);
        norms.chain(attention).chain(self.mlp_parameters(sizes, layer)).collect()
    }

    fn has(&self, layer: usize, site: Site) -> bool {
        site != Site::MlpPost || !self.is_sparse(layer)
    }

    fn neurons(&self, sizes: &Sizes, layer: usize) -> usize {
        match self.is_sparse(layer) {
            true => self.experts_per_token * sizes.d_mlp,
            false => self.d_dense,
        }
    }

    fn writers(&self, _: &Sizes, layer: usize) -> Result<Vec<Writer>, &'static str> {
        let block = format!("model.layers.{layer}");
        if !self.is_sparse(layer) {
            return Ok(linear_writers(&block, ["self_attn.o_proj", "mlp.down_proj"]));
        }
        let experts = (0..self.n_experts).map(|expert| {
            let [_, _, down] = projections(&format!("{block}.mlp.experts.{expert}"));
            down
        });
        Ok(experts_writers(&block, experts))
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        let sizes = &loader.config.sizes;
        let block = |layer| Qwen3MoeBlock::load(self, sizes, loader, layer);
        Ok(Network {
            head: Head::of(&embedding, "lm_head.weight", loader)?,
            embedding,
            blocks: loader.blocks(block)?,
            norm: Box::new(loader.rms_norm("model.norm", self.rms_norm_eps)?),
            rotaries: vec![loader.angles(&self.rope)?],
        })
    }
}

impl Qwen3Moe {
    fn is_sparse(&self, layer: usize) -> bool {
        self.sparse.get(layer) == Some(&true)
    }

    fn mlp_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let mlp = format!("model.layers.{layer}.mlp");
        let gated = |module: &str, width| {
            let [gate, up, down] = projections(module);
            let shapes = [[width, sizes.d_model], [width, sizes.d_model], [sizes.d_model, width]];
            let named = [gate, up, down].into_iter().zip(shapes);
            named.flat_map(|(name, shape)| linear(name, shape, false))
        };
        if !self.is_sparse(layer) {
            return gated(&mlp, self.d_dense).collect();
        }
        let router = linear(format!("{mlp}.gate"), [self.n_experts, sizes.d_model], false);
        let experts = (0..self.n_experts).map(|expert| format!("{mlp}.experts.{expert}"));
        let experts = experts.flat_map(|expert| gated(&expert, sizes.d_mlp));
        router.into_iter().chain(experts).collect()
    }
}

/// Gate, up and down of a module.
fn projections(module: &str) -> [String; 3] {
    ["gate_proj", "up_proj", "down_proj"].map(|name| format!("{module}.{name}"))
}

/// Neurons of an expert.
fn expert_width(fields: &Fields) -> Result<usize, String> {
    let (name, most) = ("moe_intermediate_size", 1 << 20);
    match fields.count(name)?.unwrap_or(768) {
        width if (1..=most).contains(&width) => Ok(width),
        width => Err(format!("`{name}` is `{width}`, expected 1 to {most}")),
    }
}

/// Which layers have experts: every `decoder_sparse_step`-th but those that `mlp_only_layers` lists.
fn sparse_layers(fields: &Fields, n_layers: usize, n_experts: usize) -> Result<Vec<bool>, String> {
    let step = fields.count("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return Err("`decoder_sparse_step` is `0`, expected a positive number".to_string());
    }
    let dense = fields.list::<usize>("mlp_only_layers")?.unwrap_or_default();
    let dense: BTreeSet<usize> = dense.into_iter().collect();
    let is_sparse = |layer| n_experts > 0 && (layer + 1) % step == 0 && !dense.contains(&layer);
    Ok((0..n_layers).map(is_sparse).collect())
}

/// What stands behind the attention of a block.
enum Mlp {
    Dense(GatedMlp),
    Sparse(Experts),
}

impl Mlp {
    fn load(qwen3_moe: &Qwen3Moe, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let mlp = format!("model.layers.{layer}.mlp");
        if !qwen3_moe.is_sparse(layer) {
            return Ok(Mlp::Dense(loader.gated_mlp(&mlp, qwen3_moe.activation)?));
        }
        let routing = Routing {
            per_token: qwen3_moe.experts_per_token,
            normalized: qwen3_moe.norm_topk_prob,
            rounded: true,
        };
        let experts = Experts::load(
            loader,
            &format!("{mlp}.gate"),
            qwen3_moe.n_experts,
            |expert| projections(&format!("{mlp}.experts.{expert}")),
            (routing, qwen3_moe.activation),
        );
        Ok(Mlp::Sparse(experts?))
    }

    fn forward(&self, x: &Tensor, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        match self {
            Mlp::Dense(mlp) => mlp.forward(x, tap),
            Mlp::Sparse(experts) => experts.forward(x),
        }
    }
}

/// A block: x + attention(norm(x)), then x + mlp(norm(x)).
struct Qwen3MoeBlock {
    input_layernorm: RmsNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    /// Of each query head.
    q_norm: RmsNorm,
    /// Of each key head.
    k_norm: RmsNorm,
    o_proj: Linear,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
    heads: Heads,
    attention: Attention,
}

impl Qwen3MoeBlock {
    fn load(qwen3_moe: &Qwen3Moe, sizes: &Sizes, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let block = format!("model.layers.{layer}");
        let attention = format!("{block}.self_attn");
        let norm = |name| loader.rms_norm(&format!("{block}.{name}"), qwen3_moe.rms_norm_eps);
        Ok(Qwen3MoeBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            q_norm: norm("self_attn.q_norm")?,
            k_norm: norm("self_attn.k_norm")?,
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(qwen3_moe, loader, layer)?,
            heads: Heads::of(sizes),
            attention: Attention {
                window: qwen3_moe.sliding_window,
                ..Attention::of_width(sizes.d_head)
            },
        })
    }
}

impl Block for Qwen3MoeBlock {
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

    fn read(changes: Value) -> Result<(Sizes, Qwen3Moe), String> {
        let config = read_changed("qwen3_moe", changes)?;
        match config.family {
            Family::Qwen3Moe(qwen3_moe) => Ok((config.sizes, qwen3_moe)),
            other => panic!("a `{}`", other.name()),
        }
    }

    #[test]
    fn what_a_file_lacks_is_as_in_transformers() {
        let (sizes, qwen3_moe) = read(json!({"num_key_value_heads": "absent", "eos_token_id": "absent"})).unwrap();
        assert_eq!((sizes.n_kv_heads, sizes.d_head, sizes.d_mlp), (4, 8, 768));
        assert_eq!((sizes.context_length, sizes.tied_embeddings), (32_768, false));
        assert!(sizes.end_of_text.is_empty());
        assert_eq!((qwen3_moe.rms_norm_eps, qwen3_moe.rope.theta), (1e-6, 10_000.0));
        assert_eq!((qwen3_moe.n_experts, qwen3_moe.experts_per_token), (128, 8));
        assert_eq!((qwen3_moe.norm_topk_prob, qwen3_moe.attention_bias), (false, false));
        assert_eq!((qwen3_moe.sliding_window, qwen3_moe.d_dense), (None, 96));
        assert_eq!(qwen3_moe.sparse, [true; 4]);
    }

    #[test]
    fn old_and_new_files_say_the_same() {
        let old = json!({"rope_theta": 1e6, "num_experts": 16, "moe_intermediate_size": 24, "decoder_sparse_step": 2,
            "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 4});
        let new = json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "num_local_experts": 16, "num_experts": 3,
            "moe_intermediate_size": 24, "mlp_only_layers": [2, 0], "use_sliding_window": true, "sliding_window": 9});
        let (sizes, qwen3_moe) = read(old.clone()).unwrap();
        assert_eq!((qwen3_moe.n_experts, qwen3_moe.sliding_window), (16, Some(9)));
        assert_eq!(qwen3_moe.sparse, [false, true, false, true]);
        let widths = [0, 1].map(|layer| qwen3_moe.neurons(&sizes, layer));
        assert_eq!(widths, [96, 8 * 24]);
        let has_post = [0, 1, 9].map(|layer| qwen3_moe.has(layer, Site::MlpPost));
        assert_eq!(has_post, [true, false, true]);
        assert_eq!(read(old), read(new));
    }

    #[test]
    fn without_experts_every_layer_is_dense() {
        let (_, qwen3_moe) = read(json!({"num_experts": 0})).unwrap();
        assert_eq!(qwen3_moe.sparse, [false; 4]);
    }

    #[test]
    fn what_would_be_computed_otherwise_is_refused() {
        for (changes, expected) in [
            (json!({"use_sliding_window": true, "sliding_window": 0}), "`sliding_window` is `0`"),
            (json!({"moe_intermediate_size": 0}), "`moe_intermediate_size` is `0`"),
            (json!({"decoder_sparse_step": 0}), "`decoder_sparse_step` is `0`"),
            (json!({"num_experts": 4}), "`num_experts_per_tok` is `8`, expected 1 to `num_experts`, which is `4`"),
            (json!({"mlp_only_layers": [-1]}), "`mlp_only_layers` is `[-1]`, expected a list"),
            (json!({"hidden_act": "relu"}), "`hidden_act` `relu` is not supported"),
        ] {
            let message = read(changes).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
