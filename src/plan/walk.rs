//! The one walk over a study's stages: each after those it needs, its key worked out of what those gave, its record looked up. What is done
//! at a stage is its caller's: a plan counts, an explanation compares, a run runs.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use crate::cache::{Cache, CacheError, Key};
use crate::stages::{Artifacts, Inputs, StageError};

use super::key::{are_known, key_of, key_parts};
use super::record::{StageRecord, load_artifacts};
use super::study::StageSpec;
use super::why::{Nearest, nearest};

/// A stage as a walk comes to it.
pub(crate) struct Visited<'s> {
    pub(crate) spec: &'s StageSpec,
    /// What its key is made of, with null for what is not known yet.
    pub(crate) key_parts: Json,
}

/// What the cache has of a stage.
pub(crate) enum State {
    /// It has no key yet: these models are not on this machine, and these stages that it needs have not given their output.
    Unknown {
        models: Vec<String>,
        stages: Vec<String>,
    },
    Missing,
    /// Its record, but an artifact that the record names is gone.
    Incomplete(Box<StageRecord>),
    /// Its record, with every artifact in its place. Their content was not read.
    Cached(Box<StageRecord>),
}

/// How a walk goes on after a stage.
pub(crate) enum Next {
    /// The stage's output is known, and may have been loaded.
    Known(Box<StageRecord>, Option<Artifacts>),
    Unknown,
    /// What has been learned so far rests on what turned out to be wrong, and is gone by now: from the first stage again. All stages that
    /// were visited come once more.
    StartOver,
    End,
}

/// What has been learned on the way over the stages.
pub(crate) struct Walk<'a> {
    pub(crate) cache: &'a Cache,
    /// Also what the stages gave, as far as it was loaded.
    pub(crate) inputs: Inputs,
    /// Content hashes of the outputs that are known, by name of the stage.
    contents: BTreeMap<String, Key>,
    /// The records of those outputs.
    records: BTreeMap<String, StageRecord>,
    /// Every stage record of the cache, read when first asked for.
    all_records: Option<Vec<StageRecord>>,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(inputs: &Inputs, cache: &'a Cache) -> Self {
        Walk {
            cache,
            inputs: inputs.clone(),
            contents: BTreeMap::new(),
            records: BTreeMap::new(),
            all_records: None,
        }
    }

    /// Goes over stages, which come after those they need. `visit` is told of each, and what the cache has of it, if that can be read; the
    /// walk knows what the stages before gave.
    ///
    /// # Errors
    /// Those of `visit`.
    pub(crate) fn go<'s, E>(
        &mut self,
        stages: impl Iterator<Item = &'s StageSpec> + Clone,
        mut visit: impl FnMut(Visited<'s>, Result<State, CacheError>, &mut Self) -> Result<Next, E>,
    ) -> Result<(), E> {
        let mut rest = stages.clone();
        while let Some(spec) = rest.next() {
            let key_parts = key_parts(spec, &self.inputs, &self.contents);
            let state = match are_known(&key_parts) {
                true => self.recorded(&key_of(&key_parts)),
                false => Ok(self.unknown(spec)),
            };
            match visit(Visited { spec, key_parts }, state, self)? {
                Next::Known(record, artifacts) => self.carry_on(&spec.name, record, artifacts),
                Next::Unknown => {}
                Next::StartOver => {
                    self.contents.clear();
                    self.records.clear();
                    self.inputs.stages.clear();
                    self.all_records = None;
                    rest = stages.clone();
                }
                Next::End => break,
            }
        }
        Ok(())
    }

    fn recorded(&self, key: &Key) -> Result<State, CacheError> {
        let record: Option<Box<StageRecord>> = self.cache.stage_record(key)?;
        Ok(match record {
            None => State::Missing,
            Some(record) if record.objects().all(|object| self.cache.has_object(object)) => {
                State::Cached(record)
            }
            Some(record) => State::Incomplete(record),
        })
    }

    fn unknown(&self, spec: &StageSpec) -> State {
        let needs = spec.stage.needs();
        let models = needs.models.into_iter().map(|name| name.value);
        let stages = needs.stages.into_iter().map(|(name, _)| name.value);
        State::Unknown {
            models: models
                .filter(|name| !self.inputs.models.contains_key(name))
                .collect(),
            stages: stages
                .filter(|name| !self.contents.contains_key(name))
                .collect(),
        }
    }

    fn carry_on(&mut self, name: &str, record: Box<StageRecord>, artifacts: Option<Artifacts>) {
        self.contents.insert(name.to_string(), record.content());
        self.records.insert(name.to_string(), *record);
        let artifacts = artifacts.map(|artifacts| (name.to_string(), artifacts.into()));
        self.inputs.stages.extend(artifacts);
    }

    /// Loads the outputs that a stage needs. Where one is not as its record says, the name of its stage is given back.
    ///
    /// # Errors
    /// A cache that cannot be read.
    pub(super) fn load_needs(&mut self, spec: &StageSpec) -> Result<Option<String>, StageError> {
        for (name, _) in spec.stage.needs().stages {
            let name = name.value;
            let Some(record) = self.records.get(&name) else {
                continue;
            };
            if !self.inputs.stages.contains_key(&name) {
                let Some(artifacts) = load_artifacts(record, self.cache)? else {
                    return Ok(Some(name));
                };
                self.inputs.stages.insert(name, artifacts.into());
            }
        }
        Ok(None)
    }

    /// The earlier run that is most like what a stage is now.
    ///
    /// # Errors
    /// A cache that cannot be read.
    pub(crate) fn nearest(&mut self, stage: &Visited<'_>) -> Result<Option<Nearest>, CacheError> {
        let records = match &mut self.all_records {
            Some(records) => records,
            none => none.insert(self.cache.stage_records()?),
        };
        Ok(nearest(stage.spec, &stage.key_parts, records, &self.inputs))
    }
}
