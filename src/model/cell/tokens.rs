//! What a cell is made of that is large: the prompt's tokens and vectors, each with the hash of its content.

/// A prompt as the model sees it, with the hash of its ids.
#[derive(Debug, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<u32>,
    hash: blake3::Hash,
}

impl Tokens {
    /// Token ids in order, `[pos]`.
    pub fn new(ids: Vec<u32>) -> Self {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        Tokens { ids, hash }
    }

    /// Token ids in order, `[pos]`.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Number of positions.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// blake3 of the ids as little-endian u32.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// A vector of the residual stream, `[d_model]`, float32, with the hash of its content.
#[derive(Debug, PartialEq)]
pub struct Vector {
    values: Vec<f32>,
    hash: blake3::Hash,
}

impl Vector {
    /// Takes the elements, `[d_model]`.
    pub fn new(values: Vec<f32>) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        Vector { values, hash }
    }

    /// The elements, `[d_model]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// blake3 of the elements as little-endian float32.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }
}
