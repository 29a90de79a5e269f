//! How fast libtorch multiplies matrices here, at the shapes of the study.

use std::time::{Duration, Instant};

use refusal_dial::inside::model::ModelConfig;
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

/// Measures every matrix in float32, on as many threads as the study has, each with products of its own: that is the quicker of the two
/// ways to share out products of this size. Each product meets another of `copies` matrices, as many as the study's deepest suffix has
/// blocks: one that stays in the processor's cache would be quicker than any that the study meets.
pub fn rates(config: &ModelConfig, copies: usize, threads: usize) -> Result<Vec<Rate>> {
    let measure = |matrix: Matrix| -> Result<Rate> {
        let (input, output) = matrix.shape(config);
        let size = [output as i64, input as i64];
        let copies = match matrix {
            // The study has one, and no cache holds it.
            Matrix::Unembedding => 1,
            _ => copies,
        };
        let weights = (0..copies)
            .map(|_| Tensor::f_randn(size.as_slice(), (Kind::Float, Device::Cpu)))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let weights = Weights(weights);
        let mut by_rows = [0.0; 4];
        for (rate, rows) in by_rows.iter_mut().zip(ROW_COUNTS) {
            let operations = rows as f64 * matrix.operations_per_row(config);
            *rate = operations * products_per_second(rows, input, &weights, threads)?;
        }
        Ok(Rate { matrix, by_rows })
    };
    Matrix::ALL.into_iter().map(measure).collect()
}

/// Matrices that several threads read.
struct Weights(Vec<Tensor>);

// SAFETY: the matrices are only read, and a tensor's reference count is atomic.
unsafe impl Sync for Weights {}

/// Products `[rows, input]` × `[output, input]`ᵀ that all threads together finish in a second, each at its best.
fn products_per_second(
    rows: usize,
    input: usize,
    weights: &Weights,
    threads: usize,
) -> Result<f64> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| seconds_per_product(rows, input, weights)))
            .collect();
        let mut sum = 0.0;
        for worker in workers {
            let seconds = worker.join().map_err(|_| "a thread panicked")??;
            sum += 1.0 / seconds;
        }
        Ok(sum)
    })
}

/// The shortest time of a product on this thread, averaged over the weights.
fn seconds_per_product(
    rows: usize,
    input: usize,
    weights: &Weights,
) -> std::result::Result<f64, tch::TchError> {
    let _no_grad = tch::no_grad_guard();
    // Of each thread anew: the matrix library of one that was never told takes all cores, and finds them idle whenever another thread waits.
    tch::set_num_threads(1);
    let size = [rows as i64, input as i64];
    let x = Tensor::f_randn(size.as_slice(), (Kind::Float, Device::Cpu))?;
    let (mut best, began) = (f64::INFINITY, Instant::now());
    while began.elapsed() < TIME_PER_SHAPE {
        let started = Instant::now();
        for weight in &weights.0 {
            let _ = x.f_linear::<Tensor>(weight, None)?;
        }
        best = best.min(started.elapsed().as_secs_f64() / weights.0.len() as f64);
    }
    Ok(best)
}
