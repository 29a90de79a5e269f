//! What a folder or a file that cannot be read means: that it is gone, that it alone is of no use, or that nothing can go on.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::CacheError;

/// Why a file, or a value in it, could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file is not what its name or its header says.
    Damaged(&'static str),
    /// It was removed by another process, here or on another machine of a network file system.
    Gone,
    /// The file system refused.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ if is_gone(&error) => Self::Gone,
            _ => Self::Io(error),
        }
    }
}

/// The paths in a folder; none if there is no such folder, or a file in its place.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let paths = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    match paths {
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::NotADirectory => Ok(Vec::new()),
        paths => paths.map_err(|error| CacheError::io("list", folder, error)),
    }
}

/// What is wrong with a file, by what came of reading it; none where it is sound, or gone.
pub(super) fn damage<T>(
    path: &Path,
    read: Result<T, Fault>,
) -> Result<Option<&'static str>, CacheError> {
    match read {
        Ok(_) | Err(Fault::Gone) => Ok(None),
        Err(Fault::Damaged(reason)) => Ok(Some(reason)),
        Err(Fault::Io(error)) => Err(CacheError::io("read", path, error)),
    }
}

/// See [`Fault::Gone`].
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
    )
}

/// Whether an error is that of one file, and says nothing of others: its mode, its length, a bad block under it, a folder or a pipe in its
/// place.
pub(super) fn is_of_one_file(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::PermissionDenied
            | ErrorKind::IsADirectory
            | ErrorKind::InvalidInput
            | ErrorKind::FileTooLarge
    ) || error.raw_os_error() == Some(libc::EIO)
}
