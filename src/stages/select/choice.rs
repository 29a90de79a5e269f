//! Which candidate is taken: the rules of refusal_direction (`select_direction.py`) and of COSMIC (`select_direction_cosmic.py`), on numbers that
//! anybody may have measured.

use std::collections::BTreeMap;

use crate::stages::StageError;
use crate::stages::field_types::choices;

choices! {
    /// Whose rule chooses.
    pub(crate) enum Method {
        /// the lowest score without the direction (Arditi et al., arXiv:2406.11717)
        RefusalDirection = "refusal_direction",
        /// the highest sum of two cosines of activations, no score needed (COSMIC, arXiv:2506.00085)
        Cosmic = "cosmic",
    }
}

/// A direction, and what it does; numbers that are not there are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Counted from the end of the prompt below 0.
    pub(super) position: i64,
    pub(super) layer: usize,
    /// Of harmful prompts without the direction: the mean score, or the cosine with harmless ones.
    pub(super) bypass: f64,
    /// Of harmless prompts with the direction added: the mean score, or the cosine with harmful ones.
    pub(super) induce: f64,
    /// Of harmless prompts without the direction: the mean divergence of the next token, in nats.
    pub(super) kl: f64,
}

/// What keeps a candidate from being taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Bounds {
    pub(super) max_kl: f64,
    pub(super) min_induce: f64,
    /// The share of the layers, the last ones, that is left out.
    pub(super) last_layers: f64,
}

impl Bounds {
    /// The first layer that is left out: `int(n_layers * (1.0 - share))` there.
    pub(super) fn end(&self, n_layers: usize) -> usize {
        (n_layers as f64 * (1.0 - self.last_layers)) as usize
    }
}

/// A candidate under the rules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Verdict {
    /// Why it is not taken, the first reason of several; empty where it may be.
    pub(super) discarded: &'static str,
    /// Its place among those that may be taken, from 1.
    pub(super) rank: Option<usize>,
}

/// Every candidate under the rules, in their order. The first rank is the choice; where two are equally good, the one at the earlier position, and of
/// one position the one at the lower layer.
pub(super) fn verdicts(
    candidates: &[Candidate],
    method: Method,
    bounds: &Bounds,
    n_layers: usize,
) -> Vec<Verdict> {
    let peaks = match method {
        Method::RefusalDirection => None,
        Method::Cosmic => Peaks::of(candidates),
    };
    let why = |candidate: &Candidate| match candidate {
        c if c.bypass.is_nan() || c.induce.is_nan() || c.kl.is_nan() => "not a number",
        c if c.layer >= bounds.end(n_layers) => "one of the last layers",
        c if c.position == -1 && peaks.is_some_and(|peaks| peaks.lie_before(c.layer)) => {
            "beyond the peaks"
        }
        c if c.kl > bounds.max_kl => "kl too high",
        c if method == Method::RefusalDirection && c.induce < bounds.min_induce => {
            "induces too little"
        }
        _ => "",
    };
    let discarded: Vec<&str> = candidates.iter().map(why).collect();
    let mut kept: Vec<usize> = (0..candidates.len())
        .filter(|&index| discarded[index].is_empty())
        .collect();
    // Lower is better.
    let badness = |c: &Candidate| match method {
        Method::RefusalDirection => c.bypass,
        Method::Cosmic => -(c.bypass + c.induce),
    };
    kept.sort_by(|&a, &b| {
        let (a, b) = (&candidates[a], &candidates[b]);
        badness(a)
            .total_cmp(&badness(b))
            .then((a.position, a.layer).cmp(&(b.position, b.layer)))
    });
    let rank = |index: usize| kept.iter().position(|&kept| kept == index);
    let verdict = |(index, &discarded)| Verdict {
        discarded,
        rank: rank(index).map(|rank| rank + 1),
    };
    discarded.iter().enumerate().map(verdict).collect()
}

/// The number of the candidate that is taken.
///
/// # Errors
/// All are discarded.
pub(super) fn first(verdicts: &[Verdict]) -> Result<usize, StageError> {
    let first = verdicts.iter().position(|verdict| verdict.rank == Some(1));
    first.ok_or_else(|| {
        let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
        for verdict in verdicts {
            *reasons.entry(verdict.discarded).or_default() += 1;
        }
        let told = reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"));
        StageError::Data(format!(
            "no direction can be chosen: of {} {}; see `max_kl`, `min_induce` and `last_layers`",
            verdicts.len(),
            told.collect::<Vec<String>>().join(", ")
        ))
    })
}

/// The layers at which the cosines are highest before the last token: of each the median over positions.
#[derive(Clone, Copy, Debug)]
struct Peaks {
    bypass: usize,
    induce: usize,
}

impl Peaks {
    /// None where all candidates are of the last token.
    fn of(candidates: &[Candidate]) -> Option<Self> {
        let mut positions: Vec<i64> = candidates.iter().map(|c| c.position).collect();
        positions.retain(|position| *position != -1);
        positions.sort_unstable();
        positions.dedup();
        let median = |of: fn(&Candidate) -> f64| {
            let peaks = positions.iter().map(|position| {
                let here = candidates.iter().filter(|c| c.position == *position);
                peak(here, of)
            });
            let mut layers: Vec<usize> = peaks.flatten().collect();
            layers.sort_unstable();
            // Of an even number of them the lower of the middle two, as `torch.nanmedian` takes it.
            layers.get(layers.len().saturating_sub(1) / 2).copied()
        };
        Some(Peaks {
            bypass: median(|c| c.bypass)?,
            induce: median(|c| c.induce)?,
        })
    }

    /// Whether a layer is beyond both: at the last token COSMIC takes none of these.
    fn lie_before(self, layer: usize) -> bool {
        layer > self.bypass && layer > self.induce
    }
}

/// The layer at which a number is highest, of equals the first; what is no number is lower than any.
fn peak<'c>(
    candidates: impl Iterator<Item = &'c Candidate>,
    of: fn(&Candidate) -> f64,
) -> Option<usize> {
    let number = |c: &Candidate| match of(c) {
        number if number.is_nan() => f64::NEG_INFINITY,
        number => number,
    };
    let highest = candidates.max_by(|a, b| {
        let by_number = number(a).total_cmp(&number(b));
        by_number.then(b.layer.cmp(&a.layer))
    });
    highest.map(|candidate| candidate.layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        max_kl: 0.1,
        min_induce: 0.0,
        last_layers: 0.2,
    };

    fn candidate(position: i64, layer: usize, bypass: f64, induce: f64, kl: f64) -> Candidate {
        Candidate {
            position,
            layer,
            bypass,
            induce,
            kl,
        }
    }

    fn told(candidates: &[Candidate], method: Method) -> Vec<(&'static str, Option<usize>)> {
        let verdicts = verdicts(candidates, method, &BOUNDS, 10);
        verdicts.iter().map(|v| (v.discarded, v.rank)).collect()
    }

    #[test]
    fn bounds_are_reached_and_not_passed() {
        let found = told(
            &[
                candidate(-1, 7, -1.0, 0.0, 0.1),
                candidate(-1, 8, -9.0, 1.0, 0.0),
                candidate(-2, 3, -9.0, 1.0, 0.100_000_1),
                candidate(-2, 4, -9.0, -1e-9, 0.0),
                candidate(-2, 5, f64::NAN, 1.0, 0.0),
                candidate(-2, 6, -2.0, 1.0, 0.0),
            ],
            Method::RefusalDirection,
        );
        let expected = [
            ("", Some(2)),
            ("one of the last layers", None),
            ("kl too high", None),
            ("induces too little", None),
            ("not a number", None),
            ("", Some(1)),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_first_of_equals_is_taken_in_the_order_of_positions() {
        let found = told(
            &[
                candidate(-1, 0, -1.0, 1.0, 0.0),
                candidate(-3, 2, -1.0, 1.0, 0.0),
                candidate(-3, 1, -1.0, 1.0, 0.0),
            ],
            Method::RefusalDirection,
        );
        let ranks: Vec<_> = found.iter().map(|(_, rank)| *rank).collect();
        assert_eq!(ranks, [Some(3), Some(2), Some(1)]);
    }

    #[test]
    fn as_many_layers_are_left_out_as_pythons_int_leaves() {
        let ends = [18, 24, 26, 32].map(|n_layers| BOUNDS.end(n_layers));
        assert_eq!(ends, [14, 19, 20, 25]);
    }

    #[test]
    fn cosmic_takes_the_highest_sum_and_no_layer_beyond_both_medians_of_the_peaks() {
        // Peaks of bypass: layers 1 and 2, of induce: 5 and 6; their medians are 1 and 5. That of the last token, 7, plays no part.
        let found = told(
            &[
                candidate(-3, 1, 0.5, 0.125, 0.0),
                candidate(-3, 5, 0.375, 0.25, 0.0),
                candidate(-2, 2, 0.5, 0.125, 0.0),
                candidate(-2, 6, 0.375, 0.25, 0.0),
                candidate(-1, 4, 0.375, 0.375, 0.0),
                candidate(-1, 5, 0.375, 0.5, 0.0),
                candidate(-1, 6, 0.375, 0.75, 0.0),
                candidate(-1, 7, 0.875, 0.875, 0.0),
            ],
            Method::Cosmic,
        );
        // One median of all these peaks, 2 to 5, would leave out layer 5 of the last token, the choice; with its own peaks the medians, 2 and 6, would
        // take layer 6.
        let expected = [
            ("", Some(3)),
            ("", Some(4)),
            ("", Some(5)),
            ("", Some(6)),
            ("", Some(2)),
            ("", Some(1)),
            ("beyond the peaks", None),
            ("beyond the peaks", None),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_median_of_two_peaks_is_the_lower_and_a_peak_of_equals_the_first() {
        let candidates = [
            candidate(-3, 1, 0.5, 0.5, 0.0),
            candidate(-3, 2, 0.5, 0.5, 0.0),
            candidate(-2, 1, f64::NAN, 0.1, 0.0),
            candidate(-2, 4, 0.1, 0.3, 0.0),
            candidate(-1, 2, 0.1, 0.1, 0.0),
        ];
        let peaks = Peaks::of(&candidates).unwrap();
        assert_eq!((peaks.bypass, peaks.induce), (1, 1));
        let found = told(&candidates, Method::Cosmic);
        assert_eq!(found[4], ("beyond the peaks", None));
        // Equal sums go by position, then layer.
        assert_eq!((found[0].1, found[1].1), (Some(1), Some(2)));
        // With no other token there is nothing to go by.
        assert!(Peaks::of(&candidates[4..]).is_none());
        let alone = told(&candidates[4..], Method::Cosmic);
        assert_eq!(alone, [("", Some(1))]);
    }
}
