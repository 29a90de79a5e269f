//! How much of a cache is whose.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{Cache, CacheError};
use crate::plan::Record;

use super::{Content, Inventory, Name, objects_of};

/// What the stages of one kind take.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct KindUsage {
    pub(crate) kind: String,
    /// Stages that are cached as a whole.
    pub(crate) stages: usize,
    /// Bytes of their records, tables and directions; what several kinds share counts for each.
    pub(crate) output_bytes: u64,
    /// Cells that stages of this kind computed.
    pub(crate) cells: usize,
    /// Bytes of the packs that hold them.
    pub(crate) cell_bytes: u64,
}

/// What was drawn of runs.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ReportUsage {
    pub(crate) reports: usize,
    /// Bytes of their records, figures and pages.
    pub(crate) bytes: u64,
}

/// What one run refers to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunUsage {
    #[serde(serialize_with = "crate::files::as_text::serialize")]
    pub(crate) run_dir: PathBuf,
    /// Bytes that it refers to.
    pub(crate) bytes: u64,
    /// Bytes of those that no other run refers to.
    pub(crate) own_bytes: u64,
}

/// What a cache holds.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Bytes of all that can be used.
    pub(crate) bytes: u64,
    pub(crate) kinds: Vec<KindUsage>,
    /// What was drawn of runs and is kept for those that have the same tables.
    pub(crate) reports: ReportUsage,
    /// By run, in the order of their folders.
    pub(crate) runs: Vec<RunUsage>,
    pub(crate) unreferenced_bytes: u64,
    /// Number of damaged files that were moved aside.
    pub(crate) damaged_files: usize,
    pub(crate) damaged_bytes: u64,
}

/// Counts what the cache holds, for the runs in the folder `runs`.
///
/// # Errors
/// [`CacheError::Io`] where the cache or the folder cannot be read.
pub fn usage(cache: &Cache, runs: &Path) -> Result<Usage, CacheError> {
    let inventory = Inventory::of(cache, runs)?;
    for (path, why) in &inventory.unreadable {
        tracing::warn!(
            "`{}` cannot be read ({why}); what that run refers to is not counted",
            path.display()
        );
    }
    let runs = inventory.runs.iter();
    let references: Vec<_> = runs.map(|run| inventory.references(run)).collect();
    // By how many runs.
    let mut referred: HashMap<&Name, usize> = HashMap::new();
    for name in references.iter().flatten() {
        *referred.entry(name).or_default() += 1;
    }
    let names = inventory.items.keys();
    let unreferenced = names.filter(|name| !referred.contains_key(name));
    let runs = inventory.runs.iter().zip(&references);
    let runs = runs.map(|(run, names)| RunUsage {
        run_dir: run.folder.clone(),
        bytes: inventory.bytes_of(names),
        own_bytes: inventory.bytes_of(names.iter().filter(|name| referred[name] == 1)),
    });
    let leftovers = cache.leftovers()?;
    let (kinds, reports) = by_kind(&inventory);
    Ok(Usage {
        bytes: inventory.bytes,
        kinds,
        reports,
        runs: runs.collect(),
        unreferenced_bytes: inventory.bytes_of(unreferenced),
        damaged_files: leftovers.damaged_files,
        damaged_bytes: leftovers.damaged_bytes,
    })
}

fn by_kind(inventory: &Inventory) -> (Vec<KindUsage>, ReportUsage) {
    let mut kinds: BTreeMap<&str, (KindUsage, BTreeSet<Name>)> = BTreeMap::new();
    let (mut reports, mut drawn) = (0, BTreeSet::new());
    for (name, item) in &inventory.items {
        match &item.content {
            Content::Record(record) => {
                let (count, outputs) = match record {
                    Record::Stage(of_stage) => {
                        let (usage, outputs) = kinds.entry(of_stage.kind()).or_default();
                        (&mut usage.stages, outputs)
                    }
                    Record::Drawn(_) => (&mut reports, &mut drawn),
                };
                *count += 1;
                outputs.insert(*name);
                outputs.extend(objects_of(record));
            }
            Content::Pack { cells, origin } => {
                let (usage, _) = kinds.entry(&origin.kind).or_default();
                usage.cells += cells;
                usage.cell_bytes += item.file.bytes;
            }
            Content::Object => {}
        }
    }
    let kinds = kinds.into_iter();
    let kinds = kinds.map(|(kind, (usage, outputs))| KindUsage {
        kind: kind.to_string(),
        output_bytes: inventory.bytes_of(&outputs),
        ..usage
    });
    let bytes = inventory.bytes_of(&drawn);
    (kinds.collect(), ReportUsage { reports, bytes })
}
