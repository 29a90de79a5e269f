//! A run's folder as it is read: the manifest, the study's graph, and the tables.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::files;
use crate::plan::Study;
use crate::spec::{self, Problems};
use crate::stages::read_parquet_parts;
use crate::stages::sweep::SweepFrame;

use super::{ReportError, Table};

/// A stage as the run left it.
#[derive(Clone, Debug)]
pub(crate) struct FinishedStage {
    /// Its name in the study.
    pub(crate) name: String,
    /// Name of its kind.
    pub(crate) kind: String,
    /// `cached`, `computed`, `failed`, `interrupted`, or `not run`.
    pub(crate) status: String,
    /// Wall time of this run, in seconds.
    pub(crate) seconds: f64,
    /// Names of the stages it refers to.
    pub(crate) after: Vec<String>,
    /// What the manifest says of it; null where it was not run.
    pub(crate) manifest: Json,
    /// Its tables by name, in the order written; the main one's name is empty.
    pub(crate) tables: Vec<(String, Table)>,
}

impl FinishedStage {
    /// The table of that name.
    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        let mut tables = self.tables.iter();
        tables.find(|(n, _)| n == name).map(|(_, table)| table)
    }

    fn is_sweep(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "steer" | "holdout" | "random" | "xstest"
        )
    }

    /// Its main table, if it is a sweep's.
    pub(crate) fn sweep(&self) -> Option<SweepFrame<'_>> {
        let table = self.table("").filter(|_| self.is_sweep())?;
        SweepFrame::read(table.frame()).ok()
    }

    /// Sentences worth a reader's attention.
    pub(crate) fn findings(&self) -> Vec<String> {
        let list = self.manifest["findings"].as_array();
        let texts = list.into_iter().flatten().filter_map(Json::as_str);
        texts.map(str::to_string).collect()
    }
}

/// A run's folder, read.
#[derive(Clone, Debug)]
pub struct FinishedRun {
    /// The folder.
    pub(crate) path: PathBuf,
    /// `run.json`.
    pub(crate) manifest: Json,
    /// `resolved.yaml`, or the reason why it could not be read as a study.
    pub(crate) resolved: String,
    /// The stages of the study, each after those it refers to.
    pub(crate) stages: Vec<FinishedStage>,
    /// Which stage a summary describes, by the summary's name and the kind of source (`steer`, `holdout`, …).
    pub(crate) sources: BTreeMap<(String, String), String>,
}

impl FinishedRun {
    /// Reads a run's folder (`runs/<study>/<time>-<key>` or `latest`).
    ///
    /// # Errors
    /// [`ReportError::NotARun`] where there is no `run.json`; [`ReportError::Unreadable`] where a file of the folder is damaged.
    pub fn read(path: &Path) -> Result<Self, ReportError> {
        let mut run = FinishedRun::open(path)?;
        run.load_tables()?;
        Ok(run)
    }

    /// The same without tables.
    ///
    /// # Errors
    /// As [`FinishedRun::read`].
    pub(crate) fn open(path: &Path) -> Result<Self, ReportError> {
        let manifest_path = path.join("run.json");
        let text = match files::read(&manifest_path, files::DATA_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ReportError::NotARun(path.to_path_buf()));
            }
            Err(error) => return Err(ReportError::unreadable(&manifest_path, error)),
        };
        let manifest: Json = serde_json::from_slice(&text)
            .map_err(|error| ReportError::unreadable(&manifest_path, error))?;
        let resolved = files::read_text(&path.join("resolved.yaml"), files::SETTINGS_BYTES);
        // What a study may not hold is not taken from a run's folder, either.
        let is_sound =
            |text: &String| spec::load_text(Path::new("resolved.yaml"), text, &[]).is_ok();
        let resolved = resolved.ok().filter(is_sound).unwrap_or_default();
        let stages = stages(&manifest, &resolved);
        stages
            .iter()
            .try_for_each(check_names)
            .map_err(|why| ReportError::unreadable(&manifest_path, why))?;
        Ok(FinishedRun {
            path: path.to_path_buf(),
            sources: sources(&resolved),
            stages,
            manifest,
            resolved,
        })
    }

    /// Reads the tables.
    ///
    /// # Errors
    /// [`ReportError::Unreadable`] where one is gone or damaged.
    pub(crate) fn load_tables(&mut self) -> Result<(), ReportError> {
        for stage in &mut self.stages {
            stage.tables = tables(&self.path, stage)?;
        }
        Ok(())
    }

    /// The stage of that name.
    pub(crate) fn stage(&self, name: &str) -> Option<&FinishedStage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Every stage of that kind, in order.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a FinishedStage> {
        self.stages.iter().filter(move |stage| stage.kind == kind)
    }

    /// The name of the study.
    pub(crate) fn study(&self) -> &str {
        self.manifest["study"].as_str().unwrap_or("study")
    }
}

/// Names, kinds and references of a study's stages, each after those it refers to.
pub(crate) fn graph(study: &Study) -> Vec<(String, &'static str, Vec<String>)> {
    let after = |stage: &dyn crate::stages::Stage| {
        let mut names: Vec<String> = Vec::new();
        for (name, _) in stage.needs().stages {
            if !names.contains(&name.value) {
                names.push(name.value);
            }
        }
        names
    };
    let of = |spec: &crate::plan::StageSpec| {
        (
            spec.name.clone(),
            spec.shown_as(),
            after(spec.stage.as_ref()),
        )
    };
    study.stages.iter().map(of).collect()
}

/// The stages of the resolved study, with what the manifest says of each; those of the manifest alone where the study cannot be read.
fn stages(manifest: &Json, resolved: &str) -> Vec<FinishedStage> {
    let said = manifest["stages"].as_array().cloned().unwrap_or_default();
    let named = |name: &str| said.iter().find(|stage| stage["name"] == name).cloned();
    let text = |value: &Json, key: &str| value[key].as_str().unwrap_or_default().to_string();
    let stage = |name: String, kind: String, after: Vec<String>, manifest: Json| FinishedStage {
        status: manifest["status"].as_str().unwrap_or("not run").to_string(),
        seconds: manifest["seconds"].as_f64().unwrap_or_default(),
        name,
        kind,
        after,
        manifest,
        tables: Vec::new(),
    };
    let mut problems = Problems::default();
    let document = spec::load_text(Path::new("resolved.yaml"), resolved, &[]).ok();
    let study = document.and_then(|document| Study::read(document, "study", &mut problems));
    match study {
        Some(study) if !study.stages.is_empty() => graph(&study)
            .into_iter()
            .map(|(name, kind, after)| {
                let manifest = named(&name).unwrap_or_default();
                stage(name, kind.to_string(), after, manifest)
            })
            .collect(),
        _ => said
            .iter()
            .map(|s| stage(text(s, "name"), text(s, "kind"), Vec::new(), s.clone()))
            .collect(),
    }
}

/// What each summary's `steer`, `holdout`, `random` and `xstest` name.
fn sources(resolved: &str) -> BTreeMap<(String, String), String> {
    let study: serde_yaml::Value = serde_yaml::from_str(resolved).unwrap_or_default();
    let stages = study.get("stages").and_then(|stages| stages.as_mapping());
    let mut sources = BTreeMap::new();
    for (name, stage) in stages.into_iter().flatten() {
        for source in ["steer", "holdout", "random", "xstest"] {
            if let (Some(name), Some(swept)) =
                (name.as_str(), stage.get(source).and_then(|v| v.as_str()))
            {
                sources.insert((name.to_string(), source.to_string()), swept.to_string());
            }
        }
    }
    sources
}

/// Checks that a stage's name and those of its tables can name files in the run's folder, and none elsewhere.
fn check_names(stage: &FinishedStage) -> Result<(), String> {
    let listed = stage.manifest["tables"].as_array().into_iter().flatten();
    let tables = listed.filter_map(|table| table["name"].as_str());
    let mut names = [stage.name.as_str()].into_iter().chain(tables);
    match names.find(|name| !files::is_plain_name(name)) {
        Some(name) => Err(format!("`{name}` cannot be the name of a stage or a table")),
        None => Ok(()),
    }
}

/// Reads the tables that the manifest lists; the Parquet, which keeps types.
fn tables(folder: &Path, stage: &FinishedStage) -> Result<Vec<(String, Table)>, ReportError> {
    let listed = stage.manifest["tables"].as_array().cloned();
    let mut tables = Vec::new();
    for entry in listed.unwrap_or_default() {
        let name = entry["name"].as_str().unwrap_or_default();
        let path = folder
            .join("tables")
            .join(format!("{}.parquet", file_stem(&stage.name, name)));
        let bytes =
            files::read(&path, u64::MAX).map_err(|error| ReportError::unreadable(&path, error))?;
        let mut table = Table::default();
        let mut read = read_parquet_parts(bytes, &mut |part| Ok(table.append(part)?));
        if name.is_empty() && stage.is_sweep() {
            read = read.and_then(|()| SweepFrame::read(table.frame()).map(|_| ()));
        }
        read.map_err(|error| ReportError::unreadable(&path, error))?;
        tables.push((name.to_string(), table));
    }
    Ok(tables)
}

/// The name of a table's files without the extension.
pub(crate) fn file_stem(stage: &str, table: &str) -> String {
    match table {
        "" => stage.to_string(),
        table => format!("{stage}.{table}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures and tables are written and read under these names.
    #[test]
    fn a_name_that_leads_out_of_the_folder_is_refused() {
        for (stage, table, is_sound) in [
            ("steer", "", true),
            ("steer-2_β", "means", true),
            ("../../other/tables/score", "", false),
            ("/score", "", false),
            ("..", "", false),
            ("score", "../score", false),
            ("score", "a\\b", false),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let manifest = serde_json::json!({
                "study": "s",
                "stages": [{ "name": stage, "kind": "score", "tables": [{ "name": table }] }],
            });
            std::fs::write(folder.path().join("run.json"), manifest.to_string()).unwrap();
            match FinishedRun::open(folder.path()) {
                Ok(_) => assert!(is_sound, "{stage} {table}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!is_sound && error.contains("cannot be the name"), "{error}");
                }
            }
        }
    }
}
