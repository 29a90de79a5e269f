//! The records of a cache: what a stage left, which the stage's key maps to, or what was drawn of a run's tables. Outputs are stored as
//! content-addressed objects (tables as Parquet and CSV, directions and other arrays as safetensors), so that a rerun that changes nothing reads one small
//! record per stage.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::sync::Arc;

use safetensors::tensor::{Dtype as TensorDtype, SafeTensors, TensorView};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value as Json, json};

use crate::cache::{Cache, CacheError, Key};
use crate::files;
use crate::model::{ModelHandle, Site, Vector};
use crate::stages::{
    Affine, Artifacts, Direction, Output, Parts, StageError, read_parquet, write_csv, write_parquet,
};

use super::key::key_of;

/// A table's two forms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TableRecord {
    /// The table's name; empty for the stage's main table.
    #[serde(deserialize_with = "plain_name")]
    pub(crate) name: String,
    pub(crate) rows: usize,
    pub(crate) csv: Key,
    pub(crate) parquet: Key,
}

/// Another artifact of a stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ArtifactRecord {
    #[serde(deserialize_with = "plain_name")]
    pub(crate) file: String,
    pub(crate) key: Key,
}

/// A name that files in run folders get. A record that holds another is none: whoever may write to a cache is not to write elsewhere.
fn plain_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match files::is_plain_name(&name) {
        true => Ok(name),
        false => Err(D::Error::custom(format!(
            "`{name}` cannot be the name of a file"
        ))),
    }
}

/// What a stage left.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StageRecord {
    pub(crate) tables: Vec<TableRecord>,
    /// Its directions: a safetensors file with a JSON description each, in order.
    pub(crate) directions: Vec<(ArtifactRecord, ArtifactRecord)>,
    /// Its files of arrays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) tensors: Vec<ArtifactRecord>,
    pub(crate) findings: Vec<String>,
    /// What its key was made of.
    pub(crate) key_parts: Json,
    /// Seconds that it took when it was computed.
    pub(crate) seconds: f64,
    pub(crate) cells: u64,
    /// The packs that held its cells when it was made. They may go: a stage that is cached needs none of them.
    #[serde(default)]
    pub(crate) packs: Vec<Key>,
    /// Hashes of the weight files of its models.
    #[serde(default)]
    pub(crate) weights: Vec<Key>,
    /// What its models are made of, by fingerprint.
    #[serde(default)]
    pub(crate) models: BTreeMap<String, ModelParts>,
    /// Name of the stage in the study that was run; it is in no key.
    #[serde(default)]
    pub(crate) stage: String,
    /// When it was made, as RFC 3339 in UTC.
    #[serde(default)]
    pub(crate) created: String,
}

/// What a model's fingerprint is made of, part by part, to say which of them has changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ModelParts {
    pub(crate) dtype: String,
    /// Of each file.
    pub(crate) weights: Vec<Key>,
    pub(crate) tokenizer: Option<Key>,
    pub(crate) template: Option<Key>,
}

impl ModelParts {
    pub(crate) fn of(model: &ModelHandle) -> Self {
        ModelParts {
            dtype: model.dtype.name().to_string(),
            weights: model.weight_hashes.iter().copied().map(Key::from).collect(),
            tokenizer: Some(model.tokenizer_hash().into()),
            template: model.template_hash().map(Key::from),
        }
    }
}

impl StageRecord {
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Key> {
        let tables = self.tables.iter().flat_map(|t| [&t.csv, &t.parquet]);
        let directions = self.directions.iter().flat_map(|(a, b)| [&a.key, &b.key]);
        let tensors = self.tensors.iter().map(|file| &file.key);
        tables.chain(directions).chain(tensors)
    }

    /// Name of the kind of stage.
    pub(crate) fn kind(&self) -> &str {
        self.key_parts["kind"].as_str().unwrap_or("unknown")
    }

    /// Hash of the content, by which other stages know it: a stage that is computed again and leaves the same stops the wave there.
    pub fn content(&self) -> Key {
        let tables = self.tables.iter().map(|t| json!([t.name, t.csv]));
        let directions = self.directions.iter().map(|(a, b)| json!([a.key, b.key]));
        let mut content = json!({
            "tables": tables.collect::<Json>(),
            "directions": directions.collect::<Json>(),
        });
        if !self.tensors.is_empty() {
            content["tensors"] = json!(self.tensors);
        }
        key_of(&content)
    }
}

/// What was drawn of a run's tables, for the next run that has the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DrawnRecord {
    /// The keys of the run's stages.
    #[serde(alias = "key_parts", deserialize_with = "drawn_of")]
    pub(crate) drawn_of: Vec<Key>,
    /// The figures' files, and what the page shows.
    pub(crate) files: Vec<ArtifactRecord>,
    /// When it was made, as RFC 3339 in UTC.
    pub(crate) created: String,
}

/// Any record of the cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Record {
    Drawn(DrawnRecord),
    Stage(StageRecord),
}

impl Record {
    pub(crate) fn objects(&self) -> Box<dyn Iterator<Item = &Key> + '_> {
        match self {
            Record::Stage(record) => Box::new(record.objects()),
            Record::Drawn(record) => Box::new(record.files.iter().map(|file| &file.key)),
        }
    }

    /// When it was made, as RFC 3339 in UTC; empty where it does not say.
    pub(crate) fn created(&self) -> &str {
        match self {
            Record::Stage(record) => &record.created,
            Record::Drawn(record) => &record.created,
        }
    }

    /// Seconds that it took; drawing takes too few to count.
    pub(crate) fn seconds(&self) -> f64 {
        match self {
            Record::Stage(record) => record.seconds,
            Record::Drawn(_) => 0.0,
        }
    }
}

/// As it is written, and as 0.1 wrote it: as what a stage's key was made of.
fn drawn_of<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Key>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Now(Vec<Key>),
        Before { drawn_of: Vec<Key> },
    }
    match Written::deserialize(from)? {
        Written::Now(keys) | Written::Before { drawn_of: keys } => Ok(keys),
    }
}

/// A direction's description, beside its safetensors file.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Direction")]
struct Description {
    label: String,
    seed: Option<u64>,
    model: String,
    #[serde(rename = "model_fingerprint")]
    fingerprint: String,
    layer: usize,
    #[serde(serialize_with = "short_name", deserialize_with = "site")]
    site: Site,
    #[serde(deserialize_with = "Option::deserialize")]
    position: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// It is in the safetensors file, as what edits that move a mean need.
    #[serde(skip, default = "no_vector")]
    vector: Arc<Vector>,
    pre_norm: f64,
    #[serde(skip)]
    affine: Option<Arc<Affine>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resid_norm: Option<f64>,
    #[serde(rename = "top_ids")]
    top: Vec<String>,
    #[serde(rename = "bottom_ids")]
    bottom: Vec<String>,
    top_scores: Option<(f64, f64)>,
    bottom_scores: Option<(f64, f64)>,
    #[serde(
        rename = "prompts",
        serialize_with = "sorted",
        deserialize_with = "shared"
    )]
    builders: Arc<HashSet<String>>,
}

fn short_name<S: Serializer>(site: &Site, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(site.short_name())
}

fn site<'de, D: Deserializer<'de>>(from: D) -> Result<Site, D::Error> {
    let name = String::deserialize(from)?;
    Site::from_name(&name).ok_or_else(|| D::Error::custom("no site"))
}

fn no_vector() -> Arc<Vector> {
    Arc::new(Vector::new(Vec::new()))
}

fn sorted<S: Serializer>(texts: &HashSet<String>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(texts.iter().collect::<BTreeSet<_>>())
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<HashSet<String>>, D::Error> {
    HashSet::deserialize(from).map(Arc::new)
}

/// Writes an output's tables, directions and arrays to the cache. The record says where they are, and nothing else yet.
///
/// # Errors
/// A cache that cannot be written.
pub(crate) fn store(output: &Output, cache: &Cache) -> Result<StageRecord, StageError> {
    record_of(output, Keep::In(cache))
}

/// The record that [`store`] would give, of an output that is not kept.
///
/// # Errors
/// A table that cannot be written.
pub(crate) fn describe(output: &Output) -> Result<StageRecord, StageError> {
    record_of(output, Keep::Nowhere)
}

/// Where artifacts go as they are made.
#[derive(Clone, Copy)]
enum Keep<'a> {
    In(&'a Cache),
    /// Only their names are wanted.
    Nowhere,
}

fn record_of(output: &Output, keep: Keep<'_>) -> Result<StageRecord, StageError> {
    let mut record = StageRecord::default();
    let in_parts = output.parts.iter();
    let in_parts = in_parts.map(|(name, parts)| (name.as_str(), parts.as_ref()));
    let others = output.tables.iter();
    let others = others.map(|(name, table)| (name.as_str(), table as &dyn Parts));
    for (name, table) in in_parts.chain(others) {
        record.tables.push(TableRecord {
            name: name.to_string(),
            rows: table.height(),
            csv: keep.made(|writer| write_csv(table, writer))?,
            parquet: keep.made(|writer| write_parquet(table, writer))?,
        });
    }
    for direction in &output.directions {
        record
            .directions
            .push(record_of_direction(direction, keep)?);
    }
    for tensors in &output.tensors {
        record.tensors.push(ArtifactRecord {
            file: tensors.file(),
            key: keep.made(|writer| tensors.write(writer))?,
        });
    }
    Ok(record)
}

impl Keep<'_> {
    /// Keeps what is written piece by piece.
    fn made(
        self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), StageError>,
    ) -> Result<Key, StageError> {
        let Keep::In(cache) = self else {
            let mut hasher = blake3::Hasher::new();
            write(&mut hasher)?;
            return Ok(hasher.finalize().into());
        };
        let mut object = cache.new_object()?;
        match write(&mut object) {
            Ok(()) => Ok(object.finish()?),
            // The disk's own words are better than those of whoever wrote to it.
            Err(error) => Err(object.failure().map_or(error, StageError::from)),
        }
    }

    fn bytes(self, bytes: &[u8]) -> Result<Key, CacheError> {
        match self {
            Keep::In(cache) => cache.put_object(bytes),
            Keep::Nowhere => Ok(Key::of(bytes)),
        }
    }
}

fn record_of_direction(
    direction: &Direction,
    keep: Keep<'_>,
) -> Result<(ArtifactRecord, ArtifactRecord), StageError> {
    let values = direction.vector.values();
    let vector: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let pre_norm = (direction.pre_norm as f32).to_le_bytes();
    let tensor = |count: usize, bytes| TensorView::new(TensorDtype::F32, vec![count], bytes);
    let affine = direction.affine.as_deref().map(affine_bytes);
    let bytes = tensor(values.len(), &vector).and_then(|direction| {
        let mut tensors = vec![
            ("direction", direction),
            ("pre_norm", tensor(1, &pre_norm)?),
        ];
        for (name, bytes) in affine.iter().flatten() {
            tensors.push((name, tensor(values.len(), bytes)?));
        }
        safetensors::serialize(tensors, None)
    });
    let bytes = bytes.map_err(|error| StageError::Internal(format!("safetensors: {error}")))?;
    let mut text = Vec::new();
    let mut json = serde_json::Serializer::pretty(&mut text);
    Description::serialize(direction, &mut json)
        .map_err(|error| StageError::Internal(error.to_string()))?;
    let stem = file_of_direction(direction);
    let record = |suffix: &str, bytes: &[u8]| -> Result<ArtifactRecord, StageError> {
        Ok(ArtifactRecord {
            file: format!("{stem}.{suffix}"),
            key: keep.bytes(bytes)?,
        })
    };
    Ok((record("safetensors", &bytes)?, record("json", &text)?))
}

/// The name of a direction's files, without their endings, behind that of its stage.
pub(crate) fn file_of_direction(direction: &Direction) -> String {
    let seed = direction.seed.map(|seed| format!(".seed{seed}"));
    let (layer, site) = (direction.layer, direction.site.short_name());
    let position = match direction.position {
        Some(-1) => String::new(),
        Some(position) => format!(".position{position}"),
        None => ".mean".to_string(),
    };
    format!("layer{layer}.{site}{position}{}", seed.unwrap_or_default())
}

/// The tensors of what edits that move a mean need, by name.
fn affine_bytes(affine: &Affine) -> [(&'static str, Vec<u8>); 4] {
    let bytes = |vector: &Vector| {
        let values = vector.values().iter();
        values.flat_map(|v| v.to_le_bytes()).collect()
    };
    [
        ("mean_a", bytes(&affine.mean_a)),
        ("mean_b", bytes(&affine.mean_b)),
        ("mean", bytes(&affine.mean)),
        ("eraser", bytes(&affine.eraser)),
    ]
}

/// What a record's stage left, every artifact of it checked; none when one is missing or was found damaged, which is told.
///
/// # Errors
/// A cache that cannot be read.
pub fn load_artifacts(
    record: &StageRecord,
    cache: &Cache,
) -> Result<Option<Artifacts>, StageError> {
    if is_incomplete(record, cache) {
        return Ok(None);
    }
    let tables = record.tables.iter().flat_map(|t| [&t.csv, &t.parquet]);
    let tensors = record.tensors.iter().map(|file| &file.key);
    for object in tables.chain(tensors) {
        if !cache.is_object_intact(object)? {
            return Ok(None);
        }
    }
    load_directions(record, cache)
}

/// Whether an artifact of a record is not in the cache, which is told.
pub(crate) fn is_incomplete(record: &StageRecord, cache: &Cache) -> bool {
    let gone = record.objects().find(|object| !cache.has_object(object));
    if let Some(object) = gone {
        tracing::warn!(
            "an artifact of stage `{}` is gone from the cache ({object}); it is made again from its cells",
            record.stage
        );
    }
    gone.is_some()
}

/// The same as [`load_artifacts`] where the tables were checked already. They are read when somebody asks for one.
///
/// # Errors
/// A cache that cannot be read.
pub(crate) fn load_directions(
    record: &StageRecord,
    cache: &Cache,
) -> Result<Option<Artifacts>, StageError> {
    let mut directions = Vec::new();
    for (tensors, description) in &record.directions {
        let (tensors, description) = (cache.object(&tensors.key)?, cache.object(&description.key)?);
        let Some(direction) = tensors.zip(description).and_then(read_direction) else {
            return Ok(None);
        };
        directions.push(direction);
    }
    Ok(Some(stored_artifacts(record, directions, cache)))
}

/// What a record's stage left, where its directions are in memory and its tables in the cache.
pub(crate) fn stored_artifacts(
    record: &StageRecord,
    directions: Vec<Direction>,
    cache: &Cache,
) -> Artifacts {
    let mut artifacts = Artifacts::of_directions(directions);
    for table in &record.tables {
        let (key, read) = (table.parquet, cache.object_reader(table.parquet));
        artifacts.add_table(&table.name, move || {
            let bytes = read()?;
            let gone = || {
                StageError::Cache(format!(
                    "the artifact {key} has gone from the cache since it was checked; run the same command again"
                ))
            };
            read_parquet(bytes.ok_or_else(gone)?)
        });
    }
    artifacts
}

/// A direction of the bytes of its two files; none where they are no such files.
pub(crate) fn read_direction((tensors, description): (Vec<u8>, Vec<u8>)) -> Option<Direction> {
    let tensors = SafeTensors::deserialize(&tensors).ok()?;
    let vector = |name: &str| {
        let tensor = tensors.tensor(name).ok()?;
        let words = tensor.data().chunks_exact(4);
        let values = words.map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        Some(Arc::new(Vector::new(values.collect())))
    };
    let mut json = serde_json::Deserializer::from_slice(&description);
    let mut direction = Description::deserialize(&mut json).ok()?;
    json.end().ok()?;
    direction.vector = vector("direction")?;
    let affine = || {
        Some(Affine {
            mean_a: vector("mean_a")?,
            mean_b: vector("mean_b")?,
            mean: vector("mean")?,
            eraser: vector("eraser")?,
        })
    };
    direction.affine = affine().map(Arc::new);
    Some(direction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the cache of an earlier dial holds it: a stage's record without tables, of the kind `report`.
    #[test]
    fn what_0_1_drew_is_no_stages_and_keeps_its_files() {
        let (stage, figure) = (Key::of(b"stage"), Key::of(b"figure"));
        let drawn = json!({
            "tables": [], "directions": [], "files": [{ "file": "steer.gap.svg", "key": figure }], "findings": [],
            "key_parts": { "kind": "report", "drawn_of": [stage] }, "seconds": 0.0, "cells": 0, "packs": [], "weights": [],
            "stage": "", "created": "2026-01-02T03:04:05Z",
        });
        let Ok(Record::Drawn(record)) = serde_json::from_value(drawn) else {
            panic!("it is another's")
        };
        assert_eq!(record.drawn_of, [stage]);
        let now = serde_json::to_value(&record).unwrap();
        let Ok(again @ Record::Drawn(_)) = serde_json::from_value(now) else {
            panic!("it is another's")
        };
        assert_eq!(again.objects().collect::<Vec<_>>(), [&figure]);
        assert!(again.created().starts_with("2026"));
        let of_stage = StageRecord {
            key_parts: json!({ "kind": "steer" }),
            ..StageRecord::default()
        };
        let of_stage = serde_json::to_value(of_stage).unwrap();
        assert!(matches!(
            serde_json::from_value(of_stage),
            Ok(Record::Stage(record)) if record.kind() == "steer"
        ));
    }
}
