//! `gpt_neox`: GPT-NeoX, Pythia and what is built like them.
//!
//! Reference: `modeling_gpt_neox.py` in Hugging Face transformers 5.23. In most of them attention and MLP read the same stream, each through a norm
//! of its own, so that there is no `hook_resid_mid`. Queries, keys and values are stored in one matrix, head by head.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, Writer, layer_norm, linear, linear_writers, plain_heads};
use crate::model::config::{
    Activation, Defaults, Fields, Rope, Sizes, check_epsilon, rotary_width,
};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, Head, Heads, LayerNorm, Linear, Loader, Network, Norm,
    Pairs, PlainMlp, Projected, Rotary,
};

/// What a gpt_neox is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GptNeoX {
    /// The ε in (x − mean(x)) / √(variance(x) + ε).
    pub layer_norm_eps: f64,
    pub activation: Activation,
    pub rope: Rope,
    /// How many of a head's elements turn, its first.
    pub rotary_width: usize,
    /// Whether both projections of attention have biases.
    pub attention_bias: bool,
    /// Whether the MLP reads what attention reads, rather than what comes of it.
    pub use_parallel_residual: bool,
}

impl Architecture for GptNeoX {
    const NAME: &'static str = "gpt_neox";
    const CLASSES: [&'static str; 2] = ["GPTNeoXForCausalLM", "GPTNeoXModel"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        fields.full_attention(false)?;
        let sizes = fields.sizes_by(&Defaults {
            end_of_text: &[2],
            ..Defaults::of(2048)
        })?;
        let (theta, share) = older_rope(fields)?;
        let (rope, share) = fields.partial_rope(theta, share, sizes.context_length)?;
        let switch = |name| Ok::<_, String>(fields.switch(name)?.unwrap_or(true));
        let gpt_neox = GptNeoX {
            layer_norm_eps: fields.number("layer_norm_eps")?.unwrap_or(1e-5),
            activation: fields.activation("hidden_act", Activation::Gelu)?,
            rope,
            rotary_width: rotary_width(sizes.d_head, share)?,
            attention_bias: switch("attention_bias")?,
            use_parallel_residual: switch("use_parallel_residual")?,
        };
        Ok((sizes, gpt_neox))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        check_epsilon("layer_norm_eps", self.layer_norm_eps)?;
        plain_heads(sizes)?;
        if sizes.n_kv_heads != sizes.n_heads {
            return Err(format!(
                "`num_key_value_heads` is `{}`, expected `{}`: a `{}` has as many as query heads",
                sizes.n_kv_heads,
                sizes.n_heads,
                Self::NAME
            ));
        }
        self.rope.validate(self.rotary_width)
    }

    fn prefix(&self) -> &'static str {
        "gpt_neox."
    }

    fn head(&self) -> &'static str {
        "embed_out.weight"
    }

    /// Adds the prefix where a file has none, knows the head by its other name, and passes over the masks and the frequencies.
    fn renamed(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix(self.prefix()).unwrap_or(name);
        let buffers = ["bias", "masked_bias", "rotary_emb.inv_freq"];
        let is_buffer = |buffer: &&str| bare.strip_suffix(*buffer).is_some_and(|of| of.ends_with(".attention."));
        if bare.starts_with("layers.") && buffers.iter().any(is_buffer) {
            return None;
        }
        let parts = ["embed_in.", "layers.", "final_layer_norm."];
        Some(match parts.iter().any(|part| bare.starts_with(part)) {
            true => format!("{}{bare}", self.prefix()),
            false if name == "lm_head.weight" => self.head().to_string(),
            false => name.to_string(),
        })
    }

    fn end_parameters(&self, sizes: &Sizes) -> (Vec<Parameter>, Vec<Parameter>) {
        let embedding = vec![sizes.d_vocab, sizes.d_model];
        let mut last = layer_norm("gpt_neox.final_layer_norm", sizes.d_model);
        if !sizes.tied_embeddings {
            last.push((self.head().to_string(), embedding.clone()));
        }
        (vec![("gpt_neox.embed_in.weight".to_string(), embedding)], last)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
        let block = format!("gpt_neox.layers.{layer}");
        let norms = ["input_layernorm", "post_attention_layernorm"];
        let norms = norms.map(|norm| layer_norm(&format!("{block}.{norm}"), d_model));
        let matrices = [
            ("attention.query_key_value", [3 * d_model, d_model], self.attention_bias),
            ("attention.dense", [d_model, d_model], self.attention_bias),
            ("mlp.dense_h_to_4h", [d_mlp, d_model], true),
            ("mlp.dense_4h_to_h", [d_model, d_mlp], true),
        ];
        let linear = |(name, shape, bias)| linear(format!("{block}.{name}"), shape, bias);
        let matrices = matrices.into_iter().flat_map(linear);
        norms.into_iter().flatten().chain(matrices).collect()
    }

    fn has(&self, _: usize, site: Site) -> bool {
        !(self.use_parallel_residual && site == Site::ResidMid)
    }

    fn writers(&self, _: &Sizes, layer: usize) -> Result<Vec<Writer>, &'static str> {
        let block = format!("gpt_neox.layers.{layer}");
        Ok(linear_writers(&block, ["attention.dense", "mlp.dense_4h_to_h"]))
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("gpt_neox.embed_in.weight")?);
        let norm = loader.layer_norm("gpt_neox.final_layer_norm", self.layer_norm_eps)?;
        Ok(Network {
            head: Head::of(&embedding, self.head(), loader)?,
            embedding,
            blocks: loader.blocks(|layer| GptNeoXBlock::load(self, loader, layer))?,
            norm: Box::new(norm),
            rotaries: vec![loader.partial_angles(&self.rope, self.rotary_width, Pairs::Halves)?],
        })
    }
}

/// θ and the share of each head that turns, by the names that only this family has for them in older files. Where the names that others have for
/// them are there, too, they must say the same, since transformers passes over them.
fn older_rope(fields: &Fields) -> Result<(f64, f64), String> {
    let read = |name, other, default| -> Result<f64, String> {
        let value = fields.number(name)?.unwrap_or(default);
        match fields.number(other)? {
            Some(given) if given != value => Err(format!(
                "`{other}` is `{given}`, but `{name}`, which is what counts for this family, is `{value}`; expected the same in both"
            )),
            _ => Ok(value),
        }
    };
    Ok((
        read("rotary_emb_base", "rope_theta", 10_000.0)?,
        read("rotary_pct", "partial_rotary_factor", 0.25)?,
    ))
}

/// A block: x + attention(norm(x)) + mlp(other norm(x)), or, one after the other, x + attention(norm(x)), then x + mlp(norm(x)).
struct GptNeoXBlock {
    input_layernorm: LayerNorm,
    /// Rows: query heads, key heads, value heads.
    query_key_value: Linear,
    dense: Linear,
    post_attention_layernorm: LayerNorm,
    mlp: PlainMlp,
    is_parallel: bool,
    heads: Heads,
    attention: Attention,
}

impl GptNeoXBlock {
    fn load(gpt_neox: &GptNeoX, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let (block, sizes) = (format!("gpt_neox.layers.{layer}"), &loader.config.sizes);
        let norm = |name| loader.layer_norm(&format!("{block}.{name}"), gpt_neox.layer_norm_eps);
        let linear = |name| loader.linear(&format!("{block}.{name}"));
        Ok(GptNeoXBlock {
            input_layernorm: norm("input_layernorm")?,
            query_key_value: loader.head_by_head(&format!("{block}.attention.query_key_value"))?,
            dense: linear("attention.dense")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: PlainMlp {
                fc: linear("mlp.dense_h_to_4h")?,
                proj: linear("mlp.dense_4h_to_h")?,
                activation: gpt_neox.activation,
            },
            is_parallel: gpt_neox.use_parallel_residual,
            heads: Heads::of(sizes),
            attention: Attention::of_width(sizes.d_head),
        })
    }

    /// What the MLP adds, of the stream that it reads.
    fn mlp_out(&self, x: &Tensor, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        tap.mlp_out(x, |tap| {
            self.mlp.forward(&self.post_attention_layernorm.forward(x)?, tap)
        })
    }
}

impl Block for GptNeoXBlock {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, rotaries: &[Rotary]) -> Result<Projected> {
        let qkv = self.query_key_value.forward(&self.input_layernorm.forward(x)?)?;
        self.heads.turned(&qkv, &rotaries[0])
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| self.dense.forward(z))?;
        let left = match self.is_parallel {
            true => self.mlp_out(x, tap)?.f_add(&attn_out)?.f_add(x)?,
            false => {
                let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
                self.mlp_out(&x, tap)?.f_add(&x)?
            }
        };
        tap.pass(Site::ResidPost, left)
    }
}
