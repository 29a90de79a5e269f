//! `config.json` and `generation_config.json`, as Hugging Face transformers writes them.
//!
//! Defaults are those of transformers' `LlamaConfig` and `Qwen2Config`. What would change the computation and is not
//! known here is refused, never ignored: a sliding window in use, another activation, quantised weights, a number of
//! another family's (`NEUTRAL`), a rope parameter that nothing would read.

mod rope_parameters;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use self::rope_parameters::{RawRope, rope};
use super::{Architecture, ModelConfig, SUPPORTED_ARCHITECTURES};
use crate::model::error::{ModelError, Result, unsupported};
use crate::model::json;

/// The fields that say whether the others can be understood.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    auto_map: Option<BTreeMap<String, Value>>,
}

/// Fields of other families that change what is computed, and the value at which they do not, if there is one. Switches count as 0 and 1.
const NEUTRAL: [(&str, Option<f64>); 27] = [
    ("add_cross_attention", Some(0.0)),
    ("alibi", Some(0.0)),
    ("attention_multiplier", None),
    ("attn_logit_softcapping", None),
    ("clip_qkv", None),
    ("dim_model_base", None),
    ("embedding_multiplier", Some(1.0)),
    ("final_logit_softcapping", None),
    ("is_causal", Some(1.0)),
    ("is_encoder_decoder", Some(0.0)),
    ("logit_scale", Some(1.0)),
    ("logits_scaling", Some(1.0)),
    ("n_routed_experts", Some(0.0)),
    ("num_experts", Some(0.0)),
    ("num_local_experts", Some(0.0)),
    ("qk_layernorm", Some(0.0)),
    ("query_pre_attn_scalar", None),
    ("residual_multiplier", Some(1.0)),
    ("rope_interleaved", Some(0.0)),
    ("rotary_pct", Some(1.0)),
    ("scale_depth", None),
    ("scale_emb", Some(1.0)),
    ("use_bidirectional_attention", Some(0.0)),
    ("use_mrope", Some(0.0)),
    ("use_parallel_residual", Some(0.0)),
    ("use_qk_norm", Some(0.0)),
    ("use_qkv_norm", Some(0.0)),
];

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
    quantization_config: Option<Value>,
    /// The same in files of MLX.
    quantization: Option<Value>,
    /// The same in older files of compressed-tensors.
    compression_config: Option<Value>,
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

impl ModelConfig {
    /// Reads the text of `config.json` (which lies at `path`) and, where the model has one, `generation_config.json`.
    pub(in crate::model) fn from_hugging_face(
        path: &Path,
        config: &str,
        generation: Option<(&Path, &str)>,
    ) -> Result<Self> {
        let mut result =
            read_config(config).map_err(|problem| ModelError::invalid(path, problem))?;
        if let Some((path, text)) = generation {
            let raw: RawGeneration =
                json::read(text).map_err(|problem| ModelError::invalid(path, problem))?;
            result.end_of_text.extend(ids(raw.eos_token_id));
        }
        result.end_of_text.sort_unstable();
        result.end_of_text.dedup();
        Ok(result)
    }
}

/// A finding about a `config.json` that names code for a model which is computed here all the same.
pub(in crate::model) fn code_of_its_own(config: &str) -> Option<String> {
    let names = json::read::<Kind>(config).ok()?.auto_map?;
    let names: Vec<String> = names.into_keys().map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| {
        format!(
            "brings code of its own (`auto_map`: {}), which is never run; it is computed as transformers does without `trust_remote_code`",
            names.join(", ")
        )
    })
}

fn ids(value: Option<OneOrMany>) -> Vec<u32> {
    match value {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![id],
        Some(OneOrMany::Many(ids)) => ids,
    }
}

fn read_config(text: &str) -> Result<ModelConfig, String> {
    let kind: Kind = json::read(text)?;
    let model_type = kind.model_type;
    let model_type = model_type.ok_or("`model_type` is missing, expected `llama` or `qwen2`")?;
    let architecture = Architecture::from_name(&model_type).ok_or_else(|| {
        let (own_code, never_run) = match kind.auto_map {
            None => ("", ""),
            Some(_) => (
                ", which is code of the repository's own (`auto_map`, `trust_remote_code`),",
                "; code that comes with a model is never run",
            ),
        };
        unsupported(
            format!("`model_type` `{model_type}`{own_code}"),
            format!("{SUPPORTED_ARCHITECTURES}{never_run}"),
        )
    })?;
    let raw: RawConfig = json::read(text)?;
    refuse_what_is_not_computed(architecture, &raw)?;
    refuse_foreign_numbers(&json::read(text)?)?;
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

fn d_head(raw: &RawConfig) -> Result<usize, String> {
    if let Some(d_head) = raw.head_dim {
        return Ok(d_head);
    }
    match raw.hidden_size.checked_rem(raw.num_attention_heads) {
        Some(0) => Ok(raw.hidden_size / raw.num_attention_heads),
        _ => Err(format!(
            "`hidden_size` is `{}`, expected a multiple of `num_attention_heads`, which is `{}`",
            raw.hidden_size, raw.num_attention_heads
        )),
    }
}

fn refuse_what_is_not_computed(architecture: Architecture, raw: &RawConfig) -> Result<(), String> {
    // The second is the same without a head, which its embedding may be.
    let (class, backbone) = match architecture {
        Architecture::Llama => ("LlamaForCausalLM", "LlamaModel"),
        Architecture::Qwen2 => ("Qwen2ForCausalLM", "Qwen2Model"),
    };
    if let Some(classes) = &raw.architectures
        && !classes.iter().any(|name| name == class || name == backbone)
    {
        return Err(unsupported(
            format!("`architectures` `{}`", classes.join("`, `")),
            format!("`{class}`"),
        ));
    }
    if let Some(other) = &raw.hidden_act
        && !["silu", "swish"].contains(&other.as_str())
    {
        return Err(unsupported(format!("`hidden_act` `{other}`"), "`silu`"));
    }
    refuse_quantised(raw)?;
    let windowed = architecture == Architecture::Qwen2
        && raw.use_sliding_window.unwrap_or(false)
        && raw.sliding_window.unwrap_or(4096) > 0
        && raw.max_window_layers.unwrap_or(28) < raw.num_hidden_layers;
    let is_full = match &raw.layer_types {
        Some(layers) => layers.iter().all(|kind| kind == "full_attention"),
        None => !windowed,
    };
    if !is_full {
        return Err(unsupported(
            "sliding-window attention",
            "full attention in every layer",
        ));
    }
    Ok(())
}

fn refuse_quantised(raw: &RawConfig) -> Result<(), String> {
    let places = [
        ("quantization_config", &raw.quantization_config),
        ("quantization", &raw.quantization),
        ("compression_config", &raw.compression_config),
    ];
    let given = |(place, given): (&'static str, &Option<Value>)| Some((place, given.clone()?));
    let Some((place, given)) = places.into_iter().find_map(given) else {
        return Ok(());
    };
    let method = given.get("quant_method").and_then(Value::as_str);
    let by = method.map_or(String::new(), |method| format!(" by `{method}`"));
    Err(unsupported(
        format!("a checkpoint whose weights are quantised{by} (`{place}`)"),
        "the float32, float16 or bfloat16 model that was quantised, or a GGUF file of it",
    ))
}

fn refuse_foreign_numbers(fields: &BTreeMap<String, Value>) -> Result<(), String> {
    let given = |(name, neutral)| Some((name, neutral, fields.get(name)?));
    for (name, neutral, value) in NEUTRAL.into_iter().filter_map(given) {
        let number = match value {
            Value::Null => continue,
            Value::Bool(on) => Some(f64::from(u8::from(*on))),
            value => value.as_f64(),
        };
        if neutral.is_none() || number != neutral {
            return Err(unsupported(
                format!("`{name}` `{value}`"),
                "plain llama and qwen2 transformers, which have no such number",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
