//! Activations by their products with each other: the linear algebra of directions that are sums of them.

use super::affine;

/// Activations of A and B, less the mean of all, and their products with each other.
pub(super) struct Sample {
    rows: Vec<Vec<f64>>,
    products: Vec<Vec<f64>>,
}

impl Sample {
    /// A before B.
    ///
    /// # Errors
    /// A fragment: an empty group, or an activation that is not finite.
    pub(super) fn of(top: &[Vec<f32>], bottom: &[Vec<f32>]) -> Result<Self, String> {
        if top.is_empty() || bottom.is_empty() {
            return Err("has an empty group: no prompt was selected on one side".to_string());
        }
        let all: Vec<&Vec<f32>> = top.iter().chain(bottom).collect();
        let mean = affine::mean(&all).unwrap_or_default();
        let centred = |row: &&Vec<f32>| {
            row.iter()
                .zip(&mean)
                .map(|(x, m)| f64::from(*x) - m)
                .collect()
        };
        let rows: Vec<Vec<f64>> = all.iter().map(centred).collect();
        let products = affine::products(&rows);
        match products.iter().flatten().all(|x| x.is_finite()) {
            true => Ok(Sample { rows, products }),
            false => Err("is not finite".to_string()),
        }
    }

    pub(super) fn count(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn products(&self) -> &[Vec<f64>] {
        &self.products
    }

    /// The product of each activation with a sum of them.
    pub(super) fn along(&self, weights: &[f64]) -> Vec<f64> {
        self.products
            .iter()
            .map(|row| affine::dot(row, weights))
            .collect()
    }

    /// The length of a sum.
    pub(super) fn length(&self, weights: &[f64]) -> f64 {
        affine::dot(weights, &self.along(weights)).max(0.0).sqrt()
    }

    pub(super) fn cosine(&self, one: &[f64], other: &[f64]) -> f64 {
        let lengths = self.length(one) * self.length(other);
        (affine::dot(one, &self.along(other)) / lengths).clamp(-1.0, 1.0)
    }

    /// A sum, with length 1.
    pub(super) fn unit(&self, weights: &[f64]) -> Vec<f32> {
        let mut sum = vec![0.0; self.rows.first().map_or(0, Vec::len)];
        for (row, weight) in self.rows.iter().zip(weights) {
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += weight * x);
        }
        let length = affine::dot(&sum, &sum).sqrt();
        sum.iter().map(|x| (x / length) as f32).collect()
    }

    /// How far apart the means of two groups are along a sum: (μ_A − μ_B)·v̂.
    pub(super) fn signed_gap(&self, weights: &[f64], groups: (&[usize], &[usize])) -> f64 {
        let along = self.along(weights);
        let mean =
            |group: &[usize]| group.iter().map(|&i| along[i]).sum::<f64>() / group.len() as f64;
        (mean(groups.0) - mean(groups.1)) / self.length(weights)
    }

    /// The same whichever way it points.
    pub(super) fn gap(&self, weights: &[f64], groups: (&[usize], &[usize])) -> f64 {
        self.signed_gap(weights, groups).abs()
    }

    /// The weights of Σ⁻¹(μ_A − μ_B), Σ the covariance of all, shrunk. That within the groups would give the same direction: it differs by a multiple
    /// of the difference's own square, which changes Σ⁻¹(μ_A − μ_B) in its length alone.
    pub(super) fn discriminant(&self, (top, bottom): (&[usize], &[usize])) -> Option<Vec<f64>> {
        let mut weights = vec![0.0; self.count()];
        top.iter()
            .for_each(|&i| weights[i] = 1.0 / top.len() as f64);
        bottom
            .iter()
            .for_each(|&i| weights[i] = -1.0 / bottom.len() as f64);
        let width = self.rows.first()?.len() as f64;
        affine::shrunk_solution(self.products.clone(), width, weights)
    }
}

/// Steps of Newton's method; it takes some ten.
const MOST_STEPS: usize = 100;
/// A log-odds that changes by less has settled.
const SETTLED: f64 = 1e-9;

/// The weights of logistic regression: Σ log(1 + exp(−y(w·x + b))) + λ/2 ‖w‖² at its least, the activations divided by the root mean square of their
/// lengths, so that λ means the same at each layer. w is λ⁻¹ times a sum of activations. Newton's method (IRLS) on the log-odds, halving steps that go too
/// far.
///
/// # Errors
/// A fragment: it did not settle.
pub(super) fn logistic(
    sample: &Sample,
    (top, bottom): (&[usize], &[usize]),
    penalty: f64,
) -> Result<Vec<f64>, String> {
    let n = sample.count();
    let trace: f64 = (0..n).map(|i| sample.products()[i][i]).sum();
    if trace <= 0.0 {
        return Ok(vec![0.0; n]);
    }
    // K/λ, with which the log-odds are K/λ·a + b.
    let scale = n as f64 / trace / penalty;
    let kernel: Vec<Vec<f64>> = sample
        .products()
        .iter()
        .map(|row| row.iter().map(|x| x * scale).collect())
        .collect();
    let mut wanted = vec![None; n];
    top.iter().for_each(|&i| wanted[i] = Some(1.0));
    bottom.iter().for_each(|&i| wanted[i] = Some(0.0));
    let wanted: Vec<f64> = wanted.into_iter().map(|y| y.unwrap_or(0.5)).collect();
    let odds = |(a, b): &(Vec<f64>, f64)| -> Vec<f64> {
        kernel.iter().map(|row| affine::dot(row, a) + b).collect()
    };
    let loss = |at: &(Vec<f64>, f64)| {
        let odds = odds(at);
        let misses = odds.iter().zip(&wanted).map(|(f, y)| softplus(*f) - y * f);
        misses.sum::<f64>()
            + 0.5
                * kernel
                    .iter()
                    .zip(&at.0)
                    .map(|(row, a)| a * affine::dot(row, &at.0))
                    .sum::<f64>()
    };
    let mut at = (vec![0.0; n], 0.0);
    for _ in 0..MOST_STEPS {
        let next = newton(&kernel, &odds(&at), &wanted)
            .ok_or("has no logistic regression: raise `penalty`")?;
        let before = odds(&at);
        let lost = loss(&at);
        let mut share = 1.0;
        let moved = loop {
            let mixed = |from: f64, to: f64| from + share * (to - from);
            let a =
                at.0.iter()
                    .zip(&next.0)
                    .map(|(from, to)| mixed(*from, *to))
                    .collect();
            let moved = (a, mixed(at.1, next.1));
            if loss(&moved) <= lost + 1e-12 * lost.abs() || share < 1e-6 {
                break moved;
            }
            share /= 2.0;
        };
        let change = odds(&moved)
            .iter()
            .zip(&before)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        at = moved;
        if change < SETTLED {
            return Ok(at.0);
        }
    }
    Err(format!(
        "does not settle: logistic regression took {MOST_STEPS} steps; raise `penalty`"
    ))
}

/// A step of Newton's method: (K/λ + W⁻¹)a + b = z with Σa = 0, W the weights p(1 − p) and z = f + W⁻¹(y − p), solved as
/// (1 + √W K/λ √W) so that a weight that vanishes divides nothing.
fn newton(kernel: &[Vec<f64>], odds: &[f64], wanted: &[f64]) -> Option<(Vec<f64>, f64)> {
    let p: Vec<f64> = odds.iter().map(|f| 1.0 / (1.0 + (-f).exp())).collect();
    let roots: Vec<f64> = p
        .iter()
        .map(|p| (p * (1.0 - p)).max(1e-12).sqrt())
        .collect();
    let n = odds.len();
    let mut system: Vec<Vec<f64>> = (0..n)
        .map(|i| (0..n).map(|j| roots[i] * kernel[i][j] * roots[j]).collect())
        .collect();
    (0..n).for_each(|i| system[i][i] += 1.0);
    let z = (0..n).map(|i| odds[i] + (wanted[i] - p[i]) / (roots[i] * roots[i]));
    let right: Vec<f64> = z.zip(&roots).map(|(z, root)| z * root).collect();
    let factors = affine::factors(system)?;
    let of_z = affine::solved_by(&factors, right);
    let of_one = affine::solved_by(&factors, roots.clone());
    let sum = |x: &[f64]| affine::dot(x, &roots);
    let b = sum(&of_z) / sum(&of_one);
    let a = (0..n)
        .map(|i| roots[i] * (of_z[i] - b * of_one[i]))
        .collect();
    b.is_finite().then_some((a, b))
}

/// log(1 + exp x).
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Steps of Lanczos's method before it starts anew from what it has.
const BEFORE_RESTART: usize = 40;
const MOST_RESTARTS: usize = 500;
/// How far, relative to its value, an eigenvector may be from one.
const PRECISE: f64 = 1e-9;

/// The eigenvector of the largest eigenvalue of a symmetric matrix without negative ones, by Lanczos's method with each vector held orthogonal to all
/// before; none of a matrix of zeros.
///
/// # Errors
/// A fragment: it did not settle.
pub(super) fn largest(matrix: &[Vec<f64>]) -> Result<Option<Vec<f64>>, String> {
    let n = matrix.len();
    let trace: f64 = (0..n).map(|i| matrix[i][i]).sum();
    if trace <= 0.0 {
        return Ok(None);
    }
    // Orthogonal to nothing in particular, and the same each time.
    let mut start: Vec<f64> = (0..n)
        .map(|i| 1.0 + 0.5 * (i as f64 * 12.9898).sin())
        .collect();
    for _ in 0..MOST_RESTARTS {
        let (found, error, value) = lanczos(matrix, &start);
        if value > 0.0 && error <= PRECISE * value {
            return Ok(Some(found));
        }
        start = found;
    }
    Err("does not settle: its first principal components are equally long".to_string())
}

/// The best approximation from a start, how far it is from an eigenvector, and its eigenvalue.
fn lanczos(matrix: &[Vec<f64>], start: &[f64]) -> (Vec<f64>, f64, f64) {
    let scaled = |x: &[f64], by: f64| x.iter().map(|x| x / by).collect::<Vec<f64>>();
    let length = |x: &[f64]| affine::dot(x, x).sqrt();
    let mut basis = vec![scaled(start, length(start))];
    let (mut diagonal, mut beside) = (Vec::new(), Vec::new());
    loop {
        let last = &basis[basis.len() - 1];
        let mut image: Vec<f64> = matrix.iter().map(|row| affine::dot(row, last)).collect();
        diagonal.push(affine::dot(&image, last));
        for q in basis.iter().chain(&basis) {
            let along = affine::dot(&image, q);
            image.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
        }
        let left = length(&image);
        beside.push(left);
        let is_whole = left <= 1e-14 * diagonal.iter().fold(0.0, |a: f64, b| a.max(b.abs()));
        if is_whole || basis.len() == BEFORE_RESTART.min(matrix.len()) {
            break;
        }
        basis.push(scaled(&image, left));
    }
    let (value, small) = top_of_tridiagonal(&diagonal, &beside);
    let mut found = vec![0.0; matrix.len()];
    for (q, weight) in basis.iter().zip(&small) {
        found.iter_mut().zip(q).for_each(|(x, q)| *x += weight * q);
    }
    let error = beside[beside.len() - 1] * small[small.len() - 1].abs();
    (found, error, value)
}

/// The largest eigenvalue of a symmetric tridiagonal matrix and its eigenvector: by bisection with Sturm's count, then by inverse iteration.
fn top_of_tridiagonal(diagonal: &[f64], beside: &[f64]) -> (f64, Vec<f64>) {
    let n = diagonal.len();
    let off = |i: usize| if i + 1 < n { beside[i] } else { 0.0 };
    let before = |i: usize| if i > 0 { beside[i - 1] } else { 0.0 };
    let reach = |i: usize| diagonal[i] + off(i).abs() + before(i).abs();
    let mut high = (0..n).map(reach).fold(f64::NEG_INFINITY, f64::max);
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let is_above_all = |x: f64| {
        let mut pivot = 1.0;
        (0..n).all(|i| {
            pivot = x - diagonal[i] - before(i) * before(i) / pivot;
            pivot > 0.0
        })
    };
    while high - low > 1e-15 * high.abs().max(f64::MIN_POSITIVE) {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        match is_above_all(middle) {
            true => high = middle,
            false => low = middle,
        }
    }
    // A little above the eigenvalue the system is positive, and its solution all but the eigenvector.
    let shift = high + 1e-13 * high.abs();
    let mut found = vec![1.0; n];
    for _ in 0..4 {
        let mut system: Vec<Vec<f64>> = vec![vec![0.0; n]; n];
        for i in 0..n {
            system[i][i] = shift - diagonal[i];
            if i + 1 < n {
                (system[i][i + 1], system[i + 1][i]) = (-beside[i], -beside[i]);
            }
        }
        let Some(solved) =
            affine::factors(system).map(|factors| affine::solved_by(&factors, found.clone()))
        else {
            break;
        };
        let length = affine::dot(&solved, &solved).sqrt();
        found = solved.iter().map(|x| x / length).collect();
    }
    let length = affine::dot(&found, &found).sqrt();
    (high, found.iter().map(|x| x / length).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_eigenvector_is_found_however_many_there_are() {
        // Q D Qᵀ with a known first axis.
        for n in [1usize, 2, 7, 130] {
            let mut axis: Vec<f64> = (0..n).map(|i| ((i * i) as f64).cos()).collect();
            let length = affine::dot(&axis, &axis).sqrt();
            axis.iter_mut().for_each(|x| *x /= length);
            let matrix: Vec<Vec<f64>> = (0..n)
                .map(|i| {
                    (0..n)
                        .map(|j| 3.0 * axis[i] * axis[j] + if i == j { 2.9 } else { 0.0 })
                        .collect()
                })
                .collect();
            let found = largest(&matrix).unwrap().unwrap();
            let length = affine::dot(&found, &found).sqrt();
            assert!(
                (affine::dot(&found, &axis).abs() / length - 1.0).abs() < 1e-9,
                "{n}"
            );
        }
        assert_eq!(largest(&[vec![0.0; 2], vec![0.0; 2]]), Ok(None));
    }

    #[test]
    fn eigenvalues_that_are_close_are_told_apart() {
        let matrix: Vec<Vec<f64>> = (0..90)
            .map(|i| {
                (0..90)
                    .map(|j| if i == j { 1.0 + 0.001 * i as f64 } else { 0.0 })
                    .collect()
            })
            .collect();
        let found = largest(&matrix).unwrap().unwrap();
        assert!((found[89].abs() - 1.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn a_regression_is_where_its_gradient_vanishes() {
        let top: Vec<Vec<f32>> = [[2.0, 0.5, 1.0], [1.0, -0.3, 4.0], [-0.4, 0.1, 2.0]]
            .map(Vec::from)
            .to_vec();
        let bottom: Vec<Vec<f32>> = [
            [-1.0, 0.4, 3.0],
            [0.3, -0.6, 1.0],
            [-2.0, 0.2, 2.5],
            [-1.5, 0.0, 0.0],
        ]
        .map(Vec::from)
        .to_vec();
        let sample = Sample::of(&top, &bottom).unwrap();
        let order: Vec<usize> = (0..7).collect();
        for penalty in [1e-3, 0.1, 1.0, 100.0] {
            let weights = logistic(&sample, order.split_at(3), penalty).unwrap();
            let trace: f64 = (0..7).map(|i| sample.products()[i][i]).sum();
            let scale = 7.0 / trace / penalty;
            let along: Vec<f64> = sample.along(&weights).iter().map(|x| x * scale).collect();
            // w is the sum with a = y − p, with an intercept that one of the rows gives.
            let intercept = ((1.0 - weights[2]) / weights[2]).ln() - along[2];
            for (i, weight) in weights.iter().enumerate() {
                let p = 1.0 / (1.0 + (-along[i] - intercept).exp());
                let y = f64::from(u8::from(i < 3));
                assert!((weight - (y - p)).abs() < 1e-9, "{penalty}: {weights:?}");
            }
            assert!(weights.iter().sum::<f64>().abs() < 1e-8);
        }
    }
}
