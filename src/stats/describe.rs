//! Summaries of one list of numbers.

use super::{Interval, StatsError, require_finite};

/// The 97.5th percentile of the standard normal, for two-sided 95 % intervals.
const Z_95: f64 = 1.959963984540054;

/// Arithmetic mean; `None` for an empty list.
pub(crate) fn mean(values: &[f64]) -> Result<Option<f64>, StatsError> {
    require_finite("the values to average", values)?;
    Ok(finite_mean(values))
}

/// Mean of values already known to be finite.
pub(super) fn finite_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation with `ddof` degrees of freedom taken off the divisor: sqrt(sum of squared deviations / (n - ddof)).
/// `ddof` 0 describes the values themselves, 1 estimates the population they were drawn from. `None` unless n > `ddof`.
pub(crate) fn std(values: &[f64], ddof: usize) -> Result<Option<f64>, StatsError> {
    let Some(center) = mean(values)? else {
        return Ok(None);
    };
    if values.len() <= ddof {
        return Ok(None);
    }
    let squares: f64 = values.iter().map(|value| (value - center).powi(2)).sum();
    Ok(Some((squares / (values.len() - ddof) as f64).sqrt()))
}

/// The `percent`-th percentile (0 to 100), the median at 50; `None` for an empty list.
pub(crate) fn percentile(values: &[f64], percent: f64) -> Result<Option<f64>, StatsError> {
    require_finite("the values to rank", values)?;
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Ok(sorted_percentile(&sorted, percent))
}

/// The `percent`-th percentile (0 to 100) of finite values in ascending order, interpolated linearly between the two nearest ranks, as
/// numpy's default method does (definition 7 of Hyndman & Fan, "Sample quantiles in statistical packages", 1996).
pub(super) fn sorted_percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = percent / 100.0 * last as f64;
    let below = sorted.get(rank.floor() as usize)?;
    let above = sorted.get((rank.floor() as usize + 1).min(last))?;
    let part = rank - rank.floor();
    // Interpolating from the nearer end, as numpy does, gives that end exactly and keeps the result monotone in `percent`.
    Some(if part < 0.5 {
        below + (above - below) * part
    } else {
        above - (above - below) * (1.0 - part)
    })
}

/// Wilson score interval, 95 %, for a proportion of `count` out of `total` (Wilson, "Probable inference, the law of
/// succession, and statistical inference", 1927), without continuity correction. `None` when `total` is 0.
///
/// # Errors
/// `count` larger than `total`.
pub(crate) fn wilson(count: u64, total: u64) -> Result<Option<Interval>, StatsError> {
    if count > total {
        return Err(StatsError(format!(
            "count `{count}` out of {total}: expected at most {total}; check how the two were counted"
        )));
    }
    if total == 0 {
        return Ok(None);
    }
    let n = total as f64;
    let rate = count as f64 / n;
    let scale = 1.0 + Z_95 * Z_95 / n;
    let center = (rate + Z_95 * Z_95 / (2.0 * n)) / scale;
    let half = Z_95 / scale * (rate * (1.0 - rate) / n + Z_95 * Z_95 / (4.0 * n * n)).sqrt();
    // At 0 and at `total` the outer end is 0 or 1 exactly; rounding would put it a hair beside.
    Ok(Some(Interval {
        low: if count == 0 { 0.0 } else { center - half },
        high: if count == total { 1.0 } else { center + half },
    }))
}

/// Interval, 95 %, for the difference `first − second` of two independent proportions, each given with its own Wilson interval
/// (Newcombe, "Interval estimation for the difference between independent proportions", 1998, method 10).
pub(crate) fn newcombe(first: (f64, Interval), second: (f64, Interval)) -> Interval {
    let difference = first.0 - second.0;
    let reach = |a: f64, b: f64| (a * a + b * b).sqrt();
    Interval {
        low: difference - reach(first.0 - first.1.low, second.1.high - second.0),
        high: difference + reach(first.1.high - first.0, second.0 - second.1.low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected numbers come from numpy 2.4.6 on these same values; sums here and there differ only in rounding.
    const VALUES: [f64; 7] = [3.5, -1.25, 0.0, 7.75, 2.0, -4.5, 1.0];
    const ROUNDING: f64 = 1e-14;

    fn close(found: Option<f64>, expected: f64) {
        let found = found.expect("a value");
        assert!(
            (found - expected).abs() <= ROUNDING * expected.abs().max(1.0),
            "{found} {expected}"
        );
    }

    #[test]
    fn newcombe_equals_statsmodels() {
        // statsmodels 0.15.0: confint_proportions_2indep(56, 80, 31, 120, method="newcomb"), and of (80, 80, 0, 120), (0, 80, 0, 120)
        let cases = [
            ((56, 80), (31, 120), 0.304509273038548, 0.5551501551041621),
            ((80, 80), (0, 120), 0.9446692700260915, 1.0),
            ((0, 80), (0, 120), -0.0310191664187035, 0.04581812953552712),
        ];
        for (first, second, low, high) in cases {
            let rate = |(count, total): (u64, u64)| {
                let interval = wilson(count, total).unwrap().unwrap();
                (count as f64 / total as f64, interval)
            };
            let found = newcombe(rate(first), rate(second));
            // The normal quantile and square roots are rounded on both sides.
            assert!(
                (found.low - low).abs() < 1e-12 && (found.high - high).abs() < 1e-12,
                "{found:?}"
            );
        }
    }

    #[test]
    fn mean_and_std_equal_numpy() {
        // numpy.mean(x), numpy.std(x), numpy.std(x, ddof=1)
        close(mean(&VALUES).unwrap(), 1.2142857142857142);
        close(std(&VALUES, 0).unwrap(), 3.5617726611612817);
        close(std(&VALUES, 1).unwrap(), 3.8471541739440647);
    }

    #[test]
    fn too_few_values_give_none() {
        assert_eq!(mean(&[]), Ok(None));
        assert_eq!(std(&[], 0), Ok(None));
        assert_eq!(std(&[2.0], 1), Ok(None));
        assert_eq!(std(&[2.0], 0), Ok(Some(0.0)));
        assert_eq!(sorted_percentile(&[], 50.0), None);
    }

    #[test]
    fn non_finite_values_are_errors_that_name_the_index() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let values = [1.0, 2.0, bad];
            for result in [mean(&values), std(&values, 1)] {
                assert!(result.is_err_and(|error| error.0.contains(" at index 2 of")));
            }
        }
    }

    #[test]
    fn percentiles_equal_numpy() {
        // numpy.percentile(x, q)
        let mut sorted = VALUES.to_vec();
        sorted.sort_by(f64::total_cmp);
        for (percent, expected) in [
            (0.0, -4.5),
            (2.5, -4.0125),
            (10.0, -2.55),
            (33.3, -0.0025000000000002798),
            (50.0, 1.0),
            (97.5, 7.112499999999999),
            (100.0, 7.75),
        ] {
            close(sorted_percentile(&sorted, percent), expected);
        }
        assert_eq!(sorted_percentile(&[4.0], 97.5), Some(4.0));
    }

    #[test]
    fn wilson_equals_statsmodels() {
        // statsmodels 0.15.0: proportion_confint(k, n, alpha=0.05, method="wilson")
        for (count, total, low, high) in [
            (56, 80, 0.5923184607866026, 0.7893542873991866),
            (31, 120, 0.18837396318660649, 0.3432853005824337),
            (0, 80, 0.0, 0.04581812953552712),
            (80, 80, 0.9541818704644728, 1.0),
            (1, 1, 0.2065493143772374, 1.0),
        ] {
            let interval = wilson(count, total).unwrap().unwrap();
            close(Some(interval.low), low);
            close(Some(interval.high), high);
        }
        assert_eq!(wilson(0, 0), Ok(None));
        assert!(wilson(3, 2).is_err_and(|error| error.0.contains("count `3` out of 2")));
    }
}
