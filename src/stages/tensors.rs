//! Arrays that a stage leaves beside its tables: a file in the safetensors format, for programs that go on from it.
//!
//! The file is written piece by piece, so that no second copy of it lies in memory: eight bytes that say how long the header is, the header (JSON:
//! of each tensor its type, shape and place, and texts about the file), then the numbers, little-endian, one tensor behind the other.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Map, Value as Json, json};

use super::StageError;

/// Numbers that become bytes at once.
const AT_ONCE: usize = 1 << 14;
/// The header's length is a multiple of it, so that numbers lie where a program can use them in place.
const ALIGNMENT: usize = 8;

/// A file of named arrays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tensors {
    /// Its name; empty for the file that takes the stage's.
    pub(crate) name: String,
    /// In the order of the file. Those of eight bytes a number come first, for the sake of alignment.
    pub(crate) tensors: Vec<Tensor>,
    /// What the file says of itself.
    pub(crate) metadata: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Numbers,
}

/// The numbers of a tensor, the last axis the fastest.
#[derive(Clone, Debug)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Numbers {
    /// As the format calls it.
    fn dtype(&self) -> &'static str {
        match self {
            Numbers::F32(_) => "F32",
            Numbers::I64(_) => "I64",
        }
    }

    fn count(&self) -> usize {
        match self {
            Numbers::F32(numbers) => numbers.len(),
            Numbers::I64(numbers) => numbers.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Numbers::F32(numbers) => 4 * numbers.len(),
            Numbers::I64(numbers) => 8 * numbers.len(),
        }
    }

    fn write(&self, writer: &mut dyn Write) -> std::io::Result<()> {
        match self {
            Numbers::F32(numbers) => pieces(numbers, |number| number.to_le_bytes(), writer),
            Numbers::I64(numbers) => pieces(numbers, |number| number.to_le_bytes(), writer),
        }
    }
}

fn pieces<T: Copy, const N: usize>(
    numbers: &[T],
    bytes: fn(T) -> [u8; N],
    writer: &mut dyn Write,
) -> std::io::Result<()> {
    for piece in numbers.chunks(AT_ONCE) {
        let piece: Vec<u8> = piece.iter().flat_map(|number| bytes(*number)).collect();
        writer.write_all(&piece)?;
    }
    Ok(())
}

impl Tensors {
    /// The end of the file's name, behind that of the stage.
    pub(crate) fn file(&self) -> String {
        match self.name.as_str() {
            "" => "safetensors".to_string(),
            name => format!("{name}.safetensors"),
        }
    }

    /// Writes the file. The same arrays give the same bytes.
    ///
    /// # Errors
    /// [`StageError::Internal`] where a shape is not that of its numbers, and the writer's own errors.
    pub(crate) fn write(&self, writer: &mut dyn Write) -> Result<(), StageError> {
        let failed = |error: std::io::Error| StageError::Internal(format!("safetensors: {error}"));
        let header = self.header()?;
        let length = (header.len() as u64).to_le_bytes();
        for part in [&length[..], &header] {
            writer.write_all(part).map_err(failed)?;
        }
        for tensor in &self.tensors {
            tensor.numbers.write(writer).map_err(failed)?;
        }
        Ok(())
    }

    fn header(&self) -> Result<Vec<u8>, StageError> {
        let mut header = Map::new();
        header.insert("__metadata__".to_string(), json!(self.metadata));
        let mut start = 0;
        for tensor in &self.tensors {
            let Tensor {
                name,
                shape,
                numbers,
            } = tensor;
            if shape.iter().product::<usize>() != numbers.count() {
                let count = numbers.count();
                return Err(StageError::Internal(format!(
                    "tensor `{name}` of shape {shape:?} has {count} numbers"
                )));
            }
            let end = start + numbers.bytes();
            let said =
                json!({ "dtype": numbers.dtype(), "shape": shape, "data_offsets": [start, end] });
            header.insert(name.clone(), said);
            start = end;
        }
        let mut text = Json::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;
    use safetensors::tensor::Dtype;

    use super::*;

    fn file() -> Tensors {
        let tensor = |name: &str, shape: &[usize], numbers| Tensor {
            name: name.to_string(),
            shape: shape.to_vec(),
            numbers,
        };
        Tensors {
            name: String::new(),
            tensors: vec![
                tensor("z.ids", &[3], Numbers::I64(vec![1, -2, 1 << 40])),
                tensor(
                    "a \"b\"",
                    &[2, 2],
                    Numbers::F32(vec![0.5, -1.0, 1e-38, 3.0]),
                ),
                tensor("none", &[0, 4], Numbers::F32(vec![])),
            ],
            metadata: BTreeMap::from([("about".to_string(), "what it is".to_string())]),
        }
    }

    #[test]
    fn others_read_what_is_written() {
        let mut bytes = Vec::new();
        file().write(&mut bytes).unwrap();
        let read = SafeTensors::deserialize(&bytes).unwrap();
        let ids = read.tensor("z.ids").unwrap();
        assert_eq!((ids.dtype(), ids.shape()), (Dtype::I64, &[3][..]));
        assert_eq!(ids.data()[8..16], (-2i64).to_le_bytes());
        let others = read.tensor("a \"b\"").unwrap();
        assert_eq!((others.dtype(), others.shape()), (Dtype::F32, &[2, 2][..]));
        assert_eq!(others.data()[4..8], (-1f32).to_le_bytes());
        assert_eq!(read.tensor("none").unwrap().shape(), [0, 4]);
        let (header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header % ALIGNMENT, 0);
        let about = metadata.metadata().as_ref().unwrap();
        assert_eq!(about["about"], "what it is");
        let mut again = Vec::new();
        file().write(&mut again).unwrap();
        assert_eq!(bytes, again);
    }

    #[test]
    fn a_shape_of_other_numbers_is_no_file() {
        let mut file = file();
        file.tensors[1].shape = vec![3, 2];
        let error = file.write(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("[3, 2] has 4 numbers"), "{error}");
    }
}
