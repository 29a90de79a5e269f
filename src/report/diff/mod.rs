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

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::ReportError;
pub(crate) use agreement::Agreement;
use measure::{Matched, MatchedRow, Measurements, Quantity};
use side::Side;

/// How far apart values may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Of scores and their means and differences, in logits; of divergences and lengths, too.
    pub score: f64,
    /// Of rates, 0 to 1, and cosines.
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
    /// The column that it stands in: `score`, `refusal_rate`, `pre_norm`, …; `cosine` of directions.
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

    /// Adds the matched rows of a quantity, if there are any, and what they come to.
    fn add(&mut self, rows: Vec<Row>, only_left: usize, only_right: usize, tolerance: f64) {
        let size = |row: &Row| row.difference.abs();
        let by_size = |a: &&Row, b: &&Row| size(a).total_cmp(&size(b));
        let Some(largest) = rows.iter().max_by(by_size) else {
            return;
        };
        self.comparisons.push(Comparison {
            kind: largest.kind.clone(),
            quantity: largest.quantity.clone(),
            matched: rows.len(),
            only_left,
            only_right,
            mean_difference: rows.iter().map(size).sum::<f64>() / rows.len() as f64,
            largest_difference: size(largest),
            largest_at: largest.at.clone(),
            tolerance,
            within: rows.iter().all(|row| row.within),
        });
        self.rows.extend(rows);
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
    let paths: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let value = |side: &BTreeMap<String, String>, path: &String| {
        side.get(path).cloned().unwrap_or_default()
    };
    let parameters = paths.into_iter().map(|path| Parameter {
        path: path.clone(),
        left: value(left, path),
        right: value(right, path),
    });
    parameters.filter(|p| p.left != p.right).collect()
}

/// Compares the quantities of two tables on the conditions that both have.
fn compare(
    left: &Measurements,
    right: &Measurements,
    tolerances: Tolerances,
    difference: &mut Difference,
) {
    for &quantity in Quantity::ALL {
        if !left.has(quantity) || !right.has(quantity) {
            continue;
        }
        let matched = match Matched::new(left, right, quantity) {
            Ok(matched) => matched,
            Err(why) => {
                let of = format!("{} {}", left.kind, quantity.name());
                difference.notes.push(format!("{of}: {why}"));
                continue;
            }
        };
        let allowed = match quantity.is_a_share() {
            true => tolerances.rate,
            false => tolerances.score,
        };
        let row = |row: &MatchedRow| {
            let at = matched.conditions.iter().zip(&row.at);
            let at = at.map(|(name, value)| format!("{name}={value}"));
            Row {
                kind: left.kind.clone(),
                quantity: quantity.name().to_string(),
                at: at.collect::<Vec<_>>().join(" "),
                left: row.left,
                right: row.right,
                difference: row.right - row.left,
                // A billionth beyond is rounding of the tolerance itself.
                within: (row.right - row.left).abs() <= allowed + 1e-9,
            }
        };
        if let Some(note) = &matched.note {
            let of = format!("{} {}", left.kind, quantity.name());
            difference.notes.push(format!("{of}: {note}"));
        }
        let rows = matched.rows.iter().map(row).collect();
        difference.add(rows, matched.only_left, matched.only_right, allowed);
        let agreements = agreement::agreements(&left.kind, quantity, &matched);
        difference.agreements.extend(agreements);
    }
}

/// Compares directions by their cosine: those of the same name, and of the others those that are the only ones of their layer and seed.
fn directions(left: &Side, right: &Side, tolerances: Tolerances, difference: &mut Difference) {
    let mut rows = Vec::new();
    for (name, other) in side::pairs(left, right) {
        let (a, b) = (&left.directions[name], &right.directions[other]);
        let name = match name == other {
            true => name.clone(),
            false => format!("{name} × {other}"),
        };
        let Ok(Some(cosine)) = crate::stats::cosine(a, b) else {
            let note = format!("direction {name}: widths differ or a vector is zero");
            difference.notes.push(note);
            continue;
        };
        rows.push(Row {
            kind: "direction".to_string(),
            quantity: "cosine".to_string(),
            at: name,
            left: 1.0,
            right: cosine,
            difference: cosine - 1.0,
            within: cosine >= tolerances.cosine,
        });
    }
    let unmatched = |side: &Side| side.directions.len() - rows.len();
    let (only_left, only_right) = (unmatched(left), unmatched(right));
    difference.add(rows, only_left, only_right, 1.0 - tolerances.cosine);
}
