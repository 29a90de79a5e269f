//! Opening what a study names: prompt files are read and checked, models are found and fingerprinted, and layers and splits are checked
//! against them, with every problem told at once. No weights are loaded.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::cache::{Cache, CacheError, WeightHashes, WeightStamp};
use crate::files;
use crate::model::{FileStamp, HashShortcut, ModelHandle, locate, locate_without_fetching};
use crate::prompts::PromptSet;
use crate::spec::{Diagnostics, Document, Problems};
use crate::stages::{InputFile, Inputs, StageError, check_prompts, check_score};

use super::chat;
use super::findings::findings;
use super::study::{ModelSpec, StageSpec, Study};

/// Why there is no plan.
#[derive(Debug)]
pub enum PlanError {
    /// The study cannot be done as written.
    Study(Diagnostics),
    /// The cache cannot be used.
    Cache(CacheError),
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
            PlanError::Cache(error) => write!(f, "{error}"),
            PlanError::Stage { stage, error } => write!(f, "stage `{stage}`: {error}"),
        }
    }
}

impl std::error::Error for PlanError {}

/// Hashes of weight files that the cache remembers.
struct Remembered<'a>(&'a WeightHashes);

impl HashShortcut for Remembered<'_> {
    fn get(&self, file: &FileStamp) -> Option<blake3::Hash> {
        self.0.get(&file.into())
    }

    fn put(&self, file: &FileStamp, hash: blake3::Hash) {
        if let Err(error) = self.0.put(&file.into(), hash) {
            tracing::warn!("the hash of a weight file was not remembered: {error}");
        }
    }
}

impl From<&FileStamp> for WeightStamp {
    fn from(file: &FileStamp) -> Self {
        WeightStamp {
            path: file.path.clone(),
            size_bytes: file.size,
            mtime_ns: file.modified_nanoseconds as i128,
            ctime_ns: file.changed_nanoseconds,
            inode: file.inode,
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

/// A study that cannot run needs no fingerprints: weights are not read through only to say where a layer is out of range.
struct NotHashed;

impl HashShortcut for NotHashed {
    fn get(&self, _file: &FileStamp) -> Option<blake3::Hash> {
        Some(blake3::hash(&[]))
    }

    fn put(&self, _file: &FileStamp, _hash: blake3::Hash) {}
}

/// A study with everything it names opened.
pub struct Opened {
    /// The study.
    pub study: Study,
    /// Its prompt sets and models, and what is known of its stages.
    pub inputs: Inputs,
    /// Where its cells and artifacts are kept.
    pub cache: Cache,
}

/// Reads a study, and opens the prompt sets and models that its stages use, and the folder of its cache.
///
/// # Errors
/// Every problem at once, each at the place in the file that it comes from: those of the text together with those of the models and
/// prompt files that it names. While the text or a prompt file has a problem, no model is fetched and no folder made for the cache.
/// Also a cache that cannot be opened.
pub fn open_study(
    document: Document,
    default_name: &str,
    cache: &Path,
    fetch: Fetch,
) -> Result<Opened, PlanError> {
    let sources = document.sources.clone();
    let mut problems = Problems::default();
    let mut opened = None;
    if let Some(study) = Study::read(document, default_name, &mut problems) {
        let mut inputs = Inputs::default();
        open_prompts(&study, &mut inputs, &mut problems);
        open_files(&study, &mut inputs, &mut problems);
        let cache = match problems.is_empty() {
            true => Some(Cache::open(cache).map_err(PlanError::Cache)?),
            false => None,
        };
        match &cache {
            Some(cache) => {
                let remembered = Remembered(cache.weight_hashes());
                open_models(&study, &remembered, fetch, &mut inputs, &mut problems);
            }
            None => open_models(&study, &NotHashed, Fetch::Never, &mut inputs, &mut problems),
        }
        check(&study, &mut inputs, &mut problems);
        inputs.findings = findings(&study, &inputs);
        opened = cache.map(|cache| Opened {
            study,
            inputs,
            cache,
        });
    }
    problems.finish(&sources).map_err(PlanError::Study)?;
    opened.ok_or_else(|| {
        PlanError::Study(Diagnostics {
            sources,
            list: Vec::new(),
            more: 0,
        })
    })
}

fn open_prompts(study: &Study, inputs: &mut Inputs, problems: &mut Problems) {
    for (name, path) in &study.prompts {
        let loaded = PromptSet::load(&path.value).and_then(|set| match study.draws.get(name) {
            None => Ok(set),
            Some(draw) => set.drawn(&path.value, draw),
        });
        match loaded {
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
}

/// Reads the files that stages import, each once.
fn open_files(study: &Study, inputs: &mut Inputs, problems: &mut Problems) {
    let files = study
        .stages
        .iter()
        .flat_map(|spec| spec.stage.needs().files);
    for file in files {
        if inputs.files.contains_key(&file.value) {
            continue;
        }
        match files::read(&file.value, files::DATA_BYTES) {
            Ok(bytes) => {
                let hash = blake3::hash(&bytes);
                let content = Arc::new(InputFile { bytes, hash });
                inputs.files.insert(file.value, content);
            }
            Err(error) => {
                let message = format!("cannot read `{}`: {error}", file.value.display());
                problems
                    .error_at(&file.at, message)
                    .label("this file")
                    .help("say where published files lie with `import.folder`");
            }
        }
    }
}

fn open_models(
    study: &Study,
    hashes: &dyn HashShortcut,
    fetch: Fetch,
    inputs: &mut Inputs,
    problems: &mut Problems,
) {
    for name in used_models(study) {
        open_model(&name, study, hashes, fetch, inputs, problems);
    }
}

/// Checks the stages against what was opened and against each other.
fn check(study: &Study, inputs: &mut Inputs, problems: &mut Problems) {
    for spec in &study.stages {
        let forecast = spec.stage.forecast(inputs);
        inputs.forecasts.insert(spec.name.clone(), forecast);
    }
    let mut told = BTreeSet::new();
    for spec in &study.stages {
        spec.stage.check(inputs, problems);
        let needs = spec.stage.needs();
        check_prompts(&needs, &study.settings, inputs, &mut told, problems);
        check_size(spec, inputs, problems);
    }
    let asked = study
        .stages
        .iter()
        .flat_map(|spec| spec.stage.needs().models);
    let asked: BTreeSet<String> = asked.map(|name| name.value).collect();
    for (name, model) in inputs
        .models
        .iter()
        .filter(|(name, _)| asked.contains(*name))
    {
        let Some(spec) = study.models.get(name) else {
            continue;
        };
        check_settings(study, spec, model, problems);
    }
}

/// Cells that one stage may ask for: a sweep holds 8 bytes for each.
const MOST_CELLS: u64 = 1_000_000_000;

/// Checks that a stage asks for no more than could ever be computed: a slip of the pen in a list multiplies.
fn check_size(spec: &StageSpec, inputs: &Inputs, problems: &mut Problems) {
    let cells = spec.stage.cost(inputs).cells_at_most;
    if cells <= MOST_CELLS {
        return;
    }
    let count = match cells {
        u64::MAX => "more cells than can be counted".to_string(),
        cells => format!("{cells} cells"),
    };
    problems
        .error_at(&spec.at, format!("stage `{}` asks for {count}", spec.name))
        .label(format!("expected {MOST_CELLS} at most"))
        .note("models × prompts × directions × layers × α, each as long as its list")
        .help("shorten a list, or make it several stages");
}

/// Checks that a model has a template to put prompts in, and that its tokenizer keeps the two sides of the score rule apart.
fn check_settings(study: &Study, spec: &ModelSpec, model: &ModelHandle, problems: &mut Problems) {
    chat::check(study, spec, model, problems);
    let words = &study.settings.score;
    let is_told = words
        .refuse
        .iter()
        .chain(words.comply.iter())
        .any(String::is_empty);
    let at = study.score_at.as_ref().unwrap_or(&spec.source.at);
    match study.settings.readout(model) {
        Ok(readout) => check_score(&readout, model, at, problems),
        Err(_) if is_told => {}
        Err(error) => {
            problems
                .error_at(at, error.to_string())
                .label("the score rule");
        }
    }
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
    hashes: &dyn HashShortcut,
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
        path.map(|path| ModelHandle::open(name, &path, spec.dtype, lender.as_deref(), hashes))
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
