//! What edits that move a mean need to know beside a direction: the means of its groups, and what reads the component to take out.

use std::sync::Arc;

use rayon::prelude::*;

use crate::model::Vector;

/// Of two groups of activations; each `[d_model]`, float32.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Affine {
    /// μ_A
    pub(crate) mean_a: Arc<Vector>,
    /// μ_B
    pub(crate) mean_b: Arc<Vector>,
    /// μ, of both groups' prompts together.
    pub(crate) mean: Arc<Vector>,
    /// r = ‖δ‖ Σ⁻¹δ / (δᵀΣ⁻¹δ) with δ = μ_A − μ_B, so that h − v·r(h − μ) has the same mean in both groups, and of all affine maps of which that is
    /// so changes h least where Σ is the covariance (LEACE for two classes, Belrose et al., arXiv:2306.03819). Σ is that of both groups together,
    /// shrunk to a multiple of the identity as Ledoit and Wolf do (2004, <https://doi.org/10.1016/S0047-259X(03)00096-4>): there are fewer prompts
    /// than dimensions. However much it is shrunk, r·δ = ‖δ‖, and the means become equal.
    pub(crate) eraser: Arc<Vector>,
}

impl Affine {
    /// Of the activations of A and B, `[prompt][d_model]`; none where they do not differ.
    pub(super) fn of(top: &[Vec<f32>], bottom: &[Vec<f32>]) -> Option<Self> {
        let (mean_a, mean_b) = (mean(top)?, mean(bottom)?);
        let all: Vec<&Vec<f32>> = top.iter().chain(bottom).collect();
        let centre = mean(&all)?;
        let delta: Vec<f64> = mean_a.iter().zip(&mean_b).map(|(a, b)| a - b).collect();
        let length = dot(&delta, &delta).sqrt();
        let centred = all.iter().map(|row| {
            let values = row.iter().zip(&centre);
            values.map(|(x, m)| f64::from(*x) - m).collect()
        });
        let centred: Vec<Vec<f64>> = centred.collect();
        let weights = (0..all.len()).map(|row| match row < top.len() {
            true => 1.0 / top.len() as f64,
            false => -1.0 / bottom.len() as f64,
        });
        let read = whitened(&centred, weights.collect())?;
        let scale = length / dot(&read, &delta);
        scale.is_finite().then(|| Affine {
            mean_a: narrow(&mean_a),
            mean_b: narrow(&mean_b),
            mean: narrow(&centre),
            eraser: narrow(&read.iter().map(|x| x * scale).collect::<Vec<f64>>()),
        })
    }

    /// Where the mean is as a vector reads it.
    pub(in crate::stages) fn level_of_mean(&self, read: &Vector) -> f64 {
        let pairs = self.mean.values().iter().zip(read.values());
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }
}

/// Σ⁻¹ Xᵀc for centred rows X, where Σ is their shrunk covariance; by the rows' own products, of which there are fewer than dimensions.
fn whitened(rows: &[Vec<f64>], weights: Vec<f64>) -> Option<Vec<f64>> {
    let width = rows.first()?.len() as f64;
    let solved = shrunk_solution(products(rows), width, weights)?;
    let mut sum = vec![0.0; rows[0].len()];
    for (row, weight) in rows.iter().zip(solved) {
        sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
    }
    Some(sum)
}

/// The products of rows with each other.
pub(super) fn products(rows: &[Vec<f64>]) -> Vec<Vec<f64>> {
    rows.par_iter()
        .map(|a| rows.iter().map(|b| dot(a, b)).collect())
        .collect()
}

/// The weights of the rows whose sum is Σ⁻¹ Xᵀc, from the products of centred rows X that are so wide.
pub(super) fn shrunk_solution(
    products: Vec<Vec<f64>>,
    width: f64,
    weights: Vec<f64>,
) -> Option<Vec<f64>> {
    let n = products.len();
    let count = n as f64;
    let trace: f64 = (0..n).map(|i| products[i][i]).sum::<f64>() / count;
    let squares: f64 = products.iter().flatten().map(|x| x * x).sum::<f64>() / (count * count);
    let fourth: f64 = (0..n).map(|i| products[i][i].powi(2)).sum();
    // Ledoit and Wolf's m, d² and b², times the width where they divide by it.
    let level = trace / width;
    let spread = squares - trace * trace / width;
    let error = ((fourth / count - squares) / count).clamp(0.0, spread.max(0.0));
    let shrunk = if spread > 0.0 { error / spread } else { 1.0 };
    let mut system = products;
    for (i, row) in system.iter_mut().enumerate() {
        row.iter_mut().for_each(|x| *x *= (1.0 - shrunk) / count);
        row[i] += shrunk * level;
    }
    solved(system, weights)
}

/// The solution of a symmetric positive system, by Cholesky's factors; none of one that is not.
fn solved(system: Vec<Vec<f64>>, right: Vec<f64>) -> Option<Vec<f64>> {
    factors(system).map(|factors| solved_by(&factors, right))
}

/// Cholesky's factors of a symmetric positive system, in its lower half; none of one that is not.
pub(super) fn factors(mut system: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    for j in 0..system.len() {
        for i in j..system.len() {
            let below: f64 = (0..j).map(|k| system[i][k] * system[j][k]).sum();
            let left = system[i][j] - below;
            system[i][j] = match i == j {
                true if left > 0.0 => left.sqrt(),
                true => return None,
                false => left / system[j][j],
            };
        }
    }
    Some(system)
}

/// The solution of a system of which these are Cholesky's factors.
pub(super) fn solved_by(factors: &[Vec<f64>], mut right: Vec<f64>) -> Vec<f64> {
    let n = right.len();
    for i in 0..n {
        let before: f64 = (0..i).map(|k| factors[i][k] * right[k]).sum();
        right[i] = (right[i] - before) / factors[i][i];
    }
    for i in (0..n).rev() {
        let behind: f64 = (i + 1..n).map(|k| factors[k][i] * right[k]).sum();
        right[i] = (right[i] - behind) / factors[i][i];
    }
    right
}

pub(super) fn mean<R: AsRef<[f32]>>(rows: &[R]) -> Option<Vec<f64>> {
    let width = rows.first()?.as_ref().len();
    let sum = |i: usize| {
        rows.iter()
            .map(|row| f64::from(row.as_ref()[i]))
            .sum::<f64>()
    };
    Some((0..width).map(|i| sum(i) / rows.len() as f64).collect())
}

pub(super) fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a * b).sum()
}

fn narrow(x: &[f64]) -> Arc<Vector> {
    Arc::new(Vector::new(x.iter().map(|&x| x as f32).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows that differ along the first two axes, with noise that is larger along the second.
    fn groups() -> [Vec<Vec<f32>>; 2] {
        let noise = [0.3f32, -0.2, 0.5, -0.6, 0.1, -0.1];
        let row = |i: usize, shift: f32| {
            vec![
                shift + 0.1 * noise[i],
                0.5 * shift + 3.0 * noise[(i + 2) % 6],
                noise[(i + 4) % 6],
                0.2,
            ]
        };
        let group = |shift| (0..6).map(|i| row(i, shift)).collect();
        [group(1.0), group(-1.0)]
    }

    #[test]
    fn erased_groups_have_equal_means() {
        let [top, bottom] = groups();
        let affine = Affine::of(&top, &bottom).unwrap();
        let delta: Vec<f64> = affine
            .mean_a
            .values()
            .iter()
            .zip(affine.mean_b.values())
            .map(|(a, b)| f64::from(a - b))
            .collect();
        let length = dot(&delta, &delta).sqrt();
        let read: Vec<f64> = affine.eraser.values().iter().map(|&x| x.into()).collect();
        assert!((dot(&read, &delta) / length - 1.0).abs() < 1e-6);
        let erased = |rows: &[Vec<f32>]| -> Vec<f64> {
            let level = affine.level_of_mean(&affine.eraser);
            let one = |row: &Vec<f32>| -> Vec<f64> {
                let x: Vec<f64> = row.iter().map(|&x| x.into()).collect();
                let over = dot(&x, &read) - level;
                x.iter()
                    .zip(&delta)
                    .map(|(x, d)| x - over * d / length)
                    .collect()
            };
            let rows: Vec<Vec<f64>> = rows.iter().map(one).collect();
            (0..4)
                .map(|i| rows.iter().map(|r| r[i]).sum::<f64>() / 6.0)
                .collect()
        };
        for (a, b) in erased(&top).iter().zip(erased(&bottom)) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
        // The quieter axis is read more than it is different: that is what tells LEACE from an ablation.
        assert!(read[0] / read[1] > 2.0 * delta[0] / delta[1], "{read:?}");
    }

    #[test]
    fn a_system_is_solved_and_one_that_is_not_positive_is_none() {
        let x = solved(vec![vec![4.0, 2.0], vec![2.0, 3.0]], vec![2.0, 5.0]).unwrap();
        assert!(
            (x[0] + 0.5).abs() < 1e-12 && (x[1] - 2.0).abs() < 1e-12,
            "{x:?}"
        );
        assert_eq!(solved(vec![vec![0.0]], vec![1.0]), None);
    }

    #[test]
    fn groups_that_do_not_differ_have_none() {
        let same = [vec![1.0f32, 2.0]];
        assert!(Affine::of(&same, &same).is_none());
        assert!(Affine::of(&same, &[]).is_none());
    }
}
