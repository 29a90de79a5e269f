//! Tables over seeds: `controls`, `generalisation` and `direction_cosines`.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::{self, Rows};
use crate::stats::{self, ControlRow, GeneralisationGap};

use super::grid::{Grid, Source, Splits, of_sources, with_place};

/// Columns: `source, model, layer, site, alpha, seeds, edge_mean, edge_std, harmful_mean, harmful_std, gap_mean, gap_std`; deviations are
/// over seeds with ddof 1, blank for one seed. Edge is the held-out half for holdout, and all edge prompts for random.
pub(super) fn table(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    let is_control = |grid: &&Grid| matches!(grid.source, Source::Holdout | Source::Random);
    for grid in grids.iter().filter(is_control) {
        let of_grid = control_rows(grid, splits)?.into_iter();
        rows.extend(of_grid.map(|(alpha, row)| (grid, alpha, row)));
    }
    of_sources(&rows, |(grid, ..)| grid)
        .number("alpha", |(_, alpha, _)| *alpha)
        .integer("seeds", |(grid, ..)| grid.lines.len() as i64)
        .number("edge_mean", |(.., row)| row.edge.mean)
        .number("edge_std", |(.., row)| row.edge.std)
        .number("harmful_mean", |(.., row)| row.harmful.mean)
        .number("harmful_std", |(.., row)| row.harmful.std)
        .number("gap_mean", |(.., row)| row.gap.mean)
        .number("gap_std", |(.., row)| row.gap.std)
        .frame()
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
        rows.extend(stats::control_row(&edge, &harmful)?.map(|row| (alpha, row)));
    }
    Ok(rows)
}

/// Columns: `model, layer, site, seeds, gap_mean, gap_max`: mean and maximum over α of |seed-mean holdout rate − seed-mean train rate| on
/// edge prompts.
pub(super) fn generalisation(grids: &[Grid], splits: &Splits) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    let is_divided = |grid: &&Grid| {
        let held_out = Splits::held_out(&splits.edge);
        grid.source == Source::Holdout && grid.set_of(&splits.edge) == held_out
    };
    for grid in grids.iter().filter(is_divided) {
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
    let holdout = grid.set_rates(&Splits::held_out(&splits.edge))?;
    Ok(stats::generalisation_gap(&train, &holdout)?)
}

/// Is it one direction? Cosines between the holdout directions, over pairs of seeds, by pair of layers. Columns: `layer_a, layer_b, pairs,
/// cosine_mean, cosine_low, cosine_high`; the last two are the smallest and the largest. Of one layer the pairs are of different seeds; of
/// two layers they are of the same seed.
pub(super) fn direction_cosines(cosines: &DataFrame) -> Result<DataFrame, StageError> {
    let integers = |name| table::read_integers(cosines, name);
    let (seeds_a, seeds_b) = (integers("seed_a")?, integers("seed_b")?);
    let (layers_a, layers_b) = (integers("layer_a")?, integers("layer_b")?);
    let cosine = cosines.column("cosine")?.f64()?;
    let mut rows: Vec<(i64, i64, Vec<f64>)> = Vec::new();
    for group in table::groups(cosines, &["layer_a", "layer_b"])? {
        let (Some(a), Some(b)) = (layers_a[group[0]], layers_b[group[0]]) else {
            continue;
        };
        let is_pair = |row: &usize| (a == b) != (seeds_a[*row] == seeds_b[*row]);
        let pairs = group.into_iter().filter(is_pair);
        let values: Vec<f64> = pairs.filter_map(|row| cosine.get(row)).collect();
        if !values.is_empty() {
            rows.push((a, b, values));
        }
    }
    rows.sort_by_key(|(a, b, _)| (*a, *b));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let end = |values: &[f64], of: fn(f64, f64) -> f64| values.iter().copied().reduce(of);
    Rows::of(&rows)
        .integer("layer_a", |(a, ..)| *a)
        .integer("layer_b", |(_, b, _)| *b)
        .integer("pairs", |(.., values)| values.len() as i64)
        .number("cosine_mean", |(.., values)| mean(values))
        .number("cosine_low", |(.., values)| end(values, f64::min))
        .number("cosine_high", |(.., values)| end(values, f64::max))
        .frame()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_within_a_layer_and_layers_within_a_seed() {
        // Seeds 0, 1, 2 at layer 3, and seeds 0, 1 at layer 4.
        let rows = [
            ((0, 3), (0, 3), 1.0),
            ((0, 3), (1, 3), 0.5),
            ((0, 3), (2, 3), 0.75),
            ((1, 3), (2, 3), 1.0),
            ((0, 3), (0, 4), 0.25),
            ((1, 3), (1, 4), 0.75),
            ((0, 3), (1, 4), 0.0),
        ];
        let cosines = Rows::of(&rows)
            .integer("seed_a", |(a, ..)| a.0)
            .integer("layer_a", |(a, ..)| a.1)
            .integer("seed_b", |(_, b, _)| b.0)
            .integer("layer_b", |(_, b, _)| b.1)
            .number("cosine", |(.., cosine)| *cosine);
        let found = direction_cosines(&cosines.frame().unwrap()).unwrap();
        let numbers = |name| table::read_numbers(&found, name).unwrap();
        assert_eq!(
            table::read_integers(&found, "pairs").unwrap(),
            [Some(3), Some(2)]
        );
        assert_eq!(numbers("cosine_mean"), [0.75, 0.5]);
        assert_eq!(numbers("cosine_low"), [0.5, 0.25]);
        assert_eq!(numbers("cosine_high"), [1.0, 0.75]);
    }
}
