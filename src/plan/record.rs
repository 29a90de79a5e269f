//! Stage records: what a stage's key maps to. Outputs are stored as content-addressed objects (tables as Parquet and CSV, directions
//! as safetensors), so that a rerun that changes nothing reads one small record per stage.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use safetensors::tensor::{Dtype as TensorDtype, SafeTensors, TensorView};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::cache::{Cache, CacheError, Key};
use crate::files;
use crate::model::{Site, Vector};
use crate::stages::{
    Artifacts, Direction, Output, Parts, StageError, read_parquet, write_csv, write_parquet,
};

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
    pub(crate) findings: Vec<String>,
    /// What its key was made of.
    pub(crate) key_parts: serde_json::Value,
    /// Seconds that it took when it was computed.
    pub(crate) seconds: f64,
    pub(crate) cells: u64,
    /// The packs that held its cells when it was made. They may go: a stage that is cached needs none of them.
    #[serde(default)]
    pub(crate) packs: Vec<Key>,
    /// Hashes of the weight files of its models.
    #[serde(default)]
    pub(crate) weights: Vec<Key>,
    /// Name of the stage in the study that was run; it is in no key.
    #[serde(default)]
    pub(crate) stage: String,
    /// When it was made, as RFC 3339 in UTC.
    #[serde(default)]
    pub(crate) created: String,
}

impl StageRecord {
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Key> {
        let tables = self.tables.iter().flat_map(|t| [&t.csv, &t.parquet]);
        let directions = self.directions.iter().flat_map(|(a, b)| [&a.key, &b.key]);
        tables.chain(directions)
    }

    /// Name of the kind of stage.
    pub(crate) fn kind(&self) -> &str {
        let kind = self.key_parts.get("kind").and_then(|kind| kind.as_str());
        kind.unwrap_or("unknown")
    }

    /// Hash of the content, by which other stages know it: a stage that is computed again and leaves the same stops the wave there.
    pub fn content(&self) -> Key {
        let tables: Vec<(&str, String)> = self
            .tables
            .iter()
            .map(|t| (t.name.as_str(), t.csv.to_string()))
            .collect();
        let directions: Vec<(String, String)> = self
            .directions
            .iter()
            .map(|(a, b)| (a.key.to_string(), b.key.to_string()))
            .collect();
        Key::of(
            serde_json::json!({ "tables": tables, "directions": directions })
                .to_string()
                .as_bytes(),
        )
    }
}

/// A direction's description, beside its safetensors file.
#[derive(Serialize, Deserialize)]
struct DirectionDescription {
    label: String,
    seed: Option<u64>,
    model: String,
    model_fingerprint: String,
    layer: usize,
    site: String,
    position: i64,
    pre_norm: f64,
    resid_norm: f64,
    top_ids: Vec<String>,
    bottom_ids: Vec<String>,
    top_scores: (f64, f64),
    bottom_scores: (f64, f64),
    prompts: Vec<String>,
}

/// Where an output went.
pub(crate) struct StoredOutput {
    pub(crate) tables: Vec<TableRecord>,
    pub(crate) directions: Vec<(ArtifactRecord, ArtifactRecord)>,
}

impl StoredOutput {
    /// Writes an output's tables and directions to the cache.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub(crate) fn store(output: &Output, cache: &Cache) -> Result<Self, StageError> {
        let mut tables = Vec::new();
        let main = output.parts.iter().map(|parts| ("", parts.as_ref()));
        let others = output.tables.iter();
        let others = others.map(|(name, table)| (name.as_str(), table as &dyn Parts));
        for (name, table) in main.chain(others) {
            tables.push(TableRecord {
                name: name.to_string(),
                rows: table.height(),
                csv: put_with(cache, |writer| write_csv(table, writer))?,
                parquet: put_with(cache, |writer| write_parquet(table, writer))?,
            });
        }
        let directions = output
            .directions
            .iter()
            .map(|d| store_direction(d, cache))
            .collect::<Result<_, _>>()?;
        Ok(StoredOutput { tables, directions })
    }
}

fn put(cache: &Cache, bytes: &[u8]) -> Result<Key, StageError> {
    cache.put_object(bytes).map_err(failed)
}

/// Stores what is written piece by piece.
fn put_with(
    cache: &Cache,
    write: impl FnOnce(&mut dyn Write) -> Result<(), StageError>,
) -> Result<Key, StageError> {
    let mut object = cache.new_object().map_err(failed)?;
    match write(&mut object) {
        Ok(()) => object.finish().map_err(failed),
        // The disk's own words are better than those of whoever wrote to it.
        Err(error) => Err(object.failure().map_or(error, failed)),
    }
}

fn failed(error: CacheError) -> StageError {
    StageError::Cache(error.to_string())
}

fn store_direction(
    direction: &Direction,
    cache: &Cache,
) -> Result<(ArtifactRecord, ArtifactRecord), StageError> {
    let vector: Vec<u8> = direction
        .vector
        .values()
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    let pre_norm = (direction.pre_norm as f32).to_le_bytes();
    let internal =
        |error: safetensors::SafeTensorError| StageError::Internal(format!("safetensors: {error}"));
    let tensors = BTreeMap::from([
        (
            "direction",
            TensorView::new(
                TensorDtype::F32,
                vec![direction.vector.values().len()],
                &vector,
            )
            .map_err(internal)?,
        ),
        (
            "pre_norm",
            TensorView::new(TensorDtype::F32, vec![1], &pre_norm).map_err(internal)?,
        ),
    ]);
    let bytes = safetensors::serialize(&tensors, None).map_err(internal)?;
    let mut prompts: Vec<String> = direction.builders.iter().cloned().collect();
    prompts.sort();
    let description = DirectionDescription {
        label: direction.label.clone(),
        seed: direction.seed,
        model: direction.model.clone(),
        model_fingerprint: direction.fingerprint.clone(),
        layer: direction.layer,
        site: direction.site.short_name().to_string(),
        position: direction.position,
        pre_norm: direction.pre_norm,
        resid_norm: direction.resid_norm,
        top_ids: direction.top.clone(),
        bottom_ids: direction.bottom.clone(),
        top_scores: direction.top_scores,
        bottom_scores: direction.bottom_scores,
        prompts,
    };
    let text =
        serde_json::to_vec_pretty(&description).map_err(|e| StageError::Internal(e.to_string()))?;
    let seed = direction
        .seed
        .map(|s| format!(".seed{s}"))
        .unwrap_or_default();
    let stem = format!(
        "layer{}.{}{seed}",
        direction.layer,
        direction.site.short_name()
    );
    let record = |suffix: &str, bytes: &[u8]| -> Result<ArtifactRecord, StageError> {
        Ok(ArtifactRecord {
            file: format!("{stem}.{suffix}"),
            key: put(cache, bytes)?,
        })
    };
    Ok((record("safetensors", &bytes)?, record("json", &text)?))
}

/// What a record's stage left, every artifact of it checked; none when one is missing or was found damaged, which is told.
///
/// # Errors
/// A cache that cannot be read.
pub fn load_artifacts(
    record: &StageRecord,
    cache: &Cache,
) -> Result<Option<Artifacts>, StageError> {
    for object in record.objects() {
        if !cache.has_object(object) {
            tracing::warn!(
                "an artifact of stage `{}` is gone from the cache ({object}); it is made again from its cells",
                record.stage
            );
            return Ok(None);
        }
    }
    // Those of tables are only checked here, and read when somebody asks for the table.
    let of_tables = record.tables.iter().flat_map(|t| [&t.csv, &t.parquet]);
    for object in of_tables {
        if !cache.is_object_intact(object).map_err(failed)? {
            return Ok(None);
        }
    }
    let mut directions = Vec::new();
    for (tensors, description) in &record.directions {
        let (tensors, description) = (cache.object(&tensors.key), cache.object(&description.key));
        let (Some(tensors), Some(description)) =
            (tensors.map_err(failed)?, description.map_err(failed)?)
        else {
            return Ok(None);
        };
        let Some(direction) = read_direction(&tensors, &description) else {
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
            let bytes = read().map_err(failed)?;
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

fn read_direction(tensors: &[u8], description: &[u8]) -> Option<Direction> {
    let tensors = SafeTensors::deserialize(tensors).ok()?;
    let words = tensors.tensor("direction").ok()?.data().to_vec();
    let values = words
        .chunks_exact(4)
        .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        .collect();
    let d: DirectionDescription = serde_json::from_slice(description).ok()?;
    Some(Direction {
        label: d.label,
        seed: d.seed,
        model: d.model,
        fingerprint: d.model_fingerprint,
        layer: d.layer,
        site: Site::from_name(&d.site)?,
        position: d.position,
        vector: Arc::new(Vector::new(values)),
        pre_norm: d.pre_norm,
        resid_norm: d.resid_norm,
        top: d.top_ids,
        bottom: d.bottom_ids,
        top_scores: d.top_scores,
        bottom_scores: d.bottom_scores,
        builders: Arc::new(d.prompts.into_iter().collect::<HashSet<String>>()),
    })
}
