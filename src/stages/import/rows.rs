//! Scores and patching effects as tables.

use polars::prelude::DataFrame;

use crate::stages::published::{Measured, Published, PublishedRow};
use crate::stages::{Output, StageError, score, table};

/// What the score stage would have left.
pub(super) fn scores(files: &[Published], threshold: f64) -> Result<Output, StageError> {
    let rows: Vec<&PublishedRow> = files.iter().flat_map(|file| &file.rows).collect();
    let mut scored: Vec<score::Scored> = Vec::new();
    let mut models: Vec<&str> = Vec::new();
    for row in &rows {
        let model = row.of.model.as_deref().unwrap_or_default();
        if !models.contains(&model) {
            models.push(model);
        }
    }
    // A wide table has the models side by side; a score stage has one below the other.
    for model in models {
        let of_model = rows.iter().filter(|r| r.of.model.as_deref() == Some(model));
        scored.extend(of_model.filter_map(|row| {
            let Measured::Score { score, .. } = row.measured else {
                return None;
            };
            Some(score::Scored {
                model: model.to_string(),
                id: row.of.id.clone().unwrap_or_default(),
                split: row.of.set.clone().unwrap_or_default(),
                category: row.of.category.clone().unwrap_or_default(),
                score,
            })
        }));
    }
    Ok(Output {
        tables: score::tables(&scored, threshold)?,
        ..Output::default()
    })
}

/// What the patch stage would have left of its means.
pub(super) fn patches(files: &[Published]) -> Result<Output, StageError> {
    let effects: Vec<(&PublishedRow, u64, f64)> = files
        .iter()
        .flat_map(|file| &file.rows)
        .filter_map(|row| match row.measured {
            Measured::Effect { n, delta } => Some((row, n.unwrap_or_default(), delta)),
            _ => None,
        })
        .collect();
    let is_last_k = effects.iter().any(|(row, ..)| row.of.k.is_some());
    let number = match is_last_k {
        true => "k",
        false => "layer",
    };
    let of = |(row, ..): &(&PublishedRow, u64, f64)| match is_last_k {
        true => row.of.k,
        false => row.of.layer,
    };
    let site = |row: &PublishedRow| row.of.site.clone().unwrap_or_default();
    let none: Vec<Option<f64>> = vec![None; effects.len()];
    let means = table::frame(vec![
        table::text("site", effects.iter().map(|(row, ..)| site(row))),
        table::optional_integers(number, effects.iter().map(of)),
        table::text(
            "split",
            effects
                .iter()
                .map(|(row, ..)| row.of.set.clone().unwrap_or_default()),
        ),
        table::integers("n", effects.iter().map(|(_, n, _)| *n as usize)),
        table::numbers("mean_delta", effects.iter().map(|(.., d)| *d).collect()),
        table::optional_numbers("mean_recovery", none),
    ])?;
    Ok(Output {
        findings: constant(&means, number)?.into_iter().collect(),
        tables: vec![("mean".to_string(), means)],
        ..Output::default()
    })
}

/// Of a last-K curve of a residual site: the last layer's patch overwrites the others, so that K cannot matter.
fn constant(means: &DataFrame, number: &str) -> Result<Option<String>, StageError> {
    let sites = table::read_text(means, "site")?;
    let is_residual = sites.iter().all(|site| site.starts_with("resid"));
    if number != "k" || !is_residual {
        return Ok(None);
    }
    let splits = table::read_text(means, "split")?;
    let deltas = table::read_numbers(means, "mean_delta")?;
    let mut values: Vec<(&str, f64)> = Vec::new();
    for (split, delta) in splits.iter().zip(&deltas) {
        match values.iter().find(|(known, _)| known == split) {
            Some((_, known)) if known == delta => {}
            Some(_) => {
                return Ok(Some("the last-K curve of a residual site varies with K, although the last layer's patch overwrites the others: it was not made as described".to_string()));
            }
            None => values.push((split, *delta)),
        }
    }
    let values: Vec<String> = values
        .iter()
        .map(|(split, delta)| format!("{delta:.5} {split}"))
        .collect();
    let count = means.height() / values.len().max(1);
    Ok(Some(format!(
        "the last-K curve of a residual site is one number for all {count} K ({}) by construction: the last layer's patch overwrites the others",
        values.join(", ")
    )))
}
