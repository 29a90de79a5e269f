//! The header of a safetensors file: which tensors it holds, and where.
//!
//! ```text
//! length of the header in bytes, u64    header, JSON    data
//! ```
//!
//! The JSON maps each name to `{"dtype", "shape", "data_offsets"}`, besides `__metadata__`, which says nothing about numbers. The data of
//! the tensors cover what follows without gap or overlap. Source: the format's description at huggingface/safetensors.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::WeightFile;
use super::stored::{Format, Stored};
use crate::model::config::Dtype;
use crate::model::error::unsupported;

/// The most bytes of a header, as in the reference implementation.
const MOST_BYTES: u64 = 100_000_000;
/// Endings of the tensors that stand for a quantised matrix.
const OF_QUANTISED: [&str; 8] = [
    ".qweight",
    ".qzeros",
    ".SCB",
    ".absmax",
    ".scales",
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_packed",
];

/// A tensor as the header has it.
#[derive(Deserialize)]
struct Raw {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (usize, usize),
}

/// Every tensor of a header, in its order; names may repeat.
struct RawHeader(Vec<(String, Raw)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawHeader(Vec::new()))
    }
}

impl<'de> Visitor<'de> for RawHeader {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("tensors by name")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "__metadata__" => drop(map.next_value::<IgnoredAny>()?),
                _ => self.0.push((name, map.next_value()?)),
            }
        }
        Ok(self)
    }
}

/// The tensors of a file that are wanted by their names, in the order of these. Of the others it does not matter how they are stored.
///
/// # Errors
/// It is not such a file, or not a whole one; a tensor is listed twice, overlaps another, or is stored in a way that is not read here.
pub(super) fn read(
    file: &WeightFile,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<(String, Stored)>, String> {
    let bytes = &file.map[..];
    let incomplete = |what: String| {
        let what = super::not_weights(bytes).map_or(what, str::to_string);
        format!("not a complete safetensors file ({what}); download it again")
    };
    let (header, data) = split(bytes).map_err(incomplete)?;
    let raw: RawHeader = serde_json::from_slice(header)
        .map_err(|error| incomplete(format!("its header is not as expected: {error}")))?;
    let mut raw = raw.0;
    raw.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut pairs = raw.iter().zip(raw.iter().skip(1));
    if let Some(((name, _), _)) = pairs.find(|((one, _), (next, _))| one == next) {
        return Err(format!(
            "tensor `{name}` is listed twice, expected once; convert the model anew"
        ));
    }
    refuse_quantised(&raw)?;
    cover(&raw, data.len()).map_err(incomplete)?;
    let start = bytes.len() - data.len();
    let wanted = raw.into_iter().filter(|(name, _)| is_wanted(name));
    let tensors = wanted.map(|(name, raw)| {
        let dtype = stored_dtype(&name, &raw.dtype)?;
        let (from, to) = raw.data_offsets;
        let mut sizes = raw.shape.iter().copied().chain([dtype.size()]);
        let asked = sizes.try_fold(1usize, |product, n| product.checked_mul(n));
        if asked != Some(to - from) {
            return Err(format!(
                "tensor `{name}` has {} bytes, which do not make its shape `{:?}` of {}; download it again",
                to - from,
                raw.shape,
                dtype.name()
            ));
        }
        let stored = Stored {
            path: file.path.clone(),
            map: Arc::clone(&file.map),
            range: start + from..start + to,
            shape: raw.shape,
            format: Format::Plain(dtype),
            pairs: None,
        };
        Ok((name, stored))
    });
    tensors.collect()
}

/// Whether a file of these bytes is as long as its header says.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let is_covered = |(header, data): (&[u8], &[u8])| {
        let raw = serde_json::from_slice::<RawHeader>(header);
        raw.is_ok_and(|raw| cover(&raw.0, data.len()).is_ok())
    };
    split(bytes).is_ok_and(is_covered)
}

fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let (length, rest) = bytes
        .split_first_chunk()
        .ok_or("it has less than 8 bytes")?;
    let length = u64::from_le_bytes(*length);
    if length > MOST_BYTES {
        return Err(format!(
            "its header would have {length} bytes, expected at most {MOST_BYTES}"
        ));
    }
    let within = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length));
    within.ok_or_else(|| {
        format!(
            "its header has {length} bytes, but only {} follow",
            rest.len()
        )
    })
}

/// Whether the tensors cover so many bytes of data one after another. The error is a fragment that names what is wrong.
fn cover(tensors: &[(String, Raw)], length: usize) -> Result<(), String> {
    let mut tensors: Vec<&(String, Raw)> = tensors.iter().collect();
    tensors.sort_by_key(|(_, raw)| raw.data_offsets);
    let (mut end, mut before) = (0, "the header");
    for (name, raw) in tensors {
        let (from, to) = raw.data_offsets;
        if from > to {
            return Err(format!("tensor `{name}` ends before it starts"));
        }
        if from < end {
            return Err(format!(
                "the data of tensors `{before}` and `{name}` overlap"
            ));
        }
        if from > end {
            return Err(format!(
                "nothing stands between `{before}` and tensor `{name}`, where {} bytes are",
                from - end
            ));
        }
        (end, before) = (to, name.as_str());
    }
    if end != length {
        return Err(format!(
            "its header tells of {end} bytes of data, but there are {length}"
        ));
    }
    Ok(())
}

/// Weights that some other program quantised, told apart from a number format that is not read.
fn refuse_quantised(tensors: &[(String, Raw)]) -> Result<(), String> {
    let mut names = tensors.iter().map(|(name, _)| name);
    let quantised = names.find(|name| OF_QUANTISED.iter().any(|end| name.ends_with(end)));
    quantised.map_or(Ok(()), |name| {
        Err(unsupported(
            format!("tensor `{name}`, a part of quantised weights,"),
            "the float32, float16 or bfloat16 model that was quantised, or a GGUF file of it",
        ))
    })
}

fn stored_dtype(name: &str, dtype: &str) -> Result<Dtype, String> {
    match dtype {
        "F32" => Ok(Dtype::Float32),
        "BF16" => Ok(Dtype::BFloat16),
        "F16" => Ok(Dtype::Float16),
        other => Err(unsupported(
            format!("dtype `{other}` of tensor `{name}`"),
            "`F32`, `F16`, `BF16`",
        )),
    }
}
