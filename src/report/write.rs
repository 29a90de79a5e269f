//! The files: `figures/<name>.svg` and `.png`, and `report.html`.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::cache::Cache;
use crate::manifest::RunStatus;

use super::drawn::{self, Drawn};
use super::page::{Content, page};
use super::{Figure, FinishedRun, ReportError, figures, png, svg};

/// Draws `figures/` and `report.html` in a run's folder from its tables. Returns the page's path.
///
/// # Errors
/// [`ReportError`] where the folder is no run's, a file of it cannot be read, or one cannot be written.
pub fn write(folder: &Path) -> Result<PathBuf, ReportError> {
    let run = FinishedRun::read(folder)?;
    let drawn = draw_into(&figures_folder(&run)?, &run)?;
    save_page(&run, &drawn.content)
}

/// The same for a run that has just ended: what was drawn of the same tables before comes from the cache.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_with(folder: &Path, cache: &Cache) -> Result<PathBuf, ReportError> {
    let mut run = FinishedRun::open(folder)?;
    let (key, figures) = (drawn::key(&run), figures_folder(&run)?);
    if let Some(content) = drawn::take(cache, &key, &figures) {
        return save_page(&run, &content);
    }
    run.load_tables()?;
    let drawn = draw_into(&figures, &run)?;
    // What was cut short is seldom drawn again, and a cache that cannot be written costs the next run a drawing.
    if run.manifest.status == Some(RunStatus::Complete)
        && let Err(error) = drawn::keep(cache, &key, &run, &drawn)
    {
        tracing::debug!("{error}");
    }
    save_page(&run, &drawn.content)
}

/// The same files as [`write`] makes, as their place in the run's folder and their bytes.
///
/// # Errors
/// [`ReportError::Drawing`].
pub(crate) fn drawn_files(run: &FinishedRun) -> Result<Vec<(String, Vec<u8>)>, ReportError> {
    let drawn = draw(run)?;
    let page = page(run, &drawn.content)?.into_bytes();
    let figures = drawn.files.into_iter();
    let figures = figures.map(|(name, bytes)| (format!("figures/{name}"), bytes));
    Ok(figures.chain([("report.html".to_string(), page)]).collect())
}

/// The folder of figures, made where it is missing. A link in its place is not followed: its files would be another run's.
fn figures_folder(run: &FinishedRun) -> Result<PathBuf, ReportError> {
    let folder = run.path.join("figures");
    let made = match folder.is_symlink() {
        true => std::fs::remove_file(&folder),
        false => Ok(()),
    }
    .and_then(|()| std::fs::create_dir_all(&folder))
    // Early versions kept there what the page shows.
    .and_then(|()| remove(&folder.join("content.json")));
    made.map_err(|error| unwritable(&folder, &error))?;
    Ok(folder)
}

/// Draws every figure and writes its files.
fn draw_into(folder: &Path, run: &FinishedRun) -> Result<Drawn, ReportError> {
    let drawn = draw(run)?;
    for (name, bytes) in &drawn.files {
        save(&folder.join(name), bytes)?;
    }
    Ok(drawn)
}

fn draw(run: &FinishedRun) -> Result<Drawn, ReportError> {
    let figures = figures(run);
    let files: Result<Vec<_>, ReportError> = figures.par_iter().map(files).collect();
    Ok(Drawn {
        content: Content::of(run, &figures),
        files: files?.into_iter().flatten().collect(),
    })
}

/// A figure's files: name and bytes.
fn files(figure: &Figure) -> Result<[(String, Vec<u8>); 2], ReportError> {
    let file = |extension: &str| format!("{}.{extension}", figure.name);
    Ok([
        (file("svg"), svg(figure).into_bytes()),
        (file("png"), png(figure)?),
    ])
}

fn save_page(run: &FinishedRun, content: &Content) -> Result<PathBuf, ReportError> {
    let path = run.path.join("report.html");
    save(&path, page(run, content)?.as_bytes())?;
    Ok(path)
}

/// Plain writes: what is lost when the power fails can be drawn again.
fn save(path: &Path, bytes: &[u8]) -> Result<(), ReportError> {
    // Not into the file that is there, which may be a link to another run's.
    let written = remove(path).and_then(|()| std::fs::write(path, bytes));
    written.map_err(|error| unwritable(path, &error))
}

/// Removes a file if there is one.
fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> ReportError {
    ReportError::Unwritable {
        path: path.to_path_buf(),
        why: error.to_string(),
    }
}
