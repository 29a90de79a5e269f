//! The study of a run, opened as it was run: from the copy in its folder, whether that or the study's files have been moved since.

use std::path::PathBuf;

use crate::files;
use crate::plan::{Fetch, Lock, LockError, Opened, Selection, Study, open_selected};
use crate::report::FinishedRun;
use crate::spec::{Document, Problems, load, load_text};

use super::super::layout;
use super::{ExportError, Options};

/// The resolved study in a run's folder.
const RESOLVED: &str = "resolved.yaml";
/// Comes before an override in the manifest.
const FLAG: &str = "--set ";

/// Opens the study of a run, and its cache.
///
/// # Errors
/// What it names is gone, or the cache is.
pub(super) fn open(run: &FinishedRun, options: &Options) -> Result<Opened, ExportError> {
    let cache = cache_of(run, options)?;
    let lock = Lock::read(&run.path.join(layout::LOCK)).map_err(|error| match error {
        LockError::Damaged(diagnostics) => ExportError::Damaged(diagnostics),
        LockError::Unreadable(message) => ExportError::Failed(message),
    })?;
    let pins = lock.map(|lock| lock.pins()).unwrap_or_default();
    let document = document(run, &options.overrides)?;
    let opened = open_selected(
        document,
        run.study(),
        &cache,
        Fetch::Never,
        &Selection::All,
        &pins,
    );
    opened.map_err(ExportError::Study)
}

/// The folder of the run's cache, which is there.
fn cache_of(run: &FinishedRun, options: &Options) -> Result<PathBuf, ExportError> {
    let said = run.manifest.cache.as_deref().map(files::path_of);
    let cache = options.cache.clone().or(said);
    let cache = cache.unwrap_or_else(|| run.path.join("cache"));
    match cache.is_dir() {
        true => Ok(cache),
        false => Err(ExportError::Failed(format!(
            "the run's cache `{}` is not there, and the cells that its tables were made from are in it; say where it is now with `--cache`",
            cache.display()
        ))),
    }
}

/// The study with everything applied. Its copy in the run's folder names other files from there on; where the folder alone has been moved, they
/// are where the study's own file says.
fn document(run: &FinishedRun, overrides: &[String]) -> Result<Document, ExportError> {
    let resolved = load(&run.path.join(RESOLVED), overrides).map_err(ExportError::Damaged)?;
    if has_all(&resolved, run.study()) {
        return Ok(resolved);
    }
    let given = run.manifest.given().find(|(copy, path)| {
        copy.starts_with("study.") && path.parent().is_some_and(|folder| folder.is_dir())
    });
    let Some((copy, path)) = given else {
        return Ok(resolved);
    };
    let Ok(text) = files::read_text(&run.path.join(copy), files::SETTINGS_BYTES) else {
        return Ok(resolved);
    };
    let before = run.manifest.overrides.iter();
    let before = before.map(|text| text.strip_prefix(FLAG).unwrap_or(text).to_string());
    let overrides: Vec<String> = before.chain(overrides.iter().cloned()).collect();
    let given = load_text(&path, &text, &overrides).ok();
    Ok(given
        .filter(|given| has_all(given, run.study()))
        .unwrap_or(resolved))
}

/// Whether every path that a study names leads somewhere.
fn has_all(document: &Document, name: &str) -> bool {
    let study = Study::read(document.clone(), name, &mut Problems::default());
    study.is_some_and(|study| study.paths().iter().all(|(_, path)| path.exists()))
}
