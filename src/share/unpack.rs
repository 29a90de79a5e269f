//! `dial unpack`: a shared file as a folder in which its study goes on, with a cache of its own.
//!
//! What the file's author computed is in that cache only, which says whose it is. It becomes part of no other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::cache::{Cache, CacheError, Key, write_atomically};
use crate::plan::{StageRecord, key_of};
use crate::{files, json};

use super::read::{ReadError, SharedFile, whole_folder};
use super::withheld::{Withheld, supply};
use super::{inside, layout};

/// The folder of the cache in the unpacked folder: where `dial` looks for it there.
const CACHE: &str = "cache";
/// Most bytes of a record of a stage. Whatever is in it, it takes some ten times as much memory.
const RECORD_BYTES: u64 = 16 << 20;

/// What was unpacked.
pub(crate) struct Unpacked {
    pub(crate) folder: PathBuf,
    pub(crate) files: usize,
    pub(crate) stages: usize,
    /// Prompt sets that are withheld and were not given, with how many prompts each has.
    pub(crate) withheld: Vec<(String, u64)>,
    /// Files that are left out as they hold texts.
    pub(crate) left_out: Vec<String>,
}

/// Why nothing was unpacked.
#[derive(Debug)]
pub(crate) enum UnpackError {
    Read(ReadError),
    Cache(CacheError),
    /// What is in the file does not go together.
    Wrong(String),
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnpackError::Read(error) => error.fmt(f),
            UnpackError::Cache(error) => error.fmt(f),
            UnpackError::Wrong(why) => f.write_str(why),
        }
    }
}

impl From<ReadError> for UnpackError {
    fn from(error: ReadError) -> Self {
        UnpackError::Read(error)
    }
}

impl From<std::io::Error> for UnpackError {
    fn from(error: std::io::Error) -> Self {
        UnpackError::Read(error.into())
    }
}

impl From<CacheError> for UnpackError {
    fn from(error: CacheError) -> Self {
        UnpackError::Cache(error)
    }
}

/// A file of `records/`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    key: Key,
    record: StageRecord,
}

/// Unpacks the shared file at `path` into `folder`, which is absent or empty. `prompts` are files of sets that it does without, by name.
///
/// # Errors
/// A file that is not to be trusted, or whose parts do not go together, or prompts that are not those that were withheld: then `folder` is as
/// it was.
pub(crate) fn unpack(
    path: &Path,
    folder: &Path,
    prompts: &BTreeMap<String, PathBuf>,
) -> Result<Unpacked, UnpackError> {
    let shared = SharedFile::open(path)?;
    let (mut stages, files) = (0, shared.entries.len());
    let mut missing = None;
    let is_taken = |entry: &super::read::Entry| {
        let first = entry.name.split('/').next().unwrap_or_default();
        [CACHE, "runs"].contains(&first.to_lowercase().as_str())
    };
    if let Some(entry) = shared.entries.iter().find(|entry| is_taken(entry)) {
        return Err(UnpackError::Wrong(format!(
            "`{}` lies where the unpacked folder has a cache and runs of its own",
            entry.name
        )));
    }
    inside::check_sizes(&shared.entries).map_err(UnpackError::Wrong)?;
    whole_folder(folder, |new| {
        shared.extract(new)?;
        inside::check(new).map_err(UnpackError::Wrong)?;
        missing = supply(new, prompts).map_err(UnpackError::Wrong)?;
        let cache = Cache::open(&new.join(CACHE))?;
        cache.mark_as_received(&shared.top)?;
        stages = fill(&cache, new)?;
        Ok::<(), UnpackError>(())
    })?;
    Ok(Unpacked {
        folder: folder.to_path_buf(),
        files,
        stages,
        withheld: missing.iter().flat_map(still_withheld(prompts)).collect(),
        left_out: missing
            .into_iter()
            .flat_map(|withheld| withheld.files)
            .collect(),
    })
}

fn still_withheld(given: &BTreeMap<String, PathBuf>) -> impl Fn(&Withheld) -> Vec<(String, u64)> {
    move |withheld| {
        let sets = withheld.sets.iter();
        let sets = sets.filter(|(name, _)| !given.contains_key(*name));
        sets.map(|(name, set)| (name.clone(), set.count)).collect()
    }
}

/// Puts artifacts, cells and records of the unpacked folder into its cache. Returns the number of stages.
fn fill(cache: &Cache, folder: &Path) -> Result<usize, UnpackError> {
    let mut objects = HashMap::new();
    for kind in [layout::TABLES, layout::DIRECTIONS, layout::TENSORS] {
        for path in layout::files_in(&folder.join(kind))? {
            let mut object = cache.new_object()?;
            io::copy(&mut files::open(&path)?, &mut object)?;
            objects.insert(object.finish()?, path);
        }
    }
    for path in layout::files_in(&folder.join(layout::CELLS))? {
        cache.cells().take_in(&path)?;
    }
    let records = layout::files_in(&folder.join(layout::RECORDS))?;
    for path in &records {
        let shown = path.strip_prefix(folder).unwrap_or(path).display();
        let wrong =
            |why: String| UnpackError::Wrong(format!("`{shown}` is no record of a stage: {why}"));
        let text =
            files::read_text(path, RECORD_BYTES).map_err(|error| wrong(error.to_string()))?;
        let sent: Sent = json::read(&text).map_err(wrong)?;
        if sent.key != key_of(&sent.record.key_parts) {
            return Err(UnpackError::Wrong(format!(
                "`{shown}` is under another key than its stage has"
            )));
        }
        if let Some(object) = sent
            .record
            .objects()
            .find(|object| !objects.contains_key(*object))
        {
            return Err(UnpackError::Wrong(format!(
                "`{shown}` speaks of a table, a direction or arrays with the hash `{object}`, and none in the file has it"
            )));
        }
        cache.put_stage_record(&sent.key, &sent.record)?;
    }
    Ok(records.len())
}

/// The file in the folder of a cache that says that it came from somebody else, and with what.
const RECEIVED: &str = "RECEIVED";

impl Cache {
    /// Marks the cache as what came with a shared file.
    fn mark_as_received(&self, from: &str) -> Result<(), CacheError> {
        let text = format!(
            "{from}\n\nWhat is in this cache came with a file of that name, and was computed by its author. Do not copy it into a cache of your own.\n"
        );
        write_atomically(&self.folder.join(RECEIVED), text.as_bytes())
    }

    /// The name of the shared file that the cache came with, where it did.
    pub(crate) fn received(&self) -> Option<String> {
        let text = files::read_text(&self.folder.join(RECEIVED), files::SETTINGS_BYTES).ok()?;
        text.lines().next().map(str::to_string)
    }
}

#[cfg(test)]
mod tests;
