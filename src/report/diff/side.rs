//! One side of a comparison: a run, a folder of tables, or a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files;
use crate::manifest::{self, file_stem};
use crate::report::{FinishedRun, ReportError, Table};
use crate::spec;
use crate::stages::{kind_of, published_table};

use super::measure::Measurements;

#[derive(Debug, Default)]
pub(super) struct Side {
    /// Of a run, by path in the study.
    pub(crate) parameters: BTreeMap<String, String>,
    pub(crate) measurements: Vec<Measurements>,
    /// Of a run, by the name of the file.
    pub(crate) directions: BTreeMap<String, Vec<f64>>,
}

impl Side {
    pub(super) fn read(path: &Path) -> Result<Self, ReportError> {
        if path.join(manifest::FILE).is_file() {
            return Side::of_run(path);
        }
        let mut side = Side::default();
        for file in files(path)? {
            side.measurements.extend(of_file(&file)?);
        }
        Ok(side)
    }

    fn of_run(path: &Path) -> Result<Self, ReportError> {
        let run = FinishedRun::read(path)?;
        let mut side = Side {
            parameters: parameters(&run),
            directions: directions(&path.join("directions"))?,
            ..Side::default()
        };
        for stage in &run.stages {
            let name = stage.view().compared;
            if let Some((name, table)) = name.and_then(|name| Some((name, stage.table(name)?))) {
                let stem = file_stem(&stage.name, name);
                let found = match stage.sweep() {
                    Some(sweep) => Measurements::of_sweep(&stage.kind, &stem, &sweep),
                    None => Measurements::of(&stage.kind, &stem, table),
                };
                let found = found.map_err(|error| ReportError::unreadable(path, error))?;
                side.measurements.push(found);
            }
        }
        Ok(side)
    }

    pub(super) fn contents(&self) -> String {
        let names: Vec<String> = self
            .measurements
            .iter()
            .map(|m| format!("{} `{}`", m.kind, m.name))
            .collect();
        match names.is_empty() {
            true => "no table that is known".to_string(),
            false => names.join(", "),
        }
    }
}

/// The measurements of a CSV or JSON file; none where its name is of nothing that is known. A layer, seed or site that a name says
/// counts where no column says it.
fn of_file(path: &Path) -> Result<Option<Measurements>, ReportError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(kind) = kind_of(&name) else {
        return Ok(None);
    };
    let text = files::read_text(path, files::DATA_BYTES)
        .map_err(|error| ReportError::unreadable(path, error))?;
    let published = published_table(kind, &name, &text);
    let table = match published.map_err(|error| ReportError::unreadable(path, error))? {
        Some(published) => Table::of(&published),
        None => Ok(Table::from_csv(&text, &path.display().to_string())?),
    };
    let table = table.map_err(|error| ReportError::unreadable(path, error))?;
    let found = Measurements::of(kind, &name, &table);
    Ok(Some(
        found.map_err(|error| ReportError::unreadable(path, error))?,
    ))
}

/// The tables in a folder, or the file itself.
fn files(path: &Path) -> Result<Vec<PathBuf>, ReportError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let entries = std::fs::read_dir(path).map_err(|error| ReportError::Unreadable {
        path: path.to_path_buf(),
        why: format!("{error}; expected a run's folder, a folder of tables, or a CSV or JSON file"),
    })?;
    let is_table = |path: &PathBuf| {
        path.is_file() && path.extension().is_some_and(|e| e == "csv" || e == "json")
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_table)
        .collect();
    files.sort();
    Ok(files)
}

/// The resolved study, a line for every value.
fn parameters(run: &FinishedRun) -> BTreeMap<String, String> {
    fn walk(path: &str, value: &serde_yaml::Value, into: &mut BTreeMap<String, String>) {
        match value {
            serde_yaml::Value::Mapping(entries) => {
                for (name, value) in entries {
                    let name = name.as_str().unwrap_or_default();
                    let path = if path.is_empty() {
                        name.to_string()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(&path, value, into);
                }
            }
            value => {
                let text = serde_json::to_string(value).unwrap_or_default();
                into.insert(path.to_string(), text);
            }
        }
    }
    let mut parameters = BTreeMap::new();
    walk("", &resolved(&run.path), &mut parameters);
    let manifest = &run.manifest;
    for (name, model) in &manifest.models {
        parameters.insert(
            format!("models.{name} (content)"),
            model.fingerprint.clone(),
        );
    }
    for (name, set) in &manifest.prompts {
        parameters.insert(format!("prompts.{name} (content)"), set.content.clone());
    }
    for (name, value) in manifest.provenance_by_name() {
        parameters.insert(format!("provenance.{name}"), value.to_string());
    }
    // Where files lie says nothing about what is in them.
    let places = [".source", ".path", "import.folder"];
    parameters.retain(|path, _| !places.iter().any(|place| path.ends_with(place)));
    parameters
}

/// The resolved study of a run, as it is written; nothing where it is not there, or holds what a study may not hold.
fn resolved(folder: &Path) -> serde_yaml::Value {
    let name = Path::new("resolved.yaml");
    let text = files::read_text(&folder.join(name), files::SETTINGS_BYTES).unwrap_or_default();
    match spec::load_text(name, &text, &[]) {
        Ok(_) => serde_yaml::from_str(&text).unwrap_or_default(),
        Err(_) => serde_yaml::Value::Null,
    }
}

/// The directions of a run; none where it has no such folder.
fn directions(folder: &Path) -> Result<BTreeMap<String, Vec<f64>>, ReportError> {
    let mut directions = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path
            .extension()
            .is_none_or(|extension| extension != "safetensors")
        {
            continue;
        }
        let bytes = files::read(&path, files::DATA_BYTES)
            .map_err(|error| ReportError::unreadable(&path, error))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)
            .map_err(|error| ReportError::unreadable(&path, error))?;
        let tensor = tensors
            .tensor("direction")
            .map_err(|error| ReportError::unreadable(&path, error))?;
        let values = tensor
            .data()
            .chunks_exact(4)
            .map(|bytes| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        directions.insert(name, values.collect());
    }
    Ok(directions)
}
