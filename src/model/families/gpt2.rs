//! `gpt2`: GPT-2 and what is built like it (DistilGPT-2, DialoGPT, …).
//!
//! Reference: `modeling_gpt2.py` in Hugging Face transformers 5.23. Positions are learned and are added behind the embedding, so that `hook_embed`
//! is not the stream that enters the first block. Matrices are stored as `[in, out]`. Published files have neither the prefix nor a head, but have
//! the causal mask of each layer.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use super::{Architecture, Parameter, Writer, WriterForm, layer_norm};
use crate::model::config::{Activation, Fields, Sizes, check_epsilon, quotient};
use crate::model::error::Result;
use crate::model::hooks::Site;
use crate::model::transformer::{
    Attention, Block, BlockTap, Embedding, Head, Heads, LayerNorm, Linear, Loader, Network, Norm,
    PlainMlp, Projected, Rotary,
};

/// What a gpt2 is besides its sizes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gpt2 {
    /// The ε in (x − mean(x)) / √(variance(x) + ε).
    pub layer_norm_epsilon: f64,
    pub activation: Activation,
    /// Whether the products of queries and keys are divided by the square root of the head width.
    pub scale_attn_weights: bool,
    /// Whether they are divided by the layer's number, too, counted from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
}

impl Architecture for Gpt2 {
    const NAME: &'static str = "gpt2";
    const CLASSES: [&'static str; 2] = ["GPT2LMHeadModel", "GPT2Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        fields.full_attention(false)?;
        let (d_model, n_heads) = (fields.needed_count("n_embd")?, fields.needed_count("n_head")?);
        let sizes = Sizes {
            d_model,
            n_layers: fields.needed_count("n_layer")?,
            n_heads,
            n_kv_heads: n_heads,
            d_head: quotient(("n_embd", d_model), ("n_head", n_heads))?,
            d_mlp: match fields.count("n_inner")? {
                Some(d_mlp) => d_mlp,
                None => d_model.saturating_mul(4),
            },
            d_vocab: fields.count("vocab_size")?.unwrap_or(50_257),
            tied_embeddings: fields.switch("tie_word_embeddings")?.unwrap_or(true),
            context_length: fields.count("n_positions")?.unwrap_or(1024),
            end_of_text: match fields.is_absent("eos_token_id") {
                true => vec![50_256],
                false => fields.end_of_text()?,
            },
        };
        let switch = |name, default| Ok::<_, String>(fields.switch(name)?.unwrap_or(default));
        let gpt2 = Gpt2 {
            layer_norm_epsilon: fields.number("layer_norm_epsilon")?.unwrap_or(1e-5),
            activation: fields.activation("activation_function", Activation::GeluTanh)?,
            scale_attn_weights: switch("scale_attn_weights", true)?,
            scale_attn_by_inverse_layer_idx: switch("scale_attn_by_inverse_layer_idx", false)?,
        };
        Ok((sizes, gpt2))
    }

    fn validate(&self, _: &Sizes) -> Result<(), String> {
        check_epsilon("layer_norm_epsilon", self.layer_norm_epsilon)
    }

    fn prefix(&self) -> &'static str {
        "transformer."
    }

    /// Adds the prefix where a file has none, and passes over the masks.
    fn renamed(&self, name: &str) -> Option<String> {
        let bare = name.strip_prefix(self.prefix()).unwrap_or(name);
        let is_mask = |ending| bare.starts_with("h.") && bare.ends_with(ending);
        if is_mask(".attn.bias") || is_mask(".attn.masked_bias") {
            return None;
        }
        let parts = ["wte.", "wpe.", "h.", "ln_f."];
        Some(match parts.iter().any(|part| bare.starts_with(part)) {
            true => format!("{}{bare}", self.prefix()),
            false => name.to_string(),
        })
    }

    fn end_parameters(&self, sizes: &Sizes) -> (Vec<Parameter>, Vec<Parameter>) {
        let d_model = sizes.d_model;
        let embedding = vec![sizes.d_vocab, d_model];
        let positions = vec![sizes.context_length, d_model];
        let mut last = layer_norm("transformer.ln_f", d_model);
        if !sizes.tied_embeddings {
            last.push((self.head().to_string(), embedding.clone()));
        }
        let first = vec![
            ("transformer.wte.weight".to_string(), embedding),
            ("transformer.wpe.weight".to_string(), positions),
        ];
        (first, last)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        let (d_model, d_mlp) = (sizes.d_model, sizes.d_mlp);
        let block = format!("transformer.h.{layer}");
        let conv1d = |name: &str, [rows, columns]: [usize; 2]| {
            let weight = (format!("{block}.{name}.weight"), vec![rows, columns]);
            [weight, (format!("{block}.{name}.bias"), vec![columns])]
        };
        let matrices = [
            conv1d("attn.c_attn", [d_model, 3 * d_model]),
            conv1d("attn.c_proj", [d_model, d_model]),
            conv1d("mlp.c_fc", [d_model, d_mlp]),
            conv1d("mlp.c_proj", [d_mlp, d_model]),
        ];
        let norms = ["ln_1", "ln_2"].map(|norm| layer_norm(&format!("{block}.{norm}"), d_model));
        let norms = norms.into_iter().flatten();
        norms.chain(matrices.into_iter().flatten()).collect()
    }

    fn writers(&self, _: &Sizes, layer: usize) -> Result<Vec<Writer>, &'static str> {
        let writer = |name| Writer {
            module: format!("transformer.h.{layer}.{name}"),
            form: WriterForm::Conv1d,
        };
        Ok(["attn.c_proj", "mlp.c_proj"].map(writer).into())
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        let embedding = Embedding::new(loader.tensor("transformer.wte.weight")?);
        let embedding = embedding.with_positions(loader.tensor("transformer.wpe.weight")?);
        Ok(Network {
            head: Head::of(&embedding, self.head(), loader)?,
            embedding,
            blocks: loader.blocks(|layer| Gpt2Block::load(self, loader, layer))?,
            norm: Box::new(loader.layer_norm("transformer.ln_f", self.layer_norm_epsilon)?),
            rotaries: Vec::new(),
        })
    }
}

impl Gpt2 {
    fn attention(&self, sizes: &Sizes, layer: usize) -> Attention {
        let mut attention = Attention::of_width(sizes.d_head);
        if !self.scale_attn_weights {
            attention.scale = 1.0;
        }
        if self.scale_attn_by_inverse_layer_idx {
            attention.scale /= (layer + 1) as f64;
        }
        attention
    }
}

/// A block: x + attention(ln_1(x)), then x + mlp(ln_2(x)).
struct Gpt2Block {
    ln_1: LayerNorm,
    /// Rows: query heads, key heads, value heads.
    c_attn: Linear,
    c_proj: Linear,
    ln_2: LayerNorm,
    mlp: PlainMlp,
    heads: Heads,
    attention: Attention,
}

impl Gpt2Block {
    fn load(gpt2: &Gpt2, loader: &Loader<'_>, layer: usize) -> Result<Self> {
        let (block, sizes) = (format!("transformer.h.{layer}"), &loader.config.sizes);
        let norm = |name| loader.layer_norm(&format!("{block}.{name}"), gpt2.layer_norm_epsilon);
        let conv1d = |name| loader.conv1d(&format!("{block}.{name}"));
        Ok(Gpt2Block {
            ln_1: norm("ln_1")?,
            c_attn: conv1d("attn.c_attn")?,
            c_proj: conv1d("attn.c_proj")?,
            ln_2: norm("ln_2")?,
            mlp: PlainMlp {
                fc: conv1d("mlp.c_fc")?,
                proj: conv1d("mlp.c_proj")?,
                activation: gpt2.activation,
            },
            heads: Heads::of(sizes),
            attention: gpt2.attention(sizes, layer),
        })
    }
}

impl Block for Gpt2Block {
    fn attention(&self) -> Attention {
        self.attention
    }

    fn project(&self, x: &Tensor, _: &[Rotary]) -> Result<Projected> {
        let qkv = self.c_attn.forward(&self.ln_1.forward(x)?)?;
        let [queries, keys, values] = self.heads.apart(&qkv)?;
        Ok(Projected::new(queries, keys, values))
    }

    fn finish(&self, x: &Tensor, z: Option<Tensor>, tap: &mut BlockTap<'_>) -> Result<Tensor> {
        let attn_out = tap.attn_out(x, z, |z| self.c_proj.forward(z))?;
        let x = tap.pass(Site::ResidMid, x.f_add(&attn_out)?)?;
        let mlp_out = tap.mlp_out(&x, |tap| self.mlp.forward(&self.ln_2.forward(&x)?, tap))?;
        tap.pass(Site::ResidPost, x.f_add(&mlp_out)?)
    }
}
