//! The cells of all packs in one index.
//!
//! The index is loaded from the packs' headers when it is first asked, and grows as this process commits or
//! [`CellStore::refresh`] finds what others have committed. It lives in memory only (25 bytes per cell, and room to grow):
//! an index file would be one more thing to keep in step with the packs. Values stay on the disk.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::atomic::{Durability, copy_checked, write_parts};
use super::index::{CellSet, Index, Place};
use super::layout::{FileKind, Layout};
use super::pack::{self, Batch, Pack};
use super::reading::Fault;
use super::{CacheError, Key, Untrusted, lock};

/// Packs held open at once, well below the usual limit of 1,024 files per process.
const OPEN_PACKS: usize = 64;

/// Most bytes of the keys of a pack that somebody sent: some six million cells.
const SENT_HEADER_BYTES: u64 = 256 << 20;
/// Most bytes of a value in one: a score has a few, an activation some thousands, and what a model wrote not many more.
const SENT_VALUE_BYTES: u64 = 16 << 20;

/// The store of evaluated cells: readouts, as bytes, by cell key.
pub struct CellStore {
    layout: Layout,
    /// `None` until it is first needed.
    index: Mutex<Option<Index>>,
    /// Files of packs that were read lately, so that a read costs no opening.
    open_packs: Mutex<HashMap<Key, Arc<File>>>,
}

impl CellStore {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            index: Mutex::default(),
            open_packs: Mutex::default(),
        }
    }

    /// The cells that packs hold more than once, by the first halves of their keys.
    pub(crate) fn held_twice(&self) -> Result<Vec<[u8; 16]>, CacheError> {
        self.refresh()?;
        self.with_index(Index::held_twice)
    }

    /// Where a pack states that it holds the cell; none where no pack does. [`get`](Self::get) may still find that pack damaged, and then
    /// the cell is missing from there on.
    pub(crate) fn place(&self, key: &Key) -> Result<Option<Place>, CacheError> {
        self.with_index(|index| index.place(&key.prefix()))
    }

    /// The packs that hold any of the cells, in order.
    pub(crate) fn packs_of(&self, sets: &[&CellSet]) -> Result<Vec<Key>, CacheError> {
        let packs: BTreeSet<Key> = self.with_index(|index| {
            let numbers = sets.iter().flat_map(|set| set.packs());
            let packs = numbers.filter_map(|number| index.pack(number));
            packs.map(|pack| pack.name).collect()
        })?;
        Ok(packs.into_iter().collect())
    }

    /// The value of the cell `key`; `None` if no pack holds it, or the pack was damaged or has vanished. The
    /// first read from a pack checks all of it.
    ///
    /// # Errors
    /// [`CacheError::Untrusted`] for packs that hold it with different values.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.find(key)?.map(|(_, value)| value))
    }

    /// As [`CellStore::get`], and where the cell is. A cell that several packs hold is read from each of them, and compared.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<(Place, Vec<u8>)>, CacheError> {
        self.find_prefix(&key.prefix())
    }

    /// The same for the [first half](Key::prefix) of a key.
    pub(crate) fn find_prefix(
        &self,
        prefix: &[u8; 16],
    ) -> Result<Option<(Place, Vec<u8>)>, CacheError> {
        'packs: loop {
            let holders = self.with_index(|index| index.holders(prefix))?;
            let mut found: Option<(Place, Vec<u8>)> = None;
            for (place, pack) in &holders {
                // Without that pack, it may be that another still holds the cell.
                let Some(value) = self.value(*place, pack)? else {
                    continue 'packs;
                };
                match &found {
                    None => found = Some((*place, value)),
                    Some((_, first)) if *first == value => {}
                    Some(_) => {
                        let packs = holders.iter().map(|(_, pack)| pack.name);
                        let untrusted = Untrusted::at_odds(packs.collect());
                        return Err(CacheError::Untrusted(untrusted));
                    }
                }
            }
            return Ok(found);
        }
    }

    /// The value at a place. None if the pack is of no use, which is dropped then.
    fn value(&self, place: Place, pack: &Pack) -> Result<Option<Vec<u8>>, CacheError> {
        let path = self.layout.file(FileKind::Pack, &pack.name);
        let value = self
            .open(pack, &path)
            .and_then(|file| pack.value(&file, place.cell as usize));
        if let Err(Fault::Gone) = value {
            let shown = path.display();
            tracing::warn!("`{shown}` has vanished; what it held is computed again");
        }
        let value = self.layout.usable(&path, value)?;
        if value.is_none() {
            self.forget(&pack.name);
        }
        Ok(value)
    }

    /// The name of the pack that a place is in, if it can be used.
    pub(crate) fn pack_of(&self, place: Place) -> Result<Option<Key>, CacheError> {
        self.with_index(|index| index.pack(place.pack).map(|pack| pack.name))
    }

    /// Stores cells as one pack, whole or not at all; once this returns they survive a crash.
    /// `provenance` (device, library versions, thread count, …) is kept in the pack and is in no key. An
    /// empty batch writes nothing.
    ///
    /// # Errors
    /// [`CacheError::Encode`] if the provenance has no JSON form.
    pub fn commit(&self, batch: &Batch, provenance: &serde_json::Value) -> Result<(), CacheError> {
        if batch.is_empty() {
            return Ok(());
        }
        let provenance = serde_json::to_vec(provenance).map_err(CacheError::Encode)?;
        let header = pack::header(batch, &provenance);
        let name = pack::name(&header, batch);
        let path = self.layout.file(FileKind::Pack, &name);
        write_parts(&path, &[&header, &batch.values])?;
        // Where there is no index yet, the pack will be found when it is loaded.
        let mut index = lock(&self.index);
        let add = |index: &mut Index| index.add(&self.layout, name);
        index.as_mut().map_or(Ok(()), add)
    }

    /// Takes in a pack that somebody sent, as it is. What is no sound pack, or has more bytes of keys or in a value than it may, is an error that
    /// says why; nothing is kept of it. No more lies in memory at once than twice these, and eight bytes for each cell.
    pub(crate) fn take_in(&self, path: &Path) -> Result<(), CacheError> {
        let failed = |fault| {
            let told = match fault {
                Fault::Damaged(why) => why.to_string(),
                Fault::Gone => "it changes while it is read".to_string(),
                Fault::Io(error) => error.to_string(),
            };
            CacheError::Other(format!("`{}` is no sound pack: {told}", path.display()))
        };
        let (file, header) = pack::open_within(path, SENT_HEADER_BYTES).map_err(failed)?;
        if header.longest_value() > SENT_VALUE_BYTES {
            return Err(failed(Fault::Damaged("a value of it is too long for one")));
        }
        let mut hasher = blake3::Hasher::new();
        let reader = std::io::BufReader::new(&file);
        (hasher.update_reader(reader)).map_err(|error| CacheError::io("read", path, error))?;
        let name = Key::from(hasher.finalize());
        Pack::new(name, header)
            .check(&file, &mut |_| {})
            .map_err(failed)?;
        let mut from =
            crate::files::open(path).map_err(|error| CacheError::io("read", path, error))?;
        let target = self.layout.file(FileKind::Pack, &name);
        if !copy_checked((&mut from, path), &name, &target, Durability::OnDisk)? {
            return Err(failed(Fault::Gone));
        }
        self.refresh()
    }

    /// How many cells a pack that somebody sent says that it has.
    ///
    /// # Errors
    /// What is no pack.
    pub(crate) fn count_in(path: &Path) -> Result<u64, CacheError> {
        match pack::open(path) {
            Ok((_, header)) => Ok(header.cells() as u64),
            Err(_) => Err(CacheError::Other(format!(
                "`{}` is no sound pack",
                path.display()
            ))),
        }
    }

    /// Looks for packs that other processes have committed since the index was loaded.
    pub(crate) fn refresh(&self) -> Result<(), CacheError> {
        let mut index = lock(&self.index);
        let scan = |index: &mut Index| index.scan(&self.layout);
        index.as_mut().map_or(Ok(()), scan)
    }

    /// Answers from the index, loading it first if nobody has.
    fn with_index<R>(&self, answer: impl FnOnce(&Index) -> R) -> Result<R, CacheError> {
        let mut index = lock(&self.index);
        let index = match &mut *index {
            Some(index) => index,
            none => {
                let mut loaded = Index::default();
                loaded.scan(&self.layout)?;
                none.insert(loaded)
            }
        };
        Ok(answer(index))
    }

    fn open(&self, pack: &Pack, path: &Path) -> Result<Arc<File>, Fault> {
        if let Some(file) = lock(&self.open_packs).get(&pack.name) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(pack.open(path)?);
        let mut open_packs = lock(&self.open_packs);
        if open_packs.len() >= OPEN_PACKS {
            open_packs.clear();
        }
        open_packs.insert(pack.name, Arc::clone(&file));
        Ok(file)
    }

    /// Drops a pack that cannot be used, from the index and the open files.
    pub(super) fn forget(&self, pack: &Key) {
        if let Some(index) = lock(&self.index).as_mut() {
            index.forget(pack);
        }
        lock(&self.open_packs).remove(pack);
    }
}

#[cfg(test)]
mod tests;
