//! Artifacts: files named by the hash of their bytes.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use super::atomic::{Durability, persist, replace_file, temporary_in, write_atomically};
use super::layout::Layout;
use super::reading::{is_gone, is_of_one_file, pass_over};
use super::{CacheError, Key};

const WRONG_CONTENT: &str = "its content does not match its name";

/// Bytes read at a time while a file is copied.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn put(layout: &Layout, bytes: &[u8]) -> Result<Key, CacheError> {
    let key = Key::of(bytes);
    // Reading back costs less than a sync, and lets a read-only cache answer.
    if !is_intact(layout, &key)? {
        write_atomically(&layout.object(&key), bytes)?;
    }
    Ok(key)
}

pub(super) fn get(layout: &Layout, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
    let path = layout.object(key);
    let Some(mut file) = open_if_there(&path)? else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    match file.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if is_of_one_file(&error) => {
            pass_over(&path, &error);
            return Ok(None);
        }
        Err(error) => return Err(CacheError::io("read", &path, error)),
    }
    if Key::of(&bytes) == *key {
        return Ok(Some(bytes));
    }
    layout.set_aside(&path, WRONG_CONTENT);
    Ok(None)
}

pub(super) fn copy_to(layout: &Layout, key: &Key, target: &Path) -> Result<bool, CacheError> {
    let path = layout.object(key);
    let Some(mut file) = open_if_there(&path)? else {
        return Ok(false);
    };
    let copied = replace_file(target, Durability::Copy, |copy| {
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let length = file
                .read(&mut chunk)
                .map_err(|error| CacheError::io("read", &path, error))?;
            let Some(part) = chunk.get(..length).filter(|part| !part.is_empty()) else {
                return Ok(Key::from(hasher.finalize()) == *key);
            };
            hasher.update(part);
            copy.write_all(part)
                .map_err(|error| CacheError::io("write", target, error))?;
        }
    })?;
    if !copied {
        layout.set_aside(&path, WRONG_CONTENT);
    }
    Ok(copied)
}

/// The artifacts of a cache.
#[derive(Clone)]
pub(crate) struct Objects(pub(super) Layout);

impl Objects {
    /// As [`Cache::object`](super::Cache::object).
    ///
    /// # Errors
    /// As there.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, CacheError> {
        get(&self.0, key)
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
    pub(super) fn create(layout: &Layout) -> Result<Self, CacheError> {
        let folder = layout.new_objects();
        Ok(NewObject {
            layout: layout.clone(),
            file: BufWriter::with_capacity(CHUNK_BYTES, temporary_in(&folder, Durability::OnDisk)?),
            hasher: blake3::Hasher::new(),
            failure: None,
        })
    }

    /// Why writing failed, where it did.
    pub(crate) fn failure(self) -> Option<CacheError> {
        let folder = self.layout.new_objects();
        self.failure
            .map(|error| CacheError::io("write a file in", &folder, error))
    }

    /// Puts the artifact in its place and returns its key. An intact copy that is already there is kept; a damaged one is moved aside and
    /// replaced.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the cache cannot be read or written.
    pub(crate) fn finish(self) -> Result<Key, CacheError> {
        let key = Key::from(self.hasher.finalize());
        let path = self.layout.object(&key);
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

/// Whether the object is there and whole; a damaged one is moved aside.
pub(super) fn is_intact(layout: &Layout, key: &Key) -> Result<bool, CacheError> {
    let path = layout.object(key);
    match state(&path, key)? {
        State::Sound => Ok(true),
        State::Absent => Ok(false),
        State::Damaged => {
            layout.set_aside(&path, WRONG_CONTENT);
            Ok(false)
        }
        // Whoever can write it anew may: the same name is the same content.
        State::Unreadable(error) => {
            pass_over(&path, &error);
            Ok(false)
        }
    }
}

/// What is wrong with the object in a file; none for a sound one, or where there is no file.
pub(super) fn fault(path: &Path, key: &Key) -> Result<Option<&'static str>, CacheError> {
    match state(path, key)? {
        State::Sound | State::Absent => Ok(None),
        State::Damaged => Ok(Some(WRONG_CONTENT)),
        State::Unreadable(error) => Err(CacheError::io("read", path, error)),
    }
}

/// What a file in an object's place is.
enum State {
    Sound,
    Absent,
    Damaged,
    Unreadable(io::Error),
}

fn state(path: &Path, key: &Key) -> Result<State, CacheError> {
    let hash = crate::files::open(path).and_then(|file| {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        Ok(Key::from(hasher.finalize()))
    });
    match hash {
        Ok(hash) if hash == *key => Ok(State::Sound),
        Ok(_) => Ok(State::Damaged),
        Err(error) if is_gone(&error) => Ok(State::Absent),
        Err(error) if is_of_one_file(&error) => Ok(State::Unreadable(error)),
        Err(error) => Err(CacheError::io("read", path, error)),
    }
}

fn open_if_there(path: &Path) -> Result<Option<File>, CacheError> {
    match crate::files::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) if is_of_one_file(&error) => {
            pass_over(path, &error);
            Ok(None)
        }
        Err(error) => Err(CacheError::io("read", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout in a folder of its own, with the content of a first object in it.
    fn stored(bytes: &[u8]) -> (tempfile::TempDir, Layout, Key) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let key = put(&layout, bytes).unwrap();
        (folder, layout, key)
    }

    fn damaged_count(folder: &tempfile::TempDir) -> usize {
        std::fs::read_dir(folder.path().join("v1/damaged")).map_or(0, Iterator::count)
    }

    #[test]
    fn objects_round_trip() {
        for bytes in [vec![], b"x".to_vec(), vec![7; 3 * CHUNK_BYTES + 5]] {
            let (folder, layout, key) = stored(&bytes);
            assert_eq!(get(&layout, &key).unwrap().unwrap(), bytes);
            let copy = folder.path().join("run/tables/copy");
            assert!(copy_to(&layout, &key, &copy).unwrap());
            assert_eq!(std::fs::read(copy).unwrap(), bytes);
        }
    }

    #[test]
    fn what_is_written_in_pieces_is_the_same_object() {
        let (folder, layout, key) = stored(b"in pieces");
        std::fs::remove_file(layout.object(&key)).unwrap();
        for _ in 0..2 {
            let mut object = NewObject::create(&layout).unwrap();
            object.write_all(b"in ").unwrap();
            object.write_all(b"pieces").unwrap();
            assert_eq!(object.finish().unwrap(), key);
            assert_eq!(get(&layout, &key).unwrap().unwrap(), b"in pieces");
        }
        drop(NewObject::create(&layout).unwrap());
        let new = std::fs::read_dir(folder.path().join("v1/objects/new"));
        assert_eq!(new.unwrap().count(), 0);
    }

    #[test]
    fn an_absent_object_is_none_and_copies_nothing() {
        let (folder, layout, _) = stored(b"x");
        let key = Key::of(b"other");
        assert!(get(&layout, &key).unwrap().is_none());
        let copy = folder.path().join("copy");
        assert!(!copy_to(&layout, &key, &copy).unwrap());
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
            let (folder, layout, key) = stored(&bytes);
            std::fs::write(layout.object(&key), &damage).unwrap();
            assert!(get(&layout, &key).unwrap().is_none());
            assert!(!layout.object(&key).exists());
            let kept = folder.path().join(format!("v1/damaged/{key}"));
            assert_eq!(std::fs::read(kept).unwrap(), damage);
        }
    }

    #[test]
    fn copying_a_damaged_object_leaves_the_target_as_it_was() {
        let (folder, layout, key) = stored(b"good");
        std::fs::write(layout.object(&key), b"bad").unwrap();
        let copy = folder.path().join("copy");
        std::fs::write(&copy, b"before").unwrap();
        assert!(!copy_to(&layout, &key, &copy).unwrap());
        assert_eq!(std::fs::read(&copy).unwrap(), b"before");
        assert_eq!(damaged_count(&folder), 1);
    }

    #[test]
    fn storing_again_keeps_an_intact_file_and_mends_a_damaged_one() {
        use std::os::unix::fs::MetadataExt;
        let (folder, layout, key) = stored(b"good");
        let inode = || std::fs::metadata(layout.object(&key)).unwrap().ino();
        let before = inode();
        put(&layout, b"good").unwrap();
        assert_eq!(inode(), before);
        std::fs::write(layout.object(&key), b"bad!").unwrap();
        put(&layout, b"good").unwrap();
        assert_eq!(get(&layout, &key).unwrap().unwrap(), b"good");
        assert_eq!(damaged_count(&folder), 1);
    }
}
