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
    Ok(select(&order[order.len() - n..], &order[..n]))
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
    Ok(select(&order[..n], &order[order.len() - n..]))
}

/// Order of finite scores. Not `total_cmp`, which would put -0.0 below 0.0 and so break a tie.
fn compare(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or(Ordering::Equal)
}

fn require_selectable(scores: &[f64], n: usize) -> Result<(), StatsError> {
    require_finite("the scores to rank", scores)?;
    let (n_of, available) = ("prompts at each end of the ranking", scores.len());
    match n {
        0 => Err(StatsError(format!(
            "n = `0` {n_of}: expected 1 to {available}; raise n"
        ))),
        n if n > available => Err(StatsError(format!(
            "n = `{n}` {n_of}, but there are only {available}: lower n or add prompts"
        ))),
        _ => Ok(()),
    }
}

fn select(top: &[usize], bottom: &[usize]) -> Selection {
    let overlap = top.iter().filter(|index| bottom.contains(index));
    Selection {
        overlap: overlap.copied().collect(),
        top: top.to_vec(),
        bottom: bottom.to_vec(),
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
        let nan = top_bottom(&[1.0, f64::NAN, 2.0], 1);
        assert!(nan.is_err_and(|error| error.0.contains("`NaN` at index 1 of")));
        let infinite = top_bottom_descending(&["a", "b"], &[f64::INFINITY, 0.0], 1);
        assert!(infinite.is_err_and(|error| error.0.contains("`inf` at index 0 of")));
        for (n, message) in [
            (
                0,
                "n = `0` prompts at each end of the ranking: expected 1 to 2; raise n",
            ),
            (
                3,
                "n = `3` prompts at each end of the ranking, but there are only 2: lower n or add prompts",
            ),
        ] {
            let expected = Err(StatsError(message.to_string()));
            assert_eq!(top_bottom(&[1.0, 2.0], n), expected);
            assert_eq!(top_bottom_descending(&["a", "b"], &[1.0, 2.0], n), expected);
        }
        assert!(top_bottom(&[], 1).is_err());
        assert!(top_bottom_descending(&["a", "b"], &[1.0], 1).is_err());
    }
}
