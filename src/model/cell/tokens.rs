//! What a cell is made of that is large: the prompt's tokens and vectors, each with the hash of its content.

use std::sync::Arc;

/// A prompt as the model sees it, with the hash of its ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// What a person calls it, where that is known. It is in no key.
    label: Option<String>,
    ids: Vec<u32>,
    hash: blake3::Hash,
    template: usize,
    template_hash: blake3::Hash,
}

impl Tokens {
    pub fn new(ids: Vec<u32>) -> Self {
        Self::with_template(ids, 0)
    }

    /// Token ids in order, `[pos]`, of which the first `template` are what every prompt in this chat starts with (at most all but one).
    /// What is computed of those is shared by the prompts; it must follow from model and chat alone.
    pub(crate) fn with_template(ids: Vec<u32>, template: usize) -> Self {
        let template = template.min(ids.len().saturating_sub(1));
        Tokens {
            label: None,
            hash: hash_of(&ids),
            template_hash: hash_of(&ids[..template]),
            template,
            ids,
        }
    }

    /// The same prompt with its id in the prompt set, by which errors name it.
    pub(crate) fn labelled(self: Arc<Self>, label: &str) -> Arc<Self> {
        let mut tokens = Arc::unwrap_or_clone(self);
        tokens.label = Some(label.to_string());
        Arc::new(tokens)
    }

    /// The prompt with tokens that were generated behind it.
    pub(crate) fn continued(&self, generated: &[u32]) -> Self {
        let mut tokens = Self::with_template([&self.ids, generated].concat(), self.template);
        tokens.label = self.label.clone();
        tokens
    }

    /// What a person calls the prompt: by its id where that is known, else by its length.
    pub(crate) fn label(&self) -> String {
        match &self.label {
            Some(label) => format!("prompt `{label}`"),
            None => format!("the prompt of {} tokens", self.len()),
        }
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The ids that every prompt in this chat starts with; may be none.
    pub(crate) fn template(&self) -> &[u32] {
        &self.ids[..self.template]
    }

    /// The ids behind the template: at least one, where there are any.
    pub(crate) fn own(&self) -> &[u32] {
        &self.ids[self.template..]
    }

    #[expect(
        clippy::len_without_is_empty,
        reason = "a prompt has at least one token"
    )]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// blake3 of the ids as little-endian u32.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// blake3 of the template's ids as little-endian u32.
    pub(crate) fn template_hash(&self) -> blake3::Hash {
        self.template_hash
    }
}

fn hash_of(ids: &[u32]) -> blake3::Hash {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    blake3::hash(&bytes)
}

/// A vector of the residual stream, `[d_model]`, float32, with the hash of its content.
#[derive(Debug)]
pub struct Vector {
    values: Vec<f32>,
    hash: blake3::Hash,
}

impl PartialEq for Vector {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Vector {
    pub fn new(values: Vec<f32>) -> Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let hash = blake3::hash(&bytes);
        Vector { values, hash }
    }

    /// A vector of which only the hash is known, with values that stand in for its own: cells with it have the true key, and must not be
    /// computed.
    pub(crate) fn known_by(hash: blake3::Hash, values: Vec<f32>) -> Self {
        Vector { values, hash }
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// blake3 of the elements as little-endian float32.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hash
    }
}
