//! `qwen2`: Qwen2 and Qwen2.5, a llama with biases on the query, key and value projections and on no others.
//!
//! Reference: `modeling_qwen2.py` in Hugging Face transformers 5.23.

use serde::{Deserialize, Serialize, Serializer};

use super::llama::{FirstForm, Llama};
use super::{Architecture, Parameter};
use crate::model::config::{Fields, Sizes};
use crate::model::error::Result;
use crate::model::transformer::{Loader, Network};

/// A llama by all but its configuration's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Qwen2(pub Llama);

impl Architecture for Qwen2 {
    const NAME: &'static str = "qwen2";
    const CLASSES: [&'static str; 2] = ["Qwen2ForCausalLM", "Qwen2Model"];

    fn read(fields: &Fields) -> Result<(Sizes, Self), String> {
        fields.silu()?;
        let sizes = fields.sizes(32_768)?;
        let windowed = fields.switch("use_sliding_window")?.unwrap_or(false)
            && fields.count("sliding_window")?.unwrap_or(4096) > 0
            && fields.count("max_window_layers")?.unwrap_or(28) < sizes.n_layers;
        fields.full_attention(windowed)?;
        let llama = Llama {
            rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: fields.rope(10_000.0, sizes.context_length)?,
            qkv_bias: true,
            attention_output_bias: false,
            mlp_bias: false,
        };
        Ok((sizes, Qwen2(llama)))
    }

    fn validate(&self, sizes: &Sizes) -> Result<(), String> {
        self.0.validate(sizes)
    }

    fn block_parameters(&self, sizes: &Sizes, layer: usize) -> Vec<Parameter> {
        self.0.block_parameters(sizes, layer)
    }

    fn load(&self, loader: &Loader<'_>) -> Result<Network> {
        self.0.load(loader)
    }

    /// As it was before there were other families, so that fingerprints stay.
    fn serialize_with<S: Serializer>(&self, sizes: &Sizes, serializer: S) -> Result<S::Ok, S::Error> {
        FirstForm::of(Self::NAME, sizes, &self.0).serialize(serializer)
    }
}
