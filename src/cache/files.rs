//! The files of a cache one by one: to check them all, to count them, to remove some.

use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::DeserializeOwned;

use super::layout::FileKind;
use super::pack::{self, Pack};
use super::reading::{Fault, damage, is_gone, list};
use super::{Cache, CacheError, Key, object, record};

#[derive(Clone, Debug)]
pub(crate) struct StoredFile {
    pub(crate) kind: FileKind,
    pub(crate) name: Key,
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) bytes: u64,
    /// When the file system says that it was written. Good enough to say how old something is, and for nothing else.
    pub(crate) modified: Option<SystemTime>,
}

/// What a pack says of itself in its header.
pub(crate) struct PackContent {
    pub(crate) cells: usize,
    /// What [`commit`](super::CellStore::commit) was told.
    pub(crate) provenance: serde_json::Value,
}

/// What is in a cache besides its files.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// Temporary files, of the living as well as of the dead.
    pub(crate) half_written: Vec<PathBuf>,
    /// Number of files in `damaged/`.
    pub(crate) damaged_files: usize,
    pub(crate) damaged_bytes: u64,
}

impl Cache {
    /// The files of one kind, by name. Other files in their folders are passed over.
    pub(crate) fn files(&self, kind: FileKind) -> Result<Vec<StoredFile>, CacheError> {
        let stored = |(name, path): (Key, PathBuf)| {
            // A file may have gone since the folder was listed.
            let metadata = path.metadata().ok()?;
            Some(StoredFile {
                kind,
                name,
                bytes: metadata.len(),
                modified: metadata.modified().ok(),
                path,
            })
        };
        let files = self.layout.files(kind)?.into_iter();
        Ok(files.filter_map(stored).collect())
    }

    /// Reads a file whole and checks it. What is damaged is moved aside, and the reason given; none for a sound file, or one that has gone.
    /// `on_value` hears the value of every cell of a pack, before it is known whether the pack is sound.
    pub(crate) fn check(
        &self,
        file: &StoredFile,
        on_value: &mut dyn FnMut(&[u8]),
    ) -> Result<Option<&'static str>, CacheError> {
        let checked = match file.kind {
            FileKind::Object => object::check(&file.path, &file.name),
            FileKind::Record | FileKind::WeightHash | FileKind::Tokenizer => {
                record::read(&file.path, &file.name).map(drop)
            }
            FileKind::Pack => whole_pack(file, on_value),
        };
        let damage = damage(&file.path, checked)?;
        if let Some(reason) = damage {
            self.set_aside(file, reason);
        }
        Ok(damage)
    }

    /// Moves a file to `damaged/` and says so.
    pub(crate) fn set_aside(&self, file: &StoredFile, reason: &str) {
        self.layout.set_aside(&file.path, reason);
    }

    /// What a pack's header says; none where it is damaged or gone.
    pub(crate) fn pack_content(&self, file: &StoredFile) -> Option<PackContent> {
        let (_, header) = pack::open(&file.path).ok()?;
        Some(PackContent {
            cells: header.cells(),
            provenance: serde_json::from_slice(&header.provenance).unwrap_or_default(),
        })
    }

    /// The record in a file of records; none if it is damaged, gone, or of another version of the program.
    pub(crate) fn record_in<T: DeserializeOwned>(&self, file: &StoredFile) -> Option<T> {
        record::read_sound(&file.path, &file.name)
    }

    /// Removes a file. One that has gone already is no error.
    pub(crate) fn remove(&self, file: &StoredFile) -> Result<(), CacheError> {
        match std::fs::remove_file(&file.path) {
            Err(error) if !is_gone(&error) => Err(CacheError::io("remove", &file.path, error)),
            _ => Ok(()),
        }
    }

    pub(crate) fn leftovers(&self) -> Result<Leftovers, CacheError> {
        let damaged = list(&self.layout.damaged())?;
        let size = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        Ok(Leftovers {
            half_written: self.layout.temporary_files()?,
            damaged_files: damaged.len(),
            damaged_bytes: damaged.iter().map(size).sum(),
        })
    }
}

fn whole_pack(file: &StoredFile, on_value: &mut dyn FnMut(&[u8])) -> Result<(), Fault> {
    let (open, header) = pack::open(&file.path)?;
    Pack::new(file.name, header).check(&open, on_value)?;
    Ok(())
}
