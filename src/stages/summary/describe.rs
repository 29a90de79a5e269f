//! The main table: every (source, model, layer, α, set) described.

use std::collections::HashSet;

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};
use crate::stats;

use super::data;
use super::grid::{Grid, Total, place_columns};
use super::pool::{self, Estimate, Observation, Tally};

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Description<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) alpha: f64,
    pub(crate) set: &'a str,
    pub(crate) tally: Tally,
    /// Mean score over rows, its interval over prompts.
    pub(crate) mean: Option<Estimate>,
    /// Standard deviation of the scores over rows, with the source's ddof.
    pub(crate) std: Option<f64>,
    /// Refusal rate over rows, its interval with the number of distinct prompts.
    pub(crate) rate: Option<Estimate>,
}

/// Columns: `source, model, layer, site, direction, alpha, set, n` (rows), `prompts` (distinct), `mean, std, ddof, mean_low, mean_high,
/// refusal_rate, rate_low, rate_high`.
pub(super) fn table(grids: &[Grid], seed: u64) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in grids {
        rows.extend(describe(grid, seed)?);
    }
    let all = || rows.iter();
    let means: Vec<_> = all().map(|row| row.mean).collect();
    let rates: Vec<_> = all().map(|row| row.rate).collect();
    let (mean_low, mean_high) = pool::ends(&means);
    let (rate_low, rate_high) = pool::ends(&rates);
    let mut columns = vec![table::text(
        "source",
        all().map(|row| row.grid.source.name()),
    )];
    columns.extend(place_columns(all().map(|row| row.grid)));
    columns.extend([
        table::text("direction", all().map(|row| &row.grid.direction)),
        table::numbers("alpha", all().map(|row| row.alpha).collect()),
        table::text("set", all().map(|row| row.set)),
        table::integers("n", all().map(|row| row.tally.rows as usize)),
        table::integers("prompts", all().map(|row| row.tally.prompts as usize)),
        table::optional_numbers("mean", pool::values(&means)),
        table::optional_numbers("std", all().map(|row| row.std).collect()),
        table::integers("ddof", all().map(|row| row.grid.source.ddof())),
        table::optional_numbers("mean_low", mean_low),
        table::optional_numbers("mean_high", mean_high),
        table::optional_numbers("refusal_rate", pool::values(&rates)),
        table::optional_numbers("rate_low", rate_low),
        table::optional_numbers("rate_high", rate_high),
    ]);
    table::frame(columns)
}

/// One row for each α and set, α ascending.
pub(super) fn describe(grid: &Grid, seed: u64) -> Result<Vec<Description<'_>>, StageError> {
    let mut sets: Vec<&str> = Vec::new();
    for set in grid.lines.iter().flat_map(|line| &line.sets) {
        if !sets.contains(&set.name.as_str()) {
            sets.push(&set.name);
        }
    }
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
    let lines = grid.lines.iter().filter_map(|line| line.set(set));
    let prompts: Vec<_> = lines.flat_map(|set| &set.prompts).collect();
    if prompts.is_empty() {
        return describe_totals(grid, k, alpha, set);
    }
    let scores: Vec<f64> = prompts.iter().map(|prompt| prompt.cells[k].score).collect();
    let observations: Vec<Observation<'_>> = prompts
        .iter()
        .map(|prompt| Observation {
            prompt: &prompt.id,
            value: prompt.cells[k].score,
            weight: 1.0,
        })
        .collect();
    Ok(Description {
        grid,
        alpha,
        set,
        tally: tally(grid, k, set),
        mean: pool::mean(&observations, seed).map_err(data)?,
        std: stats::std(&scores, grid.source.ddof()).map_err(data)?,
        rate: rate(grid, k, set)?,
    })
}

/// The same of a set whose single prompts were not published. Its mean has no interval over prompts.
fn describe_totals<'a>(
    grid: &'a Grid,
    k: usize,
    alpha: f64,
    set: &'a str,
) -> Result<Description<'a>, StageError> {
    let lines = grid.lines.iter().filter_map(|line| line.set(set));
    let totals: Vec<&Total> = lines.filter_map(|set| set.totals.get(k)).collect();
    let rows: u64 = totals.iter().map(|total| total.n).sum();
    let count = rows as f64;
    let mean = totals.iter().map(|t| t.n as f64 * t.mean).sum::<f64>() / count;
    // Squares about the common mean: those within each seed, and those of the seeds' means.
    let within = |t: &Total| t.n as f64 * (t.std.powi(2) + (t.mean - mean).powi(2));
    let squares: f64 = totals.iter().map(|t| within(t)).sum();
    let free = count - grid.source.ddof() as f64;
    Ok(Description {
        grid,
        alpha,
        set,
        tally: tally(grid, k, set),
        mean: (rows > 0).then_some(Estimate {
            value: mean,
            interval: None,
        }),
        std: (free > 0.0).then(|| (squares / free).sqrt()),
        rate: rate(grid, k, set)?,
    })
}

/// The refusal rate of a set at the grid's k-th α, rows of all seeds pooled, its interval with the number of distinct prompts.
pub(super) fn rate(grid: &Grid, k: usize, set: &str) -> Result<Option<Estimate>, StageError> {
    tally(grid, k, set).rate().map_err(data)
}

/// Where single prompts were not published, as many count as distinct as one seed has: seeds repeat the prompts of a set that is no half of
/// a split; halves differ from seed to seed, by how much is not known, and this is the smallest number that is certain.
fn tally(grid: &Grid, k: usize, set: &str) -> Tally {
    let lines = || grid.lines.iter().filter_map(|line| line.set(set));
    let prompts = || lines().flat_map(|set| &set.prompts);
    if prompts().next().is_some() {
        let distinct: HashSet<&String> = prompts().map(|prompt| &prompt.id).collect();
        return Tally {
            rows: prompts().count() as u64,
            refused: prompts().filter(|prompt| prompt.cells[k].refused).count() as u64,
            prompts: distinct.len() as u64,
        };
    }
    let totals = || lines().filter_map(|set| set.totals.get(k));
    Tally {
        rows: totals().map(|total| total.n).sum(),
        refused: totals().map(|total| total.refused).sum(),
        prompts: totals().map(|total| total.n).max().unwrap_or_default(),
    }
}
