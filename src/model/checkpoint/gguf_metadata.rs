//! The metadata of a GGUF file, typed, and the model configuration it describes.
//!
//! Keys are those of the GGUF specification and of llama.cpp's converter. Keys of the model's own section
//! (`llama.…`, `qwen2.…`) that are not known here are refused: they may ask for a different computation.

use std::collections::BTreeMap;

use super::gguf_header::{List, Value};
use crate::model::config::{ModelConfig, Rope, RopeScaling, Sizes, yarn_attention_factor};
use crate::model::error::unsupported;
use crate::model::families::{Family, Llama, Qwen2};

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
    pub(super) d_vocab: usize,
    pub(super) tied_embeddings: bool,
    /// Whether the projections have biases: query, key and value; attention output; MLP.
    pub(super) biases: [bool; 3],
    /// The content of `rope_freqs.weight`.
    pub(super) rope_divisors: Option<Vec<f32>>,
}

/// The values of the metadata, by their types.
pub(super) struct Metadata<'a>(pub(super) BTreeMap<String, Value<'a>>);

pub(super) fn invalid(key: &str, problem: &str) -> String {
    format!("metadata `{key}` {problem}")
}

impl<'a> Metadata<'a> {
    /// What `read` makes of a value; none where the key is absent. Where it makes nothing of it, the value is not what was `expected`.
    pub(super) fn get<'s, T>(
        &'s self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'s Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let problem = || invalid(key, &format!("is not what was expected: {expected}"));
        let value = self.0.get(key).map(|value| read(value).ok_or_else(problem));
        value.transpose()
    }

    fn integer(&self, key: &str) -> Result<Option<usize>, String> {
        let expected = "one whole number, the same for all layers";
        self.get(key, expected, |value| match value {
            Value::Integer(value) => usize::try_from(*value).ok(),
            _ => None,
        })
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        self.get(key, "a number", |value| match value {
            Value::Float(value) => Some(*value),
            _ => None,
        })
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.get(key, "text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// A token id, as in `tokenizer.ggml.eos_token_id`.
    pub(super) fn token_id(&self, name: &str) -> Result<Option<u32>, String> {
        let key = format!("tokenizer.ggml.{name}");
        let id = self.integer(&key)?.map(u32::try_from).transpose();
        id.map_err(|_| invalid(&key, "is not a token id"))
    }

    /// A list of at most `most` texts.
    pub(super) fn texts(&self, key: &str, most: u64) -> Result<Vec<String>, String> {
        let texts = required(key, self.list(key, most)?)?.texts();
        texts.ok_or_else(|| invalid(key, "is not a list of texts"))
    }

    /// A list of at most `most` whole numbers; empty when it is absent.
    pub(super) fn integers(&self, key: &str, most: u64) -> Result<Vec<i64>, String> {
        let Some(list) = self.list(key, most)? else {
            return Ok(Vec::new());
        };
        let integers = list.integers();
        integers.ok_or_else(|| invalid(key, "is not a list of whole numbers"))
    }

    fn list(&self, key: &str, most: u64) -> Result<Option<&List<'_>>, String> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::List(list)) if list.length <= most => Ok(Some(list)),
            Some(Value::List(List { length, .. })) => {
                let problem = format!("has `{length}` entries, expected at most {most}");
                Err(invalid(key, &problem))
            }
            Some(_) => Err(invalid(key, "is not a list")),
        }
    }

    fn refuse_parts(&self) -> Result<(), String> {
        let parts = self.integer("split.count")?.unwrap_or(1);
        if parts < 2 {
            return Ok(());
        }
        let number = self.integer("split.no")?.unwrap_or(0).saturating_add(1);
        Err(unsupported(
            format!("part {number} of a model split over `{parts}` files"),
            "one file; `llama-gguf-split --merge <first part> <whole>` makes it",
        ))
    }

    fn end_of_text(&self) -> Result<Vec<u32>, String> {
        let mut ids = Vec::new();
        for name in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            ids.extend(self.token_id(name)?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

fn required<T>(key: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| invalid(key, "is missing"))
}

/// The architectures whose files are read.
const LLAMA: &str = "llama";
const QWEN2: &str = "qwen2";

/// The model's own section: the keys that begin with the name of its architecture.
pub(super) struct Section<'a> {
    metadata: &'a Metadata<'a>,
    /// One of those whose names stand above.
    name: &'a str,
}

impl<'a> Section<'a> {
    /// Finds it; an architecture that is not computed here, and a key that may ask for another computation, are refused.
    pub(super) fn find(metadata: &'a Metadata<'a>) -> Result<Self, String> {
        metadata.refuse_parts()?;
        let key = "general.architecture";
        let name = required(key, metadata.text(key)?)?;
        if ![LLAMA, QWEN2].contains(&name) {
            let supported = format!("`{LLAMA}`, `{QWEN2}`; for others use the Hugging Face folder");
            return Err(unsupported(format!("architecture `{name}`"), supported));
        }
        let prefix = format!("{name}.");
        for key in metadata.0.keys().filter(|key| key.starts_with(&prefix)) {
            let rest = &key[prefix.len()..];
            let off = OFF_WHEN_ZERO.contains(&rest) && metadata.integer(key)? == Some(0);
            if !off && !KNOWN.contains(&rest) {
                return Err(unsupported(
                    format!("metadata `{key}`"),
                    "plain llama and qwen2 transformers",
                ));
            }
        }
        Ok(Section { metadata, name })
    }

    pub(super) fn is_llama(&self) -> bool {
        self.name == LLAMA
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn integer(&self, name: &str) -> Result<Option<usize>, String> {
        self.metadata.integer(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f64>, String> {
        self.metadata.float(&self.key(name))
    }

    pub(super) fn config(&self, tensors: TensorFacts) -> Result<ModelConfig, String> {
        let need = |name: &str| required(&self.key(name), self.integer(name)?);
        let (d_model, n_heads) = (need("embedding_length")?, need("attention.head_count")?);
        let d_head = self.d_head(d_model.checked_div(n_heads).unwrap_or(0))?;
        let epsilon = "attention.layer_norm_rms_epsilon";
        let context_length = need("context_length")?;
        let [qkv_bias, attention_output_bias, mlp_bias] = tensors.biases;
        let sizes = Sizes {
            d_model,
            n_layers: need("block_count")?,
            n_heads,
            n_kv_heads: self.integer("attention.head_count_kv")?.unwrap_or(n_heads),
            d_head,
            d_mlp: need("feed_forward_length")?,
            d_vocab: tensors.d_vocab,
            tied_embeddings: tensors.tied_embeddings,
            context_length,
            end_of_text: self.metadata.end_of_text()?,
        };
        let llama = Llama {
            rms_norm_eps: required(&self.key(epsilon), self.float(epsilon)?)?,
            rope: self.rope(context_length, tensors.rope_divisors)?,
            qkv_bias: !self.is_llama() || qkv_bias,
            attention_output_bias,
            mlp_bias,
        };
        let family = match self.is_llama() {
            true => Family::Llama(llama),
            false => Family::Qwen2(Qwen2(llama)),
        };
        let fits = sizes.validate().and_then(|()| family.validate(&sizes));
        fits.map_err(|problem| format!("metadata does not fit together: {problem}"))?;
        Ok(ModelConfig { sizes, family })
    }

    /// The head width: the key length if stated, `quotient` otherwise. Values and rotation must span as much.
    fn d_head(&self, quotient: usize) -> Result<usize, String> {
        let d_head = self.integer("attention.key_length")?.unwrap_or(quotient);
        for name in ["attention.value_length", "rope.dimension_count"] {
            if self.integer(name)?.is_some_and(|length| length != d_head) {
                let key = self.key(name);
                return Err(unsupported(
                    format!("metadata `{key}` other than the head width `{d_head}`"),
                    "values as wide as keys, rotary embeddings of the whole head",
                ));
            }
        }
        Ok(d_head)
    }

    fn rope(&self, context_length: usize, divisors: Option<Vec<f32>>) -> Result<Rope, String> {
        let theta = self.float("rope.freq_base")?;
        let scaling = match (divisors, self.rope_scaling(context_length)?) {
            (None, scaling) => scaling,
            (Some(divisors), RopeScaling::None) => RopeScaling::Divisors { divisors },
            (Some(_), _) => {
                return Err(unsupported(
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

    fn rope_scaling(&self, context_length: usize) -> Result<RopeScaling, String> {
        let old_factor = self.float("rope.scale_linear")?;
        let factor = self.float("rope.scaling.factor")?.or(old_factor);
        let factor = factor.filter(|factor| *factor != 0.0);
        let attention = "rope.scaling.attn_factor";
        if self.float(attention)?.is_some_and(|factor| factor != 1.0) {
            return Err(unsupported(
                format!("metadata `{}` other than `1`", self.key(attention)),
                "the attention factor that follows from the scaling",
            ));
        }
        // A factor without a type means linear scaling, as llama.cpp reads it.
        let key = self.key("rope.scaling.type");
        let kind = self.metadata.text(&key)?.unwrap_or("linear");
        match (kind, factor) {
            ("none", None) | ("none" | "linear", Some(1.0)) | ("linear" | "yarn", None) => {
                Ok(RopeScaling::None)
            }
            ("none", Some(factor)) => Err(invalid(
                &key,
                &format!(
                    "is `none`, but there is a factor of `{factor}`, which would not be used; convert the model anew"
                ),
            )),
            ("linear", Some(factor)) => Ok(RopeScaling::Linear { factor }),
            ("yarn", Some(factor)) => Ok(RopeScaling::Yarn {
                factor,
                original_context_length: self
                    .integer("rope.scaling.original_context_length")?
                    .unwrap_or(context_length),
                attention_factor: yarn_attention_factor(factor, 1.0),
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
            }),
            (other, _) => Err(unsupported(
                format!("rope scaling `{other}`"),
                "`none`, `linear`, `yarn`, and Llama 3's `rope_freqs.weight`",
            )),
        }
    }
}
