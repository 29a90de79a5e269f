//! The run's folder: what a person reads, and what a reviewer is given.
//!
//! ```text
//! runs/<study>/latest                    → the newest run
//! runs/<study>/<time>-<key>/
//!     study.toml (or .yaml)              the file as given
//!     extends/<file>                     the files that it extends, as given; 2-<file> for another of that name
//!     resolved.yaml                      the study with includes and overrides applied
//!     study.lock                         what the study names, as it was found: commits, files, hashes, versions
//!     run.json                           the manifest: versions, device, keys, statuses, times
//!     tables/<stage>[.<table>].csv       and .parquet
//!     directions/<stage>.layer<l>.<site>[.seed<s>].safetensors and .json
//!     tensors/<stage>[.<name>].safetensors       arrays that a stage leaves for other programs
//!     log.jsonl                          what happened, by time
//!     report.html, figures/              written by `report` when the run has ended
//! ```

mod inputs;

pub(crate) use inputs::models as manifest_models;
mod on_disk;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value as Json, json};

use crate::cache::{Cache, CacheError, Key};
use crate::files;
use crate::manifest::{self, Manifest, RunStatus, Stage, Table};
use crate::model::Provenance;
use crate::plan::{Lock, StageRecord, StageSpec, Study, TableRecord, study_key};
use crate::stages::{Inputs, StageError};

use super::{Options, RunReport, StageReport};

use on_disk::{OnDisk, new_folder, point_latest};

/// How often it is written down how far the stage in hand is.
const WRITTEN_EVERY: Duration = Duration::from_secs(2);

/// A run's folder while the run goes on.
pub(super) struct RunFolder {
    pub(super) disk: OnDisk,
    manifest: Manifest,
    /// When it was last written down how far the stage in hand is.
    progress_written: Option<Instant>,
}

impl RunFolder {
    /// Makes the folder and writes what is known before anything runs.
    pub(super) fn create(
        study: &Study,
        inputs: &Inputs,
        (cache, options, wanted): (&Path, &Options, &BTreeSet<String>),
    ) -> Result<Self, CacheError> {
        let key = study_key(study, inputs);
        let of_study = options.runs.join(&study.name);
        let (started, path) = new_folder(&of_study, Timestamp::now(), &key)?;
        let absolute = |path: &Path| std::path::absolute(path).ok().map(files::text_of);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let planned = study.stages.iter().map(|stage| &stage.name);
        let planned = planned.filter(|name| wanted.contains(*name));
        let given = inputs::given(study);
        let copies = given.iter();
        let manifest = Manifest {
            format: manifest::FORMAT,
            study: study.name.clone(),
            run: format!("{}/{name}", study.name),
            question: study.question.clone(),
            status: Some(RunStatus::Running),
            started: started.to_string(),
            key: key.to_string(),
            command: options.command.clone(),
            directory: std::env::current_dir().ok().map(files::text_of),
            cache: absolute(cache),
            files: copies
                .map(|(copy, from, _)| (copy.clone(), absolute(from)))
                .collect(),
            overrides: study.document.sources.overrides().map(Into::into).collect(),
            memory_bytes: options.prefix_bytes.map(|bytes| bytes as u64),
            provenance: Provenance::here(options.device),
            models: inputs::models(study, inputs),
            prompts: inputs::prompts(study, inputs, &path),
            findings: inputs.findings.clone(),
            graph: manifest::graph(study),
            planned: Some(planned.cloned().collect()),
            ..Manifest::default()
        };
        let mut run = RunFolder {
            disk: OnDisk::open(path.clone())?,
            manifest,
            progress_written: None,
        };
        for (copy, _, text) in given {
            run.disk.write(copy.into(), text.as_bytes())?;
        }
        let yaml = inputs::resolved_yaml(study, &path)
            .unwrap_or_else(|error| format!("# not written: {error}\n"));
        run.disk.write("resolved.yaml".into(), yaml.as_bytes())?;
        if let Some(text) = locked(study, inputs, options) {
            run.disk.write("study.lock".into(), text.as_bytes())?;
        }
        run.write_manifest()?;
        point_latest(&of_study, &path)?;
        Ok(run)
    }

    /// What the packs of a stage say of where they come from.
    pub(super) fn origin(&self, spec: &StageSpec) -> Json {
        json!({ "stage": spec.name, "kind": spec.kind.name, "run": self.manifest.run })
    }

    /// Writes down how far the run has got, before a stage that may take long.
    pub(super) fn stage_computes(&mut self, name: &str) -> Result<(), CacheError> {
        self.progress_written = None;
        self.manifest.cells_in_hand = None;
        self.manifest.computing = Some(name.to_string());
        self.write_manifest()
    }

    /// Writes down how many cells of how many the stage in hand has by now; seldom, as it may be asked to often. Whether the folder is
    /// there to write it in.
    pub(super) fn stage_has(&mut self, done: usize, total: usize) -> bool {
        let written = self.progress_written;
        if written.is_some_and(|written| written.elapsed() < WRITTEN_EVERY) {
            return true;
        }
        self.progress_written = Some(Instant::now());
        self.manifest.cells_in_hand = Some((done as u64, total as u64));
        // What is lost is a number on a screen.
        match self.write_manifest() {
            Err(CacheError::Vanished { .. }) => return false,
            Err(error) => tracing::debug!("{error}"),
            Ok(()) => {}
        }
        true
    }

    /// Forgets the stages that are done: they are gone through once more.
    pub(super) fn start_over(&mut self) {
        self.manifest.stages.clear();
    }

    /// Copies a stage's tables, directions and arrays out of the cache, which checks each. Whether all were there and whole.
    pub(super) fn copy_artifacts(
        &mut self,
        name: &str,
        record: &StageRecord,
        cache: &Cache,
    ) -> Result<bool, CacheError> {
        for table in &record.tables {
            let stem = manifest::file_stem(name, &table.name);
            for (key, suffix) in [(&table.csv, "csv"), (&table.parquet, "parquet")] {
                let file = format!("tables/{stem}.{suffix}");
                if !self.disk.copy(cache, key, file.into())? {
                    return Ok(false);
                }
            }
        }
        for (tensors, description) in &record.directions {
            for artifact in [tensors, description] {
                let file = format!("directions/{name}.{}", artifact.file);
                if !self.disk.copy(cache, &artifact.key, file.into())? {
                    return Ok(false);
                }
            }
        }
        for artifact in &record.tensors {
            let file = format!("tensors/{name}.{}", artifact.file);
            if !self.disk.copy(cache, &artifact.key, file.into())? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes down a stage whose artifacts are in the folder.
    pub(super) fn add_stage(&mut self, key: &Key, record: &StageRecord, report: &StageReport) {
        let table = |record: &TableRecord| Table {
            name: record.name.clone(),
            rows: record.rows as u64,
            csv: Some(record.csv),
            parquet: Some(record.parquet),
        };
        let mut stage = Stage {
            key: Some(*key),
            inputs: record.key_parts.clone(),
            findings: record.findings.clone(),
            tables: record.tables.iter().map(table).collect(),
            seconds_when_computed: Some(record.seconds),
            ..Stage::default()
        };
        ended(&mut stage, report);
        self.manifest.stages.push(stage);
        self.manifest.cells_in_hand = None;
    }

    /// Writes how it ended.
    ///
    /// # Errors
    /// [`CacheError::Vanished`] where the folder, or a file of it, is not there any more: that run has failed, however well its stages went.
    pub(super) fn finish(&mut self, report: &RunReport) -> Result<(), CacheError> {
        self.disk.check_is_there()?;
        let missing = self.disk.missing();
        for of_stage in &report.stages {
            let stages = &mut self.manifest.stages;
            let place = stages.iter().position(|s| s.name == of_stage.name);
            let place = place.unwrap_or_else(|| {
                stages.push(Stage::default());
                stages.len() - 1
            });
            ended(&mut stages[place], of_stage);
        }
        self.manifest.status = Some(match (report.failures.last(), &missing) {
            (None, None) => RunStatus::Complete,
            (Some((_, StageError::Interrupted)), None) => RunStatus::Interrupted,
            _ => RunStatus::Failed,
        });
        let failures = report.failures.iter();
        let failures = failures.map(|(stage, error)| format!("stage `{stage}`: {error}"));
        let errors: Vec<String> = failures
            .chain(missing.as_ref().map(ToString::to_string))
            .collect();
        self.manifest.error = (!errors.is_empty()).then(|| errors.join("\n"));
        self.manifest.computing = None;
        self.manifest.cells_in_hand = None;
        self.manifest.seconds = Some(report.seconds);
        self.manifest.equivalent_forward_passes = Some(report.equivalent_forward_passes);
        self.write_manifest()?;
        // Whoever clears a folder may have done so under the last write, which makes what is missing.
        self.disk.check_is_there()?;
        missing.map_or(Ok(()), Err)
    }

    /// Writes `run.json`, whole: one that has been deleted is there again.
    fn write_manifest(&self) -> Result<(), CacheError> {
        let mut text = serde_json::to_vec_pretty(&self.manifest).map_err(CacheError::Encode)?;
        text.push(b'\n');
        self.disk.rewrite(manifest::FILE, &text)
    }
}

/// The text of the study's lock; none, which is told, where a file of a model has gone since it was opened: the run itself does without.
fn locked(study: &Study, inputs: &Inputs, options: &Options) -> Option<String> {
    let lock = Lock::of(study, inputs, options.device).map_err(|error| error.to_string());
    let text = lock.and_then(|lock| lock.to_text());
    text.inspect_err(|error| tracing::warn!("no `study.lock` is written: {error}"))
        .ok()
}

/// Writes down what became of a stage.
fn ended(stage: &mut Stage, report: &StageReport) {
    stage.name = report.name.clone();
    stage.kind = report.kind.to_string();
    stage.status = Some(report.status);
    stage.seconds = report.seconds;
    stage.cells_computed = report.cells_computed;
    stage.cells_cached = report.cells_cached;
    stage.cells_shared.clone_from(&report.cells_shared);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_at(path: &Path) -> RunFolder {
        std::fs::create_dir_all(path).unwrap();
        RunFolder {
            disk: OnDisk::open(path.to_path_buf()).unwrap(),
            manifest: Manifest::default(),
            progress_written: None,
        }
    }

    #[test]
    fn a_folder_that_is_not_the_one_that_was_made_is_not_written_into() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("run");
        let mut folder = folder_at(&path);
        folder.disk.write("tables/a.csv".into(), b"a").unwrap();
        std::fs::rename(&path, above.path().join("moved")).unwrap();
        let is_vanished = |result: Result<(), CacheError>| matches!(result, Err(CacheError::Vanished { files, .. }) if files.is_empty());
        assert!(is_vanished(folder.disk.write("tables/b.csv".into(), b"b")));
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        assert!(is_vanished(folder.write_manifest()));
        assert!(!folder.stage_has(1, 2));
        let report = RunReport::default();
        assert!(is_vanished(folder.finish(&report)));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_gone_in_the_end_are_named_and_the_run_has_failed() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("run");
        let mut folder = folder_at(&path);
        std::fs::write(path.join("log.jsonl"), "").unwrap();
        folder.disk.expect("log.jsonl");
        folder.disk.expect("never-there");
        folder.disk.write("tables/a.csv".into(), b"a").unwrap();
        let report = RunReport::default();
        folder.finish(&report).unwrap();
        assert_eq!(folder.manifest.status, Some(RunStatus::Complete));
        std::fs::remove_dir_all(path.join("tables")).unwrap();
        std::fs::remove_file(path.join("run.json")).unwrap();
        let error = folder.finish(&report).unwrap_err().to_string();
        assert!(error.contains("run/tables/a.csv` was deleted"), "{error}");
        let manifest = std::fs::read_to_string(path.join("run.json")).unwrap();
        assert!(manifest.contains("\"status\": \"failed\""), "{manifest}");
    }
}
