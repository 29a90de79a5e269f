//! A writer of GGUF files, for the tests of what reads them; `gguf_header` describes the format.

use std::path::Path;

/// A value of the metadata.
#[derive(Clone)]
pub(super) enum Meta {
    U16(u16),
    U32(u32),
    U64(u64),
    I32(i32),
    I64(i64),
    F32(f32),
    Text(String),
    /// Of one type, and not empty.
    List(Vec<Meta>),
}

impl Meta {
    /// The number of its type.
    fn kind(&self) -> u32 {
        match self {
            Self::U16(_) => 2,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Text(_) => 8,
            Self::List(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Text(text) => put_text(out, text),
            Self::List(values) => {
                out.extend(values[0].kind().to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.put(out));
            }
        }
    }
}

pub(super) struct Tensor {
    /// Outermost first.
    pub(super) shape: Vec<usize>,
    /// The number of its type.
    pub(super) kind: u32,
    pub(super) data: Vec<u8>,
}

pub(super) fn float32(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor {
        shape: shape.to_vec(),
        kind: 0,
        data: values.iter().copied().flat_map(f32::to_le_bytes).collect(),
    }
}

/// Writes a file of version 2, to which the recorded fingerprints belong.
pub(super) fn write(path: &Path, metadata: &[(String, Meta)], tensors: &[(String, Tensor)]) {
    let mut out = b"GGUF".to_vec();
    out.extend(2u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut out, key);
        out.extend(value.kind().to_le_bytes());
        value.put(&mut out);
    }
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        put_text(&mut out, name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for dimension in tensor.shape.iter().rev() {
            out.extend((*dimension as u64).to_le_bytes());
        }
        out.extend(tensor.kind.to_le_bytes());
        out.extend((data.len() as u64).to_le_bytes());
        data.extend(&tensor.data);
        align(&mut data);
    }
    align(&mut out);
    out.extend(data);
    std::fs::write(path, out).unwrap();
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// To the alignment of files that say nothing of it.
fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(32), 0);
}
