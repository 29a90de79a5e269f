//! A shared file, which may be anybody's: what is in it is known, and held against limits, before anything is taken out.
//!
//! The reader is strict. An archive is what `write` writes, and nothing else: entries that lie back to back from the first byte to the directory,
//! each with a header that says what the directory says, and the end behind it. So there is one reading of it, and no room for a second.
//!
//! ```text
//! directory    the entries, as the archive's end and its directory have them
//! names        which names a file may have
//! extract      the content of an entry, and all of them into a folder
//! ```

mod directory;
mod extract;
mod names;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

pub(crate) use extract::whole_folder;

/// Most files in an archive.
const MOST_ENTRIES: usize = 20_000;
/// Most bytes of all files of an archive together.
const MOST_BYTES: u64 = 4 << 30;
/// Most bytes that one byte of an archive may become, in an entry that is larger than [`SMALL_BYTES`].
const MOST_RATIO: u64 = 250;
const SMALL_BYTES: u64 = 4 << 20;

/// An archive whose directory has been read and is sound.
#[derive(Debug)]
pub(crate) struct SharedFile {
    file: File,
    /// The one folder that everything is in.
    pub(crate) top: String,
    pub(crate) entries: Vec<Entry>,
}

/// A file in an archive.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place below the folder.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Where its content starts in the archive, and how long it is there.
    start: u64,
    packed: u64,
    is_deflated: bool,
    crc: u32,
}

/// Why an archive is not read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    /// It is not such an archive, or not one to be trusted with a disk: why.
    Refused(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Io(error) => error.fmt(f),
            ReadError::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        ReadError::Io(error)
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, ReadError> {
    Err(ReadError::Refused(why.into()))
}

impl SharedFile {
    /// Reads the directory of the archive at `path`. No entry is read.
    ///
    /// # Errors
    /// What is no such archive, or is beyond a limit.
    pub(crate) fn open(path: &Path) -> Result<Self, ReadError> {
        let file = crate::files::open(path)?;
        let found = directory::read(&file)?;
        let (top, entries) = names::checked(found)?;
        Ok(SharedFile { file, top, entries })
    }
}
