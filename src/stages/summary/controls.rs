//! Tables over seeds: `controls` and `generalisation`.

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};
use crate::stats::{self, ControlRow, GeneralisationGap, MeanStd};

use super::data;
use super::grid::{Grid, Source, Splits, place_columns};

/// Columns: `source, model, layer, site, alpha, seeds, edge_mean, edge_std, harmful_mean, harmful_std, gap_mean, gap_std`; deviations are
/// over seeds with ddof 1, blank for one seed. Edge is the held-out half for holdout, and all edge prompts for random.
pub(super) fn table(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in grids
        .iter()
        .filter(|grid| matches!(grid.source, Source::Holdout | Source::Random))
    {
        rows.extend(
            control_rows(grid, splits)?
                .into_iter()
                .map(|(alpha, row)| (grid, alpha, row)),
        );
    }
    let all = || rows.iter();
    let mut columns = vec![table::text(
        "source",
        all().map(|(grid, ..)| grid.source.name()),
    )];
    columns.extend(place_columns(all().map(|(grid, ..)| *grid)));
    columns.push(table::numbers(
        "alpha",
        all().map(|(_, alpha, _)| *alpha).collect(),
    ));
    columns.push(table::integers(
        "seeds",
        all().map(|(grid, ..)| grid.lines.len()),
    ));
    let mut measure = |name: &str, of: fn(&ControlRow) -> MeanStd| {
        let (means, stds) = all().map(|(.., row)| (of(row).mean, of(row).std)).unzip();
        columns.push(table::numbers(&format!("{name}_mean"), means));
        columns.push(table::optional_numbers(&format!("{name}_std"), stds));
    };
    measure("edge", |row| row.edge);
    measure("harmful", |row| row.harmful);
    measure("gap", |row| row.gap);
    table::frame(columns)
}

/// Each α with its rates over seeds.
pub(super) fn control_rows(
    grid: &Grid,
    splits: &Splits,
) -> Result<Vec<(f64, ControlRow)>, StageError> {
    let rates = grid.rates(splits)?;
    let mut rows = Vec::new();
    for (k, &alpha) in grid.alphas.iter().enumerate() {
        let edge: Vec<f64> = rates.iter().map(|rates| rates.edge[k]).collect();
        let harmful: Vec<f64> = rates.iter().map(|rates| rates.harmful[k]).collect();
        rows.extend(
            stats::control_row(&edge, &harmful)
                .map_err(data)?
                .map(|row| (alpha, row)),
        );
    }
    Ok(rows)
}

/// Columns: `model, layer, site, seeds, gap_mean, gap_max`: mean and maximum over α of |seed-mean holdout rate − seed-mean train rate| on
/// edge prompts.
pub(super) fn generalisation(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for grid in grids.iter().filter(|grid| grid.source == Source::Holdout) {
        rows.extend(generalisation_gap(grid, splits)?.map(|gap| (grid, gap)));
    }
    let all = || rows.iter();
    let mut columns = place_columns(all().map(|(grid, _)| *grid));
    columns.extend([
        table::integers("seeds", all().map(|(grid, _)| grid.lines.len())),
        table::numbers("gap_mean", all().map(|(_, gap)| gap.mean).collect()),
        table::numbers("gap_max", all().map(|(_, gap)| gap.max).collect()),
    ]);
    table::frame(columns)
}

/// How far held-out edge rates lie from training ones.
pub(super) fn generalisation_gap(
    grid: &Grid,
    splits: &Splits,
) -> Result<Option<GeneralisationGap>, StageError> {
    let train = grid.set_rates(&format!("{}_train", splits.edge))?;
    let holdout = grid.set_rates(&Source::Holdout.edge_set(splits))?;
    stats::generalisation_gap(&train, &holdout).map_err(data)
}
