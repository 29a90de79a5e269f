//! The tensors of a GGUF file, under their Hugging Face names.
//!
//! They are de-quantised row by row into the wanted format, in parallel. llama.cpp's converter reorders the rows of the query and key
//! projections of `llama` models, from halves (x₀ x₁ … | y₀ y₁ …, the layout of Hugging Face) to pairs (x₀ y₀ x₁ y₁ …) within each
//! head; reading undoes that.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use memmap2::Mmap;
use rayon::prelude::*;

use super::Weights;
use super::gguf_header::TensorInfo;
use super::gguf_metadata::TensorFacts;
use super::host_tensor::{CHUNK, Data, HostTensor, decode, encode, zeros};
use crate::model::config::Dtype;
use crate::model::error::{Problem, Result};

const SUPPORTED_TYPES: &str = "`F32`, `F16`, `BF16`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `Q8_0`, `Q2_K`, `Q3_K`, `Q4_K`, `Q5_K`, `Q6_K`";

/// Numbers and names of tensor types that exist but are not read here, for the message.
const OTHER_TYPES: [(u32, &str); 15] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
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
/// The most rope divisors: one per pair of a head.
const MOST_DIVISORS: usize = 1 << 16;

fn supported_type(number: u32) -> Option<GgmlDType> {
    Some(match number {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

fn unsupported_type(tensor: &str, number: u32) -> Problem {
    let known = OTHER_TYPES.iter().find(|(known, _)| *known == number);
    let name = known.map_or(format!("number {number}"), |(_, name)| (*name).to_string());
    Problem::unsupported(
        format!("type `{name}` of tensor `{tensor}`"),
        SUPPORTED_TYPES,
    )
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

/// One tensor of the file, whole and within it: where its bytes start, and what they mean.
struct Placed {
    /// As the file calls it.
    own_name: String,
    start: usize,
    end: usize,
    /// Dimensions of at least 1, the last of whole blocks.
    shape: Vec<usize>,
    stored: GgmlDType,
}

impl Placed {
    /// Checks that the tensor is made of whole blocks that lie within a file of `length` bytes; from here on no product of its numbers
    /// can overflow. The error is a fragment.
    fn new(
        info: TensorInfo,
        stored: GgmlDType,
        data_start: usize,
        length: usize,
    ) -> Result<Self, String> {
        let shape: Vec<usize> = info
            .shape
            .iter()
            .map_while(|n| (*n).try_into().ok())
            .collect();
        let columns = shape.last().copied().unwrap_or(0);
        let block = stored.block_size();
        if shape.len() != info.shape.len() || shape.is_empty() || shape.contains(&0) {
            return Err(format!(
                "has shape `{:?}`, expected dimensions of at least 1 that fit into memory",
                info.shape
            ));
        }
        if !columns.is_multiple_of(block) || (shape.len() < 2 && block > 1) {
            return Err(format!(
                "has shape `{shape:?}`, expected a matrix whose rows are whole blocks of {block}"
            ));
        }
        let elements = shape.iter().try_fold(1usize, |all, n| all.checked_mul(*n));
        let bytes = elements.and_then(|n| (n / block).checked_mul(stored.type_size()));
        let start = usize::try_from(info.offset)
            .ok()
            .and_then(|offset| data_start.checked_add(offset));
        let end = bytes.and_then(|bytes| start?.checked_add(bytes));
        match (start, end) {
            // Blocks hold 2-byte numbers, which the de-quantiser reads in place.
            (Some(start), Some(end)) if end <= length && start.is_multiple_of(2) => Ok(Self {
                own_name: info.name,
                start,
                end,
                shape,
                stored,
            }),
            _ => Err("does not lie within the file; download it again".to_string()),
        }
    }

    /// Elements of a row: the last dimension.
    fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

pub(super) struct Tensors {
    path: PathBuf,
    map: Arc<Mmap>,
    /// By Hugging Face name.
    tensors: BTreeMap<String, Placed>,
    /// Names that mean nothing in a GGUF file.
    unknown: Vec<String>,
    rope_divisors: Option<Placed>,
    /// The head width, where query and key rows are stored as pairs.
    pub(crate) rows_per_head: Option<usize>,
}

impl Tensors {
    /// Checks that every tensor lies within the file, apart from all others, and that no two stand for one parameter.
    pub(super) fn place(
        path: &Path,
        map: Arc<Mmap>,
        data_start: usize,
        infos: Vec<TensorInfo>,
    ) -> Result<Self, Problem> {
        let mut all = BTreeMap::new();
        for info in infos {
            let name = info.name.clone();
            let stored = supported_type(info.kind);
            let stored = stored.ok_or_else(|| unsupported_type(&name, info.kind))?;
            let placed = Placed::new(info, stored, data_start, map.len());
            let placed = placed.map_err(|problem| format!("tensor `{name}` {problem}"))?;
            if all.insert(name.clone(), placed).is_some() {
                return Err(Problem::Invalid(format!(
                    "tensor `{name}` is listed twice, expected once; convert the model anew"
                )));
            }
        }
        check_apart(all.values())?;
        let rope_divisors = all.remove(ROPE_DIVISORS);
        let (mut tensors, mut unknown) = (BTreeMap::new(), Vec::new());
        for (own_name, placed) in all {
            match hugging_face_name(&own_name) {
                Some(name) => drop(tensors.insert(name, placed)),
                None => unknown.push(own_name),
            }
        }
        if let Some((name, placed)) = unknown.iter().find_map(|name| tensors.get_key_value(name)) {
            return Err(Problem::Invalid(format!(
                "tensors `{}` and `{name}` are one parameter under two names, expected `{}` alone; convert the model anew",
                placed.own_name, placed.own_name
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            map,
            tensors,
            unknown,
            rope_divisors,
            rows_per_head: None,
        })
    }

    pub(super) fn facts(&self) -> Result<TensorFacts, Problem> {
        let has = |name: &str| self.tensors.contains_key(name);
        let embedding = self.tensors.get("model.embed_tokens.weight");
        let rows = embedding.and_then(|embedding| embedding.shape.first().copied());
        Ok(TensorFacts {
            d_vocab: rows.ok_or_else(|| "tensor `token_embd.weight` is missing".to_string())?,
            tied_embeddings: !has("lm_head.weight"),
            biases: ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"]
                .map(|module| has(&format!("model.layers.0.{module}.bias"))),
            rope_divisors: self.rope_divisors()?,
        })
    }

    fn rope_divisors(&self) -> Result<Option<Vec<f32>>, Problem> {
        let Some(tensor) = &self.rope_divisors else {
            return Ok(None);
        };
        if tensor.shape.len() != 1 || tensor.elements() > MOST_DIVISORS {
            return Err(Problem::Invalid(format!(
                "tensor `{ROPE_DIVISORS}` has shape `{:?}`, expected one number per pair of a head",
                tensor.shape
            )));
        }
        let mut values = vec![0.0; tensor.elements()];
        self.dequantize(tensor, tensor.start..tensor.end, &mut values)?;
        Ok(Some(values))
    }

    /// De-quantises some rows of a tensor, which lie at `range` of the file, into `values`.
    fn dequantize(
        &self,
        tensor: &Placed,
        range: std::ops::Range<usize>,
        values: &mut [f32],
    ) -> Result<(), Problem> {
        let failed = |error: candle_core::Error| format!("cannot de-quantise: {error}");
        let bytes = self.map.get(range).unwrap_or_default();
        match tensor.stored {
            GgmlDType::F32 => decode(bytes, Dtype::Float32, values),
            GgmlDType::F16 => decode(bytes, Dtype::Float16, values),
            GgmlDType::BF16 => decode(bytes, Dtype::BFloat16, values),
            quantised => {
                let blocks = quantised.from_data(Cow::Borrowed(bytes));
                let storage = blocks.dequantize(values.len()).map_err(failed)?;
                values.copy_from_slice(storage.as_slice().map_err(failed)?);
            }
        }
        Ok(())
    }
}

/// Whether no two tensors share bytes. The error is a fragment that names both.
fn check_apart<'a>(tensors: impl Iterator<Item = &'a Placed>) -> Result<(), String> {
    let mut tensors: Vec<&Placed> = tensors.collect();
    tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
    let mut pairs = tensors.iter().zip(tensors.iter().skip(1));
    match pairs.find(|(one, next)| next.start < one.end) {
        None => Ok(()),
        Some((one, next)) => Err(format!(
            "the data of tensors `{}` and `{}` overlap; convert the model anew",
            one.own_name, next.own_name
        )),
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
        let names = self.tensors.keys().chain(&self.unknown);
        names.cloned().collect()
    }

    fn read(&self, name: &str, dtype: Dtype) -> Result<Option<HostTensor>> {
        let Some(tensor) = self.tensors.get(name) else {
            return Ok(None);
        };
        let (module, _) = name.rsplit_once('.').unwrap_or_default();
        let paired = module.ends_with("q_proj") || module.ends_with("k_proj");
        let width = self.rows_per_head.filter(|_| paired);
        // A bias is a vector; its elements are its rows.
        let columns = match width.is_some() && tensor.shape.len() == 1 {
            true => 1,
            false => tensor.columns(),
        };
        let stored_row_bytes = columns / tensor.stored.block_size() * tensor.stored.type_size();
        let mut data = zeros(tensor.elements(), dtype)?;
        let chunk_rows = (CHUNK / columns).max(1);
        let row_bytes = columns * dtype.size();
        data.par_chunks_mut(chunk_rows * row_bytes)
            .enumerate()
            .try_for_each_init(
                || vec![0.0; columns],
                |values, (chunk, out)| {
                    for (i, out) in out.chunks_mut(row_bytes).enumerate() {
                        let row = chunk * chunk_rows + i;
                        let stored = width.map_or(row, |width| row_of_pairs(row, width));
                        let start = tensor.start + stored * stored_row_bytes;
                        self.dequantize(tensor, start..start + stored_row_bytes, values)?;
                        encode(values, dtype, out);
                    }
                    Ok(())
                },
            )
            .map_err(|problem: Problem| problem.at(&self.path))?;
        Ok(Some(HostTensor {
            shape: tensor.shape.clone(),
            dtype,
            data: Data::Owned(data),
        }))
    }
}
