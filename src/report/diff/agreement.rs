//! What should be the same even where numbers differ by rounding: the sign of every slope on α, and which layers and sites matter most.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::stats;

use super::measure::{Matched, MatchedRow, Quantity};

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
    let conditions = &matched.conditions;
    let at = |name: &str| conditions.iter().position(|condition| *condition == name);
    match quantity {
        Quantity::Score | Quantity::Mean => match at("alpha") {
            Some(alpha) => slopes(kind, alpha, at("id"), matched),
            None => Vec::new(),
        },
        Quantity::MeanDelta => rankings(kind, at("set"), &matched.rows),
        Quantity::RefusalRate => Vec::new(),
    }
}

/// Sums by α: left, right, count.
type Sums = BTreeMap<String, (f64, f64, f64)>;

fn slopes(kind: &str, alpha: usize, id: Option<usize>, matched: &Matched) -> Vec<Agreement> {
    let mut groups: BTreeMap<Vec<String>, Sums> = BTreeMap::new();
    for row in &matched.rows {
        let kept = row.at.iter().zip(&matched.conditions).enumerate();
        let kept = kept.filter(|(index, _)| *index != alpha && Some(*index) != id);
        let named = kept.map(|(_, (value, name))| format!("{name}={value}"));
        let sums = groups.entry(named.collect()).or_default();
        let sum = sums.entry(row.at[alpha].clone()).or_default();
        *sum = (sum.0 + row.left, sum.1 + row.right, sum.2 + 1.0);
    }
    let mut differing = Vec::new();
    let mut n = 0;
    for (name, sums) in &groups {
        let points: Vec<(f64, f64, f64)> = sums
            .iter()
            .filter_map(|(alpha, sum)| Some((alpha.parse().ok()?, sum.0 / sum.2, sum.1 / sum.2)))
            .collect();
        let alphas: Vec<f64> = points.iter().map(|point| point.0).collect();
        let slope = |of: fn(&(f64, f64, f64)) -> f64| {
            let means: Vec<f64> = points.iter().map(of).collect();
            stats::ols_slope(&alphas, &means).ok().flatten()
        };
        let (Some(a), Some(b)) = (slope(|point| point.1), slope(|point| point.2)) else {
            continue;
        };
        n += 1;
        if a.signum() != b.signum() {
            differing.push(format!("{} ({a:.3} and {b:.3})", name.join(" ")));
        }
    }
    if n == 0 {
        return Vec::new();
    }
    vec![Agreement {
        kind: kind.to_string(),
        what: "signs of slopes on α".to_string(),
        n,
        agreement: (n - differing.len()) as f64 / n as f64,
        detail: match differing.is_empty() {
            true => "all the same".to_string(),
            false => format!("differ at {}", differing.join("; ")),
        },
    }]
}

fn rankings(kind: &str, set: Option<usize>, rows: &[MatchedRow]) -> Vec<Agreement> {
    let mut groups: BTreeMap<String, Vec<(String, f64, f64)>> = BTreeMap::new();
    for row in rows {
        let name = set.map_or(String::new(), |set| row.at[set].clone());
        let place = row.at.iter().enumerate().filter(|(i, _)| Some(*i) != set);
        let place: Vec<&str> = place.map(|(_, value)| value.as_str()).collect();
        let group = groups.entry(name).or_default();
        group.push((place.join(" "), row.left, row.right));
    }
    let mut found = Vec::new();
    for (name, mut effects) in groups {
        effects.sort_by(|a, b| a.0.cmp(&b.0));
        let values =
            |of: fn(&(String, f64, f64)) -> f64| effects.iter().map(of).collect::<Vec<_>>();
        let (a, b) = (values(|effect| effect.1), values(|effect| effect.2));
        let Some(agreement) = spearman(&a, &b) else {
            continue;
        };
        let top = |of: &[f64]| {
            let largest = (0..of.len()).max_by(|&i, &j| of[i].total_cmp(&of[j]));
            largest.map_or("", |index| &effects[index].0)
        };
        found.push(Agreement {
            kind: kind.to_string(),
            what: format!("ranking of patches, {name}"),
            n: effects.len(),
            agreement,
            detail: format!("largest at {} and at {}", top(&a), top(&b)),
        });
    }
    found
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
            };
            agreements("steer", Quantity::Mean, &matched).remove(0)
        };
        assert_eq!(found([0.1, 0.9]).agreement, 1.0);
        let other = found([0.9, 0.1]);
        assert_eq!((other.n, other.agreement), (1, 0.0));
        assert!(other.detail.contains("model=inst"), "{other:?}");
    }
}
