//! Rows of published files: one number or text each, and what it is of. Columns are named as those of stages' tables.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;

use super::shapes;

/// One row; what the file does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    /// The line it stands in, from 1; 0 in JSON.
    pub(super) line: usize,
    pub(super) model: Option<String>,
    /// Seed of the direction.
    pub(super) seed: Option<u64>,
    pub(super) layer: Option<u64>,
    /// How many of the last layers were patched.
    pub(super) k: Option<u64>,
    /// Site of the edit, by its short name: `resid_pre`.
    pub(super) site: Option<String>,
    pub(super) alpha: Option<f64>,
    /// The prompts, by name: `harmful`, `edge_train`.
    pub(super) set: Option<String>,
    pub(super) id: Option<String>,
    pub(super) category: Option<String>,
    /// The prompt's text.
    pub(super) prompt: Option<String>,
    /// Of a prompt, in logits.
    pub(super) score: Option<f64>,
    pub(super) refused: Option<bool>,
    /// How many prompts the numbers below are of.
    pub(super) n: Option<u64>,
    pub(super) mean: Option<f64>,
    pub(super) std: Option<f64>,
    pub(super) refusal_rate: Option<f64>,
    /// Mean effect of a patch, in logits.
    pub(super) mean_delta: Option<f64>,
    /// What a model wrote.
    pub(super) text: Option<String>,
}

/// Why a file could not be read as what it was said to be: the place, with line and column where they are known, and what was expected there.
pub(super) fn wrong(place: &str, message: &str) -> StageError {
    StageError::Data(format!("{place}: {message}"))
}

impl Row {
    /// Fills a column from what a file says; an error is what is expected there. Where a text may be left out, an empty one changes nothing.
    pub(super) fn put(&mut self, column: &str, said: &str) -> Result<(), &'static str> {
        let text = || Some(said.to_string()).filter(|text| !text.is_empty());
        match column {
            "model" => self.model = text(),
            "seed" => self.seed = integer(said)?.or(self.seed),
            "layer" => self.layer = integer(said)?.or(self.layer),
            "k" => self.k = integer(said)?,
            "site" if said.is_empty() => {}
            "site" => self.site = Some(shapes::site(said).to_string()),
            // Of the two zeros one is as good as the other, but they are not written alike.
            "alpha" => self.alpha = Some(number(said)? + 0.0),
            "set" => self.set = text().map(|set| shapes::set(&set).to_string()),
            "id" => self.id = Some(text().ok_or("a name")?),
            "category" => self.category = text(),
            "prompt" => self.prompt = text(),
            "score" => self.score = Some(number(said)?),
            "refused" => self.refused = flag(said)?,
            "n" => self.n = integer(said)?,
            "mean" => self.mean = Some(number(said)?),
            "std" => self.std = Some(number(said)?),
            "refusal_rate" => self.refusal_rate = Some(number(said)?),
            "mean_delta" => self.mean_delta = Some(number(said)?),
            "text" => self.text = Some(said.to_string()),
            _ => {}
        }
        Ok(())
    }
}

/// A number; an error is what is expected in its place, here and below.
pub(super) fn number(text: &str) -> Result<f64, &'static str> {
    let number = text.parse::<f64>().ok();
    let number = number.filter(|number| number.is_finite());
    number.ok_or("a finite number")
}

fn integer(text: &str) -> Result<Option<u64>, &'static str> {
    let given = Some(text).filter(|text| !text.is_empty());
    let number = given.map(str::parse).transpose();
    number.map_err(|_| "an integer of 0 or more")
}

fn flag(text: &str) -> Result<Option<bool>, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "" => Ok(None),
        "0" | "false" => Ok(Some(false)),
        "1" | "true" => Ok(Some(true)),
        _ => Err("0 or 1"),
    }
}

/// The rows as a table, with every column; gaps in text are empty.
pub(super) fn frame(rows: &[Row]) -> Result<DataFrame, StageError> {
    let integer = |value: Option<u64>| value.map(|value| value as i64);
    Rows::of(rows)
        .text("model", |row| text(&row.model))
        .integer("seed", |row| integer(row.seed))
        .integer("layer", |row| integer(row.layer))
        .integer("k", |row| integer(row.k))
        .text("site", |row| text(&row.site))
        .number("alpha", |row| row.alpha)
        .text("set", |row| text(&row.set))
        .text("id", |row| text(&row.id))
        .text("category", |row| text(&row.category))
        .number("score", |row| row.score)
        .flag("refused", |row| row.refused)
        .integer("n", |row| integer(row.n))
        .number("mean", |row| row.mean)
        .number("std", |row| row.std)
        .number("refusal_rate", |row| row.refusal_rate)
        .number("mean_delta", |row| row.mean_delta)
        .text("text", |row| text(&row.text))
        .frame()
}

/// A text; none is empty.
pub(super) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}
