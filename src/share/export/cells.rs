//! The stages of a run made once more, from cells that are in the cache: which cells these are no record says. What they give is compared
//! with what the run has.

use std::collections::HashMap;

use crate::cache::{Cache, CellSet, Key};
use crate::manifest::Manifest;
use crate::model::{Cell, Cells, ModelConfig, ModelError, Readout, Value};
use crate::plan::{
    Next, Opened, StageRecord, State, Visited, Walk, cached_value, key_of, load_artifacts, store,
};
use crate::stages::{Artifacts, Evaluate, StageError};

use super::{ExportError, OnStep, Step};

/// A stage of the run.
pub(super) struct MadeAgain {
    pub(super) name: String,
    pub(super) key: Key,
    pub(super) record: StageRecord,
    /// Keys and values of its cells that no stage before it has, in the order of their keys.
    pub(super) cells: Vec<(Key, Vec<u8>)>,
    /// Distinct activations among its cells, which no stage before it has either.
    pub(super) left_out: u64,
}

/// Makes every stage once more.
///
/// # Errors
/// A stage that is not the run's any more, of which something is gone from the cache, or that gives something else.
pub(super) fn make_again(
    opened: &Opened,
    manifest: &Manifest,
    on_step: OnStep<'_>,
) -> Result<Vec<MadeAgain>, ExportError> {
    let total = opened.study.stages.len() + 1;
    let mut maker = Maker {
        models: configs(opened),
        manifest,
        seen: CellSet::default(),
    };
    let mut made: Vec<MadeAgain> = Vec::new();
    Walk::new(&opened.inputs, &opened.cache).go(
        opened.study.stages.iter(),
        |stage, state, walk| {
            on_step(Step {
                what: &stage.spec.name,
                done: made.len(),
                total,
            });
            let state = state.map_err(ExportError::from)?;
            let (again, artifacts) = maker.make(&stage, state, walk)?;
            let record = Box::new(again.record.clone());
            made.push(again);
            Ok::<Next, ExportError>(Next::Known(record, Some(artifacts)))
        },
    )?;
    Ok(made)
}

fn configs(opened: &Opened) -> HashMap<blake3::Hash, ModelConfig> {
    let models = opened.inputs.models.values();
    models
        .map(|model| (model.fingerprint, model.config().clone()))
        .collect()
}

struct Maker<'a> {
    /// By fingerprint.
    models: HashMap<blake3::Hash, ModelConfig>,
    manifest: &'a Manifest,
    /// The cells of the stages so far.
    seen: CellSet,
}

impl Maker<'_> {
    fn make(
        &mut self,
        stage: &Visited<'_>,
        state: State,
        walk: &Walk<'_>,
    ) -> Result<(MadeAgain, Artifacts), ExportError> {
        let name = &stage.spec.name;
        let record = match state {
            State::Unknown { models, .. } => {
                return Err(ExportError::Failed(format!(
                    "stage `{name}` asks models that are not on this machine (`{}`); run the study again, which fetches them, or say where they are \
                     with `--set models.NAME.source=PATH`",
                    models.join("`, `")
                )));
            }
            State::Missing => None,
            State::Cached(record) | State::Incomplete(record) => Some(record),
        };
        let key = key_of(&stage.key_parts);
        let ran = self.manifest.stage(name).and_then(|stage| stage.key);
        if ran != Some(key) {
            return Err(ExportError::Failed(format!(
                "stage `{name}` is not any more what the run has: a model, a prompt set, a file or this dial has changed since, which `dial diff` \
                 of this run and a new one shows; run the study again, and export that run"
            )));
        }
        let gone = |what: &str, how: &str| {
            ExportError::Failed(format!(
                "{what} of stage `{name}` is gone from the cache `{}`; run the study again{how}, and export that run",
                walk.cache.folder.display()
            ))
        };
        let record = record.ok_or_else(|| gone("the record", ""))?;
        let artifacts = load_artifacts(&record, walk.cache).map_err(failed(name))?;
        let artifacts = artifacts.ok_or_else(|| gone("an artifact", ""))?;
        let mut look_up = LookUp {
            cache: walk.cache,
            models: &self.models,
            seen: &mut self.seen,
            cells: Vec::new(),
            left_out: 0,
        };
        let output = stage.spec.stage.run(&walk.inputs, &mut look_up);
        let (mut cells, left_out) = (look_up.cells, look_up.left_out);
        let output = output.map_err(|error| match error {
            StageError::Missing(_) => gone("a cell", &format!(" with `--force {name}`")),
            StageError::Model(ModelError::NeedsLibtorch) => ExportError::NeedsLibtorch,
            other => failed(name)(other),
        })?;
        let again = store(&output, walk.cache).map_err(failed(name))?;
        if again.content() != record.content() {
            return Err(ExportError::Failed(format!(
                "stage `{name}`, made again from its cells, is not what the cache has of it, and so would not be what a reviewer finds; run the study \
                 again with `--force {name}`, which tells more"
            )));
        }
        cells.sort_unstable_by_key(|(key, _)| *key);
        let made = MadeAgain {
            name: name.clone(),
            key,
            record: *record,
            cells,
            left_out,
        };
        Ok((made, artifacts))
    }
}

fn failed(stage: &str) -> impl Fn(StageError) -> ExportError {
    move |error| ExportError::Failed(format!("stage `{stage}`: {error}"))
}

/// Looks cells up, and keeps those that no stage has had before.
struct LookUp<'a> {
    cache: &'a Cache,
    models: &'a HashMap<blake3::Hash, ModelConfig>,
    seen: &'a mut CellSet,
    cells: Vec<(Key, Vec<u8>)>,
    left_out: u64,
}

impl Evaluate for LookUp<'_> {
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError> {
        for number in 0..cells.count() {
            let cell: Cell = cells.cell(number);
            let key = Key::from(cell.key());
            let config = self.models.get(&cell.model);
            let config = config.ok_or(StageError::Missing(1))?;
            let found = cached_value(self.cache, &cell, &key, config)?;
            let (place, value) = found.ok_or(StageError::Missing(1))?;
            if self.seen.insert(place) {
                match cell.readout {
                    Readout::Activation { .. } => self.left_out += 1,
                    _ => self.cells.push((key, value.to_bytes())),
                }
            }
            take(number, value);
        }
        Ok(())
    }
}
