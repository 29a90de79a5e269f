//! `operating_halves`: operating points chosen on one half of the prompts and reported on the other.
//!
//! The α that does best among many on some prompts does so partly by what is particular to them, and its rates there are too good. So α is
//! chosen on one half, and its rates are read off the other, as AxBench does with its factor (Wu et al., 2025). A prompt's half depends on
//! the seed and its id alone, by the hash that divides prompts for a holdout, with a word before the id: with the same seed, the halves
//! of a holdout would leave nothing of its held-out prompts to choose on.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stats::{self, Interval, RatePoint, Targets};

use super::grid::{Cell, Grid, Prompt, Set, Source, Splits, of_sources};
use super::pool::{Estimate, Tally};

/// What goes before an id that is hashed, so that these halves are not a holdout's.
const SALT: &str = "operating point";
/// The share of the prompts that α is chosen on.
const CHOSEN_ON: f64 = 0.5;

/// Rates of one half of a sweep's prompts at one α, and how many prompts they are of.
#[derive(Clone, Copy, Debug)]
struct Rated {
    point: RatePoint,
    edge: Option<Interval>,
    harmful: Option<Interval>,
    edge_prompts: u64,
    harmful_prompts: u64,
}

/// A point of one sweep: what it is called, its target, and its rates where it was chosen and where it was not.
struct Row<'a> {
    grid: &'a Grid,
    name: &'static str,
    target: Option<f64>,
    /// None where no α serves.
    rates: Option<[Rated; 2]>,
    prompts: [u64; 4],
}

/// Columns: `source, model, layer, site, point, target, alpha`, then of the half that it was chosen on `chosen_edge_rate, chosen_harmful_rate,
/// chosen_gap, chosen_edge_n, chosen_harmful_n`, and of the other `edge_rate, edge_rate_low, edge_rate_high, harmful_rate, …, gap, edge_n,
/// harmful_n`. Only of sweeps with single prompts, and of both sets in both halves.
pub(super) fn table(
    grids: &[Grid],
    splits: &Splits,
    targets: Targets,
    seed: u64,
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in grids.iter().filter(|grid| grid.source != Source::XsTest) {
        rows.extend(points(grid, splits, targets, seed)?);
    }
    let chosen = |row: &Row<'_>| row.rates.map(|[chosen, _]| chosen.point);
    let other = |row: &Row<'_>| row.rates.map(|[_, other]| other);
    of_sources(&rows, |row| row.grid)
        .text("point", |row| row.name)
        .number("target", |row| row.target)
        .number("alpha", |row| Some(chosen(row)?.alpha))
        .number("chosen_edge_rate", |row| Some(chosen(row)?.edge_rate))
        .number("chosen_harmful_rate", |row| Some(chosen(row)?.harmful_rate))
        .number("chosen_gap", |row| Some(chosen(row)?.gap()))
        .integer("chosen_edge_n", |row| row.prompts[0] as i64)
        .integer("chosen_harmful_n", |row| row.prompts[1] as i64)
        .number("edge_rate", |row| Some(other(row)?.point.edge_rate))
        .ends(["edge_rate_low", "edge_rate_high"], |row| other(row)?.edge)
        .number("harmful_rate", |row| Some(other(row)?.point.harmful_rate))
        .ends(["harmful_rate_low", "harmful_rate_high"], |row| {
            other(row)?.harmful
        })
        .number("gap", |row| Some(other(row)?.point.gap()))
        .integer("edge_n", |row| row.prompts[2] as i64)
        .integer("harmful_n", |row| row.prompts[3] as i64)
        .frame()
}

/// The three points of a sweep; none where a half has nothing of a set.
fn points<'a>(
    grid: &'a Grid,
    splits: &Splits,
    targets: Targets,
    seed: u64,
) -> Result<Vec<Row<'a>>, StageError> {
    let of_half = |is_chosen_on: bool| {
        let rate = |k| rated(grid, k, splits, |id| chosen_on(seed, id) == is_chosen_on);
        let all: Result<Option<Vec<Rated>>, StageError> =
            (0..grid.alphas.len()).map(rate).collect();
        all
    };
    let (Some(chosen), Some(others)) = (of_half(true)?, of_half(false)?) else {
        return Ok(Vec::new());
    };
    let points: Vec<RatePoint> = chosen.iter().map(|rated| rated.point).collect();
    let found = stats::operating_points(&points, targets)?;
    let (Some(first), Some(other)) = (chosen.first(), others.first()) else {
        return Ok(Vec::new());
    };
    let prompts = [
        first.edge_prompts,
        first.harmful_prompts,
        other.edge_prompts,
        other.harmful_prompts,
    ];
    let named = [
        ("edge_target", Some(targets.edge), found.edge),
        ("harmful_target", Some(targets.harmful), found.harmful),
        ("largest_gap", None, found.largest_gap),
    ];
    let row = |(name, target, at): (&'static str, Option<f64>, Option<usize>)| Row {
        grid,
        name,
        target,
        rates: at.map(|at| [chosen[at], others[at]]),
        prompts,
    };
    Ok(named.into_iter().map(row).collect())
}

/// Whether α is chosen on a prompt.
fn chosen_on(seed: u64, id: &str) -> bool {
    stats::is_holdout(seed, &format!("{SALT}::{id}"), CHOSEN_ON)
}

/// The rates of the prompts that count at the grid's k-th α: means over seeds, as of all prompts. None where a set has no such prompt.
fn rated(
    grid: &Grid,
    k: usize,
    splits: &Splits,
    counts: impl Fn(&str) -> bool,
) -> Result<Option<Rated>, StageError> {
    let of_split = |split: &str| -> Result<Option<(f64, Estimate, u64)>, StageError> {
        let sets = grid.set(&grid.set_of(split))?;
        let lines: Vec<Vec<&Prompt>> = sets.iter().map(|set| of_half(set, &counts)).collect();
        let rates = lines.iter().filter_map(|prompts| rate(prompts, k));
        let rates: Vec<f64> = rates.collect();
        let tally = tally(&lines, k);
        let (mean, estimate) = (stats::mean(&rates)?, tally.rate()?);
        let both = mean.zip(estimate);
        Ok(both.map(|(mean, estimate)| (mean, estimate, tally.prompts)))
    };
    let (Some((edge_rate, edge, edge_prompts)), Some((harmful_rate, harmful, harmful_prompts))) =
        (of_split(&splits.edge)?, of_split(&splits.harmful)?)
    else {
        return Ok(None);
    };
    Ok(Some(Rated {
        point: RatePoint {
            alpha: grid.alphas[k],
            edge_rate,
            harmful_rate,
        },
        edge: edge.interval,
        harmful: harmful.interval,
        edge_prompts,
        harmful_prompts,
    }))
}

/// The prompts of a set that count; none where single ones are not known.
fn of_half<'a>(set: &'a Set, counts: &impl Fn(&str) -> bool) -> Vec<&'a Prompt> {
    let is_of_half = |prompt: &&Prompt| prompt.id.as_deref().is_some_and(counts);
    set.prompts.iter().filter(is_of_half).collect()
}

fn rate(prompts: &[&Prompt], k: usize) -> Option<f64> {
    let cells = prompts.iter().map(|prompt| &prompt.cells[k]);
    let refused: u64 = cells.map(|cell: &Cell| cell.refused).sum();
    (!prompts.is_empty()).then(|| refused as f64 / prompts.len() as f64)
}

/// Rows of all seeds together, and how many prompts they are of.
fn tally(lines: &[Vec<&Prompt>], k: usize) -> Tally {
    let prompts = || lines.iter().flatten();
    let mut ids: Vec<&str> = prompts().filter_map(|p| p.id.as_deref()).collect();
    ids.sort_unstable();
    ids.dedup();
    Tally {
        rows: prompts().count() as u64,
        refused: prompts().map(|prompt| prompt.cells[k].refused).sum(),
        prompts: ids.len() as u64,
    }
}
