//! `config.json` and `generation_config.json`, as Hugging Face transformers writes them.
//!
//! A family reads the fields that it knows by their names, with the defaults of its own class in transformers. What would change the
//! computation and is not read is refused, never ignored: quantised weights, a number of another family's ([`NEUTRAL`]), a rope parameter
//! that nothing would use.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{Activation, Defaults, ModelConfig, Sizes};
use crate::model::error::{ModelError, Result, unsupported};
use crate::model::families::Family;
use crate::model::json;

/// Fields that change what is computed, and the value at which they do not, if there is one. Switches count as 0 and 1.
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

/// The fields of a configuration, which note what they were asked for.
#[derive(Default)]
pub(in crate::model) struct Fields {
    fields: Map<String, Json>,
    read: RefCell<BTreeSet<String>>,
}

impl Fields {
    fn new(fields: Map<String, Json>) -> Self {
        Fields {
            fields,
            read: RefCell::default(),
        }
    }

    /// None for one that is absent or null.
    pub(in crate::model) fn value(&self, name: &str) -> Option<&Json> {
        self.read.borrow_mut().insert(name.to_string());
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Json) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let read = read(value).map(Some);
        read.ok_or_else(|| format!("`{name}` is `{value}`, expected {expected}"))
    }

    pub(in crate::model) fn count(&self, name: &str) -> Result<Option<usize>, String> {
        self.read(name, "a whole number", |value| {
            usize::try_from(value.as_u64()?).ok()
        })
    }

    pub(in crate::model) fn number(&self, name: &str) -> Result<Option<f64>, String> {
        self.read(name, "a number", Json::as_f64)
    }

    pub(in crate::model) fn switch(&self, name: &str) -> Result<Option<bool>, String> {
        self.read(name, "`true` or `false`", Json::as_bool)
    }

    pub(in crate::model) fn text(&self, name: &str) -> Result<Option<String>, String> {
        self.read(name, "a text", |value| Some(value.as_str()?.to_string()))
    }

    /// A list of texts, numbers or switches.
    pub(in crate::model) fn list<T: for<'d> Deserialize<'d>>(
        &self,
        name: &str,
    ) -> Result<Option<Vec<T>>, String> {
        self.read(name, "a list", |value| Vec::deserialize(value).ok())
    }

    pub(in crate::model) fn needed_count(&self, name: &str) -> Result<usize, String> {
        self.count(name)?
            .ok_or_else(|| format!("`{name}` is missing"))
    }

    /// Of all fields that are not null.
    pub(in crate::model) fn names(&self) -> impl Iterator<Item = &str> {
        let given = self.fields.iter().filter(|(_, value)| !value.is_null());
        given.map(|(name, _)| name.as_str())
    }

    /// Whether there is no such field; one that is null is there.
    pub(in crate::model) fn is_absent(&self, name: &str) -> bool {
        self.read.borrow_mut().insert(name.to_string());
        !self.fields.contains_key(name)
    }

    /// Fields inside a field.
    pub(in crate::model) fn nested(&self, name: &str) -> Result<Option<Fields>, String> {
        let nested = self.read(name, "an object", |value| value.as_object().cloned())?;
        Ok(nested.map(Fields::new))
    }

    /// The sizes by the names that most families give them; `context_length` where the file has none.
    pub(in crate::model) fn sizes(&self, context_length: usize) -> Result<Sizes, String> {
        self.sizes_by(&Defaults::of(context_length))
    }

    /// `eos_token_id`: one id, or several.
    pub(in crate::model) fn end_of_text(&self) -> Result<Vec<u32>, String> {
        let ids = self.read(
            "eos_token_id",
            "a token id or a list of them",
            |value| match value.as_array() {
                Some(_) => Vec::deserialize(value).ok(),
                None => Some(vec![u32::deserialize(value).ok()?]),
            },
        );
        Ok(ids?.unwrap_or_default())
    }

    /// The activation of the MLPs; `default` where the file names none.
    pub(in crate::model) fn activation(
        &self,
        name: &str,
        default: Activation,
    ) -> Result<Activation, String> {
        let Some(given) = self.text(name)? else {
            return Ok(default);
        };
        let known = "`silu`, `gelu`, `gelu_new`, `gelu_pytorch_tanh`";
        Activation::from_name(&given)
            .ok_or_else(|| unsupported(format!("`{name}` `{given}`"), known))
    }

    /// Refuses an activation other than `silu`, for a family that has no other.
    pub(in crate::model) fn silu(&self) -> Result<(), String> {
        match self.text("hidden_act")? {
            Some(other) if Activation::from_name(&other) != Some(Activation::Silu) => {
                Err(unsupported(format!("`hidden_act` `{other}`"), "`silu`"))
            }
            _ => Ok(()),
        }
    }

    /// `sliding_window`: the positions that one attends to, itself among them; none for all. `absent` where the file lacks the field.
    pub(in crate::model) fn window(&self, absent: Option<usize>) -> Result<Option<usize>, String> {
        let window = match self.is_absent("sliding_window") {
            true => absent,
            false => self.count("sliding_window")?,
        };
        match window {
            Some(0) => Err(
                "`sliding_window` is `0`, expected a positive number, or `null` for attention to all positions"
                    .to_string(),
            ),
            window => Ok(window),
        }
    }

    /// Refuses layers that attend to a window only, for a family that computes none.
    pub(in crate::model) fn full_attention(&self, windowed: bool) -> Result<(), String> {
        let is_full = match self.list::<String>("layer_types")? {
            Some(layers) => layers.iter().all(|kind| kind == "full_attention"),
            None => !windowed,
        };
        match is_full {
            true => Ok(()),
            false => Err(unsupported(
                "sliding-window attention",
                "full attention in every layer",
            )),
        }
    }

    /// Refuses a model class that is none of these, with a head and without one.
    fn check_class(&self, classes: [&str; 2]) -> Result<(), String> {
        let Some(given) = self.list::<String>("architectures")? else {
            return Ok(());
        };
        match given.iter().any(|name| classes.contains(&name.as_str())) {
            true => Ok(()),
            false => Err(unsupported(
                format!("`architectures` `{}`", given.join("`, `")),
                format!("`{}`", classes[0]),
            )),
        }
    }

    fn refuse_quantised(&self) -> Result<(), String> {
        // As transformers writes it, MLX, and older files of compressed-tensors.
        let places = ["quantization_config", "quantization", "compression_config"];
        let mut given = places
            .iter()
            .filter_map(|place| Some((place, self.value(place)?)));
        let Some((place, given)) = given.next() else {
            return Ok(());
        };
        let method = given.get("quant_method").and_then(Json::as_str);
        let by = method.map_or(String::new(), |method| format!(" by `{method}`"));
        Err(unsupported(
            format!("a checkpoint whose weights are quantised{by} (`{place}`)"),
            "the float32, float16 or bfloat16 model that was quantised, or a GGUF file of it",
        ))
    }

    /// Refuses what another family would read, unless it says what is computed anyway.
    pub(in crate::model) fn refuse_unread(&self, family: &str) -> Result<(), String> {
        let read = self.read.borrow();
        let unread = NEUTRAL.iter().filter(|(name, _)| !read.contains(*name));
        for (name, neutral) in unread {
            let Some(value) = self.fields.get(*name) else {
                continue;
            };
            let number = match value {
                Json::Null => continue,
                Json::Bool(on) => Some(f64::from(u8::from(*on))),
                value => value.as_f64(),
            };
            if neutral.is_none() || number != *neutral {
                return Err(unsupported(
                    format!("`{name}` `{value}`"),
                    format!("a plain `{family}` transformer, which has no such number"),
                ));
            }
        }
        Ok(())
    }
}

/// One field over another, which must divide it.
pub(in crate::model) fn quotient(
    (name, value): (&str, usize),
    (by, divisor): (&str, usize),
) -> Result<usize, String> {
    match value.checked_rem(divisor) {
        Some(0) => Ok(value / divisor),
        _ => Err(format!(
            "`{name}` is `{value}`, expected a multiple of `{by}`, which is `{divisor}`"
        )),
    }
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
        let ends = &mut result.sizes.end_of_text;
        if let Some((path, text)) = generation {
            let further = json::read(text).and_then(|fields| Fields::new(fields).end_of_text());
            ends.extend(further.map_err(|problem| ModelError::invalid(path, problem))?);
        }
        ends.sort_unstable();
        ends.dedup();
        Ok(result)
    }
}

/// The fields that say whether the others can be understood.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    auto_map: Option<BTreeMap<String, Json>>,
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

fn read_config(text: &str) -> Result<ModelConfig, String> {
    let kind: Kind = json::read(text)?;
    let supported = Family::supported();
    let model_type = kind.model_type;
    let model_type = model_type
        .ok_or_else(|| format!("`model_type` is missing, expected one of {supported}"))?;
    let fields = Fields::new(json::read(text)?);
    let read = Family::read(&model_type, &fields);
    let (classes, read) = read.ok_or_else(|| {
        let (own_code, never_run) = match kind.auto_map {
            None => ("", ""),
            Some(_) => (
                ", which is code of the repository's own (`auto_map`, `trust_remote_code`),",
                "; code that comes with a model is never run",
            ),
        };
        unsupported(
            format!("`model_type` `{model_type}`{own_code}"),
            format!("{supported}{never_run}"),
        )
    })?;
    fields.check_class(classes)?;
    fields.refuse_quantised()?;
    let config = read?;
    fields.refuse_unread(&model_type)?;
    config.sizes.validate()?;
    config.family.validate(&config.sizes)?;
    Ok(config)
}

#[cfg(test)]
mod tests;
