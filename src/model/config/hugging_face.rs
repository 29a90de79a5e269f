//! `config.json` and `generation_config.json`, as Hugging Face transformers writes them.
//!
//! Defaults are those of transformers' `LlamaConfig` and `Qwen2Config`. What would change the computation and is not
//! known here is refused, never ignored: a sliding window in use, another activation, quantised weights, an unknown
//! rope parameter.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::rope::yarn_attention_factor;
use super::{Architecture, ModelConfig, Rope, RopeScaling, SUPPORTED_ARCHITECTURES};
use crate::model::error::ModelError;

/// The one field that says whether the others can be understood.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
}

#[derive(Deserialize)]
struct RawConfig {
    architectures: Option<Vec<String>>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    original_max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RawRope>,
    rope_parameters: Option<RawRope>,
    partial_rotary_factor: Option<f64>,
    eos_token_id: Option<OneOrMany>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawGeneration {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// `rope_scaling` of older files and `rope_parameters` of newer ones, which also holds θ.
#[derive(Deserialize, Default)]
struct RawRope {
    rope_type: Option<String>,
    /// The oldest name of `rope_type`; some files have both.
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

/// Something is wrong (`Invalid`) or not computed here (`Unsupported`: what, supported).
enum Problem {
    Invalid(String),
    Unsupported(String, String),
}

impl From<String> for Problem {
    fn from(text: String) -> Self {
        Self::Invalid(text)
    }
}

fn unsupported<T>(what: impl Into<String>, supported: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Unsupported(what.into(), supported.into()))
}

impl ModelConfig {
    /// Reads the text of `config.json` (which lies at `path`) and, where the model has one, `generation_config.json`.
    pub(in crate::model) fn from_hugging_face(
        path: &Path,
        config: &str,
        generation: Option<(&Path, &str)>,
    ) -> Result<Self, ModelError> {
        let mut result = read_config(config).map_err(|problem| match problem {
            Problem::Invalid(text) => ModelError::invalid(path, text),
            Problem::Unsupported(what, supported) => ModelError::unsupported(path, what, supported),
        })?;
        if let Some((path, text)) = generation {
            let raw: RawGeneration = serde_json::from_str(text)
                .map_err(|error| ModelError::invalid(path, format!("not as expected: {error}")))?;
            result.end_of_text.extend(ids(raw.eos_token_id));
        }
        result.end_of_text.sort_unstable();
        result.end_of_text.dedup();
        Ok(result)
    }
}

fn ids(value: Option<OneOrMany>) -> Vec<u32> {
    match value {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    }
}

fn read_config(text: &str) -> Result<ModelConfig, Problem> {
    let not_as_expected = |error| format!("not as expected: {error}");
    let kind: Kind = serde_json::from_str(text).map_err(not_as_expected)?;
    let Some(model_type) = kind.model_type else {
        return Err("`model_type` is missing, expected `llama` or `qwen2`"
            .to_string()
            .into());
    };
    let Some(architecture) = Architecture::from_name(&model_type) else {
        return unsupported(
            format!("`model_type` `{model_type}`"),
            SUPPORTED_ARCHITECTURES,
        );
    };
    let raw: RawConfig = serde_json::from_str(text).map_err(not_as_expected)?;
    refuse_what_is_not_computed(architecture, &raw)?;
    let llama = architecture == Architecture::Llama;
    let context_length = raw
        .max_position_embeddings
        .unwrap_or(if llama { 2048 } else { 32768 });
    let attention_bias = llama && raw.attention_bias.unwrap_or(false);
    let config = ModelConfig {
        architecture,
        d_model: raw.hidden_size,
        n_layers: raw.num_hidden_layers,
        n_heads: raw.num_attention_heads,
        n_kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        d_head: d_head(&raw)?,
        d_mlp: raw.intermediate_size,
        d_vocab: raw.vocab_size,
        rms_norm_eps: raw.rms_norm_eps.unwrap_or(1e-6),
        tied_embeddings: raw.tie_word_embeddings.unwrap_or(false),
        qkv_bias: !llama || attention_bias,
        attention_output_bias: attention_bias,
        mlp_bias: llama && raw.mlp_bias.unwrap_or(false),
        context_length,
        rope: rope(&raw, context_length)?,
        end_of_text: ids(raw.eos_token_id),
    };
    config.validate()?;
    Ok(config)
}

fn d_head(raw: &RawConfig) -> Result<usize, Problem> {
    if let Some(d_head) = raw.head_dim {
        return Ok(d_head);
    }
    match raw.hidden_size.checked_rem(raw.num_attention_heads) {
        Some(0) => Ok(raw.hidden_size / raw.num_attention_heads),
        _ => Err(Problem::Invalid(format!(
            "`hidden_size` is `{}`, expected a multiple of `num_attention_heads`, which is `{}`",
            raw.hidden_size, raw.num_attention_heads
        ))),
    }
}

fn refuse_what_is_not_computed(architecture: Architecture, raw: &RawConfig) -> Result<(), Problem> {
    let class = match architecture {
        Architecture::Llama => "LlamaForCausalLM",
        Architecture::Qwen2 => "Qwen2ForCausalLM",
    };
    if let Some(classes) = &raw.architectures
        && !classes.iter().any(|name| name == class)
    {
        return unsupported(
            format!("`architectures` `{}`", classes.join("`, `")),
            format!("`{class}`"),
        );
    }
    match raw.hidden_act.as_deref() {
        None | Some("silu" | "swish") => {}
        Some(other) => return unsupported(format!("`hidden_act` `{other}`"), "`silu`"),
    }
    if raw.quantization_config.is_some() {
        return unsupported(
            "a checkpoint with `quantization_config`",
            "float32, float16 and bfloat16 weights, or a GGUF file",
        );
    }
    let windowed = architecture == Architecture::Qwen2
        && raw.use_sliding_window.unwrap_or(false)
        && raw.sliding_window.unwrap_or(4096) > 0
        && raw.max_window_layers.unwrap_or(28) < raw.num_hidden_layers;
    let other_layers = raw
        .layer_types
        .iter()
        .flatten()
        .any(|kind| kind != "full_attention");
    if other_layers || (windowed && raw.layer_types.is_none()) {
        return unsupported("sliding-window attention", "full attention in every layer");
    }
    Ok(())
}

fn rope(raw: &RawConfig, context_length: usize) -> Result<Rope, Problem> {
    let none = RawRope::default();
    let given = raw
        .rope_scaling
        .as_ref()
        .or(raw.rope_parameters.as_ref())
        .unwrap_or(&none);
    if let Some(name) = given.unknown.keys().next() {
        return unsupported(
            format!("rope parameter `{name}`"),
            "plain rotary embeddings and their scalings",
        );
    }
    for factor in [given.partial_rotary_factor, raw.partial_rotary_factor]
        .into_iter()
        .flatten()
    {
        if factor != 1.0 {
            return unsupported(format!("`partial_rotary_factor` `{factor}`"), "`1.0`");
        }
    }
    let in_parameters = raw
        .rope_parameters
        .as_ref()
        .and_then(|rope| rope.rope_theta);
    let theta = given
        .rope_theta
        .or(in_parameters)
        .or(raw.rope_theta)
        .unwrap_or(10_000.0);
    let original = given
        .original_max_position_embeddings
        .or(raw.original_max_position_embeddings)
        .unwrap_or(context_length);
    Ok(Rope {
        theta,
        scaling: scaling(given, original, context_length)?,
    })
}

fn scaling(raw: &RawRope, original: usize, context_length: usize) -> Result<RopeScaling, Problem> {
    let kind = raw
        .rope_type
        .as_deref()
        .or(raw.kind.as_deref())
        .unwrap_or("default");
    let need = |name: &str, value: Option<f64>| {
        value
            .ok_or_else(|| format!("`{name}` is missing from the rope parameters of type `{kind}`"))
    };
    Ok(match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: need("factor", raw.factor)?,
        },
        "dynamic" => RopeScaling::Dynamic {
            factor: need("factor", raw.factor)?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: need("factor", raw.factor)?,
            low_freq_factor: need("low_freq_factor", raw.low_freq_factor)?,
            high_freq_factor: need("high_freq_factor", raw.high_freq_factor)?,
            original_context_length: original,
        },
        "yarn" => yarn(raw, original, context_length),
        other => {
            return unsupported(
                format!("rope type `{other}`"),
                "`default`, `linear`, `dynamic`, `llama3`, `yarn`",
            );
        }
    })
}

/// Where `factor` is absent it is the ratio of the two context lengths, as in transformers.
fn yarn(raw: &RawRope, original: usize, context_length: usize) -> RopeScaling {
    let factor = raw
        .factor
        .unwrap_or(context_length as f64 / original as f64);
    let inferred = match (raw.mscale, raw.mscale_all_dim) {
        (Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
            yarn_attention_factor(factor, one) / yarn_attention_factor(factor, all)
        }
        _ => yarn_attention_factor(factor, 1.0),
    };
    RopeScaling::Yarn {
        factor,
        original_context_length: original,
        attention_factor: raw.attention_factor.unwrap_or(inferred),
        beta_fast: raw.beta_fast.unwrap_or(32.0),
        beta_slow: raw.beta_slow.unwrap_or(1.0),
        truncate: raw.truncate.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests;
