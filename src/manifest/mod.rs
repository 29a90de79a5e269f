//! What `run.json` holds: the run writes it, and whoever shows, compares, lists or collects runs reads it, as these types.
//!
//! Fields that are missing have their defaults, because a run may be killed at any time, and words that this dial does not know count as
//! not said. Anything else that does not fit is an error: a damaged manifest is not guessed at.
//!
//! The file has a format. A change that an earlier dial would misread raises it; a new field does not.

mod graph;
mod v1;

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::cache::Key;
use crate::files;
use crate::model::Provenance;
use crate::prompts::Columns;
use crate::stages::Measure;

#[cfg(test)]
pub(crate) use graph::Edge;
pub(crate) use graph::{Node, graph};

/// The name of the file in a run's folder.
pub(crate) const FILE: &str = "run.json";
/// The format that is written.
pub(crate) const FORMAT: u64 = 2;

/// A run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Manifest {
    pub(crate) format: u64,
    pub(crate) study: String,
    /// `<study>/<folder>`, as packs of cells name it. The folder may have been given another name since.
    pub(crate) run: String,
    pub(crate) question: Option<String>,
    #[serde(deserialize_with = "known")]
    pub(crate) status: Option<RunStatus>,
    pub(crate) error: Option<String>,
    /// As RFC 3339 in UTC.
    pub(crate) started: String,
    /// Wall time, where the run has ended by itself.
    pub(crate) seconds: Option<f64>,
    /// Full forward passes that a script would make for the stages that are done.
    pub(crate) equivalent_forward_passes: Option<u64>,
    /// What the study asks: the same for equal stages, parameters, models and prompts.
    pub(crate) key: String,
    /// The arguments of the program; empty for runs of early versions.
    pub(crate) command: Vec<String>,
    /// The folder that it was started in, as [`files::text_of`].
    pub(crate) directory: Option<String>,
    /// The folder of the cache, as [`files::text_of`].
    pub(crate) cache: Option<String>,
    /// The copies of the study's files in the run's folder, and where each file lies.
    pub(crate) files: BTreeMap<String, Option<String>>,
    /// What `--set` was given.
    pub(crate) overrides: Vec<String>,
    /// Memory for prefilled prompts, where it was given.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) provenance: Provenance,
    pub(crate) models: BTreeMap<String, Model>,
    pub(crate) prompts: BTreeMap<String, Prompts>,
    /// What a reader should know of models and prompts.
    pub(crate) findings: Vec<String>,
    /// Every stage of the study, run or not, each after those that it refers to.
    pub(crate) graph: Vec<Node>,
    /// The stages that it was to run.
    pub(crate) planned: Option<Vec<String>>,
    /// The stage that is, or was, being computed.
    pub(crate) computing: Option<String>,
    /// Of its missing cells those that it had when that was last written down, and all of them. Cells are committed a little later.
    pub(crate) cells_in_hand: Option<(u64, u64)>,
    /// The stages that have ended.
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunStatus {
    /// Or it was killed.
    Running,
    Complete,
    Failed,
    Interrupted,
}

/// How a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StageStatus {
    Cached,
    Computed,
    /// It ran although it was cached, and gave the same bits.
    Recomputed,
    Failed,
    Blocked,
    Interrupted,
}

impl StageStatus {
    /// The word for it, here and on screens.
    pub(crate) fn name(self) -> &'static str {
        match self {
            StageStatus::Cached => "cached",
            StageStatus::Computed => "computed",
            StageStatus::Recomputed => "recomputed",
            StageStatus::Failed => "failed",
            StageStatus::Blocked => "blocked",
            StageStatus::Interrupted => "interrupted",
        }
    }

    /// Whether it has given its output.
    pub(crate) fn is_done(self) -> bool {
        matches!(
            self,
            StageStatus::Cached | StageStatus::Computed | StageStatus::Recomputed
        )
    }
}

/// What became of a stage.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Stage {
    pub(crate) name: String,
    pub(crate) kind: String,
    #[serde(deserialize_with = "known")]
    pub(crate) status: Option<StageStatus>,
    pub(crate) seconds: f64,
    /// Of its record in the cache, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Key>,
    /// What its key was made of, in canonical form.
    #[serde(skip_serializing_if = "Json::is_null")]
    pub(crate) inputs: Json,
    pub(crate) findings: Vec<String>,
    pub(crate) tables: Vec<Table>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds_when_computed: Option<f64>,
    /// Distinct cells.
    pub(crate) cells_computed: u64,
    /// Distinct cells found in the cache; for a stage that is cached as a whole, all that it had asked for.
    pub(crate) cells_cached: u64,
    /// Of those the ones that an earlier stage of the same run has computed, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) cells_shared: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Table {
    /// Empty for the stage's main table.
    pub(crate) name: String,
    pub(crate) rows: u64,
    /// The object of the cache that holds it.
    pub(crate) csv: Option<Key>,
    /// The same as Parquet.
    pub(crate) parquet: Option<Key>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Model {
    /// As the study names it.
    pub(crate) source: Option<String>,
    pub(crate) dtype: String,
    pub(crate) fingerprint: String,
    pub(crate) config: Config,
    /// The tokens at which a text ends.
    pub(crate) end_of_text: Json,
    pub(crate) example: Option<Example>,
    /// What the score is on it, where a stage asks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<Measure>,
}

/// What of a model's configuration is shown.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) architecture: String,
    pub(crate) n_layers: u64,
    pub(crate) d_model: u64,
    /// All else, for a reader of the file.
    #[serde(flatten)]
    pub(crate) others: Map<String, Json>,
}

/// The first prompt that a model is asked, as it reads it, or why it cannot.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Example {
    pub(crate) prompts: String,
    pub(crate) prompt: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rendered: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Prompts {
    /// Its file, as [`files::text_of`].
    pub(crate) path: Option<String>,
    /// The same from the run's folder on, which holds where both have been moved together.
    pub(crate) path_from_run: Option<String>,
    /// What the file calls the fields of a prompt, where the study says it.
    #[serde(skip_serializing_if = "Columns::is_empty")]
    pub(crate) columns: Columns,
    pub(crate) content: String,
    /// How many prompts are in each split.
    pub(crate) splits: BTreeMap<String, u64>,
    /// The licence that they are under: what the study says, or what is known of a public set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
    /// The name of the public set that the file is of, where it is known as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) known_as: Option<String>,
}

impl Manifest {
    /// Of the run in a folder; none in a folder without one, which is no run's, or not yet.
    ///
    /// # Errors
    /// What cannot be read or is no manifest, with the reason: [`ErrorKind::Unsupported`] where it is of a format that a later dial writes.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let text = match files::read(&folder.join(FILE), files::DATA_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Where a field is given twice, the last counts.
        let fields: Map<String, Json> = serde_json::from_slice(&text)?;
        let format = format(&fields)?;
        let mut manifest = Manifest::deserialize(Json::Object(fields))?;
        if format == 1 {
            v1::complete(&mut manifest, folder);
        }
        Ok(Some(manifest))
    }

    /// What became of a stage; none where it was not run.
    pub(crate) fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Where it was run, thing by thing.
    pub(crate) fn provenance_by_name(&self) -> Map<String, Json> {
        match serde_json::to_value(&self.provenance) {
            Ok(Json::Object(fields)) => fields,
            _ => Map::new(),
        }
    }

    /// The files that the run was given: the copy's path in its folder, and the file's own.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&str, PathBuf)> {
        let files = self.files.iter();
        files.filter_map(|(copy, path)| Some((copy.as_str(), files::path_of(path.as_deref()?))))
    }
}

/// The name of a table's files without the extension; the main table's name is empty.
pub(crate) fn file_stem(stage: &str, table: &str) -> String {
    match table {
        "" => stage.to_string(),
        table => format!("{stage}.{table}"),
    }
}

/// The format that a manifest says it has; the first said none.
fn format(fields: &Map<String, Json>) -> Result<u64> {
    let Some(said) = fields.get("format") else {
        return Ok(1);
    };
    match said.as_u64() {
        Some(format @ 1..=FORMAT) => Ok(format),
        Some(format) if format > FORMAT => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "it has format {format}, and this dial, {}, reads formats 1 to {FORMAT}; read it with the dial that wrote it, or a later one",
                env!("CARGO_PKG_VERSION")
            ),
        )),
        _ => Err(Error::new(
            ErrorKind::InvalidData,
            format!("its `format` is `{said}`, expected a whole number from 1"),
        )),
    }
}

/// A word that this dial knows; none for any other.
fn known<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    from: D,
) -> std::result::Result<Option<T>, D::Error> {
    Ok(T::deserialize(Json::deserialize(from)?).ok())
}

#[cfg(test)]
mod tests;
