//! Tables that help to choose α: `pareto` and `operating_points`. Rates are means over seeds; their intervals are those of the main table,
//! over prompts, and are not widened for the choice of α.

use polars::prelude::{Column, DataFrame};

use crate::stages::{StageError, table};
use crate::stats::{self, RatePoint, Targets};

use super::grid::{Grid, Rates, Source, Splits, place_columns};
use super::{data, describe, pool};

/// The α that a reader asks for first.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Points {
    /// α = 0, where the sweep has it.
    pub(crate) zero: Option<RatePoint>,
    /// Smallest |α| at which the edge rate meets its target.
    pub(crate) edge: Option<RatePoint>,
    /// Smallest |α| at which the harmful rate meets its target.
    pub(crate) harmful: Option<RatePoint>,
    /// The largest gap.
    pub(crate) gap: Option<RatePoint>,
}

/// Columns: `source, model, layer, site, alpha, edge_rate, harmful_rate, gap, edge_rate_low, edge_rate_high, harmful_rate_low, harmful_rate_high`, only the α on the front, edge rate ascending.
pub(super) fn pareto(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in two_sided(grids) {
        rows.extend(front(grid, splits)?.into_iter().map(|point| (grid, point)));
    }
    let all = || rows.iter();
    let mut columns = vec![table::text(
        "source",
        all().map(|(grid, _)| grid.source.name()),
    )];
    columns.extend(place_columns(all().map(|(grid, _)| *grid)));
    columns.extend([
        table::numbers("alpha", all().map(|(_, point)| point.alpha).collect()),
        table::numbers(
            "edge_rate",
            all().map(|(_, point)| point.edge_rate).collect(),
        ),
        table::numbers(
            "harmful_rate",
            all().map(|(_, point)| point.harmful_rate).collect(),
        ),
        table::numbers("gap", all().map(|(_, point)| point.gap()).collect()),
    ]);
    let points: Vec<_> = all().map(|(grid, point)| (*grid, Some(*point))).collect();
    columns.extend(interval_columns("", &points, splits)?);
    table::frame(columns)
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
    let all = || rows.iter();
    let zero = all()
        .map(|(_, points)| points.zero.map(|point| point.gap()))
        .collect();
    let largest = all()
        .map(|(_, points)| points.gap.map(|point| point.gap()))
        .collect();
    let mut columns = vec![table::text(
        "source",
        all().map(|(grid, _)| grid.source.name()),
    )];
    columns.extend(place_columns(all().map(|(grid, _)| *grid)));
    columns.push(table::optional_numbers("gap_at_zero", zero));
    let points = |choose: fn(&Points) -> Option<RatePoint>| -> Vec<(&Grid, Option<RatePoint>)> {
        all()
            .map(|(grid, points)| (*grid, choose(points)))
            .collect()
    };
    let target = |name: &str, target: f64| table::numbers(name, vec![target; rows.len()]);
    columns.push(target("edge_target", targets.edge));
    let edge = points(|points| points.edge);
    columns.extend(point_columns("edge_target", &edge, splits)?);
    columns.push(target("harmful_target", targets.harmful));
    let harmful = points(|points| points.harmful);
    columns.extend(point_columns("harmful_target", &harmful, splits)?);
    columns.push(table::optional_numbers("largest_gap", largest));
    let gap = points(|points| points.gap);
    columns.extend(point_columns("largest_gap", &gap, splits)?);
    table::frame(columns)
}

/// The columns `alpha_at_<name>, edge_rate_at_<name>, harmful_rate_at_<name>` and the intervals of the two rates.
fn point_columns(
    name: &str,
    points: &[(&Grid, Option<RatePoint>)],
    splits: &Splits,
) -> Result<Vec<Column>, StageError> {
    let column = |what: &str, read: fn(RatePoint) -> f64| {
        let values = points.iter().map(|(_, point)| point.map(read)).collect();
        table::optional_numbers(&format!("{what}_at_{name}"), values)
    };
    let mut columns = vec![
        column("alpha", |point| point.alpha),
        column("edge_rate", |point| point.edge_rate),
        column("harmful_rate", |point| point.harmful_rate),
    ];
    columns.extend(interval_columns(&format!("_at_{name}"), points, splits)?);
    Ok(columns)
}

/// The columns `edge_rate<ending>_low, edge_rate<ending>_high`, and the same of `harmful_rate`, at points of grids.
fn interval_columns(
    ending: &str,
    points: &[(&Grid, Option<RatePoint>)],
    splits: &Splits,
) -> Result<Vec<Column>, StageError> {
    let mut columns = Vec::new();
    for (side, is_edge) in [("edge", true), ("harmful", false)] {
        let mut rates = Vec::new();
        for (grid, point) in points {
            let set = match is_edge {
                true => grid.source.edge_set(splits),
                false => splits.harmful.clone(),
            };
            let at = point.and_then(|point| grid.alphas.iter().position(|a| *a == point.alpha));
            rates.push(match at {
                Some(k) => describe::rate(grid, k, &set)?,
                None => None,
            });
        }
        let (low, high) = pool::ends(&rates);
        columns.push(table::optional_numbers(
            &format!("{side}_rate{ending}_low"),
            low,
        ));
        columns.push(table::optional_numbers(
            &format!("{side}_rate{ending}_high"),
            high,
        ));
    }
    Ok(columns)
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
