//! A Hugging Face folder:
//!
//! ```text
//! config.json                      dimensions and switches
//! generation_config.json           (optional) further end-of-text tokens
//! tokenizer.json                   the tokenizer
//! tokenizer_config.json            (optional) special tokens, chat template
//! chat_template.jinja              (optional) chat template; goes before the one above
//! model.safetensors                the weights, or
//! model.safetensors.index.json     which shard holds which tensor, and the shards beside it
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::shards;
pub(super) use super::shards::{INDEX, SINGLE, shard_names};
use super::{Checkpoint, Memory, WeightFile, other_files, read_optional_text, read_text};
use crate::files;
use crate::model::chat::{ChatTemplate, SPECIAL_TOKENS};
use crate::model::config::{ModelConfig, code_of_its_own};
use crate::model::error::{ModelError, Result, unsupported};
use crate::model::tokenizer::Tokenizer;

/// What of a folder is read beside the weights, where it is there.
pub(super) const SETTINGS: [&str; 6] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer.json",
    "tokenizer_config.json",
];

/// What the settings in a folder say.
pub(super) fn config(folder: &Path) -> Result<ModelConfig> {
    read_config(folder, &config_text(folder)?)
}

fn config_text(folder: &Path) -> Result<String> {
    let path = folder.join("config.json");
    match path.exists() {
        true => read_text(&path),
        false => Err(other_files::without_config(folder)),
    }
}

pub(super) fn open(folder: &Path, memory: &dyn Memory) -> Result<Checkpoint> {
    let config_text = config_text(folder)?;
    let mut config = read_config(folder, &config_text)?;
    let chosen = shards::choose(folder)?;
    if chosen.files.is_empty() {
        return Err(other_files::without_weights(folder));
    }
    let files = chosen.files.iter().map(|path| WeightFile::open(path));
    let files: Vec<WeightFile> = files.collect::<Result<_, _>>()?;
    let weights = shards::open(&files, &chosen, &config.family)?;
    let mut findings = chosen.findings;
    findings.extend(code_of_its_own(&config_text));
    findings.extend(other_files::adapter_beside(folder));
    if config.tied_embeddings && shards::has_head_of_its_own(&weights, &config) {
        config.sizes.tied_embeddings = false;
        findings.push(format!(
            "says `tie_word_embeddings: true`, but holds an `{}` that differs from its embedding; the head is used as it is stored",
            config.family.head()
        ));
    }
    let tokenizer = read_tokenizer(folder, memory)?;
    let raw = read_tokenizer_config(&folder.join("tokenizer_config.json"))?;
    let tokens = special_tokens(&raw.rest);
    let mut end = end_token(&tokens, &tokenizer, &mut findings)?;
    end.take_if(|id| config.end_of_text.contains(id));
    let template = read_chat_template(folder, raw.chat_template)?;
    let template = template.map(|source| ChatTemplate::new(&source, tokens));
    Ok(Checkpoint {
        path: folder.to_path_buf(),
        further_ends: end.into_iter().collect(),
        config,
        tokenizer,
        chat_template: template.transpose()?,
        weights,
        unknown: Vec::new(),
        files,
        findings,
        recorded: None,
    })
}

/// The configuration of a folder whose `config.json` has this text.
pub(super) fn read_config(folder: &Path, text: &str) -> Result<ModelConfig> {
    let path = folder.join("generation_config.json");
    let generation = read_optional_text(&path)?;
    let generation = generation.as_deref().map(|text| (path.as_path(), text));
    ModelConfig::from_hugging_face(&folder.join("config.json"), text, generation)
}

fn read_tokenizer(folder: &Path, memory: &dyn Memory) -> Result<Arc<Tokenizer>> {
    let path = folder.join("tokenizer.json");
    if !path.exists() && folder.join("tokenizer.model").exists() {
        let sentence_piece = "a SentencePiece tokenizer without `tokenizer.json`";
        return Err(ModelError::invalid(
            &folder.join("tokenizer.model"),
            unsupported(sentence_piece, "`tokenizer.json`"),
        ));
    }
    let bytes = files::read(&path, files::VOCABULARY_BYTES)
        .map_err(|error| ModelError::read(&path, error))?;
    Tokenizer::from_json(&path, bytes, memory)
}

#[derive(Deserialize)]
struct RawTokenizerConfig {
    chat_template: Option<RawTemplate>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawTemplate {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

fn read_tokenizer_config(path: &Path) -> Result<RawTokenizerConfig> {
    let text = read_optional_text(path)?.unwrap_or_else(|| "{}".to_string());
    serde_json::from_str(&text)
        .map_err(|error| ModelError::invalid(path, format!("not as expected: {error}")))
}

/// The id of the `eos_token` of `tokenizer_config.json`, which may be the only one to name what ends a turn.
fn end_token(
    tokens: &BTreeMap<String, String>,
    tokenizer: &Tokenizer,
    findings: &mut Vec<String>,
) -> Result<Option<u32>> {
    let Some(token) = tokens.get("eos_token") else {
        return Ok(None);
    };
    let id = tokenizer.id(token)?;
    if id.is_none() {
        findings.push(format!(
            "`eos_token` in `tokenizer_config.json` is `{token}`, which is no token of `tokenizer.json`: no text ends there"
        ));
    }
    Ok(id)
}

fn read_chat_template(folder: &Path, listed: Option<RawTemplate>) -> Result<Option<String>> {
    let own_file = read_optional_text(&folder.join("chat_template.jinja"))?;
    match (own_file, listed) {
        (Some(text), _) | (None, Some(RawTemplate::One(text))) => Ok(Some(text)),
        (None, None) => Ok(None),
        (None, Some(RawTemplate::Named(templates))) => {
            let mut templates = templates.into_iter();
            let default = templates.find(|template| template.name == "default");
            let default = default.map(|named| named.template);
            let problem = "`chat_template` is a list without an entry named `default`";
            let missing = || ModelError::invalid(&folder.join("tokenizer_config.json"), problem);
            default.ok_or_else(missing).map(Some)
        }
    }
}

/// `bos_token` and its kin: a string, or an object whose `content` is one.
fn special_tokens(config: &BTreeMap<String, Value>) -> BTreeMap<String, String> {
    let text = |value: &Value| {
        let text = value.get("content").unwrap_or(value).as_str();
        text.map(str::to_string)
    };
    SPECIAL_TOKENS
        .into_iter()
        .filter_map(|name| Some((name.to_string(), text(config.get(name)?)?)))
        .collect()
}
