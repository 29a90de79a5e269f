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

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::Value;

use super::host_tensor::{Data, HostTensor, convert};
use super::{Checkpoint, WeightFile, Weights, read_optional_text, read_text};
use crate::files;
use crate::model::chat::{ChatTemplate, SPECIAL_TOKENS};
use crate::model::config::{Dtype, ModelConfig};
use crate::model::error::ModelError;
use crate::model::tokenizer::Tokenizer;

/// The file of unsharded weights.
pub(super) const SINGLE: &str = "model.safetensors";
/// The file that lists the shards.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Opens the folder.
pub(super) fn open(folder: &Path) -> Result<Checkpoint, ModelError> {
    let config_path = folder.join("config.json");
    let generation_path = folder.join("generation_config.json");
    let generation = read_optional_text(&generation_path)?;
    let config = ModelConfig::from_hugging_face(
        &config_path,
        &read_text(&config_path)?,
        generation
            .as_deref()
            .map(|text| (generation_path.as_path(), text)),
    )?;
    let files = weight_files(folder)?;
    let files: Vec<WeightFile> = files
        .iter()
        .map(|path| WeightFile::open(path))
        .collect::<Result<_, _>>()?;
    Ok(Checkpoint {
        path: folder.to_path_buf(),
        config,
        tokenizer: read_tokenizer(folder)?,
        chat_template: read_chat_template(folder)?,
        weights: Box::new(Shards::open(&files)?),
        files,
        findings: Vec::new(),
    })
}

fn read_tokenizer(folder: &Path) -> Result<Tokenizer, ModelError> {
    let path = folder.join("tokenizer.json");
    if !path.exists() && folder.join("tokenizer.model").exists() {
        return Err(ModelError::unsupported(
            &folder.join("tokenizer.model"),
            "a SentencePiece tokenizer without `tokenizer.json`",
            "`tokenizer.json`",
        ));
    }
    let bytes = files::read(&path, files::VOCABULARY_BYTES)
        .map_err(|error| ModelError::read(&path, error))?;
    Tokenizer::from_json(&path, &bytes)
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

fn read_chat_template(folder: &Path) -> Result<Option<ChatTemplate>, ModelError> {
    let path = folder.join("tokenizer_config.json");
    let raw = match read_optional_text(&path)? {
        Some(text) => serde_json::from_str(&text)
            .map_err(|error| ModelError::invalid(&path, format!("not as expected: {error}")))?,
        None => RawTokenizerConfig {
            chat_template: None,
            rest: BTreeMap::new(),
        },
    };
    let own_file = read_optional_text(&folder.join("chat_template.jinja"))?;
    let source = match (own_file, raw.chat_template) {
        (Some(text), _) | (None, Some(RawTemplate::One(text))) => text,
        (None, None) => return Ok(None),
        (None, Some(RawTemplate::Named(templates))) => templates
            .into_iter()
            .find(|template| template.name == "default")
            .map(|template| template.template)
            .ok_or_else(|| {
                ModelError::invalid(
                    &path,
                    "`chat_template` is a list without an entry named `default`",
                )
            })?,
    };
    ChatTemplate::new(&source, special_tokens(&raw.rest)).map(Some)
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

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// The names of the shards that the text of an index lists, in order; they lie beside the index.
pub(super) fn shard_names(path: &Path, index: &str) -> Result<BTreeSet<String>, ModelError> {
    let raw: RawIndex = serde_json::from_str(index)
        .map_err(|error| ModelError::invalid(path, format!("not as expected: {error}")))?;
    let shards: BTreeSet<String> = raw.weight_map.into_values().collect();
    match shards
        .iter()
        .find(|name| name.contains(['/', '\\']) || name.starts_with('.'))
    {
        Some(name) => Err(ModelError::invalid(
            path,
            format!("shard `{name}` is not the name of a file beside the index"),
        )),
        None => Ok(shards),
    }
}

fn weight_files(folder: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let index = folder.join(INDEX);
    let Some(text) = read_optional_text(&index)? else {
        let others = "convert the model to safetensors first";
        return Err(ModelError::invalid(
            folder,
            format!(
                "no weights: expected `{SINGLE}` or `{INDEX}`; if there is a `pytorch_model.bin`, {others}"
            ),
        ));
    };
    let shards = shard_names(&index, &text)?;
    Ok(shards.iter().map(|name| folder.join(name)).collect())
}

/// Memory-mapped safetensors files.
struct Shards {
    tensors: HashMap<String, Stored>,
}

/// One tensor in one of the files.
struct Stored {
    map: Arc<Mmap>,
    range: Range<usize>,
    shape: Vec<usize>,
    dtype: Dtype,
}

impl Shards {
    fn open(files: &[WeightFile]) -> Result<Self, ModelError> {
        let mut tensors = HashMap::new();
        for WeightFile { path, map, .. } in files {
            let (header, metadata) = SafeTensors::read_metadata(map).map_err(|error| {
                ModelError::invalid(
                    path,
                    format!("not a complete safetensors file ({error}); download it again"),
                )
            })?;
            for (name, info) in metadata.tensors() {
                let dtype = stored_dtype(path, &name, info.dtype)?;
                // The data follows the 8-byte length of the header and the header itself.
                let start = 8 + header;
                let stored = Stored {
                    map: Arc::clone(map),
                    range: start + info.data_offsets.0..start + info.data_offsets.1,
                    shape: info.shape.clone(),
                    dtype,
                };
                if tensors.insert(name.clone(), stored).is_some() {
                    return Err(ModelError::invalid(
                        path,
                        format!("tensor `{name}` is in another shard too, expected it in one"),
                    ));
                }
            }
        }
        Ok(Self { tensors })
    }
}

fn stored_dtype(path: &Path, name: &str, dtype: safetensors::Dtype) -> Result<Dtype, ModelError> {
    match dtype {
        safetensors::Dtype::F32 => Ok(Dtype::Float32),
        safetensors::Dtype::BF16 => Ok(Dtype::BFloat16),
        safetensors::Dtype::F16 => Ok(Dtype::Float16),
        other => Err(ModelError::unsupported(
            path,
            format!("dtype `{other:?}` of tensor `{name}`"),
            "`F32`, `F16`, `BF16`",
        )),
    }
}

impl Weights for Shards {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|stored| stored.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn read(&self, name: &str, dtype: Dtype) -> Result<HostTensor, ModelError> {
        let stored = self.tensors.get(name).ok_or_else(|| {
            ModelError::Internal(format!("tensor `{name}` is not in the checkpoint"))
        })?;
        let mapped = HostTensor {
            shape: stored.shape.clone(),
            dtype: stored.dtype,
            data: Data::Mapped(Arc::clone(&stored.map), stored.range.clone()),
        };
        if stored.dtype == dtype {
            return Ok(mapped);
        }
        Ok(HostTensor {
            data: Data::Owned(convert(mapped.bytes(), stored.dtype, dtype)),
            dtype,
            ..mapped
        })
    }
}
