//! The files of leases: what stands in them, and which there are.

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::cache::layout::Layout;
use crate::cache::reading::list;
use crate::cache::{CacheError, Key, record};

/// [`Key::prefix`].
pub(super) type Prefix = [u8; 16];
/// The number of a claim, and its cells in order.
pub(super) type Claim = (u64, Arc<[Prefix]>);

/// What a lease file says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Beat {
    pub(super) counter: u64,
    #[serde(default)]
    pub(super) purpose: Purpose,
    #[serde(with = "crate::files::as_text")]
    pub(super) run: PathBuf,
    pub(super) process: Process,
    /// Raised with every claim.
    pub(super) claim: u64,
    /// Whether the claim stands: its holder has looked at the others since it was written.
    pub(super) settled: bool,
    /// Number of cells claimed.
    pub(super) cells: usize,
    /// The runs that have claimed what this one still needs.
    pub(super) waits_for: Vec<Key>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Purpose {
    #[default]
    Run,
    /// Deleting what is not needed.
    Collection,
}

/// Every lease there is, of the living and the dead; none for one that cannot be read.
pub(super) fn beats(layout: &Layout) -> Result<Vec<(Key, Option<Beat>)>, CacheError> {
    let paths = list(&layout.leases())?;
    let beats = paths.into_iter().filter_map(|path| {
        let id = path.file_name()?.to_str()?.strip_suffix(".json")?;
        let id: Key = id.parse().ok()?;
        Some((id, record::read_sound(&path, &id)))
    });
    Ok(beats.collect())
}

pub(super) fn remove(layout: &Layout, id: &Key) {
    for kind in ["json", "cells", "json.new", "cells.new"] {
        let _ = std::fs::remove_file(layout.lease(id, kind));
    }
}

/// The bytes of a claim's file: its number, the cells in order, and a checksum.
pub(super) fn encode_claim(claim: u64, cells: &[Prefix]) -> Vec<u8> {
    let mut bytes = claim.to_le_bytes().to_vec();
    bytes.extend(cells.iter().flatten());
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// None for a file that is not whole.
pub(super) fn decode_claim(bytes: &[u8]) -> Option<Claim> {
    let (bytes, stated) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(bytes) != *stated {
        return None;
    }
    let (number, cells) = bytes.split_first_chunk::<8>()?;
    let (cells, []) = cells.as_chunks::<16>() else {
        return None;
    };
    Some((u64::from_le_bytes(*number), cells.into()))
}
