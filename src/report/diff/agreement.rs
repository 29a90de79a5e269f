//! What should be the same even where numbers differ by rounding: the sign of every slope on α, and which layers and sites matter most.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats;

use super::measure::{Matched, Quantity};

/// How far two sides agree beyond single numbers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Agreement {
    pub(crate) kind: String,
    /// `signs of slopes on α`, or `ranking of patches`.
    pub(crate) what: String,
    /// Slopes, or patched places.
    pub(crate) n: usize,
    /// The share of slopes of one sign, or Spearman's rank correlation of the effects.
    pub(crate) agreement: f64,
    /// What stands out, in words.
    pub(crate) detail: String,
}

/// What the two sides of a quantity agree in, of the rows that both have.
pub(super) fn agreements(kind: &str, quantity: Quantity, matched: &Matched) -> Vec<Agreement> {
    match quantity {
        Quantity::Score | Quantity::Mean => slopes(kind, matched).into_iter().collect(),
        Quantity::MeanDelta => rankings(kind, matched),
        _ => Vec::new(),
    }
}

/// Sums by α: left, right, count.
type Sums<'a> = BTreeMap<&'a str, [f64; 3]>;

fn slopes(kind: &str, matched: &Matched) -> Option<Agreement> {
    let alpha = matched
        .conditions
        .iter()
        .position(|name| *name == "alpha")?;
    let mut groups: BTreeMap<Vec<String>, Sums<'_>> = BTreeMap::new();
    for row in &matched.rows {
        let at = matched.conditions.iter().zip(&row.at);
        let at = at.filter(|(name, _)| !["alpha", "id"].contains(name));
        let at = at.map(|(name, value)| format!("{name}={value}"));
        let sums = groups.entry(at.collect()).or_default();
        let sum = sums.entry(&row.at[alpha]).or_default();
        *sum = [sum[0] + row.left, sum[1] + row.right, sum[2] + 1.0];
    }
    let mut differing = Vec::new();
    let mut n = 0;
    for (name, sums) in &groups {
        let slope = |side: usize| {
            let points = sums.iter();
            let points = points
                .filter_map(|(alpha, sum)| Some((alpha.parse::<f64>().ok()?, sum[side] / sum[2])));
            let (alphas, means): (Vec<f64>, Vec<f64>) = points.unzip();
            stats::ols_slope(&alphas, &means).ok().flatten()
        };
        let (Some(a), Some(b)) = (slope(0), slope(1)) else {
            continue;
        };
        n += 1;
        if a.signum() != b.signum() {
            differing.push(format!("{} ({a:.3} and {b:.3})", name.join(" ")));
        }
    }
    (n > 0).then(|| Agreement {
        kind: kind.to_string(),
        what: "signs of slopes on α".to_string(),
        n,
        agreement: (n - differing.len()) as f64 / n as f64,
        detail: match differing.is_empty() {
            true => "all the same".to_string(),
            false => format!("differ at {}", differing.join("; ")),
        },
    })
}

fn rankings(kind: &str, matched: &Matched) -> Vec<Agreement> {
    let set = matched.conditions.iter().position(|name| *name == "set");
    let mut groups: BTreeMap<&str, Vec<(String, f64, f64)>> = BTreeMap::new();
    for row in &matched.rows {
        let mut place: Vec<&str> = row.at.iter().map(String::as_str).collect();
        let name = set.map_or("", |set| place.remove(set));
        let group = groups.entry(name).or_default();
        group.push((place.join(" "), row.left, row.right));
    }
    let ranking = |(name, mut effects): (&str, Vec<(String, f64, f64)>)| {
        effects.sort_by(|a, b| a.0.cmp(&b.0));
        let a: Vec<f64> = effects.iter().map(|effect| effect.1).collect();
        let b: Vec<f64> = effects.iter().map(|effect| effect.2).collect();
        let top = |of: &[f64]| {
            let largest = (0..of.len()).max_by(|&i, &j| of[i].total_cmp(&of[j]));
            largest.map_or("", |index| &effects[index].0)
        };
        Some(Agreement {
            kind: kind.to_string(),
            what: format!("ranking of patches, {name}"),
            n: effects.len(),
            agreement: spearman(&a, &b)?,
            detail: format!("largest at {} and at {}", top(&a), top(&b)),
        })
    };
    groups.into_iter().filter_map(ranking).collect()
}

/// Spearman's rank correlation, ties with their mean rank; none with fewer than two values or where all of a side are equal.
fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    let centred = |values: &[f64]| -> Vec<f64> {
        let middle = (values.len() as f64 + 1.0) / 2.0;
        let rank = |x: &f64| {
            let below = values.iter().filter(|y| *y < x).count() as f64;
            let equal = values.iter().filter(|y| *y == x).count() as f64;
            below + (equal + 1.0) / 2.0 - middle
        };
        values.iter().map(rank).collect()
    };
    stats::cosine(&centred(a), &centred(b)).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::diff::measure::MatchedRow;

    #[test]
    fn rank_correlation_with_ties() {
        let close = |a: Option<f64>, b: f64| assert!((a.unwrap() - b).abs() < 1e-12, "{a:?}");
        close(spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 21.0]), 1.0);
        close(spearman(&[1.0, 2.0, 3.0], &[3.0, 2.0, 1.0]), -1.0);
        // Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: 4.5 / sqrt(4.5 · 5).
        let expected = 4.5 / (4.5_f64 * 5.0).sqrt();
        close(
            spearman(&[0.0, 1.0, 1.0, 2.0], &[0.0, 5.0, 4.0, 6.0]),
            expected,
        );
        assert_eq!(spearman(&[1.0, 1.0], &[1.0, 2.0]), None);
    }

    #[test]
    fn a_slope_of_the_other_sign_is_named() {
        let found = |right: [f64; 2]| {
            let row = |alpha: &str, left: f64, right: f64| MatchedRow {
                at: vec!["inst".to_string(), alpha.to_string()],
                left,
                right,
            };
            let matched = Matched {
                conditions: vec!["model", "alpha"],
                rows: vec![row("-1", 0.0, right[0]), row("1", 1.0, right[1])],
                only_left: 0,
                only_right: 0,
                note: None,
            };
            agreements("steer", Quantity::Mean, &matched).remove(0)
        };
        assert_eq!(found([0.1, 0.9]).agreement, 1.0);
        let other = found([0.9, 0.1]);
        assert_eq!((other.n, other.agreement), (1, 0.0));
        assert!(other.detail.contains("model=inst"), "{other:?}");
    }
}
