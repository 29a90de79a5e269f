//! Weights without a direction: what they would add to the stream along it is taken out of them.
//!
//! W ← W − v(vᵀW) on the side of the stream, with the v of length 1, for every matrix and bias that adds to it: the tables of embeddings and
//! positions, the output of attention, the last map of MLPs. The stream then never has anything along v, which is what an ablation at the input of
//! every block and at what attention and MLP add leads to (Arditi et al., arXiv:2406.11717). Computed in float64, and stored as the tensor is.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::Checkpoint;
use super::host_tensor::{HostTensor, decode, encode, zeros};
use crate::model::error::{ModelError, Result};
use crate::model::families::WriterForm;

/// Which dimension of a matrix is the stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Each row is a vector of the stream; so is a bias.
    Rows,
    /// Each column is.
    Columns,
}

/// A direction, to be taken out.
pub(super) struct Ablation {
    /// Of length 1.
    unit: Vec<f64>,
}

impl Ablation {
    /// Of a vector of any length but 0.
    ///
    /// # Errors
    /// One of another width, or that is no direction.
    pub(super) fn of(vector: &[f32], d_model: usize) -> Result<Self> {
        let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
        let length = length.sqrt();
        let is_sound = length.is_finite() && length > 0.0;
        if vector.len() != d_model || !is_sound {
            return Err(ModelError::Unusable(format!(
                "the direction has {} numbers and the length {length}, and the model's stream {d_model} numbers",
                vector.len()
            )));
        }
        let unit = vector.iter().map(|x| f64::from(*x) / length);
        Ok(Ablation {
            unit: unit.collect(),
        })
    }

    /// v of length 1.
    pub(super) fn unit(&self) -> &[f64] {
        &self.unit
    }

    /// The tensor without v, in its own format.
    pub(super) fn of_tensor(&self, tensor: &HostTensor, side: Side) -> Result<Vec<u8>> {
        match side {
            Side::Rows => self.of_rows(tensor),
            Side::Columns => self.of_columns(tensor),
        }
    }

    fn of_rows(&self, tensor: &HostTensor) -> Result<Vec<u8>> {
        let taken = |_: usize, row: &mut [f32]| {
            let along = dot(row, &self.unit);
            let pairs = row.iter_mut().zip(&self.unit);
            pairs.for_each(|(x, v)| *x = (f64::from(*x) - along * v) as f32);
        };
        by_row(tensor, self.unit.len(), taken)
    }

    fn of_columns(&self, tensor: &HostTensor) -> Result<Vec<u8>> {
        let along = self.along(tensor, Side::Columns);
        let taken = |number: usize, row: &mut [f32]| {
            let v = self.unit[number];
            let pairs = row.iter_mut().zip(&along);
            pairs.for_each(|(x, along)| *x = (f64::from(*x) - v * along) as f32);
        };
        by_row(tensor, along.len(), taken)
    }

    /// How much of v each input adds: vᵀW, and of rows Wv.
    pub(super) fn along(&self, tensor: &HostTensor, side: Side) -> Vec<f64> {
        let width = tensor.shape.last().copied().unwrap_or(1);
        let row_bytes = width * tensor.dtype.size();
        let rows = tensor.bytes().chunks_exact(row_bytes.max(1));
        let mut row = vec![0.0; width];
        match side {
            Side::Rows => rows
                .map(|bytes| {
                    decode(bytes, tensor.dtype, &mut row);
                    dot(&row, &self.unit)
                })
                .collect(),
            Side::Columns => {
                let mut along = vec![0.0; width];
                for (bytes, v) in rows.zip(&self.unit) {
                    decode(bytes, tensor.dtype, &mut row);
                    let pairs = along.iter_mut().zip(&row);
                    pairs.for_each(|(sum, x)| *sum += v * f64::from(*x));
                }
                along
            }
        }
    }
}

/// Σ xᵢvᵢ in float64.
fn dot(x: &[f32], v: &[f64]) -> f64 {
    x.iter().zip(v).map(|(x, v)| f64::from(*x) * v).sum()
}

/// Does something with every row, in parallel, and gives the tensor in its own format.
fn by_row(
    tensor: &HostTensor,
    width: usize,
    taken: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<Vec<u8>> {
    let (dtype, bytes) = (tensor.dtype, tensor.bytes());
    let row_bytes = width * dtype.size();
    let mut out = zeros(bytes.len() / dtype.size(), dtype)?;
    let rows = out
        .par_chunks_mut(row_bytes)
        .zip(bytes.par_chunks(row_bytes));
    rows.enumerate().for_each_init(
        || vec![0.0; width],
        |row, (number, (out, bytes))| {
            decode(bytes, dtype, row);
            taken(number, row);
            encode(row, dtype, out);
        },
    );
    Ok(out)
}

impl Checkpoint {
    /// The maps by which blocks add to the stream, with the form of each.
    ///
    /// # Errors
    /// A family of which taking a direction out of them is no ablation, and why.
    pub(super) fn written_by_blocks(&self) -> Result<Vec<(String, WriterForm)>> {
        let layers = 0..self.config.n_layers;
        let writers = layers.map(|layer| self.config.family.writers(&self.config.sizes, layer));
        let writers: Result<Vec<_>, &str> = writers.collect();
        let writers = writers.map_err(|why| {
            ModelError::Unusable(format!(
                "a direction cannot be taken out of the weights of a `{}`: {why}; ablate it as the model runs, with `mode = \"ablate_everywhere\"`",
                self.config.family.name()
            ))
        })?;
        let writers = writers.into_iter().flatten();
        Ok(writers.map(|writer| (writer.module, writer.form)).collect())
    }

    /// Every tensor that adds to the stream, and on which side.
    ///
    /// # Errors
    /// As [`Checkpoint::written_by_blocks`].
    pub(super) fn sides(&self) -> Result<BTreeMap<String, Side>> {
        let (tables, _) = self.config.family.end_parameters(&self.config.sizes);
        let tables = tables.into_iter().map(|(name, _)| (name, Side::Rows));
        let mut found: BTreeMap<String, Side> = tables.collect();
        for (module, form) in self.written_by_blocks()? {
            let bias = format!("{module}.bias");
            if self.weights.contains_key(&bias) {
                found.insert(bias, Side::Rows);
            }
            found.insert(format!("{module}.weight"), form.side());
        }
        Ok(found)
    }
}

impl WriterForm {
    pub(super) fn side(self) -> Side {
        match self {
            WriterForm::Linear | WriterForm::Expert => Side::Columns,
            WriterForm::Conv1d => Side::Rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::host_tensor::Data;
    use super::*;
    use crate::model::config::Dtype;

    fn tensor(shape: &[usize], dtype: Dtype) -> HostTensor {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((7 * i) % 11) as f32 - 4.5).collect();
        let mut bytes = vec![0; count * dtype.size()];
        encode(&values, dtype, &mut bytes);
        HostTensor {
            shape: shape.to_vec(),
            dtype,
            data: Data::Owned(bytes),
        }
    }

    fn left(ablation: &Ablation, tensor: &HostTensor, side: Side) -> (f64, HostTensor) {
        let left = HostTensor {
            shape: tensor.shape.clone(),
            dtype: tensor.dtype,
            data: Data::Owned(ablation.of_tensor(tensor, side).unwrap()),
        };
        let along = ablation.along(&left, side).into_iter();
        (along.fold(0.0, |most, x| x.abs().max(most)), left)
    }

    #[test]
    fn nothing_is_left_along_the_direction_on_either_side_but_rounding() {
        let ablation = Ablation::of(&[2.0, -1.0, 0.5], 3).unwrap();
        // Half a unit in the last place of a number of about 5, and of three of them at most the sum.
        for (dtype, most) in [
            (Dtype::Float32, 1e-6),
            (Dtype::Float16, 1e-2),
            (Dtype::BFloat16, 6e-2),
        ] {
            for (shape, side) in [
                (&[5, 3][..], Side::Rows),
                (&[3, 5], Side::Columns),
                (&[3], Side::Rows),
            ] {
                let (left, once) = left(&ablation, &tensor(shape, dtype), side);
                assert!(left <= most, "{dtype:?} {shape:?}: {left}");
                // What is out is out: the second time nothing but the last place changes.
                let twice = ablation.of_tensor(&once, side).unwrap();
                let (mut a, mut b) = (vec![0.0; 15], vec![0.0; 15]);
                decode(once.bytes(), dtype, &mut a);
                decode(&twice, dtype, &mut b);
                for (a, b) in a.iter().zip(&b) {
                    assert!(f64::from((a - b).abs()) <= 2.0 * most, "{a} {b}");
                }
            }
        }
    }

    #[test]
    fn both_sides_are_one_map() {
        // A matrix and its transpose: W − v(vᵀW), by hand with v = (0.6, 0.8).
        let ablation = Ablation::of(&[3.0, 4.0], 2).unwrap();
        let of = |shape: &[usize], values: &[f32], side| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let tensor = HostTensor {
                shape: shape.to_vec(),
                dtype: Dtype::Float32,
                data: Data::Owned(bytes),
            };
            let mut found = vec![0.0; values.len()];
            let bytes = ablation.of_tensor(&tensor, side).unwrap();
            decode(&bytes, Dtype::Float32, &mut found);
            found
        };
        assert_eq!(of(&[1, 2], &[5.0, 0.0], Side::Rows), [3.2, -2.4]);
        assert_eq!(of(&[2, 1], &[5.0, 0.0], Side::Columns), [3.2, -2.4]);
    }

    #[test]
    fn what_is_no_direction_of_the_stream_is_refused() {
        for (vector, width) in [(vec![0.0; 3], 3), (vec![f32::NAN; 3], 3), (vec![1.0; 2], 3)] {
            assert!(Ablation::of(&vector, width).is_err());
        }
    }
}
