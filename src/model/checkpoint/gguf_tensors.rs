//! The tensors of a GGUF file, under their Hugging Face names.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::gguf_header::TensorInfo;
use super::gguf_metadata::TensorFacts;
use super::host_tensor::decode;
use super::quantised::Quantisation::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
use super::stored::{Format, Stored};
use crate::model::config::Dtype;
use crate::model::error::unsupported;

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

fn supported_type(number: u32) -> Option<Format> {
    Some(match number {
        0 => Format::Plain(Dtype::Float32),
        1 => Format::Plain(Dtype::Float16),
        2 => Format::Quantised(Q4_0),
        3 => Format::Quantised(Q4_1),
        6 => Format::Quantised(Q5_0),
        7 => Format::Quantised(Q5_1),
        8 => Format::Quantised(Q8_0),
        10 => Format::Quantised(Q2K),
        11 => Format::Quantised(Q3K),
        12 => Format::Quantised(Q4K),
        13 => Format::Quantised(Q5K),
        14 => Format::Quantised(Q6K),
        30 => Format::Plain(Dtype::BFloat16),
        _ => return None,
    })
}

fn unsupported_type(tensor: &str, number: u32) -> String {
    let known = OTHER_TYPES.iter().find(|(known, _)| *known == number);
    let name = known.map_or(format!("number {number}"), |(_, name)| (*name).to_string());
    unsupported(
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

pub(super) struct Tensors {
    /// By Hugging Face name.
    pub(super) weights: BTreeMap<String, Stored>,
    /// Names that mean nothing in a GGUF file.
    pub(super) unknown: Vec<String>,
    rope_divisors: Option<Stored>,
}

impl Tensors {
    /// Checks that every tensor lies within the file, apart from all others, and that no two stand for one parameter.
    pub(super) fn place(
        path: &Path,
        map: &Arc<Mmap>,
        data_start: usize,
        infos: Vec<TensorInfo>,
    ) -> Result<Self, String> {
        let mut all = BTreeMap::new();
        for info in infos {
            let name = info.name.clone();
            let format = supported_type(info.kind);
            let format = format.ok_or_else(|| unsupported_type(&name, info.kind))?;
            let placed = place(path, map, data_start, &info, format);
            let placed = placed.map_err(|problem| format!("tensor `{name}` {problem}"))?;
            if all.insert(name.clone(), placed).is_some() {
                return Err(format!(
                    "tensor `{name}` is listed twice, expected once; convert the model anew"
                ));
            }
        }
        check_apart(&all)?;
        check_names(all.keys())?;
        let rope_divisors = all.remove(ROPE_DIVISORS);
        let (mut weights, mut unknown) = (BTreeMap::new(), Vec::new());
        for (own_name, placed) in all {
            match hugging_face_name(&own_name) {
                Some(name) => drop(weights.insert(name, placed)),
                None => unknown.push(own_name),
            }
        }
        Ok(Self {
            weights,
            unknown,
            rope_divisors,
        })
    }

    pub(super) fn facts(&self) -> Result<TensorFacts, String> {
        let has = |name: &str| self.weights.contains_key(name);
        let embedding = self.weights.get("model.embed_tokens.weight");
        let rows = embedding.and_then(|embedding| embedding.shape.first().copied());
        Ok(TensorFacts {
            d_vocab: rows.ok_or_else(|| "tensor `token_embd.weight` is missing".to_string())?,
            tied_embeddings: !has("lm_head.weight"),
            biases: ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj"]
                .map(|module| has(&format!("model.layers.0.{module}.bias"))),
            rope_divisors: self.rope_divisors()?,
        })
    }

    fn rope_divisors(&self) -> Result<Option<Vec<f32>>, String> {
        let Some(tensor) = &self.rope_divisors else {
            return Ok(None);
        };
        match (tensor.shape.as_slice(), tensor.format) {
            ([length @ 1..=MOST_DIVISORS], Format::Plain(dtype)) => {
                let mut values = vec![0.0; *length];
                decode(tensor.bytes(), dtype, &mut values);
                Ok(Some(values))
            }
            (shape, _) => Err(format!(
                "tensor `{ROPE_DIVISORS}` has shape `{shape:?}`, expected one number per pair of a head"
            )),
        }
    }

    /// Says that the query and key rows are stored as pairs, in heads of this width.
    pub(super) fn unpair(&mut self, d_head: usize) {
        for (name, stored) in &mut self.weights {
            let (module, _) = name.rsplit_once('.').unwrap_or_default();
            if module.ends_with("q_proj") || module.ends_with("k_proj") {
                stored.pairs = Some(d_head);
            }
        }
    }
}

/// Checks that a tensor is made of whole blocks that lie within the file; from here on no product of its numbers can overflow. The error is a
/// fragment.
fn place(
    path: &Path,
    map: &Arc<Mmap>,
    data_start: usize,
    info: &TensorInfo,
    format: Format,
) -> Result<Stored, String> {
    let sizes = info.shape.iter().map_while(|n| (*n).try_into().ok());
    let shape: Vec<usize> = sizes.collect();
    let columns = shape.last().copied().unwrap_or(0);
    let block = format.block_elements();
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
    let bytes = elements.and_then(|n| (n / block).checked_mul(format.block_bytes()));
    let offset = usize::try_from(info.offset).ok();
    let start = offset.and_then(|offset| data_start.checked_add(offset));
    let end = bytes.and_then(|bytes| start?.checked_add(bytes));
    match (start, end) {
        // Blocks hold 2-byte numbers, which the de-quantiser reads in place.
        (Some(start), Some(end)) if end <= map.len() && start.is_multiple_of(2) => Ok(Stored {
            path: path.to_path_buf(),
            map: Arc::clone(map),
            range: start..end,
            shape,
            format,
            pairs: None,
        }),
        _ => Err("does not lie within the file; download it again".to_string()),
    }
}

/// Whether no two tensors share bytes. The error is a fragment that names both.
fn check_apart(tensors: &BTreeMap<String, Stored>) -> Result<(), String> {
    let mut tensors: Vec<(&String, &Stored)> = tensors.iter().collect();
    tensors.sort_by_key(|(_, tensor)| (tensor.range.start, tensor.range.end));
    let mut pairs = tensors.iter().zip(tensors.iter().skip(1));
    match pairs.find(|((_, one), (_, next))| next.range.start < one.range.end) {
        None => Ok(()),
        Some(((one, _), (next, _))) => Err(format!(
            "the data of tensors `{one}` and `{next}` overlap; convert the model anew"
        )),
    }
}

/// Whether no tensor has a Hugging Face name that another one stands for.
fn check_names<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Result<(), String> {
    let pairs = names
        .clone()
        .filter_map(|own| Some((hugging_face_name(own)?, own)));
    let renamed: BTreeMap<String, &String> = pairs.collect();
    let mut twice = names.filter_map(|name| Some((name, renamed.get(name)?)));
    match twice.next() {
        None => Ok(()),
        Some((name, own)) => Err(format!(
            "tensors `{own}` and `{name}` are one parameter under two names, expected `{own}` alone; convert the model anew"
        )),
    }
}
