//! Opening what a study names: prompt files are read and checked, models are found and fingerprinted, and layers and splits are checked
//! against them, with every problem told at once. No weights are loaded.

use std::fmt;
use std::sync::Arc;

use crate::cache::{Cache, WeightHashes};
use crate::model::{FileStamp, HashShortcut, ModelHandle, locate, locate_without_fetching};
use crate::prompts::PromptSet;
use crate::spec::{Diagnostics, Problems};
use crate::stages::{Inputs, StageError};

use super::study::Study;

/// Why there is no plan.
#[derive(Debug)]
pub enum PlanError {
    /// The study cannot be done as written.
    Study(Diagnostics),
    /// A stage's inputs do not allow it, found while looking what is cached.
    Stage {
        /// Name of the stage.
        stage: String,
        /// The problem.
        error: StageError,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Study(diagnostics) => write!(f, "{diagnostics}"),
            PlanError::Stage { stage, error } => write!(f, "stage `{stage}`: {error}"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Hashes of weight files that the cache remembers.
struct Remembered<'a>(&'a WeightHashes);

impl HashShortcut for Remembered<'_> {
    fn get(&self, file: &FileStamp) -> Option<blake3::Hash> {
        self.0.get(
            &file.path,
            file.size,
            file.modified_nanoseconds as i128,
            file.inode,
        )
    }

    fn put(&self, file: &FileStamp, hash: blake3::Hash) {
        if let Err(error) = self.0.put(
            &file.path,
            file.size,
            file.modified_nanoseconds as i128,
            file.inode,
            hash,
        ) {
            tracing::warn!("the hash of a weight file was not remembered: {error}");
        }
    }
}

/// Whether a model that is not on this machine may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetch {
    /// It is fetched.
    AsNeeded,
    /// It is left out of the inputs.
    Never,
}

/// Opens the models and prompt sets that the study's stages use.
///
/// # Errors
/// Every problem at once, each at the place in the file that it comes from.
pub fn resolve(study: &Study, cache: &Cache, fetch: Fetch) -> Result<Inputs, PlanError> {
    let mut problems = Problems::default();
    let mut inputs = Inputs::default();
    for (name, path) in &study.prompts {
        match PromptSet::load(&path.value) {
            Ok(set) => {
                inputs.prompts.insert(name.clone(), Arc::new(set));
            }
            Err(errors) => {
                problems
                    .error_at(&path.at, format!("prompt set `{name}` cannot be used"))
                    .note(errors.to_string());
            }
        }
    }
    for name in used_models(study) {
        open_model(&name, study, cache, fetch, &mut inputs, &mut problems);
    }
    for spec in &study.stages {
        spec.stage.check(&inputs, &mut problems);
    }
    problems
        .finish(&study.document.sources)
        .map_err(PlanError::Study)?;
    Ok(inputs)
}

/// Names of the models that stages use, and of those that lend them a template; lenders first.
fn used_models(study: &Study) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for spec in &study.stages {
        for name in spec.stage.needs().models {
            let lender = study
                .models
                .get(&name.value)
                .and_then(|m| m.template_from.as_ref());
            for wanted in lender
                .map(|l| l.value.clone())
                .into_iter()
                .chain([name.value])
            {
                if !names.contains(&wanted) {
                    names.push(wanted);
                }
            }
        }
    }
    names
}

fn open_model(
    name: &str,
    study: &Study,
    cache: &Cache,
    fetch: Fetch,
    inputs: &mut Inputs,
    problems: &mut Problems,
) {
    let Some(spec) = study.models.get(name) else {
        return;
    };
    let lender = spec
        .template_from
        .as_ref()
        .and_then(|l| inputs.models.get(&l.value))
        .cloned();
    if spec.template_from.is_some() && lender.is_none() {
        return; // it is not here, or its own problem has been told
    }
    let located = match fetch {
        Fetch::AsNeeded => locate(&spec.source.value, &spec.folder).map(Some),
        Fetch::Never => locate_without_fetching(&spec.source.value, &spec.folder),
    };
    let opened = located.and_then(|path| {
        let remembered = Remembered(cache.weight_hashes());
        path.map(|path| ModelHandle::open(name, &path, spec.dtype, lender.as_deref(), &remembered))
            .transpose()
    });
    match opened {
        Ok(model) => {
            let model = model.map(|model| (name.to_string(), Arc::new(model)));
            inputs.models.extend(model);
        }
        Err(error) => {
            problems
                .error_at(
                    &spec.source.at,
                    format!("model `{name}` cannot be used: {error}"),
                )
                .label("this source");
        }
    }
}
