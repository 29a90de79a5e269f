//! `dial verify`: a shared file, checked on three levels.
//!
//! ```text
//! outcome      what a check found, as it is shown and written down
//! received     the file taken apart, with a cache that has its cells
//! intact       level 1: every file is what the crate says
//! follows      level 2: everything made once more from the stored values
//! third        level 3: some of the stored values computed again, from end to end
//! seen         which cells there are to draw from, and the drawn ones with their stored values
//! draw         which cells are computed again
//! drift        how far what was computed again is from what is stored
//! tolerance    how far it may be
//! recomputed   the cells drawn, computed again, and what that says of all
//! verdict      all of it in a few sentences
//! page         all of it as a page
//! ```

mod draw;
mod drift;
mod follows;
mod intact;
mod outcome;
mod page;
mod received;
mod recomputed;
mod seen;
mod third;
mod tolerance;
mod verdict;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cache::CacheError;
use crate::fetch::sha256_of;
use crate::manifest::Manifest;
use crate::model::{self, DeviceName, ModelError, Provenance};
use crate::plan::{Lock, Opened};
use crate::{files, harmless};

use super::read::{ReadError, SharedFile};
use super::withheld::supply;
use super::{inside, layout};
use follows::Follows;
use outcome::{FORMAT, Finding, Level};
pub(crate) use outcome::{Outcome, Problem, Verified};
pub(crate) use page::page;
use received::Received;
pub(crate) use received::remove_what_is_left;
pub(crate) use recomputed::Recomputed;
use seen::{Keys, Known};
use third::Third;
pub(crate) use verdict::percent;

/// How many values are computed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    FiveMinutes,
    So(u64),
    All,
}

/// What is to be checked, and with what.
pub(crate) struct Options {
    pub(crate) file: PathBuf,
    pub(crate) wanted: Wanted,
    pub(crate) seed: Option<u64>,
    /// Where models lie here, by their name in the study.
    pub(crate) models: BTreeMap<String, String>,
    /// Files of prompt sets that the file does without, by name.
    pub(crate) prompts: BTreeMap<String, PathBuf>,
    /// Whether models may be fetched from the hub.
    pub(crate) fetch: bool,
    pub(crate) device: DeviceName,
}

/// What is being done.
pub(crate) enum Step<'s> {
    /// A level begins, or a stage of it.
    At(&'s str),
    /// So many values were drawn, and take about so long.
    Drawn {
        drawn: u64,
        stored: u64,
        seed: u64,
        expected: Duration,
    },
    Computing {
        done: usize,
        all: usize,
    },
}

/// Hears of each step.
pub(crate) type OnStep<'s> = &'s mut dyn FnMut(Step<'_>);

/// Why nothing was checked.
#[derive(Debug)]
pub(crate) enum VerifyError {
    /// The file cannot be read, or this disk not be written.
    Io(io::Error),
    NeedsLibtorch,
    Failed(String),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::Io(error) => error.fmt(f),
            VerifyError::NeedsLibtorch => ModelError::NeedsLibtorch.fmt(f),
            VerifyError::Failed(why) => f.write_str(why),
        }
    }
}

impl From<io::Error> for VerifyError {
    fn from(error: io::Error) -> Self {
        VerifyError::Io(error)
    }
}

impl From<CacheError> for VerifyError {
    fn from(error: CacheError) -> Self {
        VerifyError::Failed(error.to_string())
    }
}

/// Checks a shared file. Nothing of it is left on the disk, and nothing but its study is run.
///
/// # Errors
/// [`VerifyError`]; whatever is wrong with the file is what is found.
pub(crate) fn verify(options: &Options, on_step: OnStep<'_>) -> Result<Verified, VerifyError> {
    model::check_linked().map_err(|_| VerifyError::NeedsLibtorch)?;
    let mut check = Check::new(options)?;
    check.run(on_step)?;
    Ok(check.verified())
}

/// A check as it goes on.
struct Check<'a> {
    options: &'a Options,
    bytes: u64,
    sha256: String,
    manifest: Option<Manifest>,
    opened: Option<Opened>,
    intact: Level,
    follows: Level,
    third: Level,
    recomputed: Option<Recomputed>,
}

impl<'a> Check<'a> {
    fn new(options: &'a Options) -> Result<Self, VerifyError> {
        let file = files::open(&options.file)?;
        Ok(Check {
            options,
            bytes: file.metadata()?.len(),
            sha256: sha256_of(file)?,
            manifest: None,
            opened: None,
            intact: Level::intact(),
            follows: Level::follows(),
            third: Level::recomputed(),
            recomputed: None,
        })
    }

    /// Goes through the levels. Each needs what the one before it opened.
    fn run(&mut self, on_step: OnStep<'_>) -> Result<(), VerifyError> {
        let started = Instant::now();
        on_step(Step::At("every file against its hash"));
        let received = self.received();
        self.intact.seconds = started.elapsed().as_secs_f64();
        let Some((shared, mut received)) = received? else {
            let why = "the file could not be taken apart";
            self.follows.not_checked("the file", why);
            self.third.not_checked("the file", why);
            return Ok(());
        };
        let started = Instant::now();
        let known = self.follow(&shared, &mut received, on_step);
        self.follows.seconds = started.elapsed().as_secs_f64();
        let (Some(known), Some(opened)) = (known, &self.opened) else {
            let why = "the study in the file could not be made again";
            self.third.not_checked("the study", why);
            return Ok(());
        };
        let started = Instant::now();
        let lock = Lock::read(&received.folder.join(layout::LOCK))
            .ok()
            .flatten();
        self.recomputed = Third {
            options: self.options,
            received: &received,
            opened,
            lock: &lock.unwrap_or_default(),
            known,
            level: &mut self.third,
            on_step,
        }
        .check();
        self.third.seconds = started.elapsed().as_secs_f64();
        Ok(())
    }

    /// Takes the file apart and checks the first level; none where it is none that can be taken apart.
    fn received(&mut self) -> Result<Option<(SharedFile, Received)>, VerifyError> {
        let opened = SharedFile::open(&self.options.file);
        let taken = opened.and_then(|shared| {
            inside::check_sizes(&shared.entries).map_err(ReadError::Refused)?;
            Ok((Received::extract(&shared)?, shared))
        });
        let (received, shared) = match taken {
            Ok(taken) => taken,
            Err(ReadError::Io(error)) => return Err(error.into()),
            Err(ReadError::Refused(why)) => {
                self.intact.problem("the file", why);
                return Ok(None);
            }
        };
        intact::check(&shared, &received.folder, &mut self.intact);
        if let Err(why) = inside::check(&received.folder) {
            self.intact.problem("the file", why);
        }
        Ok(Some((shared, received)))
    }

    /// Checks the second level. Returns what there is to draw from.
    fn follow(
        &mut self,
        shared: &SharedFile,
        received: &mut Received,
        on_step: OnStep<'_>,
    ) -> Option<Known> {
        let level = &mut self.follows;
        received.read(shared, level);
        let withheld = match supply(&received.folder, &self.options.prompts) {
            Ok(withheld) => withheld,
            Err(why) => {
                level.not_checked("prompts", why);
                return None;
            }
        };
        if let Some(withheld) = &withheld {
            if withheld.sets.is_empty() {
                level.problem(layout::WITHHELD, "names no prompts that are withheld");
                return None;
            }
            let sets = withheld.sets.keys();
            let missing: Vec<&String> = sets
                .filter(|name| !self.options.prompts.contains_key(*name))
                .collect();
            for name in &missing {
                let why = format!(
                    "are not in the file, so that nothing can be made again; name them with `--prompts {name}=PATH`"
                );
                level.not_checked(format!("prompts `{name}`"), why);
            }
            if !missing.is_empty() {
                return None;
            }
        }
        if let Some(why) = received.too_many_prompts() {
            level.not_checked(layout::PROMPTS, why);
            return None;
        }
        self.manifest = manifest(&received.folder, level);
        let manifest = self.manifest.as_ref()?;
        let opened = match follows::open(received, &manifest.study) {
            Ok(opened) => self.opened.insert(opened),
            Err(why) => {
                level.problem(layout::STUDY, format!("cannot be opened: {why}"));
                return None;
            }
        };
        if !follows::is_within_limits(opened, level) {
            return None;
        }
        let models = opened.inputs.models.iter();
        let names: HashMap<_, _> = models
            .map(|(name, model)| (model.fingerprint, name.clone()))
            .collect();
        let mut keys = Keys::new(names);
        let mut follows = Follows::new((received, shared), (opened, manifest), level);
        follows.withheld = withheld;
        follows::each_stage(opened, received, &mut keys, &mut |stage, walk, made| {
            on_step(Step::At(&stage.spec.name));
            follows.stage(stage, walk, made);
        });
        on_step(Step::At("figures and page"));
        let known = keys.into_known();
        follows.cells(&known);
        follows.rest();
        Some(known)
    }

    fn verified(self) -> Verified {
        let manifest = self.manifest.unwrap_or_default();
        let findings = manifest.stages.iter().flat_map(|stage| {
            let texts = stage.findings.iter();
            texts.map(|text| Finding {
                stage: harmless::line(&stage.name).into_owned(),
                text: harmless::line(text).into_owned(),
            })
        });
        let levels = vec![self.intact, self.follows, self.third];
        let name = self.options.file.file_name();
        let file = name.map_or_else(String::new, files::text_of);
        let credits = self.opened.as_ref().map(|opened| &opened.study.credits);
        Verified {
            format: FORMAT,
            outcome: Outcome::worst(levels.iter().map(|level| level.outcome)),
            verdict: verdict::sentences(&levels, self.recomputed.as_ref()),
            repeat: self.recomputed.as_ref().map(|found| {
                let models = self.options.models.iter();
                let models = models.map(|(name, source)| format!(" --model {name}={source}"));
                format!(
                    "dial verify {file} --sample {} --seed {}{}",
                    found.wanted,
                    found.seed,
                    models.collect::<String>()
                )
            }),
            file,
            bytes: self.bytes,
            sha256: self.sha256,
            title: credits.and_then(|credits| credits.title.clone()),
            ended: super::export::ended(&manifest),
            checked: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            here: Provenance::here(self.options.device),
            levels,
            recomputed: self.recomputed,
            findings: findings.collect(),
            study: harmless::line(&manifest.study).into_owned(),
            question: manifest.question.clone(),
            there: (!manifest.provenance.dial.is_empty()).then(|| manifest.provenance.clone()),
        }
    }
}

/// The manifest in a folder.
fn manifest(folder: &Path, level: &mut Level) -> Option<Manifest> {
    match Manifest::read(folder) {
        Ok(Some(manifest)) => Some(manifest),
        Ok(None) => {
            level.problem(layout::MANIFEST, "is not in the file");
            None
        }
        Err(error) => {
            level.problem(
                layout::MANIFEST,
                format!("is no manifest of a run: {error}"),
            );
            None
        }
    }
}
