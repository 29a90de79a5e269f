//! Which pack holds which cell, from the packs' headers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout::Layout;
use super::pack::{self, Extent, Fault, Pack};
use super::{CacheError, Key};

/// Where a cell's value is.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) pack: Arc<Pack>,
    pub(super) extent: Extent,
}

/// The cells of the packs that have been looked at.
#[derive(Default)]
pub(super) struct Index {
    cells: HashMap<Key, Place>,
    /// The packs that were looked at, whether they hold cells of the index or turned out to be unusable.
    seen_packs: HashSet<Key>,
}

impl Index {
    pub(super) fn place(&self, key: &Key) -> Option<&Place> {
        self.cells.get(key)
    }

    /// Adds the packs on the disk that have not been looked at.
    pub(super) fn scan(&mut self, layout: &Layout) -> Result<(), CacheError> {
        let packs = layout.packs();
        for shelf in list(&packs)? {
            for path in list(&shelf)? {
                if let Some(name) = pack_name(&path)
                    && !self.seen_packs.contains(&name)
                {
                    self.add(layout, name)?;
                }
            }
        }
        Ok(())
    }

    /// Adds the cells of one pack, or moves it aside if its header is damaged.
    pub(super) fn add(&mut self, layout: &Layout, name: Key) -> Result<(), CacheError> {
        let path = layout.pack(&name);
        let header = File::open(&path)
            .map_err(Fault::from)
            .and_then(|file| pack::read_header(&file));
        match header {
            Ok(header) => {
                let pack = Arc::new(Pack::new(name, path, &header));
                self.cells.reserve(header.extents.len());
                for (key, extent) in header.extents {
                    let pack = Arc::clone(&pack);
                    self.cells.insert(key, Place { pack, extent });
                }
            }
            Err(Fault::Damaged(reason)) => layout.set_aside(&path, reason),
            Err(Fault::Io(error)) if is_gone(&error) => return Ok(()),
            Err(Fault::Io(error)) => return Err(CacheError::io("read", &path, error)),
        }
        self.seen_packs.insert(name);
        Ok(())
    }

    /// Drops a pack that cannot be used, so that its cells count as missing.
    pub(super) fn forget(&mut self, pack: &Arc<Pack>) {
        // By identity: the same name may have been committed anew in the meantime.
        self.cells
            .retain(|_, place| !Arc::ptr_eq(&place.pack, pack));
    }
}

/// The paths in a folder; none if there is no such folder, or a file in its place.
pub(super) fn list(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) || error.kind() == ErrorKind::NotADirectory => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(CacheError::io("list", folder, error)),
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(|error| CacheError::io("list", folder, error))
}

/// The pack that a path in the packs' folders names; `None` for any other file.
fn pack_name(path: &Path) -> Option<Key> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".pack")?.parse().ok()
}

/// Whether a file was removed by another process, here or on another machine of a network file system.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::StaleNetworkFileHandle
    )
}
