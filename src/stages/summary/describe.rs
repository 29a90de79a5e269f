//! The main table: every (source, model, layer, α, set) described.

use std::collections::HashSet;

use polars::prelude::DataFrame;

use crate::stages::rules::rate_column;
use crate::stages::{StageError, distinct, measure};
use crate::stats;

use super::grid::{Cell, Grid, Prompt, Splits, of_sources};
use super::pool::{self, Estimate, Observation, Tally};

#[derive(Clone, Debug)]
pub(super) struct Description<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) alpha: f64,
    pub(crate) set: &'a str,
    pub(crate) tally: Tally,
    /// Mean score over rows, its interval over prompts.
    pub(crate) mean: Option<Estimate>,
    /// What α does: the mean over rows of the score less that of the same prompt and seed at α = 0, its interval over prompts. None where α = 0
    /// was not measured.
    pub(crate) change: Option<Estimate>,
    /// Standard deviation of the scores over rows, with the source's ddof.
    pub(crate) std: Option<f64>,
    /// The rule's rate over rows, its interval with the number of distinct prompts.
    pub(crate) rate: Option<Estimate>,
}

/// Columns: `source, model, layer, site, direction, alpha, set, n` (rows), `prompts` (distinct), `mean, std, ddof, mean_low, mean_high,
/// change, change_low, change_high, refusal_rate` (or that of another score rule), `rate_low, rate_high`.
pub(super) fn table(grids: &[Grid], rule: &str, seed: u64) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in grids {
        rows.extend(describe(grid, seed)?);
    }
    let table = of_sources(&rows, |row| row.grid);
    let table = match rows.iter().any(|row| row.grid.is_named) {
        true => table,
        false => table.text("direction", |row| &row.grid.direction),
    };
    table
        .number("alpha", |row| row.alpha)
        .text("set", |row| row.set)
        .integer("n", |row| row.tally.rows as i64)
        .integer("prompts", |row| row.tally.prompts as i64)
        .number("mean", |row| Some(row.mean?.value))
        .number("std", |row| row.std)
        .integer("ddof", |row| row.grid.source.ddof() as i64)
        .ends(["mean_low", "mean_high"], |row| row.mean?.interval)
        .number("change", |row| Some(row.change?.value))
        .ends(["change_low", "change_high"], |row| row.change?.interval)
        .number(&rate_column(rule), |row| Some(row.rate?.value))
        .ends(["rate_low", "rate_high"], |row| row.rate?.interval)
        .frame()
}

/// One row for each α and set, α ascending.
pub(super) fn describe(grid: &Grid, seed: u64) -> Result<Vec<Description<'_>>, StageError> {
    let sets = grid.lines.iter().flat_map(|line| &line.sets);
    let sets = distinct(sets.map(|set| set.name.as_str()));
    let mut rows = Vec::new();
    for (k, &alpha) in grid.alphas.iter().enumerate() {
        for set in &sets {
            rows.push(describe_set(grid, k, alpha, set, seed)?);
        }
    }
    Ok(rows)
}

/// The set at the grid's k-th α, rows of all seeds pooled.
fn describe_set<'a>(
    grid: &'a Grid,
    k: usize,
    alpha: f64,
    set: &'a str,
    seed: u64,
) -> Result<Description<'a>, StageError> {
    let prompts: Vec<&Prompt> = prompts_of(grid, set).collect();
    let cells = || prompts.iter().map(|prompt| &prompt.cells[k]);
    let tally = tally(grid, k, set);
    let ids: Option<Vec<&String>> = prompts.iter().map(|prompt| prompt.id.as_ref()).collect();
    let zero = grid.alphas.iter().position(|alpha| *alpha == 0.0);
    let changes = zero.map(|zero| {
        let of_prompt = |prompt: &&Prompt| prompt.cells[k].score - prompt.cells[zero].score;
        prompts.iter().map(of_prompt).collect::<Vec<f64>>()
    });
    let (mean, change, std) = match ids {
        Some(ids) => {
            let scores: Vec<f64> = cells().map(|cell| cell.score).collect();
            let over_prompts = |values: &[f64]| {
                let of = |(prompt, &value): (&&'a String, &f64)| Observation {
                    prompt: prompt.as_str(),
                    value,
                    weight: 1.0,
                };
                pool::mean(&ids.iter().zip(values).map(of).collect::<Vec<_>>(), seed)
            };
            let change = changes.as_deref().map(&over_prompts).transpose()?;
            let std = stats::std(&scores, grid.source.ddof())?;
            (over_prompts(&scores)?, change.flatten(), std)
        }
        None => {
            let count = tally.rows as f64;
            let mean = cells().map(|c| c.n as f64 * c.score).sum::<f64>() / count;
            // The groups are the same prompts at every α.
            let change = changes.map(|changes| {
                let weighted = cells().zip(changes).map(|(c, change)| c.n as f64 * change);
                Estimate::without_interval(weighted.sum::<f64>() / count)
            });
            // Squares about the common mean: those within each seed, and those of the seeds' means.
            let within = |c: &Cell| c.n as f64 * (c.std.powi(2) + (c.score - mean).powi(2));
            let squares: f64 = cells().map(within).sum();
            let free = count - grid.source.ddof() as f64;
            (
                Some(Estimate::without_interval(mean)),
                change,
                (free > 0.0).then(|| (squares / free).sqrt()),
            )
        }
    };
    Ok(Description {
        grid,
        alpha,
        set,
        tally,
        mean,
        change,
        std,
        rate: tally.rate()?,
    })
}

/// The splits of which hardly a prompt can change, by what the score refuses at α = 0 on each model.
pub(super) fn without_room(places: &[&Grid], splits: &Splits) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    for grid in places {
        let Some(zero) = grid.alphas.iter().position(|alpha| *alpha == 0.0) else {
            continue;
        };
        for set in [&splits.edge, &splits.harmful].map(|split| grid.set_of(split)) {
            let Tally { rows, refused, .. } = tally(grid, zero, &set);
            let told = measure::without_room((&grid.rule, &grid.model), &set, refused, rows);
            // Without steering all layers are alike.
            findings.extend(told.filter(|told| !findings.contains(told)));
        }
    }
    findings
}

/// The prompts of a set of that name, of all seeds.
fn prompts_of<'a>(grid: &'a Grid, set: &str) -> impl Iterator<Item = &'a Prompt> {
    let sets = grid.lines.iter().filter_map(move |line| line.set(set));
    sets.flat_map(|set| &set.prompts)
}

/// The refusal rate of a set at the grid's k-th α, rows of all seeds pooled, its interval with the number of distinct prompts.
pub(super) fn rate(grid: &Grid, k: usize, set: &str) -> Result<Option<Estimate>, StageError> {
    Ok(tally(grid, k, set).rate()?)
}

/// Where single prompts were not published, as many count as distinct as one seed has: seeds repeat the prompts of a set that is no half of
/// a split; halves differ from seed to seed, by how much is not known, and this is the smallest number that is certain.
fn tally(grid: &Grid, k: usize, set: &str) -> Tally {
    let cells = || prompts_of(grid, set).map(|prompt| &prompt.cells[k]);
    let ids: HashSet<&String> = prompts_of(grid, set)
        .filter_map(|p| p.id.as_ref())
        .collect();
    Tally {
        rows: cells().map(|cell| cell.n).sum(),
        refused: cells().map(|cell| cell.refused).sum(),
        prompts: match ids.is_empty() {
            true => cells().map(|cell| cell.n).max().unwrap_or_default(),
            false => ids.len() as u64,
        },
    }
}
