//! A model on disk: its configuration, tokenizer, chat template and weights, whatever files hold them.
//!
//! A [`Checkpoint`] is opened from a Hugging Face folder (`hugging_face`, its weights in `shards`) or a GGUF file (`gguf`). Both answer to
//! the parameter names of Hugging Face; opening checks that every parameter the configuration asks for is there with its shape, so that what
//! follows may rely on it. No number from a file is multiplied or allocated by before it was held against what the file has. What holds no
//! such model is told apart in `other_files`. A folder that somebody was sent may hold all of a model but its weights (`recorded`): it plans and
//! looks up as the whole model does, and computes nothing. `ablation` takes a direction out of weights, for others' programs. `hub` brings a model from the hub to disk. Weights are memory-mapped, and hashed and loaded
//! through the same map: a file that is replaced while a study runs changes nothing, and one that is written into is an error when the weights
//! are loaded.

mod ablated_folder;
mod ablation;
mod adapter;
mod control_vector;
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
mod quantised;
mod recorded;
mod safetensors_header;
mod shards;
mod stored;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

pub(crate) use ablated_folder::AblatedFolder;
pub(crate) use adapter::Adapter;
pub(crate) use control_vector::{ControlVector, NewControlVector};
pub(crate) use hash::NoMemory;
pub(crate) use hash::{FileStamp, Memory};
pub(crate) use host_tensor::HostTensor;
pub(crate) use hub::{HubAnswer, HubHealth, hub_data_set};
pub use hub::{locate, locate_without_fetching};
use other_files::not_weights;
pub(crate) use recorded::RECORDED_FILES;
pub(super) use recorded::{Identity, Recorded};
use stored::Stored;

use super::chat::ChatTemplate;
use super::config::{Dtype, ModelConfig};
use super::error::{ModelError, Result};
use super::tokenizer::Tokenizer;
use crate::files;

/// The configuration of the model that a source names. Weights are not read, and of a model of the hub not fetched.
///
/// # Errors
/// As [`locate`], and settings that are malformed or not supported.
pub(crate) fn config_of(source: &str, base: &Path) -> Result<ModelConfig> {
    let path = hub::locate_settings(source, base)?;
    match path.is_dir() {
        true => hugging_face::config(&path),
        false if other_files::is_gguf(&path) => Ok(gguf::open(&path, &NoMemory)?.config),
        false => Err(other_files::not_gguf(&path)),
    }
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    path: PathBuf,
    /// In an order that depends on nothing but their names.
    files: Vec<WeightFile>,
    pub(super) config: ModelConfig,
    pub(super) tokenizer: Arc<Tokenizer>,
    /// Base models often have none.
    pub(super) chat_template: Option<ChatTemplate>,
    /// By Hugging Face name.
    weights: BTreeMap<String, Stored>,
    /// Names of tensors that have none.
    unknown: Vec<String>,
    /// Tokens that end a text beside those of `config`, ascending. No part of the fingerprint.
    pub(super) further_ends: Vec<u32>,
    /// What a reader should know of these files, as fragments (`holds a second head that differs from its embedding: …`).
    pub(super) findings: Vec<String>,
    /// What is known of its files where they are not here.
    pub(super) recorded: Option<Recorded>,
}

impl Checkpoint {
    /// Opens a Hugging Face folder, a `.gguf` file, or the folder of a model without its weights.
    ///
    /// # Errors
    /// A file is missing, truncated or malformed; the model needs something that is not supported; or its weights
    /// do not fit its configuration.
    pub(super) fn open(path: &Path, memory: &dyn Memory) -> Result<Self> {
        let metadata = path.metadata();
        let metadata = metadata.map_err(|error| ModelError::read(path, error))?;
        let mut checkpoint = match metadata.is_dir() {
            // What it was found to be is recorded, too.
            true if recorded::is_recorded(path) => return recorded::open(path, memory),
            true => hugging_face::open(path, memory)?,
            false if other_files::is_gguf(path) => gguf::open(path, memory)?,
            false => return Err(other_files::not_gguf(path)),
        };
        if let Err(problem) = checkpoint.check_parameters() {
            let finding = checkpoint.findings.first();
            let finding = finding.map(|finding| format!(" (the folder {finding})"));
            return Err(ModelError::invalid(
                path,
                problem + &finding.unwrap_or_default(),
            ));
        }
        checkpoint.compare_vocabulary()?;
        Ok(checkpoint)
    }

    /// The tokenizer's largest id, if it is beyond the embedding.
    pub(super) fn largest_beyond(&self) -> Option<u32> {
        let largest = self.tokenizer.largest_id;
        largest.filter(|id| *id as usize >= self.config.d_vocab)
    }

    /// Finds whether tokenizer and embedding go together. The tokenizer may name fewer ids than there are rows, as padded embeddings do; more
    /// of them are of no harm as long as no text uses one.
    fn compare_vocabulary(&mut self) -> Result<()> {
        let rows = self.config.d_vocab;
        if let Some(largest) = self.largest_beyond() {
            let token = self.tokenizer.token(largest)?.unwrap_or_default();
            self.findings.push(format!(
                "its tokenizer has tokens up to {largest} (`{token}`), but its embedding has {rows} rows: prompts and score words must do without \
                 those from {rows} on"
            ));
        }
        let ends = self.end_of_text();
        let unreachable = ends.iter().filter(|id| **id as usize >= rows);
        let unreachable: Vec<String> = unreachable.map(u32::to_string).collect();
        if !unreachable.is_empty() {
            let consequence = match unreachable.len() == ends.len() {
                true => "no text ends before its longest length",
                false => "no text ends there",
            };
            self.findings.push(format!(
                "its end-of-text token {} is beyond its vocabulary of {rows}: {consequence}",
                unreachable.join(", ")
            ));
        }
        Ok(())
    }

    /// Every token that ends a text, ascending.
    pub(super) fn end_of_text(&self) -> Vec<u32> {
        let ends = self.config.end_of_text.iter().chain(&self.further_ends);
        let mut ends: Vec<u32> = ends.copied().collect();
        ends.sort_unstable();
        ends
    }

    /// Fails where a weight file was written into since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.files.iter().try_for_each(WeightFile::check_unchanged)
    }

    /// The shape of a tensor by its Hugging Face name; matrices are `[out, in]`.
    pub(super) fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.stored(name)?.shape)
    }

    /// A tensor by its Hugging Face name (`model.layers.3.self_attn.q_proj.weight`), its elements in `dtype`.
    pub(super) fn tensor(&self, name: &str, dtype: Dtype) -> Result<HostTensor> {
        self.stored(name)?.read(dtype)
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        let missing = || ModelError::invalid(&self.path, format!("tensor `{name}` is missing"));
        self.weights.get(name).ok_or_else(missing)
    }

    /// Every parameter must be there in its shape, and nothing else of the transformer's: an extra tensor is a
    /// sign of a computation that would be left out. The error is a fragment.
    fn check_parameters(&self) -> Result<(), String> {
        let names = self.weights.keys().chain(&self.unknown);
        let mut others: BTreeSet<&str> = names.map(String::as_str).collect();
        // One after the other, because the configuration may ask for more layers than could be listed.
        for (name, shape) in self.config.parameters() {
            let found = self.weights.get(&name).map(|stored| &stored.shape);
            let found = found.ok_or_else(|| self.without(&name, &others))?;
            if *found != shape {
                return Err(format!(
                    "tensor `{name}` has shape `{found:?}`, expected `{shape:?}` by the configuration"
                ));
            }
            others.remove(name.as_str());
        }
        let harmless = |name: &str| {
            name == self.config.family.head() || name.ends_with(".rotary_emb.inv_freq")
        };
        match others.iter().find(|name| !harmless(name)) {
            None => Ok(()),
            Some(name) => Err(format!(
                "tensor `{name}` is not supported (supported: the parameters of a plain `{}` transformer)",
                self.config.family.name()
            )),
        }
    }

    /// Whether a parameter that is missing is the first of a block, and of that block nothing else is among the `others` either.
    fn is_of_a_block_that_is_not_there(&self, name: &str, others: &BTreeSet<&str>) -> bool {
        let mut parts = name.split_inclusive('.');
        let is_number = |part: &str| {
            part.strip_suffix('.')
                .is_some_and(|n| n.parse::<usize>().is_ok())
        };
        let Some(number) = parts.find(|part| is_number(part)) else {
            return false;
        };
        let rest: usize = parts.map(str::len).sum();
        let block = &name[..name.len() - rest];
        let layer = number.trim_end_matches('.').parse().unwrap_or_default();
        let first = self.config.block_parameters(layer).into_iter().next();
        first.is_some_and(|(first, _)| first == name)
            && !others.iter().any(|other| other.starts_with(block))
    }

    /// What it means that the weights lack a parameter, where they have these `others`. A fragment.
    fn without(&self, name: &str, others: &BTreeSet<&str>) -> String {
        if name == self.config.family.head() {
            return format!(
                "tensor `{name}` is missing: these are the weights of a backbone without a head; name the folder of the whole model, or, if its head is its embedding, set `tie_word_embeddings` to `true` in `config.json`"
            );
        }
        let whole = format!("tensor `{name}` is missing");
        if self.is_of_a_block_that_is_not_there(name, others) {
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

/// A weight file that is open and mapped into memory, read-only.
#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    map: Arc<Mmap>,
    stamp: FileStamp,
}

impl WeightFile {
    fn open(path: &Path) -> Result<Self> {
        let read = |error| ModelError::read(path, error);
        let file = files::open(path).map_err(read)?;
        let stamp = FileStamp::new(path, file.metadata())?;
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

    fn check_unchanged(&self) -> Result<()> {
        let read = |error| ModelError::read(&self.path, error);
        // Of the open file, wherever its name leads by now.
        let metadata = self.file.metadata().map_err(read)?;
        match self.stamp.is_of(&metadata) {
            true => Ok(()),
            false => Err(ModelError::invalid(
                &self.path,
                "it was changed while the study ran; run the same command again, and replace weight files rather than write into them",
            )),
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    files::read_text(path, files::SETTINGS_BYTES).map_err(|error| ModelError::read(path, error))
}

fn read_optional_text(path: &Path) -> Result<Option<String>> {
    match files::read_text(path, files::SETTINGS_BYTES) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read
            .map(Some)
            .map_err(|error| ModelError::read(path, error)),
    }
}
