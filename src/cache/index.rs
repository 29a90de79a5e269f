//! Which pack holds which cell, from the packs' headers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::Layout;
use super::pack::{self, Fault, Pack};
use super::reading::{is_gone, is_of_one_file, list, pass_over};
use super::{CacheError, Key};

/// Where a cell's value is: its pack by the number that this index gave it, and its number in that pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) pack: u32,
    pub(super) cell: u32,
}

/// The cells of the packs that have been looked at.
#[derive(Default)]
pub(super) struct Index {
    /// By the first half of the key, which tells a cell from all others.
    cells: HashMap<[u8; 16], Place, BuildHasherDefault<OfHash>>,
    /// By number; none where a pack cannot be used.
    packs: Vec<Option<Arc<Pack>>>,
    /// The packs that were looked at, whether they hold cells of the index or turned out to be unusable.
    seen_packs: HashSet<Key>,
    /// Whether a cell was met in two packs.
    has_doubles: bool,
}

/// Hashes what is a hash already.
#[derive(Default)]
struct OfHash(u64);

impl Hasher for OfHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }
}

impl Index {
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.cells.get(&key.prefix()).copied()
    }

    /// The pack of that number, if it can be used.
    pub(super) fn pack(&self, number: u32) -> Option<&Arc<Pack>> {
        self.packs.get(number as usize)?.as_ref()
    }

    /// Adds the packs on the disk that have not been looked at.
    pub(super) fn scan(&mut self, layout: &Layout) -> Result<(), CacheError> {
        let packs = layout.packs();
        for shelf in list(&packs)? {
            for path in list(&shelf)? {
                if let Some(name) = pack_name(&path)
                    && !self.seen_packs.contains(&name)
                {
                    self.add(layout, name)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the cells of one pack, or moves it aside if its header is damaged.
    pub(super) fn add(&mut self, layout: &Layout, name: Key) -> Result<(), CacheError> {
        let path = layout.pack(&name);
        let header = crate::files::open(&path)
            .map_err(Fault::from)
            .and_then(|file| pack::read_header(&file));
        match header {
            Ok(header) => {
                let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
                self.insert(number, &header);
                self.packs.push(Some(Arc::new(Pack::new(name, header))));
            }
            Err(Fault::Damaged(reason)) => layout.set_aside(&path, reason),
            Err(Fault::Io(error)) if is_gone(&error) => return Ok(()),
            // One file must not keep every study from running.
            Err(Fault::Io(error)) if is_of_one_file(&error) => pass_over(&path, &error),
            Err(Fault::Io(error)) => return Err(CacheError::io("read", &path, error)),
        }
        self.seen_packs.insert(name);
        Ok(())
    }

    /// Of a cell that two packs hold the first stays.
    fn insert(&mut self, pack: u32, header: &pack::Header) {
        self.cells.reserve(header.cells());
        for (cell, key) in (0..).zip(header.keys()) {
            match self.cells.entry(key.prefix()) {
                Entry::Vacant(entry) => drop(entry.insert(Place { pack, cell })),
                Entry::Occupied(_) => self.has_doubles = true,
            }
        }
    }

    /// Drops a pack that cannot be used, so that those of its cells that no other pack holds count as missing.
    pub(super) fn forget(&mut self, layout: &Layout, number: u32) {
        if let Some(slot) = self.packs.get_mut(number as usize)
            && slot.take().is_some()
        {
            self.cells.retain(|_, place| place.pack != number);
            if self.has_doubles {
                self.insert_again(layout);
            }
        }
    }

    /// Looks in the packs that are left for what is not in the index any more.
    fn insert_again(&mut self, layout: &Layout) {
        let packs = self.packs.iter().enumerate();
        let left: Vec<(usize, PathBuf)> = packs
            .filter_map(|(number, pack)| Some((number, layout.pack(&pack.as_ref()?.name))))
            .collect();
        for (number, path) in left {
            let header = crate::files::open(&path)
                .map_err(Fault::from)
                .and_then(|file| pack::read_header(&file));
            // One that has become unreadable is found out when it is read.
            if let (Ok(header), Ok(number)) = (header, u32::try_from(number)) {
                self.insert(number, &header);
            }
        }
    }
}

/// Cells of a store, each once: a bit for every cell of the packs that hold any.
#[derive(Debug, Default)]
pub struct CellSet {
    by_pack: HashMap<u32, Vec<u64>>,
    count: u64,
}

impl CellSet {
    /// Adds a cell; whether it was not there yet.
    pub fn insert(&mut self, place: Place) -> bool {
        let words = self.by_pack.entry(place.pack).or_default();
        let (word, bit) = (place.cell as usize / 64, 1 << (place.cell % 64));
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// Whether it holds the cell.
    pub fn contains(&self, place: Place) -> bool {
        let words = self.by_pack.get(&place.pack);
        let word = words.and_then(|words| words.get(place.cell as usize / 64));
        word.is_some_and(|word| word & 1 << (place.cell % 64) != 0)
    }

    /// Number of cells.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The packs that hold any of the cells.
    pub(super) fn packs(&self) -> impl Iterator<Item = u32> {
        self.by_pack.keys().copied()
    }
}

/// The pack that a path in the packs' folders names; `None` for any other file.
fn pack_name(path: &Path) -> Option<Key> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".pack")?.parse().ok()
}
