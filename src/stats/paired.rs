//! Right and wrong answers to the same questions, twice.

/// The two-sided p of McNemar's test in its exact form (McNemar, "Note on the sampling error of the difference between correlated proportions or
/// percentages", 1947): of the questions that were answered right only once, `lost` the first time and `won` the second, each is a fair coin under
/// the hypothesis that nothing changed. Twice the binomial tail of the smaller count, at most 1; 1 where no answer changed.
pub(crate) fn mcnemar(lost: u64, won: u64) -> f64 {
    let (count, least) = (lost + won, lost.min(won));
    if 2 * least == count {
        return 1.0;
    }
    // Terms in logarithms: 2⁻ⁿ is below the smallest float from n = 1075 on.
    let mut ln_choose = 0.0;
    let mut tail = 0.0;
    let ln_all = count as f64 * std::f64::consts::LN_2;
    for k in 0..=least {
        if k > 0 {
            ln_choose += ((count - k + 1) as f64 / k as f64).ln();
        }
        tail += (ln_choose - ln_all).exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_equals_whole_numbers_in_python() {
        // min(1, 2 * sum(comb(lost + won, k) for k in range(min(lost, won) + 1)) / 2 ** (lost + won)); scipy.stats.binomtest has the same.
        for (lost, won, expected) in [
            (0, 5, 0.0625),
            (1, 9, 0.021484375),
            (9, 1, 0.021484375),
            (3, 7, 0.34375),
            (10, 25, 0.01667384780012071),
            (600, 700, 0.0060157938610449525),
        ] {
            let found = mcnemar(lost, won);
            assert!((found - expected).abs() < 1e-12, "{lost} {won}: {found}");
        }
    }

    #[test]
    fn nothing_changed_is_one() {
        assert_eq!(mcnemar(0, 0), 1.0);
        assert_eq!(mcnemar(4, 4), 1.0);
        assert_eq!(mcnemar(1, 0), 1.0);
        assert!(mcnemar(0, 5000) < 1e-300);
    }
}
