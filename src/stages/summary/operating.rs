//! Tables that help to choose α: `pareto` and `operating_points`. Rates are means over seeds; their intervals are those of the main table,
//! over prompts, and are not widened for the choice of α.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats::{self, Interval, RatePoint, Targets};

use super::describe;
use super::grid::{Grid, Source, Splits, of_sources};

/// A point with the intervals of its two rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rated {
    pub(crate) point: RatePoint,
    edge: Option<Interval>,
    harmful: Option<Interval>,
}

/// The α that a reader asks for first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Points {
    /// α = 0, where the sweep has it.
    pub(crate) zero: Option<Rated>,
    /// Smallest |α| at which the edge rate meets its target.
    pub(crate) edge: Option<Rated>,
    /// Smallest |α| at which the harmful rate meets its target.
    pub(crate) harmful: Option<Rated>,
    pub(crate) gap: Option<Rated>,
}

/// Columns: `source, model, layer, site, alpha, edge_rate, harmful_rate, gap, edge_rate_low, edge_rate_high, harmful_rate_low, harmful_rate_high`, only the α on the front, edge rate ascending.
pub(super) fn pareto(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in two_sided(grids) {
        rows.extend(front(grid, splits)?.into_iter().map(|rated| (grid, rated)));
    }
    let table = of_sources(&rows, |(grid, _)| grid)
        .number("alpha", |(_, rated)| rated.point.alpha)
        .number("edge_rate", |(_, rated)| rated.point.edge_rate)
        .number("harmful_rate", |(_, rated)| rated.point.harmful_rate)
        .number("gap", |(_, rated)| rated.point.gap());
    with_intervals(table, "", |(_, rated)| Some(rated)).frame()
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
        rows.push((grid, points(grid, splits, targets)?));
    }
    let gap = |rated: Option<Rated>| Some(rated?.point.gap());
    let table = of_sources(&rows, |(grid, _)| grid)
        .number("gap_at_zero", |(_, points)| gap(points.zero))
        .number("edge_target", |_| targets.edge);
    let table = with_point(table, "edge_target", |(_, points)| points.edge.as_ref())
        .number("harmful_target", |_| targets.harmful);
    let table = with_point(table, "harmful_target", |(_, points)| {
        points.harmful.as_ref()
    })
    .number("largest_gap", |(_, points)| gap(points.gap));
    with_point(table, "largest_gap", |(_, points)| points.gap.as_ref()).frame()
}

/// Adds the columns `alpha_at_<name>, edge_rate_at_<name>, harmful_rate_at_<name>` and the intervals of the two rates.
fn with_point<'a, R>(
    table: Rows<'a, R>,
    name: &str,
    of: impl Fn(&'a R) -> Option<&'a Rated>,
) -> Rows<'a, R> {
    let at = |what: &str| format!("{what}_at_{name}");
    let table = table
        .number(&at("alpha"), |row| Some(of(row)?.point.alpha))
        .number(&at("edge_rate"), |row| Some(of(row)?.point.edge_rate))
        .number(&at("harmful_rate"), |row| Some(of(row)?.point.harmful_rate));
    with_intervals(table, &at(""), of)
}

/// Adds the columns `edge_rate<ending>_low, edge_rate<ending>_high`, and the same of `harmful_rate`.
fn with_intervals<'a, R>(
    table: Rows<'a, R>,
    ending: &str,
    of: impl Fn(&'a R) -> Option<&'a Rated>,
) -> Rows<'a, R> {
    let ends = |side: &str| ["low", "high"].map(|end| format!("{side}_rate{ending}_{end}"));
    let (edge, harmful) = (ends("edge"), ends("harmful"));
    table
        .ends(edge.each_ref().map(String::as_str), |row| of(row)?.edge)
        .ends(harmful.each_ref().map(String::as_str), |row| {
            of(row)?.harmful
        })
}

/// The sweeps that have an edge and a harmful side.
fn two_sided(grids: &[Grid]) -> impl Iterator<Item = &Grid> {
    grids.iter().filter(|grid| grid.source != Source::XsTest)
}

/// Rates at each α, means over seeds.
fn rated(grid: &Grid, splits: &Splits) -> Result<Vec<Rated>, StageError> {
    let rates = grid.rates(splits)?;
    let count = rates.len() as f64;
    let mut all = Vec::new();
    for (k, &alpha) in grid.alphas.iter().enumerate() {
        let interval = |set: &str| -> Result<_, StageError> {
            Ok(describe::rate(grid, k, set)?.and_then(|rate| rate.interval))
        };
        all.push(Rated {
            point: RatePoint {
                alpha,
                edge_rate: rates.iter().map(|rates| rates.edge[k]).sum::<f64>() / count,
                harmful_rate: rates.iter().map(|rates| rates.harmful[k]).sum::<f64>() / count,
            },
            edge: interval(&grid.set_of(&splits.edge))?,
            harmful: interval(&grid.set_of(&splits.harmful))?,
        });
    }
    Ok(all)
}

/// The points on the Pareto front, edge rate ascending.
pub(super) fn front(grid: &Grid, splits: &Splits) -> Result<Vec<Rated>, StageError> {
    let all = rated(grid, splits)?;
    let pairs = all
        .iter()
        .map(|r| (r.point.edge_rate, r.point.harmful_rate));
    let kept = stats::pareto_front(&pairs.collect::<Vec<_>>())?;
    Ok(kept.into_iter().map(|index| all[index]).collect())
}

pub(super) fn points(grid: &Grid, splits: &Splits, targets: Targets) -> Result<Points, StageError> {
    let all = rated(grid, splits)?;
    let points: Vec<RatePoint> = all.iter().map(|rated| rated.point).collect();
    let found = stats::operating_points(&points, targets)?;
    let at = |index: Option<usize>| index.map(|index| all[index]);
    Ok(Points {
        zero: at(points.iter().position(|point| point.alpha == 0.0)),
        edge: at(found.edge),
        harmful: at(found.harmful),
        gap: at(found.largest_gap),
    })
}
