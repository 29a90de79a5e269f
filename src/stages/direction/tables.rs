//! Tables about directions.

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};
use crate::stats;

use super::extract::{Activations, Direction, difference_of_means};

/// How many shuffles of the labels the negative control makes.
const SHUFFLES: u64 = 20;

/// One row per direction.
pub(in crate::stages) fn describe(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let all = || directions.iter();
    table::frame(vec![
        table::text("model", all().map(|d| &d.model)),
        table::text("direction", all().map(|d| &d.label)),
        table::optional_integers("seed", all().map(|d| d.seed)),
        table::integers("layer", all().map(|d| d.layer)),
        table::text("site", all().map(|d| d.site.short_name())),
        table::integers("n_top", all().map(|d| d.top.len())),
        table::integers("n_bottom", all().map(|d| d.bottom.len())),
        table::numbers("top_score_low", all().map(|d| d.top_scores.0).collect()),
        table::numbers("top_score_high", all().map(|d| d.top_scores.1).collect()),
        table::numbers(
            "bottom_score_low",
            all().map(|d| d.bottom_scores.0).collect(),
        ),
        table::numbers(
            "bottom_score_high",
            all().map(|d| d.bottom_scores.1).collect(),
        ),
        table::numbers("pre_norm", all().map(|d| d.pre_norm).collect()),
        table::numbers("resid_norm", all().map(|d| d.resid_norm).collect()),
        table::numbers(
            "pre_norm_over_resid_norm",
            all().map(|d| d.pre_norm / d.resid_norm).collect(),
        ),
    ])
}

/// The prompts behind each direction.
pub(in crate::stages) fn members(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let mut rows: Vec<(&Direction, &str, usize, &String)> = Vec::new();
    for direction in directions {
        for (group, ids) in [("top", &direction.top), ("bottom", &direction.bottom)] {
            let ranked = ids.iter().enumerate();
            rows.extend(ranked.map(|(rank, id)| (direction, group, rank, id)));
        }
    }
    table::frame(vec![
        table::optional_integers("seed", rows.iter().map(|r| r.0.seed)),
        table::integers("layer", rows.iter().map(|r| r.0.layer)),
        table::text("group", rows.iter().map(|r| r.1)),
        table::integers("rank", rows.iter().map(|r| r.2)),
        table::text("id", rows.iter().map(|r| r.3)),
    ])
}

/// Cosine between every two directions.
pub(in crate::stages) fn cosines(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let each = directions.iter().enumerate();
    let pairs = each.flat_map(|(i, a)| directions[i..].iter().map(move |b| (a, b)));
    let pairs: Vec<(&Direction, &Direction)> = pairs.collect();
    let values = pairs.iter();
    let values = values.map(|(a, b)| cosine(a.vector.values(), b.vector.values()));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    table::frame(vec![
        table::optional_integers("seed_a", pairs.iter().map(|(a, _)| a.seed)),
        table::integers("layer_a", pairs.iter().map(|(a, _)| a.layer)),
        table::optional_integers("seed_b", pairs.iter().map(|(_, b)| b.seed)),
        table::integers("layer_b", pairs.iter().map(|(_, b)| b.layer)),
        table::optional_numbers("cosine", values),
    ])
}

/// Cosine of two float32 vectors, in float64.
fn cosine(a: &[f32], b: &[f32]) -> Result<Option<f64>, StageError> {
    let wide = |v: &[f32]| v.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
    stats::cosine(&wide(a), &wide(b)).map_err(|error| StageError::Data(error.to_string()))
}

/// The negative control: the same difference of means with the labels of A and B shuffled. A real direction has a larger norm than these
/// and little in common with them.
pub(super) fn shuffled(
    directions: &[Direction],
    activations: &[Activations],
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    let at = |layer: usize| activations.iter().find(|at_layer| at_layer.layer == layer);
    let places = directions.iter().filter_map(|d| Some((d, at(d.layer)?)));
    for (direction, at_layer) in places {
        let all: Vec<&Vec<f32>> = at_layer.top.iter().chain(&at_layer.bottom).collect();
        for seed in 0..SHUFFLES {
            let order = shuffle(all.len(), seed);
            let pick = |range: &[usize]| range.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
            let (top, bottom) = order.split_at(at_layer.top.len());
            // Two groups that happen not to differ have no direction: norm 0, no cosine.
            let (pre_norm, cosine) = match difference_of_means(&pick(top), &pick(bottom)) {
                Ok(Some((vector, norm))) => (norm, cosine(&vector, direction.vector.values())?),
                _ => (0.0, None),
            };
            rows.push((at_layer.layer, seed, pre_norm, cosine));
        }
    }
    table::frame(vec![
        table::integers("layer", rows.iter().map(|r| r.0)),
        table::integers("shuffle", rows.iter().map(|r| r.1 as usize)),
        table::numbers("pre_norm", rows.iter().map(|r| r.2).collect()),
        table::optional_numbers("cosine", rows.iter().map(|r| r.3).collect()),
    ])
}

/// A permutation of 0..n that depends on (n, seed) alone: indices sorted by blake3(seed, index).
fn shuffle(n: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|&i| {
        let mut hasher = blake3::Hasher::new_derive_key("dial shuffle");
        let hasher = hasher.update(&seed.to_le_bytes());
        let hasher = hasher.update(&(i as u64).to_le_bytes());
        *hasher.finalize().as_bytes()
    });
    order
}

#[cfg(test)]
mod tests {
    use super::shuffle;

    #[test]
    fn a_shuffle_is_a_permutation_that_its_seed_decides() {
        let mut order = shuffle(60, 3);
        assert_eq!(order, shuffle(60, 3));
        assert_ne!(order, shuffle(60, 4));
        assert_ne!(order, (0..60).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..60).collect::<Vec<_>>());
    }
}
