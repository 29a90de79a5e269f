//! How far two labellings, or two directions, agree.

use super::{StatsError, require_finite, require_length};

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
