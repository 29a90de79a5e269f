//! Deleting from a cache: by age, down to a size, or what no run refers to.
//!
//! What is deleted is whole: a stage's output (its record, and the objects that no other record names) or a pack of cells. Records go before
//! the objects they name, so that a collection that is cut short leaves a sound cache: a stage whose record is gone is made again from its
//! cells, and a cell whose pack is gone is computed again, to the same bits.
//!
//! Down to a size, what is cheapest to have again per byte goes first. What it costs is what it took: the seconds that a stage ran, or
//! that a pack's cells were computed in. (A stage's seconds include those of its cells, so outputs, which are small, go last.)

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

use crate::cache::{Cache, CacheError, Key, Lease, StoredFile};
use crate::plan::Record;

use super::{Inventory, References};

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

/// Something that is deleted as a whole.
struct Item {
    what: What,
    bytes: u64,
    seconds: f64,
    made: SystemTime,
    referenced: bool,
}

#[derive(Clone, Copy)]
enum What {
    Record(usize),
    Pack(usize),
    /// An object that no record names.
    Object(Key),
}

/// Deletes from the cache what meets the criteria, for the runs in the folder `runs`; without a lease
/// ([`Cache::lease_to_collect`]) it only says what that would be.
///
/// # Errors
/// [`CacheError::UnknownUse`] where a run cannot be read; [`CacheError::Io`] where a folder cannot be listed; [`CacheError::Overtaken`]
/// where the lease has lapsed.
pub(crate) fn collect(
    cache: &Cache,
    runs: &Path,
    criteria: &Criteria,
    lease: Option<&Lease>,
) -> Result<Collected, CacheError> {
    let mut inventory = Inventory::of(cache, runs)?;
    if let Some(unreadable) = inventory.unreadable.pop() {
        return Err(unreadable);
    }
    let chosen = choose(items(&inventory), inventory.bytes, criteria);
    let (files, mut collected) = files_of(&inventory, &chosen);
    collected.kept_bytes = inventory.bytes.saturating_sub(collected.bytes);
    let Some(lease) = lease else {
        return Ok(collected);
    };
    for (deleted, file) in files.iter().enumerate() {
        if !lease.is_held() {
            let of = files.len();
            return Err(CacheError::Overtaken { deleted, of });
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

fn items(inventory: &Inventory) -> Vec<Item> {
    let mut referred = References::default();
    inventory
        .references()
        .iter()
        .for_each(|of_run| referred.add(of_run));
    let names = names_of(inventory);
    let mut items = Vec::new();
    for (index, record) in inventory.records.iter().enumerate() {
        let objects = record.objects();
        let share = |key: &Key| {
            let bytes = inventory.objects.get(key).map_or(0, |file| file.bytes);
            bytes / names.get(key).copied().unwrap_or(1) as u64
        };
        items.push(Item {
            what: What::Record(index),
            bytes: record.file.bytes + objects.iter().map(share).sum::<u64>(),
            seconds: record.record.seconds(),
            made: made(record.record.created(), &record.file),
            referenced: referred.records.contains(&index),
        });
    }
    for (index, pack) in inventory.packs.iter().enumerate() {
        items.push(Item {
            what: What::Pack(index),
            bytes: pack.file.bytes,
            seconds: pack.origin.seconds,
            made: made(&pack.origin.created, &pack.file),
            referenced: referred.packs.contains(&index),
        });
    }
    let nameless = inventory.objects.iter();
    items.extend(
        nameless
            .filter(|(key, _)| !names.contains_key(key))
            .map(|(key, file)| Item {
                what: What::Object(*key),
                bytes: file.bytes,
                seconds: 0.0,
                made: made("", file),
                referenced: false,
            }),
    );
    items
}

/// How many records name each object.
fn names_of(inventory: &Inventory) -> HashMap<Key, usize> {
    let mut names = HashMap::new();
    for record in &inventory.records {
        for key in record.objects() {
            *names.entry(key).or_insert(0) += 1;
        }
    }
    names
}

/// When something was made: as it says itself, or else as its file does.
fn made(created: &str, file: &StoredFile) -> SystemTime {
    let stated = created.parse::<Timestamp>().map(|time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0))
    });
    stated
        .ok()
        .or(file.modified)
        .unwrap_or_else(SystemTime::now)
}

fn choose(mut items: Vec<Item>, total_bytes: u64, criteria: &Criteria) -> Vec<What> {
    let now = SystemTime::now();
    let is_old = |item: &Item| {
        let age = now.duration_since(item.made).unwrap_or_default();
        criteria.older_than.is_some_and(|oldest| age > oldest)
    };
    let per_byte = |item: &Item| item.seconds / item.bytes.max(1) as f64;
    items.sort_by(|a, b| per_byte(a).total_cmp(&per_byte(b)));
    let mut kept_bytes = total_bytes;
    let mut chosen = Vec::new();
    let (now_gone, rest): (Vec<Item>, Vec<Item>) = items
        .into_iter()
        .partition(|item| is_old(item) || criteria.unreferenced && !item.referenced);
    for item in now_gone {
        kept_bytes = kept_bytes.saturating_sub(item.bytes);
        chosen.push(item.what);
    }
    for item in rest {
        if criteria.keep_bytes.is_some_and(|most| kept_bytes > most) {
            kept_bytes = kept_bytes.saturating_sub(item.bytes);
            chosen.push(item.what);
        }
    }
    chosen
}

/// The files of what was chosen, records first, and their count.
fn files_of<'a>(inventory: &'a Inventory, chosen: &[What]) -> (Vec<&'a StoredFile>, Collected) {
    let mut names = names_of(inventory);
    let mut collected = Collected::default();
    let (mut files, mut objects) = (Vec::new(), Vec::new());
    for what in chosen {
        match what {
            What::Record(index) => {
                let record = &inventory.records[*index];
                match &record.record {
                    Record::Stage(_) => collected.stages += 1,
                    Record::Drawn(_) => collected.reports += 1,
                }
                files.push(&record.file);
                for key in record.objects() {
                    let count = names.entry(key).or_insert(1);
                    *count -= 1;
                    if *count == 0 {
                        objects.extend(inventory.objects.get(&key));
                    }
                }
            }
            What::Object(key) => objects.extend(inventory.objects.get(key)),
            What::Pack(_) => {}
        }
    }
    collected.objects = objects.len();
    files.extend(objects);
    for what in chosen {
        if let What::Pack(index) = what {
            let pack = &inventory.packs[*index];
            collected.packs += 1;
            collected.cells += pack.cells;
            files.push(&pack.file);
        }
    }
    collected.bytes = files.iter().map(|file| file.bytes).sum();
    (files, collected)
}
