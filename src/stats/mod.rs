//! The statistics of a study: numbers in, numbers out, no files, models or tables.
//!
//! | file | what it holds |
//! |---|---|
//! | `describe` | mean, standard deviation, percentile, Wilson interval, Newcombe's for a difference |
//! | `bootstrap` | seeded percentile bootstrap of a mean, and of a ratio of sums |
//! | `selection` | which prompts build a direction |
//! | `holdout` | the hash that assigns a prompt to train or holdout |
//! | `slope` | least-squares slope of score on alpha, with its interval |
//! | `sweep` | Pareto front, operating points, control table, generalisation gap |
//! | `significance` | a learned direction against random ones |
//! | `agreement` | Cohen's kappa with its interval, AUROC, cosine |
//! | `threshold` | a threshold between two classes, precision, recall, F1 |
//! | `paired` | McNemar's exact test of two answers to the same questions |
//! | `hypergeometric` | how many values differ at most, when some were drawn |
//!
//! Two rules hold throughout. A value that cannot be computed (an empty set, no variance) is `None`, a blank cell in a table. A
//! value that is not finite is a [`StatsError`] that says where it stood, so that NaN never passes silently into a table; so are lists
//! that go together and differ in length.

mod agreement;
mod bootstrap;
mod describe;
mod holdout;
mod hypergeometric;
mod paired;
mod selection;
mod significance;
mod slope;
mod sweep;
mod threshold;

pub(crate) use agreement::{
    auroc, auroc_interval, cohens_kappa, cosine, kappa_interval, together, wide,
};
pub(crate) use bootstrap::{BOOTSTRAP_RESAMPLES, bootstrap_mean, bootstrap_ratio};
pub(crate) use describe::{mean, newcombe, percentile, std, wilson};
pub(crate) use holdout::{holdout_split, is_holdout};
pub(crate) use hypergeometric::{Draw, at_most_in_all};
pub(crate) use paired::mcnemar;
pub(crate) use selection::{Selection, top_bottom, top_bottom_descending};
pub(crate) use significance::{EmpiricalP, empirical_p, z_score};
pub(crate) use slope::{ols_slope, per_prompt_slopes};
pub(crate) use sweep::{
    ControlRow, GeneralisationGap, RatePoint, Targets, control_row, generalisation_gap,
    operating_points, pareto_front,
};
pub(crate) use threshold::{Counts, Threshold, best_threshold, f1_interval};

use std::fmt;

/// A closed interval `[low, high]`, in the units of the quantity it belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Why a statistic could not be computed from the numbers given: what was found where, and what was expected.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StatsError(String);

impl StatsError {
    /// An error in one row of a table, by its position from 0.
    fn in_row(self, row: &str, index: usize) -> Self {
        Self(format!("in {row} {index}: {self}"))
    }
}

impl fmt::Display for StatsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Passes when every value is finite; otherwise an error naming the first that is not. `what` the values are, such as `scores`.
fn require_finite(what: &str, values: &[f64]) -> Result<(), StatsError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(StatsError(format!(
            "`{}` at index {index} of {what}: expected a finite number; find the step that produced it",
            values[index]
        ))),
    }
}

fn require_length(what: &str, found: usize, expected: usize) -> Result<(), StatsError> {
    match found == expected {
        true => Ok(()),
        false => Err(StatsError(format!(
            "{what} has `{found}` values: expected {expected}; give one value for each"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_value_and_the_place() {
        let nan = require_finite("scores", &[1.0, f64::NAN, f64::INFINITY]).unwrap_err();
        assert_eq!(
            nan.to_string(),
            "`NaN` at index 1 of scores: expected a finite number; find the step that produced it"
        );
        let size = top_bottom(&[0.0; 12], 30).unwrap_err();
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
