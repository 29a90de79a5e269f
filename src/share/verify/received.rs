//! A shared file taken apart for a check: in a temporary folder, with a cache of its own that has its cells, and nothing else that it says.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Deserialize;
use tempfile::TempDir;

use crate::cache::{Cache, CellStore, Key};
use crate::plan::StageRecord;
use crate::{files, json};

use super::super::again::{Hashes, hashes_from_bytes};
use super::super::layout;
use super::super::read::{ReadError, SharedFile};
use super::outcome::Level;

/// Most prompts of all sets together.
const MOST_PROMPTS: usize = 500_000;
/// Most bytes of a record of a stage.
const RECORD_BYTES: u64 = 64 << 20;

/// The temporary folder of a check that goes on.
static LEFT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Removes what a check that is stopped has in the temporary folder.
pub(crate) fn remove_what_is_left() {
    let left = LEFT.lock().ok().and_then(|mut left| left.take());
    if let Some(folder) = left {
        // Nobody is there any more to be told.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// A shared file in a temporary folder.
pub(super) struct Received {
    _temporary: TempDir,
    /// The files.
    pub(super) folder: PathBuf,
    pub(super) cache: PathBuf,
    /// How many cells its packs have.
    pub(super) cells: u64,
    /// Hashes of activations that are not in the file, by stage.
    pub(super) hashes: BTreeMap<String, Hashes>,
    /// What the file says that its author's cache had, by stage.
    pub(super) records: BTreeMap<String, Sent>,
}

/// A file of `records/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sent {
    pub(super) key: Key,
    pub(super) record: StageRecord,
}

impl Received {
    /// Takes the files out.
    ///
    /// # Errors
    /// An entry that is not what the archive says; a disk that cannot be written.
    pub(super) fn extract(shared: &SharedFile) -> Result<Self, ReadError> {
        let temporary = tempfile::Builder::new()
            .prefix("dial-verify-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        if let Ok(mut left) = LEFT.lock() {
            *left = Some(temporary.path().to_path_buf());
        }
        let folder = temporary.path().join("file");
        std::fs::create_dir(&folder)?;
        shared.extract(&folder)?;
        Ok(Received {
            folder,
            cache: temporary.path().join("cache"),
            _temporary: temporary,
            cells: 0,
            hashes: BTreeMap::new(),
            records: BTreeMap::new(),
        })
    }

    /// Reads cells, hashes and records. What is not sound of them is told in `level`.
    pub(super) fn read(&mut self, shared: &SharedFile, level: &mut Level) {
        let cache = match Cache::open(&self.cache) {
            Ok(cache) => cache,
            Err(error) => return level.problem(layout::CELLS, error.to_string()),
        };
        for entry in &shared.entries {
            let (place, path) = (entry.name.as_str(), self.folder.join(&entry.name));
            let read = match place.split_once('/') {
                Some((layout::CELLS, _)) => self.take_in(&path, &cache),
                Some((layout::HASHES, file)) => self.read_hashes(file, &path),
                Some((layout::RECORDS, file)) => self.read_record(file, &path, &cache),
                _ => Ok(()),
            };
            if let Err(why) = read {
                level.problem(place, why);
            }
        }
    }

    /// Why its prompts are more than a check reads: each takes a thousand bytes of memory and more.
    pub(super) fn too_many_prompts(&self) -> Option<String> {
        let files = std::fs::read_dir(self.folder.join(layout::PROMPTS)).ok()?;
        let lines = files.filter_map(Result::ok).map(|file| {
            let open = files::open(&file.path()).map(BufReader::new);
            open.map_or(0, |reader| reader.split(b'\n').count())
        });
        let lines: usize = lines.sum();
        (lines > MOST_PROMPTS)
            .then(|| format!("have {lines} lines, and a check reads up to {MOST_PROMPTS} prompts"))
    }

    fn take_in(&mut self, path: &Path, cache: &Cache) -> Result<(), String> {
        let taken = cache.cells().take_in(path);
        let count = taken.and_then(|()| CellStore::count_in(path));
        self.cells += count.map_err(|_| "is no sound pack of cells")?;
        Ok(())
    }

    fn read_hashes(&mut self, file: &str, path: &Path) -> Result<(), String> {
        let bytes = files::read(path, files::DATA_BYTES).map_err(unreadable)?;
        let hashes = hashes_from_bytes(&bytes).ok_or("is no list of keys and hashes")?;
        let stage = file.strip_suffix(".bin").unwrap_or(file);
        self.hashes.insert(stage.to_string(), hashes);
        Ok(())
    }

    /// The record is also put into the cache, so that a stage that has another key can be compared with it.
    fn read_record(&mut self, file: &str, path: &Path, cache: &Cache) -> Result<(), String> {
        let text = files::read_text(path, RECORD_BYTES).map_err(unreadable)?;
        let sent: Sent = json::read(&text)?;
        (cache.put_stage_record(&sent.key, &sent.record)).map_err(|error| error.to_string())?;
        let stage = file.strip_suffix(".json").unwrap_or(file);
        self.records.insert(stage.to_string(), sent);
        Ok(())
    }
}

fn unreadable(error: io::Error) -> String {
    format!("cannot be read: {error}")
}
