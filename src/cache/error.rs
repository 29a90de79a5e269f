//! What can go wrong with the cache's folder, told with what to do about it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{LAYOUT_VERSION, Untrusted};

/// A failure of the cache, or of [`write_atomically`](super::write_atomically). A damaged file is none: it
/// counts as missing.
#[derive(Debug)]
pub enum CacheError {
    /// The file system refused an operation.
    Io {
        /// What was tried, as it reads after "cannot".
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The folder holds a cache of another layout version.
    Version {
        /// The `VERSION` file.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// A run's folder, or files that were written into it, are not there any more.
    Vanished {
        /// The run's folder.
        run: PathBuf,
        /// The files, as paths in the folder; none where the folder itself was deleted, moved or replaced.
        files: Vec<PathBuf>,
    },
    /// Packs that hold what cannot be right.
    Untrusted(Untrusted),
    /// A record or a provenance has no JSON form.
    Encode(serde_json::Error),
    /// Something else, as it is told.
    Other(String),
}

impl CacheError {
    /// `operation` as it reads after "cannot".
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

/// What is wrong and what to do about it, in a person's words where it is theirs to mend.
fn advice(source: &io::Error) -> String {
    let known = match source.kind() {
        ErrorKind::StorageFull => {
            "the disk is full; free some space, or choose a folder on another disk (`--cache`, `--runs`), \
             and run the same command again: what is already stored is kept"
        }
        ErrorKind::QuotaExceeded => {
            "your disk quota is used up; free some space, or choose a folder on another disk (`--cache`, \
             `--runs`), and run the same command again: what is already stored is kept"
        }
        ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only; choose a folder that can be written (`--cache`, `--runs`)"
        }
        ErrorKind::PermissionDenied => {
            "permission denied; check its owner and mode, or choose a folder of your own (`--cache`, \
             `--runs`)"
        }
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a folder is needed; choose another folder (`--cache`, `--runs`)"
        }
        _ => {
            return format!(
                "{source}; check the disk and the path, then run the same command again: what is already stored is kept"
            );
        }
    };
    known.to_string()
}

/// Says of a run's folder, or of files of it, that they are gone.
fn vanished(run: &Path, files: &[PathBuf]) -> String {
    let run = run.display();
    let what = match files {
        [] => format!("the run's folder `{run}` was deleted, moved or replaced"),
        [file] => format!("`{run}/{}` was deleted", file.display()),
        [file, more @ ..] => format!(
            "`{run}/{}` and {} more files of the run were deleted",
            file.display(),
            more.len()
        ),
    };
    format!(
        "{what} while the study ran; run the same command again: what was computed is kept in the cache"
    )
}

/// Says that a folder holds a cache of another version.
fn other_version(path: &Path, found: &str) -> String {
    let is_newer = found
        .parse()
        .is_ok_and(|version: u32| version > LAYOUT_VERSION);
    let why = match is_newer {
        true => "it was written by a newer `dial`; use that one, or",
        false => "this is not a cache that `dial` wrote;",
    };
    let path = path.display();
    format!(
        "`{path}` says version `{found}`, expected `{LAYOUT_VERSION}`: {why} choose another folder with `--cache`"
    )
}

impl fmt::Display for CacheError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Io {
                operation,
                path,
                source,
            } => format!(
                "cannot {operation} `{}`: {}",
                path.display(),
                advice(source)
            ),
            Self::Version { path, found } => other_version(path, found),
            Self::Vanished { run, files } => vanished(run, files),
            Self::Untrusted(untrusted) => {
                format!("{untrusted}; `dial cache verify` moves them aside")
            }
            Self::Encode(source) => format!("cannot write a cache record as JSON: {source}"),
            Self::Other(told) => told.clone(),
        };
        formatter.write_str(&text)
    }
}

impl std::error::Error for CacheError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Encode(source) => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_path_the_operation_and_a_remedy() {
        // Linux and macOS error numbers: no space, read-only file system, permission denied.
        for (number, cause, remedy) in [
            (28, "disk is full", "free some space"),
            (30, "read-only", "choose a folder"),
            (13, "permission denied", "owner and mode"),
        ] {
            let source = io::Error::from_raw_os_error(number);
            let message = CacheError::io("write", Path::new("c/x"), source).to_string();
            assert!(message.starts_with("cannot write `c/x`: "), "{message}");
            assert!(message.contains(cause), "{message}");
            assert!(message.contains(remedy), "{message}");
        }
    }

    #[test]
    fn other_causes_are_passed_on() {
        let source = io::Error::other("the cable is out");
        let message = CacheError::io("read", Path::new("c/x"), source).to_string();
        let expected = "cannot read `c/x`: the cable is out; check the disk";
        assert!(message.starts_with(expected), "{message}");
    }
}
