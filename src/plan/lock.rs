//! The lock of a study: everything that a study names, as it was found, in one text made for `git diff`.
//!
//! ```text
//! study.toml   what a person asks
//! study.lock   what it was asked of: commits, files, hashes, versions
//! ```
//!
//! A [`Lock`] is made from what was opened ([`Lock::of`]) and compared with another ([`Lock::changes_to`]). What identifies the study is told
//! apart from the environment it ran in: numbers may follow the first, and should not follow the second. The text is the same for the same
//! study wherever it lies: it names no folder of the machine but those that the study's own file writes.
//!
//! The file has a format. A change that an earlier dial would misread raises it; a new field does not.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files;
use crate::model::{DeviceName, EVALUATION_VERSION, ModelError, ModelHandle, Provenance};
use crate::spec::{Diagnostics, told_in};
use crate::stages::Inputs;

use super::study::Study;

/// The format that is written.
pub(crate) const FORMAT: u64 = 1;
/// Stands at the head of the file.
const HEAD: &str =
    "# Written by `dial lock`: what this study names, as it was found. Not to be edited by hand.\n";

/// The commits of hub sources that name no revision, by the source as the study writes it.
pub(crate) type Pins = BTreeMap<String, String>;

/// What a study was found to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) format: u64,
    /// Version of the arithmetic behind every cell.
    pub(crate) evaluation: u32,
    pub(crate) environment: Environment,
    /// The version of each kind of stage that it has.
    #[serde(default)]
    pub(crate) stages: BTreeMap<String, u32>,
    #[serde(default)]
    pub(crate) models: BTreeMap<String, LockedModel>,
    #[serde(default)]
    pub(crate) prompts: BTreeMap<String, LockedPrompts>,
    /// Files that stages import, by their path from the study's folder on.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, LockedFile>,
}

/// Where it was found so: in no key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Environment {
    pub(crate) dial: String,
    /// The version that this dial is built for.
    pub(crate) libtorch: String,
    pub(crate) device: String,
    /// The processor's name, where the system tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) processor: Option<String>,
}

impl Environment {
    /// Of this process.
    pub(crate) fn here(device: DeviceName) -> Self {
        let here = Provenance::here(device);
        Environment {
            dial: here.dial,
            libtorch: here.libtorch,
            device: here.device,
            processor: here.cpu,
        }
    }
}

/// A model. Hashes are blake3, in lower-case hexadecimal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockedModel {
    /// As the study writes it.
    pub(crate) source: String,
    /// The commit of the hub that it resolved to; none for a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) commit: Option<String>,
    pub(crate) dtype: String,
    pub(crate) fingerprint: String,
    pub(crate) tokenizer: String,
    /// The chat template in use, whichever model it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) template: Option<String>,
    /// Every file that it was read from, by name.
    pub(crate) files: BTreeMap<String, LockedFile>,
}

/// A file, by its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockedFile {
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

/// A set of prompts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockedPrompts {
    /// From the study's folder on.
    pub(crate) path: String,
    /// Hash of the prompts, those that are drawn where some are.
    pub(crate) content: String,
    /// How many prompts.
    pub(crate) count: u64,
}

/// Why there is no lock to be had from a file.
#[derive(Debug)]
pub(crate) enum LockError {
    /// What is wrong, and where.
    Damaged(Diagnostics),
    /// It cannot be read, or a later dial wrote it.
    Unreadable(String),
}

/// What a difference between two locks concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Concern {
    /// What identifies the study.
    Study,
    /// The environment alone.
    Environment,
}

/// One thing that two locks say differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// E.g. ``model `inst`, file `model.safetensors` ``.
    pub(crate) what: String,
    /// None where only the newer has it.
    pub(crate) old: Option<String>,
    /// None where only the older has it.
    pub(crate) new: Option<String>,
    pub(crate) concerns: Concern,
}

impl Lock {
    /// Of a study whose models, prompts and files are open. Reads the small files of each model once more.
    ///
    /// # Errors
    /// A file of a model that cannot be read any more.
    pub(crate) fn of(
        study: &Study,
        inputs: &Inputs,
        device: DeviceName,
    ) -> Result<Self, ModelError> {
        let folder = study.document.sources.files().next();
        let folder = folder.and_then(|(path, _)| path.parent());
        let folder = folder.unwrap_or(Path::new(""));
        let from_folder = |path: &Path| files::text_of(path.strip_prefix(folder).unwrap_or(path));
        let models = inputs.models.iter().map(|(name, model)| {
            let source = study.models.get(name).map(|spec| spec.source.value.clone());
            let locked = LockedModel::of(source.unwrap_or_default(), model)?;
            Ok((name.clone(), locked))
        });
        let models = models.collect::<Result<_, ModelError>>()?;
        let prompts = inputs.prompts.iter().map(|(name, set)| {
            let path = study.prompts.get(name).map(|spec| &spec.path.value);
            let locked = LockedPrompts {
                path: path.map(|path| from_folder(path)).unwrap_or_default(),
                content: set.content_hash().to_hex().to_string(),
                count: set.prompts.len() as u64,
            };
            (name.clone(), locked)
        });
        let imported = inputs.files.iter().map(|(path, file)| {
            let locked = LockedFile::of(file.bytes.len() as u64, file.hash);
            (from_folder(path), locked)
        });
        let kinds = study.stages.iter();
        Ok(Lock {
            format: FORMAT,
            evaluation: EVALUATION_VERSION,
            environment: Environment::here(device),
            stages: kinds
                .map(|spec| (spec.kind.name.to_string(), spec.kind.version))
                .collect(),
            models,
            prompts: prompts.collect(),
            files: imported.collect(),
        })
    }

    /// Where the lock of a study's file lies: `study.lock` for `study.toml`.
    pub(crate) fn path_for(study: &Path) -> PathBuf {
        study.with_extension("lock")
    }

    /// The text of the file.
    ///
    /// # Errors
    /// What TOML cannot hold, which no lock has.
    pub(crate) fn to_text(&self) -> Result<String, String> {
        let body = toml::to_string(self).map_err(|error| error.to_string())?;
        Ok(format!("{HEAD}{body}"))
    }

    /// The lock at a path; none where there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, that is no lock, or that a later dial wrote.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, LockError> {
        let text = match files::read_text(path, files::SETTINGS_BYTES) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let message = format!("cannot read `{}`: {error}", path.display());
                return Err(LockError::Unreadable(message));
            }
            Ok(text) => text,
        };
        Self::parse(path, &text).map(Some)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, LockError> {
        let damaged = |error: &toml::de::Error| {
            let message = format!("the lock is damaged: {}", error.message());
            let help = "write it again with `dial lock`, or take it from version control";
            LockError::Damaged(told_in(path, text, error.span(), &message, help))
        };
        // Before all else, as a later format may lack any field.
        let format = toml::from_str::<FormatOnly>(text).map_err(|error| damaged(&error))?;
        if format.format > FORMAT {
            return Err(LockError::Unreadable(format!(
                "`{}` has format `{}`, and this dial, {}, reads formats up to {FORMAT}; use the dial that wrote it, or a later one",
                path.display(),
                format.format,
                env!("CARGO_PKG_VERSION")
            )));
        }
        toml::from_str(text).map_err(|error| damaged(&error))
    }

    /// The commits of hub sources that name no revision.
    pub(crate) fn pins(&self) -> Pins {
        let models = self.models.values();
        let pinned = models.filter_map(|model| {
            let commit = model.commit.as_ref().filter(|_| is_open(&model.source))?;
            Some((model.source.clone(), commit.clone()))
        });
        pinned.collect()
    }

    /// What `newer` says otherwise, what concerns the study first.
    pub(crate) fn changes_to(&self, newer: &Lock) -> Vec<Change> {
        let (mut old, mut new) = (self.facts(), newer.facts());
        let mut all: Vec<(Concern, String)> = old.keys().chain(new.keys()).cloned().collect();
        all.sort();
        all.dedup();
        let changes = all.into_iter().map(|fact| Change {
            old: old.remove(&fact),
            new: new.remove(&fact),
            concerns: fact.0,
            what: fact.1,
        });
        changes.filter(|change| change.old != change.new).collect()
    }

    /// Without the models, prompt sets and files that `part` lacks: what a run of some stages can be held against.
    pub(crate) fn narrowed_to(&self, part: &Lock) -> Lock {
        let mut lock = self.clone();
        lock.models.retain(|name, _| part.models.contains_key(name));
        lock.prompts
            .retain(|name, _| part.prompts.contains_key(name));
        lock.files.retain(|path, _| part.files.contains_key(path));
        lock
    }

    /// Everything that two locks are compared by. Where a content lies (a source, a path) is none of it: contents are.
    fn facts(&self) -> BTreeMap<(Concern, String), String> {
        let mut facts = BTreeMap::new();
        let mut study = |what: String, value: String| {
            facts.insert((Concern::Study, what), value);
        };
        study("evaluation version".into(), self.evaluation.to_string());
        for (kind, version) in &self.stages {
            study(format!("stage kind `{kind}`, version"), version.to_string());
        }
        for (name, model) in &self.models {
            let parts = [
                ("commit", model.commit.as_ref()),
                ("dtype", Some(&model.dtype)),
                ("fingerprint", Some(&model.fingerprint)),
                ("tokenizer", Some(&model.tokenizer)),
                ("chat template", model.template.as_ref()),
            ];
            for (part, value) in parts {
                if let Some(value) = value {
                    study(format!("model `{name}`, {part}"), value.clone());
                }
            }
            for (file, content) in &model.files {
                study(
                    format!("model `{name}`, file `{file}`"),
                    content.to_string(),
                );
            }
        }
        for (name, set) in &self.prompts {
            study(format!("prompt set `{name}`, content"), set.content.clone());
            study(
                format!("prompt set `{name}`, prompts"),
                set.count.to_string(),
            );
        }
        for (path, content) in &self.files {
            study(format!("file `{path}`"), content.to_string());
        }
        let Environment {
            dial,
            libtorch,
            device,
            processor,
        } = &self.environment;
        let environment = [
            ("dial", Some(dial)),
            ("libtorch", Some(libtorch)),
            ("device", Some(device)),
            ("processor", processor.as_ref()),
        ];
        for (what, value) in environment {
            if let Some(value) = value {
                facts.insert((Concern::Environment, what.to_string()), value.clone());
            }
        }
        facts
    }
}

/// What of a lock every format has.
#[derive(Deserialize)]
struct FormatOnly {
    format: u64,
}

/// Whether a source is of the hub and names no revision.
pub(super) fn is_open(source: &str) -> bool {
    source.starts_with("hf:") && !source.contains('@')
}

/// A source at the commit that its lock has for it, where it names no revision itself.
pub(super) fn pinned(source: &str, pins: &Pins) -> String {
    match pins.get(source).filter(|_| is_open(source)) {
        Some(commit) => format!("{source}@{commit}"),
        None => source.to_string(),
    }
}

impl LockedModel {
    fn of(source: String, model: &ModelHandle) -> Result<Self, ModelError> {
        let read = model.files_read()?.into_iter();
        Ok(LockedModel {
            commit: model.commit(&source),
            source,
            dtype: model.dtype.name().to_string(),
            fingerprint: model.fingerprint.to_hex().to_string(),
            tokenizer: model.tokenizer_hash().to_hex().to_string(),
            template: model.template_hash().map(|hash| hash.to_hex().to_string()),
            files: read
                .map(|(name, bytes, hash)| (name, LockedFile::of(bytes, hash)))
                .collect(),
        })
    }
}

impl LockedFile {
    fn of(bytes: u64, hash: blake3::Hash) -> Self {
        LockedFile {
            bytes,
            blake3: hash.to_hex().to_string(),
        }
    }
}

impl fmt::Display for LockedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.blake3, self.bytes)
    }
}

/// Digits of a hash that a sentence shows.
const DIGITS: usize = 8;

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (old, new) = (shown(self.old.as_ref()), shown(self.new.as_ref()));
        write!(f, "{}: {old} → {new}", self.what)
    }
}

/// A value in a sentence, the hash that it begins with cut.
fn shown(value: Option<&String>) -> String {
    let Some(value) = value else {
        return "nothing".to_string();
    };
    let (first, rest) = value.split_at(value.find(' ').unwrap_or(value.len()));
    let is_hash = first.len() >= 40 && first.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_hash {
        true => format!("`{}{rest}`", &first[..DIGITS]),
        false => format!("`{value}`"),
    }
}

#[cfg(test)]
mod tests;
