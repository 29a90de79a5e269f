//! `direction_cosines`: is it one direction? Cosines between the holdout directions, over pairs of seeds, by pair of layers.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};

/// Columns: `layer_a, layer_b, pairs, cosine_mean, cosine_low, cosine_high`; the last two are the smallest and the largest. Of one layer the pairs
/// are of different seeds; of two layers they are of the same seed.
pub(super) fn table(cosines: &DataFrame) -> Result<DataFrame, StageError> {
    let integers = |name| table::read_integers(cosines, name);
    let (seeds_a, seeds_b) = (integers("seed_a")?, integers("seed_b")?);
    let (layers_a, layers_b) = (integers("layer_a")?, integers("layer_b")?);
    let values = cosines.column("cosine")?.f64()?;
    let mut groups: BTreeMap<(i64, i64), Vec<f64>> = BTreeMap::new();
    for (row, value) in values.iter().enumerate() {
        let (Some(a), Some(b), Some(value)) = (layers_a[row], layers_b[row], value) else {
            continue;
        };
        if (a == b) != (seeds_a[row] == seeds_b[row]) {
            groups.entry((a, b)).or_default().push(value);
        }
    }
    let all = || groups.iter();
    let layer = |layer: i64| usize::try_from(layer).unwrap_or_default();
    let column = |name: &str, of: fn(&[f64]) -> f64| {
        table::numbers(name, all().map(|(_, values)| of(values)).collect())
    };
    table::frame(vec![
        table::integers("layer_a", all().map(|((a, _), _)| layer(*a))),
        table::integers("layer_b", all().map(|((_, b), _)| layer(*b))),
        table::integers("pairs", all().map(|(_, values)| values.len())),
        column("cosine_mean", |v| v.iter().sum::<f64>() / v.len() as f64),
        column("cosine_low", |v| {
            v.iter().copied().fold(f64::INFINITY, f64::min)
        }),
        column("cosine_high", |v| {
            v.iter().copied().fold(f64::NEG_INFINITY, f64::max)
        }),
    ])
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
