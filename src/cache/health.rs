//! Whether a cache folder can be used, looked at without changing it or reading all of it.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::files::Leftovers;
use super::reading::damage;
use super::{Cache, CacheError, FileKind, StoredFile, Users, lease, pack, record};

/// Files of one kind that are looked at, the newest first.
const MOST_FILES: usize = 1000;

/// What a look at a cache found.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// Who is at work on it.
    pub(crate) users: Users,
    /// Leases of runs that were killed; the next run removes them.
    pub(crate) dead_leases: usize,
    pub(crate) leftovers: Leftovers,
    /// Damaged files among those that were looked at: records, and headers of packs.
    pub(crate) damaged: Vec<PathBuf>,
    /// Files that cannot be read, and why.
    pub(crate) unreadable: Vec<CacheError>,
}

impl Cache {
    /// Looks at every name, at the newest records, and at the headers of the newest packs. Takes up to 10 s where a run on another machine
    /// may be at work on the cache.
    ///
    /// # Errors
    /// [`CacheError::Io`] for a folder that cannot be listed.
    pub(crate) fn health(&self) -> Result<Health, CacheError> {
        let (leftovers, users) = (self.leftovers()?, self.users()?);
        let leases = lease::count(&self.layout)?;
        let mut health = Health {
            dead_leases: leases.saturating_sub(users.runs.len() + users.collections),
            users,
            leftovers,
            ..Health::default()
        };
        for kind in FileKind::ALL {
            let mut files = self.files(kind)?;
            health.files += files.len();
            health.bytes += files.iter().map(|file| file.bytes).sum::<u64>();
            files.sort_by_key(|file| std::cmp::Reverse(file.modified));
            for file in files.into_iter().take(MOST_FILES) {
                match glance(&file) {
                    Ok(None) => {}
                    Ok(Some(_)) => health.damaged.push(file.path),
                    Err(error) => health.unreadable.push(error),
                }
            }
        }
        Ok(health)
    }
}

/// What is wrong with a record, or with the header of a pack; of an artifact nothing is looked at.
fn glance(file: &StoredFile) -> Result<Option<&'static str>, CacheError> {
    let looked_at = match file.kind {
        FileKind::Object => Ok(()),
        FileKind::Record | FileKind::WeightHash | FileKind::Tokenizer => {
            record::read(&file.path, &file.name).map(drop)
        }
        FileKind::Pack => pack::open(&file.path).map(drop),
    };
    damage(&file.path, looked_at)
}

/// Writes a file into a folder and removes it again. Where there is no such folder yet, the one that it would be made in is tried.
///
/// # Errors
/// Nothing can be written there.
pub(crate) fn try_writing(folder: &Path) -> io::Result<()> {
    let write = || -> io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".tmp-")
            .tempfile_in(existing_part(folder))?;
        file.write_all(&[0; 4096])?;
        file.as_file().sync_all()
    };
    // Without the path of a file that was never there, which the library appends.
    write().map_err(|error| io::Error::from(error.kind()))
}

/// The folder itself, or the nearest one above it that is there.
pub(crate) fn existing_part(folder: &Path) -> &Path {
    let mut parents = folder
        .ancestors()
        .filter(|path| !path.as_os_str().is_empty());
    let exists = |path: &&Path| !matches!(path.symlink_metadata(), Err(error) if error.kind() == ErrorKind::NotFound);
    parents.find(exists).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Batch, Key};

    #[test]
    fn a_look_finds_what_is_damaged_and_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        cache.put_stage_record(&Key::of(b"s"), &1).unwrap();
        cache.put_object(b"x").unwrap();
        let mut batch = Batch::default();
        batch.push(Key::of(b"c"), &[1; 8]);
        let provenance = serde_json::json!({});
        cache.cells().commit(&batch, &provenance).unwrap();
        let sound = cache.health().unwrap();
        assert_eq!((sound.files, sound.damaged.len()), (3, 0));
        for kind in [FileKind::Record, FileKind::Pack] {
            let path = cache.files(kind).unwrap().remove(0).path;
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[45] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
        let health = cache.health().unwrap();
        assert_eq!((health.files, health.damaged.len()), (3, 2));
        assert!(health.damaged.iter().all(|path| path.exists()));
        assert_eq!(health.leftovers.damaged_files, 0);
    }

    #[test]
    fn a_folder_that_is_not_there_is_tried_in_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("a/b");
        try_writing(&absent).unwrap();
        assert_eq!(existing_part(&absent), folder.path());
        assert_eq!(existing_part(Path::new("nowhere/at/all")), Path::new("."));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let kind = try_writing(&file).unwrap_err().kind();
        assert_eq!(kind, ErrorKind::NotADirectory);
    }
}
