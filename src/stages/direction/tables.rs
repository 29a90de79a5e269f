//! Tables about directions.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats;

use super::extract::{Activations, Direction, difference_of_means};
use super::method::{How, Method};

/// How many shuffles of the labels the negative control makes.
const SHUFFLES: u64 = 20;

/// One row per direction.
pub(in crate::stages) fn describe(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let mut rows = Rows::of(directions)
        .text("model", |d| &d.model)
        .text("direction", |d| &d.label)
        .integer("seed", |d| d.seed.map(|seed| seed as i64))
        .integer("layer", |d| d.layer as i64)
        .text("site", |d| d.site.short_name());
    if are_placed(directions) {
        rows = rows
            .integer("position", |d| d.position)
            .text("token", token_of);
    }
    rows.integer("n_top", |d| d.top.len() as i64)
        .integer("n_bottom", |d| d.bottom.len() as i64)
        .number("top_score_low", |d| Some(d.top_scores?.0))
        .number("top_score_high", |d| Some(d.top_scores?.1))
        .number("bottom_score_low", |d| Some(d.bottom_scores?.0))
        .number("bottom_score_high", |d| Some(d.bottom_scores?.1))
        .number("pre_norm", |d| d.pre_norm)
        .number("resid_norm", |d| d.resid_norm)
        .number("pre_norm_over_resid_norm", |d| {
            Some(d.pre_norm / d.resid_norm?)
        })
        .frame()
}

fn token_of(direction: &Direction) -> &str {
    direction.token.as_deref().unwrap_or_default()
}

/// Whether the stage names other places than the last token.
fn are_placed(directions: &[Direction]) -> bool {
    directions.iter().any(Direction::is_placed)
}

/// The prompts behind each direction; of directions of several places those of the first.
pub(in crate::stages) fn members_of(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let position = directions.first().map(|direction| direction.position);
    let all = directions.iter().filter(|d| Some(d.position) == position);
    members(all.map(|d| (d.seed, Some(d.layer as u64), [&d.top, &d.bottom])))
}

/// The prompts behind directions, by seed, layer, and the ids of A and of B.
pub(in crate::stages) fn members<'a>(
    all: impl Iterator<Item = (Option<u64>, Option<u64>, [&'a Vec<String>; 2])>,
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for (seed, layer, groups) in all {
        for (group, ids) in ["top", "bottom"].into_iter().zip(groups) {
            let ranked = ids.iter().enumerate();
            rows.extend(ranked.map(|(rank, id)| (seed, layer, group, rank, id)));
        }
    }
    Rows::of(&rows)
        .integer("seed", |(seed, ..)| seed.map(|seed| seed as i64))
        .integer("layer", |(_, layer, ..)| layer.map(|layer| layer as i64))
        .text("group", |(_, _, group, ..)| group)
        .integer("rank", |(.., rank, _)| *rank as i64)
        .text("id", |(.., id)| id)
        .frame()
}

/// Cosine between every two directions.
pub(in crate::stages) fn cosines(directions: &[Direction]) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for (i, a) in directions.iter().enumerate() {
        for b in &directions[i..] {
            rows.push((a, b, cosine(a.vector.values(), b.vector.values())?));
        }
    }
    let is_placed = are_placed(directions);
    let mut table = Rows::of(&rows)
        .integer("seed_a", |(a, ..)| a.seed.map(|seed| seed as i64))
        .integer("layer_a", |(a, ..)| a.layer as i64);
    if is_placed {
        table = table
            .integer("position_a", |(a, ..)| a.position)
            .text("token_a", |(a, ..)| token_of(a));
    }
    table = table
        .integer("seed_b", |(_, b, _)| b.seed.map(|seed| seed as i64))
        .integer("layer_b", |(_, b, _)| b.layer as i64);
    if is_placed {
        table = table
            .integer("position_b", |(_, b, _)| b.position)
            .text("token_b", |(_, b, _)| token_of(b));
    }
    table.number("cosine", |(.., cosine)| *cosine).frame()
}

/// Cosine of two float32 vectors, in float64.
fn cosine(a: &[f32], b: &[f32]) -> Result<Option<f64>, StageError> {
    Ok(stats::cosine(&stats::wide(a), &stats::wide(b))?)
}

/// The negative control: the same difference of means with the labels of A and B shuffled. A real direction has a larger norm than these
/// and little in common with them.
pub(super) fn shuffled(
    how: &How,
    directions: &[Direction],
    activations: &[Activations],
) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    let at = |d: &Direction| {
        let mut places = activations.iter();
        places.find(|at| at.layer == d.layer && at.position == d.position)
    };
    let places = directions.iter().filter_map(|d| Some((d, at(d)?)));
    for (direction, at_layer) in places {
        let all: Vec<&Vec<f32>> = at_layer.top.iter().chain(&at_layer.bottom).collect();
        let orders = (0..SHUFFLES).map(|seed| shuffle(all.len(), seed));
        if how.method != Method::MeanDifference {
            let orders: Vec<Vec<usize>> = orders.collect();
            let found = how.shuffled(&at_layer.top, &at_layer.bottom, &orders);
            let found = found.map_err(StageError::Data)?;
            let numbered = found.into_iter().zip(0..);
            rows.extend(numbered.map(|((norm, cosine), seed)| (direction, seed, norm, cosine)));
            continue;
        }
        for (order, seed) in orders.zip(0..) {
            let pick = |range: &[usize]| range.iter().map(|&i| all[i].clone()).collect::<Vec<_>>();
            let (top, bottom) = order.split_at(at_layer.top.len());
            // Two groups that happen not to differ have no direction: norm 0, no cosine.
            let (pre_norm, cosine) = match difference_of_means(&pick(top), &pick(bottom)) {
                Ok(Some((vector, norm))) => (norm, cosine(&vector, direction.vector.values())?),
                _ => (0.0, None),
            };
            rows.push((direction, seed, pre_norm, cosine));
        }
    }
    let mut table = Rows::of(&rows).integer("layer", |(at, ..)| at.layer as i64);
    if are_placed(directions) {
        table = table
            .integer("position", |(at, ..)| at.position)
            .text("token", |(at, ..)| token_of(at));
    }
    table
        .integer("shuffle", |(_, shuffle, ..)| *shuffle as i64)
        .number("pre_norm", |(.., pre_norm, _)| *pre_norm)
        .number("cosine", |(.., cosine)| *cosine)
        .frame()
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
