//! Tables over seeds: `controls` and `generalisation`.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats::{self, ControlRow, GeneralisationGap, MeanStd};

use super::data;
use super::grid::{Grid, Source, Splits, with_place};

/// Columns: `source, model, layer, site, alpha, seeds, edge_mean, edge_std, harmful_mean, harmful_std, gap_mean, gap_std`; deviations are
/// over seeds with ddof 1, blank for one seed. Edge is the held-out half for holdout, and all edge prompts for random.
pub(super) fn table(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    let is_control = |grid: &&Grid| matches!(grid.source, Source::Holdout | Source::Random);
    for grid in grids.iter().filter(is_control) {
        let of_grid = control_rows(grid, splits)?.into_iter();
        rows.extend(of_grid.map(|(alpha, row)| (grid, alpha, row)));
    }
    type Of = fn(&ControlRow) -> MeanStd;
    let measures: [(&str, Of); 3] = [
        ("edge", |row| row.edge),
        ("harmful", |row| row.harmful),
        ("gap", |row| row.gap),
    ];
    let table = Rows::of(&rows).text("source", |(grid, ..)| grid.source.name());
    let table = with_place(table, |(grid, ..)| grid)
        .number("alpha", |(_, alpha, _)| *alpha)
        .integer("seeds", |(grid, ..)| grid.lines.len() as i64);
    let table = measures.into_iter().fold(table, |table, (name, of)| {
        table
            .number(&format!("{name}_mean"), |(.., row)| of(row).mean)
            .number(&format!("{name}_std"), |(.., row)| of(row).std)
    });
    table.frame()
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
    with_place(Rows::of(&rows), |(grid, _)| grid)
        .integer("seeds", |(grid, _)| grid.lines.len() as i64)
        .number("gap_mean", |(_, gap)| gap.mean)
        .number("gap_max", |(_, gap)| gap.max)
        .frame()
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
