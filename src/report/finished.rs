//! A run's folder as it is read: the manifest, the study's graph, and the tables.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files;
use crate::manifest::{FILE, Manifest, Node, Stage, StageStatus, file_stem};
use crate::stages::rules::rule_of;
use crate::stages::sweep::SweepFrame;
use crate::stages::{Artifacts, Product, StageError, read_parquet, read_parquet_parts};

use super::views::MainTable;
use super::{ReportError, Table};

#[derive(Clone, Debug)]
pub(crate) struct FinishedStage {
    pub(crate) name: String,
    /// The kind that it is shown as.
    pub(crate) kind: String,
    pub(crate) node: Node,
    /// What became of it; none where it was not run.
    pub(crate) result: Option<Stage>,
    /// Its tables by name, in the order written; the main one's name is empty.
    pub(crate) tables: Vec<(String, Table)>,
}

impl FinishedStage {
    pub(crate) fn is(&self, product: Product) -> bool {
        self.node.product == Some(product)
    }

    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        let mut tables = self.tables.iter();
        tables.find(|(n, _)| n == name).map(|(_, table)| table)
    }

    fn is_sweep(&self) -> bool {
        self.node.product.is_some_and(Product::is_sweep)
    }

    /// Its main table and those of further score rules, which are called as the rules.
    pub(crate) fn tables_by_rule(&self) -> impl Iterator<Item = (&str, &Table)> {
        let tables = self.tables.iter();
        let tables = tables.map(|(name, table)| (name.as_str(), table));
        tables.filter(|(name, table)| name.is_empty() || *name == rule_of(&table.frame))
    }

    /// Its steered scores by each score rule that it has read, if it is a sweep.
    pub(crate) fn sweeps(&self) -> impl Iterator<Item = SweepFrame<'_>> {
        let tables = self.tables_by_rule().filter(|_| self.is_sweep());
        tables.filter_map(|(_, table)| SweepFrame::read(&table.frame).ok())
    }

    pub(crate) fn status(&self) -> &'static str {
        let status = self.result.as_ref().and_then(|result| result.status);
        status.map_or("not run", StageStatus::name)
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.result.as_ref().map_or(0.0, |result| result.seconds)
    }

    pub(crate) fn findings(&self) -> &[String] {
        let findings = self.result.as_ref().map(|result| &result.findings);
        findings.map_or(&[], Vec::as_slice)
    }
}

/// A table with its name and that of its stage, and what is said of it.
type Shown<'a> = (
    &'a FinishedStage,
    &'static MainTable,
    &'a str,
    Cow<'a, Table>,
);

/// A run's folder, read.
#[derive(Clone, Debug)]
pub struct FinishedRun {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    /// The stages of the study, each after those it refers to.
    pub(crate) stages: Vec<FinishedStage>,
    /// Files of prompt sets that lie elsewhere than the manifest says.
    pub(crate) prompt_files: BTreeMap<String, PathBuf>,
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
        let file = path.join(FILE);
        let manifest = Manifest::read(path).map_err(ReportError::unreadable(&file))?;
        let manifest = manifest.ok_or_else(|| ReportError::NotARun(path.to_path_buf()))?;
        let run = FinishedRun::of(path, manifest);
        let checked = run.stages.iter().try_for_each(check_names);
        checked.map_err(ReportError::unreadable(&file))?;
        Ok(run)
    }

    /// Of a manifest, without tables.
    pub(super) fn of(path: &Path, manifest: Manifest) -> Self {
        let stage = |node: &Node| FinishedStage {
            name: node.name.clone(),
            kind: node.shown_as.clone(),
            node: node.clone(),
            result: manifest.stage(&node.name).cloned(),
            tables: Vec::new(),
        };
        FinishedRun {
            path: path.to_path_buf(),
            stages: manifest.graph.iter().map(stage).collect(),
            prompt_files: BTreeMap::new(),
            manifest,
        }
    }

    /// # Errors
    /// [`ReportError::Unreadable`] where a table is gone or damaged.
    pub(crate) fn load_tables(&mut self) -> Result<(), ReportError> {
        for stage in &mut self.stages {
            stage.tables = tables(&self.path, stage)?;
        }
        Ok(())
    }

    /// What a stage has left, as stages see it; its tables are read when they are asked for.
    pub(crate) fn artifacts(&self, stage: &FinishedStage) -> Artifacts {
        let mut artifacts = Artifacts::default();
        for (name, _) in &stage.tables {
            let path = table_path(&self.path, &stage.name, name);
            artifacts.add_table(name, move || {
                let bytes = files::read(&path, u64::MAX);
                read_parquet(bytes.map_err(|error| StageError::Data(error.to_string()))?)
            });
        }
        artifacts
    }

    pub(crate) fn stage(&self, name: &str) -> Option<&FinishedStage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Every stage of that product, in order.
    pub(crate) fn with(&self, product: Product) -> impl Iterator<Item = &FinishedStage> {
        self.stages.iter().filter(move |stage| stage.is(product))
    }

    /// The summary that describes a sweep by a score rule, and what it calls it (`steer`, `holdout`, …).
    pub(crate) fn described(&self, sweep: &str, rule: &str) -> Option<(&FinishedStage, &str)> {
        let is_by = |summary: &&FinishedStage| {
            let table = summary.table("");
            table.is_some_and(|table| rule_of(&table.frame) == rule)
        };
        let summaries = self.with(Product::Summary).filter(is_by);
        let edges = summaries.flat_map(|s| s.node.stages.iter().map(move |edge| (s, edge)));
        let of_sweep = edges.filter(|(_, edge)| edge.stage == sweep);
        let of_sweep = of_sweep.map(|(summary, edge)| (summary, edge.field.as_str()));
        of_sweep.min_by_key(|(summary, field)| (summary.name.as_str(), *field))
    }

    /// The tables that answer the study's question first.
    pub(crate) fn main_tables(&self) -> Vec<Shown<'_>> {
        let mut found = Vec::new();
        for stage in &self.stages {
            for (place, main) in stage.view().main_tables.iter().enumerate() {
                let tables = stage.tables.iter().filter(|(name, _)| main.is(name));
                let tables = tables.map(|(name, table)| (name.as_str(), main.of(table)));
                let tables = tables.filter(|(_, table)| table.height() > 0);
                found.extend(tables.map(|(name, table)| (place, (stage, main, name, table))));
            }
        }
        // One table of all stages, then the next.
        found.sort_by_key(|(place, (stage, ..))| (stage.node.product, *place));
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// What was found that is worth a reader's attention before all else.
    pub(crate) fn conclusions(&self) -> impl Iterator<Item = &String> {
        let concluding = self.stages.iter().filter(|stage| stage.view().concludes);
        concluding.flat_map(FinishedStage::findings)
    }

    pub(crate) fn study(&self) -> &str {
        match self.manifest.study.as_str() {
            "" => "study",
            name => name,
        }
    }
}

/// Checks that a stage's name and those of its tables can name files in the run's folder, and none elsewhere.
fn check_names(stage: &FinishedStage) -> Result<(), String> {
    let tables = stage.result.iter().flat_map(|result| &result.tables);
    let mut names = [&stage.name]
        .into_iter()
        .chain(tables.map(|table| &table.name));
    match names.find(|name| !files::is_plain_name(name)) {
        Some(name) => Err(format!("`{name}` cannot be the name of a stage or a table")),
        None => Ok(()),
    }
}

fn table_path(folder: &Path, stage: &str, table: &str) -> PathBuf {
    let file = format!("{}.parquet", file_stem(stage, table));
    folder.join("tables").join(file)
}

/// Reads the tables that the manifest lists; the Parquet, which keeps types.
fn tables(folder: &Path, stage: &FinishedStage) -> Result<Vec<(String, Table)>, ReportError> {
    let mut tables = Vec::new();
    for entry in stage.result.iter().flat_map(|result| &result.tables) {
        let path = table_path(folder, &stage.name, &entry.name);
        let bytes = files::read(&path, u64::MAX).map_err(ReportError::unreadable(&path))?;
        let mut table = Table::default();
        let mut read = read_parquet_parts(bytes, &mut |part| Ok(table.append(part)?));
        if entry.name.is_empty() && stage.is_sweep() {
            read = read.and_then(|()| SweepFrame::read(&table.frame).map(|_| ()));
        }
        read.map_err(ReportError::unreadable(&path))?;
        tables.push((entry.name.clone(), table));
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            let stages = json!([{ "name": stage, "kind": "score", "tables": [{ "name": table }] }]);
            for manifest in [
                json!({ "study": "s", "stages": stages }),
                json!({ "format": 2, "stages": stages, "graph": [{ "name": stage }] }),
            ] {
                let folder = tempfile::tempdir().unwrap();
                std::fs::write(folder.path().join(FILE), manifest.to_string()).unwrap();
                match FinishedRun::open(folder.path()) {
                    Ok(_) => assert!(is_sound, "{manifest}"),
                    Err(error) => {
                        let error = error.to_string();
                        assert!(!is_sound && error.contains("cannot be the name"), "{error}");
                    }
                }
            }
        }
    }
}
