//! Where each kind of file stands, how the files are listed, and how a damaged one leaves its place.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::reading::{Fault, is_of_one_file, list};
use super::{CacheError, Key, LAYOUT_VERSION};

/// What a file of the cache is, in the order in which files are deleted: what names others goes before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum FileKind {
    /// A stage record.
    Record,
    /// A batch of cells.
    Pack,
    /// An artifact.
    Object,
    /// The known hash of a weight file.
    WeightHash,
    /// What a tokenizer answered while studies were opened.
    Tokenizer,
}

impl FileKind {
    pub(crate) const ALL: [FileKind; 5] = [
        FileKind::Object,
        FileKind::Pack,
        FileKind::Record,
        FileKind::WeightHash,
        FileKind::Tokenizer,
    ];

    /// The name of the folder, and how names of files in it end.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            FileKind::Object => ("objects", ""),
            FileKind::Pack => ("packs", ".pack"),
            FileKind::Record => ("stages", ".json"),
            FileKind::WeightHash => ("weights", ".json"),
            FileKind::Tokenizer => ("tokenizers", ".json"),
        }
    }
}

/// The paths below one cache folder, as drawn in the module documentation.
#[derive(Clone)]
pub(super) struct Layout {
    /// The folder `v1`.
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(cache_folder: &Path) -> Self {
        Self {
            root: cache_folder.join(format!("v{LAYOUT_VERSION}")),
        }
    }

    pub(super) fn file(&self, kind: FileKind, key: &Key) -> PathBuf {
        let (folder, suffix) = kind.place();
        let name = key.to_string();
        let shelf = name.get(..2).unwrap_or_default();
        let name = format!("{name}{suffix}");
        self.root.join(folder).join(shelf).join(name)
    }

    /// All that lies on the shelves of one kind, with its name.
    fn shelved(&self, kind: FileKind) -> Result<Vec<(String, PathBuf)>, CacheError> {
        let mut shelved = Vec::new();
        for shelf in list(&self.root.join(kind.place().0))? {
            let named = |path: PathBuf| Some((path.file_name()?.to_str()?.to_string(), path));
            shelved.extend(list(&shelf)?.into_iter().filter_map(named));
        }
        Ok(shelved)
    }

    /// The files of one kind, by name. Other files in their folders are passed over.
    pub(super) fn files(&self, kind: FileKind) -> Result<Vec<(Key, PathBuf)>, CacheError> {
        let (_, suffix) = kind.place();
        let shelved = self.shelved(kind)?.into_iter();
        let mut files: Vec<(Key, PathBuf)> = shelved
            .filter_map(|(name, path)| Some((name.strip_suffix(suffix)?.parse().ok()?, path)))
            .collect();
        files.sort_unstable();
        Ok(files)
    }

    /// What processes left half written when they were killed, or are writing now.
    pub(super) fn temporary_files(&self) -> Result<Vec<PathBuf>, CacheError> {
        let mut temporary = Vec::new();
        for kind in FileKind::ALL {
            let mut shelved = self.shelved(kind)?;
            shelved.retain(|(name, _)| name.starts_with(".tmp-"));
            temporary.extend(shelved.into_iter().map(|(_, path)| path));
        }
        Ok(temporary)
    }

    /// The folder of artifacts that are being written.
    pub(super) fn new_objects(&self) -> PathBuf {
        self.root.join("objects").join("new")
    }

    pub(super) fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// A file of the lease `id`.
    pub(super) fn lease(&self, id: &Key, suffix: &str) -> PathBuf {
        self.leases().join(format!("{id}.{suffix}"))
    }

    /// Writes a file of a lease, whole, and says whether it could. It need not survive a power cut, and its failing stops nobody.
    pub(super) fn write_lease(&self, id: &Key, suffix: &str, bytes: &[u8]) -> bool {
        let path = self.lease(id, suffix);
        let beside = self.lease(id, &format!("{suffix}.new"));
        let written = std::fs::create_dir_all(self.leases())
            .and_then(|()| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &path));
        if let Err(error) = &written {
            tracing::debug!("cannot write `{}`: {error}", path.display());
        }
        written.is_ok()
    }

    /// What was read from a file, where it is of use: none if the file is gone, is damaged, which moves it aside, or alone cannot be read.
    pub(super) fn usable<T>(
        &self,
        path: &Path,
        read: Result<T, Fault>,
    ) -> Result<Option<T>, CacheError> {
        match read {
            Ok(value) => return Ok(Some(value)),
            Err(Fault::Damaged(reason)) => self.set_aside(path, reason),
            Err(Fault::Gone) => {}
            Err(Fault::Io(error)) if is_of_one_file(&error) => tracing::warn!(
                "`{}` cannot be read ({error}); it is not used, and what it holds is computed again",
                path.display()
            ),
            Err(Fault::Io(error)) => return Err(CacheError::io("read", path, error)),
        }
        Ok(None)
    }

    /// Moves a file that failed its check to `damaged/` and warns. Never fails: the caller counts the file
    /// as missing whether or not it could be moved.
    pub(super) fn set_aside(&self, path: &Path, reason: &str) {
        let shown = path.display();
        match self.move_to_damaged(path) {
            Ok(place) => tracing::warn!(
                "`{shown}` is damaged ({reason}); moved to `{}`, and what it held is computed again",
                place.display()
            ),
            // Another process was faster, and has warned.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(
                "`{shown}` is damaged ({reason}) and could not be moved aside ({error}); it is not used, \
                 and what it held is computed again"
            ),
        }
    }

    fn move_to_damaged(&self, path: &Path) -> io::Result<PathBuf> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let folder = self.damaged();
        std::fs::create_dir_all(&folder)?;
        // The same file may be damaged twice: keep both.
        let place = (0_u64..)
            .map(|number| {
                let mut name = name.to_owned();
                if number > 0 {
                    name.push(format!(".{number}"));
                }
                folder.join(name)
            })
            .find(|place| !place.exists())
            .ok_or(ErrorKind::AlreadyExists)?;
        std::fs::rename(path, &place)?;
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_on_the_shelf_of_their_first_byte() {
        let layout = Layout::new(Path::new("c"));
        let key = Key::from([0xab; 32]);
        let name = "ab".repeat(32);
        assert_eq!(
            layout.file(FileKind::Object, &key),
            Path::new(&format!("c/v1/objects/ab/{name}"))
        );
        assert_eq!(
            layout.file(FileKind::Pack, &key),
            Path::new(&format!("c/v1/packs/ab/{name}.pack"))
        );
        assert_eq!(
            layout.file(FileKind::Record, &key),
            Path::new(&format!("c/v1/stages/ab/{name}.json"))
        );
        assert_eq!(
            layout.file(FileKind::WeightHash, &key),
            Path::new(&format!("c/v1/weights/ab/{name}.json"))
        );
    }

    #[test]
    fn damaged_files_of_one_name_are_all_kept() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let path = folder.path().join("file");
        for content in ["one", "two", "three"] {
            std::fs::write(&path, content).unwrap();
            layout.set_aside(&path, "a test");
            assert!(!path.exists());
        }
        let damaged = folder.path().join("v1/damaged");
        for (name, content) in [("file", "one"), ("file.1", "two"), ("file.2", "three")] {
            let kept = std::fs::read_to_string(damaged.join(name)).unwrap();
            assert_eq!(kept, content);
        }
        layout.set_aside(&path, "it has vanished");
        assert_eq!(std::fs::read_dir(&damaged).unwrap().count(), 3);
    }
}
