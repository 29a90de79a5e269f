//! A threshold that tells two classes apart, and how well it does.

use super::bootstrap::bootstrap;
use super::{Interval, StatsError, require_finite};

/// How many cases a rule is right and wrong about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Meant and found.
    pub(crate) true_positive: u64,
    /// Found and not meant.
    pub(crate) false_positive: u64,
    /// Meant and not found.
    pub(crate) false_negative: u64,
    pub(crate) true_negative: u64,
}

impl Counts {
    /// Of pairs (meant, found).
    pub(crate) fn of(cases: impl IntoIterator<Item = (bool, bool)>) -> Self {
        let mut counts = Counts::default();
        for case in cases {
            *match case {
                (true, true) => &mut counts.true_positive,
                (false, true) => &mut counts.false_positive,
                (true, false) => &mut counts.false_negative,
                (false, false) => &mut counts.true_negative,
            } += 1;
        }
        counts
    }

    pub(crate) fn found(&self) -> u64 {
        self.true_positive + self.false_positive
    }

    pub(crate) fn meant(&self) -> u64 {
        self.true_positive + self.false_negative
    }

    /// Of those found, the share that is meant; none where none is found.
    pub(crate) fn precision(&self) -> Option<f64> {
        (self.found() > 0).then(|| self.true_positive as f64 / self.found() as f64)
    }

    /// Of those meant, the share that is found; none where none is meant.
    pub(crate) fn recall(&self) -> Option<f64> {
        (self.meant() > 0).then(|| self.true_positive as f64 / self.meant() as f64)
    }

    /// 2·tp / (2·tp + fp + fn), the harmonic mean of precision and recall; none where nothing is meant and nothing found.
    pub(crate) fn f1(&self) -> Option<f64> {
        let total = self.found() + self.meant();
        (total > 0).then(|| 2.0 * self.true_positive as f64 / total as f64)
    }
}

/// 95 % bootstrap interval of the F1 of pairs (meant, found), which are resampled.
pub(crate) fn f1_interval(cases: &[(bool, bool)], seed: u64) -> Option<Interval> {
    bootstrap(cases.len(), seed, |indices| {
        Counts::of(indices.iter().map(|&index| cases[index])).f1()
    })
}

/// A threshold with what it gives on the cases that it was chosen on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Threshold {
    pub(crate) threshold: f64,
    /// How far the nearest case is from it.
    pub(crate) margin: f64,
    pub(crate) f1: f64,
}

/// Of all gaps between two neighbouring scores the one above which are the cases that are meant, by F1; of equally good ones the widest, and of
/// these the lowest. The threshold is a short number in the middle of it. None where all scores are one, or none is meant.
///
/// # Errors
/// A score that is not finite.
pub(crate) fn best_threshold(cases: &[(f64, bool)]) -> Result<Option<Threshold>, StatsError> {
    let scores: Vec<f64> = cases.iter().map(|(score, _)| *score).collect();
    require_finite("the scores", &scores)?;
    let mut sorted = cases.to_vec();
    sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let meant = cases.iter().filter(|(_, is_meant)| *is_meant).count() as u64;
    let mut below = Counts {
        true_positive: meant,
        false_positive: cases.len() as u64 - meant,
        ..Counts::default()
    };
    let mut best: Option<(f64, f64, Gap)> = None;
    for pair in sorted.windows(2) {
        let [(score, is_meant), (next, _)] = [pair[0], pair[1]];
        match is_meant {
            true => {
                below.true_positive -= 1;
                below.false_negative += 1;
            }
            false => below.false_positive -= 1,
        }
        let gap = Gap { score, next };
        let (Some(_), Some(f1)) = (gap.middle(), below.f1()) else {
            continue;
        };
        let width = next - score;
        if best.is_none_or(|(best, widest, _)| (best, widest) < (f1, width)) {
            best = Some((f1, width, gap));
        }
    }
    let best = best.filter(|_| meant > 0);
    Ok(best.and_then(|(f1, _, gap)| {
        let threshold = gap.middle()?;
        let margin = (threshold - gap.score).min(gap.next - threshold);
        Some(Threshold {
            threshold,
            margin,
            f1,
        })
    }))
}

/// Two neighbouring scores.
#[derive(Clone, Copy)]
struct Gap {
    score: f64,
    next: f64,
}

impl Gap {
    /// The number with the fewest digits in the middle half of the gap; none between neighbours of which rounding leaves none.
    fn middle(self) -> Option<f64> {
        let quarter = (self.next - self.score) / 4.0;
        let (low, high) = (self.score + quarter, self.next - quarter);
        let middle = low + quarter;
        let short = (0..17).filter_map(|digits| format!("{middle:.digits$e}").parse().ok());
        let mut within = short.filter(|short| (low..=high).contains(short));
        within.find(|short| self.score < *short && *short < self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_rates_are_the_textbooks() {
        let cases = [
            (true, true),
            (true, true),
            (true, false),
            (false, true),
            (false, false),
        ];
        let counts = Counts::of(cases);
        assert_eq!(counts.precision(), Some(2.0 / 3.0));
        assert_eq!(counts.recall(), Some(2.0 / 3.0));
        assert_eq!(counts.f1(), Some(4.0 / 6.0));
        assert_eq!(Counts::of([(false, false)]).f1(), None);
        let interval = f1_interval(&cases, 0).unwrap();
        assert!(interval.low < 0.6 && interval.high == 1.0);
    }

    #[test]
    fn the_widest_gap_among_the_best_is_taken() {
        let cases = [(0.0, false), (0.1, false), (0.4, true), (0.5, true)];
        let found = best_threshold(&cases).unwrap().unwrap();
        assert_eq!((found.threshold, found.f1), (0.2, 1.0));
        assert!((found.margin - 0.1).abs() < 1e-12);
        // One of each class is on the wrong side, whichever way: all above 0 is as good as any.
        let mixed = [(0.0, false), (1.0, true), (2.0, false), (5.0, true)];
        let found = best_threshold(&mixed).unwrap().unwrap();
        assert_eq!((found.threshold, found.f1), (0.5, 0.8));
    }

    #[test]
    fn a_threshold_is_a_short_number_between_its_neighbours() {
        let middle = |score, next| Gap { score, next }.middle();
        assert_eq!(middle(0.083_720, 0.083_901), Some(0.0838));
        assert_eq!(middle(-0.3, 0.4), Some(0.05));
        assert_eq!(middle(-0.25, 0.25), Some(0.0));
        assert_eq!(middle(1.0, 1.0), None);
        let next = f64::from_bits(1f64.to_bits() + 1);
        assert_eq!(middle(1.0, next), None);
    }

    #[test]
    fn without_a_difference_there_is_no_threshold() {
        assert_eq!(best_threshold(&[(1.0, true), (1.0, false)]), Ok(None));
        assert_eq!(best_threshold(&[(1.0, false), (2.0, false)]), Ok(None));
        assert!(best_threshold(&[(f64::NAN, true)]).is_err());
    }
}
