//! What the cache holds for whom: by kind of stage and by run. Checking all of it, and deleting some.
//!
//! A run refers to the records that its `run.json` names, to the objects and packs that these name, and to the packs that it committed
//! itself: a sweep that was interrupted has no record yet, and its cells are what resumes it. What was drawn of a run's tables is its, too.

mod collect;
mod usage;
mod verify;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, FileKind, Key, StoredFile};
use crate::manifest::{self, Manifest};
use crate::plan::Record;

use super::status::{folders, manifests};

pub(crate) use collect::{Criteria, collect};
pub(crate) use usage::Usage;
pub use usage::usage;
pub use verify::verify;

/// What a pack says of how it was made; what it does not say is empty.
struct PackOrigin {
    /// The run that computed it, as manifests name runs.
    run: String,
    /// Name of the kind of stage that computed it; `unknown` where it does not say.
    kind: String,
    /// As RFC 3339 in UTC.
    created: String,
    seconds: f64,
    /// Hashes of the weight files it was computed with.
    weights: Vec<Key>,
}

impl PackOrigin {
    fn of(provenance: &Json) -> Self {
        let text = |field: &str| provenance[field].as_str();
        let weights = provenance["weights"].as_array().into_iter().flatten();
        PackOrigin {
            run: text("run").unwrap_or_default().to_string(),
            kind: text("kind").unwrap_or("unknown").to_string(),
            created: text("created").unwrap_or_default().to_string(),
            seconds: provenance["seconds"].as_f64().unwrap_or_default(),
            weights: weights
                .filter_map(|hash| hash.as_str()?.parse().ok())
                .collect(),
        }
    }
}

/// A file of the cache that can be read, and what it says.
struct Item {
    file: StoredFile,
    content: Content,
}

enum Content {
    Record(Record),
    Pack { cells: usize, origin: PackOrigin },
    Object,
}

/// What files of a cache are known by.
type Name = (FileKind, Key);

/// The objects that a record names, each once.
fn objects_of(record: &Record) -> BTreeSet<Name> {
    let objects = record.objects();
    objects.map(|key| (FileKind::Object, *key)).collect()
}

/// A run's folder and the keys of its stages.
struct RunFiles {
    folder: PathBuf,
    /// As packs name it.
    name: String,
    stages: HashSet<Key>,
}

impl RunFiles {
    fn of(folder: PathBuf, manifest: &Manifest) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        RunFiles {
            // Its folder may have been given another name since.
            name: match manifest.run.as_str() {
                "" => format!("{}/{name}", manifest.study),
                name => name.to_string(),
            },
            stages: manifest.stages.iter().filter_map(|s| s.key).collect(),
            folder,
        }
    }
}

/// All that is in a cache, and who refers to it.
#[derive(Default)]
struct Inventory {
    items: BTreeMap<Name, Item>,
    runs: Vec<RunFiles>,
    /// The `run.json` of runs of which it is not known what they refer to, and why.
    unreadable: Vec<(PathBuf, io::Error)>,
    bytes: u64,
}

impl Inventory {
    fn of(cache: &Cache, runs: &Path) -> Result<Self, CacheError> {
        let mut all = Inventory::default();
        for kind in FileKind::ALL {
            for file in cache.files(kind)? {
                all.bytes += file.bytes;
                if let Some(content) = content(cache, &file) {
                    all.items.insert((kind, file.name), Item { file, content });
                }
            }
        }
        for study in folders(runs)? {
            for (folder, manifest) in manifests(&study)? {
                match manifest {
                    Ok(manifest) => all.runs.push(RunFiles::of(folder, &manifest)),
                    Err(error) => all.unreadable.push((folder.join(manifest::FILE), error)),
                }
            }
        }
        Ok(all)
    }

    /// The files that a run refers to, those that are there.
    fn references(&self, run: &RunFiles) -> BTreeSet<Name> {
        let mut names = BTreeSet::new();
        for (name, item) in &self.items {
            match &item.content {
                Content::Pack { origin, .. } if origin.run == run.name => {
                    names.insert(*name);
                }
                Content::Record(record)
                    if run.stages.contains(&name.1) || is_drawn_of(record, &run.stages) =>
                {
                    names.insert(*name);
                    names.extend(objects_of(record));
                    if let Record::Stage(of_stage) = record {
                        names.extend(of_stage.packs.iter().map(|pack| (FileKind::Pack, *pack)));
                    }
                }
                _ => {}
            }
        }
        names.retain(|name| self.items.contains_key(name));
        names
    }

    fn bytes_of<'n>(&self, names: impl IntoIterator<Item = &'n Name>) -> u64 {
        let items = names.into_iter().filter_map(|name| self.items.get(name));
        items.map(|item| item.file.bytes).sum()
    }
}

/// What a file says; none for one that is not counted, or cannot be read.
fn content(cache: &Cache, file: &StoredFile) -> Option<Content> {
    match file.kind {
        FileKind::Record => cache.record_in(file).map(Content::Record),
        FileKind::Pack => cache.pack_content(file).map(|pack| Content::Pack {
            cells: pack.cells,
            origin: PackOrigin::of(&pack.provenance),
        }),
        FileKind::Object => Some(Content::Object),
        FileKind::WeightHash | FileKind::Tokenizer => None,
    }
}

/// Whether a record is no stage's, but of what was drawn of these stages' tables.
fn is_drawn_of(record: &Record, stages: &HashSet<Key>) -> bool {
    match record {
        Record::Stage(_) => false,
        Record::Drawn(drawn) => {
            let of = &drawn.drawn_of;
            !of.is_empty() && of.iter().all(|key| stages.contains(key))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A pack whose run is known is that run's, whatever else it says.
    #[test]
    fn what_a_pack_says_is_believed_field_by_field() {
        let weights = Key::of(b"weights");
        let origin = PackOrigin::of(&json!({
            "run": "study/1", "kind": 7, "seconds": null, "weights": [weights, 3], "device": "cpu",
        }));
        assert_eq!(origin.run, "study/1");
        assert_eq!(
            (origin.kind.as_str(), origin.created.as_str()),
            ("unknown", "")
        );
        assert_eq!((origin.seconds, origin.weights), (0.0, vec![weights]));
        assert_eq!(PackOrigin::of(&json!("no object")).run, "");
    }
}
