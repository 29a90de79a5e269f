//! A model on disk: its configuration, tokenizer, chat template and weights, whatever files hold them.
//!
//! A [`Checkpoint`] is opened from a Hugging Face folder (`hugging_face`, its weights in `shards`) or a GGUF file (`gguf`). Both answer to
//! the parameter names of Hugging Face; opening checks that every parameter the configuration asks for is there with its shape, so that what
//! follows may rely on it. No number from a file is multiplied or allocated by before it was held against what the file has. What holds no
//! such model is told apart in `other_files`. `hub` brings a model from the hub to disk. Weights are memory-mapped, and hashed and loaded through the same map: a file that is replaced while
//! a study runs changes nothing, and one that is written into is an error when the weights are loaded.

mod gguf;
mod gguf_header;
mod gguf_metadata;
mod gguf_tensors;
mod gguf_tokenizer;
mod hash;
mod host_tensor;
mod hub;
mod hugging_face;
mod other_files;
mod safetensors_header;
mod shards;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

#[cfg(test)]
pub(crate) use hash::NoShortcut;
pub(crate) use hash::{FileStamp, HashShortcut};
pub(crate) use host_tensor::HostTensor;
pub(crate) use hub::{HubAnswer, HubHealth};
pub use hub::{locate, locate_without_fetching};
use other_files::not_weights;

use super::chat::ChatTemplate;
use super::config::{Dtype, ModelConfig};
use super::error::ModelError;
use super::tokenizer::Tokenizer;
use crate::files;

/// The weights of one format, by Hugging Face name.
trait Weights: Send + Sync {
    /// The shape of a tensor, if it is there.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// The names of the tensors that are there.
    fn names(&self) -> Vec<String>;
    /// A tensor that is there.
    fn read(&self, name: &str, dtype: Dtype) -> Result<HostTensor, ModelError>;
}

/// An opened model.
pub(crate) struct Checkpoint {
    path: PathBuf,
    /// In an order that depends on nothing but their names.
    files: Vec<WeightFile>,
    config: ModelConfig,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    weights: Box<dyn Weights>,
    /// Tokens that end a text beside those of `config`, ascending. No part of the fingerprint.
    further_ends: Vec<u32>,
    /// What a reader should know of these files.
    findings: Vec<String>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder or a `.gguf` file.
    ///
    /// # Errors
    /// A file is missing, truncated or malformed; the model needs something that is not supported; or its weights
    /// do not fit its configuration.
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let metadata = path
            .metadata()
            .map_err(|error| ModelError::read(path, error))?;
        let checkpoint = if metadata.is_dir() {
            hugging_face::open(path)?
        } else if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
        {
            gguf::open(path)?
        } else {
            return Err(other_files::not_gguf(path));
        };
        checkpoint.check_parameters().map_err(|problem| {
            let mut problem = problem;
            if let Some(finding) = checkpoint.findings.first() {
                problem = format!("{problem} (the folder {finding})");
            }
            ModelError::invalid(path, problem)
        })?;
        Ok(checkpoint)
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tokenizer.
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template; base models often have none.
    pub(crate) fn chat_template(&self) -> Option<&ChatTemplate> {
        self.chat_template.as_ref()
    }

    /// Tokens that end a text beside those of the configuration, ascending.
    pub(crate) fn further_ends(&self) -> &[u32] {
        &self.further_ends
    }

    /// What a reader should know of these files, as fragments (`holds a second head that differs from its embedding: …`).
    pub(crate) fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Fails where a weight file was written into since it was opened.
    ///
    /// # Errors
    /// [`ModelError::Invalid`] naming the file.
    pub(crate) fn check_unchanged(&self) -> Result<(), ModelError> {
        self.files.iter().try_for_each(WeightFile::check_unchanged)
    }

    /// The shape of a tensor by its Hugging Face name; matrices are `[out, in]`.
    ///
    /// # Errors
    /// There is no such tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>, ModelError> {
        self.weights
            .shape(name)
            .ok_or_else(|| ModelError::invalid(&self.path, format!("tensor `{name}` is missing")))
    }

    /// A tensor by its Hugging Face name (`model.layers.3.self_attn.q_proj.weight`), its elements in `dtype`.
    ///
    /// # Errors
    /// There is no such tensor.
    pub(crate) fn tensor(&self, name: &str, dtype: Dtype) -> Result<HostTensor, ModelError> {
        self.shape(name)?;
        self.weights.read(name, dtype)
    }

    /// Every parameter must be there in its shape, and nothing else of the transformer's: an extra tensor is a
    /// sign of a computation that would be left out. The error is a fragment.
    fn check_parameters(&self) -> Result<(), String> {
        let mut others: BTreeSet<String> = self.weights.names().into_iter().collect();
        // One after the other, because the configuration may ask for more layers than could be listed.
        for (name, shape) in self.config.parameters() {
            let found = self.weights.shape(&name);
            let found = found.ok_or_else(|| self.without(&name, &others))?;
            if found != shape {
                return Err(format!(
                    "tensor `{name}` has shape `{found:?}`, expected `{shape:?}` by the configuration"
                ));
            }
            others.remove(&name);
        }
        let harmless =
            |name: &str| name == "lm_head.weight" || name.ends_with(".rotary_emb.inv_freq");
        match others.iter().find(|name| !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(format!(
                "tensor `{name}` is not supported (supported: the parameters of a plain llama or qwen2 transformer)"
            )),
        }
    }

    /// What it means that the weights lack a parameter, where they have these `others`. A fragment.
    fn without(&self, name: &str, others: &BTreeSet<String>) -> String {
        if name == "lm_head.weight" {
            return format!(
                "tensor `{name}` is missing: these are the weights of a backbone without a head; name the folder of the whole model, or, if its head is its embedding, set `tie_word_embeddings` to `true` in `config.json`"
            );
        }
        let whole = format!("tensor `{name}` is missing");
        // The first of a block, and nothing else of that block either.
        if let Some(block) = name.strip_suffix("input_layernorm.weight")
            && !others.iter().any(|other| other.starts_with(block))
        {
            return format!(
                "{whole}: the configuration has `{}` layers, the weights have fewer",
                self.config.n_layers
            );
        }
        let longer = others.iter().find(|other| {
            let before = other.strip_suffix(name);
            before.is_some_and(|before| before.ends_with('.'))
        });
        match longer {
            None => whole,
            Some(other) => format!(
                "{whole}, but there is `{other}`; save the model again without what stands before the names"
            ),
        }
    }
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoint")
            .field("path", &self.path)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A weight file that is open and mapped into memory, read-only.
struct WeightFile {
    path: PathBuf,
    file: File,
    map: Arc<Mmap>,
    /// As it was when it was opened.
    stamp: FileStamp,
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self, ModelError> {
        let read = |error| ModelError::read(path, error);
        let file = files::open(path).map_err(read)?;
        let stamp = FileStamp::of_open(path, &file)?;
        // SAFETY: the map is read-only, and every access goes through bounds-checked slices. Another process that
        // shortens the file meanwhile ends this one with a bus error; that is the documented condition of use.
        let map = unsafe { Mmap::map(&file) }.map_err(read)?;
        Ok(WeightFile {
            path: path.to_path_buf(),
            file,
            map: Arc::new(map),
            stamp,
        })
    }

    fn check_unchanged(&self) -> Result<(), ModelError> {
        // Of the open file, wherever its name leads by now.
        let metadata = self.file.metadata();
        let metadata = metadata.map_err(|error| ModelError::read(&self.path, error))?;
        match self.stamp.is_of(&metadata) {
            true => Ok(()),
            false => Err(ModelError::invalid(
                &self.path,
                "it was changed while the study ran; run the same command again, and replace weight files rather than write into them",
            )),
        }
    }
}

/// The text of a file.
fn read_text(path: &Path) -> Result<String, ModelError> {
    files::read_text(path, files::SETTINGS_BYTES).map_err(|error| ModelError::read(path, error))
}

/// The text of a file that need not exist.
fn read_optional_text(path: &Path) -> Result<Option<String>, ModelError> {
    match files::read_text(path, files::SETTINGS_BYTES) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ModelError::read(path, error)),
    }
}
