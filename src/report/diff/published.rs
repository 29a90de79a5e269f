//! Tables that somebody published: CSV with one row a prompt, and JSON that nests models, sets, layers and α.
//!
//! What a file is of is in its name (`steering_holdout_layer20_seed0.json`), as are a layer and a seed that no column says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value as Json;

use crate::report::{ReportError, Table};

use super::measure::{Measurements, Quantity, normal};

/// The measurements of a CSV or JSON file; none where it is of nothing that is known.
pub(super) fn read(path: &Path) -> Result<Option<Measurements>, ReportError> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let Some(kind) = kind(&name) else {
        return Ok(None);
    };
    let text =
        std::fs::read_to_string(path).map_err(|error| ReportError::unreadable(path, error))?;
    let mut given = given(&name);
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        let json: Json =
            serde_json::from_str(&text).map_err(|error| ReportError::unreadable(path, error))?;
        if let Some(layer) = json["layer"].as_i64() {
            given.retain(|(name, _)| *name != "layer");
            given.push(("layer", layer.to_string()));
        }
        return Ok(Some(from_json(kind, &name, &json, given)));
    }
    let table = Table::from_csv(&text, &path.display().to_string())?;
    // Columns say more than names do.
    given.retain(|(name, _)| !table.has(name));
    Ok(Some(Measurements::of(kind, &name, &table, &given)))
}

/// The kind of stage that a file of this name is of.
fn kind(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let words = [
        ("xstest", "xstest"),
        ("holdout", "holdout"),
        ("random", "random"),
        ("patch", "patch"),
        ("steer", "steer"),
        ("score", "score"),
    ];
    words
        .into_iter()
        .find(|(word, _)| name.contains(word))
        .map(|(_, kind)| kind)
}

/// Layer, seed and site that the file's name says.
fn given(name: &str) -> Vec<(&'static str, String)> {
    static PATTERNS: OnceLock<Option<[Regex; 3]>> = OnceLock::new();
    let patterns = PATTERNS.get_or_init(|| {
        Some([
            Regex::new(r"layer_?(\d+)").ok()?,
            Regex::new(r"seed(\d+)(?:\D|$)").ok()?,
            Regex::new(r"(?:hook_)?(resid_pre|resid_mid|resid_post|attn_out|mlp_out)").ok()?,
        ])
    });
    let found = patterns.iter().flatten().zip(["layer", "seed", "site"]);
    let found = found.filter_map(|(pattern, condition)| {
        Some((
            condition,
            pattern.captures(name)?.get(1)?.as_str().to_string(),
        ))
    });
    found.collect()
}

fn from_json(
    kind: &str,
    name: &str,
    json: &Json,
    given: Vec<(&'static str, String)>,
) -> Measurements {
    let mut measurements = Measurements {
        kind: kind.to_string(),
        name: name.to_string(),
        ..Measurements::default()
    };
    let at: BTreeMap<&'static str, String> = given.into_iter().collect();
    if kind == "patch" {
        let number = if name.to_ascii_lowercase().contains("lastk") {
            "k"
        } else {
            "layer"
        };
        effects(&json["delta_score_mean"], number, &at, &mut measurements);
        return measurements;
    }
    for row in json["results"].as_array().into_iter().flatten() {
        result(row, &at, &mut measurements);
    }
    for key in ["results_summary", "summaries", "summary"] {
        summaries(&json[key], &at, &mut measurements);
    }
    measurements
}

/// Mean effects, `{site: {layer: {split: Δ}}}` or without the site.
fn effects(
    value: &Json,
    number: &'static str,
    at: &BTreeMap<&'static str, String>,
    into: &mut Measurements,
) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let mut at = at.clone();
        if let Some(delta) = value.as_f64() {
            at.insert("set", normal("set", key));
            into.push(at, Quantity::MeanDelta, delta);
        } else if key.parse::<u32>().is_ok() {
            at.insert(number, key.clone());
            effects(value, number, &at, into);
        } else {
            at.insert("site", normal("site", key));
            effects(value, number, &at, into);
        }
    }
}

/// `{alpha, <model>_<set>_meanstd: [mean, std]}`.
fn result(row: &Json, at: &BTreeMap<&'static str, String>, into: &mut Measurements) {
    let Some(alpha) = row["alpha"].as_f64() else {
        return;
    };
    for (key, value) in row.as_object().into_iter().flatten() {
        let Some((model, set)) = key
            .strip_suffix("_meanstd")
            .and_then(|name| name.rsplit_once('_'))
        else {
            continue;
        };
        if let Some(mean) = value[0].as_f64() {
            let mut at = at.clone();
            at.insert("alpha", alpha.to_string());
            at.insert("model", model.to_string());
            at.insert("set", normal("set", set));
            into.push(at, Quantity::Mean, mean);
        }
    }
}

/// Means and rates nested under seeds, models, sets and α, in any order.
fn summaries(value: &Json, at: &BTreeMap<&'static str, String>, into: &mut Measurements) {
    for (name, quantity) in [
        ("mean", Quantity::Mean),
        ("refusal_rate", Quantity::RefusalRate),
        ("refuse_rate", Quantity::RefusalRate),
    ] {
        if let Some(value) = value[name].as_f64() {
            into.push(at.clone(), quantity, value);
        }
    }
    const SETS: [&str; 7] = [
        "edge",
        "harmful",
        "harm",
        "edge_train",
        "edge_holdout",
        "safe",
        "unsafe",
    ];
    for (key, value) in value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, v)| v.is_object())
    {
        let condition = match key.parse::<f64>() {
            Ok(_) if key.contains('.') || key.starts_with('-') || at.contains_key("model") => {
                "alpha"
            }
            Ok(_) => "seed",
            Err(_) if SETS.contains(&key.as_str()) => "set",
            Err(_) => "model",
        };
        let mut at = at.clone();
        at.insert(condition, normal(condition, key));
        summaries(value, &at, into);
    }
}
