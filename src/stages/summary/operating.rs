//! Tables that help to choose α: `pareto` and `operating_points`. Rates are means over seeds; their intervals are those of the main table,
//! over prompts, and are not widened for the choice of α.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats::{self, RatePoint, Targets};

use super::grid::{Grid, Rates, Source, Splits, with_place};
use super::pool::{self, Estimate};
use super::{data, describe};

/// The α that a reader asks for first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Points {
    /// α = 0, where the sweep has it.
    pub(crate) zero: Option<RatePoint>,
    /// Smallest |α| at which the edge rate meets its target.
    pub(crate) edge: Option<RatePoint>,
    /// Smallest |α| at which the harmful rate meets its target.
    pub(crate) harmful: Option<RatePoint>,
    pub(crate) gap: Option<RatePoint>,
}

/// A point with the intervals of its two rates.
#[derive(Clone, Copy)]
struct Rated {
    point: RatePoint,
    edge: Option<Estimate>,
    harmful: Option<Estimate>,
}

impl Rated {
    fn new(grid: &Grid, point: RatePoint, splits: &Splits) -> Result<Self, StageError> {
        let at = grid.alphas.iter().position(|alpha| *alpha == point.alpha);
        let rate = |set: &str| at.map_or(Ok(None), |k| describe::rate(grid, k, set));
        Ok(Rated {
            point,
            edge: rate(&grid.source.edge_set(splits))?,
            harmful: rate(&splits.harmful)?,
        })
    }
}

/// Columns: `source, model, layer, site, alpha, edge_rate, harmful_rate, gap, edge_rate_low, edge_rate_high, harmful_rate_low, harmful_rate_high`, only the α on the front, edge rate ascending.
pub(super) fn pareto(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in two_sided(grids) {
        for point in front(grid, splits)? {
            rows.push((grid, Rated::new(grid, point, splits)?));
        }
    }
    let table = Rows::of(&rows).text("source", |(grid, _)| grid.source.name());
    let table = with_place(table, |(grid, _)| grid)
        .number("alpha", |(_, rated)| rated.point.alpha)
        .number("edge_rate", |(_, rated)| rated.point.edge_rate)
        .number("harmful_rate", |(_, rated)| rated.point.harmful_rate)
        .number("gap", |(_, rated)| rated.point.gap());
    with_intervals(table, "", |(_, rated)| Some(rated)).frame()
}

/// A row of `operating_points`: the α that are asked for, with intervals.
struct RatedPoints<'a> {
    grid: &'a Grid,
    zero: Option<RatePoint>,
    edge: Option<Rated>,
    harmful: Option<Rated>,
    gap: Option<Rated>,
}

/// Columns: `source, model, layer, site, gap_at_zero`, then `edge_target`, `harmful_target` and `largest_gap`, each followed by its
/// α and both rates there with their intervals (`alpha_at_edge_target, edge_rate_at_edge_target, …, edge_rate_at_edge_target_low, …`). Blank
/// where no α serves.
pub(super) fn table(
    grids: &[Grid],
    splits: &Splits,
    targets: Targets,
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in two_sided(grids) {
        let points = points(grid, splits, targets)?;
        let rated = |point: Option<RatePoint>| {
            point
                .map(|point| Rated::new(grid, point, splits))
                .transpose()
        };
        rows.push(RatedPoints {
            grid,
            zero: points.zero,
            edge: rated(points.edge)?,
            harmful: rated(points.harmful)?,
            gap: rated(points.gap)?,
        });
    }
    let table = Rows::of(&rows).text("source", |row| row.grid.source.name());
    let table = with_place(table, |row| row.grid)
        .number("gap_at_zero", |row| row.zero.map(|point| point.gap()))
        .number("edge_target", |_| targets.edge);
    let table = with_point(table, "edge_target", |row| row.edge.as_ref())
        .number("harmful_target", |_| targets.harmful);
    let table = with_point(table, "harmful_target", |row| row.harmful.as_ref())
        .number("largest_gap", |row| row.gap.map(|rated| rated.point.gap()));
    with_point(table, "largest_gap", |row| row.gap.as_ref()).frame()
}

/// Adds the columns `alpha_at_<name>, edge_rate_at_<name>, harmful_rate_at_<name>` and the intervals of the two rates.
fn with_point<'a, R>(
    table: Rows<'a, R>,
    name: &str,
    of: impl Fn(&'a R) -> Option<&'a Rated>,
) -> Rows<'a, R> {
    let point = |row| of(row).map(|rated| rated.point);
    let table = table
        .number(&format!("alpha_at_{name}"), |row| Some(point(row)?.alpha))
        .number(&format!("edge_rate_at_{name}"), |row| {
            Some(point(row)?.edge_rate)
        })
        .number(&format!("harmful_rate_at_{name}"), |row| {
            Some(point(row)?.harmful_rate)
        });
    with_intervals(table, &format!("_at_{name}"), of)
}

/// Adds the columns `edge_rate<ending>_low, edge_rate<ending>_high`, and the same of `harmful_rate`.
fn with_intervals<'a, R>(
    table: Rows<'a, R>,
    ending: &str,
    of: impl Fn(&'a R) -> Option<&'a Rated>,
) -> Rows<'a, R> {
    let ends = |side: &str| ["low", "high"].map(|end| format!("{side}_rate{ending}_{end}"));
    let table = pool::with_ends(table, ends("edge"), |row| of(row)?.edge);
    pool::with_ends(table, ends("harmful"), |row| of(row)?.harmful)
}

/// The sweeps that have an edge and a harmful side.
fn two_sided(grids: &[Grid]) -> impl Iterator<Item = &Grid> {
    grids.iter().filter(|grid| grid.source != Source::XsTest)
}

/// Rates at each α, means over seeds.
fn seed_means(grid: &Grid, splits: &Splits) -> Result<Vec<RatePoint>, StageError> {
    let rates = grid.rates(splits)?;
    let mean = |read: fn(&Rates) -> &[f64], k: usize| {
        rates.iter().map(|rates| read(rates)[k]).sum::<f64>() / rates.len() as f64
    };
    let alphas = grid.alphas.iter().enumerate();
    Ok(alphas
        .map(|(k, &alpha)| RatePoint {
            alpha,
            edge_rate: mean(|rates| &rates.edge, k),
            harmful_rate: mean(|rates| &rates.harmful, k),
        })
        .collect())
}

/// The points on the Pareto front, edge rate ascending.
pub(super) fn front(grid: &Grid, splits: &Splits) -> Result<Vec<RatePoint>, StageError> {
    let points = seed_means(grid, splits)?;
    let pairs: Vec<(f64, f64)> = points
        .iter()
        .map(|p| (p.edge_rate, p.harmful_rate))
        .collect();
    let kept = stats::pareto_front(&pairs).map_err(data)?;
    Ok(kept.into_iter().map(|index| points[index]).collect())
}

/// The operating points of a grid.
pub(super) fn points(grid: &Grid, splits: &Splits, targets: Targets) -> Result<Points, StageError> {
    let all = seed_means(grid, splits)?;
    let found = stats::operating_points(&all, targets).map_err(data)?;
    let point = |index: Option<usize>| index.map(|index| all[index]);
    Ok(Points {
        zero: all.iter().find(|point| point.alpha == 0.0).copied(),
        edge: point(found.edge),
        harmful: point(found.harmful),
        gap: point(found.largest_gap),
    })
}
