//! `dial report`: the page and the figures of a run that is there.

use std::path::PathBuf;

use clap::Args;

use crate::report::{self, ReportError};

use super::{Failure, print, shown};

#[derive(Args)]
pub(super) struct ReportArguments {
    /// A run's folder, such as `runs/quickstart/latest`.
    run: PathBuf,
}

pub(super) fn report(arguments: &ReportArguments) -> Result<(), Failure> {
    let path = report::write(&arguments.run).map_err(failure)?;
    print(&format!("{}\n", shown(&path)))
}

/// A folder that is no run's is the command line's mistake.
pub(super) fn failure(error: ReportError) -> Failure {
    match error {
        ReportError::NotARun(_) => Failure::Usage(error.to_string()),
        other => Failure::Failed(other.to_string()),
    }
}
