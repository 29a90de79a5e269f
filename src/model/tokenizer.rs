//! Text to token ids and back, exactly as the model was trained on.
//!
//! Nothing is ever added to a text: the chat template writes the special tokens, and their strings are recognised
//! wherever they stand in it. A tokenizer file's own truncation and padding are switched off for the same reason.
//!
//! The file is a pipeline of rules from outside, so all work with it is confined: rules that let a text grow without end, expressions that
//! never finish and data that the library panics on are errors.

mod as_text;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use regex::{Regex, RegexBuilder};
use serde::de::IgnoredAny;
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, Encoding, Tokenizer as Inner};

use super::confined::{Allowance, confined};
use super::error::{ModelError, Result};
use super::json;

/// Bytes that the expression which finds a tokenizer's control tokens may take.
const EXPRESSION_BYTES: usize = 64 << 20;

/// A model's tokenizer.
pub(super) struct Tokenizer {
    inner: Inner,
    /// Of everything that decides how a text is split.
    pub(super) hash: blake3::Hash,
    pub(super) largest_id: Option<u32>,
    /// The same with control tokens read as text; made when it is needed.
    as_text: OnceLock<Inner>,
    /// The tokens that are marked special: control tokens.
    control: Option<Regex>,
    /// Their spellings, in the order of their ids.
    spellings: Vec<String>,
    control_ids: HashSet<u32>,
    /// Every token that is matched as a whole, special or not.
    pub(super) added: Option<Regex>,
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json` that lies at `path`.
    ///
    /// # Errors
    /// The bytes are not a tokenizer, or one that gives other ids every time.
    pub(crate) fn from_json(path: &Path, bytes: &[u8]) -> Result<Arc<Self>> {
        let hash = blake3::hash(bytes);
        let bytes = bytes.to_vec();
        let built = Self::build(hash, bytes.len(), move || {
            // Of a key that is there twice the library would take the last.
            if let Ok(text) = std::str::from_utf8(&bytes) {
                json::read::<IgnoredAny>(text)?;
            }
            Inner::from_bytes(bytes)
        });
        built.map_err(|problem| ModelError::invalid(path, problem))
    }

    /// Makes a tokenizer out of `length` bytes, whose content `hash` stands for.
    pub(super) fn build(
        hash: blake3::Hash,
        length: usize,
        make: impl FnOnce() -> tokenizers::Result<Inner> + Send + 'static,
    ) -> Result<Arc<Self>, String> {
        let made = confined(Allowance::of_file(length), move || {
            let made = make().and_then(|inner| Self::new(inner, hash));
            made.map_err(|error| error.to_string())
        });
        let made = made.flatten();
        made.map_err(|error| format!("not a tokenizer that can be used: {error}"))
    }

    /// Wraps a tokenizer whose content `hash` stands for.
    pub(super) fn new(mut inner: Inner, hash: blake3::Hash) -> tokenizers::Result<Arc<Self>> {
        check_steady(inner.get_model())?;
        let largest_id = check_ids(&inner)?;
        inner.with_truncation(None)?;
        inner.with_padding(None);
        let added: BTreeMap<_, _> = inner.get_added_tokens_decoder().into_iter().collect();
        let added = || added.iter().filter(|(_, token)| !token.content.is_empty());
        let special = || added().filter(|(_, token)| token.special);
        let spelt = |(_, token): (_, &AddedToken)| token.content.clone();
        let spellings: Vec<String> = special().map(spelt).collect();
        Ok(Arc::new(Self {
            control: any_of(&spellings)?,
            added: any_of(&added().map(spelt).collect::<Vec<_>>())?,
            control_ids: special().map(|(id, _)| *id).collect(),
            spellings,
            inner,
            hash,
            largest_id,
            as_text: OnceLock::new(),
        }))
    }

    /// The token ids of `text`, no special tokens added.
    pub(crate) fn encode(self: &Arc<Self>, text: &str) -> Result<Vec<u32>> {
        let (tokenizer, text) = (Arc::clone(self), text.to_string());
        let allowance = Allowance::of_text(text.len());
        confined(allowance, move || tokenizer.ids(&text)).map_err(ModelError::tokenizer)?
    }

    /// The same on a thread that is confined already.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(ModelError::tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`, with or without the special tokens among them.
    ///
    /// # Errors
    /// The tokenizer's decoder rejects the ids. Ids outside the vocabulary are left out.
    pub(crate) fn decode(self: &Arc<Self>, ids: &[u32], skip_special: bool) -> Result<String> {
        let (tokenizer, ids) = (Arc::clone(self), ids.to_vec());
        let bytes = size_of_val(ids.as_slice());
        let work = move || {
            tokenizer
                .inner
                .decode(&ids, skip_special)
                .map_err(ModelError::tokenizer)
        };
        confined(Allowance::of_text(bytes), work).map_err(ModelError::tokenizer)?
    }

    /// The id of the first token of `word`, no special tokens added.
    ///
    /// # Errors
    /// The word has no token, because it is empty or vanishes in normalisation.
    pub(crate) fn first_token(self: &Arc<Self>, word: &str) -> Result<u32> {
        let first = self.encode(word)?.first().copied();
        first.ok_or_else(|| {
            ModelError::tokenizer(format!(
                "`{word}` has no tokens, expected a word with at least one"
            ))
        })
    }

    /// The control tokens that a text spells out, in order.
    pub(super) fn control_tokens<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let control = self.control.as_ref();
        let found = control.map(|control| control.find_iter(text).map(|found| found.as_str()));
        found.into_iter().flatten().collect()
    }

    /// The number of distinct tokens, special ones included.
    #[cfg(test)]
    pub(crate) fn d_vocab(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text of one token as the vocabulary spells it.
    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
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
        self.control_ids.contains(id) && self.inner.id_to_token(*id).as_deref() == Some(spelt)
    }
}

/// Fails for a tokenizer that leaves merges out, or draws among the ways to split a word, at random.
fn check_steady(model: &ModelWrapper) -> tokenizers::Result<()> {
    let (name, chance) = match model {
        ModelWrapper::BPE(model) => ("dropout", model.dropout.map(f64::from)),
        ModelWrapper::Unigram(model) => ("alpha", model.alpha),
        _ => return Ok(()),
    };
    match chance {
        Some(value) if value != 0.0 => Err(format!(
            "`{name}` is {value}, so that the same text has other tokens every time, expected 0 or null; \
             it is for training, so set it to null in the file"
        )
        .into()),
        _ => Ok(()),
    }
}

/// The largest id. Fails where two tokens have one: which of them it is read back as would differ from run to run, by the order of the
/// library's map.
fn check_ids(tokenizer: &Inner) -> tokenizers::Result<Option<u32>> {
    let tokens = tokenizer.get_vocab(true).into_iter();
    let mut tokens: Vec<(u32, String)> = tokens.map(|(token, id)| (id, token)).collect();
    tokens.sort_unstable();
    match tokens.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(format!(
            "the tokens `{}` and `{}` both have the id {}, so that it is not known what that id is read back as",
            pair[0].1, pair[1].1, pair[0].0
        )
        .into()),
        None => Ok(tokens.last().map(|(id, _)| *id)),
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
    let built = builder.size_limit(EXPRESSION_BYTES).build();
    Ok(Some(built.map_err(
        |_| "its added tokens are too many or too long",
    )?))
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({})", self.hash)
    }
}

#[cfg(test)]
mod tests;
