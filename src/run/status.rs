//! The runs there are, from the `run.json` of each, and whether those that say they are running are alive.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{Cache, CacheError};
use crate::files;
use crate::manifest::{Manifest, RunStatus, Stage, StageStatus};

/// How a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RunState {
    Running,
    /// Every stage that it was to run gave its output.
    Complete,
    Failed,
    Interrupted,
    /// It ended without saying so.
    Killed,
    #[default]
    Unreadable,
}

/// A run as its folder tells.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunSummary {
    pub(crate) study: String,
    #[serde(serialize_with = "files::as_text::serialize")]
    pub(crate) run_dir: PathBuf,
    /// When it started, as RFC 3339 in UTC.
    pub(crate) started: String,
    pub(crate) state: RunState,
    /// Stages that gave their output.
    pub(crate) stages_done: usize,
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
    pub(crate) error: Option<String>,
    /// Whether a later run of the same study is complete and ran all of its stages.
    pub(crate) done_since: bool,
    /// The arguments that it was given, to resume it; empty for runs of early versions.
    pub(crate) command: Vec<String>,
    /// The folder it was started in.
    #[serde(serialize_with = "files::as_text::optional")]
    pub(crate) directory: Option<PathBuf>,
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
        // From the newest on: those that are complete, and what there is to say of each.
        let (mut complete, mut newest) = (Vec::new(), Vec::new());
        for (folder, manifest) in manifests(&study)?.into_iter().rev() {
            newest.push(match manifest {
                Err(error) => unreadable(&study, &folder, &error),
                Ok(manifest) => {
                    let mut summary = summary(&folder, &manifest, &mut alive);
                    match summary.state {
                        RunState::Complete => complete.push(manifest),
                        _ => summary.done_since = complete.iter().any(|c| covers(c, &manifest)),
                    }
                    summary
                }
            });
        }
        summaries.extend(newest.into_iter().rev());
    }
    Ok(summaries)
}

/// What there is to say of a run whose `run.json` cannot be read.
fn unreadable(study: &Path, folder: &Path, error: &io::Error) -> RunSummary {
    let name = study.file_name().unwrap_or_default().to_string_lossy();
    RunSummary {
        study: name.into_owned(),
        run_dir: folder.to_path_buf(),
        error: Some(format!("its `run.json` cannot be read: {error}")),
        ..RunSummary::default()
    }
}

/// Whether a later run was of the same study and ran every stage of an earlier one.
fn covers(later: &Manifest, earlier: &Manifest) -> bool {
    let ran = later.planned.as_deref().unwrap_or_default();
    let mut planned = earlier.planned.iter().flatten();
    later.key == earlier.key && planned.all(|stage| ran.contains(stage))
}

fn summary(folder: &Path, manifest: &Manifest, alive: &mut Alive) -> RunSummary {
    let state = match manifest.status {
        Some(RunStatus::Complete) => RunState::Complete,
        Some(RunStatus::Failed) => RunState::Failed,
        Some(RunStatus::Interrupted) => RunState::Interrupted,
        _ if alive.is_alive(folder, manifest) => RunState::Running,
        _ => RunState::Killed,
    };
    let stages = &manifest.stages;
    let is_done = |stage: &&Stage| stage.status.is_some_and(StageStatus::is_done);
    let has_stopped = |stage: &&Stage| {
        matches!(
            stage.status,
            Some(StageStatus::Failed | StageStatus::Interrupted)
        )
    };
    let stopped_in = stages.iter().filter(has_stopped).map(|stage| &stage.name);
    let counts = stages.iter().map(|stage| stage.cells_computed);
    RunSummary {
        study: manifest.study.clone(),
        run_dir: folder.to_path_buf(),
        started: manifest.started.clone(),
        state,
        stages_done: stages.iter().filter(is_done).count(),
        stages_planned: manifest.planned.as_ref().map_or(stages.len(), Vec::len),
        stages_in_hand: stopped_in.chain(&manifest.computing).cloned().collect(),
        cells_computed: counts.fold(0, u64::saturating_add),
        cells_in_hand: manifest.cells_in_hand,
        seconds: manifest.seconds,
        error: manifest.error.clone(),
        done_since: false,
        command: manifest.command.clone(),
        directory: manifest.directory.as_deref().map(files::path_of),
        file: manifest
            .given()
            .find(|(copy, _)| copy.starts_with("study."))
            .map(|(_, path)| path),
        edited: match state {
            RunState::Failed | RunState::Interrupted | RunState::Killed => edited(folder, manifest),
            _ => Vec::new(),
        },
    }
}

/// The files that a run was given, of which it has copies, that are not the same any more.
fn edited(folder: &Path, manifest: &Manifest) -> Vec<PathBuf> {
    let read = |path: &Path| files::read(path, files::SETTINGS_BYTES).ok();
    let is_edited = |(copy, path): &(&str, PathBuf)| {
        let kept = read(&folder.join(copy));
        // A copy that is gone proves nothing.
        kept.is_some() && kept != read(path)
    };
    let edited = manifest.given().filter(is_edited);
    edited.map(|(_, path)| path).collect()
}

/// The folders of the runs that are alive, by cache.
#[derive(Default)]
struct Alive(BTreeMap<PathBuf, Vec<PathBuf>>);

impl Alive {
    fn is_alive(&mut self, folder: &Path, manifest: &Manifest) -> bool {
        let Some(cache) = manifest.cache.as_deref().map(files::path_of) else {
            return false;
        };
        let runs = self.0.entry(cache).or_insert_with_key(|cache| {
            // A cache that is gone has no runs, and is not made to be asked.
            if !Cache::is_in(cache) {
                return Vec::new();
            }
            let users = Cache::open(cache).and_then(|cache| cache.users());
            let runs = users.unwrap_or_default().runs.into_iter();
            runs.map(|run| real(&run)).collect()
        });
        runs.contains(&real(folder))
    }
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

/// The runs of a study, the oldest first: the folder of each, and its `run.json` or why that cannot be read. A folder without one is passed
/// over.
pub(super) fn manifests(study: &Path) -> Result<Vec<(PathBuf, io::Result<Manifest>)>, CacheError> {
    let mut found = Vec::new();
    for folder in folders(study)? {
        let read = Manifest::read(&folder).transpose();
        found.extend(read.map(|manifest| (folder, manifest)));
    }
    Ok(found)
}

/// The folders in a folder, by name; links such as `latest` are passed over. None where it is not there.
pub(super) fn folders(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| CacheError::io("list", folder, error))?,
    };
    let entries = entries.flatten();
    let real = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut paths: Vec<PathBuf> = real.map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}
