//! One side of a comparison: a run, a folder of tables, or a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use safetensors::SafeTensors;

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
            match is_direction(&file) {
                true => side.directions.extend(direction(&file)?),
                false => side.measurements.extend(of_file(&file)?),
            }
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
            let view = stage.view();
            for name in view.compared_apart {
                let found = stage.table(name).map(|table| {
                    let kind = format!("{} {name}", stage.kind);
                    Measurements::of(&kind, &file_stem(&stage.name, name), table)
                });
                side.measurements.extend(found);
            }
            let compared = view.compared.iter().copied();
            let further = stage.tables_by_rule().map(|(name, _)| name);
            let further = further.filter(|name| !name.is_empty());
            let names = compared.chain(further);
            for (name, table) in names.filter_map(|name| Some((name, stage.table(name)?))) {
                let stem = file_stem(&stage.name, name);
                let found = Measurements::of(&stage.kind, &stem, table);
                side.measurements.push(found);
            }
        }
        Ok(side)
    }

    pub(super) fn contents(&self) -> String {
        let tables = self.measurements.iter();
        let names = tables.map(|table| format!("{} `{}`", table.kind, table.name));
        let directions = self.directions.keys();
        let directions = directions.map(|name| format!("direction `{name}`"));
        let all: Vec<String> = names.chain(directions).collect();
        match all.is_empty() {
            true => "no table that is known".to_string(),
            false => all.join(", "),
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
    let text = files::read_text(path, files::DATA_BYTES).map_err(ReportError::unreadable(path))?;
    let published = published_table(kind, &name, &text).map_err(ReportError::unreadable(path))?;
    let table = match published {
        Some(published) => Table::of(&published).map_err(ReportError::unreadable(path))?,
        None => Table::from_csv(&text, &path.display().to_string())?,
    };
    Ok(Some(Measurements::of(kind, &name, &table)))
}

/// The tables in a folder, or the file itself.
fn files(path: &Path) -> Result<Vec<PathBuf>, ReportError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let expected = "expected a run's folder, a folder of tables, a CSV or JSON file, or a direction's safetensors";
    let entries = std::fs::read_dir(path)
        .map_err(|error| ReportError::unreadable(path)(format!("{error}; {expected}")))?;
    let is_table = |path: &PathBuf| {
        let extension = path.extension();
        let is_known = extension.is_some_and(|e| e == "csv" || e == "json" || e == "safetensors");
        is_known && path.is_file()
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(is_table)
        .collect();
    files.sort();
    Ok(files)
}

/// The resolved study as it is written, a line for every value; none of it where it is not there, or holds what a study may not hold.
fn parameters(run: &FinishedRun) -> BTreeMap<String, String> {
    fn walk(path: &str, node: &spec::Node, into: &mut BTreeMap<String, String>) {
        let Some(fields) = node.as_table() else {
            let text = serde_json::to_string(node).unwrap_or_default();
            into.insert(path.to_string(), text);
            return;
        };
        for (key, node) in fields.iter() {
            match path {
                "" => walk(&key.name, node, into),
                path => walk(&format!("{path}.{}", key.name), node, into),
            }
        }
    }
    let mut parameters = BTreeMap::new();
    let name = Path::new("resolved.yaml");
    let text = files::read_text(&run.path.join(name), files::SETTINGS_BYTES).unwrap_or_default();
    if let Ok(study) = spec::load_text(name, &text, &[]) {
        walk("", &study.root, &mut parameters);
    }
    let manifest = &run.manifest;
    for (name, model) in &manifest.models {
        let content = model.fingerprint.clone();
        parameters.insert(format!("models.{name} (content)"), content);
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

/// The directions of a run; none where it has no such folder.
fn directions(folder: &Path) -> Result<BTreeMap<String, Vec<f64>>, ReportError> {
    let mut directions = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if is_direction(&path) {
            directions.extend(direction(&path)?);
        }
    }
    Ok(directions)
}

fn is_direction(path: &Path) -> bool {
    path.extension() == Some("safetensors".as_ref())
}

/// The direction in a file, with the file's name; none of a file of other tensors.
fn direction(path: &Path) -> Result<Option<(String, Vec<f64>)>, ReportError> {
    let bytes = files::read(path, files::DATA_BYTES).map_err(ReportError::unreadable(path))?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(ReportError::unreadable(path))?;
    let Ok(tensor) = tensors.tensor("direction") else {
        return Ok(None);
    };
    let words = tensor.data().as_chunks::<4>().0.iter();
    let values = words.map(|word| f64::from(f32::from_le_bytes(*word)));
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(Some((name.into_owned(), values.collect())))
}

/// The names of directions that belong together: equal ones, and of the others those that say the same layer and seed where no more of either
/// side do.
pub(super) fn pairs<'a>(left: &'a Side, right: &'a Side) -> Vec<(&'a String, &'a String)> {
    let (left, right) = (&left.directions, &right.directions);
    let equal = left
        .keys()
        .filter_map(|name| Some((name, right.get_key_value(name)?.0)));
    let mut pairs: Vec<(&String, &String)> = equal.collect();
    let rest_left: Vec<&String> = left.keys().filter(|n| !right.contains_key(*n)).collect();
    let rest_right: Vec<&String> = right.keys().filter(|n| !left.contains_key(*n)).collect();
    for name in &rest_left {
        let Some(place) = place(name) else { continue };
        let of_place = |names: &[&'a String]| -> Vec<&'a String> {
            let of_place = names.iter().filter(|name| self::place(name) == Some(place));
            of_place.copied().collect()
        };
        if let ([_], [other]) = (
            of_place(&rest_left).as_slice(),
            of_place(&rest_right).as_slice(),
        ) {
            pairs.push((name, other));
        }
    }
    pairs
}

/// The layer and the seed that the name of a file says (`direction.layer20.resid_pre.seed0`, `direction_l20`); none without a layer.
fn place(name: &str) -> Option<(u64, Option<u64>)> {
    let number = |word: &str| -> Option<u64> {
        let pattern = format!(r"(?:^|[._-]){word}[._-]?(\d+)");
        let found = Regex::new(&pattern).ok()?.captures(name)?;
        found.get(1)?.as_str().parse().ok()
    };
    Some((number("l(?:ayer)?")?, number("seed")))
}
