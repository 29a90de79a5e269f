//! What the cache holds for whom: by kind of stage and by run. Checking all of it, and deleting some.
//!
//! A run refers to the records that its `run.json` names, to the objects and packs that these name, and to the packs that it committed
//! itself: a sweep that was interrupted has no record yet, and its cells are what resumes it. What was drawn of a run's tables is its, too.

mod collect;
mod usage;
mod values;
mod verify;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile};
use crate::manifest::{self, Manifest};
use crate::plan::Record;

use super::status::folders;

pub(crate) use collect::{Criteria, collect};
pub(crate) use usage::Usage;
pub use usage::usage;
pub use verify::verify;

/// The records of a cache that can be read.
fn stored_records(cache: &Cache) -> Result<Vec<StoredRecord>, CacheError> {
    let files = cache.files(FileKind::Record)?.into_iter();
    let records = files.filter_map(|file| {
        let record = cache.record_in(&file)?;
        Some(StoredRecord { file, record })
    });
    Ok(records.collect())
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
