//! The content-addressed store: everything that a study has computed, found again by what it depends on.
//!
//! One folder holds it, and several processes may use that folder at once:
//!
//! ```text
//! cache/
//!   VERSION                        the layout's version; a folder of another version is refused
//!   v1/
//!     objects/ab/<hex>             an artifact, named by the BLAKE3 hash of its bytes
//!     objects/new/                 artifacts that are being written, and have no name yet
//!     packs/ab/<hex>.pack          one committed batch of cells, never changed afterwards (see `pack.rs`)
//!     stages/ab/<hex>.json         a stage record, named by its stage key (see `record.rs`)
//!     weights/ab/<hex>.json        the known hash of a weight file, named by the hash of its path
//!     tokenizers/ab/<hex>.json     what a tokenizer answered while studies were opened, named by the hash of its content
//!     leases/<hex>.json, .cells    what a run that is alive is computing (see `lease.rs`)
//!     damaged/                     files that failed their check, moved here for a person to look at
//! ```
//!
//! `ab` is the first byte of the name in hexadecimal: a million files put some four thousand into each
//! folder. Names that are not of these forms (a README, another process's temporary file) are passed over.
//!
//! Four rules keep it sound without locks between processes (leases divide the work, and nothing depends on them):
//!
//! - *Whole or absent.* Every file is written beside its final place, synced and renamed into it. A process
//!   killed at any instant leaves at most a `.tmp-…` file, which no reader looks at.
//! - *Checked when read.* Objects and packs are named by their content; records carry a checksum over their
//!   key and text; a value is checked once more when it is read from a pack. What fails is moved to `damaged/`,
//!   reported, and counts as missing, so it is computed again. What cannot be read is reported and passed over.
//! - *Trusted as long as nothing speaks against it.* That a value belongs to its key no check of content can show. Packs that hold
//!   one cell with different values, or a value that no evaluation gives, are moved aside all of them (see `untrusted.rs`).
//! - *Same name, same content.* Two processes that compute the same thing write the same file, and whichever
//!   rename comes last changes nothing.
//!
//! What a method does not say otherwise fails with [`CacheError::Io`], where the system refuses to read or write.
//!
//! A cache that cannot be written still serves what it holds: opening an existing folder and reading from it
//! write nothing, except that a damaged file stays where it is if it cannot be moved.

mod atomic;
mod cells;
mod error;
mod files;
mod health;
mod index;
mod key;
mod layout;
mod lease;
mod object;
mod pack;
mod reading;
mod record;
mod tokenizers;
mod untrusted;
mod weights;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) use atomic::write_atomically;
pub(crate) use cells::CellStore;
pub(crate) use error::CacheError;
pub(crate) use files::StoredFile;
pub(crate) use health::{Health, existing_part, try_writing};
pub(crate) use index::{CellSet, Place};
pub use key::Key;
pub(crate) use layout::FileKind;
pub(crate) use lease::{Lease, Users, Wanted};
pub use pack::Batch;
pub(crate) use untrusted::Untrusted;

use layout::Layout;

/// The version of the layout drawn in the module documentation, as the file `VERSION` states it.
const LAYOUT_VERSION: u32 = 1;

/// An open cache folder. Several threads may use one value, and several processes one folder.
pub struct Cache {
    pub(crate) folder: PathBuf,
    layout: Layout,
    cells: CellStore,
}

impl Cache {
    /// Opens the cache in `folder`, creating the folder and its `VERSION` file where they are absent.
    ///
    /// # Errors
    /// [`CacheError::Version`] if the folder holds another version's cache.
    pub fn open(folder: &Path) -> Result<Self, CacheError> {
        check_version(folder)?;
        let layout = Layout::new(folder);
        Ok(Self {
            folder: folder.to_path_buf(),
            cells: CellStore::new(layout.clone()),
            layout,
        })
    }

    /// Whether the folder holds a cache, of whatever version.
    pub(crate) fn is_in(folder: &Path) -> bool {
        folder.join("VERSION").is_file() || folder.join(format!("v{LAYOUT_VERSION}")).is_dir()
    }

    /// The cells: evaluated readouts by cell key.
    pub fn cells(&self) -> &CellStore {
        &self.cells
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads `VERSION`, or writes it into a folder that has none.
fn check_version(folder: &Path) -> Result<(), CacheError> {
    let path = folder.join("VERSION");
    match crate::files::read(&path, crate::files::SETTINGS_BYTES) {
        Ok(bytes) => {
            let found = String::from_utf8_lossy(&bytes).trim().to_owned();
            if found == LAYOUT_VERSION.to_string() {
                return Ok(());
            }
            Err(CacheError::Version { path, found })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let has_vanished = check_vanished_version(folder, &path)?;
            match write_atomically(&path, format!("{LAYOUT_VERSION}\n").as_bytes()) {
                // It still serves what it holds.
                Err(error) if has_vanished => tracing::warn!("{error}"),
                written => written?,
            }
            Ok(())
        }
        Err(error) => Err(CacheError::io("read", &path, error)),
    }
}

/// A folder without `VERSION` is a new cache, or one that has lost it: then its folders tell whose it is. Whether it is one of those.
fn check_vanished_version(folder: &Path, path: &Path) -> Result<bool, CacheError> {
    let versions = reading::list(folder)?.into_iter().filter_map(|entry| {
        let version = entry.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        version.filter(|_: &u32| entry.is_dir())
    });
    let versions: Vec<u32> = versions.collect();
    if let Some(other) = versions.iter().find(|version| **version != LAYOUT_VERSION) {
        return Err(CacheError::Version {
            path: folder.join(format!("v{other}")),
            found: other.to_string(),
        });
    }
    if !versions.is_empty() {
        tracing::warn!("`{}` has vanished; it is written again", path.display());
    }
    Ok(!versions.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_for_version(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("VERSION"), text).unwrap();
        let error = Cache::open(folder.path()).err().unwrap();
        let entries = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(entries, 1, "a refused folder must be left as it was");
        error.to_string()
    }

    #[test]
    fn a_future_version_is_refused_and_says_so() {
        let message = message_for_version("2\n");
        assert!(message.contains("version `2`"), "{message}");
        assert!(message.contains("newer"), "{message}");
        assert!(message.contains("--cache"), "{message}");
    }

    #[test]
    fn a_version_that_is_no_number_is_refused() {
        let message = message_for_version("one\n");
        assert!(message.contains("`one`"), "{message}");
        assert!(!message.contains("newer"), "{message}");
        assert!(message_for_version("").contains("``"));
    }

    #[test]
    fn a_vanished_version_is_read_off_the_folders() {
        let folder = tempfile::tempdir().unwrap();
        let key = Cache::open(folder.path())
            .unwrap()
            .put_object(b"x")
            .unwrap();
        std::fs::remove_file(folder.path().join("VERSION")).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(cache.object(&key).unwrap().unwrap(), b"x");
        assert!(folder.path().join("VERSION").exists());
        // A newer program's cache that has lost its file stays its own.
        std::fs::remove_file(folder.path().join("VERSION")).unwrap();
        std::fs::create_dir(folder.path().join("v2")).unwrap();
        let message = Cache::open(folder.path()).err().unwrap().to_string();
        assert!(message.contains("newer"), "{message}");
        assert!(!folder.path().join("VERSION").exists());
    }

    #[test]
    fn opening_again_keeps_what_is_there_and_a_readme() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("README.md"), "about").unwrap();
        let key = Cache::open(folder.path())
            .unwrap()
            .put_object(b"x")
            .unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(cache.object(&key).unwrap().unwrap(), b"x");
        let readme = std::fs::read(folder.path().join("README.md")).unwrap();
        assert_eq!(readme, b"about");
    }

    #[test]
    fn opening_an_existing_cache_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("VERSION"), "1\n").unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let key = Key::of(b"absent");
        assert!(cache.object(&key).unwrap().is_none());
        assert!(cache.cells().get(&key).unwrap().is_none());
        assert!(cache.stage_record::<u32>(&key).unwrap().is_none());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_in_the_folder_s_place_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let message = Cache::open(&path).err().unwrap().to_string();
        assert!(
            message.contains(&path.display().to_string()),
            "names no path: {message}"
        );
    }

    #[test]
    fn a_cache_may_be_shared_between_threads() {
        fn assert_shareable<T: Send + Sync>() {}
        assert_shareable::<Cache>();
    }
}
