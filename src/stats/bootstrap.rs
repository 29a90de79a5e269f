//! Percentile bootstrap of a mean (Efron, "Bootstrap methods: another look at the jackknife", 1979).
//!
//! The generator is written out here because an interval in a published table must not change with a crate's version or a platform:
//! the same values in the same order and the same seed give the same bits everywhere.

use super::describe::sorted_percentile;
use super::{Interval, StatsError, require_finite, require_length};

/// Resamples drawn for every bootstrap interval.
pub(crate) const BOOTSTRAP_RESAMPLES: usize = 10_000;

/// SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014): a counter that steps by an odd
/// constant, and a mixing function over it.
struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A uniform index below `bound`: the high word of a 128-bit product. Its bias, at most `bound` / 2^64, is far below
    /// anything that 10,000 resamples could show, so no draw is rejected and the count of draws is fixed.
    fn index_below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// 95 % percentile bootstrap interval of the mean: [`BOOTSTRAP_RESAMPLES`] resamples of the values with replacement, each as
/// large as the list, and the 2.5th and 97.5th percentiles of their means. `None` for fewer than two values: one says nothing of
/// how far others are from it. The result is a function of the values, their order and `seed` alone.
pub(crate) fn bootstrap_mean(values: &[f64], seed: u64) -> Result<Option<Interval>, StatsError> {
    require_finite("the values to resample", values)?;
    let count = values.len();
    Ok(bootstrap(count, seed, |indices| {
        let resample = indices.iter().map(|&index| values[index]);
        Some(resample.sum::<f64>() / count as f64)
    }))
}

/// 95 % percentile bootstrap interval of Σ `above` / Σ `below` over things that have both, each drawn with its two numbers: the ratio estimator,
/// for what is a mean over parts of unequal size (tokens of texts). `None` for fewer than two things, and where all of `below` is 0 too often.
pub(crate) fn bootstrap_ratio(
    above: &[f64],
    below: &[f64],
    seed: u64,
) -> Result<Option<Interval>, StatsError> {
    require_length("the numbers below", below.len(), above.len())?;
    require_finite("the numbers above", above)?;
    require_finite("the numbers below", below)?;
    Ok(bootstrap(above.len(), seed, |indices| {
        let sum = |of: &[f64]| indices.iter().map(|&index| of[index]).sum::<f64>();
        let below = sum(below);
        (below != 0.0).then(|| sum(above) / below)
    }))
}

/// Of the resamples of which a statistic is defined, the share that must be for an interval.
const DEFINED: f64 = 0.95;

/// The same of any statistic of so many things, which is given the indices of each resample. `None` for fewer than two things, and where the
/// statistic is undefined in more than one of twenty resamples.
pub(super) fn bootstrap(
    count: usize,
    seed: u64,
    mut statistic: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Interval> {
    if count < 2 {
        return None;
    }
    let mut generator = SplitMix64 { state: seed };
    let mut indices = vec![0; count];
    let of_resample = |_| {
        let mut draw = || generator.index_below(count);
        indices.iter_mut().for_each(|index| *index = draw());
        statistic(&indices)
    };
    let mut found: Vec<f64> = (0..BOOTSTRAP_RESAMPLES).filter_map(of_resample).collect();
    if (found.len() as f64) < DEFINED * BOOTSTRAP_RESAMPLES as f64 {
        return None;
    }
    found.sort_by(f64::total_cmp);
    let low = sorted_percentile(&found, 2.5)?;
    let high = sorted_percentile(&found, 97.5)?;
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 60 values between 0 and 10 in no order.
    fn spread() -> Vec<f64> {
        (0..60).map(|i| f64::from((i * 37) % 101) / 10.0).collect()
    }

    #[test]
    fn the_generator_gives_the_known_sequence() {
        // The sequence for this seed that implementations of SplitMix64 commonly state; recomputed with Python integers.
        let mut generator = SplitMix64 { state: 1_234_567 };
        let found: Vec<u64> = (0..5).map(|_| generator.next()).collect();
        assert_eq!(
            found,
            [
                6457827717110365317,
                3203168211198807973,
                9817491932198370423,
                4593380528125082431,
                16408922859458223821
            ]
        );
    }

    #[test]
    fn indices_cover_the_range_evenly() {
        let mut generator = SplitMix64 { state: 1 };
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[generator.index_below(7)] += 1;
        }
        // 10,000 expected of each, standard deviation 93: five of them is 465.
        assert!(
            counts.iter().all(|count| count.abs_diff(10_000) < 465),
            "{counts:?}"
        );
    }

    #[test]
    fn the_interval_equals_the_same_algorithm_in_python() {
        // SplitMix64, sums in order, numpy.percentile(means, [2.5, 97.5]), written in Python. Equal to the last bit but for
        // the rounding of one interpolation, hence 1e-14.
        let values = [3.5, -1.25, 0.0, 7.75, 2.0, -4.5, 1.0];
        for (values, seed, low, high) in [
            (&values[..], 7, -1.3571428571428572, 3.9285714285714284),
            (&spread()[..], 0, 4.221666666666667, 5.689999999999999),
        ] {
            let interval = bootstrap_mean(values, seed).unwrap().unwrap();
            assert!((interval.low - low).abs() < 1e-14, "{interval:?}");
            assert!((interval.high - high).abs() < 1e-14, "{interval:?}");
        }
    }

    #[test]
    fn the_interval_agrees_with_scipy_up_to_resampling() {
        // scipy 1.17.1: stats.bootstrap((x,), np.mean, n_resamples=10000, method="percentile", rng=default_rng(0)) gives
        // (4.21496, 5.68333), standard error 0.375. A percentile of 10,000 resamples is itself uncertain by about
        // sqrt(0.025 * 0.975 / 10000) / (density 0.0584 / 0.375) = 0.01, so five of them for two independent runs.
        let interval = bootstrap_mean(&spread(), 99).unwrap().unwrap();
        assert!((interval.low - 4.21496).abs() < 0.05, "{interval:?}");
        assert!((interval.high - 5.68333).abs() < 0.05, "{interval:?}");
    }

    #[test]
    fn the_interval_of_a_ratio_equals_the_same_algorithm_in_python() {
        // As above, of sum(above[i]) / sum(below[i]).
        let above = [3.5, 1.25, 0.0, 7.75, 2.0, 4.5, 1.0];
        let below = [1.0, 2.0, 1.0, 4.0, 8.0, 3.0, 1.0];
        let interval = bootstrap_ratio(&above, &below, 7).unwrap().unwrap();
        assert!((interval.low - 0.40625).abs() < 1e-14, "{interval:?}");
        assert!(
            (interval.high - 1.8906419836956518).abs() < 1e-14,
            "{interval:?}"
        );
        // Of parts of one size it is the interval of the mean.
        let ones = [1.0; 7];
        assert_eq!(
            bootstrap_ratio(&above, &ones, 3).unwrap(),
            bootstrap_mean(&above, 3).unwrap()
        );
        assert_eq!(bootstrap_ratio(&above, &[0.0; 7], 0), Ok(None));
        assert!(bootstrap_ratio(&above, &[1.0], 0).is_err());
    }

    #[test]
    fn edge_cases() {
        assert_eq!(bootstrap_mean(&[], 0), Ok(None));
        assert_eq!(bootstrap_mean(&[2.5], 0), Ok(None), "not [2.5, 2.5]");
        let found = bootstrap_mean(&[0.0, f64::NAN], 0);
        assert!(found.is_err_and(|error| error.0.contains("`NaN` at index 1 of")));
        assert_ne!(bootstrap_mean(&spread(), 1), bootstrap_mean(&spread(), 2));
    }
}
