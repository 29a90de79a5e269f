//! Vectors that span a space.

use std::sync::Arc;

use crate::model::Vector;

/// x·y in float64.
pub(super) fn dot(x: &Vector, y: &Vector) -> f64 {
    let pairs = x.values().iter().zip(y.values());
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Less of a vector than this share of its length is rounding, and adds no dimension.
const LEAST: f64 = 1e-6;

/// An orthonormal basis of the span of unit vectors: Gram–Schmidt in float64, twice over, as QR has it. The first is itself.
pub(in crate::stages) fn orthonormal<'v>(
    vectors: impl IntoIterator<Item = &'v Vector>,
) -> Vec<Arc<Vector>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut found = Vec::new();
    for vector in vectors {
        let mut left: Vec<f64> = vector.values().iter().map(|&x| f64::from(x)).collect();
        let length = norm(&left);
        for _ in 0..2 {
            for q in &basis {
                let along: f64 = left.iter().zip(q).map(|(x, q)| x * q).sum();
                left.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
        }
        let remaining = norm(&left);
        if remaining.is_nan() || remaining <= LEAST * length {
            continue;
        }
        left.iter_mut().for_each(|x| *x /= remaining);
        found.push(match basis.is_empty() {
            true => Arc::new(Vector::new(vector.values().to_vec())),
            false => Arc::new(Vector::new(left.iter().map(|&x| x as f32).collect())),
        });
        basis.push(left);
    }
    found
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Vector {
        Vector::new(values.to_vec())
    }

    #[test]
    fn a_span_has_as_many_vectors_as_dimensions() {
        let (x, y) = (vector(&[1.0, 0.0, 0.0]), vector(&[0.6, 0.8, 0.0]));
        let basis = orthonormal([&x, &x, &y, &vector(&[0.0, 1.0, 0.0])]);
        assert_eq!(basis.len(), 2);
        assert_eq!(basis[0].values(), x.values());
        assert!((dot(&basis[0], &basis[1])).abs() < 1e-7);
        assert!((basis[1].values()[1] - 1.0).abs() < 1e-7);
    }
}
