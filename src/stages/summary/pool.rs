//! Means and rates over rows that share prompts.
//!
//! A sweep over seeds scores one prompt many times, and those rows move together. The estimate pools all rows; the uncertainty is that
//! of the prompts. For means, prompts are resampled as clusters (Field & Welsh, "Bootstrapping clustered data", 2007), on each
//! prompt's linearised contribution, which is its mean where every prompt has as many rows. For rates, the Wilson interval takes
//! the number of distinct prompts for its n. With one row per prompt both are the usual ones.

use std::collections::HashMap;

use crate::stats::{self, Interval, StatsError};

/// How far apart numbers may be, as a share, that differ only in the order in which they were added.
const ROUNDING: f64 = 1e-12;

/// A number of one prompt, and how much it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) value: f64,
    /// Weight, above 0.
    pub(crate) weight: f64,
}

/// An estimate and its 95 % interval over prompts, where it has one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Estimate {
    pub(crate) value: f64,
    pub(crate) interval: Option<Interval>,
}

impl Estimate {
    pub(super) fn without_interval(value: f64) -> Self {
        let interval = None;
        Estimate { value, interval }
    }
}

/// The weighted mean of the observations, with the seeded percentile bootstrap interval that resamples prompts. With `m` the mean, `P`
/// prompts and `W` the sum of all weights, prompt i contributes `m + P / W · Σ w (v − m)` over its own observations: the mean of
/// the contributions is `m`, and resampling them is resampling prompts, to first order. One prompt, or prompts that are all alike,
/// have no interval. `None` without observations.
pub(super) fn mean(
    observations: &[Observation<'_>],
    seed: u64,
) -> Result<Option<Estimate>, StatsError> {
    let total: f64 = observations.iter().map(|o| o.weight).sum();
    if observations.is_empty() {
        return Ok(None);
    }
    let value = observations.iter().map(|o| o.weight * o.value).sum::<f64>() / total;
    let mut indices = HashMap::new();
    let mut deviations: Vec<f64> = Vec::new();
    for observation in observations {
        let index = *indices.entry(observation.prompt).or_insert_with(|| {
            deviations.push(0.0);
            deviations.len() - 1
        });
        deviations[index] += observation.weight * (observation.value - value);
    }
    let scale = deviations.len() as f64 / total;
    let contributions: Vec<f64> = deviations.iter().map(|d| value + scale * d).collect();
    let interval = stats::bootstrap_mean(&contributions, seed)?;
    // Where all are alike, nothing says how far others would be from them.
    let interval = interval.filter(|ends| ends.high - ends.low > ROUNDING * value.abs());
    Ok(Some(Estimate { value, interval }))
}

/// Counts behind a refusal rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(crate) rows: u64,
    pub(crate) refused: u64,
    pub(crate) prompts: u64,
}

impl Tally {
    /// The refusal rate over rows, with the Wilson interval of that rate among as many trials as there are prompts. Where the rate
    /// is no whole number of prompts, the interval's ends lie between those of the two whole numbers beside it, in proportion.
    /// `None` without rows.
    ///
    /// # Errors
    /// More refusals than rows.
    pub(super) fn rate(self) -> Result<Option<Estimate>, StatsError> {
        if self.rows == 0 {
            return Ok(None);
        }
        let scaled = self.refused * self.prompts;
        let whole = scaled / self.rows;
        let part = (scaled % self.rows) as f64 / self.rows as f64;
        let below = stats::wilson(whole, self.prompts)?;
        let above = stats::wilson(whole + u64::from(part > 0.0), self.prompts)?;
        let between = |low: f64, high: f64| low + part * (high - low);
        let interval = below.zip(above).map(|(below, above)| Interval {
            low: between(below.low, above.low),
            high: between(below.high, above.high),
        });
        let value = self.refused as f64 / self.rows as f64;
        Ok(Some(Estimate { value, interval }))
    }
}
