//! What a model is apart from its weights, whatever file says it.
//!
//! Every part of the program asks for the [`Sizes`]; what else a family needs to compute (constants, switches, rotary embedding) stands in that
//! family's own file under `families`, and is read by it alone. All of a [`ModelConfig`] changes what the model computes, so all of it is part of
//! the model's fingerprint. `fields` are those of a `config.json`, `rope` holds the rotary embedding and `rope_parameters` reads it; the GGUF
//! reader fills the same structs from its metadata.

mod activation;
mod defaults;
mod fields;
mod rope;
mod rope_parameters;

use std::ops::Deref;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value as Json;

use super::families::Family;
use super::hooks::Site;

pub(super) use activation::Activation;
pub(super) use defaults::{Defaults, check_positive};
pub(super) use fields::{Fields, code_of_its_own, quotient};
pub use rope::{Rope, RopeScaling};
pub(super) use rope::{rotary_width, yarn_attention_factor};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// What a model is, apart from its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub sizes: Sizes,
    pub family: Family,
}

/// What every decoder-only transformer has; dimensions are counts of elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    pub d_model: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// Number of key and value heads; divides `n_heads` (grouped-query attention).
    pub n_kv_heads: usize,
    /// Width of one head.
    pub d_head: usize,
    /// Neurons of an MLP; of one expert, where a family has experts. What a layer has of them, [`Family::neurons`] says.
    pub d_mlp: usize,
    /// Rows of the embedding and of the unembedding.
    pub d_vocab: usize,
    /// Whether the unembedding is the embedding.
    pub tied_embeddings: bool,
    /// The longest sequence, in tokens, for which these settings hold.
    pub context_length: usize,
    /// Ids of the tokens that end a text, ascending.
    pub end_of_text: Vec<u32>,
}

impl Deref for ModelConfig {
    type Target = Sizes;

    fn deref(&self) -> &Sizes {
        &self.sizes
    }
}

/// The form that fingerprints are made of.
impl Serialize for ModelConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.family.serialize_with(&self.sizes, serializer)
    }
}

impl ModelConfig {
    /// Of a small llama, for tests of what asks for no more than a configuration.
    #[cfg(test)]
    pub(crate) fn small() -> Self {
        let config = r#"{"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 6, "num_attention_heads": 2,
            "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5}"#;
        let file = std::path::Path::new("config.json");
        Self::from_hugging_face(file, config, None).expect("a configuration")
    }

    /// Reads the form that fingerprints are made of, and nothing else.
    ///
    /// # Errors
    /// A fragment: it is no such form, or its numbers do not fit together.
    pub(super) fn from_form(form: &Json) -> Result<Self, String> {
        let name = form["architecture"].as_str().unwrap_or_default();
        let wrong = |error: serde_json::Error| error.to_string();
        let unknown = || {
            format!(
                "`architecture` is `{name}`, expected one of {}",
                Family::supported()
            )
        };
        let family = Family::read_form(name, form).ok_or_else(unknown)?;
        let config = ModelConfig {
            family: family.map_err(wrong)?,
            sizes: Sizes::deserialize(form).map_err(wrong)?,
        };
        config.sizes.validate()?;
        config.family.validate(&config.sizes)?;
        let written = serde_json::to_string(&config).map_err(wrong)?;
        let written: Json = serde_json::from_str(&written).map_err(wrong)?;
        let ends = &config.sizes.end_of_text;
        match written == *form && ends.is_sorted_by(|one, next| one < next) {
            true => Ok(config),
            false => Err(format!(
                "it is not as the configuration of a `{name}` is written"
            )),
        }
    }

    /// Every parameter the model must have: its Hugging Face name and its shape, `[out, in]` for matrices. One after the other: before the
    /// weights were seen the number of layers is only what a file says.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, Vec<usize>)> + '_ {
        let (first, last) = self.family.end_parameters(&self.sizes);
        let blocks = (0..self.n_layers).flat_map(|layer| self.block_parameters(layer));
        first.into_iter().chain(blocks).chain(last)
    }

    /// [`ModelConfig::parameters`] of one block.
    pub(super) fn block_parameters(&self, layer: usize) -> Vec<(String, Vec<usize>)> {
        self.family.block_parameters(&self.sizes, layer)
    }

    /// The sites that a block has, as messages list them.
    pub(crate) fn sites(&self, layer: usize) -> String {
        let sites = Site::ALL.into_iter();
        let sites = sites.filter(|site| self.family.has(layer, *site));
        let names: Vec<String> = sites.map(|site| format!("`{site}`")).collect();
        names.join(", ")
    }

    /// [`ModelConfig::parameters`] of a model whose weights are there.
    pub fn parameter_shapes(&self) -> Vec<(String, Vec<usize>)> {
        self.parameters().collect()
    }
}

impl Sizes {
    /// Whether the numbers fit together. The error is a fragment that names the field as `config.json` mostly does.
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
        Ok(())
    }
}

/// Whether the ε of a norm makes sense; the error is a fragment that names its field.
pub(super) fn check_epsilon(name: &str, epsilon: f64) -> Result<(), String> {
    // The comparisons are false for what is not a number.
    match epsilon > 0.0 && epsilon <= 1.0 {
        true => Ok(()),
        false => Err(format!(
            "`{name}` is `{epsilon}`, expected a positive number of at most 1"
        )),
    }
}
