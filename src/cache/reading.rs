//! What a folder or a file that cannot be read means: that it is gone, that it alone is of no use, or that nothing can go on.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::CacheError;

/// Why a file, or a value in it, could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file is not what its name or its header says.
    Damaged(&'static str),
    /// The file system refused.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ => Self::Io(error),
        }
    }
}

/// The paths in a folder; none if there is no such folder, or a file in its place.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::NotADirectory => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(CacheError::io("list", folder, error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|error| CacheError::io("list", folder, error))
}

/// Whether a file was removed by another process, here or on another machine of a network file system.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
    )
}

/// Whether an error is that of one file, and says nothing of others: its mode, its length, a bad block under it, a folder or a pipe in its
/// place.
pub(super) fn is_of_one_file(error: &io::Error) -> bool {
    /// Input or output error, on Linux and macOS.
    const EIO: i32 = 5;
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::FileTooLarge
    ) || error.raw_os_error() == Some(EIO)
}

/// Says that a file is not used because it cannot be read.
pub(super) fn pass_over(path: &Path, error: &io::Error) {
    tracing::warn!(
        "`{}` cannot be read ({error}); it is not used, and what it holds is computed again",
        path.display()
    );
}
