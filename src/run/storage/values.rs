//! What `verify` remembers of the values of cells, to find those that cannot be right: two of one cell that differ, and impossible ones.

use std::collections::HashMap;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile, Untrusted};
use crate::model::Value;
use crate::plan;

use super::verify::Damage;

/// The values of one pack, while it is not known whether the pack is sound.
#[derive(Default)]
pub(super) struct Values {
    /// The first bytes of each value's hash.
    hashes: Vec<(Key, u64)>,
    has_impossible: bool,
}

impl Values {
    pub(super) fn add(&mut self, key: &Key, value: &[u8]) {
        let hash = blake3::hash(value);
        let short = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        self.hashes.push((*key, u64::from_le_bytes(short)));
        self.has_impossible |= Value::is_impossible(value);
    }
}

/// The values of all packs so far.
#[derive(Default)]
pub(super) struct KnownValues {
    /// The hash of each cell's value, by the first half of its key.
    cells: HashMap<[u8; 16], u64>,
    /// Cells of which there are different values.
    disputed: Vec<Key>,
    /// Packs with a value that no evaluation gives.
    impossible: Vec<Key>,
}

impl KnownValues {
    /// Compares the values of a sound pack with those of the packs before.
    pub(super) fn join(&mut self, pack: &StoredFile, values: Values) {
        if values.has_impossible {
            self.impossible.push(pack.name);
        }
        for (cell, hash) in values.hashes {
            if *self.cells.entry(cell.prefix()).or_insert(hash) != hash {
                self.disputed.push(cell);
            }
        }
    }

    /// Moves aside the packs with such values, and all that was made from them.
    pub(super) fn discard_untrusted(self, cache: &Cache) -> Result<Vec<Damage>, CacheError> {
        let mut damaged = Vec::new();
        for pack in self.impossible {
            let untrusted = Untrusted {
                packs: vec![pack],
                reason: "it holds a value that is not finite, or not written as values are"
                    .to_string(),
            };
            damaged.extend(discard(cache, &untrusted)?);
        }
        for cell in self.disputed {
            // Those that went with an earlier cell are not asked any more.
            match cache.cells().find(&cell) {
                Err(CacheError::Untrusted(untrusted)) => {
                    damaged.extend(discard(cache, &untrusted)?)
                }
                Err(error) => return Err(error),
                Ok(_) => {}
            }
        }
        Ok(damaged)
    }
}

fn discard(cache: &Cache, untrusted: &Untrusted) -> Result<Vec<Damage>, CacheError> {
    let packs = cache.files(FileKind::Pack)?.into_iter();
    let packs: Vec<StoredFile> = packs
        .filter(|pack| untrusted.packs.contains(&pack.name))
        .collect();
    let records = plan::discard(cache, untrusted)?;
    let of_packs = packs.iter().map(|pack| Damage::of(pack, &untrusted.reason));
    let reason = "it was made from cells of a pack that cannot be trusted";
    let of_records = records.iter().map(|record| Damage::of(record, reason));
    Ok(of_packs.chain(of_records).collect())
}
