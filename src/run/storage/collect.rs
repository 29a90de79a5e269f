//! Deleting from a cache: by age, down to a size, or what no run refers to.
//!
//! What is deleted is whole: a stage's output (its record, and the objects that no other record names) or a pack of cells. Records go before
//! the objects they name, so that a collection that is cut short leaves a sound cache: a stage whose record is gone is made again from its
//! cells, and a cell whose pack is gone is computed again, to the same bits.
//!
//! Down to a size, what is cheapest to have again per byte goes first. What it costs is what it took: the seconds that a stage ran, or
//! that a pack's cells were computed in. (A stage's seconds include those of its cells, so outputs, which are small, go last.)

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::cache::{Cache, CacheError, FileKind, Lease, StoredFile};
use crate::plan::Record;

use super::{Content, Inventory, Name, objects_of};

/// A temporary file of that age belongs to a process that is gone.
const HALF_WRITTEN_FOR: Duration = Duration::from_secs(3600);

/// What to delete: everything that meets any of these.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Criteria {
    pub(crate) older_than: Option<Duration>,
    /// What is too much for this many bytes.
    pub(crate) keep_bytes: Option<u64>,
    pub(crate) unreferenced: bool,
}

/// What was deleted, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Collected {
    pub(crate) stages: usize,
    /// What was drawn of runs.
    pub(crate) reports: usize,
    /// Objects, those of the stages and reports among them.
    pub(crate) objects: usize,
    pub(crate) packs: usize,
    pub(crate) cells: usize,
    pub(crate) bytes: u64,
    pub(crate) kept_bytes: u64,
    /// Files among all these that could not be deleted.
    pub(crate) not_deleted: usize,
}

/// Something that is deleted as a whole: a record with its objects, a pack, or an object that no record names.
struct Candidate {
    name: Name,
    bytes: u64,
    seconds: f64,
    made: SystemTime,
    referenced: bool,
}

/// Deletes from the cache what meets the criteria, for the runs in the folder `runs`; without a lease
/// ([`Cache::lease_to_collect`]) it only says what that would be.
///
/// # Errors
/// A run cannot be read, so that it is not known what it refers to; a folder cannot be listed; the lease has lapsed, because this process
/// was stopped so long that runs have taken it for dead, and do not wait for it any more.
pub(crate) fn collect(
    cache: &Cache,
    runs: &Path,
    criteria: &Criteria,
    lease: Option<&Lease>,
) -> Result<Collected, CacheError> {
    let mut inventory = Inventory::of(cache, runs)?;
    if let Some((path, why)) = inventory.unreadable.pop() {
        return Err(CacheError::Other(format!(
            "nothing was deleted: `{}` cannot be read ({why}), and so it is not known what that run refers to; mend or remove its folder",
            path.display()
        )));
    }
    let chosen = choose(candidates(&inventory), inventory.bytes, criteria);
    let (files, mut collected) = files_of(&inventory, &chosen);
    collected.kept_bytes = inventory.bytes.saturating_sub(collected.bytes);
    let Some(lease) = lease else {
        return Ok(collected);
    };
    for (deleted, file) in files.iter().enumerate() {
        if !lease.is_held() {
            return Err(CacheError::Other(format!(
                "only {deleted} of {} files were deleted: this process stood still for so long that runs may not wait for it any more; start it again",
                files.len()
            )));
        }
        if let Err(error) = cache.remove(file) {
            tracing::warn!("{error}");
            collected.not_deleted += 1;
            collected.bytes -= file.bytes;
            collected.kept_bytes += file.bytes;
        }
    }
    for path in cache.leftovers()?.half_written {
        let written = path.metadata().and_then(|metadata| metadata.modified());
        let age = written.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > HALF_WRITTEN_FOR) {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(collected)
}

fn candidates(inventory: &Inventory) -> Vec<Candidate> {
    let runs = inventory.runs.iter();
    let referred: BTreeSet<Name> = runs.flat_map(|run| inventory.references(run)).collect();
    let naming = naming(inventory);
    let mut candidates = Vec::new();
    for (name, item) in &inventory.items {
        let mut bytes = item.file.bytes;
        let (seconds, created) = match &item.content {
            Content::Record(record) => {
                // What several records name counts for each in part.
                let share = |object: &Name| inventory.bytes_of([object]) / naming[object];
                bytes += objects_of(record).iter().map(share).sum::<u64>();
                (record.seconds(), record.created())
            }
            Content::Pack { origin, .. } => (origin.seconds, origin.created.as_str()),
            Content::Object if naming.contains_key(name) => continue,
            Content::Object => (0.0, ""),
        };
        candidates.push(Candidate {
            name: *name,
            bytes,
            seconds,
            made: made(created, &item.file),
            referenced: referred.contains(name),
        });
    }
    candidates
}

/// How many records name each object.
fn naming(inventory: &Inventory) -> HashMap<Name, u64> {
    let mut naming = HashMap::new();
    for item in inventory.items.values() {
        if let Content::Record(record) = &item.content {
            for object in objects_of(record) {
                *naming.entry(object).or_default() += 1;
            }
        }
    }
    naming
}

/// When something was made: as it says itself, or else as its file does.
fn made(created: &str, file: &StoredFile) -> SystemTime {
    let stated = created.parse::<Timestamp>().ok();
    let stated = stated.and_then(|time| SystemTime::try_from(time).ok());
    stated.or(file.modified).unwrap_or_else(SystemTime::now)
}

fn choose(mut candidates: Vec<Candidate>, total_bytes: u64, criteria: &Criteria) -> Vec<Name> {
    let now = SystemTime::now();
    let goes = |candidate: &Candidate| {
        let age = now.duration_since(candidate.made).unwrap_or_default();
        let is_old = criteria.older_than.is_some_and(|oldest| age > oldest);
        is_old || criteria.unreferenced && !candidate.referenced
    };
    let per_byte = |candidate: &Candidate| candidate.seconds / candidate.bytes.max(1) as f64;
    candidates.sort_by(|a, b| per_byte(a).total_cmp(&per_byte(b)));
    // What goes anyway makes room for the rest.
    candidates.sort_by_key(|candidate| !goes(candidate));
    let mut kept_bytes = total_bytes;
    candidates.retain(|candidate| {
        let is_too_much = criteria.keep_bytes.is_some_and(|most| kept_bytes > most);
        let is_chosen = goes(candidate) || is_too_much;
        if is_chosen {
            kept_bytes = kept_bytes.saturating_sub(candidate.bytes);
        }
        is_chosen
    });
    candidates.into_iter().map(|chosen| chosen.name).collect()
}

/// The files of what was chosen, records first, and their count.
fn files_of<'a>(inventory: &'a Inventory, chosen: &[Name]) -> (Vec<&'a StoredFile>, Collected) {
    let mut naming = naming(inventory);
    let mut collected = Collected::default();
    let mut files = Vec::new();
    for item in chosen.iter().filter_map(|name| inventory.items.get(name)) {
        files.push(&item.file);
        match &item.content {
            Content::Object => {}
            Content::Pack { cells, .. } => {
                collected.packs += 1;
                collected.cells += cells;
            }
            Content::Record(record) => {
                match record {
                    Record::Stage(_) => collected.stages += 1,
                    Record::Drawn(_) => collected.reports += 1,
                }
                for object in objects_of(record) {
                    let count = naming.entry(object).or_insert(1);
                    *count -= 1;
                    if *count == 0 {
                        files.extend(inventory.items.get(&object).map(|item| &item.file));
                    }
                }
            }
        }
    }
    files.sort_by_key(|file| file.kind);
    let objects = files.iter().filter(|file| file.kind == FileKind::Object);
    collected.objects = objects.count();
    collected.bytes = files.iter().map(|file| file.bytes).sum();
    (files, collected)
}
