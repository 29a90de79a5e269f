//! Artifacts: files named by the hash of their bytes.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use super::atomic::{Durability, replace_file, write_atomically};
use super::layout::Layout;
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
    file.read_to_end(&mut bytes)
        .map_err(|error| CacheError::io("read", &path, error))?;
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

/// Whether the object is there and whole; a damaged one is moved aside.
fn is_intact(layout: &Layout, key: &Key) -> Result<bool, CacheError> {
    let path = layout.object(key);
    match fault(&path, key)? {
        Some(reason) => {
            layout.set_aside(&path, reason);
            Ok(false)
        }
        None => Ok(path.is_file()),
    }
}

/// What is wrong with the object in a file; none for a sound one, or where there is no file.
pub(super) fn fault(path: &Path, key: &Key) -> Result<Option<&'static str>, CacheError> {
    let Some(file) = open_if_there(path)? else {
        return Ok(None);
    };
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(file)
        .map_err(|error| CacheError::io("read", path, error))?;
    let intact = Key::from(hasher.finalize()) == *key;
    Ok((!intact).then_some(WRONG_CONTENT))
}

fn open_if_there(path: &Path) -> Result<Option<File>, CacheError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
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
