//! How far values that were computed again are from the stored ones.
//!
//! A value's drift is one number: of numbers the largest difference of any of them, relative to the largest of the stored ones by magnitude where
//! that is above 1 (scores and log-probabilities near 0 would otherwise make nothing of a rounding look like much); of a text the token at which it
//! first differs. Values of different kinds or lengths, and numbers of which only one is finite, cannot be compared, and differ.

use serde::Serialize;

use crate::model::Value;
use crate::stats::wide;

/// How a value that was computed again is to the stored one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Drift {
    /// To the bit.
    Same,
    /// Numbers: the largest difference, relative.
    By(f64),
    /// Texts: the first token that differs, or that only one of them has, from 0.
    FromToken(usize),
    /// Of another kind or length, or only one of two numbers finite.
    Incomparable,
}

/// What is said of the drifts of a stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) compared: u64,
    /// Bit-identical.
    pub(crate) same: u64,
    /// More than the tolerance apart; texts that differ at all.
    pub(crate) differing: u64,
    /// Of the differences of numbers, those that are none included; none where no numbers were compared.
    pub(crate) median: Option<f64>,
    /// The 99th percentile.
    pub(crate) most_of_all: Option<f64>,
    pub(crate) largest: Option<f64>,
    /// Texts that differ.
    pub(crate) texts_apart: u64,
    /// The earliest token at which a text differs.
    pub(crate) first_token: Option<usize>,
    /// Values that cannot be compared.
    pub(crate) incomparable: u64,
}

impl Drift {
    pub(crate) fn between(stored: &Value, computed: &Value) -> Self {
        if stored.to_bytes() == computed.to_bytes() {
            return Drift::Same;
        }
        match (stored, computed) {
            (Value::Score(stored), Value::Score(computed)) => relative(&[*stored], &[*computed]),
            (Value::LogProbabilities(stored), Value::LogProbabilities(computed))
            | (Value::Activation(stored), Value::Activation(computed)) => {
                relative(&wide(stored), &wide(computed))
            }
            (Value::Generation(stored), Value::Generation(computed)) => {
                let same = stored
                    .iter()
                    .zip(computed)
                    .take_while(|(one, other)| one == other);
                Drift::FromToken(same.count())
            }
            _ => Drift::Incomparable,
        }
    }

    /// Whether it is more than a tolerance allows; at 0 everything but the same bits is.
    pub(crate) fn is_beyond(&self, tolerance: f64) -> bool {
        match self {
            Drift::Same => false,
            // What is not a number is beyond everything.
            Drift::By(by) => {
                tolerance <= 0.0
                    || !matches!(by.partial_cmp(&tolerance), Some(order) if order.is_le())
            }
            Drift::FromToken(_) | Drift::Incomparable => true,
        }
    }
}

impl Summary {
    /// Of the drifts of some values, a drift counting as a difference beyond `tolerance`.
    pub(crate) fn of(drifts: &[Drift], tolerance: f64) -> Self {
        let count = |wanted: &dyn Fn(&Drift) -> bool| {
            drifts.iter().filter(|drift| wanted(drift)).count() as u64
        };
        let tokens = drifts.iter().filter_map(|drift| match drift {
            Drift::FromToken(token) => Some(*token),
            _ => None,
        });
        let numbers = drifts.iter().filter_map(|drift| match drift {
            Drift::Same => Some(0.0),
            Drift::By(by) => Some(*by),
            Drift::FromToken(_) | Drift::Incomparable => None,
        });
        let mut numbers: Vec<f64> = numbers.collect();
        numbers.sort_by(f64::total_cmp);
        // The smallest that so many percent of them do not exceed.
        let rank = |percent: usize| {
            numbers
                .get((numbers.len() * percent).div_ceil(100).saturating_sub(1))
                .copied()
        };
        Summary {
            compared: drifts.len() as u64,
            same: count(&|drift| *drift == Drift::Same),
            differing: count(&|drift| drift.is_beyond(tolerance)),
            median: rank(50),
            most_of_all: rank(99),
            largest: rank(100),
            texts_apart: tokens.clone().count() as u64,
            first_token: tokens.min(),
            incomparable: count(&|drift| *drift == Drift::Incomparable),
        }
    }
}

/// The largest difference over the largest stored magnitude, or over 1.
fn relative(stored: &[f64], computed: &[f64]) -> Drift {
    if stored.len() != computed.len() {
        return Drift::Incomparable;
    }
    let finite = stored.iter().filter(|value| value.is_finite());
    let scale = finite.fold(1.0f64, |scale, value| scale.max(value.abs()));
    let mut largest = 0.0f64;
    for (one, other) in stored.iter().zip(computed) {
        // Of −∞, which a log-probability may be, too.
        if one == other {
            continue;
        }
        if !one.is_finite() || !other.is_finite() {
            return Drift::Incomparable;
        }
        largest = largest.max((one - other).abs() / scale);
    }
    Drift::By(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(value: f64) -> Value {
        Value::Score(value)
    }

    #[test]
    fn by_hand() {
        let between = |one: &Value, other: &Value| Drift::between(one, other);
        assert_eq!(between(&score(0.5), &score(0.5)), Drift::Same);
        assert_eq!(between(&score(0.5), &score(0.25)), Drift::By(0.25));
        assert_eq!(between(&score(-4.0), &score(-5.0)), Drift::By(0.25));
        assert_eq!(between(&score(0.0), &score(-0.0)), Drift::By(0.0));
        let activation = |values: &[f32]| Value::Activation(values.to_vec());
        assert_eq!(
            between(&activation(&[8.0, 1.0]), &activation(&[8.0, 3.0])),
            Drift::By(0.25)
        );
        let logs = |values: &[f32]| Value::LogProbabilities(values.to_vec());
        let infinite = f32::NEG_INFINITY;
        assert_eq!(
            between(&logs(&[infinite, -2.0]), &logs(&[infinite, -1.0])),
            Drift::By(0.5)
        );
        assert_eq!(
            between(&logs(&[infinite]), &logs(&[-1.0])),
            Drift::Incomparable
        );
        assert_eq!(
            between(&activation(&[1.0]), &activation(&[1.0, 2.0])),
            Drift::Incomparable
        );
        assert_eq!(
            between(&activation(&[1.0]), &logs(&[1.0])),
            Drift::Incomparable
        );
        let text = |ids: &[u32]| Value::Generation(ids.to_vec());
        assert_eq!(
            between(&text(&[1, 2, 3]), &text(&[1, 4, 3])),
            Drift::FromToken(1)
        );
        assert_eq!(
            between(&text(&[1, 2]), &text(&[1, 2, 3])),
            Drift::FromToken(2)
        );
    }

    #[test]
    fn at_no_tolerance_only_the_same_bits_agree() {
        assert!(Drift::By(0.0).is_beyond(0.0) && !Drift::Same.is_beyond(0.0));
        assert!(Drift::By(f64::NAN).is_beyond(1e9) && Drift::Incomparable.is_beyond(1e9));
        assert!(!Drift::By(1e-6).is_beyond(1e-6) && Drift::By(1.1e-6).is_beyond(1e-6));
        assert!(Drift::FromToken(9).is_beyond(1.0));
    }

    #[test]
    fn a_stage_in_numbers() {
        let apart = Summary::of(&[Drift::Incomparable, Drift::Same], 1.0);
        let (counted, of_numbers) = (apart.incomparable, apart.largest);
        assert_eq!((counted, apart.differing, of_numbers), (1, 1, Some(0.0)));
        let mut drifts = vec![Drift::Same; 98];
        drifts.extend([
            Drift::By(1e-3),
            Drift::By(2e-3),
            Drift::FromToken(7),
            Drift::FromToken(4),
        ]);
        let summary = Summary::of(&drifts, 1e-3);
        let expected = Summary {
            compared: 102,
            same: 98,
            differing: 3,
            median: Some(0.0),
            most_of_all: Some(1e-3),
            largest: Some(2e-3),
            texts_apart: 2,
            first_token: Some(4),
            incomparable: 0,
        };
        assert_eq!(summary, expected);
        assert_eq!(Summary::of(&[], 0.0), Summary::default());
    }
}
