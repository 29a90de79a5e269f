//! The threshold that tells the prompts to act on from the others, and how it does on prompts that did not choose it.

use crate::stages::StageError;
use crate::stages::action::Side;
use crate::stats::{self, Counts, Interval, Threshold};

/// A prompt, by index into the prompt set.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) prompt: usize,
    /// Whether it is one to act on.
    pub(super) is_wanted: bool,
    pub(super) is_held_out: bool,
    pub(super) likeness: f64,
}

/// A direction's best threshold.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) cases: Vec<Case>,
    pub(super) side: Side,
    pub(super) threshold: Threshold,
    pub(super) train: Counts,
    pub(super) held_out: Counts,
    pub(super) intervals: Intervals,
    /// Of the held-out prompts, by how like they are.
    pub(super) auroc: Option<f64>,
}

/// 95 % intervals of what the held-out prompts say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Intervals {
    pub(super) precision: Option<Interval>,
    pub(super) recall: Option<Interval>,
    pub(super) f1: Option<Interval>,
}

impl Candidate {
    /// The best threshold on the training half; none where there is none, its prompts being all alike.
    pub(super) fn of(cases: Vec<Case>, seed: u64) -> Result<Option<Self>, StageError> {
        let train = || cases.iter().filter(|case| !case.is_held_out);
        let best = |sign: f64| {
            let signed: Vec<(f64, bool)> =
                train().map(|c| (sign * c.likeness, c.is_wanted)).collect();
            stats::best_threshold(&signed)
        };
        let below = best(-1.0)?.map(|found| Threshold {
            threshold: -found.threshold,
            ..found
        });
        let better = |a: &Threshold, b: &Threshold| (a.f1, a.margin) > (b.f1, b.margin);
        let (side, threshold) = match (best(1.0)?, below) {
            (Some(above), Some(below)) if better(&below, &above) => (Side::Below, below),
            (Some(above), _) => (Side::Above, above),
            (None, Some(below)) => (Side::Below, below),
            (None, None) => return Ok(None),
        };
        let found = |case: &Case| {
            let is_found = side.holds(case.likeness, threshold.threshold);
            (case.is_wanted, is_found)
        };
        let held_out: Vec<&Case> = cases.iter().filter(|case| case.is_held_out).collect();
        let pairs: Vec<(bool, bool)> = held_out.iter().map(|case| found(case)).collect();
        let counts = Counts::of(pairs.iter().copied());
        let of_classes: Vec<(f64, bool)> = held_out
            .iter()
            .map(|case| (case.likeness, case.is_wanted))
            .collect();
        Ok(Some(Candidate {
            train: Counts::of(train().map(found)),
            intervals: Intervals {
                precision: stats::wilson(counts.true_positive, counts.found())?,
                recall: stats::wilson(counts.true_positive, counts.meant())?,
                f1: stats::f1_interval(&pairs, seed),
            },
            auroc: stats::auroc(&of_classes)?,
            held_out: counts,
            side,
            threshold,
            cases,
        }))
    }

    pub(super) fn is_open(&self, case: &Case) -> bool {
        self.side.holds(case.likeness, self.threshold.threshold)
    }

    pub(super) fn of_half(&self, held_out: bool) -> Vec<&Case> {
        let of_half = self
            .cases
            .iter()
            .filter(|case| case.is_held_out == held_out);
        of_half.collect()
    }

    /// F1 on the held-out half for acting on every prompt.
    pub(super) fn f1_of_all(&self) -> Option<f64> {
        let all = self.of_half(true).into_iter();
        Counts::of(all.map(|case| (case.is_wanted, true))).f1()
    }

    /// What to say of a condition that does not help.
    pub(super) fn finding(&self, direction: &str, layer: usize) -> Option<String> {
        let (f1, of_all) = (self.held_out.f1()?, self.f1_of_all()?);
        (f1 <= of_all).then(|| {
            format!(
                "on the held-out prompts the condition on `{direction}` at layer {layer} does no better than acting on every prompt: F1 {f1:.2} and {of_all:.2}"
            )
        })
    }
}

/// The number of the candidate that is best on the training half: by F1, then by margin, then the first.
pub(super) fn best<'c>(candidates: impl Iterator<Item = &'c Candidate>) -> Option<usize> {
    let mut best: Option<(usize, &Threshold)> = None;
    for (index, candidate) in candidates.enumerate() {
        let found = &candidate.threshold;
        if best.is_none_or(|(_, best)| (best.f1, best.margin) < (found.f1, found.margin)) {
            best = Some((index, found));
        }
    }
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(likeness: &[(f64, bool, bool)]) -> Vec<Case> {
        let case = |(prompt, &(likeness, is_wanted, is_held_out))| Case {
            prompt,
            is_wanted,
            is_held_out,
            likeness,
        };
        likeness.iter().enumerate().map(case).collect()
    }

    #[test]
    fn the_training_half_chooses_and_the_other_is_told() {
        let found = Candidate::of(
            cases(&[
                (0.9, false, false),
                (0.8, false, false),
                (0.1, true, false),
                (0.3, true, false),
                (0.2, true, true),
                (0.7, true, true),
                (0.4, false, true),
            ]),
            0,
        );
        let found = found.unwrap().unwrap();
        assert_eq!(found.side, Side::Below);
        assert_eq!(found.threshold.threshold, 0.6);
        assert_eq!(found.train.f1(), Some(1.0));
        // One of two is found, and one that is not wanted.
        assert_eq!(found.held_out.precision(), Some(0.5));
        assert_eq!(found.held_out.recall(), Some(0.5));
        assert_eq!(found.auroc, Some(0.5));
        assert!(found.finding("d", 3).unwrap().contains("F1 0.50 and 0.80"));
    }

    #[test]
    fn prompts_that_are_alike_have_no_threshold() {
        let alike = cases(&[(0.5, true, false), (0.5, false, false), (0.1, true, true)]);
        assert!(Candidate::of(alike, 0).unwrap().is_none());
    }
}
