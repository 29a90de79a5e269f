//! Tensors in host memory, and conversion between the number formats that checkpoints use.
//!
//! Elements are little-endian, row-major. A tensor that is stored in the wanted format is a slice of the memory
//! map and costs nothing; any other is converted, in parallel, into memory of its own. Rounding is to nearest,
//! ties to even, as in PyTorch.

use std::alloc::{Layout, alloc_zeroed};
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;
use rayon::prelude::*;

use crate::model::config::Dtype;
use crate::model::error::{ModelError, Result};

/// Elements per unit of parallel work: large enough to pay for the hand-over, small enough to share out.
pub(super) const CHUNK: usize = 1 << 16;

/// A dense row-major tensor in host memory.
pub(crate) struct HostTensor {
    /// Its dimensions; matrices are `[out, in]`.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    pub(super) data: Data,
}

pub(super) enum Data {
    Owned(Vec<u8>),
    Mapped(Arc<Mmap>, Range<usize>),
}

impl HostTensor {
    /// The elements, little-endian, row-major: the product of `shape` times the size of `dtype` bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Owned(bytes) => bytes,
            // The range was checked against the map when the file was opened.
            Data::Mapped(map, range) => map.get(range.clone()).unwrap_or_default(),
        }
    }

    /// The elements as float32, in row-major order.
    #[cfg(test)]
    pub(crate) fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.bytes().len() / self.dtype.size()];
        decode(self.bytes(), self.dtype, &mut out);
        out
    }
}

impl std::fmt::Debug for HostTensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HostTensor({:?}, {})", self.shape, self.dtype.name())
    }
}

/// Zeros for so many elements, as fresh pages of the system, which cost nothing before they are written to.
pub(super) fn zeros(elements: usize, dtype: Dtype) -> Result<Vec<u8>> {
    let bytes = elements.checked_mul(dtype.size());
    let refused = || ModelError::Memory(format!("a tensor of {elements} elements"));
    let bytes = bytes.ok_or_else(refused)?;
    let layout = Layout::array::<u8>(bytes).map_err(|_| refused())?;
    if bytes == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout is not empty; the memory is the global allocator's, initialised, and handed over with the layout it has.
    unsafe {
        let start = alloc_zeroed(layout);
        match start.is_null() {
            true => Err(refused()),
            false => Ok(Vec::from_raw_parts(start, bytes, bytes)),
        }
    }
}

/// The elements of `bytes`, in format `from`, written in format `to`.
pub(super) fn convert(bytes: &[u8], from: Dtype, to: Dtype) -> Result<Vec<u8>> {
    let mut out = zeros(bytes.len() / from.size(), to)?;
    out.par_chunks_mut(CHUNK * to.size())
        .zip(bytes.par_chunks(CHUNK * from.size()))
        .for_each_init(
            || vec![0.0; CHUNK],
            |values, (out, bytes)| {
                let values = &mut values[..bytes.len() / from.size()];
                decode(bytes, from, values);
                encode(values, to, out);
            },
        );
    Ok(out)
}

/// Reads as many elements of format `from` as both sides hold.
pub(super) fn decode(bytes: &[u8], from: Dtype, out: &mut [f32]) {
    fn each<const N: usize>(bytes: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
        let elements = bytes.as_chunks::<N>().0.iter();
        out.iter_mut()
            .zip(elements)
            .for_each(|(o, b)| *o = read(*b));
    }
    match from {
        Dtype::Float32 => each(bytes, out, f32::from_le_bytes),
        Dtype::BFloat16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::Float16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
    }
}

/// Writes as many elements in format `to` as both sides hold.
pub(super) fn encode(values: &[f32], to: Dtype, out: &mut [u8]) {
    fn each<const N: usize>(values: &[f32], out: &mut [u8], write: impl Fn(f32) -> [u8; N]) {
        let elements = out.as_chunks_mut::<N>().0.iter_mut();
        elements.zip(values).for_each(|(o, v)| *o = write(*v));
    }
    match to {
        Dtype::Float32 => each(values, out, f32::to_le_bytes),
        Dtype::BFloat16 => each(values, out, |v| bf16::from_f32(v).to_le_bytes()),
        Dtype::Float16 => each(values, out, |v| f16::from_f32(v).to_le_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_survives_a_conversion_to_float32_and_back() {
        // More elements than one chunk, so that the seams are covered too.
        let values: Vec<f32> = (0..CHUNK + 7)
            .map(|i| (i % 1000) as f32 / 8.0 - 60.0)
            .collect();
        for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
            let mut stored = vec![0; values.len() * dtype.size()];
            encode(&values, dtype, &mut stored);
            let wide = convert(&stored, dtype, Dtype::Float32).unwrap();
            assert_eq!(
                convert(&wide, Dtype::Float32, dtype).unwrap(),
                stored,
                "{dtype:?}"
            );
        }
    }

    #[test]
    fn rounding_is_to_nearest_ties_to_even() {
        // bfloat16 has 8 significant bits: 257 lies between 256 and 258, 259 between 258 and 260.
        let bytes: Vec<u8> = [257.0f32, 259.0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        let rounded = convert(&bytes, Dtype::Float32, Dtype::BFloat16).unwrap();
        let mut values = [0.0; 2];
        decode(&rounded, Dtype::BFloat16, &mut values);
        assert_eq!(values, [256.0, 260.0]);
    }
}
