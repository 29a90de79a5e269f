//! The dimensions and switches of a decoder-only transformer, whatever file they came from.
//!
//! One description covers both architectures that are computed here: `llama` and `qwen2` differ, for this
//! program, in which biases they have. Everything in [`ModelConfig`] changes what the model computes, so all
//! of it is part of the model's fingerprint. `hugging_face` reads it from `config.json`, `rope` holds the
//! rotary embedding; the GGUF reader fills the same struct from its metadata.

mod hugging_face;
mod rope;

use serde::Serialize;

pub(super) use hugging_face::code_of_its_own;
pub(super) use rope::yarn_attention_factor;
pub use rope::{Rope, RopeScaling};

/// The architectures that are computed here, as error messages list them.
pub(super) const SUPPORTED_ARCHITECTURES: &str = "`llama`, `qwen2`";

/// A family of models that share one computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Llama and everything that publishes itself as `llama` (SmolLM2, TinyLlama, …).
    Llama,
    /// Qwen2 and Qwen2.5: a llama with biases on the query, key and value projections.
    Qwen2,
}

impl Architecture {
    /// The architecture that `name` stands for in `config.json` (`model_type`) and in GGUF (`general.architecture`).
    pub(super) fn from_name(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "qwen2" => Some(Self::Qwen2),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    Float32,
    /// The upper half of binary32: 8 exponent bits, 7 fraction bits.
    BFloat16,
    /// IEEE 754 binary16: 5 exponent bits, 10 fraction bits.
    Float16,
}

impl Dtype {
    pub(crate) fn size(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::BFloat16 | Self::Float16 => 2,
        }
    }

    /// The name used in study files and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::BFloat16 => "bfloat16",
            Self::Float16 => "float16",
        }
    }
}

/// What a model is, apart from its weights: dimensions (in elements), constants and switches.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads` (grouped-query attention).
    pub n_kv_heads: usize,
    /// Width of one head; even.
    pub d_head: usize,
    pub d_mlp: usize,
    /// Rows of the embedding and of the unembedding.
    pub d_vocab: usize,
    /// The ε in x / sqrt(mean(x²) + ε).
    pub rms_norm_eps: f64,
    pub rope: Rope,
    /// Whether the unembedding is the embedding.
    pub tied_embeddings: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub attention_output_bias: bool,
    /// Whether the three MLP projections have biases.
    pub mlp_bias: bool,
    /// The longest sequence, in tokens, for which these settings hold.
    pub context_length: usize,
    /// Ids of the tokens that end a text, ascending.
    pub end_of_text: Vec<u32>,
}

impl ModelConfig {
    /// Every parameter the model must have: its Hugging Face name and its shape, `[out, in]` for matrices. One after the other: before the
    /// weights were seen the number of layers is only what a file says.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let embedding = vec![self.d_vocab, self.d_model];
        let head =
            (!self.tied_embeddings).then(|| ("lm_head.weight".to_string(), embedding.clone()));
        let norm = ("model.norm.weight".to_string(), vec![self.d_model]);
        std::iter::once(("model.embed_tokens.weight".to_string(), embedding))
            .chain((0..self.n_layers).flat_map(|layer| self.block_parameters(layer)))
            .chain([norm])
            .chain(head)
    }

    /// [`ModelConfig::parameters`] of a model whose weights are there.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters().collect()
    }

    fn block_parameters(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        let (d_model, d_mlp) = (self.d_model, self.d_mlp);
        let (d_query, d_key) = (self.n_heads * self.d_head, self.n_kv_heads * self.d_head);
        let mut shapes = Vec::new();
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{layer}.{norm}.weight"), vec![d_model]));
        }
        let (qkv, output, mlp) = (self.qkv_bias, self.attention_output_bias, self.mlp_bias);
        for (module, rows, columns, bias) in [
            ("self_attn.q_proj", d_query, d_model, qkv),
            ("self_attn.k_proj", d_key, d_model, qkv),
            ("self_attn.v_proj", d_key, d_model, qkv),
            ("self_attn.o_proj", d_model, d_query, output),
            ("mlp.gate_proj", d_mlp, d_model, mlp),
            ("mlp.up_proj", d_mlp, d_model, mlp),
            ("mlp.down_proj", d_model, d_mlp, mlp),
        ] {
            let prefix = format!("model.layers.{layer}.{module}");
            shapes.push((format!("{prefix}.weight"), vec![rows, columns]));
            if bias {
                shapes.push((format!("{prefix}.bias"), vec![rows]));
            }
        }
        shapes
    }

    /// Whether the numbers fit together. The error is a fragment that names the field as `config.json` does.
    pub(super) fn validate(&self) -> Result<(), String> {
        // The upper bounds keep products of three dimensions far from overflow.
        for (name, value, most) in [
            ("hidden_size", self.d_model, 1 << 20),
            ("num_hidden_layers", self.n_layers, 1 << 16),
            ("num_attention_heads", self.n_heads, 1 << 20),
            ("num_key_value_heads", self.n_kv_heads, 1 << 20),
            ("head_dim", self.d_head, 1 << 20),
            ("intermediate_size", self.d_mlp, 1 << 20),
            ("vocab_size", self.d_vocab, 1 << 20),
            ("max_position_embeddings", self.context_length, 1 << 28),
        ] {
            if value == 0 || value > most {
                return Err(format!("`{name}` is `{value}`, expected 1 to {most}"));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(format!(
                "`num_attention_heads` is `{}`, expected a multiple of `num_key_value_heads`, which is `{}`",
                self.n_heads, self.n_kv_heads
            ));
        }
        if !self.d_head.is_multiple_of(2) {
            return Err(format!(
                "the head width is `{}`, expected an even number: rotary embeddings turn pairs",
                self.d_head
            ));
        }
        // The comparisons are false for what is not a number.
        let epsilon = self.rms_norm_eps;
        if !(epsilon > 0.0 && epsilon <= 1.0) {
            return Err(format!(
                "`rms_norm_eps` is `{epsilon}`, expected a positive number of at most 1"
            ));
        }
        self.rope.validate(self.d_head)
    }
}
