//! The runs there are, from the `run.json` of each, and whether those that say they are running are alive.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, User};
use crate::files;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunState {
    /// It is alive.
    Running,
    /// Every stage that it was to run gave its output.
    Complete,
    /// A stage failed.
    Failed,
    /// A person stopped it.
    Interrupted,
    /// It ended without saying so.
    Killed,
    /// Its `run.json` cannot be read.
    Unreadable,
}

/// A run as its folder tells.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Name of the study.
    pub(crate) study: String,
    /// Its folder.
    #[serde(serialize_with = "files::as_text::serialize")]
    pub(crate) run_dir: PathBuf,
    /// When it started, as RFC 3339 in UTC.
    pub(crate) started: String,
    /// How it stands.
    pub(crate) state: RunState,
    /// Stages that gave their output.
    pub(crate) stages_done: usize,
    /// Stages that it was to run.
    pub(crate) stages_planned: usize,
    /// The stages that it failed or stopped in, or that it is computing.
    pub(crate) stages_in_hand: Vec<String>,
    /// Distinct cells computed by the stages that ended.
    pub(crate) cells_computed: u64,
    /// Of the stage that is, or was, being computed: of its missing cells those that it had when that was last written down, and all of
    /// them. Cells are committed a little later.
    pub(crate) cells_in_hand: Option<(u64, u64)>,
    /// Wall time, in seconds, where it ended by itself.
    pub(crate) seconds: Option<f64>,
    /// Why it failed.
    pub(crate) error: Option<String>,
    /// Whether a later run of the same study is complete and ran all of its stages.
    pub(crate) done_since: bool,
    /// The arguments that it was given, to resume it; empty for runs of early versions.
    pub(crate) command: Vec<String>,
    /// The folder it was started in.
    #[serde(serialize_with = "files::as_text::optional")]
    pub(crate) directory: Option<PathBuf>,
    /// The study's file.
    #[serde(serialize_with = "files::as_text::optional")]
    pub(crate) file: Option<PathBuf>,
    /// Of a run that is open: the files of the study that are not any more what it was given, or are gone.
    #[serde(serialize_with = "files::as_text::each")]
    pub(crate) edited: Vec<PathBuf>,
}

/// The runs in a folder of runs, by study, the oldest first. A folder without `run.json` is passed over. Takes up to 10 s
/// where a run is alive on another machine.
///
/// # Errors
/// [`CacheError::Io`] for a folder that cannot be listed.
pub fn run_summaries(runs: &Path) -> Result<Vec<RunSummary>, CacheError> {
    let mut summaries = Vec::new();
    let mut alive = Alive::default();
    for study in folders(runs)? {
        let mut newest: Vec<(Json, RunSummary)> = Vec::new();
        for folder in folders(&study)?.into_iter().rev() {
            let manifest = match manifest(&folder) {
                Ok(Some(manifest)) => manifest,
                Ok(None) => continue,
                Err(error) => {
                    newest.push((Json::Null, unreadable(&study, &folder, &error)));
                    continue;
                }
            };
            let mut summary = summary(&folder, &manifest, &mut alive);
            summary.done_since = summary.state != RunState::Complete
                && newest
                    .iter()
                    .any(|(later, of)| of.state == RunState::Complete && covers(later, &manifest));
            newest.push((manifest, summary));
        }
        summaries.extend(newest.into_iter().rev().map(|(_, summary)| summary));
    }
    Ok(summaries)
}

/// A run's `run.json`; none in a folder that has none, which is no run's, or not yet.
pub(super) fn manifest(folder: &Path) -> std::io::Result<Option<Json>> {
    match files::read(&folder.join("run.json"), files::DATA_BYTES) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What there is to say of a run whose `run.json` cannot be read.
fn unreadable(study: &Path, folder: &Path, error: &std::io::Error) -> RunSummary {
    let name = study.file_name().unwrap_or_default().to_string_lossy();
    RunSummary {
        study: name.into_owned(),
        run_dir: folder.to_path_buf(),
        started: String::new(),
        state: RunState::Unreadable,
        stages_done: 0,
        stages_planned: 0,
        stages_in_hand: Vec::new(),
        cells_computed: 0,
        cells_in_hand: None,
        seconds: None,
        error: Some(format!("its `run.json` cannot be read: {error}")),
        done_since: false,
        command: Vec::new(),
        directory: None,
        file: None,
        edited: Vec::new(),
    }
}

/// Whether a later run was of the same study and ran every stage of an earlier one.
fn covers(later: &Json, earlier: &Json) -> bool {
    let planned = |manifest: &Json| manifest["planned"].as_array().cloned().unwrap_or_default();
    let later_stages = planned(later);
    later["key"] == earlier["key"]
        && planned(earlier)
            .iter()
            .all(|stage| later_stages.contains(stage))
}

fn summary(folder: &Path, manifest: &Json, alive: &mut Alive) -> RunSummary {
    let state = match manifest["status"].as_str() {
        Some("complete") => RunState::Complete,
        Some("failed") => RunState::Failed,
        Some("interrupted") => RunState::Interrupted,
        _ if alive.is_alive(folder, manifest) => RunState::Running,
        _ => RunState::Killed,
    };
    let stages = manifest["stages"].as_array().cloned().unwrap_or_default();
    let is_open = |stage: &&Json| {
        let status = stage["status"].as_str().unwrap_or("computed");
        matches!(status, "failed" | "interrupted" | "blocked")
    };
    let open = stages.iter().filter(is_open).count();
    let in_hand = stages.iter().filter(is_open);
    let in_hand = in_hand.filter(|stage| stage["status"] != "blocked");
    let mut in_hand: Vec<String> = in_hand.map(|stage| text(&stage["name"])).collect();
    in_hand.extend(manifest["computing"].as_str().map(str::to_string));
    let done = stages.len() - open;
    let of_stages = stages
        .iter()
        .filter_map(|stage| stage["cells_computed"].as_u64());
    let cells_in_hand = match manifest["cells_in_hand"].as_array().map(Vec::as_slice) {
        Some([done, total]) => done.as_u64().zip(total.as_u64()),
        _ => None,
    };
    let strings = |value: &Json| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(text).collect()
    };
    RunSummary {
        study: text(&manifest["study"]),
        run_dir: folder.to_path_buf(),
        started: text(&manifest["started"]),
        state,
        stages_done: done,
        stages_planned: manifest["planned"].as_array().map_or(done + open, Vec::len),
        stages_in_hand: in_hand,
        cells_computed: of_stages.sum(),
        cells_in_hand,
        seconds: manifest["seconds"].as_f64(),
        error: manifest["error"].as_str().map(str::to_string),
        done_since: false,
        command: strings(&manifest["command"]),
        directory: manifest["directory"].as_str().map(files::path_of),
        file: given(manifest)
            .find(|(copy, _)| copy.starts_with("study."))
            .map(|(_, path)| path),
        edited: match state {
            RunState::Failed | RunState::Interrupted | RunState::Killed => edited(folder, manifest),
            _ => Vec::new(),
        },
    }
}

/// The files that a run was given: the copy's path in its folder, and the file's own.
fn given(manifest: &Json) -> impl Iterator<Item = (&str, PathBuf)> {
    let given = manifest["files"].as_object().into_iter().flatten();
    given.filter_map(|(copy, path)| Some((copy.as_str(), files::path_of(path.as_str()?))))
}

/// The files that a run was given, of which it has copies, that are not the same any more.
fn edited(folder: &Path, manifest: &Json) -> Vec<PathBuf> {
    let read = |path: &Path| files::read(path, files::SETTINGS_BYTES).ok();
    let is_edited = |(copy, path): &(&str, PathBuf)| {
        let kept = read(&folder.join(copy));
        // A copy that is gone proves nothing.
        kept.is_some() && kept != read(path)
    };
    let edited = given(manifest).filter(is_edited);
    edited.map(|(_, path)| path).collect()
}

fn text(value: &Json) -> String {
    value.as_str().unwrap_or_default().to_string()
}

/// The folders of the runs that are alive, by cache.
#[derive(Default)]
struct Alive(BTreeMap<PathBuf, Vec<PathBuf>>);

impl Alive {
    fn is_alive(&mut self, folder: &Path, manifest: &Json) -> bool {
        let Some(cache) = manifest["cache"].as_str().map(files::path_of) else {
            return false;
        };
        let runs = self.0.entry(cache).or_insert_with_key(|cache| {
            // A cache that is gone has no runs, and is not made to be asked.
            if !Cache::is_in(cache) {
                return Vec::new();
            }
            let users = Cache::open(cache).and_then(|cache| cache.users());
            let users = users.unwrap_or_default().into_iter();
            let runs = users.filter_map(|user| match user {
                User::Run(run) => Some(real(&run)),
                User::Collection => None,
            });
            runs.collect()
        });
        runs.contains(&real(folder))
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// The folders in a folder, by name; links such as `latest` are passed over. None where it is not there.
pub(super) fn folders(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(CacheError::Io {
                operation: "list",
                path: folder.to_path_buf(),
                source,
            });
        }
    };
    let entries = entries.flatten();
    let real = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut paths: Vec<PathBuf> = real.map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
