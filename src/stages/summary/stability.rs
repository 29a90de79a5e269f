//! `direction_cosines`: is it one direction? Cosines between the holdout directions, over pairs of seeds, by pair of layers.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::{self, Rows};

/// Columns: `layer_a, layer_b, pairs, cosine_mean, cosine_low, cosine_high`; the last two are the smallest and the largest. Of one layer the pairs
/// are of different seeds; of two layers they are of the same seed.
pub(super) fn table(cosines: &DataFrame) -> Result<DataFrame, StageError> {
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
        let seeds = |list: &[u64]| list.iter().copied().map(Some).collect::<Vec<_>>();
        // Seeds 0, 1, 2 at layer 3, and seeds 0, 1 at layer 4.
        let cosines = table::frame(vec![
            table::optional_integers("seed_a", seeds(&[0, 0, 0, 1, 0, 1, 0])),
            table::integers("layer_a", [3, 3, 3, 3, 3, 3, 3]),
            table::optional_integers("seed_b", seeds(&[0, 1, 2, 2, 0, 1, 1])),
            table::integers("layer_b", [3, 3, 3, 3, 4, 4, 4]),
            table::numbers("cosine", vec![1.0, 0.5, 0.75, 1.0, 0.25, 0.75, 0.0]),
        ]);
        let found = super::table(&cosines.unwrap()).unwrap();
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
