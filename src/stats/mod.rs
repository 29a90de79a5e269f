//! The statistics of a study: numbers in, numbers out, no files, models or tables.
//!
//! | file | what it holds |
//! |---|---|
//! | `describe` | mean, standard deviation, percentile, Wilson interval, Newcombe's for a difference |
//! | `bootstrap` | seeded percentile bootstrap of a mean |
//! | `selection` | which prompts build a direction |
//! | `holdout` | the hash that assigns a prompt to train or holdout |
//! | `slope` | least-squares slope of score on alpha, with its interval |
//! | `sweep` | Pareto front, operating points, control table, generalisation gap |
//! | `significance` | a learned direction against random ones |
//! | `agreement` | Cohen's kappa, cosine |
//!
//! Two rules hold throughout. A value that cannot be computed (an empty set, no variance) is `None`, a blank cell in a table. A
//! value that is not finite is a [`StatsError`] that says where it stood, so that NaN never passes silently into a table.

mod agreement;
mod bootstrap;
mod describe;
mod holdout;
mod selection;
mod significance;
mod slope;
mod sweep;

pub(crate) use agreement::{cohens_kappa, cosine};
pub(crate) use bootstrap::{BOOTSTRAP_RESAMPLES, bootstrap_mean};
pub(crate) use describe::{mean, newcombe, std, wilson};
pub(crate) use holdout::holdout_split;
pub(crate) use selection::{Selection, top_bottom, top_bottom_descending};
pub(crate) use significance::{EmpiricalP, empirical_p, z_score};
pub(crate) use slope::{ols_slope, per_prompt_slopes};
pub(crate) use sweep::{
    ControlRow, GeneralisationGap, MeanStd, RatePoint, Targets, control_row, generalisation_gap,
    operating_points, pareto_front,
};

use std::fmt;

/// A closed interval `[low, high]`, in the units of the quantity it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl Interval {
    /// Whether `value` lies strictly outside the interval.
    pub(crate) fn excludes(&self, value: f64) -> bool {
        value < self.low || value > self.high
    }
}

/// Why a statistic could not be computed from the numbers given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StatsError {
    /// A NaN or an infinity among the numbers.
    NonFinite {
        /// What the numbers are, such as `scores`.
        what: &'static str,
        /// Position of the first such number, from 0.
        index: usize,
        /// The number itself.
        value: f64,
    },
    /// Two lists that go together differ in length.
    LengthMismatch {
        /// What the checked list is.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        expected: usize,
    },
    /// More prompts are wanted at each end of a ranking than there are, or none.
    SelectionSize {
        /// Prompts wanted at each end.
        wanted: usize,
        /// Prompts available.
        available: usize,
    },
    /// A count of successes larger than the number of trials.
    CountExceedsTotal {
        /// Successes.
        count: u64,
        /// Trials.
        total: u64,
    },
    /// An error in one row of a table.
    InRow {
        /// What a row is, such as `prompt`.
        row: &'static str,
        /// Position of the row, from 0.
        index: usize,
        /// What is wrong in it.
        error: Box<StatsError>,
    },
}

impl fmt::Display for StatsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFinite { what, index, value } => write!(
                f,
                "`{value}` at index {index} of {what}: expected a finite number; find the step that produced it"
            ),
            Self::LengthMismatch {
                what,
                found,
                expected,
            } => write!(
                f,
                "{what} has `{found}` values: expected {expected}; give one value for each"
            ),
            Self::SelectionSize {
                wanted: 0,
                available,
            } => write!(
                f,
                "n = `0` prompts at each end of the ranking: expected 1 to {available}; raise n"
            ),
            Self::SelectionSize { wanted, available } => write!(
                f,
                "n = `{wanted}` prompts at each end of the ranking, but there are only {available}: lower n or add prompts"
            ),
            Self::CountExceedsTotal { count, total } => write!(
                f,
                "count `{count}` out of {total}: expected at most {total}; check how the two were counted"
            ),
            Self::InRow { row, index, error } => write!(f, "in {row} {index}: {error}"),
        }
    }
}

impl std::error::Error for StatsError {}

/// Passes when every value is finite; otherwise an error naming the first that is not.
fn require_finite(what: &'static str, values: &[f64]) -> Result<(), StatsError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(StatsError::NonFinite {
            what,
            index,
            value: values[index],
        }),
    }
}

/// Passes when `found` equals `expected`.
fn require_length(what: &'static str, found: usize, expected: usize) -> Result<(), StatsError> {
    if found == expected {
        return Ok(());
    }
    Err(StatsError::LengthMismatch {
        what,
        found,
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_excludes_only_what_lies_strictly_outside() {
        let interval = Interval {
            low: 0.0,
            high: 1.0,
        };
        assert!(!interval.excludes(0.0) && !interval.excludes(1.0) && !interval.excludes(0.5));
        assert!(interval.excludes(-1e-9) && interval.excludes(1.1));
    }

    #[test]
    fn messages_name_the_value_and_the_place() {
        let nan = require_finite("scores", &[1.0, f64::NAN, f64::INFINITY]).unwrap_err();
        assert_eq!(
            nan.to_string(),
            "`NaN` at index 1 of scores: expected a finite number; find the step that produced it"
        );
        let size = StatsError::SelectionSize {
            wanted: 30,
            available: 12,
        };
        assert_eq!(
            size.to_string(),
            "n = `30` prompts at each end of the ranking, but there are only 12: lower n or add prompts"
        );
        let length = require_length("y", 2, 3).unwrap_err();
        assert_eq!(
            length.to_string(),
            "y has `2` values: expected 3; give one value for each"
        );
    }
}
