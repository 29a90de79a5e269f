//! Checking all that a cache holds.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile, WeightStamp};
use crate::model::FileStamp;
use crate::plan::{self, Record, StageRecord};

use super::PackOrigin;
use super::values::{KnownValues, Values};

/// A file that failed its check.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    #[serde(serialize_with = "crate::files::as_text::serialize")]
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

impl Damage {
    pub(super) fn of(file: &StoredFile, reason: &str) -> Self {
        Damage {
            path: file.path.clone(),
            reason: reason.to_string(),
        }
    }
}

/// What checking a whole cache found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// What was moved aside.
    pub damaged: Vec<Damage>,
}

/// Reads every file of the cache and checks it; what is damaged is moved aside, and so is a record that names an object that is missing.
/// Packs that hold one cell with different values, or a value that no evaluation gives, go too, with all that was made from them.
/// Weight files whose hash is known are hashed again, whatever their size, times and inode say; where one is not what it was, all that was
/// computed with it goes, for it is not known since when. `on_progress` hears how many bytes of how many were read.
///
/// # Errors
/// [`CacheError::Io`] where the cache cannot be listed.
pub fn verify(
    cache: &Cache,
    on_progress: &mut dyn FnMut(u64, u64),
) -> Result<Verified, CacheError> {
    let mut files = Vec::new();
    // Records last: by then the objects that they name have been checked.
    let in_order = [
        FileKind::Object,
        FileKind::Pack,
        FileKind::WeightHash,
        FileKind::Record,
    ];
    for kind in in_order {
        files.extend(cache.files(kind)?);
    }
    let weights =
        |file: &StoredFile| known_weights(cache, file).map_or(0, |(known, _)| known.size_bytes);
    let total = files.iter().map(|file| file.bytes + weights(file)).sum();
    let mut verified = Verified::default();
    let (mut sound_objects, mut changed_weights) = (HashSet::new(), HashSet::new());
    let mut known = KnownValues::default();
    for file in files {
        let mut values = Values::default();
        let checked = cache.check(&file, &mut |key, value| values.add(key, value));
        let reason = match checked {
            Ok(Some(reason)) => Some(reason.to_string()),
            Ok(None) => unsound(cache, &file, &sound_objects, &mut changed_weights),
            // The others are checked all the same.
            Err(error) => {
                tracing::warn!("{error}");
                Some(error.to_string())
            }
        };
        if reason.is_none() && file.kind == FileKind::Object {
            sound_objects.insert(file.name);
        }
        if reason.is_none() && file.kind == FileKind::Pack {
            known.join(&file, values);
        }
        verified.files += 1;
        verified.bytes += file.bytes + weights(&file);
        let damage = reason.map(|reason| Damage::of(&file, &reason));
        verified.damaged.extend(damage);
        on_progress(verified.bytes, total);
    }
    verified.damaged.extend(known.discard_untrusted(cache)?);
    if !changed_weights.is_empty() {
        verified
            .damaged
            .extend(computed_with(cache, &changed_weights)?);
    }
    Ok(verified)
}

/// Moves aside the packs and records that were computed with some weight files, and the records of stages that build on these.
fn computed_with(cache: &Cache, weights: &HashSet<Key>) -> Result<Vec<Damage>, CacheError> {
    let reason = "it was computed with a weight file that is not what it was";
    let mut damaged = Vec::new();
    for file in cache.files(FileKind::Pack)? {
        let content = cache.pack_content(&file);
        let origin = content.map(|content| PackOrigin::of(content.provenance));
        let with = origin.unwrap_or_default().weights;
        if with.iter().any(|hash| weights.contains(hash)) {
            cache.set_aside(&file, reason);
            damaged.push(Damage::of(&file, reason));
        }
    }
    let is_of_these =
        |record: &StageRecord| record.weights.iter().any(|hash| weights.contains(hash));
    let records = plan::set_aside_records(cache, reason, is_of_these)?;
    damaged.extend(records.iter().map(|file| Damage::of(file, reason)));
    Ok(damaged)
}

/// What is wrong with a file that is whole, if it says what is not so; it is moved aside then. The hashes that weight files do not have any
/// more are added to `changed_weights`.
fn unsound(
    cache: &Cache,
    file: &StoredFile,
    sound_objects: &HashSet<Key>,
    changed_weights: &mut HashSet<Key>,
) -> Option<String> {
    let reason = match file.kind {
        FileKind::Object | FileKind::Pack => None,
        FileKind::Record => {
            let record = cache.record_in::<Record>(file)?;
            // An object that was made since they were listed is looked at now.
            let is_there = |object: &Key| {
                sound_objects.contains(object) || cache.is_object_intact(object).unwrap_or(false)
            };
            let is_complete = record.objects().all(is_there);
            (!is_complete).then(|| "it names an artifact that is not in the cache".to_string())
        }
        FileKind::WeightHash => {
            let (known, hash) = known_weights(cache, file)?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_mmap_rayon(&known.path).ok()?;
            // One that was replaced while it was read is another file, and says nothing of this one.
            let is_changed = hasher.finalize() != hash && known_weights(cache, file).is_some();
            is_changed.then(|| {
                changed_weights.insert(hash.into());
                format!(
                    "`{}` is not what it was when it was hashed, though its size, times and inode are",
                    known.path.display()
                )
            })
        }
    };
    if let Some(reason) = &reason {
        cache.set_aside(file, reason);
    }
    reason
}

/// The weight file whose hash a file of the cache remembers, if it is there and looks as it did.
fn known_weights(cache: &Cache, file: &StoredFile) -> Option<(WeightStamp, blake3::Hash)> {
    let (known, hash) = cache.weight_hashes().known(file)?;
    let now = WeightStamp::from(&FileStamp::of(&known.path).ok()?);
    (now == known).then_some((known, hash))
}
