//! JSON summaries: means and rates nested under seeds, models, sets and α, mean effects under sites and layers, and the ids of the
//! prompts that built a direction.

use serde_json::Value as Json;

use super::{
    Builders, Measured, Of, Published, PublishedError, PublishedRow, set_name, short_site,
};

/// Keys that hold what was measured, each by its shape.
const RESULTS: [&str; 5] = [
    "results",
    "results_summary",
    "summaries",
    "summary",
    "delta_score_mean",
];

/// Names of sets; any other name in a nest of means is a model's.
const SETS: [&str; 7] = [
    "edge",
    "harmful",
    "harm",
    "edge_train",
    "edge_holdout",
    "safe",
    "unsafe",
];

/// Reads a file; what its fields do not say is taken from `given`.
pub(super) fn read(
    kind: &str,
    name: &str,
    text: &str,
    given: &Of,
) -> Result<Published, PublishedError> {
    let json: Json = serde_json::from_str(text).map_err(|error| PublishedError {
        place: format!("{name}:{}:{}", error.line(), error.column()),
        message: format!("not JSON: {error}"),
    })?;
    let wrong = |message: String| PublishedError {
        place: name.to_string(),
        message,
    };
    let mut reader = Reader {
        name,
        counts: counts(&json),
        rows: Vec::new(),
    };
    let of = Of {
        layer: json["layer"].as_u64().or(given.layer),
        site: json["site"]
            .as_str()
            .map(short_site)
            .or_else(|| given.site.clone()),
        seed: json["holdout"]["seed"].as_u64().or(given.seed),
        ..Of::default()
    };
    let builders = builders(&json, &of);
    if kind == "patch" {
        // The residual stream is the one site that file names leave out.
        let of = Of {
            site: of.site.clone().or(Some("resid_pre".to_string())),
            ..of
        };
        let is_last_k = name.to_ascii_lowercase().contains("lastk");
        reader.effects(&json["delta_score_mean"], is_last_k, &of)?;
    } else {
        for row in json["results"].as_array().into_iter().flatten() {
            reader.result(row, &of)?;
        }
        for key in ["results_summary", "summaries", "summary"] {
            reader.summaries(key, &json[key], &of)?;
        }
    }
    if reader.rows.is_empty() && builders.is_none() {
        return Err(wrong(format!(
            "nothing of kind `{kind}` in the file; expected results under one of `{}`",
            RESULTS.join("`, `")
        )));
    }
    Ok(Published {
        rows: reader.rows,
        builders,
    })
}

/// How many prompts each set has, where the file says so.
fn counts(json: &Json) -> Vec<(String, u64)> {
    let mut counts = Vec::new();
    for counted in [&json["counts"], &json["holdout"]["counts"]] {
        for (set, count) in counted.as_object().into_iter().flatten() {
            counts.extend(count.as_u64().map(|count| (set_name(set), count)));
        }
    }
    // The threshold direction's file counts the two groups of edge prompts instead.
    let groups = json["edge_counts"].as_object().into_iter().flatten();
    let total: u64 = groups.filter_map(|(_, count)| count.as_u64()).sum();
    if total > 0 {
        counts.push(("edge".to_string(), total));
    }
    counts
}

/// The ids of the prompts behind the direction.
fn builders(json: &Json, of: &Of) -> Option<Builders> {
    let ids = |list: &Json| -> Option<Vec<String>> {
        let ids = list.as_array()?.iter().map(|id| id.as_str());
        ids.map(|id| id.map(str::to_string)).collect()
    };
    let mut named = ["direction", "balanced_selection"].into_iter();
    named.find_map(|key| {
        let counts = &json["holdout"]["counts"];
        Some(Builders {
            seed: of.seed,
            layer: of.layer,
            fraction: json["holdout"]["holdout_frac"].as_f64(),
            top: ids(&json[key]["top_ids"])?,
            bottom: ids(&json[key]["bottom_ids"])?,
            halves: counts["edge_train"]
                .as_u64()
                .zip(counts["edge_holdout"].as_u64()),
        })
    })
}

struct Reader<'a> {
    name: &'a str,
    counts: Vec<(String, u64)>,
    rows: Vec<PublishedRow>,
}

impl Reader<'_> {
    fn push(&mut self, of: Of, measured: Measured) {
        self.rows.push(PublishedRow {
            line: 0,
            of,
            measured,
        });
    }

    fn count(&self, set: &Option<String>) -> Option<u64> {
        let set = set.as_ref()?;
        let mut counts = self.counts.iter();
        counts
            .find(|(name, _)| name == set)
            .map(|(_, count)| *count)
    }

    fn wrong(&self, path: &str, expected: &str, found: &Json) -> PublishedError {
        PublishedError {
            place: self.name.to_string(),
            message: format!("`{path}` is `{found}`; expected {expected}"),
        }
    }

    /// Mean effects, `{site: {layer: {split: Δ}}}` or without the site.
    fn effects(&mut self, value: &Json, is_last_k: bool, of: &Of) -> Result<(), PublishedError> {
        for (key, value) in value.as_object().into_iter().flatten() {
            let mut of = of.clone();
            if let Some(delta) = value.as_f64() {
                of.set = Some(set_name(key));
                let n = self.count(&of.set);
                self.push(of, Measured::Effect { n, delta });
                continue;
            }
            if !value.is_object() {
                let path = format!("delta_score_mean.….{key}");
                return Err(self.wrong(&path, "a number", value));
            }
            match key.parse::<u64>() {
                Ok(k) if is_last_k => of.k = Some(k),
                Ok(layer) => of.layer = Some(layer),
                Err(_) => of.site = Some(short_site(key)),
            }
            self.effects(value, is_last_k, &of)?;
        }
        Ok(())
    }

    /// `{alpha, <model>_<set>_meanstd: [mean, std]}`.
    fn result(&mut self, row: &Json, of: &Of) -> Result<(), PublishedError> {
        let Some(alpha) = row["alpha"].as_f64() else {
            return Err(self.wrong("results[…].alpha", "a number", &row["alpha"]));
        };
        for (key, value) in row.as_object().into_iter().flatten() {
            let named = key
                .strip_suffix("_meanstd")
                .and_then(|n| n.rsplit_once('_'));
            let Some((model, set)) = named else { continue };
            let (Some(mean), Some(std)) = (value[0].as_f64(), value[1].as_f64()) else {
                return Err(self.wrong(&format!("results[…].{key}"), "[mean, std]", value));
            };
            let set = Some(set_name(set));
            let measured = Measured::Group {
                n: self.count(&set),
                mean: Some(mean),
                std: Some(std),
                rate: None,
            };
            let of = Of {
                model: Some(model.to_string()),
                alpha: Some(alpha + 0.0),
                set,
                ..of.clone()
            };
            self.push(of, measured);
        }
        Ok(())
    }

    /// Means and rates nested under seeds, models, sets and α, in any order.
    fn summaries(&mut self, path: &str, value: &Json, of: &Of) -> Result<(), PublishedError> {
        let number = |name: &str| match &value[name] {
            Json::Null => Ok(None),
            found => match found.as_f64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.wrong(&format!("{path}.{name}"), "a number", found)),
            },
        };
        let (mean, std) = (number("mean")?, number("std")?);
        let rate = match number("refusal_rate")? {
            None => number("refuse_rate")?,
            rate => rate,
        };
        if mean.is_some() || rate.is_some() {
            let n = value["n"].as_u64().or_else(|| self.count(&of.set));
            self.push(of.clone(), Measured::Group { n, mean, std, rate });
        }
        let nests = value.as_object().into_iter().flatten();
        for (key, value) in nests.filter(|(_, value)| value.is_object()) {
            let mut inner = of.clone();
            match key.parse::<f64>() {
                Ok(alpha) if key.contains('.') || key.starts_with('-') || of.model.is_some() => {
                    inner.alpha = Some(alpha + 0.0);
                }
                Ok(_) => inner.seed = key.parse().ok(),
                Err(_) if SETS.contains(&key.as_str()) => inner.set = Some(set_name(key)),
                Err(_) if key == "per_type" => {}
                Err(_) if path.ends_with("per_type") => inner.category = Some(key.clone()),
                Err(_) => inner.model = Some(key.clone()),
            }
            self.summaries(&format!("{path}.{key}"), value, &inner)?;
        }
        Ok(())
    }
}
