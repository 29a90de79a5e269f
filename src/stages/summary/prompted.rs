//! `prompted`: what another system prompt does to the score, beside what a direction does: the scores of the stage that `prompted` names,
//! described as the main table describes steered ones.
//!
//! The change is paired: each prompt's score less its own at α = 0, of the first sweep of the same prompts that has it. α = 0 is the unsteered
//! score, the same in every sweep in one chat.

use std::collections::HashMap;

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::{self, Rows};

use super::grid::Grid;
use super::pool::{self, Estimate, Observation, Tally};

/// One model and split under the other prompt.
#[derive(Clone, Debug)]
struct Described {
    model: String,
    split: String,
    tally: Tally,
    mean: Option<Estimate>,
    change: Option<Estimate>,
    rate: Option<Estimate>,
}

/// Score at α = 0 by model and prompt.
type Unsteered<'a> = HashMap<(&'a str, &'a str), f64>;

/// Columns: `model, set, n, mean, mean_low, mean_high, change, change_low, change_high, refusal_rate, rate_low, rate_high`. The grids are those
/// of sweeps of the prompts that are scored.
pub(super) fn table<'a>(
    scores: &DataFrame,
    grids: impl Iterator<Item = &'a Grid>,
    seed: u64,
) -> Result<DataFrame, StageError> {
    let unsteered = unsteered(grids);
    let ids = table::read_text(scores, "id")?;
    let values = table::read_numbers(scores, "score")?;
    let refused: Vec<Option<bool>> = scores.column("refused")?.bool()?.iter().collect();
    let (models, splits) = (
        table::read_text(scores, "model")?,
        table::read_text(scores, "split")?,
    );
    let mut rows = Vec::new();
    for group in table::groups(scores, &["model", "split"])? {
        let model = models[group[0]].as_str();
        let observe = |row: usize, value: f64| Observation {
            prompt: ids[row].as_str(),
            value,
            weight: 1.0,
        };
        let scored: Vec<Observation<'_>> = group.iter().map(|&r| observe(r, values[r])).collect();
        let changes = group.iter().map(|&row| {
            let before = unsteered.get(&(model, ids[row].as_str()))?;
            Some(observe(row, values[row] - before))
        });
        // Of a part of the prompts it would not be the change of the mean.
        let changes: Option<Vec<Observation<'_>>> = changes.collect();
        let change = changes.map(|changes| pool::mean(&changes, seed));
        let tally = Tally {
            rows: group.len() as u64,
            refused: group.iter().filter(|&&r| refused[r] == Some(true)).count() as u64,
            prompts: group.len() as u64,
        };
        rows.push(Described {
            model: model.to_string(),
            split: splits[group[0]].clone(),
            tally,
            mean: pool::mean(&scored, seed)?,
            change: change.transpose()?.flatten(),
            rate: tally.rate()?,
        });
    }
    Rows::of(&rows)
        .text("model", |row| &row.model)
        .text("set", |row| &row.split)
        .integer("n", |row| row.tally.rows as i64)
        .number("mean", |row| Some(row.mean?.value))
        .ends(["mean_low", "mean_high"], |row| row.mean?.interval)
        .number("change", |row| Some(row.change?.value))
        .ends(["change_low", "change_high"], |row| row.change?.interval)
        .number("refusal_rate", |row| Some(row.rate?.value))
        .ends(["rate_low", "rate_high"], |row| row.rate?.interval)
        .frame()
}

/// The first score at α = 0 of each prompt on each model.
fn unsteered<'a>(grids: impl Iterator<Item = &'a Grid>) -> Unsteered<'a> {
    let mut scores = Unsteered::new();
    for grid in grids {
        let sets = grid.lines.iter().flat_map(|line| &line.sets);
        for prompt in sets.flat_map(|set| &set.prompts) {
            let zero = prompt.cells.iter().find(|cell| cell.alpha == 0.0);
            if let (Some(id), Some(cell)) = (&prompt.id, zero) {
                let place = (grid.model.as_str(), id.as_str());
                scores.entry(place).or_insert(cell.score);
            }
        }
    }
    scores
}
