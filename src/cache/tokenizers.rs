//! What tokenizers answered while studies were opened, so that a study that is cached is opened again without setting them up.
//!
//! It decides nothing that is computed: a program that computes asks the tokenizer itself.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Cache, CacheError, FileKind, Key, record};

/// A part of the keys: another one where the library, or what is asked of it, has changed.
const VERSION: &[u8] = b"dial tokenizer answers v1";

impl Cache {
    /// What is stored for the tokenizer whose content has this hash; `None` if it is nothing (readable).
    pub(crate) fn tokenizer_answers<A: DeserializeOwned>(
        &self,
        tokenizer: &blake3::Hash,
    ) -> Option<A> {
        let key = key(tokenizer);
        let path = self.layout.file(FileKind::Tokenizer, &key);
        record::get(&self.layout, &path, &key).unwrap_or_else(|error| {
            tracing::warn!("{error}; the tokenizer is asked again");
            None
        })
    }

    /// Stores what a tokenizer answered, replacing what was stored for it.
    pub(crate) fn put_tokenizer_answers<A: Serialize>(
        &self,
        tokenizer: &blake3::Hash,
        answers: &A,
    ) -> Result<(), CacheError> {
        let key = key(tokenizer);
        record::put(&self.layout.file(FileKind::Tokenizer, &key), &key, answers)
    }
}

fn key(tokenizer: &blake3::Hash) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(VERSION).update(tokenizer.as_bytes());
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_one_tokenizer_and_damaged_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let (one, other) = (blake3::hash(b"one"), blake3::hash(b"other"));
        cache.put_tokenizer_answers(&one, &["a", "b"]).unwrap();
        let answers: Option<Vec<String>> = cache.tokenizer_answers(&one);
        assert_eq!(answers.unwrap(), ["a", "b"]);
        assert_eq!(cache.tokenizer_answers::<Vec<String>>(&other), None);
        let stored = cache.layout.file(FileKind::Tokenizer, &key(&one));
        std::fs::write(&stored, b"{}").unwrap();
        assert_eq!(cache.tokenizer_answers::<Vec<String>>(&one), None);
    }
}
