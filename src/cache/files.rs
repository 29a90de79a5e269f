//! The files of a cache one by one: to check them all, to count them, to remove some.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::pack::{self, Fault, Pack};
use super::reading::{is_gone, list};
use super::{Cache, CacheError, Key, object, record};

/// What a file of the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// An artifact.
    Object,
    /// A batch of cells.
    Pack,
    /// A stage record.
    Record,
    /// The known hash of a weight file.
    WeightHash,
}

impl FileKind {
    /// All of them.
    pub(crate) const ALL: [FileKind; 4] = [
        FileKind::Object,
        FileKind::Pack,
        FileKind::Record,
        FileKind::WeightHash,
    ];

    /// Its folder, and how names of its files end.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            FileKind::Object => ("objects", ""),
            FileKind::Pack => ("packs", ".pack"),
            FileKind::Record => ("stages", ".json"),
            FileKind::WeightHash => ("weights", ".json"),
        }
    }
}

/// A file of the cache.
#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    /// What it is.
    pub(crate) kind: FileKind,
    /// Its name.
    pub(crate) name: Key,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
    /// When the file system says that it was written. Good enough to say how old something is, and for nothing else.
    pub(crate) modified: Option<SystemTime>,
}

/// What a pack says of itself in its header.
#[derive(Clone, Debug)]
pub(crate) struct PackContent {
    /// Number of cells.
    pub(crate) cells: usize,
    /// What [`commit`](super::CellStore::commit) was told.
    pub(crate) provenance: serde_json::Value,
}

impl Cache {
    /// The files of one kind, by name. Other files in their folders are passed over.
    ///
    /// # Errors
    /// [`CacheError::Io`] for a folder that cannot be listed.
    pub(crate) fn files(&self, kind: FileKind) -> Result<Vec<StoredFile>, CacheError> {
        let (folder, suffix) = kind.place();
        let mut files = Vec::new();
        for shelf in list(&self.layout.folder(folder))? {
            for path in list(&shelf)? {
                let name = path.file_name().and_then(|name| name.to_str());
                let name = name.and_then(|name| name.strip_suffix(suffix)?.parse().ok());
                // A file may have gone since the folder was listed.
                if let (Some(name), Ok(metadata)) = (name, path.metadata()) {
                    files.push(StoredFile {
                        kind,
                        name,
                        bytes: metadata.len(),
                        modified: metadata.modified().ok(),
                        path,
                    });
                }
            }
        }
        files.sort_by_key(|file| file.name);
        Ok(files)
    }

    /// Reads a file whole and checks it. What is damaged is moved aside, and the reason given; none for a sound file, or one that has gone.
    /// `on_cell` hears key and value of every cell of a pack, before it is known whether the pack is sound.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be read.
    pub(crate) fn check(
        &self,
        file: &StoredFile,
        on_cell: &mut dyn FnMut(&Key, &[u8]),
    ) -> Result<Option<&'static str>, CacheError> {
        let reason = match file.kind {
            FileKind::Object => object::fault(&file.path, &file.name)?,
            FileKind::Record | FileKind::WeightHash => record::fault(&file.path, &file.name)?,
            FileKind::Pack => match whole_pack(file, on_cell) {
                Ok(()) => None,
                Err(Fault::Damaged(reason)) => Some(reason),
                Err(Fault::Io(error)) if is_gone(&error) => None,
                Err(Fault::Io(error)) => return Err(CacheError::io("read", &file.path, error)),
            },
        };
        if let Some(reason) = reason {
            self.set_aside(file, reason);
        }
        Ok(reason)
    }

    /// Moves a file to `damaged/` and says so.
    pub(crate) fn set_aside(&self, file: &StoredFile, reason: &str) {
        self.layout.set_aside(&file.path, reason);
    }

    /// What a pack's header says; none where it is damaged or gone.
    pub(crate) fn pack_content(&self, file: &StoredFile) -> Option<PackContent> {
        let header = pack::read_header(&crate::files::open(&file.path).ok()?).ok()?;
        Some(PackContent {
            cells: header.cells(),
            provenance: serde_json::from_slice(&header.provenance).unwrap_or_default(),
        })
    }

    /// The record in a file of records; none if it is damaged, gone, or of another version of the program.
    pub(crate) fn record_in<T: DeserializeOwned>(&self, file: &StoredFile) -> Option<T> {
        record::decode(
            &crate::files::read(&file.path, crate::files::DATA_BYTES).ok()?,
            &file.name,
        )
    }

    /// Removes a file. One that has gone already is no error.
    ///
    /// # Errors
    /// [`CacheError::Io`] if it cannot be removed.
    pub(crate) fn remove(&self, file: &StoredFile) -> Result<(), CacheError> {
        match std::fs::remove_file(&file.path) {
            Err(error) if !is_gone(&error) => Err(CacheError::io("remove", &file.path, error)),
            _ => Ok(()),
        }
    }

    /// Files that processes left half written when they were killed, and the sizes of those that were moved aside as damaged.
    ///
    /// # Errors
    /// [`CacheError::Io`] for a folder that cannot be listed.
    pub(crate) fn leftovers(&self) -> Result<Leftovers, CacheError> {
        let mut leftovers = Leftovers::default();
        for kind in FileKind::ALL {
            for shelf in list(&self.layout.folder(kind.place().0))? {
                let half_written = |path: &PathBuf| {
                    let name = path.file_name().and_then(|name| name.to_str());
                    name.is_some_and(|name| name.starts_with(".tmp-"))
                };
                let paths = list(&shelf)?.into_iter();
                leftovers.half_written.extend(paths.filter(half_written));
            }
        }
        for path in list(&self.layout.folder("damaged"))? {
            leftovers.damaged_files += 1;
            leftovers.damaged_bytes += path.metadata().map_or(0, |metadata| metadata.len());
        }
        Ok(leftovers)
    }
}

/// What is in a cache besides its files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leftovers {
    /// Temporary files, of the living as well as of the dead.
    pub(crate) half_written: Vec<PathBuf>,
    /// Number of files in `damaged/`.
    pub(crate) damaged_files: usize,
    /// Their size.
    pub(crate) damaged_bytes: u64,
}

fn whole_pack(file: &StoredFile, on_cell: &mut dyn FnMut(&Key, &[u8])) -> Result<(), Fault> {
    let open = crate::files::open(&file.path)?;
    let header = pack::read_header(&open)?;
    let keys: Vec<Key> = header.keys().collect();
    Pack::new(file.name, header).check(&open, &mut |cell, value| {
        if let Some(key) = keys.get(cell) {
            on_cell(key, value);
        }
    })?;
    Ok(())
}
