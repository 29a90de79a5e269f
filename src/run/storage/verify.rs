//! Checking all that a cache holds.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Serialize;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile, Untrusted};
use crate::model::{FileStamp, Value};
use crate::plan::{self, Record, StageRecord};

use super::PackOrigin;

/// A file that failed its check.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    #[serde(serialize_with = "crate::files::as_text::serialize")]
    pub(crate) path: PathBuf,
    pub(crate) reason: String,
}

impl Damage {
    fn of(file: &StoredFile, reason: &str) -> Self {
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
    for kind in FileKind::ALL {
        files.extend(cache.files(kind)?);
    }
    // Records last: by then the objects that they name have been checked.
    files.sort_by_key(|file| file.kind == FileKind::Record);
    let weights = |file: &StoredFile| known_weights(cache, file).map_or(0, |(known, _)| known.size);
    let total = files.iter().map(|file| file.bytes + weights(file)).sum();
    let mut verified = Verified::default();
    let (mut sound_objects, mut changed_weights) = (HashSet::new(), HashSet::new());
    // Packs with a value that no evaluation gives.
    let mut impossible = Vec::new();
    for file in files {
        let mut has_impossible = false;
        let mut on_value = |value: &[u8]| has_impossible |= Value::is_impossible(value);
        let reason = match cache.check(&file, &mut on_value) {
            Ok(Some(reason)) => Some(reason.to_string()),
            Ok(None) => unsound(cache, &file, &sound_objects, &mut changed_weights),
            // The others are checked all the same.
            Err(error) => {
                tracing::warn!("{error}");
                Some(error.to_string())
            }
        };
        verified.files += 1;
        verified.bytes += file.bytes + weights(&file);
        match (reason, file.kind) {
            (Some(reason), _) => verified.damaged.push(Damage::of(&file, &reason)),
            (None, FileKind::Object) => drop(sound_objects.insert(file.name)),
            (None, FileKind::Pack) if has_impossible => impossible.push(file.name),
            (None, _) => {}
        }
        on_progress(verified.bytes, total);
    }
    verified
        .damaged
        .extend(discard_untrusted(cache, impossible)?);
    if !changed_weights.is_empty() {
        verified
            .damaged
            .extend(computed_with(cache, &changed_weights)?);
    }
    Ok(verified)
}

/// Moves aside the packs with impossible values and those that are at odds, and all that was made from them.
fn discard_untrusted(cache: &Cache, impossible: Vec<Key>) -> Result<Vec<Damage>, CacheError> {
    let mut damaged = Vec::new();
    let mut discard = |untrusted: &Untrusted| -> Result<(), CacheError> {
        let mut packs = cache.files(FileKind::Pack)?;
        packs.retain(|pack| untrusted.packs.contains(&pack.name));
        let records = plan::discard(cache, untrusted)?;
        damaged.extend(packs.iter().map(|p| Damage::of(p, &untrusted.reason)));
        let reason = "it was made from cells of a pack that cannot be trusted";
        damaged.extend(records.iter().map(|record| Damage::of(record, reason)));
        Ok(())
    };
    for pack in impossible {
        let reason = "it holds a value that is not finite, or not written as values are";
        discard(&Untrusted {
            packs: vec![pack],
            reason: reason.to_string(),
        })?;
    }
    for cell in cache.cells().held_twice()? {
        // Those that went with an earlier cell are not asked any more.
        match cache.cells().find_prefix(&cell) {
            Err(CacheError::Untrusted(untrusted)) => discard(&untrusted)?,
            found => drop(found?),
        }
    }
    Ok(damaged)
}

/// Moves aside the packs and records that were computed with some weight files, and the records of stages that build on these.
fn computed_with(cache: &Cache, weights: &HashSet<Key>) -> Result<Vec<Damage>, CacheError> {
    let reason = "it was computed with a weight file that is not what it was";
    let is_of_these = |with: &[Key]| with.iter().any(|hash| weights.contains(hash));
    let mut damaged = Vec::new();
    for file in cache.files(FileKind::Pack)? {
        if let Some(content) = cache.pack_content(&file)
            && is_of_these(&PackOrigin::of(&content.provenance).weights)
        {
            cache.set_aside(&file, reason);
            damaged.push(Damage::of(&file, reason));
        }
    }
    let is_wrong = |record: &StageRecord| is_of_these(&record.weights);
    let records = plan::set_aside_records(cache, reason, is_wrong)?;
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
        FileKind::Object | FileKind::Pack | FileKind::Tokenizer => None,
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
            let is_changed =
                Key::from(hasher.finalize()) != hash && known_weights(cache, file).is_some();
            is_changed.then(|| {
                changed_weights.insert(hash);
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
fn known_weights(cache: &Cache, file: &StoredFile) -> Option<(FileStamp, Key)> {
    let (known, hash) = cache.known_weight_hash::<FileStamp>(file)?;
    (FileStamp::of(&known.path).ok()? == known).then_some((known, hash))
}
