//! What is cached and, where something is not, exactly why. Only stage records are read: no cell, no artifact, no weight.

use std::collections::BTreeMap;

use crate::cache::{Cache, CacheError, Key};
use crate::stages::Inputs;

use super::key::{key_of, known_parts};
use super::record::StageRecord;
use super::study::Study;
use super::why::{Nearest, nearest};

/// Whether a stage is cached, and if not, what keeps it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Explanation {
    /// Name of the stage.
    pub(crate) stage: String,
    /// Name of its kind.
    pub(crate) kind: &'static str,
    /// Whether its output is in the cache.
    pub(crate) cached: bool,
    /// Names of the stages it refers to whose output is not there: whether it is cached shows when they have run.
    pub(crate) waits_for: Vec<String>,
    /// Names of its models that are not on this machine.
    pub(crate) unfetched: Vec<String>,
    /// When its output was made, as RFC 3339, where it is cached; empty in records of early versions.
    pub(crate) created: String,
    /// The most similar earlier run and how it differs; none where it is cached, or where no stage of its kind ever ran here.
    pub(crate) nearest: Option<Nearest>,
}

/// Explains every stage of a study. `inputs` come from [`super::open_study`].
///
/// # Errors
/// A cache that cannot be read.
pub(crate) fn explain(
    study: &Study,
    inputs: &Inputs,
    cache: &Cache,
) -> Result<Vec<Explanation>, CacheError> {
    let mut outputs: BTreeMap<String, Key> = BTreeMap::new();
    let mut all: Option<Vec<StageRecord>> = None;
    let mut explanations = Vec::new();
    for spec in &study.stages {
        let needs = spec.stage.needs();
        let models = needs.models.into_iter().map(|name| name.value);
        let stages = needs.stages.into_iter().map(|(name, _)| name.value);
        let mut explanation = Explanation {
            stage: spec.name.clone(),
            kind: spec.kind.name,
            cached: false,
            waits_for: stages.filter(|name| !outputs.contains_key(name)).collect(),
            unfetched: models
                .filter(|name| !inputs.models.contains_key(name))
                .collect(),
            created: String::new(),
            nearest: None,
        };
        let parts = known_parts(spec, inputs, &outputs);
        if explanation.waits_for.is_empty()
            && explanation.unfetched.is_empty()
            && let Some(record) = complete_record(&key_of(&parts), cache)?
        {
            outputs.insert(spec.name.clone(), record.content());
            explanation.cached = true;
            explanation.created = record.created;
        } else {
            let records = match &mut all {
                Some(records) => records,
                None => all.insert(cache.stage_records()?),
            };
            explanation.nearest = nearest(spec, &parts, records);
        }
        explanations.push(explanation);
    }
    Ok(explanations)
}

/// The record under a key, if every object that it names is there. Their content is not read.
pub(super) fn complete_record(key: &Key, cache: &Cache) -> Result<Option<StageRecord>, CacheError> {
    let record = cache.stage_record::<StageRecord>(key)?;
    Ok(record.filter(|record| record.objects().all(|object| cache.has_object(object))))
}
