//! The known hashes of weight files, so that gigabytes are not read again at every start.
//!
//! This is the one place where a file's size, modification time and inode are taken for its content. A
//! check of everything must not use it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::{CacheError, FileKind, Key, StoredFile, record};

/// Remembers the BLAKE3 hash of a weight file for as long as the file looks unchanged.
pub struct WeightHashes {
    layout: Layout,
}

/// A weight file whose hash is known, as it looked when it was hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownWeights {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Its inode.
    pub inode: u64,
    /// The hash of its content.
    pub hash: blake3::Hash,
}

#[derive(Serialize, Deserialize)]
struct KnownHash {
    path: PathBuf,
    size_bytes: u64,
    mtime_ns: i128,
    inode: u64,
    blake3: Key,
}

impl WeightHashes {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// The hash that was stored for `path` when it had this size in bytes, modification time in nanoseconds
    /// since 1970 and inode; `None` if any of them differs, or nothing (readable) is stored.
    pub fn get(
        &self,
        path: &Path,
        size_bytes: u64,
        mtime_ns: i128,
        inode: u64,
    ) -> Option<blake3::Hash> {
        let key = path_key(path);
        let stored = self.layout.weight(&key);
        let known: KnownHash = match record::get(&self.layout, &stored, &key) {
            Ok(known) => known?,
            Err(error) => {
                tracing::warn!("{error}; the weights are hashed again");
                return None;
            }
        };
        let same = (known.size_bytes, known.mtime_ns, known.inode) == (size_bytes, mtime_ns, inode);
        same.then(|| blake3::Hash::from_bytes(*known.blake3.as_bytes()))
    }

    /// What a file of kind [`WeightHash`](super::FileKind::WeightHash) remembers; none if it is damaged or gone.
    pub fn known(&self, file: &StoredFile) -> Option<KnownWeights> {
        let text = (file.kind == FileKind::WeightHash).then(|| std::fs::read(&file.path));
        let known: KnownHash = record::decode(&text?.ok()?, &file.name)?;
        Some(KnownWeights {
            path: known.path,
            size_bytes: known.size_bytes,
            mtime_ns: known.mtime_ns,
            inode: known.inode,
            hash: blake3::Hash::from_bytes(*known.blake3.as_bytes()),
        })
    }

    /// Stores `hash` for `path`, replacing what was stored for it. Size, time and inode must have been
    /// taken *before* the file was hashed and found the same afterwards, or a change in between is missed.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the cache cannot be written.
    pub fn put(
        &self,
        path: &Path,
        size_bytes: u64,
        mtime_ns: i128,
        inode: u64,
        hash: blake3::Hash,
    ) -> Result<(), CacheError> {
        let key = path_key(path);
        let known = KnownHash {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
            size_bytes,
            mtime_ns,
            inode,
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

    #[test]
    fn a_hash_is_known_only_while_nothing_differs() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let path = Path::new("models/a.safetensors");
        let hash = blake3::hash(b"weights");
        assert_eq!(known.get(path, 10, 20, 30), None);
        known.put(path, 10, 20, 30, hash).unwrap();
        assert_eq!(known.get(path, 10, 20, 30), Some(hash));
        assert_eq!(known.get(path, 11, 20, 30), None);
        assert_eq!(known.get(path, 10, 21, 30), None);
        assert_eq!(known.get(path, 10, 20, 31), None);
        let absolute = std::path::absolute(path).unwrap();
        assert_eq!(known.get(&absolute, 10, 20, 30), Some(hash));
        let other = Path::new("models/b.safetensors");
        assert_eq!(known.get(other, 10, 20, 30), None);
    }

    #[test]
    fn times_before_1970_and_far_ahead_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let hash = blake3::hash(b"weights");
        for time in [-1, 0, i128::from(u64::MAX) * 1000] {
            known.put(Path::new("w"), u64::MAX, time, 0, hash).unwrap();
            assert_eq!(known.get(Path::new("w"), u64::MAX, time, 0), Some(hash));
        }
    }

    #[test]
    fn a_damaged_entry_is_unknown() {
        let folder = tempfile::tempdir().unwrap();
        let known = WeightHashes::new(Layout::new(folder.path()));
        let path = Path::new("w");
        known.put(path, 1, 2, 3, blake3::hash(b"weights")).unwrap();
        let stored = known.layout.weight(&path_key(path));
        std::fs::write(&stored, b"{}").unwrap();
        assert_eq!(known.get(path, 1, 2, 3), None);
        assert!(!stored.exists());
    }
}
