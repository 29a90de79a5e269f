//! Values out of the cache, as far as they can be those of their cells. Packs that hold others go, with all that was made from them.

use std::collections::{BTreeSet, HashSet};

use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, FileKind, Key, Place, StoredFile, Untrusted};
use crate::model::{Cell, ModelConfig, Value};
use crate::stages::StageError;

use super::record::StageRecord;

/// The value of a cell of a model of these dimensions, and where it is; none where no pack holds it.
///
/// # Errors
/// [`StageError::Untrusted`] where packs hold the cell with different values, or one that no evaluation gives: they are moved aside then,
/// and the records of all that was made from them. [`StageError::Cache`] where the cache cannot be read.
pub(crate) fn cached_value(
    cache: &Cache,
    cell: &Cell,
    key: &Key,
    config: &ModelConfig,
) -> Result<Option<(Place, Value)>, StageError> {
    let (place, bytes) = match cache.cells().find(key) {
        Ok(None) => return Ok(None),
        Ok(Some(found)) => found,
        Err(CacheError::Untrusted(untrusted)) => return Err(distrusted(cache, &untrusted)),
        Err(error) => return Err(error.into()),
    };
    let value = Value::from_bytes(&bytes).filter(|value| cell.readout.admits(value, config));
    if let Some(value) = value {
        return Ok(Some((place, value)));
    }
    let pack = cache.cells().pack_of(place)?;
    let reason = "it holds a value that is not finite, or not of its cell's kind and length";
    Err(distrusted(
        cache,
        &Untrusted {
            packs: pack.into_iter().collect(),
            reason: reason.to_string(),
        },
    ))
}

fn distrusted(cache: &Cache, untrusted: &Untrusted) -> StageError {
    match discard(cache, untrusted) {
        Ok(_) => StageError::Untrusted(untrusted.to_string()),
        Err(error) => error.into(),
    }
}

/// Moves packs aside, and before them (so that being killed leaves none behind) the records of all that was made from them. Gives the
/// records.
///
/// # Errors
/// [`CacheError::Io`] where the records cannot be listed.
pub(crate) fn discard(cache: &Cache, untrusted: &Untrusted) -> Result<Vec<StoredFile>, CacheError> {
    let packs: BTreeSet<&Key> = untrusted.packs.iter().collect();
    let is_of_these = |record: &StageRecord| record.packs.iter().any(|pack| packs.contains(pack));
    let reason = format!("it was made from cells of a pack that is not to be trusted: {untrusted}");
    let records = set_aside_records(cache, &reason, is_of_these)?;
    cache.discard(untrusted);
    Ok(records)
}

/// Moves aside the records that are wrong, and those of stages that build on them. Gives them.
///
/// # Errors
/// [`CacheError::Io`] where the records cannot be listed.
pub(crate) fn set_aside_records(
    cache: &Cache,
    reason: &str,
    is_wrong: impl Fn(&StageRecord) -> bool,
) -> Result<Vec<StoredFile>, CacheError> {
    let files = cache.files(FileKind::Record)?.into_iter();
    let records = files.filter_map(|file| Some((cache.record_in(&file)?, file)));
    let mut trusted: Vec<(StageRecord, StoredFile)> = records.collect();
    let mut contents: HashSet<String> = HashSet::new();
    let mut set_aside = Vec::new();
    loop {
        let (wrong, sound): (Vec<_>, Vec<_>) = trusted.into_iter().partition(|(record, _)| {
            let inputs = record.key_parts["stages"].as_array();
            let mut inputs = inputs.into_iter().flatten().filter_map(Json::as_str);
            inputs.any(|content| contents.contains(content)) || is_wrong(record)
        });
        if wrong.is_empty() {
            return Ok(set_aside);
        }
        for (record, file) in wrong {
            cache.set_aside(&file, reason);
            contents.insert(record.content().to_string());
            set_aside.push(file);
        }
        trusted = sound;
    }
}
