//! What people look at: a run's folder in, tables, figures and one page out.
//!
//! Nothing here computes a result of a study: it reads what stages left (`run.json`, `resolved.yaml`, `tables/`) and shows it. A figure is
//! data first ([`Figure`]); the page and the SVG files draw the same one, so that they cannot disagree.
//!
//! ```text
//! table        columns of text, numbers, flags, from Parquet or CSV
//! finished     a run's folder, read
//! figure       figures as data
//! figures      which figures a stage has, and what is in them
//! svg          figures as SVG and PNG
//! dag          the pipeline as Mermaid, Graphviz and SVG
//! drill        what the page shows of one prompt
//! page         `report.html`
//! ```

mod dag;
mod drill;
mod figure;
mod figures;
mod finished;
mod page;
mod svg;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};

pub use dag::{Node, graphviz, mermaid};
pub use figure::{Axis, BASELINE, ColourScale, Figure, Mark, PALETTE, Panel, Shape, colour};
pub use figures::figures;
pub use finished::{FinishedRun, FinishedStage, file_stem, graph};
pub use page::page;
pub use svg::{png, svg};
pub use table::{Column, Table, Values};

/// Why nothing can be shown.
#[derive(Debug)]
pub enum ReportError {
    /// The folder is no run's.
    NotARun(PathBuf),
    /// A file cannot be read or understood.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file cannot be written.
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        why: String,
    },
    /// A figure cannot be drawn.
    Drawing(String),
}

impl ReportError {
    fn unreadable(path: &Path, error: impl fmt::Display) -> Self {
        ReportError::Unreadable {
            path: path.to_path_buf(),
            why: error.to_string(),
        }
    }
}

impl fmt::Display for ReportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReportError::NotARun(path) => write!(
                f,
                "`{}` is not a run's folder: it has no `run.json`; expected a folder like `runs/<study>/latest`",
                path.display()
            ),
            ReportError::Unreadable { path, why } => {
                write!(f, "`{}` cannot be read: {why}", path.display())
            }
            ReportError::Unwritable { path, why } => {
                write!(f, "`{}` cannot be written: {why}", path.display())
            }
            ReportError::Drawing(why) => write!(f, "a figure cannot be drawn: {why}"),
        }
    }
}

impl std::error::Error for ReportError {}

/// Writes every figure of a run as SVG and PNG into a folder. Returns how many there are.
///
/// # Errors
/// [`ReportError::Drawing`] and [`ReportError::Unwritable`].
pub fn write_figures(figures: &[Figure], folder: &Path) -> Result<usize, ReportError> {
    use rayon::prelude::*;
    figures.par_iter().try_for_each(|figure| {
        let text = svg(figure);
        let image = png(&text)?;
        for (extension, bytes) in [("svg", text.as_bytes()), ("png", image.as_slice())] {
            let path = folder.join(format!("{}.{extension}", figure.name));
            crate::cache::write_atomically(&path, bytes).map_err(|error| {
                ReportError::Unwritable {
                    path,
                    why: error.to_string(),
                }
            })?;
        }
        Ok(())
    })?;
    Ok(figures.len())
}

/// Writes `figures/` and `report.html` into a run's folder. Returns the page's path.
///
/// # Errors
/// [`ReportError::Drawing`] and [`ReportError::Unwritable`].
pub fn write(run: &FinishedRun) -> Result<PathBuf, ReportError> {
    let figures = figures(run);
    write_figures(&figures, &run.path.join("figures"))?;
    let path = run.path.join("report.html");
    let html = page(run, &figures)?;
    crate::cache::write_atomically(&path, html.as_bytes()).map_err(|error| {
        ReportError::Unwritable {
            path: path.clone(),
            why: error.to_string(),
        }
    })?;
    Ok(path)
}
