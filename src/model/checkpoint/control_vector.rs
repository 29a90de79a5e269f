//! llama.cpp's control vectors: a GGUF file of directions, `direction.N` for the output of block N.
//!
//! What llama.cpp itself asks of such a file is asked here, too: float32, one axis, one width, N from 1. It reads no metadata, and so none has to be
//! there. Two tensors of one name it adds up; here they are an error. Source: `llama-adapter.cpp` and `common.cpp` of ggml-org/llama.cpp.

use std::collections::BTreeMap;

use super::gguf_header::{self, TensorInfo, Value};
use super::host_tensor::decode;
use crate::model::config::Dtype;
use crate::model::hooks::Site;

/// The number of float32 among the types of tensors.
const FLOAT32: u32 = 0;
const ARCHITECTURE: &str = "controlvector";
/// Numbers of types of metadata: a whole number of 32 bits, and text.
const U32: u32 = 4;
const TEXT: u32 = 8;
/// The version of the format that is written.
const VERSION: u32 = 3;
/// Bytes that tensors begin at a multiple of.
const ALIGNMENT: usize = 32;
/// Stands before what this program says of a vector of its own, in keys that llama.cpp does not read.
const OWN: &str = "dial.";

/// The directions of a file.
#[derive(Debug, PartialEq)]
pub(crate) struct ControlVector {
    /// The architecture of the model that it was made for, where the file says it.
    pub(crate) hint: Option<String>,
    /// What this program says of a vector of its own.
    pub(crate) about: BTreeMap<String, String>,
    /// By the number of the block to whose output each is added, ascending.
    pub(crate) directions: Vec<(usize, Vec<f32>)>,
}

impl ControlVector {
    /// Reads a file of these bytes.
    ///
    /// # Errors
    /// It is no GGUF file, not a whole one, or not one of directions.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let header = gguf_header::read(bytes)?;
        let text = |key: &str| {
            header.metadata.get(key, "text", |value| match value {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            })
        };
        let architecture = text("general.architecture")?;
        if let Some(other) = architecture.filter(|name| name != ARCHITECTURE) {
            return Err(format!(
                "`general.architecture` is `{other}`, expected `{ARCHITECTURE}`: it holds a model, not directions"
            ));
        }
        let mut directions: Vec<(usize, Vec<f32>)> = Vec::new();
        for tensor in &header.tensors {
            let block = block_of(&tensor.name)?;
            if directions.iter().any(|(other, _)| *other == block) {
                return Err(format!(
                    "there are two tensors for block {block}, expected one (llama.cpp adds them up)"
                ));
            }
            let values = values(tensor, bytes.get(header.data_start..).unwrap_or_default());
            let values = values.map_err(|problem| format!("tensor `{}` {problem}", tensor.name))?;
            if let Some((other, first)) = directions.first()
                && first.len() != values.len()
            {
                return Err(format!(
                    "tensor `{}` has {} numbers and `direction.{other}` has {}, expected one width",
                    tensor.name,
                    values.len(),
                    first.len()
                ));
            }
            directions.push((block, values));
        }
        if directions.is_empty() {
            return Err("it has no tensor `direction.N`".to_string());
        }
        directions.sort_by_key(|(block, _)| *block);
        let mut about = BTreeMap::new();
        for key in OWN_KEYS {
            about.extend(text(&format!("{OWN}{key}"))?.map(|said| (key.to_string(), said)));
        }
        Ok(ControlVector {
            hint: text("controlvector.model_hint")?,
            about,
            directions,
        })
    }
}

/// What is read again of what this program says of a vector of its own.
const OWN_KEYS: [&str; 3] = ["model", "model_fingerprint", "pre_norm"];

/// A file of one direction, to be written.
pub(crate) struct NewControlVector<'a> {
    /// The block to whose output it is added.
    pub(crate) block: usize,
    pub(crate) values: &'a [f32],
    /// As `model_type` in `config.json`.
    pub(crate) hint: &'a str,
    /// What this program says of it, by name.
    pub(crate) about: &'a BTreeMap<String, String>,
}

impl NewControlVector<'_> {
    /// The block to whose output a direction of a layer and site is added, in a model of so many layers.
    ///
    /// # Errors
    /// A place that llama.cpp does not reach: which, why, and what to do. A fragment.
    pub(crate) fn block(layer: usize, site: Site, n_layers: usize) -> Result<usize, String> {
        let instead = "write it as safetensors, or take a direction of another layer or site";
        let block = match site {
            // What enters a layer is what the one before gives.
            Site::ResidPre => layer.checked_sub(1),
            // The last that a block adds: so much more of it is so much more of the sum.
            Site::ResidPost | Site::MlpOut => Some(layer),
            Site::ResidMid | Site::AttnOut | Site::AttnZ | Site::MlpPost => {
                return Err(format!(
                    "is of `{}`, and llama.cpp adds its vectors to what blocks give, where the MLP has read the stream already; {instead}",
                    site.short_name()
                ));
            }
        };
        match block {
            Some(block) if block >= 1 && block < n_layers => Ok(block),
            Some(block) if block >= n_layers => Err(format!(
                "is of layer {layer}, and the model has {n_layers}; {instead}"
            )),
            _ => Err(format!(
                "is of `{}` of layer {layer}, {}, and llama.cpp adds nothing before the output of block 1; {instead}",
                site.short_name(),
                match block {
                    None => "what the embedding gives",
                    Some(_) => "the output of block 0",
                }
            )),
        }
    }

    /// The file.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend((3 + self.about.len() as u64).to_le_bytes());
        entry_of_text(&mut bytes, "general.architecture", ARCHITECTURE);
        entry_of_text(&mut bytes, "controlvector.model_hint", self.hint);
        text(&mut bytes, "controlvector.layer_count");
        for number in [U32, 1] {
            bytes.extend(number.to_le_bytes());
        }
        for (key, said) in self.about {
            entry_of_text(&mut bytes, &format!("{OWN}{key}"), said);
        }
        text(&mut bytes, &format!("direction.{}", self.block));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        bytes.extend(FLOAT32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(self.values.iter().flat_map(|x| x.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn entry_of_text(bytes: &mut Vec<u8>, key: &str, said: &str) {
    text(bytes, key);
    bytes.extend(TEXT.to_le_bytes());
    text(bytes, said);
}

/// N of `direction.N`.
fn block_of(name: &str) -> Result<usize, String> {
    let number = name.strip_prefix("direction.");
    match number.and_then(|number| number.parse::<usize>().ok()) {
        Some(0) => Err(
            "tensor `direction.0` is of no block that llama.cpp edits, which counts from `direction.1`; number the tensors of the file anew"
                .to_string(),
        ),
        Some(block) => Ok(block),
        None => Err(format!("tensor `{name}` is unknown, expected `direction.N`")),
    }
}

/// The numbers of a tensor, which lie behind the header. The error is a fragment.
fn values(tensor: &TensorInfo, data: &[u8]) -> Result<Vec<f32>, String> {
    if tensor.kind != FLOAT32 {
        return Err(format!(
            "is of type number {}, expected float32",
            tensor.kind
        ));
    }
    let [width] = tensor.shape.as_slice() else {
        return Err(format!("has shape `{:?}`, expected one axis", tensor.shape));
    };
    let place = |number: u64| usize::try_from(number).ok();
    let length = place(*width).and_then(|width| width.checked_mul(Dtype::Float32.size()));
    let start = place(tensor.offset);
    let end = start.and_then(|start| start.checked_add(length?));
    let bytes = start.zip(end).and_then(|(start, end)| data.get(start..end));
    let bytes = bytes.ok_or("does not lie within the file; download it again")?;
    let mut values = vec![0.0; bytes.len() / Dtype::Float32.size()];
    decode(bytes, Dtype::Float32, &mut values);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// A file of tensors of these names, each of the numbers 0, 1, 2 …, with the metadata given as texts.
    fn file(metadata: &[(&str, &str)], tensors: &[(&str, u64)]) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((tensors.len() as u64).to_le_bytes());
        bytes.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            bytes.extend(text(key));
            bytes.extend(8u32.to_le_bytes());
            bytes.extend(text(value));
        }
        let mut offset = 0u64;
        for (name, width) in tensors {
            bytes.extend(text(name));
            bytes.extend(1u32.to_le_bytes());
            bytes.extend(width.to_le_bytes());
            bytes.extend(FLOAT32.to_le_bytes());
            bytes.extend(offset.to_le_bytes());
            offset += (4 * width).next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        for (_, width) in tensors {
            for number in 0..*width {
                bytes.extend((number as f32).to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(32), 0);
        }
        bytes
    }

    #[test]
    fn directions_come_by_block_and_metadata_need_not_be_there() {
        let read = ControlVector::read(&file(&[], &[("direction.10", 3), ("direction.2", 3)]));
        let values = vec![0.0, 1.0, 2.0];
        let expected = ControlVector {
            hint: None,
            about: BTreeMap::new(),
            directions: vec![(2, values.clone()), (10, values)],
        };
        assert_eq!(read, Ok(expected));
        let metadata = [
            ("general.architecture", "controlvector"),
            ("controlvector.model_hint", "qwen2"),
        ];
        let read = ControlVector::read(&file(&metadata, &[("direction.1", 1)])).unwrap();
        assert_eq!(read.hint.as_deref(), Some("qwen2"));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let about = [("model", "inst"), ("pre_norm", "2.5"), ("layer", "20")];
        let about = about.map(|(key, said)| (key.to_string(), said.to_string()));
        let values = [0.25, -1e-38, 1.0];
        let written = NewControlVector {
            block: 19,
            values: &values,
            hint: "qwen2",
            about: &about.clone().into(),
        };
        let read = ControlVector::read(&written.to_bytes()).unwrap();
        assert_eq!(read.directions, [(19, values.to_vec())]);
        assert_eq!(read.hint.as_deref(), Some("qwen2"));
        assert_eq!(read.about, about[..2].iter().cloned().collect());
    }

    /// llama.cpp adds `direction.N` to the output of block N, for N from 1 to the last block.
    #[test]
    fn a_direction_goes_to_the_block_that_gives_what_it_is_of() {
        let block = |layer, site| NewControlVector::block(layer, site, 24);
        assert_eq!(block(20, Site::ResidPre), Ok(19));
        assert_eq!(block(2, Site::ResidPre), Ok(1));
        for site in [Site::ResidPost, Site::MlpOut] {
            assert_eq!(block(1, site), Ok(1));
            assert_eq!(block(23, site), Ok(23));
            assert!(
                block(0, site)
                    .unwrap_err()
                    .contains("the output of block 0")
            );
        }
        let refused = |layer, site| block(layer, site).unwrap_err();
        assert!(refused(0, Site::ResidPre).contains("what the embedding gives"));
        assert!(refused(1, Site::ResidPre).contains("the output of block 0"));
        assert!(refused(5, Site::ResidMid).contains("`resid_mid`"));
        assert!(refused(5, Site::AttnOut).contains("write it as safetensors"));
        assert!(refused(24, Site::ResidPost).contains("the model has 24"));
    }

    #[test]
    fn what_llama_cpp_refuses_or_takes_for_something_else_is_told() {
        let problem = |metadata: &[(&str, &str)], tensors: &[(&str, u64)]| {
            ControlVector::read(&file(metadata, tensors)).unwrap_err()
        };
        let told = problem(&[("general.architecture", "llama")], &[("direction.1", 2)]);
        assert!(told.contains("holds a model"), "{told}");
        let told = problem(&[], &[("direction.0", 2)]);
        assert!(told.contains("counts from `direction.1`"), "{told}");
        let told = problem(&[], &[("blk.0.attn_q.weight", 2)]);
        assert!(told.contains("expected `direction.N`"), "{told}");
        let told = problem(&[], &[("direction.1", 2), ("direction.01", 2)]);
        assert!(told.contains("two tensors for block 1"), "{told}");
        let told = problem(&[], &[("direction.1", 2), ("direction.2", 3)]);
        assert!(told.contains("expected one width"), "{told}");
        assert!(problem(&[], &[]).contains("no tensor"));
    }

    #[test]
    fn a_file_that_ends_early_or_lies_about_its_size_is_told_wherever_it_ends() {
        let whole = file(
            &[("controlvector.model_hint", "llama")],
            &[("direction.3", 5)],
        );
        // Behind the numbers is nothing but what fills the last line up.
        let needed = whole.len() - 12;
        for end in 0..needed {
            assert!(ControlVector::read(&whole[..end]).is_err(), "{end}");
        }
        assert!(ControlVector::read(&whole[..needed]).is_ok());
        for width in [u64::MAX, u64::MAX / 4, 1 << 62, 1 << 40] {
            let mut huge = whole.clone();
            let at = huge
                .windows(8)
                .position(|bytes| bytes == 5u64.to_le_bytes());
            huge[at.unwrap()..][..8].copy_from_slice(&width.to_le_bytes());
            assert!(ControlVector::read(&huge).is_err(), "{width}");
        }
        let mut big_endian = whole.clone();
        big_endian[4..8].reverse();
        let told = ControlVector::read(&big_endian).unwrap_err();
        assert!(told.contains("big-endian"), "{told}");
        let mut half = whole;
        let at = half
            .windows(12)
            .position(|bytes| bytes == [&[0; 4][..], &[0; 8]].concat());
        // Behind the other bytes of the width, which are zeros, too.
        half[at.unwrap() + 7] = 1;
        let told = ControlVector::read(&half).unwrap_err();
        assert!(told.contains("expected float32"), "{told}");
    }
}
