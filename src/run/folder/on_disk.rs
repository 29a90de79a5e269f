//! A run's folder on the disk, as long as its name leads to it.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan};

use crate::cache::{Cache, CacheError, Key, write_atomically};

/// A folder that was made, and what has been written into it.
pub(in crate::run) struct OnDisk {
    pub(in crate::run) path: PathBuf,
    /// The folder itself, whatever becomes of its name.
    handle: File,
    /// The files that have been written, as paths in the folder.
    written: BTreeSet<PathBuf>,
}

impl OnDisk {
    /// Opens a folder that was just made.
    pub(super) fn open(path: PathBuf) -> Result<Self, CacheError> {
        let handle =
            File::open(&path).map_err(|error| CacheError::io("open the folder", &path, error))?;
        Ok(OnDisk {
            path,
            handle,
            written: BTreeSet::new(),
        })
    }

    /// Fails where the folder's name does not lead to it any more. Nothing is written then: it would be a part of a run, in a place that
    /// somebody has cleared.
    pub(in crate::run) fn check_is_there(&self) -> Result<(), CacheError> {
        let which = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        match (self.handle.metadata(), self.path.metadata()) {
            (Ok(made), Ok(named)) if which(&made) == which(&named) => Ok(()),
            _ => Err(self.vanished(Vec::new())),
        }
    }

    fn vanished(&self, files: Vec<PathBuf>) -> CacheError {
        CacheError::Vanished {
            run: self.path.clone(),
            files,
        }
    }

    /// The files that were written and are not there any more, as an error; none where all are.
    pub(super) fn missing(&self) -> Option<CacheError> {
        let files = self.written.iter();
        let missing = files.filter(|file| !self.path.join(file).is_file());
        let missing: Vec<PathBuf> = missing.cloned().collect();
        (!missing.is_empty()).then(|| self.vanished(missing))
    }

    /// Counts a file that somebody else keeps in the folder, if there is one, among those that must be there in the end.
    pub(in crate::run) fn expect(&mut self, file: &str) {
        if self.path.join(file).is_file() {
            self.written.insert(file.into());
        }
    }

    pub(super) fn write(&mut self, file: PathBuf, bytes: &[u8]) -> Result<(), CacheError> {
        self.check_is_there()?;
        write_atomically(&self.path.join(&file), bytes)?;
        self.written.insert(file);
        Ok(())
    }

    /// The same for a file that is written again and again, and so need not be there in the end.
    pub(super) fn rewrite(&self, file: &str, bytes: &[u8]) -> Result<(), CacheError> {
        self.check_is_there()?;
        write_atomically(&self.path.join(file), bytes)
    }

    /// Removes the folder with all that is in it.
    pub(in crate::run) fn remove(self) -> Result<(), CacheError> {
        self.check_is_there()?;
        let removed = std::fs::remove_dir_all(&self.path);
        removed.map_err(|error| CacheError::io("remove the folder", &self.path, error))
    }

    /// Copies an artifact out of the cache; `false` where it is not there, or was damaged.
    pub(super) fn copy(
        &mut self,
        cache: &Cache,
        key: &Key,
        file: PathBuf,
    ) -> Result<bool, CacheError> {
        self.check_is_there()?;
        let is_copied = cache.copy_object_to(key, &self.path.join(&file))?;
        if is_copied {
            self.written.insert(file);
        }
        Ok(is_copied)
    }
}

/// Makes a folder that no other run has, named by its time and key: of two runs that start in one millisecond, the second takes the next.
pub(super) fn new_folder(
    of_study: &Path,
    mut now: Timestamp,
    key: &Key,
) -> Result<(Timestamp, PathBuf), CacheError> {
    let failed = |path: &Path, error| CacheError::io("create the folder", path, error);
    std::fs::create_dir_all(of_study).map_err(|error| failed(of_study, error))?;
    loop {
        let time = now.strftime("%Y%m%dT%H%M%S%.3fZ");
        let path = of_study.join(format!("{time}-{}", &key.to_string()[..8]));
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok((now, path)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => now += 1.millisecond(),
            Err(error) => return Err(failed(&path, error)),
        }
    }
}

/// Points `latest` at the run: a symbolic link made beside and renamed over the old one.
pub(super) fn point_latest(of_study: &Path, run: &Path) -> Result<(), CacheError> {
    let (Some(name), latest) = (run.file_name(), of_study.join("latest")) else {
        return Ok(());
    };
    // A name of its own: another machine may have a process of the same number, and one that was killed may have left its link.
    let linked = tempfile::Builder::new()
        .prefix(".latest-")
        .make_in(of_study, |beside| std::os::unix::fs::symlink(name, beside))
        .and_then(|link| link.into_temp_path().persist(&latest).map_err(|e| e.error));
    linked.map_err(|error| CacheError::io("point to the newest run", &latest, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_start_in_one_millisecond_have_folders_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let (now, key) = (Timestamp::now(), Key::of(b"study"));
        let (first, one) = new_folder(folder.path(), now, &key).unwrap();
        let (second, two) = new_folder(folder.path(), now, &key).unwrap();
        assert!(first < second);
        assert!(one < two, "the later one comes last");
        assert!(one.is_dir() && two.is_dir());
    }

    #[test]
    fn latest_points_to_the_newest_whatever_a_killed_run_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let left = format!(".latest-{}", std::process::id());
        std::os::unix::fs::symlink("gone", folder.path().join(left)).unwrap();
        for name in ["one", "two"] {
            point_latest(folder.path(), &folder.path().join(name)).unwrap();
            let target = std::fs::read_link(folder.path().join("latest")).unwrap();
            assert_eq!(target, Path::new(name));
        }
    }
}
