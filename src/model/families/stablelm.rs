//! `stablelm`: StableLM.
//!
//! Reference: `modeling_stablelm.py` in Hugging Face transformers 5.23. A llama with layer norms that have biases, of whose heads a part turns. In
//! some of them attention and MLP read the same stream through one norm, so that there is no `hook_resid_mid`.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, attention_parameters, gated_mlp_parameters, layer_norm, plain_heads};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, rotary_width,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, GatedMlp, Head, Heads, LayerNorm, Linear, Loader,
    Network, Norm, Pairs, Projected, Rotary,
};

/// What a stablelm is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StableLm {
    /// The ε in (x − mean(x)) / √(variance(x) + ε).
    pub layer_norm_eps: f64,
    pub activation: Activation,
    pub rope: Rope,
    /// How many of a head's elements turn, its first.
    pub rotary_width: usize,
    /// Whether the query, key and value projections have biases.
    pub use_qkv_bias: bool,
    /// Whether each query and each key head has a norm of its own.
    pub qk_layernorm: bool,
    /// Whether the MLP reads what attention reads, rather than what comes of it.
    pub use_parallel_residual: bool,
}

impl Architecture for StableLm {
    const NAME: &'static str = "stablelm";
    const CLASSES: [&'static str; 2] = ["StableLmForCausalLM", "StableLmModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        fields.full_attention(false)?;
        let sizes = fields.sizes_by(&Defaults {
            n_kv_heads: Some(32),
            end_of_text: &[0],
            ..Defaults::of(4096)
        })?;
        let (rope, share) = fields.partial_rope(10_000.0, 0.25, sizes.context_length)?;
        let switch = |name| Ok::<_, String>(fields.switch(name)?.unwrap_or(false));
        let stablelm = StableLm {
            layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5),
            activation: fields.activation("hidden_act", Activation::Silu)?,
            rope,
            rotary_width: rotary_width(sizes.d_head, share)?,
            use_qkv_bias: switch("use_qkv_bias")?,
            qk_layernorm: switch("qk_layernorm")?,
            use_parallel_residual: switch("use_parallel_residual")?,
        };
        Ok((sizes, stablelm))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("layer_norm_eps", self.layer_norm_eps)?;
        plain_heads(sizes)?;
        self.rope.validate(self.rotary_width)
    }

    fn end_parameters(&self, sizes: &Sizes) -> (Vec<Parameter>, Vec<Parameter>) {
        let embedding = vec![sizes.d_vocab, sizes.d_model];
        let mut last = layer_norm("model.norm", sizes.d_model);
        if !sizes.tied_embeddings {
            last.push((self.head().to_string(), embedding.clone()));
        }
        (vec![("model.embed_tokens.weight".to_string(), embedding)], last)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let d_model = sizes.d_model;
        let block = format!("model.layers.{layer}");
        let norms: &[&str] = match self.use_parallel_residual {
            true => &["input_layernorm"],
            false => &["input_layernorm", "post_attention_layernorm"],
        };
        let norms = norms.iter().map(|norm| layer_norm(&format!("{block}.{norm}"), d_model));
        let head_norms = match self.qk_layernorm {
            true => vec![("q", sizes.n_heads), ("k", sizes.n_kv_heads)],
            false => Vec::new(),
        };
        let head_norms = head_norms.into_iter().flat_map(|(of, heads)| {
            let name = format!("{block}.self_attn.{of}_layernorm.norms");
            (0..heads).map(move |head| (format!("{name}.{head}.weight"), vec![sizes.d_head]))
        });
        let attention = attention_parameters(&block, sizes, [self.use_qkv_bias, false]);
        let mlp = gated_mlp_parameters(&format!("{block}.mlp"), sizes, false);
        norms.flatten().chain(head_norms).chain(attention).chain(mlp).collect()
    }

    fn has(&self, _: usize, site: Site) -> bool {
        !(self.use_parallel_residual && site == Site::ResidMid)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("model.embed_tokens.weight")?);
        Ok(Network {
            head: Head::of(&embedding, self.head(), loader)?,
            embedding,
            blocks: loader.blocks(|layer| StableLmBlock::load(self, loader, layer))?,
            norm: Box::new(loader.layer_norm("model.norm", self.layer_norm_eps)?),
            rotaries: vec![loader.partial_angles(&self.rope, self.rotary_width, Pairs::Halves)?],
        })
    }
}

/// A block: x + attention(norm(x)), then x + mlp(other norm(x)); or x + attention(norm(x)) + mlp(norm(x)).
struct StableLmBlock {
    input_layernorm: LayerNorm,
    /// Rows: query heads, key heads, value heads.
    qkv_proj: Linear,
    /// Of the query heads and of the key heads.
    head_norms: Option<[LayerNorm; 2]>,
    o_proj: Linear,
    /// None where the MLP reads what attention reads.
    post_attention_layernorm: Option<LayerNorm>,
    mlp: GatedMlp,
    heads: Heads,
    attention: Attention,
}

impl StableLmBlock {
    fn load(stablelm: &StableLm, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let (block, sizes) = (format!("model.layers.{layer}"), &loader.config.sizes);
        let (attention, epsilon) = (format!("{block}.self_attn"), stablelm.layer_norm_eps);
        let norm = |name| loader.layer_norm(&format!("{block}.{name}"), epsilon);
        let head_norms = |of, heads| {
            loader.head_norms(&format!("{attention}.{of}_layernorm.norms"), heads, epsilon)
        };
        Ok(StableLmBlock {
            input_layernorm: norm("input_layernorm")?,
            qkv_proj: loader.stacked(&attention, &["q_proj", "k_proj", "v_proj"])?,
            head_norms: match stablelm.qk_layernorm {
                true => Some([head_norms("q", sizes.n_heads)?, head_norms("k", sizes.n_kv_heads)?]),
                false => None,
            },
            o_proj: loader.linear(&format!("{attention}.o_proj"))?,
            post_attention_layernorm: match stablelm.use_parallel_residual {
                true => None,
                false => Some(norm("post_attention_layernorm")?),
            },
            mlp: loader.gated_mlp(&format!("{block}.mlp"), stablelm.activation)?,
            heads: Heads::of(sizes),
            attention: Attention::of_width(sizes.d_head),
        })
    }
}

impl Block for StableLmBlock {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.qkv_proj.forward(&self.input_layernorm.forward(x)?)?;
        let Some([q_norm, k_norm]) = &self.head_norms else {
            return self.heads.turned(&qkv, &rotaries[0]);
        };
        let [queries, keys, values] = self.heads.apart(&qkv)?;
        let turned = |heads, norm: &LayerNorm| rotaries[0].turn(&norm.forward(heads)?);
        Ok(Projected::new(
            turned(&queries, q_norm)?,
            turned(&keys, k_norm)?,
            values,
        ))
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| self.o_proj.forward(z))?;
        let mlp_out = |x: &Tensor, norm: &LayerNorm, tap: &mut BlockTap<'_>| {
            tap.mlp_out(x, |tap| self.mlp.forward(&norm.forward(x)?, tap))
        };
        let left = match &self.post_attention_layernorm {
            None => {
                let mlp_out = mlp_out(x, &self.input_layernorm, tap)?;
                x.f_add(&attn_out)?.f_add(&mlp_out)?
            }
            Some(norm) => {
                let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
                x.f_add(&mlp_out(&x, norm, tap)?)?
            }
        };
        tap.pass(Site::ResidPost, left)
    }
}
