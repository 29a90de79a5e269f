//! The known hashes of weight files, so that gigabytes are not read again at every start.
//!
//! This is the one place where a file's size, times and inode are taken for its content. A check of everything must not use it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::{CacheError, FileKind, Key, StoredFile, record};

/// Remembers the BLAKE3 hash of a weight file for as long as the file looks unchanged.
pub(crate) struct WeightHashes {
    layout: Layout,
}

/// How a weight file looks, short of being read. Whoever writes into a file and sets its modification time back cannot set back the time of
/// that change itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WeightStamp {
    /// Where it is, as an absolute path.
    #[serde(with = "crate::files::as_text")]
    pub(crate) path: PathBuf,
    pub(crate) size_bytes: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    pub(crate) mtime_ns: i128,
    /// When anything of it was last changed, in nanoseconds since 1970.
    #[serde(default)]
    pub(crate) ctime_ns: i128,
    pub(crate) inode: u64,
}

#[derive(Serialize, Deserialize)]
struct KnownHash {
    stamp: WeightStamp,
    blake3: Key,
}

impl WeightHashes {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The hash that was stored for the file when it looked like this; `None` if anything differs, or nothing (readable) is stored.
    pub(crate) fn get(&self, stamp: &WeightStamp) -> Option<blake3::Hash> {
        let key = path_key(&stamp.path);
        let stored = self.layout.weight(&key);
        let known: KnownHash = match record::get(&self.layout, &stored, &key) {
            Ok(known) => known?,
            Err(error) => {
                tracing::warn!("{error}; the weights are hashed again");
                return None;
            }
        };
        (known.stamp == *stamp).then(|| blake3::Hash::from_bytes(*known.blake3.as_bytes()))
    }

    /// What a file of kind [`WeightHash`](super::FileKind::WeightHash) remembers; none if it is damaged or gone.
    pub(crate) fn known(&self, file: &StoredFile) -> Option<(WeightStamp, blake3::Hash)> {
        if file.kind != FileKind::WeightHash {
            return None;
        }
        let known: KnownHash = record::read_sound(&file.path, &file.name)?;
        let hash = blake3::Hash::from_bytes(*known.blake3.as_bytes());
        Some((known.stamp, hash))
    }

    /// Stores the hash of a file, replacing what was stored for its path. The stamp must have been taken *before* the file was hashed and
    /// found the same afterwards, or a change in between is missed.
    pub(crate) fn put(&self, stamp: &WeightStamp, hash: blake3::Hash) -> Result<(), CacheError> {
        let key = path_key(&stamp.path);
        let known = KnownHash {
            stamp: stamp.clone(),
            blake3: hash.into(),
        };
        record::put(&self.layout.weight(&key), &key, &known)
    }
}

/// The key of a path, made absolute: the same relative path means another file in another folder.
fn path_key(path: &Path) -> Key {
    let absolute = std::path::absolute(path);
    let path = absolute.as_deref().unwrap_or(path);
    Key::of(path.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(path: &str) -> WeightStamp {
        WeightStamp {
            path: path.into(),
            size_bytes: 10,
            mtime_ns: 20,
            ctime_ns: 30,
            inode: 40,
        }
    }

    #[test]
    fn a_hash_is_known_only_while_nothing_differs() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let (file, hash) = (stamp("/models/a.safetensors"), blake3::hash(b"weights"));
        assert_eq!(known.get(&file), None);
        known.put(&file, hash).unwrap();
        assert_eq!(known.get(&file), Some(hash));
        for change in [
            |file: &mut WeightStamp| file.size_bytes += 1,
            |file: &mut WeightStamp| file.mtime_ns += 1,
            |file: &mut WeightStamp| file.ctime_ns += 1,
            |file: &mut WeightStamp| file.inode += 1,
        ] {
            let mut changed = file.clone();
            change(&mut changed);
            assert_eq!(known.get(&changed), None, "{changed:?}");
        }
        assert_eq!(known.get(&stamp("/models/b.safetensors")), None);
    }

    #[test]
    fn times_before_1970_and_far_ahead_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let hash = blake3::hash(b"weights");
        for mtime_ns in [-1, 0, i128::from(u64::MAX) * 1000] {
            let file = WeightStamp {
                mtime_ns,
                ..stamp("/w")
            };
            known.put(&file, hash).unwrap();
            assert_eq!(known.get(&file), Some(hash));
        }
    }

    #[test]
    fn a_damaged_entry_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let file = stamp("/w");
        known.put(&file, blake3::hash(b"weights")).unwrap();
        let stored = known.layout.weight(&path_key(&file.path));
        std::fs::write(&stored, b"{}").unwrap();
        assert_eq!(known.get(&file), None);
        assert!(!stored.exists());
    }
}
