//! A learned direction's statistic against the same statistic of random directions.

use super::describe::{mean, std};
use super::{StatsError, require_finite};

/// Relative difference below which two statistics count as equal: some thousand times the rounding of a sum of a hundred
/// terms, and far below any difference that matters.
const TIE_TOLERANCE: f64 = 1e-12;

/// Empirical p-values. The smallest possible is 1 / (1 + N), so N = 19 random directions are the fewest that can reach 0.05.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EmpiricalP {
    /// (1 + number of random values at or above the learned one) / (1 + N).
    pub(crate) one_sided: f64,
    /// The same on absolute values.
    pub(crate) two_sided: f64,
}

/// Exact empirical p of `learned` among `random` (Phipson & Smyth, "Permutation p-values should never be zero", 2010): the
/// learned value counts as one of the draws. A random value within rounding of the learned one counts as a tie, and so
/// against it. Without random values both are 1.
pub(crate) fn empirical_p(learned: f64, random: &[f64]) -> Result<EmpiricalP, StatsError> {
    require_finite("the learned statistic", &[learned])?;
    require_finite("the random statistics", random)?;
    let slack = TIE_TOLERANCE * learned.abs();
    let p = |at_or_above: usize| (1 + at_or_above) as f64 / (1 + random.len()) as f64;
    let all = random.iter();
    let above = all.clone().filter(|value| **value >= learned - slack);
    let above_in_size = all.filter(|value| value.abs() >= learned.abs() - slack);
    Ok(EmpiricalP {
        one_sided: p(above.count()),
        two_sided: p(above_in_size.count()),
    })
}

/// (learned - mean of random) / standard deviation of random, the latter with ddof 1. `None` for fewer than two random values,
/// or when they do not vary beyond rounding.
pub(crate) fn z_score(learned: f64, random: &[f64]) -> Result<Option<f64>, StatsError> {
    require_finite("the learned statistic", &[learned])?;
    let (Some(center), Some(spread)) = (mean(random)?, std(random, 1)?) else {
        return Ok(None);
    };
    let size = random.iter().map(|value| value.abs());
    let size = size.fold(0.0, f64::max);
    if spread <= TIE_TOLERANCE * size {
        return Ok(None);
    }
    Ok(Some((learned - center) / spread))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_counts_ties_against_the_learned_value() {
        let random = [0.1, 0.5, 0.5, -0.9];
        let p = empirical_p(0.5, &random).unwrap();
        assert_eq!(p.one_sided, 3.0 / 5.0);
        assert_eq!(p.two_sided, 4.0 / 5.0);
        // 0.3 - 0.1 is one bit below 0.4 - 0.2; both are a gap of 0.2.
        let (learned, random) = (0.4 - 0.2, 0.3 - 0.1);
        assert_ne!(learned, random);
        assert_eq!(empirical_p(learned, &[random]).unwrap().one_sided, 1.0);
        // No relative slack is left at zero, so there the tie rests on the comparison itself.
        let zero = empirical_p(0.0, &[0.0]).unwrap();
        assert_eq!((zero.one_sided, zero.two_sided), (1.0, 1.0));
    }

    #[test]
    fn p_is_never_zero_and_one_without_random_values() {
        let random: Vec<f64> = (0..19).map(|i| f64::from(i) / 100.0).collect();
        assert_eq!(empirical_p(1.0, &random).unwrap().one_sided, 0.05);
        let negative = empirical_p(-1.0, &random).unwrap();
        assert_eq!((negative.one_sided, negative.two_sided), (1.0, 0.05));
        assert_eq!(empirical_p(1.0, &[]).unwrap().two_sided, 1.0);
    }

    #[test]
    fn z_equals_numpy() {
        // numpy 2.4.6: (0.35 - r.mean()) / r.std(ddof=1); five terms agree to 1e-12.
        let z = z_score(0.35, &[0.02, -0.01, 0.005, 0.03, -0.04])
            .unwrap()
            .unwrap();
        assert!((z - 12.70141046555734).abs() < 1e-12, "{z}");
    }

    #[test]
    fn z_without_spread_is_none() {
        assert_eq!(z_score(1.0, &[]), Ok(None));
        assert_eq!(z_score(1.0, &[0.3]), Ok(None));
        assert_eq!(z_score(1.0, &[0.0, 0.0]), Ok(None));
        assert_eq!(z_score(1.0, &[0.1, 0.1, 0.1]), Ok(None));
        assert_eq!(z_score(1.0, &[0.4 - 0.2, 0.3 - 0.1]), Ok(None));
    }

    #[test]
    fn non_finite_values_are_errors() {
        assert!(empirical_p(f64::NAN, &[0.1]).is_err());
        assert!(empirical_p(0.1, &[0.1, f64::NAN]).is_err());
        assert!(z_score(f64::INFINITY, &[0.1, 0.2]).is_err());
        assert!(z_score(0.1, &[f64::NAN, 0.2]).is_err());
    }
}
