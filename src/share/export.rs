//! `dial export`: a finished run as one file.
//!
//! ```text
//! source       the run's study, opened as it was run
//! cells        its stages made once more from the cells in the cache, to know which cells these are and that they give what the run has
//! withhold     what is left out where prompts are withheld; salt: what these are hashed with; sought: whether a text is left all the same
//! machine      the paths of this machine, and text without them
//! manifest     the manifest as others may read it
//! study        the study as it runs in the archive's folder
//! contents     all of it as files, and the archive written
//! readme       what the file tells a person
//! crate_metadata   what it tells a program
//! ```

mod cells;
mod contents;
mod crate_metadata;
mod machine;
mod manifest;
mod readme;
mod salt;
mod sought;
mod source;
mod study;
mod withhold;

use std::path::{Path, PathBuf};

use crate::cache::CacheError;
use crate::manifest::{RunStatus, StageStatus};
use crate::plan::{LockError, PlanError};
use crate::report::{FinishedRun, ReportError};
use crate::spec::Diagnostics;

use super::layout;
use super::write::whole;
use cells::MadeAgain;
use contents::{Contents, Shared};

// What a check makes once more of a file.
pub(super) use contents::{derived, input_files};
pub(super) use crate_metadata::{Listed, text as crate_text};
pub(super) use machine::Machine;
pub(super) use readme::ended;
pub(super) use source::{RESOLVED, document};
pub(super) use withhold::Withholding;

/// What is to be exported, and where to.
pub(crate) struct Options {
    /// The run's folder.
    pub(crate) run: PathBuf,
    /// The file; one in the current folder that is named as the folder in it where none is given.
    pub(crate) to: Option<PathBuf>,
    /// The cache of the run; the one that its manifest names where none is given.
    pub(crate) cache: Option<PathBuf>,
    /// Values of the study that say where a model or a prompt set lies now, `path.to.key=value`.
    pub(crate) overrides: Vec<String>,
    /// Whether the texts of all prompt sets are withheld, not only of those that the study says so of.
    pub(crate) without_prompts: bool,
}

/// What was written.
pub(crate) struct Exported {
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    /// How many files are in it.
    pub(crate) files: usize,
    pub(crate) cells: u64,
    /// Activations that were left out.
    pub(crate) left_out: u64,
    /// Prompt sets that are withheld.
    pub(crate) withheld: Vec<String>,
    /// What its author should know of it.
    pub(crate) notes: Vec<String>,
}

/// What is being done: so many steps of so many, and what the next one is.
pub(crate) struct Step<'s> {
    pub(crate) what: &'s str,
    pub(crate) done: usize,
    pub(crate) total: usize,
}

/// Hears of each step.
pub(crate) type OnStep<'s> = &'s mut dyn FnMut(Step<'_>);

/// Why nothing was exported.
#[derive(Debug)]
pub(crate) enum ExportError {
    /// It is no run that can be exported.
    NotComplete(String),
    Report(ReportError),
    /// The run's study cannot be opened.
    Study(PlanError),
    Damaged(Diagnostics),
    /// Random directions must be drawn, and this program is not linked with libtorch.
    NeedsLibtorch,
    Failed(String),
}

impl From<ReportError> for ExportError {
    fn from(error: ReportError) -> Self {
        ExportError::Report(error)
    }
}

impl From<LockError> for ExportError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Damaged(diagnostics) => ExportError::Damaged(diagnostics),
            LockError::Unreadable(message) => ExportError::Failed(message),
        }
    }
}

impl From<CacheError> for ExportError {
    fn from(error: CacheError) -> Self {
        ExportError::Failed(error.to_string())
    }
}

/// Writes a run into one file.
///
/// # Errors
/// A run that is not complete, a study that does not open as it was run, a cache that does not have any more what the run was made from, a file that
/// cannot be read or written.
pub(crate) fn export(options: &Options, on_step: OnStep<'_>) -> Result<Exported, ExportError> {
    let run = FinishedRun::open(&options.run)?;
    check_complete(&run, &options.run)?;
    let opened = source::open(&run, options)?;
    let mut withholding = Withholding::of(&opened, &run, options.without_prompts)?;
    let made = cells::make_again(&opened, &run.manifest, &mut withholding, on_step)?;
    let machine = Machine::of(&run, &opened);
    let mut manifest = manifest::cleaned(&run.manifest, &opened, &machine);
    withholding.clean(&mut manifest, &opened, &made);
    on_step(Step {
        what: "drawing figures and the page",
        done: made.len(),
        total: made.len() + 1,
    });
    let top = layout::top(&opened.study.name, &run.manifest.key);
    let shared = Shared {
        machine: &machine,
        manifest: &manifest,
        withholding: &withholding,
    };
    let mut contents = Contents::of(run, &opened, &made, shared)?;
    contents.add_crate(&opened, &manifest)?;
    contents.check(&withholding, &opened.cache)?;
    let path = (options.to.clone()).unwrap_or_else(|| PathBuf::from(format!("{top}.zip")));
    let written = whole(&path, |file| {
        contents.write(file, &top, &opened.cache, on_step)
    });
    written.map_err(|error| {
        ExportError::Failed(format!("`{}` cannot be written: {error}", path.display()))
    })?;
    let counted = |of: fn(&MadeAgain) -> u64| made.iter().map(of).sum();
    let mut notes = withholding.told(counted(|stage| stage.withheld));
    notes.extend(crate_metadata::undeclared(&opened));
    Ok(Exported {
        bytes: path.metadata().map_or(0, |metadata| metadata.len()),
        path,
        files: contents.count(),
        cells: counted(|stage| stage.cells.len() as u64),
        left_out: counted(|stage| stage.hashes.len() as u64),
        withheld: withholding.withheld.sets.into_keys().collect(),
        notes,
    })
}

/// Checks that a run has all that its study asks for.
fn check_complete(run: &FinishedRun, folder: &Path) -> Result<(), ExportError> {
    let manifest = &run.manifest;
    let shown = folder.display();
    let refused = |why: String| Err(ExportError::NotComplete(format!("`{shown}` {why}")));
    match manifest.status {
        Some(RunStatus::Complete) => {}
        Some(RunStatus::Running) => {
            return refused("is a run that goes on or was killed, and only a complete one can be exported; wait for it, or resume it as `dial status` says".into());
        }
        _ => {
            let why = manifest.error.as_deref().unwrap_or("it was interrupted");
            return refused(format!(
                "is a run that is not complete, and only a complete one can be exported; resume it as `dial status` says\n{why}"
            ));
        }
    }
    let is_done = |name: &str| {
        let status = manifest.stage(name).and_then(|stage| stage.status);
        status.is_some_and(StageStatus::is_done)
    };
    let names = run.stages.iter().map(|stage| stage.name.as_str());
    let left: Vec<&str> = names.filter(|name| !is_done(name)).collect();
    if !left.is_empty() {
        return refused(format!(
            "is a run of some stages only, and one of the whole study is what can be exported; run it without `--only` and `--from` (not run: `{}`)",
            left.join("`, `")
        ));
    }
    if manifest.stages.iter().any(|stage| stage.key.is_none()) {
        return refused("was run by an early dial, which wrote down too little; run the study again, for which nothing is computed".into());
    }
    Ok(())
}
