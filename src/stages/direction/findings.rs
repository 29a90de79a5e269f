//! Directions that are directions by name only.

use super::Direction;
use super::extract::place_told;

/// Groups whose means differ by less than this share of the activations' mean length hardly differ: real directions have some hundredths of it
/// or more, the rounding of float32 a ten-millionth, and α moves the stream along whatever is in between.
const LEAST_SHARE: f64 = 1e-3;
/// A coordinate with more than this share of a direction's squared length carries it.
const MOST_OF_ONE: f64 = 0.5;
/// Directions named in a sentence; the rest are counted.
const NAMED: usize = 5;

/// What to say of directions that are too short for their stream, and of those that one coordinate carries.
pub(in crate::stages) fn findings(directions: &[Direction]) -> Vec<String> {
    let short = directions.iter().filter_map(|direction| {
        let share = direction.pre_norm / direction.resid_norm?;
        (share < LEAST_SHARE).then(|| format!("{} ({share:.1e})", place(direction)))
    });
    let short = listed(short.collect()).map(|places| {
        format!(
            "the two groups hardly differ at {places}: the difference of their means is less than {LEAST_SHARE} of the activations' mean length, so that α moves the stream along little more than rounding"
        )
    });
    let carried = directions.iter().filter_map(|direction| {
        let (coordinate, share) = largest(direction.vector.values())?;
        (share > MOST_OF_ONE).then(|| {
            let percent = (share * 100.0).round();
            format!("{} ({percent} % in number {coordinate})", place(direction))
        })
    });
    let carried = listed(carried.collect()).map(|places| {
        format!(
            "one coordinate carries the direction at {places}: it holds more than {:.0} % of the squared length, as an outlier of the model's stream does whatever the prompts are",
            MOST_OF_ONE * 100.0
        )
    });
    short.into_iter().chain(carried).collect()
}

fn place(direction: &Direction) -> String {
    let seed = direction.seed.map(|seed| format!(", seed {seed}"));
    let is_told = direction.is_placed();
    let position = is_told.then(|| format!(", {}", place_told(direction.position)));
    let more = [seed, position].into_iter().flatten();
    format!("layer {}{}", direction.layer, more.collect::<String>())
}

/// The first of some places, and the number of the others; none where there is none.
fn listed(places: Vec<String>) -> Option<String> {
    let named = places.chunks(NAMED).next()?.join("; ");
    Some(match places.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    })
}

/// The coordinate with the largest share of the squared length, from 0, and that share.
fn largest(vector: &[f32]) -> Option<(usize, f64)> {
    let square = |value: &f32| f64::from(*value).powi(2);
    let total: f64 = vector.iter().map(square).sum();
    let largest = vector.iter().map(square).enumerate();
    let (coordinate, largest) = largest.max_by(|a, b| a.1.total_cmp(&b.1))?;
    (total > 0.0).then(|| (coordinate, largest / total))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::model::{Site, Vector};

    use super::*;

    fn direction(layer: usize, vector: &[f32], (pre_norm, resid_norm): (f64, f64)) -> Direction {
        Direction {
            label: "top_bottom_1".to_string(),
            seed: None,
            model: "m".to_string(),
            fingerprint: String::new(),
            layer,
            site: Site::ResidPre,
            position: Some(-1),
            token: None,
            affine: None,
            vector: Arc::new(Vector::new(vector.to_vec())),
            pre_norm,
            resid_norm: Some(resid_norm),
            top: Vec::new(),
            bottom: Vec::new(),
            top_scores: None,
            bottom_scores: None,
            builders: Arc::default(),
        }
    }

    #[test]
    fn a_direction_of_rounding_is_told() {
        let even = [0.5; 4];
        assert!(findings(&[direction(1, &even, (0.1, 99.0))]).is_empty());
        let told = findings(&[
            direction(0, &even, (1e-5, 100.0)),
            direction(1, &even, (10.0, 100.0)),
        ]);
        let [told] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert!(told.contains("at layer 0 (1.0e-7):"), "{told}");
    }

    #[test]
    fn a_direction_that_one_coordinate_carries_is_told() {
        let half = [0.5_f32.sqrt(), 0.5_f32.sqrt(), 0.0];
        assert!(findings(&[direction(0, &half, (1.0, 1.0))]).is_empty());
        let mut one = direction(3, &[0.6, -0.8, 0.0], (1.0, 1.0));
        one.seed = Some(7);
        let told = findings(&[one]);
        assert!(
            told[0].contains("at layer 3, seed 7 (64 % in number 1):"),
            "{told:?}"
        );
    }

    #[test]
    fn many_places_are_counted() {
        let all: Vec<Direction> = (0..8).map(|l| direction(l, &[1.0], (0.0, 1.0))).collect();
        let told = findings(&all);
        assert_eq!(told.len(), 2);
        assert!(told[0].contains("layer 4 (0.0e0) and 3 more:"), "{told:?}");
    }
}
