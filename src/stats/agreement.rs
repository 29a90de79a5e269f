//! How far two labellings, or two directions, agree.

use super::bootstrap::bootstrap;
use super::{Interval, StatsError, require_finite, require_length};

/// Cohen's kappa of a 2x2 table of counts, `table[label of the first][label of the second]` (Cohen, "A coefficient of
/// agreement for nominal scales", 1960): agreement beyond chance over the most possible beyond chance. `None` for an empty table and
/// when both gave every case one and the same label, where chance agreement is 1 and kappa is 0 / 0.
pub(crate) fn cohens_kappa(table: [[u64; 2]; 2]) -> Option<f64> {
    // Floats, because sums and squares of counts are exact far beyond any real table and cannot overflow.
    let [[a, b], [c, d]] = table.map(|row| row.map(|count| count as f64));
    let total = a + b + c + d;
    let one_label_only = b + c == 0.0 && (a == 0.0 || d == 0.0);
    if one_label_only {
        return None;
    }
    let chance = (a + b) * (a + c) + (c + d) * (b + d);
    Some((total * (a + d) - chance) / (total * total - chance))
}

/// 95 % interval of the kappa of several prompts' counts together: prompts are resampled, so that several cases of one are not taken for
/// independent ones (Field & Welsh, "Bootstrapping clustered data", 2007). `None` for fewer than two prompts, and where kappa is undefined in
/// more than one of twenty resamples.
pub(crate) fn kappa_interval(of_prompts: &[[[u64; 2]; 2]], seed: u64) -> Option<Interval> {
    bootstrap(of_prompts.len(), seed, |indices| {
        cohens_kappa(together(indices.iter().map(|&index| &of_prompts[index])))
    })
}

/// The sum of tables of counts.
pub(crate) fn together<'a>(tables: impl IntoIterator<Item = &'a [[u64; 2]; 2]>) -> [[u64; 2]; 2] {
    tables.into_iter().fold([[0; 2]; 2], |mut sum, table| {
        for (row, counts) in sum.iter_mut().zip(table) {
            for (cell, count) in row.iter_mut().zip(counts) {
                *cell += count;
            }
        }
        sum
    })
}

/// Area under the ROC curve: how often a case of the one class has a higher score than one of the other, ties for half (Hanley & McNeil, "The
/// meaning and use of the area under a ROC curve", 1982). `None` where there is but one class.
pub(crate) fn auroc(cases: &[(f64, bool)]) -> Result<Option<f64>, StatsError> {
    let scores: Vec<f64> = cases.iter().map(|(score, _)| *score).collect();
    require_finite("the scores", &scores)?;
    let mut sorted = cases.to_vec();
    sorted.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in sorted.chunk_by(|(a, _), (b, _)| a == b) {
        let positive = tied.iter().filter(|(_, is_positive)| *is_positive).count() as f64;
        let negative = tied.len() as f64 - positive;
        wins += positive * (below + negative / 2.0);
        below += negative;
    }
    let positive = cases.len() as f64 - below;
    Ok((positive > 0.0 && below > 0.0).then(|| wins / (positive * below)))
}

/// 95 % bootstrap interval of the same, over units of which each is drawn with all of its cases: a contrast pair, or one case.
pub(crate) fn auroc_interval(
    units: &[Vec<(f64, bool)>],
    seed: u64,
) -> Result<Option<Interval>, StatsError> {
    let scores: Vec<f64> = units.iter().flatten().map(|(score, _)| *score).collect();
    require_finite("the scores", &scores)?;
    let mut cases = Vec::new();
    Ok(bootstrap(units.len(), seed, |indices| {
        cases.clear();
        indices
            .iter()
            .for_each(|&index| cases.extend(&units[index]));
        auroc(&cases).ok().flatten()
    }))
}

/// The same numbers in float64.
pub(crate) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// Cosine of the angle between two vectors of one length, -1 to 1. `None` when either is zero.
pub(crate) fn cosine(a: &[f64], b: &[f64]) -> Result<Option<f64>, StatsError> {
    require_length("the second vector", b.len(), a.len())?;
    require_finite("the first vector", a)?;
    require_finite("the second vector", b)?;
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let norms = dot(a, a).sqrt() * dot(b, b).sqrt();
    // Rounding can carry parallel vectors a bit past 1.
    Ok((norms > 0.0).then(|| (dot(a, b) / norms).clamp(-1.0, 1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kappa_equals_scikit_learn() {
        // scikit-learn 1.9.1: metrics.cohen_kappa_score on labels that give these tables; one division apart, hence 1e-15.
        for (table, expected) in [
            ([[45, 15], [25, 15]], 0.13043478260869568),
            ([[20, 5], [10, 15]], 0.4),
            ([[0, 5], [0, 0]], 0.0),
            ([[10, 0], [0, 3]], 1.0),
            ([[0, 4], [6, 0]], -0.9230769230769229),
        ] {
            let kappa = cohens_kappa(table).unwrap();
            assert!((kappa - expected).abs() < 1e-15, "{table:?} {kappa}");
        }
    }

    #[test]
    fn kappa_without_disagreement_possible_is_none() {
        assert_eq!(cohens_kappa([[0, 0], [0, 0]]), None);
        assert_eq!(cohens_kappa([[9, 0], [0, 0]]), None);
        assert_eq!(cohens_kappa([[0, 0], [0, 9]]), None);
        let huge = cohens_kappa([[u64::MAX, 0], [0, u64::MAX]]);
        assert_eq!(huge, Some(1.0));
    }

    #[test]
    fn the_area_under_the_curve_counts_pairs() {
        let auroc = |cases: &[(f64, bool)]| auroc(cases).unwrap();
        assert_eq!(auroc(&[(1.0, true), (2.0, false), (3.0, true)]), Some(0.5));
        assert_eq!(auroc(&[(1.0, true), (1.0, false)]), Some(0.5));
        // Pairs of (2, 3) with (1, 2): three above, one tie.
        let cases = [(1.0, false), (2.0, false), (2.0, true), (3.0, true)];
        assert_eq!(auroc(&cases), Some(3.5 / 4.0));
        assert_eq!(auroc(&[(1.0, true), (2.0, true)]), None);
        assert_eq!(auroc(&[]), None);
    }

    #[test]
    fn the_interval_of_kappa_is_over_prompts() {
        let (same, other) = ([[1, 0], [0, 1]], [[0, 1], [1, 0]]);
        let interval = kappa_interval(&[same; 5], 0).unwrap();
        assert_eq!((interval.low, interval.high), (1.0, 1.0));
        let mixed: Vec<[[u64; 2]; 2]> = (0..40)
            .map(|i| if i % 4 == 0 { other } else { same })
            .collect();
        let interval = kappa_interval(&mixed, 0).unwrap();
        // Each prompt has one case of each label, so κ is the share of agreement, 0.75, made to run from −1: 0.5, with a standard
        // deviation of 2 · √(0.75 · 0.25 / 40) = 0.137.
        assert!(
            (interval.low - 0.23).abs() < 0.05 && (interval.high - 0.77).abs() < 0.05,
            "{interval:?}"
        );
        // The same counts as forty times as many cases of each prompt are no more prompts.
        let repeated: Vec<[[u64; 2]; 2]> = mixed
            .iter()
            .map(|t| t.map(|row| row.map(|n| n * 40)))
            .collect();
        assert_eq!(kappa_interval(&repeated, 0), Some(interval));
        assert_eq!(kappa_interval(&[same], 0), None);
        assert_eq!(
            kappa_interval(&[[[1, 0], [0, 0]]; 9], 0),
            None,
            "one label only"
        );
    }

    #[test]
    fn cosine_equals_scipy() {
        // scipy 1.17.1: 1 - spatial.distance.cosine([1, 2, 3], [4, -5, 6.5]); three terms agree to 1e-15.
        let found = cosine(&[1.0, 2.0, 3.0], &[4.0, -5.0, 6.5])
            .unwrap()
            .unwrap();
        assert!((found - 0.3954372976473721).abs() < 1e-15, "{found}");
        assert_eq!(cosine(&[0.1, 0.7], &[-0.3, -2.1]), Ok(Some(-1.0)));
        assert_eq!(cosine(&[1.0, 0.0], &[0.0, 5.0]), Ok(Some(0.0)));
    }

    #[test]
    fn cosine_of_zero_is_none_and_bad_input_an_error() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), Ok(None));
        assert_eq!(cosine(&[], &[]), Ok(None));
        assert!(cosine(&[1.0], &[1.0, 2.0]).is_err());
        assert!(cosine(&[1.0, f64::NAN], &[1.0, 2.0]).is_err());
    }
}
