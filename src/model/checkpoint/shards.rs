//! The weights of a Hugging Face folder: one safetensors file, or several and an index that says which tensor is in which.
//!
//! Where both are there, the one file is read, as in transformers, and a finding says so. Where a tensor is in several shards, the index
//! decides. A backbone saved without its `model.` prefix gets it back.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::host_tensor::{CHUNK, decode};
use super::stored::{Format, Stored};
use super::{WeightFile, read_optional_text, safetensors_header};
use crate::model::config::ModelConfig;
use crate::model::error::{ModelError, Result};
use crate::model::families::Family;
use crate::model::json;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

const EMBEDDING: &str = "model.embed_tokens.weight";

#[derive(Deserialize)]
struct RawIndex {
    weight_map: BTreeMap<String, String>,
}

/// The names of the shards that the text of an index lists, in order; they lie beside the index.
pub(super) fn shard_names(path: &Path, index: &str) -> Result<BTreeSet<String>> {
    Ok(weight_map(path, index)?.into_values().collect())
}

/// The shard of each tensor.
fn weight_map(path: &Path, index: &str) -> Result<BTreeMap<String, String>> {
    let raw: RawIndex = json::read(index).map_err(|problem| ModelError::invalid(path, problem))?;
    let mut shards = raw.weight_map.values();
    match shards.find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
        Some(name) => Err(ModelError::invalid(
            path,
            format!("shard `{name}` is not the name of a file beside the index"),
        )),
        None => Ok(raw.weight_map),
    }
}

#[derive(Default)]
pub(super) struct Chosen {
    /// In the order of their names.
    pub(super) files: Vec<PathBuf>,
    /// The name of the shard of each tensor; empty without an index.
    places: BTreeMap<String, String>,
    pub(super) findings: Vec<String>,
}

/// The weight files to read; no files where the folder has none.
pub(super) fn choose(folder: &Path) -> Result<Chosen> {
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    if single.exists() {
        return Ok(Chosen {
            files: vec![single],
            findings: passed_over(folder, &index).into_iter().collect(),
            ..Chosen::default()
        });
    }
    let Some(text) = read_optional_text(&index)? else {
        return Ok(Chosen::default());
    };
    let places = weight_map(&index, &text)?;
    let shards: BTreeSet<&String> = places.values().collect();
    Ok(Chosen {
        files: shards.iter().map(|name| folder.join(name)).collect(),
        places,
        findings: Vec::new(),
    })
}

/// A finding where an index lists other files, which are there too.
fn passed_over(folder: &Path, index: &Path) -> Option<String> {
    let text = read_optional_text(index).ok()??;
    let shards = shard_names(index, &text).ok()?;
    let other = shards
        .iter()
        .find(|name| *name != SINGLE && folder.join(name).exists())?;
    Some(format!(
        "holds weights twice: `{SINGLE}` is read, as transformers does, and `{other}` and whatever else `{INDEX}` lists is not; remove what is not meant"
    ))
}

/// The tensors by the names that the family has for them, without those that it passes over.
pub(super) fn open(
    files: &[WeightFile],
    chosen: &Chosen,
    family: &Family,
) -> Result<BTreeMap<String, Stored>> {
    let mut tensors: BTreeMap<String, Stored> = BTreeMap::new();
    for file in files {
        let listed = safetensors_header::read(file, |name| family.renamed(name).is_some());
        let listed = listed.map_err(|problem| ModelError::invalid(&file.path, problem))?;
        for (name, stored) in listed {
            let stored = match tensors.remove(&name) {
                None => stored,
                Some(other) => chosen.one_of(&name, other, stored)?,
            };
            tensors.insert(name, stored);
        }
    }
    with_prefix(renamed(tensors, family)?)
}

fn renamed(tensors: BTreeMap<String, Stored>, family: &Family) -> Result<BTreeMap<String, Stored>> {
    let mut named = BTreeMap::new();
    for (name, stored) in tensors {
        let Some(known) = family.renamed(&name) else {
            continue;
        };
        let problem = format!(
            "tensor `{name}` is `{known}` by another name, and that is there too, expected one of them"
        );
        let path = stored.path.clone();
        if named.insert(known, stored).is_some() {
            return Err(ModelError::invalid(&path, problem));
        }
    }
    Ok(named)
}

/// Whether there is a head that differs from the embedding.
pub(super) fn has_head_of_its_own(
    tensors: &BTreeMap<String, Stored>,
    config: &ModelConfig,
) -> bool {
    let (before_blocks, _) = config.family.end_parameters(&config.sizes);
    let embedding = before_blocks.first();
    let embedding = embedding.and_then(|(name, _)| tensors.get(name));
    let pair = tensors.get(config.family.head()).zip(embedding);
    pair.is_some_and(|(head, embedding)| !holds_the_same(head, embedding))
}

impl Chosen {
    /// Of a tensor that is in two shards, the one where the index places it.
    fn one_of(&self, name: &str, one: Stored, other: Stored) -> Result<Stored> {
        let place = self.places.get(name).map(OsStr::new);
        let is_there = |stored: &Stored| place.is_some() && stored.path.file_name() == place;
        match (is_there(&one), is_there(&other)) {
            (true, _) => Ok(one),
            (_, true) => Ok(other),
            _ => Err(ModelError::invalid(
                &other.path,
                format!(
                    "tensor `{name}` is in `{}` too, and the index places it in neither",
                    one.path.display()
                ),
            )),
        }
    }
}

/// Gives the tensors of a backbone, which is saved as `layers.0.…`, the names they have in the whole model.
fn with_prefix(tensors: BTreeMap<String, Stored>) -> Result<BTreeMap<String, Stored>> {
    let bare = |name: &str| !name.starts_with("model.") && !name.starts_with("lm_head.");
    let mut names = tensors.keys().filter(|name| bare(name));
    let twice = names.find_map(|name| tensors.get_key_value(&format!("model.{name}")));
    if let Some((name, stored)) = twice {
        return Err(ModelError::invalid(
            &stored.path,
            format!(
                "tensors `{name}` and `{}` are one parameter under two names, expected one of them",
                &name["model.".len()..]
            ),
        ));
    }
    let is_backbone = tensors.contains_key(&EMBEDDING["model.".len()..])
        && !tensors.keys().any(|name| name.starts_with("model."));
    if !is_backbone {
        return Ok(tensors);
    }
    let named = tensors.into_iter().map(|(name, stored)| match bare(&name) {
        true => (format!("model.{name}"), stored),
        false => (name, stored),
    });
    Ok(named.collect())
}

/// Whether two tensors have the same shape and the same numbers; stops at the first that differ.
fn holds_the_same(one: &Stored, other: &Stored) -> bool {
    if one.shape != other.shape {
        return false;
    }
    let (Format::Plain(one_dtype), Format::Plain(other_dtype)) = (one.format, other.format) else {
        return false;
    };
    if one_dtype == other_dtype {
        return one.bytes() == other.bytes();
    }
    let (mut one_values, mut other_values) = (vec![0.0; CHUNK], vec![0.0; CHUNK]);
    let pairs = one.bytes().chunks(CHUNK * one_dtype.size());
    let mut pairs = pairs.zip(other.bytes().chunks(CHUNK * other_dtype.size()));
    pairs.all(|(a, b)| {
        let count = a.len() / one_dtype.size();
        decode(a, one_dtype, &mut one_values);
        decode(b, other_dtype, &mut other_values);
        let mut pairs = one_values[..count].iter().zip(&other_values[..count]);
        pairs.all(|(one, other)| one.to_bits() == other.to_bits())
    })
}
