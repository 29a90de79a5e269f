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
//! elsewhere. Indexing reads and checks the header only; the values are checked against the file's name when
//! the first of them is read. Every number is checked against the file's length before it is used.
//!
//! Files are read at positions, not mapped: a mapped file that another machine truncates kills its reader.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Key;

const MAGIC: &[u8; 8] = b"dialpack";
const FORMAT_VERSION: u64 = 1;
const PRELUDE_BYTES: usize = 40;
const ENTRY_BYTES: usize = 40;
const KEY_BYTES: usize = 32;
const HASH_BYTES: usize = 32;

/// A cell as it is committed: its key, and its value's bytes.
type Cell = (Key, Vec<u8>);

/// Where a cell's value stands in its pack, in bytes from the start of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    offset: u64,
    length: u64,
}

/// Why a pack, or a value in it, could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file is not what its name or its header says.
    Damaged(&'static str),
    /// The file system refused.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Self::Damaged("it is cut short"),
            _ => Self::Io(error),
        }
    }
}

/// The pack's header, with its hash: everything that precedes the values.
pub(super) fn header(cells: &[Cell], provenance: &[u8]) -> Vec<u8> {
    let value_bytes: usize = cells.iter().map(|(_, value)| value.len()).sum();
    let capacity = PRELUDE_BYTES + provenance.len() + ENTRY_BYTES * cells.len() + HASH_BYTES;
    let mut header = Vec::with_capacity(capacity);
    header.extend_from_slice(MAGIC);
    header.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    for count in [provenance.len(), cells.len(), value_bytes] {
        header.extend_from_slice(&(count as u64).to_le_bytes());
    }
    header.extend_from_slice(provenance);
    for (key, value) in cells {
        header.extend_from_slice(key.as_bytes());
        header.extend_from_slice(&(value.len() as u64).to_le_bytes());
    }
    let hash = blake3::hash(&header);
    header.extend_from_slice(hash.as_bytes());
    header
}

/// The name of the pack with this header and these values.
pub(super) fn name(header: &[u8], cells: &[Cell]) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    for (_, value) in cells {
        hasher.update(value);
    }
    hasher.finalize().into()
}

/// Writes the pack with this header and these values.
pub(super) fn write(file: &mut File, header: &[u8], cells: &[Cell]) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 20, file);
    writer.write_all(header)?;
    for (_, value) in cells {
        writer.write_all(value)?;
    }
    writer.flush()
}

/// A pack's header, read back and checked.
#[derive(Debug)]
pub(super) struct Header {
    hash: blake3::Hash,
    /// JSON.
    pub(super) provenance: Vec<u8>,
    /// Every cell, in the order of the file.
    pub(super) extents: Vec<(Key, Extent)>,
}

/// Reads and checks a pack's header.
pub(super) fn read_header(file: &File) -> Result<Header, Fault> {
    const DISAGREES: Fault = Fault::Damaged("its length does not agree with its header");
    let file_bytes = file.metadata()?.len();
    let mut prelude = [0; PRELUDE_BYTES];
    file.read_exact_at(&mut prelude, 0)?;
    let (magic, numbers) = prelude.split_at(MAGIC.len());
    let mut numbers = numbers.chunks_exact(8).filter_map(integer);
    if magic != MAGIC || numbers.next() != Some(FORMAT_VERSION) {
        return Err(Fault::Damaged("it does not start as a pack does"));
    }
    let mut number = || numbers.next().ok_or(DISAGREES);
    let (provenance_bytes, count, value_bytes) = (number()?, number()?, number()?);
    let entries_start = (PRELUDE_BYTES as u64).checked_add(provenance_bytes);
    let hash_start = count
        .checked_mul(ENTRY_BYTES as u64)
        .and_then(|entries| entries.checked_add(entries_start?));
    let values_start = hash_start.and_then(|start| start.checked_add(HASH_BYTES as u64));
    let end = values_start.and_then(|start| start.checked_add(value_bytes));
    // From here on every number is at most the file's length, so what is allocated is too.
    let (Some(entries_start), Some(values_start)) = (entries_start, values_start) else {
        return Err(DISAGREES);
    };
    if end != Some(file_bytes) {
        return Err(DISAGREES);
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
    let extents = lay_out(entries, values_start, file_bytes).ok_or(DISAGREES)?;
    Ok(Header {
        hash,
        provenance,
        extents,
    })
}

/// Turns a header's entries into extents, which must fill the file from `values_start` to `file_bytes`.
fn lay_out(entries: &[u8], values_start: u64, file_bytes: u64) -> Option<Vec<(Key, Extent)>> {
    let mut extents = Vec::with_capacity(entries.len() / ENTRY_BYTES);
    let mut offset = values_start;
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let (key, length) = entry.split_at_checked(KEY_BYTES)?;
        let key = Key::from(<[u8; KEY_BYTES]>::try_from(key).ok()?);
        let length = integer(length)?;
        extents.push((key, Extent { offset, length }));
        offset = offset.checked_add(length)?;
    }
    (offset == file_bytes).then_some(extents)
}

fn integer(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A pack that has been indexed.
pub(super) struct Pack {
    pub(super) name: Key,
    pub(super) path: PathBuf,
    /// The hash of the header that was indexed.
    header_hash: blake3::Hash,
    /// Whether the whole file has been found to match its name.
    verified: Mutex<bool>,
}

impl Pack {
    pub(super) fn new(name: Key, path: PathBuf, header: &Header) -> Self {
        Self {
            name,
            path,
            header_hash: header.hash,
            verified: Mutex::new(false),
        }
    }

    /// Opens the file, and checks it whole if that has not been done. Concurrent callers wait for one check.
    pub(super) fn open(&self) -> Result<File, Fault> {
        let file = File::open(&self.path)?;
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        if !*verified {
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(&file)?;
            if Key::from(hasher.finalize()) != self.name {
                return Err(Fault::Damaged("its content does not match its name"));
            }
            // A wrong file may have been indexed under this name, and another process have mended it since:
            // then the extents that were indexed are those of a file that is gone.
            if read_header(&file)?.hash != self.header_hash {
                return Err(Fault::Io(ErrorKind::NotFound.into()));
            }
            *verified = true;
        }
        Ok(file)
    }
}

/// Reads the value at `extent` of an indexed pack's `file`.
pub(super) fn read_value(file: &File, extent: Extent) -> Result<Vec<u8>, Fault> {
    let too_long = |_| Fault::Damaged("a value is longer than memory");
    let mut value = vec![0; usize::try_from(extent.length).map_err(too_long)?];
    file.read_exact_at(&mut value, extent.offset)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(cells: &[Cell], provenance: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        let header = header(cells, provenance);
        write(&mut file, &header, cells).unwrap();
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(Key::of(&bytes), name(&header, cells));
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
            let file = file_of(&bytes_of(&cells, &provenance));
            let extents = read_header(&file).unwrap().extents;
            prop_assert_eq!(extents.len(), cells.len());
            for ((key, extent), (cell_key, value)) in extents.into_iter().zip(&cells) {
                prop_assert_eq!(key, *cell_key);
                prop_assert_eq!(&read_value(&file, extent).unwrap(), value);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused(tail in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = [&MAGIC[..], &FORMAT_VERSION.to_le_bytes()].concat();
            bytes.extend(tail);
            prop_assert!(matches!(read_header(&file_of(&bytes)), Err(Fault::Damaged(_))));
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
                let header = read_header(&file_of(&bytes));
                for (_, extent) in header.map(|header| header.extents).unwrap_or_default() {
                    prop_assert!(extent.offset + extent.length <= bytes.len() as u64);
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
            let result = read_header(&file_of(&bytes));
            assert!(matches!(result, Err(Fault::Damaged(_))), "{lengths:?}");
        }
    }

    #[test]
    fn another_format_version_is_refused() {
        let mut bytes = bytes_of(&[(Key::of(b"a"), vec![1])], b"");
        let values_start = bytes.len() - 1;
        bytes[8] = 2;
        reseal(&mut bytes, values_start);
        assert!(read_header(&file_of(&bytes)).is_err());
    }

    #[test]
    fn the_provenance_stands_in_the_header_as_text() {
        let bytes = bytes_of(&[], b"{\"device\":\"cpu\"}");
        assert_eq!(&bytes[PRELUDE_BYTES..][..16], b"{\"device\":\"cpu\"}");
    }
}
