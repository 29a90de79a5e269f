//! Text to token ids and back, exactly as the model was trained on.
//!
//! Nothing is ever added to a text: the chat template writes the special tokens, and their strings are recognised
//! wherever they stand in it. A tokenizer file's own truncation and padding are switched off for the same reason.
//!
//! The file is a pipeline of rules from outside, so all work with it is confined: rules that let a text grow without end, expressions that
//! never finish and data that the library panics on are errors.

mod as_text;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use regex::{Regex, RegexBuilder};
use serde::de::IgnoredAny;
use tokenizers::models::ModelWrapper;
use tokenizers::{Encoding, Tokenizer as Inner};

use super::confined::{Allowance, confined};
use super::error::{ModelError, Problem, Result};
use super::json;

/// Bytes that the expression which finds a tokenizer's control tokens may take.
const EXPRESSION_BYTES: usize = 64 << 20;

/// A model's tokenizer. A copy is the same one.
#[derive(Clone)]
pub(super) struct Tokenizer(Arc<Parts>);

struct Parts {
    inner: Inner,
    hash: blake3::Hash,
    /// The same with control tokens read as text; made when it is needed.
    as_text: OnceLock<Inner>,
    /// The tokens that are marked special: control tokens.
    control: Option<Regex>,
    /// Their spellings, in the order of their ids.
    spellings: Vec<String>,
    control_ids: HashSet<u32>,
    /// Every token that is matched as a whole, special or not.
    added: Option<Regex>,
}

fn failed(error: impl std::fmt::Display) -> ModelError {
    ModelError::Tokenizer(error.to_string())
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json` that lies at `path`.
    ///
    /// # Errors
    /// The bytes are not a tokenizer, or one that gives other ids every time.
    pub(crate) fn from_json(path: &Path, bytes: &[u8]) -> Result<Self> {
        let hash = blake3::hash(bytes);
        let bytes = bytes.to_vec();
        let built = Self::build(hash, bytes.len(), move || {
            // Of a key that is there twice the library would take the last.
            if let Ok(text) = std::str::from_utf8(&bytes) {
                json::read::<IgnoredAny>(text)?;
            }
            Inner::from_bytes(bytes)
        });
        built.map_err(|problem| problem.at(path))
    }

    /// Makes a tokenizer out of `length` bytes, whose content `hash` stands for.
    pub(super) fn build(
        hash: blake3::Hash,
        length: usize,
        make: impl FnOnce() -> tokenizers::Result<Inner> + Send + 'static,
    ) -> Result<Self, Problem> {
        let made = confined(Allowance::of_file(length), move || {
            let made = make().and_then(|inner| Self::new(inner, hash));
            made.map_err(|error| error.to_string())
        });
        let made = made.flatten();
        Ok(made.map_err(|error| format!("not a tokenizer that can be used: {error}"))?)
    }

    /// Wraps a tokenizer whose content `hash` stands for.
    pub(super) fn new(mut inner: Inner, hash: blake3::Hash) -> tokenizers::Result<Self> {
        check_steady(inner.get_model())?;
        check_ids(&inner)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        let mut added: Vec<_> = inner.get_added_tokens_decoder().into_iter().collect();
        added.retain(|(_, token)| !token.content.is_empty());
        added.sort_by_key(|(id, _)| *id);
        let special = || added.iter().filter(|(_, token)| token.special);
        let spellings: Vec<String> = special().map(|(_, token)| token.content.clone()).collect();
        let all: Vec<String> = added
            .iter()
            .map(|(_, token)| token.content.clone())
            .collect();
        Ok(Self(Arc::new(Parts {
            control: any_of(&spellings)?,
            added: any_of(&all)?,
            control_ids: special().map(|(id, _)| *id).collect(),
            spellings,
            inner,
            hash,
            as_text: OnceLock::new(),
        })))
    }

    /// The token ids of `text`, no special tokens added.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let (tokenizer, text) = (self.clone(), text.to_string());
        let allowance = Allowance::of_text(text.len());
        confined(allowance, move || tokenizer.ids(&text)).map_err(failed)?
    }

    /// The same on a thread that is confined already.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.0.inner.encode_fast(text, false).map_err(failed)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, with or without the special tokens among them.
    ///
    /// # Errors
    /// The tokenizer's decoder rejects the ids. Ids outside the vocabulary are left out.
    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let (tokenizer, ids) = (self.clone(), ids.to_vec());
        let bytes = size_of_val(ids.as_slice());
        let work = move || tokenizer.0.inner.decode(&ids, skip_special).map_err(failed);
        confined(Allowance::of_text(bytes), work).map_err(failed)?
    }

    /// The id of the first token of `word`, no special tokens added.
    ///
    /// # Errors
    /// The word has no token, because it is empty or vanishes in normalisation.
    pub(crate) fn first_token(&self, word: &str) -> Result<u32> {
        self.encode(word)?.first().copied().ok_or_else(|| {
            ModelError::Tokenizer(format!(
                "`{word}` has no tokens, expected a word with at least one"
            ))
        })
    }

    /// The control tokens that a text spells out, in order.
    pub(super) fn control_tokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let control = self.0.control.as_ref();
        let found = control.map(|control| control.find_iter(text).map(|found| found.as_str()));
        found.into_iter().flatten().collect()
    }

    /// What finds the tokens that are matched as a whole, control tokens and others.
    pub(super) fn added_tokens(&self) -> Option<&Regex> {
        self.0.added.as_ref()
    }

    /// The number of distinct tokens, special ones included; the model's embedding may have more rows.
    pub(crate) fn d_vocab(&self) -> usize {
        self.0.inner.get_vocab_size(true)
    }

    /// The hash of everything that decides how a text is split.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.0.hash
    }

    pub(super) fn largest_id(&self) -> Option<u32> {
        self.0.inner.get_vocab(true).into_values().max()
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.0.inner.token_to_id(token)
    }

    /// The text of one token as the vocabulary spells it.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.0.inner.id_to_token(id)
    }

    /// Whether the token at a place of an encoding is a control token that the text spells out there; the one for what is unknown
    /// to the vocabulary may be special, too.
    fn is_control(&self, encoding: &Encoding, place: usize, text: &str) -> bool {
        let (Some(id), Some(&(start, end))) = (
            encoding.get_ids().get(place),
            encoding.get_offsets().get(place),
        ) else {
            return false;
        };
        let spelt = text.get(start..end).unwrap_or_default().trim();
        self.0.control_ids.contains(id) && self.0.inner.id_to_token(*id).as_deref() == Some(spelt)
    }
}

/// Fails for a tokenizer that leaves merges out, or draws among the ways to split a word, at random.
fn check_steady(model: &ModelWrapper) -> tokenizers::Result<()> {
    let chance = match model {
        ModelWrapper::BPE(model) => model.dropout.map(|p| ("dropout", f64::from(p))),
        ModelWrapper::Unigram(model) => model.alpha.map(|alpha| ("alpha", alpha)),
        _ => None,
    };
    match chance {
        Some((name, value)) if value != 0.0 => Err(format!(
            "`{name}` is {value}, so that the same text has other tokens every time, expected 0 or null; \
             it is for training, so set it to null in the file"
        )
        .into()),
        _ => Ok(()),
    }
}

/// Fails where two tokens have one id: which of them it is read back as would differ from run to run, by the order of the library's map.
fn check_ids(tokenizer: &Inner) -> tokenizers::Result<()> {
    let tokens = tokenizer.get_vocab(true).into_iter();
    let mut tokens: Vec<(u32, String)> = tokens.map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!(
            "the tokens `{}` and `{}` both have the id {}, so that it is not known what that id is read back as",
            pair[0].1, pair[1].1, pair[0].0
        )
        .into()),
        None => Ok(()),
    }
}

/// What finds the longest of some texts wherever one of them stands; none of none.
fn any_of(texts: &[String]) -> tokenizers::Result<Option<Regex>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut texts: Vec<&String> = texts.iter().collect();
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let escaped: Vec<String> = texts.into_iter().map(|text| regex::escape(text)).collect();
    let mut builder = RegexBuilder::new(&escaped.join("|"));
    builder.size_limit(EXPRESSION_BYTES);
    match builder.build() {
        Ok(regex) => Ok(Some(regex)),
        Err(_) => Err("its added tokens are too many or too long".into()),
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {})", self.d_vocab(), self.hash())
    }
}

#[cfg(test)]
mod tests;
