//! Text to token ids and back, exactly as the model was trained on.
//!
//! Nothing is ever added to a text: the chat template writes the special tokens, and their strings are recognised
//! wherever they stand in it. A tokenizer file's own truncation and padding are switched off for the same reason.

use std::path::Path;

use tokenizers::Tokenizer as Inner;

use super::error::ModelError;

/// A model's tokenizer.
pub struct Tokenizer {
    inner: Inner,
    hash: blake3::Hash,
}

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json` that lies at `path`.
    ///
    /// # Errors
    /// The bytes are not a tokenizer.
    pub fn from_json(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let inner = Inner::from_bytes(bytes)
            .map_err(|error| ModelError::invalid(path, format!("not a tokenizer: {error}")))?;
        Self::new(inner, blake3::hash(bytes))
    }

    /// Wraps a tokenizer whose content `hash` stands for.
    pub(super) fn new(mut inner: Inner, hash: blake3::Hash) -> Result<Self, ModelError> {
        inner.with_truncation(None).map_err(failed)?;
        inner.with_padding(None);
        Ok(Self { inner, hash })
    }

    /// The token ids of `text`, no special tokens added.
    ///
    /// # Errors
    /// The tokenizer's normalisation or splitting fails on this text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let encoding = self.inner.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, with or without the special tokens among them.
    ///
    /// # Errors
    /// The tokenizer's decoder rejects the ids. Ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special).map_err(failed)
    }

    /// The id of the first token of `word`, no special tokens added.
    ///
    /// # Errors
    /// The word has no token, because it is empty or vanishes in normalisation.
    pub fn first_token(&self, word: &str) -> Result<u32, ModelError> {
        self.encode(word)?.first().copied().ok_or_else(|| {
            ModelError::Tokenizer(format!(
                "`{word}` has no tokens, expected a word with at least one"
            ))
        })
    }

    /// The number of distinct tokens, special ones included; the model's embedding may have more rows.
    pub fn d_vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The hash of everything that decides how a text is split.
    pub fn hash(&self) -> blake3::Hash {
        self.hash
    }

    /// The largest id of any token, special ones included.
    pub(super) fn largest_id(&self) -> Option<u32> {
        self.inner.get_vocab(true).into_values().max()
    }

    /// The id of the token that the vocabulary spells so.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of one token as the vocabulary spells it.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {})", self.d_vocab(), self.hash)
    }
}
