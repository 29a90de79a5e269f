//! The metadata of a GGUF file, typed, and the model configuration it describes.
//!
//! Keys are those of the GGUF specification and of llama.cpp's converter. Keys of the model's own section
//! (`llama.…`, `qwen2.…`) that are not known here are refused: they may ask for a different computation.

use std::collections::BTreeMap;
use std::path::Path;

use super::gguf_header::{List, Value};
use crate::model::config::{
    Architecture, ModelConfig, Rope, RopeScaling, SUPPORTED_ARCHITECTURES, yarn_attention_factor,
};
use crate::model::error::{ModelError, Result};

/// Keys after `llama.` or `qwen2.` that are read below, or that change nothing.
const KNOWN: [&str; 19] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

/// Keys that name a feature which is off when the value is zero.
const OFF_WHEN_ZERO: [&str; 3] = [
    "attention.sliding_window",
    "expert_count",
    "expert_used_count",
];

/// What the tensors say about the configuration.
pub(super) struct TensorFacts {
    /// Rows of the embedding.
    pub(crate) d_vocab: usize,
    /// Whether there is no separate unembedding.
    pub(crate) tied_embeddings: bool,
    /// Whether the projections have biases: query, key and value; attention output; MLP.
    pub(crate) biases: [bool; 3],
    /// The content of `rope_freqs.weight`.
    pub(crate) rope_divisors: Option<Vec<f32>>,
}

/// Metadata of the file at `path`.
pub(super) struct Metadata<'a> {
    pub(crate) path: &'a Path,
    pub(crate) values: &'a BTreeMap<String, Value<'a>>,
}

impl Metadata<'_> {
    pub(super) fn invalid(&self, key: &str, problem: &str) -> ModelError {
        ModelError::invalid(self.path, format!("metadata `{key}` {problem}"))
    }

    fn integer(&self, key: &str) -> Result<Option<usize>> {
        let value = match self.values.get(key) {
            None => return Ok(None),
            Some(Value::Unsigned(value)) => usize::try_from(*value).ok(),
            Some(Value::Signed(value)) => usize::try_from(*value).ok(),
            Some(_) => None,
        };
        let expected = "is not what was expected: one whole number, the same for all layers";
        value.map(Some).ok_or_else(|| self.invalid(key, expected))
    }

    fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(self.invalid(key, "is not what was expected: a number")),
        }
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.invalid(key, "is missing"))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(key, "is not what was expected: text")),
        }
    }

    /// A token id, as in `tokenizer.ggml.eos_token_id`.
    pub(super) fn token_id(&self, name: &str) -> Result<Option<u32>> {
        let key = format!("tokenizer.ggml.{name}");
        let id = self.integer(&key)?.map(u32::try_from).transpose();
        id.map_err(|_| self.invalid(&key, "is not a token id"))
    }

    /// A list of at most `most` texts.
    pub(super) fn texts(&self, key: &str, most: u64) -> Result<Vec<String>> {
        let list = self.list(key, most)?;
        let list = list.ok_or_else(|| self.invalid(key, "is missing"))?;
        let texts = list.texts();
        texts.ok_or_else(|| self.invalid(key, "is not a list of texts"))
    }

    /// A list of at most `most` whole numbers; empty when it is absent.
    pub(super) fn integers(&self, key: &str, most: u64) -> Result<Vec<i64>> {
        let Some(list) = self.list(key, most)? else {
            return Ok(Vec::new());
        };
        let integers = list.integers();
        integers.ok_or_else(|| self.invalid(key, "is not a list of whole numbers"))
    }

    fn list(&self, key: &str, most: u64) -> Result<Option<&List<'_>>> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::List(list)) if list.len() <= most => Ok(Some(list)),
            Some(Value::List(list)) => Err(self.invalid(
                key,
                &format!("has `{}` entries, expected at most {most}", list.len()),
            )),
            Some(_) => Err(self.invalid(key, "is not a list")),
        }
    }

    /// The architecture; anything that is not computed here is refused.
    pub(super) fn architecture(&self) -> Result<Architecture> {
        self.refuse_parts()?;
        let key = "general.architecture";
        let name = self.required(key, self.text(key)?)?;
        let architecture = Architecture::from_name(name).ok_or_else(|| {
            ModelError::unsupported(
                self.path,
                format!("architecture `{name}`"),
                SUPPORTED_ARCHITECTURES,
            )
        })?;
        let prefix = format!("{name}.");
        for key in self.values.keys().filter(|key| key.starts_with(&prefix)) {
            let rest = &key[prefix.len()..];
            let off = OFF_WHEN_ZERO.contains(&rest) && self.integer(key)? == Some(0);
            if !off && !KNOWN.contains(&rest) {
                return Err(ModelError::unsupported(
                    self.path,
                    format!("metadata `{key}`"),
                    "plain llama and qwen2 transformers",
                ));
            }
        }
        Ok(architecture)
    }

    fn refuse_parts(&self) -> Result<()> {
        let parts = self.integer("split.count")?.unwrap_or(1);
        if parts < 2 {
            return Ok(());
        }
        let number = self.integer("split.no")?.unwrap_or(0).saturating_add(1);
        Err(ModelError::unsupported(
            self.path,
            format!("part {number} of a model split over `{parts}` files"),
            "one file; `llama-gguf-split --merge <first part> <whole>` makes it",
        ))
    }

    /// The configuration.
    pub(super) fn config(&self, tensors: TensorFacts) -> Result<ModelConfig> {
        let architecture = self.architecture()?;
        let section = self.text("general.architecture")?.unwrap_or_default();
        let key = |name: &str| format!("{section}.{name}");
        let optional = |name: &str| self.integer(&key(name));
        let need = |name: &str| self.required(&key(name), optional(name)?);
        let (d_model, n_heads) = (need("embedding_length")?, need("attention.head_count")?);
        let d_head = self.d_head(section, d_model.checked_div(n_heads).unwrap_or(0))?;
        let epsilon = key("attention.layer_norm_rms_epsilon");
        let context_length = need("context_length")?;
        let [qkv_bias, attention_output_bias, mlp_bias] = tensors.biases;
        let config = ModelConfig {
            architecture,
            d_model,
            n_layers: need("block_count")?,
            n_heads,
            n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
            d_head,
            d_mlp: need("feed_forward_length")?,
            d_vocab: tensors.d_vocab,
            rms_norm_eps: self.required(&epsilon, self.float(&epsilon)?)?,
            rope: self.rope(section, context_length, tensors.rope_divisors)?,
            tied_embeddings: tensors.tied_embeddings,
            qkv_bias: architecture == Architecture::Qwen2 || qkv_bias,
            attention_output_bias,
            mlp_bias,
            context_length,
            end_of_text: self.end_of_text()?,
        };
        config.validate().map_err(|problem| {
            ModelError::invalid(
                self.path,
                format!("metadata does not fit together: {problem}"),
            )
        })?;
        Ok(config)
    }

    /// The head width: the key length if stated, `quotient` otherwise. Values and rotation must span as much.
    fn d_head(&self, section: &str, quotient: usize) -> Result<usize> {
        let length = |name: &str| self.integer(&format!("{section}.{name}"));
        let d_head = length("attention.key_length")?.unwrap_or(quotient);
        for name in ["attention.value_length", "rope.dimension_count"] {
            if length(name)?.is_some_and(|length| length != d_head) {
                return Err(ModelError::unsupported(
                    self.path,
                    format!("metadata `{section}.{name}` other than the head width `{d_head}`"),
                    "values as wide as keys, rotary embeddings of the whole head",
                ));
            }
        }
        Ok(d_head)
    }

    fn end_of_text(&self) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token_id(name)?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn rope(
        &self,
        section: &str,
        context_length: usize,
        divisors: Option<Vec<f32>>,
    ) -> Result<Rope> {
        let theta = self.float(&format!("{section}.rope.freq_base"))?;
        let scaling = match (divisors, self.rope_scaling(section, context_length)?) {
            (None, scaling) => scaling,
            (Some(divisors), RopeScaling::None) => RopeScaling::Divisors { divisors },
            (Some(_), _) => {
                return Err(ModelError::unsupported(
                    self.path,
                    "`rope_freqs.weight` together with `rope.scaling`",
                    "one of them",
                ));
            }
        };
        Ok(Rope {
            theta: theta.unwrap_or(10_000.0),
            scaling,
        })
    }

    fn rope_scaling(&self, section: &str, context_length: usize) -> Result<RopeScaling> {
        let key = |name: &str| format!("{section}.rope.{name}");
        let old_factor = self.float(&key("scale_linear"))?;
        let factor = self.float(&key("scaling.factor"))?.or(old_factor);
        let factor = factor.filter(|factor| *factor != 0.0);
        if self
            .float(&key("scaling.attn_factor"))?
            .is_some_and(|factor| factor != 1.0)
        {
            return Err(ModelError::unsupported(
                self.path,
                format!("metadata `{}` other than `1`", key("scaling.attn_factor")),
                "the attention factor that follows from the scaling",
            ));
        }
        // A factor without a type means linear scaling, as llama.cpp reads it.
        let kind = self.text(&key("scaling.type"))?.unwrap_or("linear");
        match (kind, factor) {
            ("none", None) | ("none" | "linear", Some(1.0)) | ("linear" | "yarn", None) => {
                Ok(RopeScaling::None)
            }
            ("none", Some(factor)) => Err(ModelError::invalid(
                self.path,
                format!(
                    "metadata `{}` is `none`, but there is a factor of `{factor}`, which would not be used; convert the model anew",
                    key("scaling.type")
                ),
            )),
            ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
            ("yarn", Some(factor)) => Ok(RopeScaling::Yarn {
                factor,
                original_context_length: self
                    .integer(&key("scaling.original_context_length"))?
                    .unwrap_or(context_length),
                attention_factor: yarn_attention_factor(factor, 1.0),
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
            }),
            (other, _) => Err(ModelError::unsupported(
                self.path,
                format!("rope scaling `{other}`"),
                "`none`, `linear`, `yarn`, and Llama 3's `rope_freqs.weight`",
            )),
        }
    }
}
