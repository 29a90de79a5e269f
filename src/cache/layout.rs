//! Where each kind of file stands, and how a damaged one leaves its place.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::{Key, LAYOUT_VERSION};

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

    pub(super) fn object(&self, key: &Key) -> PathBuf {
        self.file("objects", key, "")
    }

    /// The folder of artifacts that are being written.
    pub(super) fn new_objects(&self) -> PathBuf {
        self.root.join("objects").join("new")
    }

    /// The folder of one kind of file, as the module documentation names it.
    pub(super) fn folder(&self, kind: &str) -> PathBuf {
        self.root.join(kind)
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub(super) fn pack(&self, name: &Key) -> PathBuf {
        self.file("packs", name, ".pack")
    }

    /// The folder of all stage records.
    pub(super) fn stages(&self) -> PathBuf {
        self.root.join("stages")
    }

    pub(super) fn stage(&self, key: &Key) -> PathBuf {
        self.file("stages", key, ".json")
    }

    pub(super) fn weight(&self, key: &Key) -> PathBuf {
        self.file("weights", key, ".json")
    }

    /// The folder of the leases of running studies.
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

    fn file(&self, kind: &str, key: &Key, suffix: &str) -> PathBuf {
        let name = key.to_string();
        let shelf = name.get(..2).unwrap_or_default();
        self.root
            .join(kind)
            .join(shelf)
            .join(format!("{name}{suffix}"))
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
        let folder = self.root.join("damaged");
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
            layout.object(&key),
            Path::new(&format!("c/v1/objects/ab/{name}"))
        );
        assert_eq!(
            layout.pack(&key),
            Path::new(&format!("c/v1/packs/ab/{name}.pack"))
        );
        assert_eq!(
            layout.stage(&key),
            Path::new(&format!("c/v1/stages/ab/{name}.json"))
        );
        assert_eq!(
            layout.weight(&key),
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
