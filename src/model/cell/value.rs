//! Values of cells, and the bytes they are kept as.

/// The value of a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A refusal score.
    Score(f64),
    /// Natural-log probabilities, in the order asked.
    LogProbabilities(Vec<f32>),
    /// A vector, `[width]`.
    Activation(Vec<f32>),
    /// Token ids of a continuation.
    Generation(Vec<u32>),
}

impl Value {
    /// The bytes kept in the cache: a tag, then little-endian numbers.
    pub fn to_bytes(&self) -> Vec<u8> {
        fn tagged<const N: usize>(tag: u8, items: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
            std::iter::once(tag).chain(items.flatten()).collect()
        }
        match self {
            Value::Score(score) => tagged(0, std::iter::once(score.to_le_bytes())),
            Value::LogProbabilities(values) => tagged(1, values.iter().map(|v| v.to_le_bytes())),
            Value::Activation(values) => tagged(2, values.iter().map(|v| v.to_le_bytes())),
            Value::Generation(ids) => tagged(3, ids.iter().map(|v| v.to_le_bytes())),
        }
    }

    /// Reads what [`Value::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn words<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Option<Vec<T>> {
            let chunks = bytes.chunks_exact(4);
            if !chunks.remainder().is_empty() {
                return None;
            }
            chunks.map(|c| Some(read(c.try_into().ok()?))).collect()
        }
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            0 => Value::Score(f64::from_le_bytes(rest.try_into().ok()?)),
            1 => Value::LogProbabilities(words(rest, f32::from_le_bytes)?),
            2 => Value::Activation(words(rest, f32::from_le_bytes)?),
            3 => Value::Generation(words(rest, u32::from_le_bytes)?),
            _ => return None,
        })
    }
}
