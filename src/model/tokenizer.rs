//! Text to token ids and back, exactly as the model was trained on.
//!
//! Nothing is ever added to a text: the chat template writes the special tokens, and their strings are recognised
//! wherever they stand in it. A tokenizer file's own truncation and padding are switched off for the same reason.
//!
//! The file is a pipeline of rules from outside, so all work with it is confined: rules that let a text grow without end, expressions that
//! never finish and data that the library panics on are errors.

mod answers;
mod as_text;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use regex::{Regex, RegexBuilder};
use serde::de::IgnoredAny;
use tokenizers::models::ModelWrapper;
use tokenizers::{Encoding, Tokenizer as Inner};

use super::checkpoint::Memory;
use super::confined::{Allowance, confined};
use super::error::{ModelError, Result};
use super::json;

pub(crate) use answers::Answers;
use answers::WholeToken;

/// Bytes that the expression which finds a tokenizer's control tokens may take.
const EXPRESSION_BYTES: usize = 64 << 20;

/// A model's tokenizer. The library's is set up when it is first asked what is not remembered.
pub(super) struct Tokenizer {
    /// Of everything that decides how a text is split.
    pub(super) hash: blake3::Hash,
    pub(super) largest_id: Option<u32>,
    library: OnceLock<Result<Inner, String>>,
    /// Until the library's is set up.
    source: Mutex<Option<Source>>,
    /// What is known of it without the library; none when it has been handed on.
    answers: Mutex<Option<Answers>>,
    /// The library's with control tokens read as text; made when it is needed.
    as_text: OnceLock<Inner>,
    /// The tokens that are marked special: control tokens.
    control: Option<Regex>,
    /// Their spellings, in the order of their ids.
    spellings: Vec<String>,
    control_ids: HashSet<u32>,
    /// Every token that is matched as a whole, special or not.
    pub(super) added: Option<Regex>,
}

/// What the library's tokenizer is made of.
pub(super) struct Source {
    /// Of the content.
    pub(super) hash: blake3::Hash,
    /// In bytes.
    pub(super) length: usize,
    pub(super) make: Box<dyn FnOnce() -> tokenizers::Result<Inner> + Send>,
}

impl Source {
    /// The bytes of a `tokenizer.json`.
    fn json(bytes: Vec<u8>) -> Self {
        Source {
            hash: blake3::hash(&bytes),
            length: bytes.len(),
            make: Box::new(move || {
                // Of a key that is there twice the library would take the last.
                if let Ok(text) = std::str::from_utf8(&bytes) {
                    json::read::<IgnoredAny>(text)?;
                }
                Inner::from_bytes(bytes)
            }),
        }
    }

    /// The tokenizer, and what is known of it.
    fn set_up(self) -> Result<(Inner, Answers), String> {
        let made = confined(Allowance::of_file(self.length), || {
            let made = (self.make)().and_then(checked);
            made.map_err(|error| error.to_string())
        });
        made.flatten().map_err(unusable)
    }
}

impl Tokenizer {
    /// Takes the bytes of a `tokenizer.json` that lies at `path`.
    ///
    /// # Errors
    /// As [`Tokenizer::new`].
    pub(crate) fn from_json(path: &Path, bytes: Vec<u8>, memory: &dyn Memory) -> Result<Arc<Self>> {
        Self::new(Source::json(bytes), memory).map_err(|problem| ModelError::invalid(path, problem))
    }

    /// Takes what a tokenizer is made of.
    ///
    /// # Errors
    /// It makes no tokenizer, or one that gives other ids every time. One whose answers are remembered was a tokenizer before.
    pub(super) fn new(source: Source, memory: &dyn Memory) -> Result<Arc<Self>, String> {
        let (hash, length) = (source.hash, source.length);
        let (answers, source, library) = match memory.answers(&hash) {
            Some(answers) => (answers, Some(source), OnceLock::new()),
            None => {
                let (inner, answers) = source.set_up()?;
                (answers, None, OnceLock::from(Ok(inner)))
            }
        };
        let spellings = |wanted: fn(&WholeToken) -> bool| -> Vec<String> {
            let tokens = answers.whole_tokens.values().filter(|token| wanted(token));
            tokens.map(|token| token.spelling.clone()).collect()
        };
        let (special, all) = (spellings(|token| token.special), spellings(|_| true));
        let of = special.clone();
        let expressions = confined(Allowance::of_file(length), move || {
            Ok::<_, String>((any_of(&of)?, any_of(&all)?))
        });
        let (control, added) = expressions.flatten().map_err(unusable)?;
        let whole = answers.whole_tokens.iter();
        let control_ids = whole.filter(|(_, token)| token.special).map(|(id, _)| *id);
        Ok(Arc::new(Self {
            hash,
            largest_id: answers.largest_id,
            control,
            added,
            control_ids: control_ids.collect(),
            spellings: special,
            library,
            source: Mutex::new(source),
            answers: Mutex::new(Some(answers)),
            as_text: OnceLock::new(),
        }))
    }

    /// The library's tokenizer.
    fn library(&self) -> Result<&Inner> {
        let set_up = || match lock(&self.source).take() {
            Some(source) => source.set_up().map(|(inner, _)| inner),
            None => Err("its source is gone".to_string()),
        };
        let library = self.library.get_or_init(set_up).as_ref();
        library.map_err(ModelError::tokenizer)
    }

    /// An answer that is remembered; none where the library is there to be asked.
    fn remembered<T>(&self, answer: impl FnOnce(&Answers) -> Option<T>) -> Option<T> {
        match self.library.get() {
            Some(_) => None,
            None => lock(&self.answers).as_ref().and_then(answer),
        }
    }

    fn remember(&self, add: impl FnOnce(&mut Answers)) {
        if let Some(answers) = lock(&self.answers).as_mut() {
            add(answers);
        }
    }

    /// Hands on what it was asked so far; it keeps nothing from now on.
    pub(super) fn answers(&self) -> Option<Answers> {
        lock(&self.answers).take()
    }

    /// The token ids of `text`, no special tokens added.
    pub(crate) fn encode(self: &Arc<Self>, text: &str) -> Result<Vec<u32>> {
        let (tokenizer, text) = (Arc::clone(self), text.to_string());
        let allowance = Allowance::of_text(text.len());
        confined(allowance, move || tokenizer.ids(&text)).map_err(ModelError::tokenizer)?
    }

    /// The same on a thread that is confined already.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        if let Some(ids) = self.remembered(|answers| answers.ids.get(text).cloned()) {
            return Ok(ids);
        }
        let encoding = self.library()?.encode_fast(text, false);
        let encoding = encoding.map_err(ModelError::tokenizer)?;
        let ids = encoding.get_ids();
        self.remember(|answers| answers.add_ids(text, ids));
        Ok(ids.to_vec())
    }

    /// The text of `ids`, with or without the special tokens among them.
    ///
    /// # Errors
    /// The tokenizer's decoder rejects the ids. Ids outside the vocabulary are left out.
    pub(crate) fn decode(self: &Arc<Self>, ids: &[u32], skip_special: bool) -> Result<String> {
        let (tokenizer, ids) = (Arc::clone(self), ids.to_vec());
        let bytes = size_of_val(ids.as_slice());
        let work = move || {
            let text = tokenizer.library()?.decode(&ids, skip_special);
            text.map_err(ModelError::tokenizer)
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
        self.library().unwrap().get_vocab_size(true)
    }

    /// The id of a token by the vocabulary's spelling; none for one that is not there.
    pub(super) fn id(&self, token: &str) -> Result<Option<u32>> {
        if let Some(id) = self.remembered(|answers| answers.id.get(token).copied()) {
            return Ok(id);
        }
        let id = self.library()?.token_to_id(token);
        self.remember(|answers| {
            answers.id.insert(token.to_string(), id);
        });
        Ok(id)
    }

    /// The text of one token as the vocabulary spells it; none for an id that is not there.
    pub(super) fn token(&self, id: u32) -> Result<Option<String>> {
        if let Some(token) = self.remembered(|answers| answers.token.get(&id).cloned()) {
            return Ok(token);
        }
        let token = self.library()?.id_to_token(id);
        self.remember(|answers| {
            answers.token.insert(id, token.clone());
        });
        Ok(token)
    }

    /// Whether the token at a place of an encoding is a control token that the text spells out there; the one for what is unknown
    /// to the vocabulary may be special, too.
    fn is_control(&self, inner: &Inner, encoding: &Encoding, place: usize, text: &str) -> bool {
        let (Some(id), Some(&(start, end))) = (
            encoding.get_ids().get(place),
            encoding.get_offsets().get(place),
        ) else {
            return false;
        };
        let spelt = text.get(start..end).unwrap_or_default().trim();
        self.control_ids.contains(id) && inner.id_to_token(*id).as_deref() == Some(spelt)
    }
}

fn unusable(problem: String) -> String {
    format!("not a tokenizer that can be used: {problem}")
}

/// A tokenizer that can be used, its own truncation and padding switched off, and what is known of it at once.
fn checked(mut inner: Inner) -> tokenizers::Result<(Inner, Answers)> {
    check_steady(inner.get_model())?;
    let largest_id = check_ids(&inner)?;
    inner.with_truncation(None)?;
    inner.with_padding(None);
    let whole = inner.get_added_tokens_decoder().into_iter();
    let whole = whole.filter(|(_, token)| !token.content.is_empty());
    let whole = whole.map(|(id, token)| {
        let (spelling, special) = (token.content, token.special);
        (id, WholeToken { spelling, special })
    });
    let answers = Answers {
        largest_id,
        whole_tokens: whole.collect(),
        ..Answers::default()
    };
    Ok((inner, answers))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
fn any_of(texts: &[String]) -> Result<Option<Regex>, String> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut texts: Vec<&String> = texts.iter().collect();
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let escaped: Vec<String> = texts.into_iter().map(|text| regex::escape(text)).collect();
    let mut builder = RegexBuilder::new(&escaped.join("|"));
    let built = builder.size_limit(EXPRESSION_BYTES).build();
    let built = built.map_err(|_| "its added tokens are too many or too long")?;
    Ok(Some(built))
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({})", self.hash)
    }
}

#[cfg(test)]
mod tests;
