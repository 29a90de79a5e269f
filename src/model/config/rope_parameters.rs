//! The rotary embedding of a `config.json`: `rope_scaling` or `rope_parameters`.
//!
//! What each type reads is what transformers' `modeling_rope_utils.py` reads for it. A number that the type would not read is refused: who
//! wrote it meant something else than what would be computed.

mod longrope;

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
    short_factor: Option<Vec<f64>>,
    long_factor: Option<Vec<f64>>,
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
        let beside = self.number("partial_rotary_factor")?;
        let share = given.partial_rotary_factor.or(beside).unwrap_or(share);
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
        the_same(
            self.raw_rope("rope_scaling")?,
            self.raw_rope("rope_parameters")?,
        )
    }

    /// θ; where it stands in several places, it must be the same.
    fn theta(&self) -> Result<Option<f64>, String> {
        let of = |name| -> Result<_, String> {
            Ok(self.raw_rope(name)?.and_then(|rope| rope.rope_theta))
        };
        the_same_theta([
            of("rope_scaling")?,
            of("rope_parameters")?,
            self.number("rope_theta")?,
        ])
    }

    /// The rotary embeddings of a family that has one for layers that attend to everything (`full_attention`) and one for those that
    /// attend to a window (`sliding_attention`), in this order. Newer files have one inside the other in `rope_parameters`; of older ones,
    /// `rope_scaling` is that of the former. `thetas`: for each, the field that older files have its θ in, if any, and the family's θ.
    pub(in crate::model) fn ropes_by_layer(
        &self,
        thetas: [(Option<&str>, f64); 2],
        context_length: usize,
    ) -> Result<[Rope; 2], String> {
        let kinds = ["full_attention", "sliding_attention"];
        let new = self.nested("rope_parameters")?.unwrap_or_default();
        if let Some(other) = new.names().find(|name| !kinds.contains(name)) {
            return Err(format!(
                "`rope_parameters` has `{other}`, expected `{}` and `{}`, with the rope parameters of such layers in each",
                kinds[0], kinds[1]
            ));
        }
        let beside = self.number("partial_rotary_factor")?;
        let rope = |old: Option<RawRope>, kind: &str, (field, default): (Option<&str>, f64)| {
            let new = new.raw_rope(kind)?;
            let of = |rope: &Option<RawRope>| rope.as_ref().and_then(|rope| rope.rope_theta);
            let beside_theta = match field {
                Some(field) => self.number(field)?,
                None => None,
            };
            let theta = the_same_theta([of(&old), of(&new), beside_theta])?;
            let given = the_same(old, new)?;
            given.check_by_layer(beside)?;
            given.rope(theta.unwrap_or(default), None, context_length)
        };
        Ok([
            rope(self.raw_rope("rope_scaling")?, kinds[0], thetas[0])?,
            rope(None, kinds[1], thetas[1])?,
        ])
    }
}

/// Parameters of one rotary embedding in two places; empty ones where they stand in neither.
fn the_same(old: Option<RawRope>, new: Option<RawRope>) -> Result<RawRope, String> {
    let differ = old
        .as_ref()
        .zip(new.as_ref())
        .is_some_and(|(old, new)| !old.says_as(new));
    match differ {
        false => Ok(old.or(new).unwrap_or_default()),
        true => Err("`rope_scaling` and `rope_parameters` differ, expected one of them".into()),
    }
}

/// θ in several places.
fn the_same_theta(places: [Option<f64>; 3]) -> Result<Option<f64>, String> {
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

    /// Refuses what transformers passes over where each kind of layers has parameters of its own, and heads that turn in part.
    fn check_by_layer(&self, beside: Option<f64>) -> Result<(), String> {
        if self.truncate == Some(false) {
            return Err(unsupported(
                "`truncate` `false` among the rope parameters of some layers",
                "`true`, which is what transformers computes there",
            ));
        }
        let share = self.partial_rotary_factor.or(beside).unwrap_or(1.0);
        match share == 1.0 {
            true => Ok(()),
            false => Err(unsupported(
                format!("`partial_rotary_factor` `{share}`"),
                "`1.0`",
            )),
        }
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
        if self.short_factor.is_some() || self.long_factor.is_some() {
            return Err(format!(
                "the rope parameters are of type `{kind}`, so that `short_factor` and `long_factor` would not be used; leave them out"
            ));
        }
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
