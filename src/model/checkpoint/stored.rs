//! A tensor as it lies in a memory-mapped file, and reading it in the number format that is wanted.
//!
//! Quantised ones are read row by row, in parallel. llama.cpp's converter reorders the rows of the query and key projections of `llama`
//! models, from halves (x₀ x₁ … | y₀ y₁ …, the layout of Hugging Face) to pairs (x₀ y₀ x₁ y₁ …) within each head; reading undoes that.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use super::host_tensor::{CHUNK, Data, HostTensor, convert, decode, encode, zeros};
use super::quantised::Quantisation;
use crate::model::config::Dtype;
use crate::model::error::Result;

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
    Quantised(Quantisation),
}

impl Format {
    /// Numbers that are stored together.
    pub(super) fn block_elements(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Quantised(kind) => kind.block_elements(),
        }
    }

    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.size(),
            Self::Quantised(kind) => kind.block_bytes(),
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
        let stored_row_bytes = columns / self.format.block_elements() * self.format.block_bytes();
        let mut data = zeros(self.elements(), dtype)?;
        let chunk_rows = (CHUNK / columns).max(1);
        let row_bytes = columns * dtype.size();
        let chunks = data.par_chunks_mut(chunk_rows * row_bytes).enumerate();
        chunks.for_each_init(
            || vec![0.0; columns],
            |values, (chunk, out)| {
                for (i, out) in out.chunks_mut(row_bytes).enumerate() {
                    let row = chunk * chunk_rows + i;
                    let stored = self.pairs.map_or(row, |width| row_of_pairs(row, width));
                    let start = stored * stored_row_bytes;
                    let bytes = self.bytes().get(start..start + stored_row_bytes);
                    match self.format {
                        Format::Plain(own) => decode(bytes.unwrap_or_default(), own, values),
                        Format::Quantised(kind) => kind.decode(bytes.unwrap_or_default(), values),
                    }
                    encode(values, dtype, out);
                }
            },
        );
        Ok(data)
    }
}

/// The row of the file that holds row `row` of a projection whose heads have `width` rows stored as pairs.
fn row_of_pairs(row: usize, width: usize) -> usize {
    let (head, within) = (row / width, row % width);
    let (half, pair) = (within / (width / 2), within % (width / 2));
    head * width + 2 * pair + half
}
