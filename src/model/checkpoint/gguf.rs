//! A GGUF file (llama.cpp's format): metadata, tokenizer and quantised weights in one file.
//!
//! Tensors are found under Hugging Face names. They are de-quantised row by row into the wanted format, in parallel.
//! llama.cpp's converter reorders the rows of the query and key projections of `llama` models, from halves
//! (x₀ x₁ … | y₀ y₁ …, the layout of Hugging Face) to pairs (x₀ y₀ x₁ y₁ …) within each head; reading undoes that.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use memmap2::Mmap;
use rayon::prelude::*;

use super::gguf_metadata::{Metadata, TensorFacts};
use super::gguf_tokenizer::{chat_template, tokenizer};
use super::host_tensor::{CHUNK, Data, HostTensor, encode};
use super::{Checkpoint, WeightFile, Weights};
use crate::model::config::{Architecture, Dtype};
use crate::model::error::ModelError;

const SUPPORTED_TYPES: &str = "`F32`, `F16`, `BF16`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q2_K`, `Q3_K`, `Q4_K`, `Q5_K`, `Q6_K`";

/// Numbers and names of tensor types that exist but are not read here, for the message.
const OTHER_TYPES: [(u32, &str); 13] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

const ROPE_DIVISORS: &str = "rope_freqs.weight";

/// Opens the file.
pub(super) fn open(path: &Path) -> Result<Checkpoint, ModelError> {
    let file = WeightFile::open(path)?;
    let map = Arc::clone(&file.map);
    let mut content = Content::read(&mut Cursor::new(&map[..]))
        .map_err(|error| unreadable(path, &error.to_string()))?;
    let mut metadata = Metadata {
        path,
        values: &mut content.metadata,
    };
    let architecture = metadata.architecture()?;
    let mut tensors = Tensors {
        path: path.to_path_buf(),
        tensors: place(path, &map, content.tensor_data_offset, content.tensor_infos)?,
        map,
        rows_per_head: None,
    };
    let config = metadata.config(tensors.facts()?)?;
    if architecture == Architecture::Llama {
        tensors.rows_per_head = Some(config.d_head);
    }
    let tokenizer = tokenizer(&mut metadata)?;
    Ok(Checkpoint {
        path: path.to_path_buf(),
        files: vec![file],
        chat_template: chat_template(&metadata, &tokenizer)?,
        weights: Box::new(tensors),
        tokenizer,
        config,
        // The metadata names all of them, and they are in the configuration.
        further_ends: Vec::new(),
        findings: Vec::new(),
    })
}

/// The reader's message, made useful: an unknown tensor type is told apart from a damaged file.
fn unreadable(path: &Path, message: &str) -> ModelError {
    let first_line = message.lines().next().unwrap_or_default();
    let Some(number) = first_line.strip_prefix("unknown dtype for tensor ") else {
        return ModelError::invalid(
            path,
            format!("not a complete GGUF file ({first_line}); download it again"),
        );
    };
    let name = OTHER_TYPES
        .iter()
        .find(|(known, _)| known.to_string() == number.trim());
    let name = name.map_or(format!("number {number}"), |(_, name)| (*name).to_string());
    ModelError::unsupported(path, format!("tensor type `{name}`"), SUPPORTED_TYPES)
}

/// The Hugging Face name of a GGUF tensor, if it is one of the transformer's.
fn hugging_face_name(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if !matches!(kind, "weight" | "bias") {
        return None;
    }
    let Some((layer, part)) = stem
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
    else {
        let module = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            _ => return None,
        };
        return Some(format!("{module}.{kind}"));
    };
    let module = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// One tensor of the file: where its bytes start, and what they mean.
struct Placed {
    start: usize,
    shape: Vec<usize>,
    stored: GgmlDType,
}

impl Placed {
    /// Elements of a row: the last dimension.
    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn row_bytes(&self) -> usize {
        self.columns() / self.stored.block_size() * self.stored.type_size()
    }

    /// None when the product does not fit.
    fn elements(&self) -> Option<usize> {
        self.shape
            .iter()
            .try_fold(1usize, |product, n| product.checked_mul(*n))
    }

    /// Whether the tensor is made of whole blocks and lies within a file of `length` bytes.
    fn check(&self, length: usize) -> Result<(), String> {
        let block = self.stored.block_size();
        if !self.columns().is_multiple_of(block) || (self.shape.len() < 2 && block > 1) {
            return Err(format!(
                "has shape `{:?}`, expected a matrix whose rows are whole blocks of {block}",
                self.shape
            ));
        }
        let rows = self.elements().map(|n| n / self.columns().max(1));
        let bytes = rows.and_then(|rows| rows.checked_mul(self.row_bytes()));
        let end = bytes.and_then(|bytes| self.start.checked_add(bytes));
        // Blocks hold 2-byte numbers, which the de-quantiser reads in place.
        if end.is_none_or(|end| end > length) || !self.start.is_multiple_of(2) {
            return Err("does not lie within the file; download it again".to_string());
        }
        Ok(())
    }
}

/// Checks that every tensor lies within the file and keys them by Hugging Face name (or their own, if unknown).
fn place(
    path: &Path,
    map: &Mmap,
    data_offset: u64,
    infos: HashMap<String, TensorInfo>,
) -> Result<HashMap<String, Placed>, ModelError> {
    let mut tensors = HashMap::with_capacity(infos.len());
    for (name, info) in infos {
        if matches!(info.ggml_dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
            return Err(ModelError::unsupported(
                path,
                format!("type `{:?}` of tensor `{name}`", info.ggml_dtype),
                SUPPORTED_TYPES,
            ));
        }
        let start = data_offset
            .checked_add(info.offset)
            .and_then(|start| usize::try_from(start).ok());
        let placed = Placed {
            start: start.unwrap_or(usize::MAX),
            shape: info.shape.dims().to_vec(),
            stored: info.ggml_dtype,
        };
        placed
            .check(map.len())
            .map_err(|problem| ModelError::invalid(path, format!("tensor `{name}` {problem}")))?;
        tensors.insert(hugging_face_name(&name).unwrap_or(name), placed);
    }
    Ok(tensors)
}

/// The tensors of a memory-mapped GGUF file.
struct Tensors {
    path: PathBuf,
    map: Arc<Mmap>,
    tensors: HashMap<String, Placed>,
    /// The head width, where query and key rows are stored as pairs.
    rows_per_head: Option<usize>,
}

impl Tensors {
    fn facts(&self) -> Result<TensorFacts, ModelError> {
        let has = |name: &str| self.tensors.contains_key(name);
        let embedding = self.tensors.get("model.embed_tokens.weight");
        let rows = embedding.and_then(|embedding| embedding.shape.first().copied());
        let d_vocab = rows.ok_or_else(|| {
            ModelError::invalid(&self.path, "tensor `token_embd.weight` is missing")
        })?;
        let rope_divisors = match has(ROPE_DIVISORS) {
            true => Some(self.read(ROPE_DIVISORS, Dtype::Float32)?.to_f32()),
            false => None,
        };
        Ok(TensorFacts {
            d_vocab,
            tied_embeddings: !has("lm_head.weight"),
            biases: ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"]
                .map(|module| has(&format!("model.layers.0.{module}.bias"))),
            rope_divisors,
        })
    }

    /// De-quantises the row of the file that starts at `start` into `values`.
    fn dequantize(
        &self,
        tensor: &Placed,
        start: usize,
        values: &mut [f32],
    ) -> Result<(), ModelError> {
        let failed = |error: candle_core::Error| {
            ModelError::invalid(&self.path, format!("cannot de-quantise: {error}"))
        };
        let bytes = self
            .map
            .get(start..start + tensor.row_bytes())
            .unwrap_or_default();
        match tensor.stored {
            GgmlDType::F32 => super::host_tensor::decode(bytes, Dtype::Float32, values),
            GgmlDType::F16 => super::host_tensor::decode(bytes, Dtype::Float16, values),
            GgmlDType::BF16 => super::host_tensor::decode(bytes, Dtype::BFloat16, values),
            quantised => {
                let blocks = quantised.from_data(Cow::Borrowed(bytes));
                let storage = blocks.dequantize(values.len()).map_err(failed)?;
                values.copy_from_slice(storage.as_slice().map_err(failed)?);
            }
        }
        Ok(())
    }
}

/// The row of the file that holds row `row` of a projection whose heads have `width` rows stored as pairs.
fn row_of_pairs(row: usize, width: usize) -> usize {
    let (head, within) = (row / width, row % width);
    let (half, pair) = (within / (width / 2), within % (width / 2));
    head * width + 2 * pair + half
}

impl Weights for Tensors {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|tensor| tensor.shape.clone())
    }

    fn names(&self) -> Vec<String> {
        let names = self.tensors.keys().filter(|name| *name != ROPE_DIVISORS);
        names.cloned().collect()
    }

    fn read(&self, name: &str, dtype: Dtype) -> Result<HostTensor, ModelError> {
        let tensor = self.tensors.get(name).ok_or_else(|| {
            ModelError::Internal(format!("tensor `{name}` is not in the checkpoint"))
        })?;
        let paired = [
            "q_proj.weight",
            "k_proj.weight",
            "q_proj.bias",
            "k_proj.bias",
        ]
        .iter()
        .any(|end| name.ends_with(end));
        let width = self.rows_per_head.filter(|_| paired);
        // A bias is a vector; its elements are its rows.
        let columns = if width.is_some() && tensor.shape.len() == 1 {
            1
        } else {
            tensor.columns()
        };
        let tensor = &Placed {
            shape: vec![tensor.elements().unwrap_or(0) / columns.max(1), columns],
            ..*tensor
        };
        let mut data = vec![0; tensor.elements().unwrap_or(0) * dtype.size()];
        let chunk_rows = (CHUNK / columns.max(1)).max(1);
        let row_bytes = columns * dtype.size();
        data.par_chunks_mut((chunk_rows * row_bytes).max(1))
            .enumerate()
            .try_for_each_init(
                || vec![0.0; columns],
                |values, (chunk, out)| {
                    for (i, out) in out.chunks_mut(row_bytes).enumerate() {
                        let row = chunk * chunk_rows + i;
                        let stored = width.map_or(row, |width| row_of_pairs(row, width));
                        self.dequantize(
                            tensor,
                            tensor.start + stored * tensor.row_bytes(),
                            values,
                        )?;
                        encode(values, dtype, out);
                    }
                    Ok::<(), ModelError>(())
                },
            )?;
        Ok(HostTensor {
            shape: self.shape(name).unwrap_or_default(),
            dtype,
            data: Data::Owned(data),
        })
    }
}
