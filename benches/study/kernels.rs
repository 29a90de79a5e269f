//! How fast libtorch multiplies matrices here, at the shapes of the study.

use std::time::{Duration, Instant};

use refusal_dial::model::ModelConfig;
use tch::{Device, Kind, Tensor};

use super::Result;
use super::arithmetic::Matrix;

/// Numbers of rows that are tried; the best of them counts, so that a program that chooses a poor one gains nothing by it.
pub const ROW_COUNTS: [usize; 4] = [64, 128, 256, 512];
/// How long each shape is repeated.
const TIME_PER_SHAPE: Duration = Duration::from_millis(400);

/// Operations per second of one matrix, at each of [`ROW_COUNTS`].
pub struct Rate {
    /// Which matrix.
    pub matrix: Matrix,
    /// In the order of [`ROW_COUNTS`].
    pub by_rows: [f64; 4],
}

impl Rate {
    /// At the best number of rows.
    pub fn best(&self) -> f64 {
        self.by_rows.iter().copied().fold(0.0, f64::max)
    }
}

/// Measures every matrix in float32. Each product meets another of `copies` matrices, as many as the study's deepest suffix has blocks:
/// one that stays in the processor's cache would be quicker than any that the study meets.
pub fn rates(config: &ModelConfig, copies: usize) -> Result<Vec<Rate>> {
    let _no_grad = tch::no_grad_guard();
    let measure = |matrix: Matrix| -> Result<Rate> {
        let (input, output) = matrix.shape(config);
        let size = [output as i64, input as i64];
        let weights = (0..copies)
            .map(|_| Tensor::f_randn(size.as_slice(), (Kind::Float, Device::Cpu)))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let mut by_rows = [0.0; 4];
        for (rate, rows) in by_rows.iter_mut().zip(ROW_COUNTS) {
            let operations = rows as f64 * matrix.operations_per_row(config);
            *rate = operations / seconds_per_product(rows, input, &weights)?;
        }
        Ok(Rate { matrix, by_rows })
    };
    Matrix::ALL.into_iter().map(measure).collect()
}

/// The shortest time of a product, averaged over the weights: `[rows, input]` × `[output, input]`ᵀ.
fn seconds_per_product(rows: usize, input: usize, weights: &[Tensor]) -> Result<f64> {
    let size = [rows as i64, input as i64];
    let x = Tensor::f_randn(size.as_slice(), (Kind::Float, Device::Cpu))?;
    let (mut best, began) = (f64::INFINITY, Instant::now());
    while began.elapsed() < TIME_PER_SHAPE {
        let started = Instant::now();
        for weight in weights {
            let _ = x.f_linear::<Tensor>(weight, None)?;
        }
        best = best.min(started.elapsed().as_secs_f64() / weights.len() as f64);
    }
    Ok(best)
}
