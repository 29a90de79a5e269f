//! Artifacts: files named by the hash of their bytes.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::files;

use super::atomic::{
    CHUNK_BYTES, Durability, copy_checked, persist, temporary_in, write_atomically,
};
use super::layout::{FileKind, Layout};
use super::reading::Fault;
use super::{Cache, CacheError, Key};

const WRONG_CONTENT: &str = "its content does not match its name";

impl Cache {
    /// Stores an artifact and returns its key, the BLAKE3 hash of `bytes`. An intact copy that is already
    /// there is kept; a damaged one is moved aside and replaced.
    pub(crate) fn put_object(&self, bytes: &[u8]) -> Result<Key, CacheError> {
        let key = Key::of(bytes);
        // Reading back costs less than a sync, and lets a read-only cache answer.
        if !self.is_object_intact(&key)? {
            write_atomically(&self.layout.file(FileKind::Object, &key), bytes)?;
        }
        Ok(key)
    }

    /// An artifact to be written piece by piece.
    pub(crate) fn new_object(&self) -> Result<NewObject, CacheError> {
        let file = temporary_in(&self.layout.new_objects(), Durability::OnDisk)?;
        Ok(NewObject {
            layout: self.layout.clone(),
            file: BufWriter::with_capacity(CHUNK_BYTES, file),
            hasher: blake3::Hasher::new(),
            failure: None,
        })
    }

    /// The bytes of the artifact `key`, checked against it; `None` if it is absent or was damaged.
    pub(crate) fn object(&self, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
        get(&self.layout, key)
    }

    /// Reads the artifact `key`, as [`Cache::object`], when the cache is out of reach.
    pub(crate) fn object_reader(
        &self,
        key: Key,
    ) -> impl Fn() -> Result<Option<Vec<u8>>, CacheError> + use<> {
        let layout = self.layout.clone();
        move || get(&layout, &key)
    }

    /// Whether the artifact `key` is there and whole; a damaged one is moved aside.
    pub(crate) fn is_object_intact(&self, key: &Key) -> Result<bool, CacheError> {
        is_intact(&self.layout, key)
    }

    /// Whether a file stands where the artifact `key` belongs. Its content is not looked at.
    pub(crate) fn has_object(&self, key: &Key) -> bool {
        self.layout.file(FileKind::Object, key).is_file()
    }

    /// Copies the artifact `key` to the file `target`, creating its folder; `false` if the artifact is absent
    /// or was damaged, and then `target` is as it was. The copy is checked before it takes its place.
    pub(crate) fn copy_object_to(&self, key: &Key, target: &Path) -> Result<bool, CacheError> {
        let path = self.layout.file(FileKind::Object, key);
        let opened = files::open(&path).map_err(Fault::from);
        let Some(mut file) = self.layout.usable(&path, opened)? else {
            return Ok(false);
        };
        let copied = copy_checked((&mut file, &path), key, target, Durability::Copy)?;
        if !copied {
            self.layout.set_aside(&path, WRONG_CONTENT);
        }
        Ok(copied)
    }
}

fn get(layout: &Layout, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
    let read = |path: &Path| -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::new();
        files::open(path)?.read_to_end(&mut bytes)?;
        expect(Key::of(&bytes), key)?;
        Ok(bytes)
    };
    let path = layout.file(FileKind::Object, key);
    layout.usable(&path, read(&path))
}

fn is_intact(layout: &Layout, key: &Key) -> Result<bool, CacheError> {
    let path = layout.file(FileKind::Object, key);
    let checked = layout.usable(&path, check(&path, key))?;
    Ok(checked.is_some())
}

/// Reads the file of an object whole and compares it with its name.
pub(super) fn check(path: &Path, key: &Key) -> Result<(), Fault> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(files::open(path)?)?;
    expect(hasher.finalize().into(), key)
}

fn expect(found: Key, key: &Key) -> Result<(), Fault> {
    match found == *key {
        true => Ok(()),
        false => Err(Fault::Damaged(WRONG_CONTENT)),
    }
}

/// An artifact that is being written. It takes its place in the cache by [`finish`](NewObject::finish); dropped before that it leaves nothing.
pub(crate) struct NewObject {
    layout: Layout,
    file: BufWriter<NamedTempFile>,
    hasher: blake3::Hasher,
    failure: Option<io::Error>,
}

impl NewObject {
    /// Why writing failed, where it did.
    pub(crate) fn failure(self) -> Option<CacheError> {
        let folder = self.layout.new_objects();
        self.failure
            .map(|error| CacheError::io("write a file in", &folder, error))
    }

    /// Puts the artifact in its place and returns its key. An intact copy that is already there is kept; a damaged one is moved aside and
    /// replaced.
    pub(crate) fn finish(self) -> Result<Key, CacheError> {
        let key = Key::from(self.hasher.finalize());
        let path = self.layout.file(FileKind::Object, &key);
        if is_intact(&self.layout, &key)? {
            return Ok(key);
        }
        let file = self.file.into_inner();
        let file = file.map_err(|error| CacheError::io("write", &path, error.into_error()))?;
        persist(file, &path, Durability::OnDisk)?;
        Ok(key)
    }
}

impl Write for NewObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes);
        if let Ok(length) = &written {
            self.hasher.update(&bytes[..*length]);
        }
        self.noted(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.noted(flushed)
    }
}

impl NewObject {
    /// Keeps an error: whoever writes may pass it on without its kind.
    fn noted<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.inspect_err(|error| {
            let kept = match error.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::from(error.kind()),
            };
            self.failure = Some(kept);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache in a folder of its own, with a first object in it.
    fn stored(bytes: &[u8]) -> (tempfile::TempDir, Cache, Key) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let key = cache.put_object(bytes).unwrap();
        (folder, cache, key)
    }

    fn damaged_count(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("v1/damaged")).map_or(0, Iterator::count)
    }

    #[test]
    fn objects_round_trip() {
        for bytes in [vec![], b"x".to_vec(), vec![7; 3 * CHUNK_BYTES + 5]] {
            let (folder, cache, key) = stored(&bytes);
            assert_eq!(cache.object(&key).unwrap().unwrap(), bytes);
            let copy = folder.path().join("run/tables/copy");
            assert!(cache.copy_object_to(&key, &copy).unwrap());
            assert_eq!(std::fs::read(copy).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_written_in_pieces_is_the_same_object() {
        let (folder, cache, key) = stored(b"in pieces");
        std::fs::remove_file(cache.layout.file(FileKind::Object, &key)).unwrap();
        for _ in 0..2 {
            let mut object = cache.new_object().unwrap();
            object.write_all(b"in ").unwrap();
            object.write_all(b"pieces").unwrap();
            assert_eq!(object.finish().unwrap(), key);
            assert_eq!(cache.object(&key).unwrap().unwrap(), b"in pieces");
        }
        drop(cache.new_object().unwrap());
        let new = std::fs::read_dir(folder.path().join("v1/objects/new"));
        assert_eq!(new.unwrap().count(), 0);
    }

    #[test]
    fn an_absent_object_is_none_and_copies_nothing() {
        let (folder, cache, _) = stored(b"x");
        let key = Key::of(b"other");
        assert!(cache.object(&key).unwrap().is_none());
        let copy = folder.path().join("copy");
        assert!(!cache.copy_object_to(&key, &copy).unwrap());
        assert!(!copy.exists());
    }

    #[test]
    fn every_truncation_and_flip_is_missing_and_moved_aside() {
        let bytes: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let mut damages: Vec<Vec<u8>> = (0..bytes.len())
            .step_by(64)
            .map(|length| bytes[..length].to_vec())
            .collect();
        for position in [0, 500, 999] {
            let mut flipped = bytes.clone();
            flipped[position] ^= 0x10;
            damages.push(flipped);
        }
        for damage in damages {
            let (folder, cache, key) = stored(&bytes);
            std::fs::write(cache.layout.file(FileKind::Object, &key), &damage).unwrap();
            assert!(cache.object(&key).unwrap().is_none());
            assert!(!cache.layout.file(FileKind::Object, &key).exists());
            let kept = folder.path().join(format!("v1/damaged/{key}"));
            assert_eq!(std::fs::read(kept).unwrap(), damage);
        }
    }

    #[test]
    fn copying_a_damaged_object_leaves_the_target_as_it_was() {
        let (folder, cache, key) = stored(b"good");
        std::fs::write(cache.layout.file(FileKind::Object, &key), b"bad").unwrap();
        let copy = folder.path().join("copy");
        std::fs::write(&copy, b"before").unwrap();
        assert!(!cache.copy_object_to(&key, &copy).unwrap());
        assert_eq!(std::fs::read(&copy).unwrap(), b"before");
        assert_eq!(damaged_count(&folder), 1);
    }

    #[test]
    fn storing_again_keeps_an_intact_file_and_mends_a_damaged_one() {
        use std::os::unix::fs::MetadataExt;
        let (folder, cache, key) = stored(b"good");
        let inode = || {
            std::fs::metadata(cache.layout.file(FileKind::Object, &key))
                .unwrap()
                .ino()
        };
        let before = inode();
        cache.put_object(b"good").unwrap();
        assert_eq!(inode(), before);
        std::fs::write(cache.layout.file(FileKind::Object, &key), b"bad!").unwrap();
        cache.put_object(b"good").unwrap();
        assert_eq!(cache.object(&key).unwrap().unwrap(), b"good");
        assert_eq!(damaged_count(&folder), 1);
    }
}
