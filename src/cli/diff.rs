//! `dial diff`: two runs, or a run and what was published.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::harmless::cut;
use crate::report::{self, Difference, Tolerances};

use super::report::failure;
use super::tables::grid;
use super::{Failure, print, print_csv, print_json};

/// Rows that a terminal shows, the largest differences first.
const ROWS: usize = 12;

#[derive(Args)]
pub(super) struct DiffArguments {
    /// A run's folder, a folder of tables, a published CSV or JSON file, or a direction's safetensors.
    left: PathBuf,
    /// The same.
    right: PathBuf,
    /// How far scores, their means and effects may differ, in logits.
    #[arg(long, value_name = "LOGITS", default_value_t = 0.01)]
    score_tolerance: f64,
    /// How far refusal rates may differ, 0 to 1.
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    rate_tolerance: f64,
    /// The smallest cosine of two directions of one name, or of one layer and seed.
    #[arg(long, value_name = "COSINE", default_value_t = 0.999)]
    cosine: f64,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = DiffFormat::Text)]
    format: DiffFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DiffFormat {
    /// What differs most.
    Text,
    /// Every matched row.
    Csv,
    /// All of it, as one object.
    Json,
}

pub(super) fn diff(arguments: &DiffArguments) -> Result<(), Failure> {
    let tolerances = Tolerances {
        score: arguments.score_tolerance,
        rate: arguments.rate_tolerance,
        cosine: arguments.cosine,
    };
    let difference =
        report::diff(&arguments.left, &arguments.right, tolerances).map_err(failure)?;
    match arguments.format {
        DiffFormat::Text => print(&as_text(&difference))?,
        DiffFormat::Csv => print_csv(&as_csv(&difference))?,
        DiffFormat::Json => print_json(&serde_json::json!({
            "within": difference.is_within(),
            "difference": difference,
        }))?,
    }
    if difference.is_within() {
        return Ok(());
    }
    let outside = difference.rows.iter().filter(|row| !row.within).count();
    Err(Failure::Failed(match difference.comparisons.is_empty() {
        true => difference.notes.join("; "),
        false => format!(
            "{outside} of {} rows are outside the tolerance",
            difference.rows.len()
        ),
    }))
}

fn as_text(difference: &Difference) -> String {
    let mut text = String::new();
    if !difference.parameters.is_empty() {
        let rows = difference.parameters.iter();
        let rows = rows.map(|p| vec![p.path.clone(), cut(&p.left, 48), cut(&p.right, 48)]);
        text += &grid(&["parameter", "left", "right"], rows.collect());
        text.push('\n');
    }
    let number = |value: f64| format!("{value:.4}");
    if !difference.comparisons.is_empty() {
        let rows = difference.comparisons.iter().map(|c| {
            vec![
                c.kind.clone(),
                c.quantity.clone(),
                c.matched.to_string(),
                c.only_left.to_string(),
                c.only_right.to_string(),
                number(c.mean_difference),
                number(c.largest_difference),
                number(c.tolerance),
                if c.within { "within" } else { "outside" }.to_string(),
            ]
        });
        let header = [
            "kind",
            "quantity",
            "matched",
            "only left",
            "only right",
            "mean |Δ|",
            "largest |Δ|",
            "tolerance",
            "verdict",
        ];
        text += &grid(&header, rows.collect());
    }
    text += &agreements(difference);
    let mut outside: Vec<_> = difference.rows.iter().filter(|row| !row.within).collect();
    outside.sort_by(|a, b| b.difference.abs().total_cmp(&a.difference.abs()));
    if !outside.is_empty() {
        let rows = outside.iter().take(ROWS).map(|row| {
            vec![
                row.kind.clone(),
                row.quantity.clone(),
                row.at.clone(),
                number(row.left),
                number(row.right),
                number(row.difference),
            ]
        });
        let header = ["kind", "quantity", "at", "left", "right", "Δ"];
        text += &format!("\n{}", grid(&header, rows.collect()));
    }
    for note in &difference.notes {
        text += &format!("note: {note}\n");
    }
    text
}

/// What should agree even where numbers differ by rounding.
fn agreements(difference: &Difference) -> String {
    if difference.agreements.is_empty() {
        return String::new();
    }
    let rows = difference.agreements.iter().map(|found| {
        vec![
            found.kind.clone(),
            found.what.clone(),
            found.n.to_string(),
            format!("{:.3}", found.agreement),
            found.detail.clone(),
        ]
    });
    let header = ["kind", "what should agree", "n", "agreement", ""];
    format!("\n{}", grid(&header, rows.collect()))
}

fn as_csv(difference: &Difference) -> String {
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in &difference.rows {
        // Writing to memory cannot fail.
        let _ = writer.serialize(row);
    }
    String::from_utf8_lossy(&writer.into_inner().unwrap_or_default()).into_owned()
}
