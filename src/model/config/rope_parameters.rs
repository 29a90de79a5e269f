//! The rotary embedding of a `config.json`: `rope_scaling` or `rope_parameters`.
//!
//! What each type reads is what transformers' `modeling_rope_utils.py` reads for it. A number that the type would not read is refused: who
//! wrote it meant something else than what would be computed.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Fields, Rope, RopeScaling, yarn_attention_factor};
use crate::model::error::unsupported;

/// `rope_scaling` of older files and `rope_parameters` of newer ones, which also holds θ.
#[derive(Clone, Default, Deserialize, PartialEq)]
pub(super) struct RawRope {
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

/// The types that read anything, as messages list them.
const TYPES: &str = "`default`, `linear`, `dynamic`, `llama3`, `yarn`";

impl Fields {
    /// The rotary embedding, for contexts of up to `context_length` tokens, with the family's θ where the file has none.
    pub(in crate::model) fn rope(&self, theta: f64, context_length: usize) -> Result<Rope, String> {
        let (rope, share) = self.partial_rope(theta, 1.0, context_length)?;
        match share == 1.0 {
            true => Ok(rope),
            false => Err(unsupported(
                format!("`partial_rotary_factor` `{share}`"),
                "`1.0`",
            )),
        }
    }

    /// The same of a family that turns a share of each head, and that share.
    pub(in crate::model) fn partial_rope(
        &self,
        theta: f64,
        share: f64,
        context_length: usize,
    ) -> Result<(Rope, f64), String> {
        let given = self.given_rope()?;
        let share = given.partial_rotary_factor.unwrap_or(share);
        let share = self.number("partial_rotary_factor")?.unwrap_or(share);
        let theta = self.theta()?.unwrap_or(theta);
        let original = self.count("original_max_position_embeddings")?;
        Ok((given.rope(theta, original, context_length)?, share))
    }

    fn raw_rope(&self, name: &str) -> Result<Option<RawRope>, String> {
        let value = self.value(name).map(RawRope::deserialize).transpose();
        value.map_err(|error| format!("`{name}` is not as expected: {error}"))
    }

    /// The parameters, as older files have them and as newer ones; where they stand in both places, they must be the same.
    fn given_rope(&self) -> Result<RawRope, String> {
        let (old, new) = (
            self.raw_rope("rope_scaling")?,
            self.raw_rope("rope_parameters")?,
        );
        let differ = old
            .as_ref()
            .zip(new.as_ref())
            .is_some_and(|(old, new)| !old.says_as(new));
        match differ {
            false => Ok(old.or(new).unwrap_or_default()),
            true => Err("`rope_scaling` and `rope_parameters` differ, expected one of them".into()),
        }
    }

    /// θ; where it stands in several places, it must be the same.
    fn theta(&self) -> Result<Option<f64>, String> {
        let of = |name| -> Result<_, String> {
            Ok(self.raw_rope(name)?.and_then(|rope| rope.rope_theta))
        };
        let places = [
            of("rope_scaling")?,
            of("rope_parameters")?,
            self.number("rope_theta")?,
        ];
        let mut stated = places.into_iter().flatten();
        let theta = stated.next();
        match stated.find(|other| Some(*other) != theta) {
            None => Ok(theta),
            Some(other) => Err(format!(
                "`rope_theta` is given twice, as `{}` among the rope parameters and as `{other}`, expected one of them",
                theta.unwrap_or_default()
            )),
        }
    }
}

impl RawRope {
    fn rope(
        &self,
        theta: f64,
        original: Option<usize>,
        context_length: usize,
    ) -> Result<Rope, String> {
        if let Some(name) = self.unknown.keys().next() {
            return Err(unsupported(
                format!("rope parameter `{name}`"),
                "plain rotary embeddings and their scalings",
            ));
        }
        self.refuse_unused(context_length)?;
        let original = self.original_max_position_embeddings.or(original);
        let scaling = self.scaling(original.unwrap_or(context_length), context_length)?;
        Ok(Rope { theta, scaling })
    }

    /// Whether both say the same, but for the name of the type's field and for θ.
    fn says_as(&self, other: &Self) -> bool {
        let plain = |rope: &Self| Self {
            rope_type: rope.rope_type.clone().or(rope.kind.clone()),
            kind: None,
            rope_theta: None,
            ..rope.clone()
        };
        plain(self) == plain(other)
    }

    /// The type, `default` where none is named.
    fn kind(&self) -> Result<&str, String> {
        match (self.rope_type.as_deref(), self.kind.as_deref()) {
            (Some(new), Some(old)) if new != old => Err(format!(
                "`rope_type` is `{new}`, but `type` is `{old}`, expected one of them"
            )),
            (Some(kind), _) | (None, Some(kind)) => Ok(kind),
            (None, None) => Ok("default"),
        }
    }

    /// Refuses a number that nothing would read, unless it would change nothing.
    fn refuse_unused(&self, context_length: usize) -> Result<(), String> {
        let kind = self.kind()?;
        let read = self.read_by(kind);
        let read = read.ok_or_else(|| unsupported(format!("rope type `{kind}`"), TYPES))?;
        let is_unused = |(name, value): &(&str, f64)| {
            let neutral = match *name {
                "factor" => Some(1.0),
                "original_max_position_embeddings" => Some(context_length as f64),
                _ => None,
            };
            !read.contains(name) && Some(*value) != neutral
        };
        let numbers = self.numbers().into_iter();
        let mut numbers = numbers.filter_map(|(name, value)| Some((name, value?)));
        let Some((name, value)) = numbers.find(is_unused) else {
            return Ok(());
        };
        let have = match self.rope_type.is_some() || self.kind.is_some() {
            true => format!("are of type `{kind}`"),
            false => "have no `rope_type`".to_string(),
        };
        let advice = match (kind, name) {
            ("yarn", "mscale" | "mscale_all_dim") => {
                "give both `mscale` and `mscale_all_dim` and no `attention_factor`, or leave the number out".to_string()
            }
            _ => format!("name the type that reads it ({TYPES}), or leave the number out"),
        };
        Err(format!(
            "the rope parameters {have}, so that `{name}`, which is `{value}`, would not be used; {advice}"
        ))
    }

    /// The numbers that the type reads; none for a type that is not known.
    fn read_by(&self, kind: &str) -> Option<&'static [&'static str]> {
        const YARN: [&str; 7] = [
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
        ];
        // These are read together or not at all, to infer the attention factor.
        let together = self.mscale.is_some() && self.mscale_all_dim.is_some();
        Some(match kind {
            "default" => &[],
            "linear" => &["factor"],
            "dynamic" => &["factor", "original_max_position_embeddings"],
            "llama3" => &[
                "factor",
                "original_max_position_embeddings",
                "low_freq_factor",
                "high_freq_factor",
            ],
            "yarn" if together && self.attention_factor.is_none() => &YARN,
            "yarn" => &YARN[..5],
            _ => return None,
        })
    }

    fn numbers(&self) -> [(&'static str, Option<f64>); 9] {
        let original = self.original_max_position_embeddings.map(|n| n as f64);
        [
            ("factor", self.factor),
            ("original_max_position_embeddings", original),
            ("low_freq_factor", self.low_freq_factor),
            ("high_freq_factor", self.high_freq_factor),
            ("attention_factor", self.attention_factor),
            ("beta_fast", self.beta_fast),
            ("beta_slow", self.beta_slow),
            ("mscale", self.mscale),
            ("mscale_all_dim", self.mscale_all_dim),
        ]
    }

    /// How the frequencies are changed. Where YaRN's `factor` is absent it is the ratio of the two context lengths, as in transformers.
    fn scaling(&self, original: usize, context_length: usize) -> Result<RopeScaling, String> {
        let kind = self.kind()?;
        let missing =
            |name: &str| format!("`{name}` is missing from the rope parameters of type `{kind}`");
        let need = |name: &str, value: Option<f64>| value.ok_or_else(|| missing(name));
        let factor = || need("factor", self.factor);
        Ok(match kind {
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic { factor: factor()? },
            "llama3" => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: need("low_freq_factor", self.low_freq_factor)?,
                high_freq_factor: need("high_freq_factor", self.high_freq_factor)?,
                original_context_length: original,
            },
            "yarn" => {
                let ratio = context_length as f64 / original as f64;
                let factor = self.factor.unwrap_or(ratio);
                let inferred = match (self.mscale, self.mscale_all_dim) {
                    (Some(one), Some(all)) if one != 0.0 && all != 0.0 => {
                        yarn_attention_factor(factor, one) / yarn_attention_factor(factor, all)
                    }
                    _ => yarn_attention_factor(factor, 1.0),
                };
                RopeScaling::Yarn {
                    factor,
                    original_context_length: original,
                    attention_factor: self.attention_factor.unwrap_or(inferred),
                    beta_fast: self.beta_fast.unwrap_or(32.0),
                    beta_slow: self.beta_slow.unwrap_or(1.0),
                    truncate: self.truncate.unwrap_or(true),
                }
            }
            // Unknown ones were refused.
            _ => RopeScaling::None,
        })
    }
}
