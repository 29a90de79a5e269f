//! What people look at: a run's folder in, tables, figures and one page out.
//!
//! Nothing here computes a result of a study: it reads what a run left (`run.json`, `tables/`) and shows it. A figure is
//! data first ([`Figure`]); the page and the SVG files draw the same one, so that they cannot disagree.
//!
//! ```text
//! table        columns of text, numbers, flags, from Parquet or CSV
//! finished     a run's folder, read; directions: those in it
//! views        how each product is shown: the one table of it
//! figures      the figures of each product
//! svg          figures as SVG and PNG
//! dag          the pipeline as Mermaid, Graphviz and SVG
//! diff         two runs, or a run and what was published
//! drawn        what was drawn before, in the cache
//! drill        what the page shows of one prompt
//! page         `report.html`
//! write        the files in a run's folder
//! ```

mod dag;
mod diff;
mod directions;
mod drawn;
mod drill;
mod figures;
mod finished;
mod number;
mod page;
mod svg;
mod table;
mod views;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use crate::figure::{
    Axis, BASELINE, ColourScale, Figure, Mark, PALETTE, Panel, Shape, colour, ends,
};
pub(crate) use dag::{graphviz, mermaid};
pub(crate) use diff::Difference;
pub use diff::{Tolerances, diff};
pub(crate) use figures::{Place, Point, distinct, figures, grouped, points};
pub use finished::FinishedRun;
pub(crate) use finished::FinishedStage;
pub(crate) use number::shown;
pub(crate) use page::{STYLE, in_template};
pub(crate) use svg::{png, svg};
pub use table::Table;
pub(crate) use table::{Cell, cell, cells};
pub(crate) use views::{AtEnd, view};
pub use write::write;
pub(crate) use write::{drawn_files, write_with};

/// Why nothing can be shown.
#[derive(Debug)]
pub enum ReportError {
    NotARun(PathBuf),
    Unreadable { path: PathBuf, why: String },
    Unwritable { path: PathBuf, why: String },
    Drawing(String),
}

impl ReportError {
    /// What becomes of an error of reading a file.
    fn unreadable<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Self {
        |error| ReportError::Unreadable {
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
