//! What of a run goes into other programs: a direction in a file of theirs, or a model without it.
//!
//! ```text
//! chosen       the direction of a stage that is meant
//! model        the model of a run, opened
//! vector       a direction as safetensors, llama.cpp's control vector, or an adapter for PEFT
//! weights      the model's weights without a direction, as a Hugging Face folder
//! ```

mod chosen;
mod model;
mod vector;
mod weights;

use std::fmt;
use std::path::Path;

use crate::cache::CacheError;
use crate::model::ModelError;
use crate::report::ReportError;
use crate::spec::Diagnostics;

use super::read::{ReadError, whole_folder};

pub(crate) use chosen::{Chosen, Which};
pub(crate) use vector::{Form, Options as VectorOptions, WrittenVector, write_vector};
pub(crate) use weights::{Options as WeightsOptions, WrittenWeights, write_weights};

/// Why nothing was written.
#[derive(Debug)]
pub(crate) enum OutError {
    /// It is not said what is meant, or it cannot be had.
    Asked(String),
    Report(ReportError),
    /// The run's study cannot be read.
    Damaged(Diagnostics),
    Failed(String),
}

/// Makes a folder that is there whole or not at all.
fn new_folder(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), OutError>,
) -> Result<(), OutError> {
    /// Why it is not there.
    enum Why {
        Folder(ReadError),
        Content(OutError),
    }
    impl From<ReadError> for Why {
        fn from(error: ReadError) -> Self {
            Why::Folder(error)
        }
    }
    let made = whole_folder(path, |folder| fill(folder).map_err(Why::Content));
    made.map_err(|why| match why {
        Why::Content(error) => error,
        Why::Folder(error) => {
            OutError::Failed(format!("`{}` cannot be written: {error}", path.display()))
        }
    })
}

impl From<ReportError> for OutError {
    fn from(error: ReportError) -> Self {
        OutError::Report(error)
    }
}

impl From<ModelError> for OutError {
    fn from(error: ModelError) -> Self {
        OutError::Failed(error.to_string())
    }
}

impl From<CacheError> for OutError {
    fn from(error: CacheError) -> Self {
        OutError::Failed(error.to_string())
    }
}

fn asked<T>(why: impl fmt::Display) -> Result<T, OutError> {
    Err(OutError::Asked(why.to_string()))
}

/// Fails where something lies there already. An empty folder is nothing.
fn check_new(path: &Path) -> Result<(), OutError> {
    let is_empty = std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    match path.symlink_metadata() {
        Ok(_) if !is_empty => asked(format!(
            "`{}` exists already; name another place with `--output`, or remove it",
            path.display()
        )),
        _ => Ok(()),
    }
}
