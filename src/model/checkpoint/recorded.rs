//! A model without its weights: what is left of a model in a file that an author sends.
//!
//! ```text
//! models/<name>/
//!   model.json             configuration, hashes of every file, fingerprint, and what else no file below says
//!   tokenizer.json         of a GGUF file's tokenizer, too
//!   chat_template.jinja    the template in use, where there is one
//! ```
//!
//! Such a folder opens wherever a study names a model. It has the fingerprint, the tokens and the findings of the whole model, so that a study is
//! planned and cells are found as with it; computing is an error that says how to name the model.
//!
//! # What it proves
//! Everything in the folder may be a forger's. The fingerprint is made again of what is there: the configuration, the content of the tokenizer
//! (of a GGUF file's as of the file's own, see `gguf_tokenizer/recorded`), template and special tokens, dtype, and the hashes of the weights. So
//! no part can be changed by itself; and since nothing is filed under a tokenizer's hash but what that content answers, a folder cannot put
//! wrong answers into the cache of whoever opens it. What the folder cannot show is that the weights of those hashes gave the values
//! that lie beside it, that they belong to this configuration, or that the findings, the further end tokens, and the files that are listed
//! beside the weights are all: that takes the model itself, whose fingerprint, made of its own files, must be this one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::gguf_tokenizer::GgufRules;
use super::{Checkpoint, Memory, gguf_header, read_optional_text, read_text};
use crate::files;
use crate::model::chat::{ChatTemplate, SPECIAL_TOKENS};
use crate::model::config::{Dtype, ModelConfig};
use crate::model::error::{ModelError, Result};
use crate::model::json;
use crate::model::tokenizer::Tokenizer;

const MODEL: &str = "model.json";
const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";
/// Every file that such a folder may have.
pub(crate) const RECORDED_FILES: [&str; 3] = [MODEL, TOKENIZER, TEMPLATE];
/// The format that is written. A change that an earlier dial would misread raises it; a new field does not.
const FORMAT: u64 = 1;

/// Files that a model may be of; the largest known has some hundred.
const MOST_FILES: usize = 1 << 12;
/// Findings, and tokens that end a text.
const MOST_OF_OTHERS: usize = 1 << 8;
/// Bytes of a finding, of a special token, of a file's name.
const LONGEST_TEXT: usize = 1 << 12;

/// What is known of the files of a model whose weights are not here.
#[derive(Debug)]
pub(in crate::model) struct Recorded {
    /// By name.
    files: Vec<RecordedFile>,
    /// The commit of the hub that it was opened at.
    pub(super) commit: Option<String>,
    /// Of a GGUF file's tokenizer.
    rules: Option<GgufRules>,
}

/// What identifies a model beside its checkpoint.
pub(in crate::model) struct Identity<'m> {
    pub(in crate::model) weights: &'m [blake3::Hash],
    /// The template in use.
    pub(in crate::model) template: Option<&'m ChatTemplate>,
    pub(in crate::model) dtype: Dtype,
    pub(in crate::model) fingerprint: blake3::Hash,
}

/// The content of [`MODEL`]. Hashes are blake3, in lower-case hexadecimal.
#[derive(Serialize, Deserialize)]
struct Description<C> {
    format: u64,
    fingerprint: String,
    dtype: Dtype,
    /// The form that fingerprints are made of.
    config: C,
    further_ends: Vec<u32>,
    tokenizer: String,
    /// Of a GGUF file's tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gguf_tokenizer: Option<GgufRules>,
    /// Those that the chat template may name, and their texts.
    #[serde(default)]
    special_tokens: BTreeMap<String, String>,
    files: Vec<RecordedFile>,
    findings: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

/// A file that the model was read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct RecordedFile {
    name: String,
    bytes: u64,
    #[serde(with = "hexadecimal")]
    blake3: blake3::Hash,
    /// Whether it holds weights.
    weights: bool,
}

mod hexadecimal {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(hash: &blake3::Hash, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hash.to_hex())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<blake3::Hash, D::Error> {
        let text = String::deserialize(from)?;
        let wrong = |_| D::Error::custom(format!("`{text}` is no blake3 hash"));
        blake3::Hash::from_hex(&text).map_err(wrong)
    }
}

impl Recorded {
    /// In the order of their names.
    pub(super) fn weight_hashes(&self) -> Vec<blake3::Hash> {
        let weights = self.files.iter().filter(|file| file.weights);
        weights.map(|file| file.blake3).collect()
    }

    pub(super) fn files_read(&self) -> Vec<(String, u64, blake3::Hash)> {
        let files = self.files.iter();
        files
            .map(|file| (file.name.clone(), file.bytes, file.blake3))
            .collect()
    }
}

/// Whether a folder is that of a model without its weights.
pub(super) fn is_recorded(folder: &Path) -> bool {
    folder.join(MODEL).exists() && !folder.join("config.json").exists()
}

pub(super) fn open(folder: &Path, memory: &dyn Memory) -> Result<Checkpoint> {
    let path = folder.join(MODEL);
    let here = |problem: String| ModelError::invalid(&path, problem);
    let description = read(&read_text(&path)?).map_err(here)?;
    let config = ModelConfig::from_form(&description.config);
    let config = config.map_err(|problem| here(format!("`config`: {problem}")))?;
    let tokenizer = tokenizer(folder, description.gguf_tokenizer.as_ref(), memory)?;
    let source = read_optional_text(&folder.join(TEMPLATE))?;
    let template =
        source.map(|source| ChatTemplate::new(&source, description.special_tokens.clone()));
    let checkpoint = Checkpoint {
        path: folder.to_path_buf(),
        files: Vec::new(),
        config,
        tokenizer,
        chat_template: template.transpose()?,
        weights: BTreeMap::new(),
        unknown: Vec::new(),
        further_ends: description.further_ends.clone(),
        findings: description.findings.clone(),
        recorded: Some(Recorded {
            files: description.files.clone(),
            commit: description.commit.clone(),
            rules: description.gguf_tokenizer.clone(),
        }),
    };
    check_identity(&description, &checkpoint).map_err(here)?;
    Ok(checkpoint)
}

/// The content of a `model.json`, its lists and texts no longer than they can sensibly be. The error is a fragment.
fn read(text: &str) -> Result<Description<Json>, String> {
    #[derive(Deserialize)]
    struct FormatOnly {
        format: u64,
    }
    // Before all else, as a later format may lack any field.
    let FormatOnly { format } = json::read(text)?;
    if format > FORMAT {
        return Err(format!(
            "format `{format}`, and this dial, {}, reads formats up to {FORMAT}; use the dial that wrote it, or a later one",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let description: Description<Json> = json::read(text)?;
    for (name, length, most) in [
        ("files", description.files.len(), MOST_FILES),
        ("findings", description.findings.len(), MOST_OF_OTHERS),
        (
            "further_ends",
            description.further_ends.len(),
            MOST_OF_OTHERS,
        ),
    ] {
        if length > most {
            return Err(format!(
                "`{name}` has `{length}` entries, expected at most {most}"
            ));
        }
    }
    let names = description.files.iter().map(|file| &file.name);
    let tokens = description.special_tokens.values();
    let mut texts = names
        .chain(tokens)
        .chain(&description.findings)
        .chain(&description.commit);
    if let Some(long) = texts.find(|text| text.len() > LONGEST_TEXT) {
        return Err(format!(
            "a text of `{}` bytes, expected at most {LONGEST_TEXT}",
            long.len()
        ));
    }
    let mut tokens = description.special_tokens.keys();
    if let Some(name) = tokens.find(|name| !SPECIAL_TOKENS.contains(&name.as_str())) {
        return Err(format!(
            "`special_tokens` has `{name}`, expected `{}` alone",
            SPECIAL_TOKENS.join("`, `")
        ));
    }
    let is_in_order = description
        .files
        .is_sorted_by(|one, next| one.name <= next.name)
        && description
            .further_ends
            .is_sorted_by(|one, next| one < next);
    match is_in_order {
        true => Ok(description),
        false => Err("`files` or `further_ends` are not in order".to_string()),
    }
}

fn tokenizer(
    folder: &Path,
    rules: Option<&GgufRules>,
    memory: &dyn Memory,
) -> Result<Arc<Tokenizer>> {
    let path = folder.join(TOKENIZER);
    let unread = |error| ModelError::read(&path, error);
    match rules {
        None => {
            let bytes = files::read(&path, files::VOCABULARY_BYTES).map_err(unread)?;
            Tokenizer::from_json(&path, bytes, memory)
        }
        Some(rules) => {
            let text = files::read_text(&path, files::VOCABULARY_BYTES).map_err(unread)?;
            let tokenizer = rules.tokenizer(text, memory);
            tokenizer.map_err(|problem| ModelError::invalid(&path, problem))
        }
    }
}

/// Fails where a folder is not what its `model.json` says: a fragment.
fn check_identity(description: &Description<Json>, checkpoint: &Checkpoint) -> Result<(), String> {
    let weights = checkpoint.recorded.as_ref().map(Recorded::weight_hashes);
    let made = Checkpoint::fingerprint(
        &weights.unwrap_or_default(),
        &checkpoint.config,
        &checkpoint.tokenizer,
        checkpoint.chat_template.as_ref(),
        description.dtype,
    );
    let tokenizer = checkpoint.tokenizer.hash;
    for (what, said, found) in [
        ("tokenizer", &description.tokenizer, tokenizer),
        ("fingerprint", &description.fingerprint, made),
    ] {
        // What is said there may be anything, and is not shown.
        if *said != found.to_hex().as_str() {
            return Err(format!(
                "the {what} of what lies here is `{found}`, which is not the one that is recorded: something was changed, or is missing; take \
                 the folder anew from whoever sent it"
            ));
        }
    }
    Ok(())
}

impl Checkpoint {
    /// The folder of a model that is here without its weights.
    pub(in crate::model) fn without_weights(&self) -> Option<&PathBuf> {
        self.recorded.as_ref().map(|_| &self.path)
    }

    /// The files of the model without its weights, by name. `source` is what the study calls it by.
    ///
    /// # Errors
    /// A file that cannot be read any more, or that was changed since it was opened.
    pub(in crate::model) fn recorded_files(
        &self,
        identity: &Identity<'_>,
        source: &str,
    ) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let (tokenizer, gguf_tokenizer) = self.tokenizer_file()?;
        let template = identity.template;
        let description = Description {
            format: FORMAT,
            fingerprint: identity.fingerprint.to_hex().to_string(),
            dtype: identity.dtype,
            config: &self.config,
            further_ends: self.further_ends.clone(),
            tokenizer: self.tokenizer.hash.to_hex().to_string(),
            gguf_tokenizer,
            special_tokens: template
                .map(|template| template.special_tokens.clone())
                .unwrap_or_default(),
            files: self.recorded_list(identity.weights)?,
            findings: self.findings.clone(),
            commit: self.commit(source),
        };
        let mut text = serde_json::to_vec_pretty(&description)
            .map_err(|error| ModelError::Internal(error.to_string()))?;
        text.push(b'\n');
        let template = template.map(|template| (TEMPLATE, template.source.as_bytes().to_vec()));
        let all = template
            .into_iter()
            .chain([(MODEL, text), (TOKENIZER, tokenizer)]);
        Ok(all.collect())
    }

    fn recorded_list(&self, weights: &[blake3::Hash]) -> Result<Vec<RecordedFile>> {
        if let Some(recorded) = &self.recorded {
            return Ok(recorded.files.clone());
        }
        let names: Vec<String> = self
            .files
            .iter()
            .filter_map(|file| file.path.file_name().map(files::text_of))
            .collect();
        let files = self
            .files_read(weights)?
            .into_iter()
            .map(|(name, bytes, blake3)| RecordedFile {
                weights: names.contains(&name),
                name,
                bytes,
                blake3,
            });
        Ok(files.collect())
    }

    /// The bytes of its `tokenizer.json`, and what this does not say of a GGUF file's tokenizer.
    fn tokenizer_file(&self) -> Result<(Vec<u8>, Option<GgufRules>)> {
        let rules = self
            .recorded
            .as_ref()
            .and_then(|recorded| recorded.rules.clone());
        if !self.path.is_dir() {
            let here = |problem| ModelError::invalid(&self.path, problem);
            let Some(file) = self.files.first() else {
                return Err(here("it is no file any more".to_string()));
            };
            let header = gguf_header::read(&file.map).map_err(here)?;
            let (text, rules) = GgufRules::of(&header.metadata).map_err(here)?;
            return Ok((text, Some(rules)));
        }
        let path = self.path.join(TOKENIZER);
        let bytes = files::read(&path, files::VOCABULARY_BYTES)
            .map_err(|error| ModelError::read(&path, error))?;
        match rules.is_some() || blake3::hash(&bytes) == self.tokenizer.hash {
            true => Ok((bytes, rules)),
            false => Err(ModelError::invalid(
                &path,
                "it was changed while the study ran; run the same command again",
            )),
        }
    }
}
