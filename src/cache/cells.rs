//! The cells of all packs in one index.
//!
//! The index is loaded from the packs' headers when it is first asked, and grows as this process commits or
//! [`CellStore::refresh`] finds what others have committed. It lives in memory only (25 bytes per cell, and room to grow):
//! an index file would be one more thing to keep in step with the packs. Values stay on the disk.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::atomic::{Durability, replace_file};
use super::index::{CellSet, Index, Place};
use super::layout::Layout;
use super::pack::{self, Batch, Fault, Pack};
use super::reading::{is_gone, is_of_one_file, pass_over};
use super::{CacheError, Key, Untrusted};

/// Packs held open at once, well below the usual limit of 1,024 files per process.
const OPEN_PACKS: usize = 64;

/// The store of evaluated cells: readouts, as bytes, by cell key.
pub struct CellStore {
    layout: Layout,
    /// `None` until it is first needed.
    index: RwLock<Option<Index>>,
    /// Files of packs that were read lately, so that a read costs no opening.
    open_packs: Mutex<HashMap<Key, Arc<File>>>,
}

impl CellStore {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            index: RwLock::new(None),
            open_packs: Mutex::default(),
        }
    }

    /// Where a pack states that it holds the cell; none where no pack does. [`get`](Self::get) may still find that pack damaged, and then
    /// the cell is missing from there on.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the packs cannot be read.
    pub(crate) fn place(&self, key: &Key) -> Result<Option<Place>, CacheError> {
        self.with_index(|index| index.place(key))
    }

    /// The packs that hold any of the cells, in order.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the packs cannot be read.
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
    /// [`CacheError::Io`] if a pack exists and cannot be read; [`CacheError::Untrusted`] for packs that hold it with different values.
    pub fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
        Ok(self.find(key)?.map(|(_, value)| value))
    }

    /// As [`CellStore::get`], and where the cell is. A cell that several packs hold is read from each of them, and compared.
    ///
    /// # Errors
    /// As [`CellStore::get`], and [`CacheError::Untrusted`] for packs that hold the cell with different values.
    pub(crate) fn find(&self, key: &Key) -> Result<Option<(Place, Vec<u8>)>, CacheError> {
        'again: loop {
            let holders = self.with_index(|index| index.holders(key))?;
            let mut found: Option<(Place, Vec<u8>)> = None;
            for (place, pack) in &holders {
                // Without that pack, it may be that another still holds the cell.
                let Some(value) = self.value(*place, pack)? else {
                    continue 'again;
                };
                match &found {
                    None => found = Some((*place, value)),
                    Some((_, first)) if *first == value => {}
                    Some(_) => {
                        let packs = holders.iter().map(|(_, pack)| pack.name);
                        return Err(Untrusted::at_odds(packs.collect()).into());
                    }
                }
            }
            return Ok(found);
        }
    }

    /// The value at a place. None if the pack is of no use, which is dropped then.
    fn value(&self, place: Place, pack: &Pack) -> Result<Option<Vec<u8>>, CacheError> {
        let path = self.layout.pack(&pack.name);
        let value = self
            .open(pack, &path)
            .and_then(|file| pack.value(&file, place.cell as usize));
        match value {
            Ok(value) => return Ok(Some(value)),
            Err(Fault::Damaged(reason)) => self.layout.set_aside(&path, reason),
            Err(Fault::Io(error)) if is_gone(&error) => tracing::warn!(
                "`{}` has vanished; what it held is computed again",
                path.display()
            ),
            Err(Fault::Io(error)) if is_of_one_file(&error) => pass_over(&path, &error),
            Err(Fault::Io(error)) => return Err(CacheError::io("read", &path, error)),
        }
        self.forget(&pack.name);
        Ok(None)
    }

    /// The name of the pack that a place is in, if it can be used.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the packs cannot be read.
    pub(crate) fn pack_of(&self, place: Place) -> Result<Option<Key>, CacheError> {
        self.with_index(|index| index.pack(place.pack).map(|pack| pack.name))
    }

    /// Stores cells as one pack, whole or not at all; once this returns they survive a crash.
    /// `provenance` (device, library versions, thread count, …) is kept in the pack and is in no key. An
    /// empty batch writes nothing.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the pack cannot be written; [`CacheError::Encode`] if the provenance has no
    /// JSON form.
    pub fn commit(&self, batch: &Batch, provenance: &serde_json::Value) -> Result<(), CacheError> {
        if batch.is_empty() {
            return Ok(());
        }
        let provenance = serde_json::to_vec(provenance).map_err(CacheError::Encode)?;
        let header = pack::header(batch, &provenance);
        let name = pack::name(&header, batch);
        let path = self.layout.pack(&name);
        replace_file(&path, Durability::OnDisk, |file| {
            pack::write(file, &header, batch)
                .map_err(|error| CacheError::io("write", &path, error))?;
            Ok(true)
        })?;
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match index.as_mut() {
            Some(index) => index.add(&self.layout, name),
            // The pack will be found when the index is loaded.
            None => Ok(()),
        }
    }

    /// Looks for packs that other processes have committed since the index was loaded.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the packs cannot be read.
    pub(crate) fn refresh(&self) -> Result<(), CacheError> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        match index.as_mut() {
            Some(index) => index.scan(&self.layout),
            None => Ok(()),
        }
    }

    /// Answers from the index, loading it first if nobody has.
    fn with_index<R>(&self, answer: impl FnOnce(&Index) -> R) -> Result<R, CacheError> {
        if let Some(index) = &*self.index.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(answer(index));
        }
        let mut guard = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*guard {
            return Ok(answer(index));
        }
        let mut index = Index::default();
        index.scan(&self.layout)?;
        Ok(answer(guard.insert(index)))
    }

    fn open(&self, pack: &Pack, path: &Path) -> Result<Arc<File>, Fault> {
        let lock = || {
            self.open_packs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some(file) = lock().get(&pack.name) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(pack.open(path)?);
        let mut open_packs = lock();
        if open_packs.len() >= OPEN_PACKS {
            open_packs.clear();
        }
        open_packs.insert(pack.name, Arc::clone(&file));
        Ok(file)
    }

    /// Drops a pack that cannot be used, from the index and the open files.
    pub(super) fn forget(&self, pack: &Key) {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = index.as_mut()
            && let Some(number) = index.number(pack)
        {
            index.forget(number);
        }
        self.open_packs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(pack);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::super::reading::list;
    use super::*;

    type Cell = (Key, Vec<u8>);

    fn cells(numbers: std::ops::Range<u32>) -> Vec<Cell> {
        let value = |number: u32| vec![number.to_le_bytes()[0]; 8 + number as usize % 40];
        numbers
            .map(|number| (Key::of(&number.to_le_bytes()), value(number)))
            .collect()
    }

    fn batch(cells: &[Cell]) -> Batch {
        let mut batch = Batch::default();
        cells
            .iter()
            .for_each(|(key, value)| batch.push(*key, value));
        batch
    }

    fn store(folder: &tempfile::TempDir) -> CellStore {
        CellStore::new(Layout::new(folder.path()))
    }

    /// A folder with one pack of `cells`, and that pack's path.
    fn committed(cells: &[Cell]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        store(&folder)
            .commit(&batch(cells), &json!({"t": 1}))
            .unwrap();
        let packs = pack_paths(&folder);
        assert_eq!(packs.len(), 1);
        (folder, packs[0].clone())
    }

    fn pack_paths(folder: &tempfile::TempDir) -> Vec<PathBuf> {
        let shelves = list(&Layout::new(folder.path()).packs()).unwrap();
        shelves
            .iter()
            .flat_map(|shelf| list(shelf).unwrap())
            .collect()
    }

    fn assert_holds(store: &CellStore, cells: &[Cell]) {
        for (key, value) in cells {
            assert!(store.place(key).unwrap().is_some());
            assert_eq!(store.get(key).unwrap().as_ref(), Some(value));
        }
    }

    fn assert_lacks(store: &CellStore, cells: &[Cell]) {
        for (key, _) in cells {
            assert_eq!(store.get(key).unwrap(), None);
            assert!(store.place(key).unwrap().is_none());
        }
    }

    #[test]
    fn cells_round_trip_in_this_store_and_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let first = store(&folder);
        let (one, two, three) = (cells(0..30), cells(30..90), cells(90..91));
        first.commit(&batch(&one), &json!({})).unwrap();
        assert_lacks(&first, &two);
        first
            .commit(&batch(&two), &json!({"device": "cpu"}))
            .unwrap();
        assert_holds(&first, &one);
        assert_holds(&first, &two);
        assert_lacks(&first, &three);
        let second = store(&folder);
        assert_holds(&second, &two);
        assert_holds(&second, &one);
        assert_lacks(&second, &three);
    }

    #[test]
    fn an_empty_value_is_a_value_and_an_empty_batch_no_pack() {
        let cell = [(Key::of(b"empty"), Vec::new())];
        let (folder, _) = committed(&cell);
        assert_holds(&store(&folder), &cell);
        store(&folder).commit(&batch(&[]), &json!({})).unwrap();
        assert_eq!(pack_paths(&folder).len(), 1);
    }

    #[test]
    fn two_stores_see_each_other_after_refresh() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (store(&folder), store(&folder));
        let (left, right) = (cells(0..10), cells(10..20));
        assert_lacks(&one, &right);
        assert_lacks(&two, &left);
        one.commit(&batch(&left), &json!({})).unwrap();
        two.commit(&batch(&right), &json!({})).unwrap();
        assert_lacks(&one, &right);
        one.refresh().unwrap();
        two.refresh().unwrap();
        for store in [&one, &two] {
            assert_holds(store, &left);
            assert_holds(store, &right);
        }
    }

    #[test]
    fn concurrent_commits_of_the_same_content_make_one_pack() {
        let folder = tempfile::tempdir().unwrap();
        let shared = store(&folder);
        let cells = cells(0..200);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (folder, shared, cells) = (&folder, &shared, &cells);
                scope.spawn(move || {
                    let own = store(folder);
                    let store = if thread % 2 == 0 { shared } else { &own };
                    store.commit(&batch(cells), &json!({})).unwrap();
                    store.refresh().unwrap();
                    assert_holds(store, cells);
                });
            }
        });
        assert_eq!(pack_paths(&folder).len(), 1);
        assert_holds(&shared, &cells);
    }

    /// Opens a store on a pack with this content: the cells are missing, the pack is moved aside, and a new
    /// commit mends it in the same store.
    fn assert_refused(damage: &[u8], cells: &[Cell]) {
        let (folder, path) = committed(cells);
        std::fs::write(&path, damage).unwrap();
        let store = store(&folder);
        assert_lacks(&store, cells);
        assert!(!path.exists());
        let kept = folder
            .path()
            .join("v1/damaged")
            .join(path.file_name().unwrap());
        assert_eq!(std::fs::read(kept).unwrap(), damage);
        store.commit(&batch(cells), &json!({"t": 1})).unwrap();
        assert_holds(&store, cells);
    }

    #[test]
    fn every_truncation_is_refused() {
        let cells = cells(0..20);
        let (_folder, path) = committed(&cells);
        let good = std::fs::read(path).unwrap();
        for length in (0..good.len()).step_by(64).chain([good.len() - 1]) {
            assert_refused(&good[..length], &cells);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_and_a_longer_file_are_refused() {
        let cells = cells(0..6);
        let (_folder, path) = committed(&cells);
        let good = std::fs::read(path).unwrap();
        for position in (0..good.len()).step_by(5) {
            let mut flipped = good.clone();
            flipped[position] ^= 1 << (position % 8);
            assert_refused(&flipped, &cells);
        }
        assert_refused(&[&good[..], b"x"].concat(), &cells);
    }

    #[test]
    fn a_pack_under_another_s_name_is_refused() {
        let (_other, other_path) = committed(&cells(5..9));
        let other = std::fs::read(other_path).unwrap();
        let cells = cells(0..4);
        let (folder, path) = committed(&cells);
        std::fs::write(&path, other).unwrap();
        let store = store(&folder);
        assert_lacks(&store, &cells);
        assert_lacks(&store, &self::cells(5..9));
    }

    #[test]
    fn a_wrong_pack_that_is_mended_after_indexing_gives_no_wrong_value() {
        // The same keys with their values exchanged: sound headers, other content.
        let (keys, values): (Vec<Key>, Vec<Vec<u8>>) = cells(0..4).into_iter().unzip();
        let exchanged: Vec<Cell> = keys.into_iter().zip(values.into_iter().rev()).collect();
        let (_other, other_path) = committed(&exchanged);
        let cells = cells(0..4);
        let (folder, path) = committed(&cells);
        let good = std::fs::read(&path).unwrap();
        std::fs::copy(other_path, &path).unwrap();
        let store = store(&folder);
        assert!(store.place(&cells[0].0).unwrap().is_some());
        std::fs::write(&path, &good).unwrap();
        assert_lacks(&store, &cells);
        assert_eq!(std::fs::read(&path).unwrap(), good);
        assert_holds(&self::store(&folder), &cells);
    }

    #[test]
    fn a_bit_that_flips_after_the_pack_was_checked_is_found() {
        let cells = cells(0..6);
        let (_folder, path) = committed(&cells);
        let store = store(&_folder);
        assert_holds(&store, &cells[..1]);
        // In place, under the file that is open.
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 8;
        let file = File::options().write(true).open(&path).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
        assert_eq!(store.get(&cells[5].0).unwrap(), None);
        assert!(!path.exists(), "it is moved aside");
    }

    #[test]
    fn a_cell_that_two_packs_hold_survives_the_damage_of_one() {
        let both = cells(0..10);
        let (folder, path) = committed(&both);
        store(&folder)
            .commit(&batch(&both), &json!({"t": 2}))
            .unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_holds(&store(&folder), &both);
    }

    #[test]
    fn packs_that_hold_a_cell_with_different_values_are_named_and_neither_is_used() {
        let (folder, _) = committed(&cells(0..10));
        let (key, mut value) = cells(3..4).remove(0);
        value[0] ^= 1;
        let own = store(&folder);
        // One that comes while the store is open is compared, too.
        assert_holds(&own, &cells(3..4));
        own.commit(&batch(&[(key, value)]), &json!({})).unwrap();
        let mut names: Vec<Key> = pack_paths(&folder)
            .iter()
            .map(|path| path.file_stem().unwrap().to_str().unwrap().parse().unwrap())
            .collect();
        names.sort_unstable();
        for store in [&own, &store(&folder)] {
            let Err(CacheError::Untrusted(untrusted)) = store.find(&key) else {
                panic!("it is served");
            };
            assert_eq!(untrusted.packs, names);
            for name in &names {
                assert!(untrusted.reason.contains(&name.to_string()));
                store.forget(name);
            }
            assert_lacks(store, &cells(0..10));
        }
    }

    #[test]
    fn a_cell_twice_in_one_pack_is_compared_too() {
        let (key, value) = cells(3..4).remove(0);
        let twice = |second: Vec<u8>| {
            let (folder, _) = committed(&[(key, value.clone()), (key, second)]);
            store(&folder).find(&key)
        };
        assert!(twice(value.clone()).unwrap().is_some());
        let other = twice(vec![9; 4]).unwrap_err().to_string();
        assert!(other.contains("twice, with different values"), "{other}");
    }

    #[test]
    fn of_three_packs_with_a_cell_two_may_go() {
        let both = cells(0..5);
        let (folder, _) = committed(&both);
        let store = store(&folder);
        for number in 2..4 {
            store.commit(&batch(&both), &json!({"t": number})).unwrap();
        }
        assert_holds(&store, &both);
        for path in &pack_paths(&folder)[..2] {
            std::fs::remove_file(path).unwrap();
        }
        // Those that are open stay so until they are asked from the disk again.
        store.open_packs.lock().unwrap().clear();
        assert_holds(&store, &both);
    }

    #[test]
    fn a_pack_that_cannot_be_read_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let cells = cells(0..10);
        store(&folder).commit(&batch(&cells), &json!({})).unwrap();
        // A folder in the place of a pack cannot be read, not even by root.
        let name = Key::of(b"a folder");
        std::fs::create_dir_all(Layout::new(folder.path()).pack(&name)).unwrap();
        let store = store(&folder);
        assert_holds(&store, &cells);
        assert_eq!(store.get(&name).unwrap(), None);
    }

    #[test]
    fn damage_in_one_pack_leaves_the_others_in_use() {
        let (folder, path) = committed(&cells(0..10));
        store(&folder)
            .commit(&batch(&cells(10..20)), &json!({}))
            .unwrap();
        let length = std::fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(length - 1).unwrap();
        let store = store(&folder);
        assert_lacks(&store, &cells(0..10));
        assert_holds(&store, &cells(10..20));
    }

    #[test]
    fn a_vanished_pack_counts_as_missing() {
        let cells = cells(0..10);
        let (folder, path) = committed(&cells);
        let store = store(&folder);
        assert!(store.place(&cells[0].0).unwrap().is_some());
        std::fs::remove_file(path).unwrap();
        assert_lacks(&store, &cells);
        store.refresh().unwrap();
        store.commit(&batch(&cells), &json!({"t": 1})).unwrap();
        assert_holds(&store, &cells);
    }

    #[test]
    fn other_files_in_the_folder_are_passed_over() {
        let cells = cells(0..3);
        let (folder, path) = committed(&cells);
        let shelf = path.parent().unwrap();
        std::fs::write(shelf.join(".tmp-1234"), b"half").unwrap();
        std::fs::write(shelf.join("notes.pack"), b"mine").unwrap();
        std::fs::write(shelf.parent().unwrap().join("README"), b"x").unwrap();
        assert_holds(&store(&folder), &cells);
        assert!(shelf.join("notes.pack").exists());
    }

    #[test]
    fn many_packs_are_read_without_holding_them_all_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(&folder);
        let cells = cells(0..3 * u32::try_from(OPEN_PACKS).unwrap());
        for cell in cells.chunks(1) {
            store.commit(&batch(cell), &json!({})).unwrap();
        }
        for _ in 0..2 {
            assert_holds(&store, &cells);
        }
        assert!(store.open_packs.lock().unwrap().len() <= OPEN_PACKS);
    }

    #[test]
    fn a_hundred_thousand_cells_are_indexed_and_the_missing_found() {
        let folder = tempfile::tempdir().unwrap();
        let cells = cells(0..100_000);
        let (there, absent) = cells.split_at(99_000);
        for some in there.chunks(4_000) {
            self::store(&folder)
                .commit(&batch(some), &json!({}))
                .unwrap();
        }
        let store = self::store(&folder);
        let is_missing = |(key, _): &&Cell| store.place(key).unwrap().is_none();
        assert!(cells.iter().filter(is_missing).eq(absent));
        assert_holds(&store, &there[..1]);
        assert_holds(&store, &there[98_999..]);
    }
}
