//! `dial unpack`: a shared file as a folder in which its study goes on, with a cache of its own.
//!
//! What the file's author computed is in that cache only, which says whose it is. It becomes part of no other.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;

use crate::cache::{Cache, CacheError, Key, write_atomically};
use crate::plan::{Lock, LockError, StageRecord, Study, key_of};
use crate::prompts::PromptSet;
use crate::spec::{Problems, load_alone};
use crate::stages::parquet_rows;
use crate::{files, json};

use super::read::{ReadError, SharedFile, whole_folder};
use super::withheld::{self, Withheld, WithheldSet};
use super::{inside, layout};

/// The folder of the cache in the unpacked folder: where `dial` looks for it there.
const CACHE: &str = "cache";
/// Most bytes of a record of a stage. Whatever is in it, it takes some ten times as much memory.
const RECORD_BYTES: u64 = 16 << 20;
/// Most bytes of the keys of a pack's cells, which lie in memory while it is checked: some six million cells.
const PACK_HEADER_BYTES: u64 = 256 << 20;
/// Most rows of a table.
const MOST_ROWS: usize = 1 << 26;
/// Most bytes of a value in a pack: a score has a few, and what a model wrote not many more.
const PACK_VALUE_BYTES: u64 = 16 << 20;

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

/// Puts the files of withheld prompt sets in their place, and their hashes into the lock. Gives what is withheld.
fn supply(folder: &Path, prompts: &BTreeMap<String, PathBuf>) -> Result<Option<Withheld>, String> {
    let withheld = Withheld::in_folder(folder)?;
    let sets = withheld.iter().flat_map(|withheld| &withheld.sets);
    let sets: BTreeMap<&str, &WithheldSet> = sets.map(|(name, set)| (name.as_str(), set)).collect();
    let mut found = BTreeMap::new();
    for (name, path) in prompts {
        let shown = path.display();
        let set = sets
            .get(name.as_str())
            .ok_or_else(|| match sets.is_empty() {
                true => format!(
                    "no prompts are withheld in it, so that `--prompts {name}={shown}` has no place"
                ),
                false => {
                    let known: Vec<&str> = sets.keys().copied().collect();
                    format!(
                        "it withholds no prompt set `{name}`; those that it does are `{}`",
                        known.join("`, `")
                    )
                }
            })?;
        let content = files::read(path, files::DATA_BYTES);
        let content = content.map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
        withheld::matches(&content, set)
            .map_err(|why| format!("`{shown}` is not prompt set `{name}` as it was run: {why}"))?;
        let place = folder.join(&set.file);
        let written = place.parent().map_or(Ok(()), fs::create_dir_all);
        let written = written.and_then(|()| File::create_new(&place)?.write_all(&content));
        written.map_err(|error| format!("`{}` cannot be written: {error}", set.file))?;
        found.insert(name.as_str(), place);
    }
    complete_lock(folder, &found)?;
    Ok(withheld)
}

/// Puts what the lock of a shared file left out where prompts were withheld: the hashes of these, which are here now.
fn complete_lock(folder: &Path, found: &BTreeMap<&str, PathBuf>) -> Result<(), String> {
    let path = folder.join(layout::LOCK);
    if found.is_empty() || !path.is_file() {
        return Ok(());
    }
    let told = |error: &dyn fmt::Display| format!("`{}`: {error}", layout::LOCK);
    let lock = Lock::read(&path).map_err(|error| match error {
        LockError::Damaged(diagnostics) => told(&diagnostics),
        LockError::Unreadable(message) => message,
    })?;
    let Some(mut lock) = lock else {
        return Ok(());
    };
    let document = load_alone(&folder.join(layout::STUDY)).map_err(|error| told(&error))?;
    let study = Study::read(document, "study", &mut Problems::default());
    for (name, place) in found {
        let set = PromptSet::load(place).map_err(|error| told(&error))?;
        let draw = study
            .as_ref()
            .and_then(|study| study.prompts.get(*name)?.draw.clone());
        let set = match draw {
            Some(draw) => set.drawn(place, &draw).map_err(|error| told(&error))?,
            None => set,
        };
        if let Some(locked) = lock.prompts.get_mut(*name) {
            locked.content = set.content_hash().to_hex().to_string();
        }
    }
    let text = lock.to_text()?;
    fs::write(&path, text).map_err(|error| told(&error))
}

/// Puts artifacts, cells and records of the unpacked folder into its cache. Returns the number of stages.
fn fill(cache: &Cache, folder: &Path) -> Result<usize, UnpackError> {
    let mut objects = HashMap::new();
    for kind in [layout::TABLES, layout::DIRECTIONS] {
        for path in files_in(&folder.join(kind))? {
            check_rows(&path)?;
            let mut object = cache.new_object()?;
            io::copy(&mut files::open(&path)?, &mut object)?;
            objects.insert(object.finish()?, path);
        }
    }
    for path in files_in(&folder.join(layout::CELLS))? {
        cache
            .cells()
            .take_in(&path, PACK_HEADER_BYTES, PACK_VALUE_BYTES)?;
    }
    let records = files_in(&folder.join(layout::RECORDS))?;
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
                "`{shown}` speaks of a table or a direction with the hash `{object}`, and none in the file has it"
            )));
        }
        cache.put_stage_record(&sent.key, &sent.record)?;
    }
    Ok(records.len())
}

/// Checks that a table is no small file of more rows than a memory holds.
fn check_rows(path: &Path) -> Result<(), UnpackError> {
    if path
        .extension()
        .is_none_or(|extension| extension != "parquet")
    {
        return Ok(());
    }
    let shown = path.file_name().unwrap_or_default().display();
    let rows = parquet_rows(files::open(path)?);
    let rows =
        rows.map_err(|error| UnpackError::Wrong(format!("`{shown}` is no table: {error}")))?;
    match rows <= MOST_ROWS {
        true => Ok(()),
        false => Err(UnpackError::Wrong(format!(
            "`{shown}` has {rows} rows, and a table may have {MOST_ROWS}"
        ))),
    }
}

/// The files of a folder in the order of their names; none where there is no such folder.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, UnpackError> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
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
