//! A tensor as it lies in a memory-mapped file, and reading it in the number format that is wanted.
//!
//! Quantised ones are read row by row, in parallel. llama.cpp's converter reorders the rows of the query and key projections of `llama`
//! models, from halves (x₀ x₁ … | y₀ y₁ …, the layout of Hugging Face) to pairs (x₀ y₀ x₁ y₁ …) within each head; reading undoes that.

use std::borrow::Cow;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;
use rayon::prelude::*;

use super::host_tensor::{CHUNK, Data, HostTensor, convert, decode, encode, zeros};
use crate::model::config::Dtype;
use crate::model::error::{ModelError, Result};

#[derive(Debug)]
pub(super) struct Stored {
    /// The file, for messages.
    pub(super) path: PathBuf,
    pub(super) map: Arc<Mmap>,
    /// Of the file; within it.
    pub(super) range: Range<usize>,
    /// Outermost first: `[out, in]` for matrices. The product does not overflow, and rows are whole blocks.
    pub(super) shape: Vec<usize>,
    pub(super) format: Format,
    /// The head width, where the rows of a head are stored as pairs.
    pub(super) pairs: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Format {
    Plain(Dtype),
    Quantised(GgmlDType),
}

impl Format {
    /// Bytes of so many elements, which are whole blocks.
    fn bytes(self, elements: usize) -> usize {
        match self {
            Self::Plain(dtype) => elements * dtype.size(),
            Self::Quantised(kind) => elements / kind.block_size() * kind.type_size(),
        }
    }
}

impl Stored {
    pub(super) fn bytes(&self) -> &[u8] {
        self.map.get(self.range.clone()).unwrap_or_default()
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    pub(super) fn read(&self, dtype: Dtype) -> Result<HostTensor> {
        let data = match (self.format, self.pairs) {
            (Format::Plain(own), None) if own == dtype => {
                Data::Mapped(Arc::clone(&self.map), self.range.clone())
            }
            (Format::Plain(own), None) => Data::Owned(convert(self.bytes(), own, dtype)?),
            _ => Data::Owned(self.read_by_row(dtype)?),
        };
        Ok(HostTensor {
            shape: self.shape.clone(),
            dtype,
            data,
        })
    }

    fn read_by_row(&self, dtype: Dtype) -> Result<Vec<u8>> {
        // A bias is a vector; its elements are its rows.
        let columns = match (self.shape.as_slice(), self.pairs) {
            ([_], Some(_)) => 1,
            (shape, _) => shape.last().copied().unwrap_or(1),
        };
        let stored_row_bytes = self.format.bytes(columns);
        let mut data = zeros(self.elements(), dtype)?;
        let chunk_rows = (CHUNK / columns).max(1);
        let row_bytes = columns * dtype.size();
        let chunks = data.par_chunks_mut(chunk_rows * row_bytes).enumerate();
        chunks.try_for_each_init(
            || vec![0.0; columns],
            |values, (chunk, out)| -> Result<()> {
                for (i, out) in out.chunks_mut(row_bytes).enumerate() {
                    let row = chunk * chunk_rows + i;
                    let stored = self.pairs.map_or(row, |width| row_of_pairs(row, width));
                    let start = stored * stored_row_bytes;
                    let bytes = self.bytes().get(start..start + stored_row_bytes);
                    self.decode_row(bytes.unwrap_or_default(), values)?;
                    encode(values, dtype, out);
                }
                Ok(())
            },
        )?;
        Ok(data)
    }

    fn decode_row(&self, bytes: &[u8], values: &mut [f32]) -> Result<()> {
        let failed = |error: candle_core::Error| {
            ModelError::invalid(&self.path, format!("cannot de-quantise: {error}"))
        };
        match self.format {
            Format::Plain(dtype) => decode(bytes, dtype, values),
            Format::Quantised(kind) => {
                let blocks = kind.from_data(Cow::Borrowed(bytes));
                let storage = blocks.dequantize(values.len()).map_err(failed)?;
                values.copy_from_slice(storage.as_slice().map_err(failed)?);
            }
        }
        Ok(())
    }
}

/// The row of the file that holds row `row` of a projection whose heads have `width` rows stored as pairs.
fn row_of_pairs(row: usize, width: usize) -> usize {
    let (head, within) = (row / width, row % width);
    let (half, pair) = (within / (width / 2), within % (width / 2));
    head * width + 2 * pair + half
}
