//! The study of a run, opened as it was run: from the copy in its folder, whether that or the study's files have been moved since.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::files;
use crate::plan::{Fetch, Lock, Opened, Selection, Study, open_selected};
use crate::report::FinishedRun;
use crate::spec::{Diagnostics, Document, Problems, field_path, load, load_text};

use super::super::layout;
use super::{ExportError, Options};

/// The resolved study in a run's folder.
pub(in crate::share) const RESOLVED: &str = "resolved.yaml";
/// Comes before an override in the manifest.
const FLAG: &str = "--set ";

/// Opens the study of a run, and its cache.
///
/// # Errors
/// What it names is gone, or the cache is.
pub(super) fn open(run: &FinishedRun, options: &Options) -> Result<Opened, ExportError> {
    if !run.path.join(RESOLVED).is_file() && run.path.join(layout::CRATE).is_file() {
        return Err(ExportError::NotComplete(format!(
            "`{}` is a shared file that was unpacked, and no run of yours; send the file itself on, or run its `{}` and export that run",
            run.path.display(),
            layout::STUDY
        )));
    }
    let cache = cache_of(run, options)?;
    let lock = Lock::read(&run.path.join(layout::LOCK))?;
    let pins = lock.map(|lock| lock.pins()).unwrap_or_default();
    let document = document(run, &options.overrides).map_err(ExportError::Damaged)?;
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
pub(in crate::share) fn document(
    run: &FinishedRun,
    overrides: &[String],
) -> Result<Document, Diagnostics> {
    let resolved = |overrides: &[String]| load(&run.path.join(RESOLVED), overrides);
    let document = resolved(overrides)?;
    let lost = paths_to_nothing(&document, run.study());
    if lost == 0 {
        return Ok(document);
    }
    let mut elsewhere = paths_as_given(run).unwrap_or_default();
    elsewhere.extend_from_slice(overrides);
    let moved = resolved(&elsewhere)?;
    Ok(match paths_to_nothing(&moved, run.study()) < lost {
        true => moved,
        false => document,
    })
}

/// What the study's own file names, as overrides of its copy; none where that file's folder has gone.
fn paths_as_given(run: &FinishedRun) -> Option<Vec<String>> {
    let (copy, path) = run.manifest.given().find(|(copy, path)| {
        copy.starts_with("study.") && path.parent().is_some_and(Path::is_dir)
    })?;
    let text = files::read_text(&run.path.join(copy), files::SETTINGS_BYTES).ok()?;
    let overrides = run.manifest.overrides.iter();
    let overrides = overrides.map(|text| text.strip_prefix(FLAG).unwrap_or(text).to_string());
    let given = load_text(&path, &text, &overrides.collect::<Vec<_>>()).ok()?;
    let study = Study::read(given, run.study(), &mut Problems::default())?;
    let as_override = |(fields, path): (Vec<&str>, PathBuf)| {
        let fields = fields.iter();
        let fields = fields.fold(String::new(), |above, field| field_path(&above, field));
        let path = std::path::absolute(path).ok()?;
        path.exists().then_some(())?;
        Some(format!("{fields}={}", Json::from(path.to_str()?)))
    };
    Some(study.paths().into_iter().filter_map(as_override).collect())
}

/// How many paths of a study lead nowhere. Some of them may be of what no stage uses.
fn paths_to_nothing(document: &Document, name: &str) -> usize {
    let study = Study::read(document.clone(), name, &mut Problems::default());
    let paths = study.iter().flat_map(Study::paths);
    paths.filter(|(_, path)| !path.exists()).count()
}
