//! The stages of the run made once more, from cells that are in the cache: which cells these are no record says. What they give is compared with
//! what the run has.

use std::collections::HashSet;

use crate::cache::{Cache, Key};
use crate::manifest::Manifest;
use crate::model::{Cell, Readout, Value, Vector};
use crate::plan::{Next, Opened, StageRecord, State, Visited, Walk, describe, key_of};
use crate::stages::{Artifacts, StageError};

use super::super::again::{self, Hashes, Models, Nobody, NotMade, See, StandIns};
use super::withhold::{Replaced, Withholding};
use super::{ExportError, OnStep, Step};

/// A stage of the run.
pub(super) struct MadeAgain {
    pub(super) name: String,
    pub(super) key: Key,
    pub(super) record: StageRecord,
    /// Keys and values of its cells that no stage before it has, in the order of their keys.
    pub(super) cells: Vec<(Key, Vec<u8>)>,
    /// Its activations that are left out, of which nothing is needed but their hashes.
    pub(super) hashes: Hashes,
    /// How many cells of its are left out that no stage before it has, as what was asked is withheld.
    pub(super) withheld: u64,
    /// Its artifacts without texts, where they are withheld.
    pub(super) replaced: Replaced,
}

/// Makes every stage once more.
///
/// # Errors
/// A stage that is not the run's any more, of which something is gone from the cache, or that gives something else.
pub(super) fn make_again(
    opened: &Opened,
    manifest: &Manifest,
    withholding: &mut Withholding,
    on_step: OnStep<'_>,
) -> Result<Vec<MadeAgain>, ExportError> {
    let total = opened.study.stages.len() + 1;
    let mut maker = Maker {
        models: Models::of(opened),
        manifest,
        opened,
        withholding,
        stored: HashSet::new(),
        withheld: HashSet::new(),
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

struct Maker<'a> {
    models: Models,
    manifest: &'a Manifest,
    opened: &'a Opened,
    withholding: &'a mut Withholding,
    /// The cells that the stages so far have.
    stored: HashSet<Key>,
    /// Those of them that are left out as what was asked is withheld.
    withheld: HashSet<Key>,
}

impl Maker<'_> {
    fn make(
        &mut self,
        stage: &Visited<'_>,
        state: State,
        walk: &Walk<'_>,
    ) -> Result<(MadeAgain, Artifacts), ExportError> {
        let name = &stage.spec.name;
        let record = self.record(stage, state, walk.cache)?;
        let mut cells = StageCells {
            before: &self.stored,
            new: HashSet::new(),
            cells: Vec::new(),
            activations: Hashes::new(),
        };
        let output = again::make(
            stage,
            walk,
            (&self.models, &Hashes::new(), StandIns::Some),
            &mut cells,
        );
        let output = output.map_err(|why| not_made(name, why, walk.cache))?;
        let again = describe(&output).map_err(|error| failed(name, &error))?;
        if again.content() != record.content() {
            return Err(ExportError::Failed(format!(
                "stage `{name}`, made again from its cells, is not what the cache has of it, and so would not be what a reviewer finds; run the study \
                 again with `--force {name}`, which tells more"
            )));
        }
        let StageCells {
            new,
            mut cells,
            activations: mut hashes,
            ..
        } = cells;
        let artifacts = Artifacts::from(output);
        if self
            .withholding
            .takes(stage.spec, self.opened, &artifacts)?
        {
            let keys = new.into_iter().chain(hashes.into_keys());
            let made = MadeAgain {
                name: name.clone(),
                key: key_of(&stage.key_parts),
                cells: Vec::new(),
                hashes: Hashes::new(),
                withheld: keys.filter(|key| self.withheld.insert(*key)).count() as u64,
                replaced: self.withholding.replaced(
                    &key_of(&stage.key_parts),
                    &record,
                    walk.cache,
                )?,
                record: *record,
            };
            return Ok((made, artifacts));
        }
        self.stored.extend(new);
        if !hashes.is_empty() && !self.are_enough(&hashes, stage, &record, walk) {
            cells.extend(self.values_of(&hashes, walk.cache)?);
            hashes.clear();
        }
        cells.sort_unstable_by_key(|(key, _)| *key);
        let of_run = MadeAgain {
            name: name.clone(),
            key: key_of(&stage.key_parts),
            record: *record,
            cells,
            hashes,
            withheld: 0,
            replaced: Replaced::new(),
        };
        Ok((of_run, artifacts))
    }

    /// The record of a stage that is still the run's.
    fn record(
        &self,
        stage: &Visited<'_>,
        state: State,
        cache: &Cache,
    ) -> Result<Box<StageRecord>, ExportError> {
        let name = &stage.spec.name;
        if let State::Unknown { models, .. } = state {
            return Err(ExportError::Failed(format!(
                "stage `{name}` asks models that are not on this machine (`{}`); run the study again, which fetches them, or say where they are \
                 with `--set models.NAME.source=PATH`",
                models.join("`, `")
            )));
        }
        let ran = self.manifest.stage(name).and_then(|stage| stage.key);
        if ran != Some(key_of(&stage.key_parts)) {
            return Err(ExportError::Failed(format!(
                "stage `{name}` is not any more what the run has: a model, a prompt set, a file or this dial has changed since, which `dial diff` \
                 of this run and a new one shows; run the study again, and export that run"
            )));
        }
        match state {
            State::Cached(record) => Ok(record),
            State::Incomplete(_) => Err(gone("an artifact", name, "", cache)),
            _ => Err(gone("the record", name, "", cache)),
        }
    }

    /// Whether a stage gives the same without the values of its activations.
    fn are_enough(
        &self,
        hashes: &Hashes,
        stage: &Visited<'_>,
        record: &StageRecord,
        walk: &Walk<'_>,
    ) -> bool {
        [StandIns::Some, StandIns::Others]
            .into_iter()
            .all(|stand_ins| {
                let known = (&self.models, hashes, stand_ins);
                let output = again::make(stage, walk, known, &mut Nobody).ok();
                let again = output.and_then(|output| describe(&output).ok());
                again.is_some_and(|again| again.content() == record.content())
            })
    }

    /// The activations that no stage before has.
    fn values_of(
        &mut self,
        hashes: &Hashes,
        cache: &Cache,
    ) -> Result<Vec<(Key, Vec<u8>)>, ExportError> {
        let mut values = Vec::new();
        for key in hashes.keys() {
            let found = cache.cells().find(key)?;
            if let Some((_, value)) = found.filter(|_| self.stored.insert(*key)) {
                values.push((*key, value));
            }
        }
        Ok(values)
    }
}

fn gone(what: &str, stage: &str, how: &str, cache: &Cache) -> ExportError {
    ExportError::Failed(format!(
        "{what} of stage `{stage}` is gone from the cache `{}`; run the study again{how}, and export that run",
        cache.folder.display()
    ))
}

fn not_made(stage: &str, why: NotMade, cache: &Cache) -> ExportError {
    match why {
        NotMade::Gone => gone("a cell", stage, &format!(" with `--force {stage}`"), cache),
        NotMade::NeedsLibtorch => ExportError::NeedsLibtorch,
        NotMade::Failed(error) => failed(stage, &error),
    }
}

fn failed(stage: &str, error: &StageError) -> ExportError {
    ExportError::Failed(format!("stage `{stage}`: {error}"))
}

/// Keeps the cells of a stage that no stage before it has, and of all its activations the hash.
struct StageCells<'a> {
    before: &'a HashSet<Key>,
    new: HashSet<Key>,
    cells: Vec<(Key, Vec<u8>)>,
    activations: Hashes,
}

impl See for StageCells<'_> {
    fn see(&mut self, _: &str, key: Key, cell: &Cell, value: &Value) {
        match (&cell.readout, value) {
            (Readout::Activation { .. } | Readout::Mean { .. }, Value::Activation(values)) => {
                let hash = || Vector::new(values.clone()).hash();
                self.activations.entry(key).or_insert_with(hash);
            }
            _ if !self.before.contains(&key) && self.new.insert(key) => {
                self.cells.push((key, value.to_bytes()))
            }
            _ => {}
        }
    }
}
