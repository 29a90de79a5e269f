//! A Hugging Face folder of a model without a direction: its settings and tokenizer as they are, and its weights ablated.
//!
//! An embedding that is the unembedding, too, is only the former without the direction: the logits of an ablated stream are read with the unembedding
//! as it was. So the two are written apart, and `tie_word_embeddings` is `false`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Error, Write};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::ablation::{Ablation, Side};
use super::host_tensor::HostTensor;
use super::stored::{Format, Stored};
use super::{Checkpoint, hugging_face, read_text};
use crate::files;
use crate::model::config::Dtype;
use crate::model::error::{ModelError, Result, unsupported};
use crate::model::json;

/// What is copied beside the weights, where it is there.
const COPIED: [&str; 14] = [
    "LICENSE",
    "LICENSE.md",
    "LICENSE.txt",
    "NOTICE",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// The header's length is a multiple of it, so that numbers lie where a program can use them in place.
const ALIGNMENT: usize = 8;

/// What was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AblatedFolder {
    /// Tensors from which the direction was taken out, and all.
    pub(crate) ablated: usize,
    pub(crate) tensors: usize,
    pub(crate) bytes: u64,
    /// Whether the embedding is no more the unembedding.
    pub(crate) untied: bool,
}

/// A tensor of the new file.
struct New<'a> {
    name: String,
    from: &'a Stored,
    dtype: Dtype,
    /// Where the direction is taken out.
    side: Option<Side>,
}

impl New<'_> {
    fn bytes(&self) -> usize {
        self.from.elements() * self.dtype.size()
    }
}

impl Checkpoint {
    /// Bytes that the weights without a direction take.
    ///
    /// # Errors
    /// As [`Checkpoint::write_ablated`].
    pub(in crate::model) fn ablated_bytes(&self) -> Result<u64> {
        let tensors = self.ablated_tensors()?;
        Ok(tensors.iter().map(|tensor| tensor.bytes() as u64).sum())
    }

    /// Writes the model without the direction of a vector into a folder that is there. `about` is what the weights say of themselves.
    ///
    /// # Errors
    /// A family of which that would be no ablation, a model that is no Hugging Face folder, files that cannot be read or written.
    pub(in crate::model) fn write_ablated(
        &self,
        vector: &[f32],
        about: &BTreeMap<String, String>,
        folder: &Path,
    ) -> Result<AblatedFolder> {
        let ablation = Ablation::of(vector, self.config.d_model)?;
        let tensors = self.ablated_tensors()?;
        let path = folder.join(hugging_face::SINGLE);
        let written = write_weights(&path, &tensors, about, &ablation)?;
        self.check_unchanged()?;
        self.copy_settings(folder)?;
        Ok(AblatedFolder {
            ablated: tensors.iter().filter(|new| new.side.is_some()).count(),
            tensors: tensors.len(),
            bytes: written,
            untied: self.config.tied_embeddings,
        })
    }

    /// The tensors of the new file, the wider formats first, so that all lie where a program can use them in place.
    fn ablated_tensors(&self) -> Result<Vec<New<'_>>> {
        if !self.path.is_dir() {
            return Err(ModelError::Unusable(format!(
                "`{}` is no Hugging Face folder, and a file alone has neither the settings nor the tokenizer of one; name the folder that it was \
                 converted from with `--model`, and convert what comes out of it",
                self.path.file_name().unwrap_or_default().to_string_lossy()
            )));
        }
        let sides = self.sides()?;
        let mut tensors = Vec::new();
        for (name, _) in self.config.parameters() {
            tensors.push(self.tensor_of(name.clone(), &name, sides.get(&name).copied())?);
        }
        if self.config.tied_embeddings {
            let (tables, _) = self.config.family.end_parameters(&self.config.sizes);
            if let Some((embedding, _)) = tables.first() {
                let head = self.config.family.head().to_string();
                tensors.push(self.tensor_of(head, embedding, None)?);
            }
        }
        tensors.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
        Ok(tensors)
    }

    fn tensor_of(&self, name: String, from: &str, side: Option<Side>) -> Result<New<'_>> {
        let from = self.stored(from)?;
        match from.format {
            Format::Plain(dtype) => Ok(New {
                name,
                from,
                dtype,
                side,
            }),
            Format::Quantised(_) => Err(ModelError::invalid(
                &from.path,
                unsupported(
                    format!("taking a direction out of the quantised tensor `{name}`"),
                    "float32, float16 and bfloat16",
                ),
            )),
        }
    }

    /// Writes `config.json`, and copies what else is no weight.
    fn copy_settings(&self, folder: &Path) -> Result<()> {
        let path = self.path.join("config.json");
        let fields: Result<Map<String, Json>, String> = json::read(&read_text(&path)?);
        let mut fields = fields.map_err(|problem| ModelError::invalid(&path, problem))?;
        // Whatever the file says or leaves out, there is an unembedding of its own now.
        fields.insert("tie_word_embeddings".to_string(), false.into());
        let text = format!("{:#}\n", Json::Object(fields));
        let target = folder.join("config.json");
        std::fs::write(&target, text).map_err(|error| unwritable(&target, &error))?;
        for name in COPIED {
            let content = match files::read(&self.path.join(name), files::VOCABULARY_BYTES) {
                Ok(content) => content,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ModelError::read(&self.path.join(name), error)),
            };
            let target = folder.join(name);
            std::fs::write(&target, content).map_err(|error| unwritable(&target, &error))?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, error: &Error) -> ModelError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ModelError::Unusable(format!("`{name}` cannot be written: {error}"))
}

/// Writes a safetensors file, one tensor in memory at a time. Returns its bytes.
fn write_weights(
    path: &Path,
    tensors: &[New<'_>],
    about: &BTreeMap<String, String>,
    ablation: &Ablation,
) -> Result<u64> {
    let failed = |error: Error| unwritable(path, &error);
    let mut writer = BufWriter::new(File::create(path).map_err(failed)?);
    let header = header(tensors, about);
    let length = (header.len() as u64).to_le_bytes();
    for part in [&length[..], &header] {
        writer.write_all(part).map_err(failed)?;
    }
    let mut written = (length.len() + header.len()) as u64;
    for tensor in tensors {
        let stored: HostTensor = tensor.from.read(tensor.dtype)?;
        match tensor.side {
            Some(side) => writer.write_all(&ablation.of_tensor(&stored, side)?),
            None => writer.write_all(stored.bytes()),
        }
        .map_err(failed)?;
        written += tensor.bytes() as u64;
    }
    let file = writer
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    Ok(written)
}

fn header(tensors: &[New<'_>], about: &BTreeMap<String, String>) -> Vec<u8> {
    let mut header = Map::new();
    header.insert("__metadata__".to_string(), json!(about));
    let mut start = 0;
    for tensor in tensors {
        let dtype = match tensor.dtype {
            Dtype::Float32 => "F32",
            Dtype::BFloat16 => "BF16",
            Dtype::Float16 => "F16",
        };
        let end = start + tensor.bytes();
        let said =
            json!({ "dtype": dtype, "shape": tensor.from.shape, "data_offsets": [start, end] });
        header.insert(tensor.name.clone(), said);
        start = end;
    }
    let mut text = Json::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(ALIGNMENT), b' ');
    text
}
