//! Which prompts build a direction: the highest and the lowest scoring.
//!
//! The study ranks in two ways, and they differ where scores tie (its scores are multiples of 1/16, so many do): ascending in
//! file order for the direction from the whole set, descending in order of ids for the holdout directions. A descending sort is
//! not a reversed ascending one, which would reverse the ties.

use std::cmp::Ordering;

use super::holdout::lexicographic_order;
use super::{StatsError, require_finite, require_length};

/// The two groups whose mean activations a direction separates, as indices into the scores given, in the order of the ranking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    /// A, the highest scoring.
    pub(crate) top: Vec<usize>,
    /// B, the lowest scoring.
    pub(crate) bottom: Vec<usize>,
    /// Prompts in both groups, in the order of `top`; empty unless 2n is larger than the number of prompts. The caller decides
    /// whether that is an error.
    pub(crate) overlap: Vec<usize>,
}

/// The `n` highest and the `n` lowest scores: stable ascending sort, ties in the order given; `top` is the last n and `bottom`
/// the first n, both ascending.
///
/// # Errors
/// A score that is not finite, with its index; `n` 0 or larger than the number of scores.
pub(crate) fn top_bottom(scores: &[f64], n: usize) -> Result<Selection, StatsError> {
    require_selectable(scores, n)?;
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| compare(scores[a], scores[b]));
    Ok(select(
        order[order.len() - n..].to_vec(),
        order[..n].to_vec(),
    ))
}

/// The holdout ranking: prompts in lexicographic order of `ids`, then a stable *descending* sort by score, so that ties stay in
/// lexicographic order; `top` is the first n and `bottom` the last n, both descending. `scores` and `ids` go together.
///
/// # Errors
/// As [`top_bottom`], and lists of different length.
pub(crate) fn top_bottom_descending<S: AsRef<str>>(
    ids: &[S],
    scores: &[f64],
    n: usize,
) -> Result<Selection, StatsError> {
    require_length("the list of scores", scores.len(), ids.len())?;
    require_selectable(scores, n)?;
    let mut order = lexicographic_order(ids);
    order.sort_by(|&a, &b| compare(scores[b], scores[a]));
    Ok(select(
        order[..n].to_vec(),
        order[order.len() - n..].to_vec(),
    ))
}

/// Order of finite scores. Not `total_cmp`, which would put -0.0 below 0.0 and so break a tie.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

fn require_selectable(scores: &[f64], n: usize) -> Result<(), StatsError> {
    require_finite("the scores to rank", scores)?;
    if n == 0 || n > scores.len() {
        return Err(StatsError::SelectionSize {
            wanted: n,
            available: scores.len(),
        });
    }
    Ok(())
}

fn select(top: Vec<usize>, bottom: Vec<usize>) -> Selection {
    let overlap = top
        .iter()
        .copied()
        .filter(|index| bottom.contains(index))
        .collect();
    Selection {
        top,
        bottom,
        overlap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ascending_keeps_ties_in_file_order() {
        let scores = [1.0, 3.0, 1.0, 3.0, 2.0, 3.0, 1.0];
        let selection = top_bottom(&scores, 2).unwrap();
        assert_eq!(selection.bottom, [0, 2]);
        assert_eq!(selection.top, [3, 5]);
        assert!(selection.overlap.is_empty());
    }

    #[test]
    fn descending_keeps_ties_in_order_of_ids() {
        let ids = ["g", "b", "c", "a", "e", "f", "d"];
        let scores = [1.0, 3.0, 1.0, 3.0, 2.0, 3.0, 1.0];
        let selection = top_bottom_descending(&ids, &scores, 2).unwrap();
        // Ranking: a b f (3.0), e (2.0), c d g (1.0). A reversed ascending sort would start f b a and end g d c reversed.
        assert_eq!(selection.top, [3, 1]);
        assert_eq!(selection.bottom, [6, 0]);
    }

    #[test]
    fn signed_zeros_tie() {
        assert_eq!(top_bottom(&[0.0, -0.0], 1).unwrap().bottom, [0]);
    }

    #[test]
    fn overlap_is_reported_not_refused() {
        let selection = top_bottom(&[1.0, 2.0, 3.0], 2).unwrap();
        assert_eq!(selection.overlap, [1]);
        let whole = top_bottom_descending(&["x", "y"], &[1.0, 2.0], 2).unwrap();
        assert_eq!(whole.top, [1, 0]);
        assert_eq!(whole.overlap, [1, 0]);
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(matches!(
            top_bottom(&[1.0, f64::NAN, 2.0], 1),
            Err(StatsError::NonFinite { index: 1, .. })
        ));
        assert!(matches!(
            top_bottom_descending(&["a", "b"], &[f64::INFINITY, 0.0], 1),
            Err(StatsError::NonFinite { index: 0, .. })
        ));
        for n in [0, 3] {
            let expected = Err(StatsError::SelectionSize {
                wanted: n,
                available: 2,
            });
            assert_eq!(top_bottom(&[1.0, 2.0], n), expected);
            assert_eq!(top_bottom_descending(&["a", "b"], &[1.0, 2.0], n), expected);
        }
        assert!(top_bottom(&[], 1).is_err());
        assert!(top_bottom_descending(&["a", "b"], &[1.0], 1).is_err());
    }
}
