//! Comparing results: two runs, or a run and what somebody published.
//!
//! A side is read as measurements: what was measured (`score`, `mean`, a rate, a patching effect), under which conditions (model, layer,
//! α, set, prompt, …), and the value. Two sides are compared kind by kind (scores with scores, a holdout sweep with a holdout sweep), on
//! the conditions that both name.

mod agreement;
mod measure;
mod side;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde::Serialize;

use super::ReportError;
pub(crate) use agreement::Agreement;
use measure::{Measurements, Quantity};
use side::Side;

/// How far apart values may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Of scores and their means and differences, in logits.
    pub score: f64,
    /// Of refusal rates, 0 to 1.
    pub rate: f64,
    /// Directions' cosine must be at least this.
    pub cosine: f64,
}

/// A parameter that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Parameter {
    pub(crate) path: String,
    /// Its value there; empty for none.
    pub(crate) left: String,
    /// Its value here; empty for none.
    pub(crate) right: String,
}

/// One value on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: String,
    /// `score`, `refusal_rate`, `mean`, `mean_delta`, `cosine`.
    pub(crate) quantity: String,
    /// The conditions, `name=value` in words.
    pub(crate) at: String,
    pub(crate) left: f64,
    pub(crate) right: f64,
    /// `right − left`; for a cosine what it lacks to 1.
    pub(crate) difference: f64,
    pub(crate) within: bool,
}

/// A quantity of a kind on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) kind: String,
    pub(crate) quantity: String,
    pub(crate) matched: usize,
    /// Rows of the left side that the right one has not.
    pub(crate) only_left: usize,
    /// Rows of the right side that the left one has not.
    pub(crate) only_right: usize,
    /// Mean of the differences' sizes.
    pub(crate) mean_difference: f64,
    pub(crate) largest_difference: f64,
    pub(crate) largest_at: String,
    pub(crate) tolerance: f64,
    /// Whether every matched row is within it.
    pub(crate) within: bool,
}

/// All that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Parameters that differ, where both sides are runs.
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) comparisons: Vec<Comparison>,
    /// What should agree even where numbers differ by rounding.
    pub(crate) agreements: Vec<Agreement>,
    pub(crate) rows: Vec<Row>,
    /// What could not be compared, and why.
    pub(crate) notes: Vec<String>,
}

impl Difference {
    pub(crate) fn is_within(&self) -> bool {
        !self.comparisons.is_empty() && self.comparisons.iter().all(|c| c.within)
    }
}

/// Compares two runs' folders, folders of tables, or files.
///
/// # Errors
/// [`ReportError::Unreadable`] where a side is none of these or is damaged.
pub fn diff(left: &Path, right: &Path, tolerances: Tolerances) -> Result<Difference, ReportError> {
    let (left, right) = (Side::read(left)?, Side::read(right)?);
    let mut difference = Difference {
        parameters: parameters(&left.parameters, &right.parameters),
        ..Difference::default()
    };
    for of_left in &left.measurements {
        for of_right in &right.measurements {
            if of_left.belongs_with(of_right) && !meets_elsewhere(of_left, of_right, &left, &right)
            {
                compare(of_left, of_right, tolerances, &mut difference);
            }
        }
    }
    directions(&left, &right, tolerances, &mut difference);
    if difference.comparisons.is_empty() {
        difference.notes.push(format!(
            "nothing to compare: the left side has {}, the right side {}",
            left.contents(),
            right.contents()
        ));
    }
    Ok(difference)
}

/// Whether either has a table of the same name to meet on the other side.
fn meets_elsewhere(
    of_left: &Measurements,
    of_right: &Measurements,
    left: &Side,
    right: &Side,
) -> bool {
    let named = |side: &Side, with: &Measurements| {
        let mut tables = side.measurements.iter();
        tables.any(|m| m.name == with.name && m.kind == with.kind)
    };
    of_left.name != of_right.name && (named(right, of_left) || named(left, of_right))
}

fn parameters(left: &BTreeMap<String, String>, right: &BTreeMap<String, String>) -> Vec<Parameter> {
    if left.is_empty() || right.is_empty() {
        return Vec::new();
    }
    let mut paths: Vec<&String> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    let value = |side: &BTreeMap<String, String>, path: &String| {
        side.get(path).cloned().unwrap_or_default()
    };
    paths
        .into_iter()
        .map(|path| Parameter {
            path: path.clone(),
            left: value(left, path),
            right: value(right, path),
        })
        .filter(|parameter| parameter.left != parameter.right)
        .collect()
}

/// Compares the quantities of two tables on the conditions that both have.
fn compare(
    left: &Measurements,
    right: &Measurements,
    tolerances: Tolerances,
    difference: &mut Difference,
) {
    for quantity in Quantity::ALL {
        if !left.has(quantity) || !right.has(quantity) {
            continue;
        }
        let conditions = left.shared_conditions(right, quantity);
        let (of_left, of_right) = match (
            left.by_condition(quantity, &conditions),
            right.by_condition(quantity, &conditions),
        ) {
            (Ok(left), Ok(right)) => (left, right),
            (Err(name), _) | (_, Err(name)) => {
                difference.notes.push(format!(
                    "{} {}: several rows of {name} have the same {}, so they are not compared",
                    left.kind,
                    quantity.name(),
                    conditions.join(", ")
                ));
                continue;
            }
        };
        let allowed = match quantity {
            Quantity::RefusalRate => tolerances.rate,
            _ => tolerances.score,
        };
        let rows = matched(
            &left.kind,
            quantity,
            &conditions,
            &of_left,
            &of_right,
            allowed,
        );
        if rows.is_empty() {
            difference.notes.push(format!(
                "{} {}: no row of {} matches one of {}",
                left.kind,
                quantity.name(),
                left.name,
                right.name
            ));
            continue;
        }
        let unmatched = (of_left.len() - rows.len(), of_right.len() - rows.len());
        difference
            .comparisons
            .push(comparison(&rows, unmatched, allowed));
        difference.agreements.extend(agreement::agreements(
            &left.kind,
            quantity,
            &conditions,
            &of_left,
            &of_right,
        ));
        difference.rows.extend(rows);
    }
}

/// Values by their conditions.
type ByCondition = HashMap<Vec<String>, f64>;

fn matched(
    kind: &str,
    quantity: Quantity,
    conditions: &[&str],
    left: &ByCondition,
    right: &ByCondition,
    allowed: f64,
) -> Vec<Row> {
    let mut keys: Vec<&Vec<String>> = left.keys().filter(|key| right.contains_key(*key)).collect();
    keys.sort();
    let row = |key: &Vec<String>| {
        let at = conditions
            .iter()
            .zip(key)
            .map(|(name, value)| format!("{name}={value}"));
        let (left, right) = (left[key], right[key]);
        Row {
            kind: kind.to_string(),
            quantity: quantity.name().to_string(),
            at: at.collect::<Vec<_>>().join(" "),
            left,
            right,
            difference: right - left,
            // A billionth beyond is rounding of the tolerance itself.
            within: (right - left).abs() <= allowed + 1e-9,
        }
    };
    keys.into_iter().map(row).collect()
}

fn comparison(rows: &[Row], unmatched: (usize, usize), tolerance: f64) -> Comparison {
    let size = |row: &Row| row.difference.abs();
    let largest = rows.iter().max_by(|a, b| size(a).total_cmp(&size(b)));
    Comparison {
        kind: rows.first().map_or(String::new(), |row| row.kind.clone()),
        quantity: rows
            .first()
            .map_or(String::new(), |row| row.quantity.clone()),
        matched: rows.len(),
        only_left: unmatched.0,
        only_right: unmatched.1,
        mean_difference: rows.iter().map(size).sum::<f64>() / rows.len().max(1) as f64,
        largest_difference: largest.map_or(0.0, size),
        largest_at: largest.map_or(String::new(), |row| row.at.clone()),
        tolerance,
        within: rows.iter().all(|row| row.within),
    }
}

/// Compares directions of the same name by their cosine.
fn directions(left: &Side, right: &Side, tolerances: Tolerances, difference: &mut Difference) {
    let mut rows = Vec::new();
    for (name, a) in &left.directions {
        let Some(b) = right.directions.get(name) else {
            continue;
        };
        let cosine = match crate::stats::cosine(a, b) {
            Ok(Some(cosine)) => cosine,
            Ok(None) | Err(_) => {
                let note = format!("direction {name}: widths differ or a vector is zero");
                difference.notes.push(note);
                continue;
            }
        };
        rows.push(Row {
            kind: "direction".to_string(),
            quantity: "cosine".to_string(),
            at: name.clone(),
            left: 1.0,
            right: cosine,
            difference: cosine - 1.0,
            within: cosine >= tolerances.cosine,
        });
    }
    if rows.is_empty() {
        return;
    }
    let unmatched = (
        left.directions.len() - rows.len(),
        right.directions.len() - rows.len(),
    );
    difference
        .comparisons
        .push(comparison(&rows, unmatched, 1.0 - tolerances.cosine));
    difference.rows.extend(rows);
}
