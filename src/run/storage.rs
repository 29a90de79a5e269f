//! What the cache holds for whom: by kind of stage and by run. Checking all of it, and deleting some.
//!
//! A run refers to the records that its `run.json` names, to the objects and packs that these name, and to the packs that it committed
//! itself: a sweep that was interrupted has no record yet, and its cells are what resumes it. What was drawn of a run's tables is its, too.

mod collect;
mod usage;
mod values;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile, WeightStamp};
use crate::manifest::{self, Manifest};
use crate::model::FileStamp;
use crate::plan::{self, Record, StageRecord};

use super::status::folders;

use values::{KnownValues, Values};

pub(crate) use collect::{Criteria, collect};
pub(crate) use usage::Usage;
pub use usage::usage;

/// A file that failed its check.
#[derive(Clone, Debug, Serialize)]
pub struct Damage {
    /// Where it stood.
    #[serde(serialize_with = "crate::files::as_text::serialize")]
    pub(crate) path: PathBuf,
    /// What was wrong with it.
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
    /// Files read.
    pub(crate) files: usize,
    /// Their size.
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

/// The records of a cache that can be read.
fn stored_records(cache: &Cache) -> Result<Vec<StoredRecord>, CacheError> {
    let files = cache.files(FileKind::Record)?.into_iter();
    let records = files.filter_map(|file| {
        let record = cache.record_in(&file)?;
        Some(StoredRecord { file, record })
    });
    Ok(records.collect())
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

/// A record and its file.
struct StoredRecord {
    file: StoredFile,
    record: Record,
}

impl StoredRecord {
    /// Whether it is no stage's, but of what was drawn of these stages' tables.
    fn is_drawn_of(&self, stages: &HashSet<Key>) -> bool {
        match &self.record {
            Record::Stage(_) => false,
            Record::Drawn(drawn) => {
                let of = &drawn.drawn_of;
                !of.is_empty() && of.iter().all(|key| stages.contains(key))
            }
        }
    }

    /// The objects that it names, each once.
    fn objects(&self) -> BTreeSet<Key> {
        self.record.objects().copied().collect()
    }
}

/// A pack and what it says of itself.
struct StoredPack {
    file: StoredFile,
    cells: usize,
    origin: PackOrigin,
}

/// What a pack says of how it was made; what it does not say is empty.
#[derive(Default, Deserialize)]
#[serde(default)]
struct PackOrigin {
    /// The run that computed it, as manifests name runs.
    run: String,
    /// Name of the kind of stage.
    kind: Option<String>,
    /// As RFC 3339 in UTC.
    created: String,
    seconds: f64,
    /// Hashes of the weight files it was computed with.
    weights: Vec<Key>,
}

impl PackOrigin {
    fn of(provenance: Json) -> Self {
        serde_json::from_value(provenance).unwrap_or_default()
    }
}

impl StoredPack {
    /// Name of the kind of stage that computed it.
    fn kind(&self) -> &str {
        self.origin.kind.as_deref().unwrap_or("unknown")
    }
}

/// A run's folder and the keys of its stages.
struct RunFiles {
    folder: PathBuf,
    /// As packs name it.
    name: String,
    stages: HashSet<Key>,
}

/// All that is in a cache, and who refers to it.
struct Inventory {
    records: Vec<StoredRecord>,
    packs: Vec<StoredPack>,
    objects: BTreeMap<Key, StoredFile>,
    runs: Vec<RunFiles>,
    /// Runs of which it is not known what they refer to.
    unreadable: Vec<CacheError>,
    /// Bytes of all files.
    bytes: u64,
}

impl Inventory {
    fn of(cache: &Cache, runs: &Path) -> Result<Self, CacheError> {
        let mut bytes = 0;
        let mut files = |kind| -> Result<Vec<StoredFile>, CacheError> {
            let files = cache.files(kind)?;
            bytes += files.iter().map(|file| file.bytes).sum::<u64>();
            Ok(files)
        };
        files(FileKind::WeightHash)?;
        files(FileKind::Record)?;
        let records = stored_records(cache)?;
        let packs = files(FileKind::Pack)?.into_iter();
        let packs = packs.filter_map(|file| {
            let content = cache.pack_content(&file)?;
            Some(StoredPack {
                file,
                cells: content.cells,
                origin: PackOrigin::of(content.provenance),
            })
        });
        let packs = packs.collect();
        let objects = files(FileKind::Object)?.into_iter();
        let objects = objects.map(|file| (file.name, file)).collect();
        let (runs, unreadable) = run_files(runs)?;
        Ok(Inventory {
            records,
            packs,
            objects,
            runs,
            unreadable,
            bytes,
        })
    }

    /// What each run refers to: records, packs and objects, as indices and keys.
    fn references(&self) -> Vec<References> {
        let by_key: HashMap<Key, usize> = self
            .records
            .iter()
            .enumerate()
            .map(|(index, record)| (record.file.name, index))
            .collect();
        let number: HashMap<Key, usize> = self
            .packs
            .iter()
            .enumerate()
            .map(|(index, pack)| (pack.file.name, index))
            .collect();
        let of_run = |run: &RunFiles| {
            let records = run.stages.iter().filter_map(|key| by_key.get(key));
            let mut records: BTreeSet<usize> = records.copied().collect();
            let all = self.records.iter().enumerate();
            let drawn = all.filter(|(_, record)| record.is_drawn_of(&run.stages));
            records.extend(drawn.map(|(index, _)| index));
            let mut refers = References::default();
            for &index in &records {
                let record = &self.records[index];
                if let Record::Stage(of_stage) = &record.record {
                    let packs = of_stage.packs.iter();
                    let packs = packs.filter_map(|pack| number.get(pack));
                    refers.packs.extend(packs);
                }
                let objects = record.objects().into_iter();
                refers
                    .objects
                    .extend(objects.filter(|key| self.objects.contains_key(key)));
            }
            let own = self.packs.iter().enumerate();
            let own = own.filter(|(_, pack)| pack.origin.run == run.name);
            refers.packs.extend(own.map(|(index, _)| index));
            refers.records = records;
            refers
        };
        self.runs.iter().map(of_run).collect()
    }
}

/// What something refers to: indices of records and packs, keys of objects.
#[derive(Default)]
struct References {
    records: BTreeSet<usize>,
    packs: BTreeSet<usize>,
    objects: BTreeSet<Key>,
}

impl References {
    fn bytes(&self, inventory: &Inventory) -> u64 {
        let records = self
            .records
            .iter()
            .map(|&i| inventory.records[i].file.bytes);
        let packs = self.packs.iter().map(|&i| inventory.packs[i].file.bytes);
        let objects = self
            .objects
            .iter()
            .filter_map(|key| inventory.objects.get(key));
        records
            .chain(packs)
            .chain(objects.map(|file| file.bytes))
            .sum()
    }

    fn add(&mut self, other: &References) {
        self.records.extend(&other.records);
        self.packs.extend(&other.packs);
        self.objects.extend(&other.objects);
    }

    /// What of it is in none of the others.
    fn without(&self, others: &References) -> References {
        References {
            records: &self.records - &others.records,
            packs: &self.packs - &others.packs,
            objects: &self.objects - &others.objects,
        }
    }
}

/// The runs in a folder of runs, and the keys of their stages. Also those that cannot be read.
fn run_files(runs: &Path) -> Result<(Vec<RunFiles>, Vec<CacheError>), CacheError> {
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    for study in folders(runs)? {
        for folder in folders(&study)? {
            let manifest = match Manifest::read(&folder) {
                Ok(Some(manifest)) => manifest,
                Ok(None) => continue,
                Err(error) => {
                    unreadable.push(CacheError::UnknownUse {
                        path: folder.join(manifest::FILE),
                        why: error.to_string(),
                    });
                    continue;
                }
            };
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            found.push(RunFiles {
                // Its folder may have been given another name since.
                name: match manifest.run.as_str() {
                    "" => format!("{}/{name}", manifest.study),
                    name => name.to_string(),
                },
                stages: manifest
                    .stages
                    .iter()
                    .filter_map(|stage| stage.key)
                    .collect(),
                folder,
            });
        }
    }
    Ok((found, unreadable))
}
