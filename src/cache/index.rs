//! Which pack holds which cell, from the packs' headers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::layout::{FileKind, Layout};
use super::pack::{self, Pack};
use super::reading::Fault;
use super::{CacheError, Key};

/// Where a cell's value is: its pack by the number that this index gave it, and its number in that pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
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
    /// The numbers of the packs that were looked at; none for those that cannot be used.
    numbers: HashMap<Key, Option<u32>>,
    /// The further places of cells that are held more than once, by the same half of the key.
    doubles: HashMap<[u8; 16], Vec<Place>, BuildHasherDefault<OfHash>>,
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
    pub(super) fn place(&self, cell: &[u8; 16]) -> Option<Place> {
        self.cells.get(cell).copied()
    }

    /// Every place where the cell is said to be, with the pack; first the one of [`Index::place`].
    pub(super) fn holders(&self, cell: &[u8; 16]) -> Vec<(Place, Arc<Pack>)> {
        let further = self.doubles.get(cell).into_iter().flatten();
        let places = self.place(cell).into_iter().chain(further.copied());
        places
            .filter_map(|place| Some((place, Arc::clone(self.pack(place.pack)?))))
            .collect()
    }

    /// The cells that are held more than once, in the order in which that came out.
    pub(super) fn held_twice(&self) -> Vec<[u8; 16]> {
        let mut doubles: Vec<_> = self.doubles.iter().collect();
        doubles.sort_unstable_by_key(|(_, places)| places.first());
        doubles.into_iter().map(|(cell, _)| *cell).collect()
    }

    /// The pack of that number, if it can be used.
    pub(super) fn pack(&self, number: u32) -> Option<&Arc<Pack>> {
        self.packs.get(number as usize)?.as_ref()
    }

    /// Adds the packs on the disk that have not been looked at.
    pub(super) fn scan(&mut self, layout: &Layout) -> Result<(), CacheError> {
        for (name, _) in layout.files(FileKind::Pack)? {
            if !self.numbers.contains_key(&name) {
                self.add(layout, name)?;
            }
        }
        Ok(())
    }

    /// Adds the cells of one pack, or moves it aside if its header is damaged.
    pub(super) fn add(&mut self, layout: &Layout, name: Key) -> Result<(), CacheError> {
        let path = layout.file(FileKind::Pack, &name);
        let header = pack::open(&path).map(|(_, header)| header);
        if let Err(Fault::Gone) = header {
            return Ok(());
        }
        // One file that cannot be used must not keep every study from running.
        if let Some(header) = layout.usable(&path, header)? {
            // Several threads, or processes, may commit the same pack.
            let same = self.numbers.get(&name).copied().flatten();
            let same = same.and_then(|number| self.pack(number));
            if same.is_some_and(|pack| pack.has(&header)) {
                return Ok(());
            }
            self.forget(&name);
            let number = u32::try_from(self.packs.len()).unwrap_or(u32::MAX);
            self.insert(number, &header);
            self.packs.push(Some(Arc::new(Pack::new(name, header))));
            self.numbers.insert(name, Some(number));
        }
        self.numbers.entry(name).or_default();
        Ok(())
    }

    /// Of a cell that is held more than once the first place stays, and the others are kept to be compared with it.
    fn insert(&mut self, pack: u32, header: &pack::Header) {
        self.cells.reserve(header.cells());
        for (cell, key) in (0..).zip(header.keys()) {
            let place = Place { pack, cell };
            match self.cells.entry(key.prefix()) {
                Entry::Vacant(entry) => drop(entry.insert(place)),
                Entry::Occupied(_) => self.doubles.entry(key.prefix()).or_default().push(place),
            }
        }
    }

    /// Drops a pack that cannot be used, so that those of its cells that no other pack holds count as missing.
    pub(super) fn forget(&mut self, pack: &Key) {
        let Some(number) = self.numbers.get_mut(pack).and_then(Option::take) else {
            return;
        };
        self.packs[number as usize] = None;
        self.doubles.retain(|_, places| {
            places.retain(|place| place.pack != number);
            !places.is_empty()
        });
        let doubles = &mut self.doubles;
        self.cells.retain(|key, place| {
            if place.pack != number {
                return true;
            }
            let next = doubles.get_mut(key).map(|places| places.remove(0));
            *place = next.unwrap_or(*place);
            next.is_some()
        });
        self.doubles.retain(|_, places| !places.is_empty());
    }
}

/// Cells of a store, each once: a bit for every cell of the packs that hold any.
#[derive(Debug, Default)]
pub(crate) struct CellSet {
    by_pack: HashMap<u32, Vec<u64>>,
    count: u64,
}

impl CellSet {
    /// Adds a cell; whether it was not there yet.
    pub(crate) fn insert(&mut self, place: Place) -> bool {
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

    pub(crate) fn contains(&self, place: Place) -> bool {
        let words = self.by_pack.get(&place.pack);
        let word = words.and_then(|words| words.get(place.cell as usize / 64));
        word.is_some_and(|word| word & 1 << (place.cell % 64) != 0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// How many cells are in another set, too.
    pub(crate) fn shared(&self, other: &CellSet) -> u64 {
        let words = self.by_pack.iter().filter_map(|(pack, words)| {
            let others = other.by_pack.get(pack)?;
            let both = words.iter().zip(others);
            Some(
                both.map(|(a, b)| u64::from((a & b).count_ones()))
                    .sum::<u64>(),
            )
        });
        words.sum()
    }

    /// The packs that hold any of the cells.
    pub(super) fn packs(&self) -> impl Iterator<Item = u32> {
        self.by_pack.keys().copied()
    }
}
