//! The run's folder: what a person reads, and what a reviewer is given.
//!
//! ```text
//! runs/<study>/latest                    → the newest run
//! runs/<study>/<time>-<key>/
//!     study.toml (or .yaml)              the file as given
//!     extends/<file>                     the files that it extends, as given; 2-<file> for another of that name
//!     resolved.yaml                      the study with includes and overrides applied
//!     run.json                           versions, device, keys, statuses, times
//!     tables/<stage>[.<table>].csv       and .parquet
//!     directions/<stage>.layer<l>.<site>[.seed<s>].safetensors and .json
//!     log.jsonl                          what happened, by time
//!     report.html, figures/              written by `report` when the run has ended
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{Timestamp, ToSpan};
use serde_json::{Value as Json, json};

use crate::cache::{Cache, CacheError, Key, write_atomically};
use crate::files;
use crate::model::{ModelHandle, Provenance};
use crate::plan::{StageRecord, StageSpec, Study, study_key};
use crate::stages::Inputs;

use super::{Options, RunReport, StageReport};

/// A run's folder while the run goes on.
pub(super) struct RunFolder {
    path: PathBuf,
    /// The folder itself, whatever becomes of its name.
    handle: File,
    /// The files that have been written, as paths in the folder.
    written: BTreeSet<PathBuf>,
    manifest: Json,
    stages: Vec<Json>,
    /// When it was last written down how far the stage in hand is.
    told: Option<Instant>,
}

/// Bytes of the name of an extended file that its copy keeps.
const LONGEST_COPY: usize = 200;
/// How often it is written down how far the stage in hand is.
const TOLD_EVERY: Duration = Duration::from_secs(2);

impl RunFolder {
    /// Makes the folder and writes what is known before anything runs.
    pub(super) fn create(
        study: &Study,
        inputs: &Inputs,
        (cache, options, wanted): (&Path, &Options, &BTreeSet<String>),
    ) -> Result<Self, CacheError> {
        let now = Timestamp::now();
        let key = study_key(study, inputs);
        let of_study = options.runs.join(&study.name);
        let (now, path) = new_folder(&of_study, now, &key)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let handle = File::open(&path).map_err(|source| CacheError::Io {
            operation: "open the folder",
            path: path.clone(),
            source,
        })?;
        let mut folder = RunFolder {
            manifest: json!({
                "study": study.name,
                "run": format!("{}/{name}", study.name),
                "files": given(study).into_iter().map(|(copy, from, _)| (copy, std::path::absolute(from).ok().map(files::text_of))).collect::<BTreeMap<_, _>>(),
                "question": study.question,
                "overrides": study.document.sources.overrides().collect::<Vec<_>>(),
                "key": key.to_string(),
                "started": now.to_string(),
                "status": "running",
                "command": options.command,
                "directory": std::env::current_dir().ok().map(files::text_of),
                "cache": std::path::absolute(cache).ok().map(files::text_of),
                "planned": study.stages.iter().map(|s| &s.name).filter(|name| wanted.contains(*name)).collect::<Vec<_>>(),
                "provenance": Provenance::here(options.device),
                "memory_bytes": options.prefix_bytes,
                "models": models(study, inputs),
                "prompts": prompts(study, inputs),
                "findings": inputs.findings,
            }),
            stages: Vec::new(),
            told: None,
            written: BTreeSet::new(),
            handle,
            path: path.clone(),
        };
        for (copy, _, text) in given(study) {
            folder.write(copy.into(), text.as_bytes())?;
        }
        let yaml =
            resolved_yaml(study, &path).unwrap_or_else(|error| format!("# not written: {error}\n"));
        folder.write("resolved.yaml".into(), yaml.as_bytes())?;
        folder.write_manifest()?;
        point_latest(&of_study, &folder.path)?;
        Ok(folder)
    }

    /// What the packs of a stage say of where they come from.
    pub(super) fn origin(&self, spec: &StageSpec) -> Json {
        json!({ "stage": spec.name, "kind": spec.kind.name, "run": self.manifest["run"] })
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails where the folder's name does not lead to it any more. Nothing is written then: it would be a part of a run, in a place that
    /// somebody has cleared.
    pub(super) fn check_is_there(&self) -> Result<(), CacheError> {
        let which = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        match (self.handle.metadata(), self.path.metadata()) {
            (Ok(made), Ok(named)) if which(&made) == which(&named) => Ok(()),
            _ => Err(self.vanished(Vec::new())),
        }
    }

    fn vanished(&self, files: Vec<PathBuf>) -> CacheError {
        CacheError::Vanished {
            run: self.path.clone(),
            files,
        }
    }

    /// Counts a file that somebody else keeps in the folder, if there is one, among those that must be there in the end.
    pub(super) fn expect(&mut self, file: &str) {
        if self.path.join(file).is_file() {
            self.written.insert(file.into());
        }
    }

    fn write(&mut self, file: PathBuf, bytes: &[u8]) -> Result<(), CacheError> {
        self.check_is_there()?;
        write_atomically(&self.path.join(&file), bytes)?;
        self.written.insert(file);
        Ok(())
    }

    /// Copies an artifact out of the cache.
    fn copy(&mut self, cache: &Cache, key: &Key, file: PathBuf) -> Result<(), CacheError> {
        self.check_is_there()?;
        let to = self.path.join(&file);
        if !cache.copy_object_to(key, &to)? {
            return Err(CacheError::Gone { to });
        }
        self.written.insert(file);
        Ok(())
    }

    /// Writes down how far the run has got, before a stage that may take long.
    pub(super) fn stage_computes(&mut self, name: &str) -> Result<(), CacheError> {
        self.told = None;
        self.manifest["cells_in_hand"] = Json::Null;
        self.manifest["computing"] = json!(name);
        self.manifest["stages"] = json!(self.stages);
        self.write_manifest()
    }

    /// Writes down how many cells of how many the stage in hand has by now; seldom, as it may be asked to often. Whether the folder is
    /// there to write it in.
    pub(super) fn stage_has(&mut self, done: usize, total: usize) -> bool {
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return true;
        }
        self.told = Some(Instant::now());
        self.manifest["cells_in_hand"] = json!([done, total]);
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
        self.stages.clear();
    }

    /// Copies a stage's tables and directions out of the cache.
    pub(super) fn add_stage(
        &mut self,
        name: &str,
        key: &Key,
        record: &StageRecord,
        (report, cache): (&StageReport, &Cache),
    ) -> Result<(), CacheError> {
        for table in &record.tables {
            let stem = if table.name.is_empty() {
                name.to_string()
            } else {
                format!("{name}.{}", table.name)
            };
            for (key, suffix) in [(&table.csv, "csv"), (&table.parquet, "parquet")] {
                self.copy(cache, key, format!("tables/{stem}.{suffix}").into())?;
            }
        }
        for (tensors, description) in &record.directions {
            for artifact in [tensors, description] {
                let file = format!("directions/{name}.{}", artifact.file);
                self.copy(cache, &artifact.key, file.into())?;
            }
        }
        self.stages.push(json!({
            "name": name,
            "key": key.to_string(),
            "inputs": record.key_parts,
            "findings": record.findings,
            "tables": record.tables,
            "seconds_when_computed": record.seconds,
            "status": report.status,
            "cells_computed": report.cells_computed,
            "cells_cached": report.cells_cached,
        }));
        self.manifest["cells_in_hand"] = Json::Null;
        Ok(())
    }

    /// Writes how it ended.
    ///
    /// # Errors
    /// [`CacheError::Vanished`] where the folder, or a file of it, is not there any more: that run has failed, however well its stages went.
    pub(super) fn finish(&mut self, report: &RunReport) -> Result<(), CacheError> {
        self.check_is_there()?;
        let files = self.written.iter();
        let gone = files.filter(|file| !self.path.join(file).is_file());
        let gone: Vec<PathBuf> = gone.cloned().collect();
        let vanished = (!gone.is_empty()).then(|| self.vanished(gone));
        for stage in &report.stages {
            let of_stage = self
                .stages
                .iter_mut()
                .find(|s| s["name"] == stage.name.as_str());
            let report = serde_json::to_value(stage).unwrap_or_default();
            match (of_stage, report) {
                (Some(Json::Object(entry)), Json::Object(report)) => entry.extend(report),
                (None, report) => self.stages.push(report),
                _ => {}
            }
        }
        self.manifest["status"] = match (report.failures.last(), &vanished) {
            (None, None) => json!("complete"),
            (Some((_, crate::stages::StageError::Interrupted)), None) => json!("interrupted"),
            _ => json!("failed"),
        };
        let told = report.failures.iter();
        let told = told.map(|(stage, error)| format!("stage `{stage}`: {error}"));
        let told: Vec<String> = told
            .chain(vanished.as_ref().map(ToString::to_string))
            .collect();
        self.manifest["error"] = json!((!told.is_empty()).then(|| told.join("\n")));
        self.manifest["computing"] = Json::Null;
        self.manifest["cells_in_hand"] = Json::Null;
        self.manifest["seconds"] = json!(report.seconds);
        self.manifest["equivalent_forward_passes"] = json!(report.equivalent_forward_passes);
        self.manifest["stages"] = json!(self.stages);
        self.write_manifest()?;
        // Whoever clears a folder may have done so under the last write, which makes what is missing.
        self.check_is_there()?;
        vanished.map_or(Ok(()), Err)
    }

    /// Writes `run.json`, whole: one that has been deleted is there again.
    fn write_manifest(&self) -> Result<(), CacheError> {
        let mut text = serde_json::to_vec_pretty(&self.manifest).map_err(CacheError::Encode)?;
        text.push(b'\n');
        self.check_is_there()?;
        write_atomically(&self.path.join("run.json"), &text)
    }
}

/// The study's file and those that it extends: the copy's path in a run's folder, the file's own, and the text as it was read.
fn given(study: &Study) -> Vec<(String, &Path, &str)> {
    let mut given: Vec<(String, &Path, &str)> = Vec::new();
    for (path, text) in study.document.sources.files() {
        let extension = path.extension().and_then(|extension| extension.to_str());
        let extension = extension.unwrap_or("toml");
        if given.is_empty() {
            given.push((format!("study.{extension}"), path, text));
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // A number before it must not make it longer than a name can be.
        let name = match name.len() > LONGEST_COPY {
            true => format!("extended.{extension}").into(),
            false => name,
        };
        // Files of one name may lie in several folders.
        let is_new = |copy: &String| given.iter().all(|(other, _, _)| other != copy);
        let mut copies = (1..).map(|number| match number {
            1 => format!("extends/{name}"),
            number => format!("extends/{number}-{name}"),
        });
        let copy = copies.find(is_new).unwrap_or_default();
        given.push((copy, path, text));
    }
    given
}

/// The study as resolved, with paths that start from the run's folder, so that this file can be run as it stands.
fn resolved_yaml(study: &Study, folder: &Path) -> Result<String, serde_yaml::Error> {
    let mut root = serde_yaml::to_value(&study.document.root)?;
    // Where the file says none, its own name is the study's.
    if let serde_yaml::Value::Mapping(root) = &mut root {
        let section = root
            .entry("study".into())
            .or_insert_with(|| serde_yaml::Mapping::new().into());
        if let serde_yaml::Value::Mapping(section) = section {
            section
                .entry("name".into())
                .or_insert_with(|| study.name.clone().into());
        }
    }
    for (fields, path) in study.paths() {
        if let Some(path) = relative(folder, &path) {
            // All above a field that was read are tables; a section that was left out becomes one.
            let at = fields.iter().fold(&mut root, |at, field| &mut at[*field]);
            *at = path.unwrap_or_else(|path| named_in_vain(&path)).into();
        }
    }
    serde_yaml::to_string(&root)
}

/// What stands in YAML for a path that is not UTF-8 from the run's folder on, which YAML cannot hold: shown, with a warning.
fn named_in_vain(path: &Path) -> String {
    tracing::warn!(
        "`{}` is not UTF-8, so that `resolved.yaml` cannot name it; to run the study again, use its own file",
        path.display()
    );
    path.display().to_string()
}

/// `path` as seen from `folder`, as text where it is UTF-8; none where either is not there. A link keeps its own name, which may say what
/// kind of file it is.
fn relative(folder: &Path, path: &Path) -> Option<Result<String, PathBuf>> {
    let folder = folder.canonicalize().ok()?;
    let path = match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent != Path::new("") => {
            parent.canonicalize().ok()?.join(name)
        }
        _ => std::path::absolute(path).ok()?,
    };
    if !path.exists() {
        return None;
    }
    let shared = folder
        .components()
        .zip(path.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = folder.components().skip(shared).map(|_| "..".as_ref());
    let down = path.components().skip(shared).map(|part| part.as_os_str());
    let joined: PathBuf = up
        .chain(down)
        .collect::<Vec<&std::ffi::OsStr>>()
        .iter()
        .collect();
    Some(joined.into_os_string().into_string().map_err(PathBuf::from))
}

fn models(study: &Study, inputs: &Inputs) -> Json {
    let models = inputs.models.iter().map(|(name, model)| {
        let source = study.models.get(name).map(|m| m.source.value.clone());
        let entry = json!({
            "source": source,
            "dtype": model.dtype().name(),
            "fingerprint": model.fingerprint().to_hex().to_string(),
            "config": model.config(),
            "end_of_text": model.end_of_text(),
            "example": example(name, model, study, inputs),
        });
        (name.clone(), entry)
    });
    Json::Object(models.collect())
}

/// Characters of a rendered prompt that are shown.
const EXAMPLE_CHARACTERS: usize = 4000;

/// The first prompt that a model is asked, as it reads it; null for one that is asked none.
fn example(name: &str, model: &ModelHandle, study: &Study, inputs: &Inputs) -> Json {
    let needs = study.stages.iter().map(|spec| spec.stage.needs());
    let mut asked = needs.filter(|needs| needs.models.iter().any(|model| model.value == name));
    let set = asked.find_map(|needs| needs.prompts.into_iter().next());
    let prompt = set.and_then(|set| {
        let prompt = inputs.prompts.get(&set.value)?.prompts.first()?;
        Some((set.value, prompt))
    });
    let Some((set, prompt)) = prompt else {
        return Json::Null;
    };
    match model.render(&prompt.text, &study.settings.chat) {
        Ok(mut text) => {
            if let Some((end, _)) = text.char_indices().nth(EXAMPLE_CHARACTERS) {
                text.truncate(end);
                text.push('…');
            }
            json!({ "prompts": set, "prompt": prompt.id, "rendered": text })
        }
        Err(error) => json!({ "prompts": set, "prompt": prompt.id, "error": error.to_string() }),
    }
}

fn prompts(study: &Study, inputs: &Inputs) -> Json {
    let sets = inputs.prompts.iter().map(|(name, set)| {
        let path = study.prompts.get(name).map(|p| files::text_of(&p.value));
        let counts: serde_json::Map<String, Json> =
            set.splits().into_iter().map(|s| (s.to_string(), json!(set.split(s).count()))).collect();
        let entry = json!({ "path": path, "content": set.content_hash().to_hex().to_string(), "splits": counts });
        (name.clone(), entry)
    });
    Json::Object(sets.collect())
}

/// Makes a folder that no other run has, named by its time and key: of two runs that start in one millisecond, the second takes the next.
fn new_folder(
    of_study: &Path,
    mut now: Timestamp,
    key: &Key,
) -> Result<(Timestamp, PathBuf), CacheError> {
    let failed = |path: &Path, source| CacheError::Io {
        operation: "create the folder",
        path: path.to_path_buf(),
        source,
    };
    std::fs::create_dir_all(of_study).map_err(|error| failed(of_study, error))?;
    loop {
        let time = now.strftime("%Y%m%dT%H%M%S%.3fZ");
        let path = of_study.join(format!("{time}-{}", &key.to_string()[..8]));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok((now, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => now += 1.millisecond(),
            Err(error) => return Err(failed(&path, error)),
        }
    }
}

/// Points `latest` at the run: a symbolic link made beside and renamed over the old one.
fn point_latest(of_study: &Path, run: &Path) -> Result<(), CacheError> {
    let (Some(name), latest) = (run.file_name(), of_study.join("latest")) else {
        return Ok(());
    };
    // A name of its own: another machine may have a process of the same number, and one that was killed may have left its link.
    let linked = tempfile::Builder::new()
        .prefix(".latest-")
        .make_in(of_study, |beside| std::os::unix::fs::symlink(name, beside))
        .and_then(|link| link.into_temp_path().persist(&latest).map_err(|e| e.error));
    linked.map_err(|source| CacheError::Io {
        operation: "point to the newest run",
        path: latest,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_at(path: &Path) -> RunFolder {
        std::fs::create_dir_all(path).unwrap();
        RunFolder {
            path: path.to_path_buf(),
            handle: File::open(path).unwrap(),
            written: BTreeSet::new(),
            manifest: json!({}),
            stages: Vec::new(),
            told: None,
        }
    }

    #[test]
    fn a_folder_that_is_not_the_one_that_was_made_is_not_written_into() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("run");
        let mut folder = folder_at(&path);
        folder.write("tables/a.csv".into(), b"a").unwrap();
        std::fs::rename(&path, above.path().join("moved")).unwrap();
        let is_vanished = |result: Result<(), CacheError>| matches!(result, Err(CacheError::Vanished { files, .. }) if files.is_empty());
        assert!(is_vanished(folder.write("tables/b.csv".into(), b"b")));
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        assert!(is_vanished(folder.write_manifest()));
        assert!(!folder.stage_has(1, 2));
        let report = RunReport::of(&folder);
        assert!(is_vanished(folder.finish(&report)));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn files_that_are_gone_in_the_end_are_named_and_the_run_has_failed() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("run");
        let mut folder = folder_at(&path);
        std::fs::write(path.join("log.jsonl"), "").unwrap();
        folder.expect("log.jsonl");
        folder.expect("never-there");
        folder.write("tables/a.csv".into(), b"a").unwrap();
        let report = RunReport::of(&folder);
        folder.finish(&report).unwrap();
        assert_eq!(folder.manifest["status"], "complete");
        std::fs::remove_dir_all(path.join("tables")).unwrap();
        std::fs::remove_file(path.join("run.json")).unwrap();
        let error = folder.finish(&report).unwrap_err().to_string();
        assert!(error.contains("run/tables/a.csv` was deleted"), "{error}");
        let manifest = std::fs::read_to_string(path.join("run.json")).unwrap();
        assert!(manifest.contains("\"status\": \"failed\""), "{manifest}");
    }

    #[test]
    fn runs_that_start_in_one_millisecond_have_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (now, key) = (Timestamp::now(), Key::of(b"study"));
        let (first, one) = new_folder(folder.path(), now, &key).unwrap();
        let (second, two) = new_folder(folder.path(), now, &key).unwrap();
        assert!(first < second);
        assert!(one < two, "the later one comes last");
        assert!(one.is_dir() && two.is_dir());
    }

    #[test]
    fn latest_points_to_the_newest_whatever_a_killed_run_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let left = format!(".latest-{}", std::process::id());
        std::os::unix::fs::symlink("gone", folder.path().join(left)).unwrap();
        for name in ["one", "two"] {
            point_latest(folder.path(), &folder.path().join(name)).unwrap();
            let target = std::fs::read_link(folder.path().join("latest")).unwrap();
            assert_eq!(target, Path::new(name));
        }
    }
}
