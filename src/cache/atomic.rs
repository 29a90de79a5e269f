//! Writing a file so that it is there whole, or as it was before.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use super::{CacheError, Key};

/// Bytes read at a time while a file is copied.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// Writes `bytes` to `path`, creating its folder and replacing any file there. Whoever opens `path` at any
/// instant, and after a crash or an error, finds the old content or the new one, never a part.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    write_parts(path, &[bytes])
}

/// The same for what lies in parts, one behind the other.
pub(super) fn write_parts(path: &Path, parts: &[&[u8]]) -> Result<(), CacheError> {
    let mut file = temporary_in(folder_of(path), Durability::OnDisk)?;
    for part in parts {
        file.write_all(part)
            .map_err(|error| CacheError::io("write", path, error))?;
    }
    persist(file, path, Durability::OnDisk)
}

/// Copies a file whose content has the hash `key` to `target`, a part at a time. False where it has another: then `target` is as it was.
pub(super) fn copy_checked(
    (from, path): (&mut File, &Path),
    key: &Key,
    target: &Path,
    durability: Durability,
) -> Result<bool, CacheError> {
    let mut copy = temporary_in(folder_of(target), durability)?;
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from
            .read(&mut chunk)
            .map_err(|error| CacheError::io("read", path, error))?;
        if length == 0 {
            break;
        }
        hasher.update(&chunk[..length]);
        copy.write_all(&chunk[..length])
            .map_err(|error| CacheError::io("write", target, error))?;
    }
    if Key::from(hasher.finalize()) != *key {
        return Ok(false);
    }
    persist(copy, target, durability)?;
    Ok(true)
}

/// What a new file has to survive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// A power cut, once the call has returned.
    OnDisk,
    /// The end of the process. For copies, which can be made again: waiting for the disk at each would take most of a rerun that has
    /// nothing else to do.
    Copy,
}

/// A temporary file in a folder, which is created where it is missing. Dropped before it is [persisted](persist) it leaves nothing.
pub(super) fn temporary_in(
    folder: &Path,
    durability: Durability,
) -> Result<NamedTempFile, CacheError> {
    make_folder(folder, durability)?;
    // The ordinary mode, narrowed by the umask: a cache may be shared, and tempfile's default is owner-only.
    tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|error| CacheError::io("create a file in", folder, error))
}

/// Renames a temporary file of the same file system to `path`, once it is on the disk (where that is asked for).
pub(super) fn persist(
    temporary: NamedTempFile,
    path: &Path,
    durability: Durability,
) -> Result<(), CacheError> {
    let folder = folder_of(path);
    make_folder(folder, durability)?;
    if durability == Durability::OnDisk {
        let synced = temporary.as_file().sync_all();
        synced.map_err(|error| CacheError::io("write", path, error))?;
    }
    temporary
        .persist(path)
        .map_err(|error| CacheError::io("write", path, error.error))?;
    if durability == Durability::OnDisk {
        sync_folder(folder).map_err(|error| CacheError::io("sync the folder", folder, error))?;
    }
    Ok(())
}

pub(super) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Creates a folder and those above it that are missing. Where it is asked for, the names of new ones are put on the disk too: a file is
/// no safer than the folders that lead to it.
fn make_folder(folder: &Path, durability: Durability) -> Result<(), CacheError> {
    let missing: Vec<&Path> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    let failed = |path: &Path, error| CacheError::io("create the folder", path, error);
    std::fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    if durability == Durability::OnDisk {
        for made in missing {
            let above = folder_of(made);
            sync_folder(above).map_err(|error| failed(above, error))?;
        }
    }
    Ok(())
}

/// Puts a rename in `folder` on the disk, where the file system and the folder's mode let it be synced:
/// without that a power cut may lose the file, which readers then take as missing.
fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn writes_replaces_and_creates_folders() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file");
        for content in [&b"first"[..], b"", b"second"] {
            write_atomically(&path, content).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), content);
        }
        assert_eq!(entries(&folder.path().join("a/b")), 1);
    }

    #[test]
    fn the_mode_is_that_of_an_ordinary_file() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| {
            let metadata = std::fs::metadata(folder.path().join(name)).unwrap();
            metadata.permissions().mode()
        };
        write_atomically(&folder.path().join("atomic"), b"x").unwrap();
        std::fs::write(folder.path().join("plain"), b"x").unwrap();
        assert_eq!(mode("atomic"), mode("plain"));
    }

    #[test]
    fn a_failed_rename_leaves_no_temporary_file() {
        let folder = tempfile::tempdir().unwrap();
        let occupied = folder.path().join("occupied");
        std::fs::create_dir_all(occupied.join("inside")).unwrap();
        let message = write_atomically(&occupied, b"x").unwrap_err().to_string();
        assert!(message.contains("occupied`"), "{message}");
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn an_unfinished_file_leaves_the_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_atomically(&path, b"old").unwrap();
        let mut unfinished = temporary_in(folder.path(), Durability::OnDisk).unwrap();
        unfinished.write_all(b"ne").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        drop(unfinished);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(entries(folder.path()), 1);
    }

    #[test]
    fn a_parent_that_is_a_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), b"").unwrap();
        let path = folder.path().join("file/below");
        assert!(write_atomically(&path, b"x").is_err());
        assert_eq!(entries(folder.path()), 1);
    }
}
