//! Opening what a study names: prompt files are read and checked, models are found and fingerprinted, and layers and splits are checked
//! against them, with every problem told at once. No weights are loaded.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::cache::{Cache, CacheError};
use crate::files;
use crate::model::{
    self, Answers, FileStamp, HookPoint, Memory, ModelError, ModelHandle, locate,
    locate_without_fetching,
};
use crate::prompts::PromptSet;
use crate::spec::{Diagnostics, Document, Problems, Severity};
use crate::stages::{
    InputFile, Inputs, Measure, Name, Rule, StageError, check_prompts, check_rule,
};

use super::chat;
use super::lock::{self, Pins};
use super::selection::{Needed, Selection};
use super::study::{ModelSpec, PromptsSpec, StageSpec, Study, rules_by_model};

/// Why there is no plan.
#[derive(Debug)]
pub enum PlanError {
    Study(Diagnostics),
    /// There is no stage of that name to run.
    UnknownStage(String),
    Cache(CacheError),
    /// A stage's inputs do not allow it, found while looking what is cached.
    Stage {
        stage: String,
        error: StageError,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlanError::Study(diagnostics) => write!(f, "{diagnostics}"),
            PlanError::UnknownStage(message) => f.write_str(message),
            PlanError::Cache(error) => write!(f, "{error}"),
            PlanError::Stage { stage, error } => write!(f, "stage `{stage}`: {error}"),
        }
    }
}

impl std::error::Error for PlanError {}

/// What the cache remembers of models, where there is one, and what it is to remember once the study is found to be sound: a study that
/// cannot run leaves nothing behind.
struct Remembered {
    cache: Option<Cache>,
    weights: Mutex<Vec<(FileStamp, blake3::Hash)>>,
}

impl Remembered {
    /// Opens the cache where it is there; makes none.
    fn open(folder: &Path) -> Result<Self, CacheError> {
        let is_there = Cache::is_in(folder);
        Ok(Remembered {
            cache: is_there.then(|| Cache::open(folder)).transpose()?,
            weights: Mutex::default(),
        })
    }

    /// The cache, made where it is not there, with what was learned.
    fn keep(self, folder: &Path) -> Result<Cache, CacheError> {
        let cache = self.cache.map_or_else(|| Cache::open(folder), Ok)?;
        let weights = self.weights.into_inner();
        for (file, hash) in weights.unwrap_or_else(PoisonError::into_inner) {
            if let Err(error) = cache.put_weight_hash(&file.path, &file, hash) {
                tracing::warn!("the hash of a weight file was not remembered: {error}");
            }
        }
        Ok(cache)
    }
}

impl Memory for Remembered {
    fn weight_hash(&self, file: &FileStamp) -> Option<blake3::Hash> {
        let weights = self.weights.lock();
        let weights = weights.unwrap_or_else(PoisonError::into_inner);
        let hashed = weights.iter().find(|(stamp, _)| stamp == file);
        let stored = || self.cache.as_ref()?.weight_hash(&file.path, file);
        hashed.map(|(_, hash)| *hash).or_else(stored)
    }

    fn remember_weight_hash(&self, file: &FileStamp, hash: blake3::Hash) {
        let weights = self.weights.lock();
        let mut weights = weights.unwrap_or_else(PoisonError::into_inner);
        weights.push((file.clone(), hash));
    }

    fn answers(&self, tokenizer: &blake3::Hash) -> Option<Answers> {
        // What is computed rests on the tokenizer itself.
        let computes = model::check_linked().is_ok();
        (!computes).then(|| self.cache.as_ref()?.tokenizer_answers(tokenizer))?
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

impl Memory for NotHashed {
    fn weight_hash(&self, _file: &FileStamp) -> Option<blake3::Hash> {
        Some(blake3::hash(&[]))
    }

    fn remember_weight_hash(&self, _file: &FileStamp, _hash: blake3::Hash) {}

    fn answers(&self, _tokenizer: &blake3::Hash) -> Option<Answers> {
        None
    }
}

/// Stores what the tokenizers were asked so far, which the next opening will ask, too.
fn remember_answers(inputs: &Inputs, cache: &Cache) {
    for model in inputs.models.values() {
        let Some((tokenizer, answers)) = model.tokenizer_answers() else {
            continue;
        };
        if cache.tokenizer_answers(&tokenizer).as_ref() == Some(&answers) {
            continue;
        }
        if let Err(error) = cache.put_tokenizer_answers(&tokenizer, &answers) {
            tracing::warn!("what a tokenizer answered was not remembered: {error}");
        }
    }
}

/// A study with everything opened that its stages, or those of them that are to be run, name.
pub struct Opened {
    /// The study.
    pub study: Study,
    /// Prompt sets and models, and what is known of the stages.
    pub inputs: Inputs,
    /// Where its cells and artifacts are kept.
    pub cache: Cache,
    pub(crate) wanted: BTreeSet<String>,
    /// What is wrong with the rest of the study.
    pub(crate) warnings: Diagnostics,
}

/// As [`open_selected`], for all stages.
///
/// # Errors
/// As there.
pub fn open_study(
    document: Document,
    default_name: &str,
    cache: &Path,
    fetch: Fetch,
) -> Result<Opened, PlanError> {
    open_selected(
        document,
        default_name,
        cache,
        fetch,
        &Selection::All,
        &Pins::default(),
    )
}

/// Reads a study, and opens the prompt sets and models that the selected stages and those they need use, and the folder of its cache. A hub
/// source without a revision is opened at the commit that `pins` has for it.
///
/// # Errors
/// Every problem at once, each at the place in the file that it comes from: those of the text together with those of the models and
/// prompt files that it names. While the text or a prompt file has a problem, no model is fetched; while anything has, nothing is written.
/// Problems of stages that are not to be run, and of models and prompt sets that only those use, are none: they are warnings. Models that
/// only those use are not opened. Also a cache that cannot be opened, and a selected stage that the study does not have.
pub(crate) fn open_selected(
    document: Document,
    default_name: &str,
    cache: &Path,
    fetch: Fetch,
    selection: &Selection,
    pins: &Pins,
) -> Result<Opened, PlanError> {
    let sources = document.sources.clone();
    let mut problems = Problems::default();
    let Some(study) = Study::read(document, default_name, &mut problems) else {
        return Err(PlanError::Study(
            problems.into_diagnostics(&sources, Severity::Error),
        ));
    };
    let needed = Needed::new(selection, &study).map_err(PlanError::UnknownStage)?;
    let mut opening = Opening {
        study: &study,
        needed: &needed,
        pins,
        inputs: Inputs::default(),
        problems,
    };
    opening.open_prompts();
    opening.open_files();
    let memory = match opening.problems.any(|at| needed.concerns(at)) {
        false => Some(Remembered::open(cache).map_err(PlanError::Cache)?),
        true => None,
    };
    match &memory {
        Some(memory) => opening.open_models(memory, fetch),
        None => opening.open_models(&NotHashed, Fetch::Never),
    }
    opening.check();
    opening.forget_what_is_not_needed();
    let mut inputs = opening.inputs;
    let (errors, warnings) = opening.problems.split(|at| needed.concerns(at));
    let cache = match memory {
        Some(memory) if errors.is_empty() => memory.keep(cache).map_err(PlanError::Cache)?,
        _ => {
            return Err(PlanError::Study(
                errors.into_diagnostics(&sources, Severity::Error),
            ));
        }
    };
    inputs.measures = measures(&study, &inputs);
    inputs.findings = findings(&study, &inputs);
    remember_answers(&inputs, &cache);
    Ok(Opened {
        wanted: needed.stages,
        warnings: warnings.into_diagnostics(&sources, Severity::Warning),
        study,
        inputs,
        cache,
    })
}

/// A study that is being opened and checked.
struct Opening<'s> {
    study: &'s Study,
    needed: &'s Needed,
    pins: &'s Pins,
    inputs: Inputs,
    problems: Problems,
}

impl<'s> Opening<'s> {
    /// The stages that are to be run, and the others.
    fn stages(&self) -> (Vec<&'s StageSpec>, Vec<&'s StageSpec>) {
        let is_needed = |spec: &&StageSpec| self.needed.stages.contains(&spec.name);
        self.study.stages.iter().partition(is_needed)
    }

    fn open_prompts(&mut self) {
        for (name, set) in &self.study.prompts {
            let PromptsSpec {
                path,
                columns,
                draw,
                ..
            } = set;
            let loaded = PromptSet::load_as(&path.value, columns).and_then(|set| match draw {
                None => Ok(set),
                Some(draw) => set.drawn(&path.value, draw),
            });
            match loaded {
                Ok(set) => {
                    self.inputs.prompts.insert(name.clone(), Arc::new(set));
                }
                Err(_) if !set.share && !path.value.exists() => {
                    self.problems
                        .error_at(&path.at, format!("prompt set `{name}` is withheld, and its file is not here"))
                        .label(format!("`{}` is missing", path.value.display()))
                        .help(format!(
                            "ask whoever shared the study for it, and unpack what they sent again with `--prompts {name}=PATH`, which checks it"
                        ));
                }
                Err(errors) => {
                    self.problems
                        .error_at(&path.at, format!("prompt set `{name}` cannot be used"))
                        .note(errors.to_string());
                }
            }
        }
    }

    /// Reads the files that stages import, each once.
    fn open_files(&mut self) {
        let stages = self.study.stages.iter();
        for file in stages.flat_map(|spec| spec.stage.needs().files) {
            if self.inputs.files.contains_key(&file.value) {
                continue;
            }
            match files::read(&file.value, files::DATA_BYTES) {
                Ok(bytes) => {
                    let hash = blake3::hash(&bytes);
                    let content = Arc::new(InputFile { bytes, hash });
                    self.inputs.files.insert(file.value, content);
                }
                Err(error) => {
                    let message = format!("cannot read `{}`: {error}", file.value.display());
                    self.problems
                        .error_at(&file.at, message)
                        .label("this file")
                        .help("say where published files lie with `import.folder`");
                }
            }
        }
    }

    /// Opens the models that are needed, lenders of a template first. Of the others it is only looked whether they are where the study says.
    fn open_models(&mut self, memory: &dyn Memory, fetch: Fetch) {
        let study = self.study;
        for name in used_models(study) {
            let Some(spec) = study.models.get(&name) else {
                continue;
            };
            let opened = match self.needed.models.contains(&name) {
                true => self.open_model(&name, spec, memory, fetch),
                false => {
                    let source = lock::pinned(&spec.source.value, self.pins);
                    locate_without_fetching(&source, &spec.folder).map(|_| None)
                }
            };
            match opened {
                Ok(model) => {
                    let model = model.map(|model| (name, Arc::new(model)));
                    self.inputs.models.extend(model);
                }
                Err(error) => {
                    let message = format!("model `{name}` cannot be used: {error}");
                    self.problems
                        .error_at(&spec.source.at, message)
                        .label("this source");
                }
            }
        }
    }

    /// None for a model that is not here.
    fn open_model(
        &self,
        name: &str,
        spec: &ModelSpec,
        memory: &dyn Memory,
        fetch: Fetch,
    ) -> Result<Option<ModelHandle>, ModelError> {
        let lender = match &spec.template_from {
            None => None,
            Some(lender) => match self.inputs.models.get(&lender.value) {
                None => return Ok(None), // its own problem has been told
                Some(lender) => Some(lender.as_ref()),
            },
        };
        let source = lock::pinned(&spec.source.value, self.pins);
        let path = match fetch {
            Fetch::AsNeeded => Some(locate(&source, &spec.folder)?),
            Fetch::Never => locate_without_fetching(&source, &spec.folder)?,
        };
        path.map(|path| ModelHandle::open(name, &path, spec.dtype, lender, memory))
            .transpose()
    }

    /// Checks the stages against what was opened and against each other.
    fn check(&mut self) {
        let Opening { study, inputs, .. } = self;
        for spec in &study.stages {
            let forecast = spec.stage.forecast(inputs);
            inputs.forecasts.insert(spec.name.clone(), forecast);
        }
        let (needed, others) = self.stages();
        let (study, inputs, problems) = (self.study, &self.inputs, &mut self.problems);
        let mut reported = BTreeSet::new();
        // What two have in common is told where the first has it.
        for spec in needed.iter().chain(&others) {
            spec.stage.check(inputs, problems);
            let needs = spec.stage.needs();
            check_prompts(&needs, inputs, &mut reported, problems);
            check_sites(spec, inputs, problems);
            check_size(spec, inputs, problems);
        }
        chat::check(study, needed.iter().copied(), inputs, problems);
        for (name, rules) in rules_by_model(needed) {
            if let (Some(spec), Some(model)) = (study.models.get(&name), inputs.models.get(&name)) {
                for rule in rules {
                    check_score(&rule, spec, model, problems);
                }
            }
        }
    }

    /// What only the stages that are not to be run use was opened to be checked.
    fn forget_what_is_not_needed(&mut self) {
        let files = self.stages().0.into_iter();
        let files = files.flat_map(|spec| spec.stage.needs().files);
        let files: HashSet<PathBuf> = files.map(|file| file.value).collect();
        self.inputs.files.retain(|path, _| files.contains(path));
        let prompts = &self.needed.prompts;
        self.inputs.prompts.retain(|name, _| prompts.contains(name));
    }
}

/// Checks that the models of a stage have the sites that it names.
fn check_sites(spec: &StageSpec, inputs: &Inputs, problems: &mut Problems) {
    let needs = spec.stage.needs();
    for name in &needs.models {
        let Some(config) = inputs.models.get(&name.value).map(|m| m.config()) else {
            continue;
        };
        let mut sites = needs.sites.iter();
        let Some(site) = sites.find(|site| !HookPoint::block(0, **site).is_in(config)) else {
            continue;
        };
        let message = format!(
            "stage `{}` names the site `{site}`, which model `{name}` has not",
            spec.name
        );
        problems
            .error_at(&spec.at, message)
            .note(format!(
                "blocks of a `{}` have {}",
                config.family.name(),
                config.sites(0)
            ))
            .help("name a site that it has");
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

/// Checks that a model's tokenizer keeps the sides of a score rule apart.
fn check_score(rule: &Rule, spec: &ModelSpec, model: &ModelHandle, problems: &mut Problems) {
    let at = rule.at.as_ref().unwrap_or(&spec.source.at);
    match check_rule(rule, model, at, problems) {
        Ok(()) => {}
        // Empty words have been told.
        Err(_) if rule.has_empty_text() => {}
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
    for name in study
        .stages
        .iter()
        .flat_map(|spec| spec.stage.needs().models)
    {
        let lender = study.models.get(&name.value);
        let lender = lender.and_then(|model| model.template_from.clone());
        for Name { value, .. } in lender.into_iter().chain([name]) {
            if !names.contains(&value) {
                names.push(value);
            }
        }
    }
    names
}

/// What the scores that stages read are on the models that they ask.
fn measures(study: &Study, inputs: &Inputs) -> BTreeMap<String, Measure> {
    let read = rules_by_model(&study.stages).into_iter();
    let measure = |(name, rules): (String, Vec<Arc<Rule>>)| {
        let model = inputs.models.get(&name).filter(|_| !rules.is_empty())?;
        Some((name, Measure::of(&rules, model).ok()?))
    };
    read.filter_map(measure).collect()
}

/// What a reader should know of models and prompt sets before any number, in the order of their names, then of prompts in their chat:
/// nothing that stops a run, but nothing to pass over. Each begins with what it speaks of.
fn findings(study: &Study, inputs: &Inputs) -> Vec<String> {
    let mut all = Vec::new();
    for (name, model) in &inputs.models {
        let findings = model.findings().iter();
        all.extend(findings.map(|finding| format!("model `{name}`: {finding}")));
    }
    for (name, set) in &inputs.prompts {
        let of_licence = set.licence_findings(study.said_licence(name));
        let findings = set.findings().into_iter().chain(of_licence);
        all.extend(findings.map(|finding| format!("prompt set `{name}`: {finding}")));
    }
    all.extend(chat::findings(study, inputs));
    for (name, measure) in &inputs.measures {
        let findings = measure.findings().into_iter();
        all.extend(findings.map(|finding| format!("model `{name}`: {finding}")));
    }
    all
}
