//! The known hashes of weight files, so that gigabytes are not read again at every start.
//!
//! This is the one place where a file's size, times and inode are taken for its content. A check of everything must not use it. How a file
//! looks, short of being read, is told by a stamp, which whoever hashes it takes.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Cache, CacheError, FileKind, Key, StoredFile, record};

#[derive(Serialize, Deserialize)]
struct KnownHash<S> {
    stamp: S,
    blake3: Key,
}

impl Cache {
    /// The hash that was stored for the weight file when it had this stamp; `None` if anything differs, or nothing (readable) is stored.
    pub(crate) fn weight_hash<S: DeserializeOwned + PartialEq>(
        &self,
        path: &Path,
        stamp: &S,
    ) -> Option<blake3::Hash> {
        let key = path_key(path);
        let known = record::get(
            &self.layout,
            &self.layout.file(FileKind::WeightHash, &key),
            &key,
        );
        let known: KnownHash<S> = known.unwrap_or_else(|error| {
            tracing::warn!("{error}; the weights are hashed again");
            None
        })?;
        (known.stamp == *stamp).then(|| blake3::Hash::from_bytes(*known.blake3.as_bytes()))
    }

    /// What a file of kind [`WeightHash`](FileKind::WeightHash) remembers; none if it is damaged or gone.
    pub(crate) fn known_weight_hash<S: DeserializeOwned>(
        &self,
        file: &StoredFile,
    ) -> Option<(S, Key)> {
        if file.kind != FileKind::WeightHash {
            return None;
        }
        let known: KnownHash<S> = record::read_sound(&file.path, &file.name)?;
        Some((known.stamp, known.blake3))
    }

    /// Stores the hash of a weight file, replacing what was stored for its path. The stamp must have been taken *before* the file was hashed
    /// and found the same afterwards, or a change in between is missed.
    pub(crate) fn put_weight_hash<S: Serialize>(
        &self,
        path: &Path,
        stamp: &S,
        hash: blake3::Hash,
    ) -> Result<(), CacheError> {
        let key = path_key(path);
        let blake3 = hash.into();
        record::put(
            &self.layout.file(FileKind::WeightHash, &key),
            &key,
            &KnownHash { stamp, blake3 },
        )
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
    use crate::model::FileStamp;

    fn stamp(path: &str) -> FileStamp {
        FileStamp {
            path: path.into(),
            size: 10,
            modified_nanoseconds: 20,
            changed_nanoseconds: 30,
            inode: 40,
        }
    }

    /// A cache in a folder of its own that knows the hash of the file with this stamp.
    fn knowing(file: &FileStamp, hash: blake3::Hash) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        assert_eq!(cache.weight_hash(&file.path, file), None);
        cache.put_weight_hash(&file.path, file, hash).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_hash_is_known_only_while_nothing_differs() {
        let (file, hash) = (stamp("/models/a.safetensors"), blake3::hash(b"weights"));
        let (_folder, cache) = knowing(&file, hash);
        let known = |file: &FileStamp| cache.weight_hash(&file.path, file);
        assert_eq!(known(&file), Some(hash));
        for change in [
            |file: &mut FileStamp| file.size += 1,
            |file: &mut FileStamp| file.modified_nanoseconds += 1,
            |file: &mut FileStamp| file.changed_nanoseconds += 1,
            |file: &mut FileStamp| file.inode += 1,
        ] {
            let mut changed = file.clone();
            change(&mut changed);
            assert_eq!(known(&changed), None, "{changed:?}");
        }
        assert_eq!(known(&stamp("/models/b.safetensors")), None);
    }

    #[test]
    fn times_before_1970_and_far_ahead_round_trip() {
        let hash = blake3::hash(b"weights");
        for nanoseconds in [-1, 0, i128::from(u64::MAX) * 1000] {
            let file = FileStamp {
                modified_nanoseconds: nanoseconds.unsigned_abs(),
                changed_nanoseconds: nanoseconds,
                ..stamp("/w")
            };
            let (_folder, cache) = knowing(&file, hash);
            assert_eq!(cache.weight_hash(&file.path, &file), Some(hash));
        }
    }

    /// The stored form stays the same, so that a cache of an earlier dial still serves.
    #[test]
    fn a_stamp_is_stored_by_these_names() {
        let stored = serde_json::to_string(&stamp("/w")).unwrap();
        let expected = r#"{"path":"/w","size_bytes":10,"mtime_ns":20,"ctime_ns":30,"inode":40}"#;
        assert_eq!(stored, expected);
        let early = r#"{"path":"/w","size_bytes":10,"mtime_ns":20,"inode":40}"#;
        let early: FileStamp = serde_json::from_str(early).unwrap();
        assert_eq!(early.changed_nanoseconds, 0);
    }

    #[test]
    fn a_damaged_entry_is_unknown() {
        let file = stamp("/w");
        let (_folder, cache) = knowing(&file, blake3::hash(b"weights"));
        let stored = cache
            .layout
            .file(FileKind::WeightHash, &path_key(&file.path));
        std::fs::write(&stored, b"{}").unwrap();
        assert_eq!(cache.weight_hash(&file.path, &file), None);
        assert!(!stored.exists());
    }
}
