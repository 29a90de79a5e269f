//! How a direction is made of two groups of activations, other than by the difference of their means.
//!
//! There are fewer prompts than dimensions: all is computed from the products of the centred activations, n × n in float64 (`sample`), and a direction
//! is a sum of them. `pre_norm` is (μ_A − μ_B)·v̂ of every method, which is the norm of the difference of means for that itself, so that α in its units
//! goes from the level of B to that of A, along whichever direction; of a mean it is the norm of the mean.

use crate::stages::field_types::choices;

use super::sample::{Sample, largest, logistic};

choices! {
    /// How a direction is made of A and B.
    pub(in crate::stages) enum Method {
        /// μ_A − μ_B
        MeanDifference = "mean_difference",
        /// the first principal component, its sign as most pairs have it
        Pca = "pca",
        /// the weights of a logistic regression with an intercept and an L2 penalty
        Logistic = "logistic",
        /// Σ⁻¹(μ_A − μ_B), Σ shrunk as for `affine`
        Lda = "lda",
        /// μ_A itself, no difference
        MeanA = "mean_a",
        /// μ_B itself
        MeanB = "mean_b",
    }
}

choices! {
    /// What is taken off the activations before their first principal component is.
    pub(in crate::stages) enum Centring {
        /// of each pair its mean (CAST's `pca_pairwise`, repeng's `pca_center`)
        Pair = "pair",
        /// of all the mean of all (CAST's `pca_center`)
        Grand = "grand",
        /// of the differences of pairs their mean (CAST's `pca_diff`)
        Difference = "difference",
    }
}

/// A method with all that it needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::stages) struct How {
    pub(in crate::stages) method: Method,
    pub(in crate::stages) centring: Centring,
    /// λ of a logistic regression.
    pub(in crate::stages) penalty: f64,
}

impl How {
    /// The difference of means.
    pub(in crate::stages) const fn means() -> Self {
        How {
            method: Method::MeanDifference,
            centring: Centring::Pair,
            penalty: 1.0,
        }
    }

    /// Whether it goes by pairs of one of A and one of B.
    pub(in crate::stages) fn is_paired(&self) -> bool {
        self.method == Method::Pca && self.centring != Centring::Grand
    }

    /// The unit vector in float32, and its `pre_norm`; none where there is no direction.
    ///
    /// # Errors
    /// A fragment: groups of which none can be made, or an iteration that does not end.
    pub(super) fn direction(
        &self,
        top: &[Vec<f32>],
        bottom: &[Vec<f32>],
    ) -> Result<Option<(Vec<f32>, f64)>, String> {
        match self.method {
            Method::MeanDifference => super::extract::difference_of_means(top, bottom),
            Method::MeanA => mean_of(top),
            Method::MeanB => mean_of(bottom),
            Method::Pca | Method::Logistic | Method::Lda => {
                let sample = Sample::of(top, bottom)?;
                let order: Vec<usize> = (0..top.len() + bottom.len()).collect();
                let weights = self.weights(&sample, order.split_at(top.len()))?;
                Ok(weights.map(|weights| {
                    (
                        sample.unit(&weights),
                        sample.gap(&weights, order.split_at(top.len())),
                    )
                }))
            }
        }
    }

    /// With the labels dealt anew, many times: the `pre_norm` and the cosine with the direction of the right labels of each.
    pub(super) fn shuffled(
        &self,
        top: &[Vec<f32>],
        bottom: &[Vec<f32>],
        orders: &[Vec<usize>],
    ) -> Result<Vec<(f64, Option<f64>)>, String> {
        let sample = Sample::of(top, bottom)?;
        let order: Vec<usize> = (0..top.len() + bottom.len()).collect();
        let Some(own) = self.weights(&sample, order.split_at(top.len()))? else {
            return Ok(Vec::new());
        };
        let each = |order: &Vec<usize>| {
            let groups = order.split_at(top.len());
            let weights = self.weights(&sample, groups)?;
            Ok(weights.map_or((0.0, None), |weights| {
                (
                    sample.gap(&weights, groups),
                    Some(sample.cosine(&weights, &own)),
                )
            }))
        };
        orders.iter().map(each).collect()
    }

    /// The weights of the activations whose sum the direction is, with A and B by their numbers.
    fn weights(
        &self,
        sample: &Sample,
        groups: (&[usize], &[usize]),
    ) -> Result<Option<Vec<f64>>, String> {
        let (top, bottom) = groups;
        let weights = match self.method {
            Method::Logistic => Some(logistic(sample, groups, self.penalty)?),
            Method::Lda => sample.discriminant(groups),
            _ if self.is_paired() && top.len() != bottom.len() => {
                return Err(format!(
                    "goes by pairs, and A has {} prompts and B {}; make them alike in number, or set `centring = \"grand\"`",
                    top.len(),
                    bottom.len()
                ));
            }
            _ => self.component(sample, groups)?,
        };
        Ok(weights.filter(|weights| sample.length(weights) > 0.0))
    }

    /// The first principal component, with the sign that most pairs have.
    fn component(
        &self,
        sample: &Sample,
        groups: (&[usize], &[usize]),
    ) -> Result<Option<Vec<f64>>, String> {
        let (top, bottom) = groups;
        let n = sample.count();
        let pairs: Vec<(usize, usize)> = top.iter().copied().zip(bottom.iter().copied()).collect();
        let found = match self.centring {
            Centring::Grand => largest(sample.products())?,
            Centring::Pair | Centring::Difference => {
                // Of differences d = a − b: d·d′ = a·a′ − a·b′ − b·a′ + b·b′.
                let of = |&(a, b): &(usize, usize), &(c, d): &(usize, usize)| {
                    let g = sample.products();
                    g[a][c] - g[a][d] - g[b][c] + g[b][d]
                };
                let products: Vec<Vec<f64>> = pairs
                    .iter()
                    .map(|one| pairs.iter().map(|other| of(one, other)).collect())
                    .collect();
                let is_centred = self.centring == Centring::Difference;
                let products = if is_centred {
                    centred(products)
                } else {
                    products
                };
                largest(&products)?.map(|mut of_pairs| {
                    if is_centred {
                        let mean = of_pairs.iter().sum::<f64>() / of_pairs.len() as f64;
                        of_pairs.iter_mut().for_each(|x| *x -= mean);
                    }
                    let mut weights = vec![0.0; n];
                    for ((a, b), weight) in pairs.iter().zip(of_pairs) {
                        weights[*a] += weight;
                        weights[*b] -= weight;
                    }
                    weights
                })
            }
        };
        Ok(found.map(|weights| {
            let along = sample.along(&weights);
            let votes: i64 = match top.len() == bottom.len() {
                true => pairs.iter().map(|(a, b)| vote(along[*a], along[*b])).sum(),
                false => {
                    let all = top.iter().flat_map(|a| bottom.iter().map(move |b| (a, b)));
                    all.map(|(a, b)| vote(along[*a], along[*b])).sum()
                }
            };
            let is_turned = match votes {
                0 => sample.signed_gap(&weights, groups) < 0.0,
                votes => votes < 0,
            };
            match is_turned {
                true => weights.iter().map(|x| -x).collect(),
                false => weights,
            }
        }))
    }
}

fn vote(a: f64, b: f64) -> i64 {
    i64::from(a > b) - i64::from(a < b)
}

/// A matrix of products of rows, as of the rows less their mean.
fn centred(mut products: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let n = products.len() as f64;
    let means: Vec<f64> = products
        .iter()
        .map(|row| row.iter().sum::<f64>() / n)
        .collect();
    let all = means.iter().sum::<f64>() / n;
    for (row, own) in products.iter_mut().zip(&means) {
        row.iter_mut()
            .zip(&means)
            .for_each(|(x, mean)| *x += all - own - mean);
    }
    products
}

/// The mean of a group as a direction: the unit vector and its length; none of a mean that is zero.
fn mean_of(rows: &[Vec<f32>]) -> Result<Option<(Vec<f32>, f64)>, String> {
    let zero = vec![vec![0.0; rows.first().map_or(0, Vec::len)]];
    super::extract::difference_of_means(rows, &zero)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn how(method: Method, centring: Centring) -> How {
        How {
            method,
            centring,
            ..How::means()
        }
    }

    /// A pseudo-random number between −1 and 1.
    fn noise(seed: usize) -> f32 {
        let mixed = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        ((mixed >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    /// Pairs that differ along the first axis, far from the origin, with noise that is larger along the second.
    fn groups(count: usize, width: usize) -> [Vec<Vec<f32>>; 2] {
        let row = |i: usize, shift: f32| {
            (0..width)
                .map(|axis| {
                    let shared = 20.0 * noise(i * 7 + axis) * if axis == 2 { 1.0 } else { 0.05 };
                    let own = 0.3 * noise(i * 1000 + axis * 13 + if shift > 0.0 { 500 } else { 0 });
                    30.0 + shared + own + if axis == 0 { shift } else { 0.0 }
                })
                .collect()
        };
        [1.0, -1.0].map(|shift| (0..count).map(|i| row(i, shift)).collect())
    }

    #[test]
    fn every_method_finds_what_tells_the_groups_apart_when_it_can() {
        let [top, bottom] = groups(24, 40);
        for (how, least) in [
            (How::means(), 0.9),
            (how(Method::Pca, Centring::Pair), 0.9),
            (how(Method::Logistic, Centring::Pair), 0.7),
            (how(Method::Lda, Centring::Pair), 0.7),
        ] {
            let (unit, gap) = how.direction(&top, &bottom).unwrap().unwrap();
            let length: f32 = unit.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5);
            assert!(unit[0] > least, "{how:?}: {}", unit[0]);
            // From one level to the other.
            let mean = |rows: &[Vec<f32>]| {
                rows.iter()
                    .map(|r| {
                        r.iter()
                            .zip(&unit)
                            .map(|(x, v)| f64::from(x * v))
                            .sum::<f64>()
                    })
                    .sum::<f64>()
                    / rows.len() as f64
            };
            assert!(
                (mean(&top) - mean(&bottom) - gap).abs() < 1e-3,
                "{how:?}: {gap}"
            );
        }
        // Of all prompts together the loud axis is first, whatever the groups are.
        let (unit, _) = how(Method::Pca, Centring::Grand)
            .direction(&top, &bottom)
            .unwrap()
            .unwrap();
        assert!(unit[2].abs() > 0.95, "{}", unit[2]);
        let (mean, length) = how(Method::MeanB, Centring::Pair)
            .direction(&top, &bottom)
            .unwrap()
            .unwrap();
        let first = bottom.iter().map(|row| f64::from(row[0])).sum::<f64>() / 24.0;
        assert!((f64::from(mean[0]) * length - first).abs() < 1e-4);
    }

    #[test]
    fn a_component_is_that_of_the_covariance_itself_and_its_sign_the_pairs() {
        let [top, bottom] = groups(12, 3);
        for centring in [Centring::Pair, Centring::Grand, Centring::Difference] {
            let how = how(Method::Pca, centring);
            let (unit, _) = how.direction(&top, &bottom).unwrap().unwrap();
            let rows: Vec<Vec<f64>> = match centring {
                Centring::Grand => top
                    .iter()
                    .chain(&bottom)
                    .map(|r| r.iter().map(|x| f64::from(*x)).collect())
                    .collect(),
                _ => top
                    .iter()
                    .zip(&bottom)
                    .map(|(a, b)| {
                        a.iter()
                            .zip(b)
                            .map(|(a, b)| f64::from(*a) - f64::from(*b))
                            .collect()
                    })
                    .collect(),
            };
            let mean = |axis: usize| rows.iter().map(|r| r[axis]).sum::<f64>() / rows.len() as f64;
            let means: Vec<f64> = (0..3)
                .map(|axis| {
                    if centring == Centring::Pair {
                        0.0
                    } else {
                        mean(axis)
                    }
                })
                .collect();
            let covariance = |i: usize, j: usize| {
                rows.iter()
                    .map(|r| (r[i] - means[i]) * (r[j] - means[j]))
                    .sum::<f64>()
            };
            // An eigenvector stays one under the matrix.
            let image: Vec<f64> = (0..3)
                .map(|i| (0..3).map(|j| covariance(i, j) * f64::from(unit[j])).sum())
                .collect();
            let value = image.iter().map(|x| x * x).sum::<f64>().sqrt();
            for (x, v) in image.iter().zip(&unit) {
                assert!(
                    (x / value - f64::from(*v)).abs() < 1e-4,
                    "{centring:?}: {image:?} {unit:?}"
                );
            }
            let trace: f64 = (0..3).map(|i| covariance(i, i)).sum();
            assert!(value >= trace / 3.0, "{centring:?}");
            // Turning the groups round turns the direction round.
            let (turned, _) = how.direction(&bottom, &top).unwrap().unwrap();
            assert!(
                unit.iter().zip(&turned).all(|(a, b)| (a + b).abs() < 1e-5),
                "{centring:?}"
            );
        }
        let told = how(Method::Pca, Centring::Pair)
            .direction(&top[1..], &bottom)
            .unwrap_err();
        assert!(told.contains("A has 11 prompts and B 12"), "{told}");
        assert!(
            how(Method::Pca, Centring::Grand)
                .direction(&top[1..], &bottom)
                .is_ok()
        );
    }

    #[test]
    fn groups_that_do_not_differ_have_no_direction() {
        let same = vec![vec![1.0f32, 2.0]; 3];
        for method in [Method::Pca, Method::Logistic, Method::Lda] {
            let found = how(method, Centring::Pair).direction(&same, &same);
            assert_eq!(found, Ok(None), "{method:?}");
        }
        let zero = vec![vec![0.0f32; 2]; 2];
        assert_eq!(
            how(Method::MeanA, Centring::Pair).direction(&zero, &same),
            Ok(None)
        );
    }

    #[test]
    fn what_shuffled_labels_give_is_less() {
        let [top, bottom] = groups(16, 30);
        let order: Vec<usize> = (0..32).map(|i| i * 5 % 32).collect();
        let orders = [(0..32).collect(), order];
        for method in [Method::Pca, Method::Logistic, Method::Lda] {
            let how = how(method, Centring::Pair);
            let (_, own) = how.direction(&top, &bottom).unwrap().unwrap();
            let found = how.shuffled(&top, &bottom, &orders).unwrap();
            assert!(
                (found[0].0 - own).abs() < 1e-3 && found[0].1.is_some_and(|c| c > 0.9999),
                "{method:?}"
            );
            assert!(
                found[1].0.abs() < own || found[1].1.is_some_and(|c| c < 0.9),
                "{method:?}: {found:?}"
            );
        }
    }

    /// As scikit-learn has them (`tests/golden/make_directions.py`), to the rounding of float32.
    #[test]
    fn discriminants_and_regressions_are_those_of_scikit_learn() {
        const TOLERANCE: f64 = 1e-6;
        #[derive(serde::Deserialize)]
        struct Case {
            a: Vec<Vec<f32>>,
            b: Vec<Vec<f32>>,
            lda: Vec<f64>,
            logistic: Vec<(f64, Vec<f64>)>,
        }
        let text = include_str!("../../../tests/golden/directions.json");
        let cases: Vec<Case> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 3);
        for case in &cases {
            let near = |how: How, expected: &[f64]| {
                let (found, _) = how.direction(&case.a, &case.b).unwrap().unwrap();
                let pairs = found.iter().zip(expected);
                let off = pairs.map(|(a, b)| (f64::from(*a) - b).abs());
                let off = off.fold(0.0, f64::max);
                assert_eq!(found.len(), expected.len());
                assert!(off < TOLERANCE, "{how:?}: {off}");
            };
            near(how(Method::Lda, Centring::Pair), &case.lda);
            for (penalty, expected) in &case.logistic {
                let how = How {
                    penalty: *penalty,
                    ..how(Method::Logistic, Centring::Pair)
                };
                near(how, expected);
            }
        }
    }
}
