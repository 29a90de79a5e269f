//! The pack file: one committed batch of cells, immutable, named by the BLAKE3 hash of the whole file.
//!
//! ```text
//! offset      bytes   content (integers are unsigned 64-bit, little-endian)
//! 0           8       "dialpack"
//! 8           8       format version, 1
//! 16          8       P, bytes of provenance
//! 24          8       N, number of cells
//! 32          8       V, bytes of all values
//! 40          P       provenance, JSON: device, library versions and the like; no part of any key
//! 40+P        40·N    per cell: its key (32 bytes), the length of its value (8 bytes)
//! 40+P+40·N   32      BLAKE3 hash of everything before it
//! …           V       the values, one after the other in the order of their keys
//! ```
//!
//! Values lie back to back, so lengths give the offsets and there is no extent that could overlap or point
//! elsewhere. Indexing reads and checks the header only; the whole is checked against the file's name when the first
//! value is read, and a short hash of each value is kept, by which every value that is read later is checked: the
//! disk may lose a bit between the two. Every number is checked against the file's length before it is used.
//!
//! Files are read at positions, not mapped: a mapped file that another machine truncates kills its reader.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::reading::Fault;
use super::{Key, lock};

const MAGIC: &[u8; 8] = b"dialpack";
const FORMAT_VERSION: u64 = 1;
const PRELUDE_BYTES: usize = 40;
const ENTRY_BYTES: usize = 40;
const KEY_BYTES: usize = 32;
const HASH_BYTES: usize = 32;
/// Bytes read at a time while a file is checked.
const CHUNK_BYTES: usize = 1 << 20;

/// Cells to be committed together: their keys, and the bytes of their values back to back.
#[derive(Default)]
pub struct Batch {
    entries: Vec<(Key, usize)>,
    pub(super) values: Vec<u8>,
}

impl Batch {
    /// Adds a cell.
    pub fn push(&mut self, key: Key, value: &[u8]) {
        self.entries.push((key, value.len()));
        self.values.extend_from_slice(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.values.len()
    }

    /// The bytes of a pack of these cells. `provenance` is JSON.
    pub(crate) fn to_pack(&self, provenance: &[u8]) -> Vec<u8> {
        let mut bytes = header(self, provenance);
        bytes.extend_from_slice(&self.values);
        bytes
    }

    /// Takes all cells out; what was allocated stays.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.values.clear();
    }
}

/// Where the values of a pack's cells stand, in bytes from the start of the file.
#[derive(Debug)]
struct Places {
    /// Where the first value starts: the length of the header.
    start: u64,
    lengths: Lengths,
}

#[derive(Debug)]
enum Lengths {
    /// All of one length, as scores are: nothing is kept for each cell.
    Even(u64),
    Ends(Vec<u64>),
}

impl Places {
    /// Offset and length of the value of that number; none for a number beyond the last, which the index never asks for.
    fn of(&self, cell: usize) -> Option<(u64, u64)> {
        match &self.lengths {
            Lengths::Even(length) => Some((self.start + length * cell as u64, *length)),
            Lengths::Ends(ends) => {
                let from = match cell.checked_sub(1) {
                    None => self.start,
                    Some(before) => *ends.get(before)?,
                };
                Some((from, ends.get(cell)? - from))
            }
        }
    }
}

/// The pack's header, with its hash: everything that precedes the values.
pub(super) fn header(batch: &Batch, provenance: &[u8]) -> Vec<u8> {
    let capacity = PRELUDE_BYTES + provenance.len() + ENTRY_BYTES * batch.len() + HASH_BYTES;
    let mut header = Vec::with_capacity(capacity);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    for count in [provenance.len(), batch.len(), batch.value_bytes()] {
        header.extend_from_slice(&(count as u64).to_le_bytes());
    }
    header.extend_from_slice(provenance);
    for (key, length) in &batch.entries {
        header.extend_from_slice(key.as_bytes());
        header.extend_from_slice(&(*length as u64).to_le_bytes());
    }
    let hash = blake3::hash(&header);
    header.extend_from_slice(hash.as_bytes());
    header
}

/// The name of the pack with this header and these values.
pub(super) fn name(header: &[u8], batch: &Batch) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(&batch.values);
    hasher.finalize().into()
}

/// A pack's header, read back and checked.
#[derive(Debug)]
pub(super) struct Header {
    hash: blake3::Hash,
    /// JSON.
    pub(super) provenance: Vec<u8>,
    /// As they stand in the file.
    entries: Vec<u8>,
    places: Places,
}

impl Header {
    pub(super) fn cells(&self) -> usize {
        self.entries.len() / ENTRY_BYTES
    }

    /// Bytes of its longest value.
    pub(super) fn longest_value(&self) -> u64 {
        let entries = self.entries.chunks_exact(ENTRY_BYTES);
        let lengths = entries.filter_map(|entry| integer(entry.get(KEY_BYTES..)?));
        lengths.max().unwrap_or(0)
    }

    /// The cells' keys, in the order of the file.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let entries = self.entries.as_chunks::<ENTRY_BYTES>().0.iter();
        entries.filter_map(|entry| Some(Key::from(*entry.first_chunk::<KEY_BYTES>()?)))
    }
}

/// A pack's file, and its header.
pub(super) fn open(path: &Path) -> Result<(File, Header), Fault> {
    open_within(path, u64::MAX)
}

/// The same of a pack of anybody's, whose header has so many bytes at most.
pub(super) fn open_within(path: &Path, most_bytes: u64) -> Result<(File, Header), Fault> {
    let file = crate::files::open(path)?;
    let header = read_header(&file, most_bytes)?;
    Ok((file, header))
}

fn read_header(file: &File, most_bytes: u64) -> Result<Header, Fault> {
    const DISAGREES: Fault = Fault::Damaged("its length does not agree with its header");
    let file_bytes = file.metadata()?.len();
    let mut prelude = [[0; 8]; PRELUDE_BYTES / 8];
    file.read_exact_at(prelude.as_flattened_mut(), 0)?;
    let [magic, numbers @ ..] = prelude;
    let [version, provenance_bytes, count, value_bytes] = numbers.map(u64::from_le_bytes);
    if magic != *MAGIC || version != FORMAT_VERSION {
        return Err(Fault::Damaged("it does not start as a pack does"));
    }
    // Numbers of 64 bits add up in 128.
    let entries_start = PRELUDE_BYTES as u128 + u128::from(provenance_bytes);
    let hash_start = entries_start + u128::from(count) * ENTRY_BYTES as u128;
    let values_end = hash_start + HASH_BYTES as u128 + u128::from(value_bytes);
    if values_end != u128::from(file_bytes) {
        return Err(DISAGREES);
    }
    // From here on every number is at most the file's length, so what is allocated is too.
    let values_start = file_bytes - value_bytes;
    if values_start > most_bytes {
        return Err(Fault::Damaged(
            "it has more cells than one that is sent may have",
        ));
    }
    let mut header = vec![0; usize::try_from(values_start).map_err(|_| DISAGREES)?];
    file.read_exact_at(&mut header, 0)?;
    let (header, stated_hash) = header.split_last_chunk::<HASH_BYTES>().ok_or(DISAGREES)?;
    let hash = blake3::hash(header);
    if hash != *stated_hash {
        return Err(Fault::Damaged("its header does not match its checksum"));
    }
    let entries = usize::try_from(entries_start).map_err(|_| DISAGREES)?;
    let (before, entries) = header.split_at_checked(entries).ok_or(DISAGREES)?;
    let provenance = before.get(PRELUDE_BYTES..).ok_or(DISAGREES)?.to_vec();
    let places = lay_out(entries, values_start, file_bytes).ok_or(DISAGREES)?;
    Ok(Header {
        hash,
        provenance,
        entries: entries.to_vec(),
        places,
    })
}

/// Where a header's entries put the values, which must fill the file from `start` to `file_bytes`.
fn lay_out(entries: &[u8], start: u64, file_bytes: u64) -> Option<Places> {
    let lengths = || {
        let entries = entries.chunks_exact(ENTRY_BYTES);
        entries.filter_map(|entry| integer(entry.get(KEY_BYTES..)?))
    };
    let end = lengths().try_fold(start, u64::checked_add);
    if end != Some(file_bytes) {
        return None;
    }
    let first = lengths().next().unwrap_or(0);
    let ends = lengths().scan(start, |end, length| {
        *end += length;
        Some(*end)
    });
    let lengths = match lengths().all(|length| length == first) {
        true => Lengths::Even(first),
        false => Lengths::Ends(ends.collect()),
    };
    Some(Places { start, lengths })
}

fn integer(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A pack that has been indexed.
pub(super) struct Pack {
    pub(super) name: Key,
    /// The hash of the header that was indexed.
    header_hash: blake3::Hash,
    places: Places,
    cells: usize,
    /// A short hash of each value, once the whole file has been found to match its name: what is read later is checked against it.
    sums: Mutex<Option<Arc<[u64]>>>,
}

impl Pack {
    pub(super) fn new(name: Key, header: Header) -> Self {
        Self {
            name,
            header_hash: header.hash,
            cells: header.cells(),
            places: header.places,
            sums: Mutex::new(None),
        }
    }

    /// Whether it was indexed by this header.
    pub(super) fn has(&self, header: &Header) -> bool {
        self.header_hash == header.hash
    }

    /// Opens the file at `path`, and checks it whole if that has not been done. Concurrent callers wait for one check.
    pub(super) fn open(&self, path: &Path) -> Result<File, Fault> {
        let file = crate::files::open(path)?;
        let mut sums = lock(&self.sums);
        if sums.is_none() {
            *sums = Some(self.check(&file, &mut |_| {})?.into());
        }
        Ok(file)
    }

    /// Reads the value of the cell of that number from the pack's open `file`, as it was when the whole was checked.
    pub(super) fn value(&self, file: &File, cell: usize) -> Result<Vec<u8>, Fault> {
        const BEYOND: Fault = Fault::Damaged("a value lies beyond its end");
        let (offset, length) = self.places.of(cell).ok_or(BEYOND)?;
        let mut value = vec![0; usize::try_from(length).map_err(|_| BEYOND)?];
        file.read_exact_at(&mut value, offset)?;
        let sums = lock(&self.sums);
        match sums.as_ref().and_then(|sums| sums.get(cell)) {
            Some(sum) if *sum == short_hash(&value) => Ok(value),
            _ => Err(Fault::Damaged(
                "its content has changed since it was checked",
            )),
        }
    }

    /// Reads the file whole. It must match the pack's name and be the one that was indexed. Returns a short hash of each value.
    /// `on_value` hears of every value, before it is known whether the file is sound.
    pub(super) fn check(
        &self,
        file: &File,
        on_value: &mut dyn FnMut(&[u8]),
    ) -> Result<Vec<u64>, Fault> {
        const WRONG: Fault = Fault::Damaged("its content does not match its name");
        let mut reader = BufReader::with_capacity(CHUNK_BYTES, At { file, position: 0 });
        let mut header = vec![0; usize::try_from(self.places.start).map_err(|_| WRONG)?];
        reader.read_exact(&mut header)?;
        let own = header.split_last_chunk::<HASH_BYTES>();
        if own.is_none_or(|(header, _)| blake3::hash(header) != self.header_hash) {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(At { file, position: 0 })?;
            // A wrong file may have been indexed under this name, and another process have mended it since:
            // then the places that were indexed are those of a file that is gone.
            return Err(match Key::from(hasher.finalize()) == self.name {
                true => Fault::Gone,
                false => WRONG,
            });
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        let mut sums = Vec::with_capacity(self.cells);
        let mut value = Vec::new();
        for cell in 0..self.cells {
            let (_, length) = self.places.of(cell).ok_or(WRONG)?;
            value.resize(usize::try_from(length).map_err(|_| WRONG)?, 0);
            reader.read_exact(&mut value)?;
            hasher.update(&value);
            sums.push(short_hash(&value));
            on_value(&value);
        }
        let is_longer = reader.read(&mut [0])? > 0;
        match is_longer || Key::from(hasher.finalize()) != self.name {
            true => Err(WRONG),
            false => Ok(sums),
        }
    }
}

/// The first bytes of a value's hash: enough to see that it has changed.
fn short_hash(value: &[u8]) -> u64 {
    let hash = blake3::hash(value);
    integer(&hash.as_bytes()[..8]).unwrap_or(0)
}

/// Reads a file from a position on, whatever others do with the same open file.
struct At<'a> {
    file: &'a File,
    position: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    type Cell = (Key, Vec<u8>);

    fn bytes_of(cells: &[Cell], provenance: &[u8]) -> Vec<u8> {
        let mut batch = Batch::default();
        cells
            .iter()
            .for_each(|(key, value)| batch.push(*key, value));
        let bytes = batch.to_pack(provenance);
        assert_eq!(Key::of(&bytes), name(&header(&batch, provenance), &batch));
        bytes
    }

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// Puts a true hash over a header that has been tampered with.
    fn reseal(bytes: &mut [u8], values_start: usize) {
        let hash_start = values_start - HASH_BYTES;
        let hash = blake3::hash(&bytes[..hash_start]);
        bytes[hash_start..values_start].copy_from_slice(hash.as_bytes());
    }

    fn arbitrary_cells() -> impl Strategy<Value = Vec<Cell>> {
        let value = prop::collection::vec(any::<u8>(), 0..200);
        prop::collection::vec((any::<[u8; 32]>().prop_map(Key::from), value), 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

        #[test]
        fn packs_round_trip(
            cells in arbitrary_cells(),
            provenance in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let bytes = bytes_of(&cells, &provenance);
            let file = file_of(&bytes);
            let header = read_header(&file, u64::MAX).unwrap();
            prop_assert_eq!(header.cells(), cells.len());
            prop_assert!(header.keys().eq(cells.iter().map(|(key, _)| *key)));
            let pack = Pack::new(Key::of(&bytes), header);
            *pack.sums.lock().unwrap() = Some(pack.check(&file, &mut |_| {}).unwrap().into());
            for (number, (_, value)) in cells.iter().enumerate() {
                prop_assert_eq!(&pack.value(&file, number).unwrap(), value);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat();
            bytes.extend(tail);
            prop_assert!(matches!(read_header(&file_of(&bytes), u64::MAX), Err(Fault::Damaged(_))));
        }

        #[test]
        fn sealed_headers_with_arbitrary_numbers_are_refused_or_in_bounds(
            position in 0_usize..3, number in any::<u64>(), small in 0_u64..400,
        ) {
            let cells = [(Key::of(b"a"), vec![1; 100]), (Key::of(b"b"), vec![2; 50])];
            for number in [number, small, u64::MAX - small] {
                let mut bytes = bytes_of(&cells, b"{}");
                let values_start = bytes.len() - 150;
                bytes[16 + 8 * position..][..8].copy_from_slice(&number.to_le_bytes());
                reseal(&mut bytes, values_start);
                if let Ok(header) = read_header(&file_of(&bytes), u64::MAX) {
                    let places = (0..header.cells()).filter_map(|cell| header.places.of(cell));
                    for (offset, length) in places {
                        prop_assert!(offset + length <= bytes.len() as u64);
                    }
                }
            }
        }
    }

    #[test]
    fn a_sealed_header_whose_lengths_overflow_is_refused() {
        let cells = [(Key::of(b"a"), vec![1; 10]), (Key::of(b"b"), vec![2; 10])];
        for lengths in [[u64::MAX, 1], [u64::MAX, 21], [19, 2], [5, 10]] {
            let mut bytes = bytes_of(&cells, b"");
            let values_start = bytes.len() - 20;
            for (cell, length) in lengths.iter().enumerate() {
                let start = PRELUDE_BYTES + ENTRY_BYTES * cell + KEY_BYTES;
                bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
            }
            reseal(&mut bytes, values_start);
            let result = read_header(&file_of(&bytes), u64::MAX);
            assert!(matches!(result, Err(Fault::Damaged(_))), "{lengths:?}");
        }
    }

    #[test]
    fn another_format_version_is_refused() {
        let mut bytes = bytes_of(&[(Key::of(b"a"), vec![1])], b"");
        let values_start = bytes.len() - 1;
        bytes[8] = 2;
        reseal(&mut bytes, values_start);
        assert!(read_header(&file_of(&bytes), u64::MAX).is_err());
    }

    #[test]
    fn the_provenance_stands_in_the_header_as_text() {
        let bytes = bytes_of(&[], b"{\"device\":\"cpu\"}");
        assert_eq!(&bytes[PRELUDE_BYTES..][..16], b"{\"device\":\"cpu\"}");
    }
}
