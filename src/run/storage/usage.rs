//! How much of a cache is whose.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::{Cache, CacheError};
use crate::plan::Record;

use super::{Inventory, References};

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
    for error in &inventory.unreadable {
        if let CacheError::UnknownUse { path, why } = error {
            tracing::warn!(
                "`{}` cannot be read ({why}); what that run refers to is not counted",
                path.display()
            );
        }
    }
    let references = inventory.references();
    let leftovers = cache.leftovers()?;
    let mut referred = References::default();
    references.iter().for_each(|of_run| referred.add(of_run));
    let runs = inventory.runs.iter().zip(&references).enumerate();
    let runs = runs.map(|(number, (run, of_run))| {
        let mut others = References::default();
        let rest = references.iter().enumerate();
        rest.filter(|(other, _)| *other != number)
            .for_each(|(_, of_other)| others.add(of_other));
        RunUsage {
            run_dir: run.folder.clone(),
            bytes: of_run.bytes(&inventory),
            own_bytes: of_run.without(&others).bytes(&inventory),
        }
    });
    let everything = References {
        records: (0..inventory.records.len()).collect(),
        packs: (0..inventory.packs.len()).collect(),
        objects: inventory.objects.keys().copied().collect(),
    };
    Ok(Usage {
        bytes: inventory.bytes,
        kinds: by_kind(&inventory),
        reports: of_reports(&inventory),
        runs: runs.collect(),
        unreferenced_bytes: everything.without(&referred).bytes(&inventory),
        damaged_files: leftovers.damaged_files,
        damaged_bytes: leftovers.damaged_bytes,
    })
}

fn of_reports(inventory: &Inventory) -> ReportUsage {
    let mut drawn = References::default();
    for (index, record) in inventory.records.iter().enumerate() {
        if let Record::Drawn(_) = record.record {
            drawn.records.insert(index);
            drawn.objects.extend(record.objects());
        }
    }
    ReportUsage {
        reports: drawn.records.len(),
        bytes: drawn.bytes(inventory),
    }
}

fn by_kind(inventory: &Inventory) -> Vec<KindUsage> {
    let mut kinds: BTreeMap<&str, (KindUsage, References)> = BTreeMap::new();
    for (index, record) in inventory.records.iter().enumerate() {
        let Record::Stage(of_stage) = &record.record else {
            continue;
        };
        let (usage, outputs) = kinds.entry(of_stage.kind()).or_default();
        usage.stages += 1;
        outputs.records.insert(index);
        outputs.objects.extend(record.objects());
    }
    for pack in &inventory.packs {
        let (usage, _) = kinds.entry(pack.kind()).or_default();
        usage.cells += pack.cells;
        usage.cell_bytes += pack.file.bytes;
    }
    let finish = |(kind, (usage, outputs)): (&str, (KindUsage, References))| KindUsage {
        kind: kind.to_string(),
        output_bytes: outputs.bytes(inventory),
        ..usage
    };
    kinds.into_iter().map(finish).collect()
}
