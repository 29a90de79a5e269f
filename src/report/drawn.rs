//! What was drawn of a run's tables, kept in the cache: a run that computed nothing new has the tables of an earlier one, and so its figures.
//!
//! They are objects of the cache, checked against their names whenever they are read, under a record of their own. Nothing is taken
//! from other runs' folders, which people may edit, and what is taken is copied.

use std::path::Path;

use rayon::prelude::*;
use serde_json::json;

use crate::cache::{Cache, CacheError, Key};
use crate::plan::{ArtifactRecord, DrawnRecord};

use super::FinishedRun;
use super::page::Content;

/// Raised when the same tables would be shown otherwise.
const VERSION: u32 = 8;
/// What the page shows of the tables, beside the figures.
const CONTENT: &str = "content.json";

/// Figures and what the page shows.
pub(super) struct Drawn {
    /// Of the page.
    pub(crate) content: Content,
    /// Name and bytes of each figure's files.
    pub(crate) files: Vec<(String, Vec<u8>)>,
}

/// What figures and the page's content depend on: this program, the stages, and the content of every table.
pub(super) fn key(run: &FinishedRun) -> Key {
    let mut hasher = blake3::Hasher::new_derive_key("dial report content");
    let mut part = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    part(&format!("{} {VERSION}", env!("CARGO_PKG_VERSION")));
    for stage in &run.stages {
        part(&json!(stage.node).to_string());
        if let Some(result) = &stage.result {
            part(&json!([result.inputs, result.tables, result.findings]).to_string());
        }
    }
    part(&json!(run.manifest.prompts).to_string());
    hasher.finalize().into()
}

/// Copies the figures to a folder, and gives the content; none where they are not in the cache, or damaged there.
pub(super) fn take(cache: &Cache, key: &Key, folder: &Path) -> Option<Content> {
    let record = cache.stage_record::<DrawnRecord>(key).ok()??;
    let (content, figures): (Vec<_>, Vec<_>) =
        record.files.iter().partition(|file| file.file == CONTENT);
    let content = cache.object(&content.first()?.key).ok()??;
    let content = serde_json::from_slice(&content).ok()?;
    let copied = figures.par_iter().all(|figure| {
        let copied = cache.copy_object_to(&figure.key, &folder.join(&figure.file));
        copied.unwrap_or(false)
    });
    copied.then_some(content)
}

/// Keeps what was drawn of a run.
pub(super) fn keep(
    cache: &Cache,
    key: &Key,
    run: &FinishedRun,
    drawn: &Drawn,
) -> Result<(), CacheError> {
    let content = serde_json::to_vec(&drawn.content).map_err(CacheError::Encode)?;
    let put = |file: &str, bytes: &[u8]| {
        Ok(ArtifactRecord {
            file: file.to_string(),
            key: cache.put_object(bytes)?,
        })
    };
    let figures = drawn.files.par_iter();
    let figures = figures.map(|(file, bytes)| put(file, bytes));
    let mut files = figures.collect::<Result<Vec<_>, CacheError>>()?;
    files.push(put(CONTENT, &content)?);
    let stages = run.stages.iter();
    let record = DrawnRecord {
        drawn_of: stages
            .filter_map(|stage| stage.result.as_ref()?.key)
            .collect(),
        files,
        created: jiff::Timestamp::now().to_string(),
    };
    cache.put_stage_record(key, &record)
}
