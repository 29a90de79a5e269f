//! Where a model's files are: on disk, or in the Hugging Face hub's standard cache, filled from the hub as needed.
//!
//! ```text
//! $HF_HOME/hub/models--org--name/
//!   refs/<revision>          the commit that a branch or tag stands for
//!   snapshots/<commit>/      the files of a commit, as links into
//!   blobs/                   their contents
//! ```
//!
//! A complete snapshot in the cache is used as it is, without asking the hub, so that a study does not change under
//! its author and needs no network; to follow a branch that has moved, name the commit. What is missing is fetched
//! at one commit, and the branch is recorded only once everything is there.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder};
use hf_hub::{Cache, Repo, RepoType};

use super::hugging_face::{INDEX, SINGLE, shard_names};
use super::read_text;
use crate::model::error::ModelError;

/// Files that a model cannot be opened without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that are used where a model has them.
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// Downloads that break are taken up again this many times.
const RETRIES: usize = 3;

/// The folder or `.gguf` file that `source` names: a path, relative to `base`, or `hf:org/name@revision` (the
/// revision is `main` when left out), which is fetched into the hub's cache unless it is there.
///
/// `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` (or the token file beside the cache) and `HF_HUB_OFFLINE` are honoured.
///
/// # Errors
/// The path does not exist, the source is malformed, or the hub does not give the files.
pub fn locate(source: &str, base: &Path) -> Result<PathBuf, ModelError> {
    match Place::of(source, base)? {
        Place::Disk(path) => Ok(path),
        Place::Hub(repository, hub) => hub.fetch(&repository),
    }
}

/// As [`locate`], but fetches nothing: none where the hub would have to be asked.
///
/// # Errors
/// As [`locate`], but for those of the hub.
pub fn locate_without_fetching(source: &str, base: &Path) -> Result<Option<PathBuf>, ModelError> {
    match Place::of(source, base)? {
        Place::Disk(path) => Ok(Some(path)),
        Place::Hub(repository, mut hub) => {
            hub.offline = true;
            Ok(hub.fetch(&repository).ok())
        }
    }
}

/// Where a source leads.
enum Place {
    /// To this path, which exists.
    Disk(PathBuf),
    /// To a repository of the hub that the environment describes.
    Hub(Repository, Hub),
}

impl Place {
    fn of(source: &str, base: &Path) -> Result<Self, ModelError> {
        let invalid = |problem: String| ModelError::Source {
            location: source.to_string(),
            problem,
        };
        let Some(name) = source.strip_prefix("hf:") else {
            let path = base.join(source);
            return match path.try_exists() {
                Ok(true) => Ok(Self::Disk(path)),
                Ok(false) => Err(invalid(format!(
                    "`{}` does not exist; expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`",
                    path.display()
                ))),
                Err(error) => Err(ModelError::read(&path, error)),
            };
        };
        let repository = Repository::parse(name).map_err(invalid)?;
        let hub = Hub::from_variables(|name| std::env::var(name).ok())?;
        Ok(Self::Hub(repository, hub))
    }
}

/// A model on the hub, at a revision.
pub(super) struct Repository {
    name: String,
    revision: String,
}

impl Repository {
    /// Reads `org/name` or `org/name@revision`; the error is a fragment.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (name, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |part: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            !part.is_empty() && part.chars().all(known) && part != "." && !part.contains("..")
        };
        if name.split('/').count() != 2 || !name.split('/').all(plain) {
            return Err(format!("`{name}` is not a repository, expected `org/name`"));
        }
        if !revision.split('/').all(plain) {
            return Err(format!(
                "`{revision}` is not a revision, expected a branch, a tag or a commit"
            ));
        }
        Ok(Self {
            name: name.to_string(),
            revision: revision.to_string(),
        })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.name.clone(), RepoType::Model, revision.to_string())
    }

    fn error(&self, problem: impl Into<String>, advice: impl Into<String>) -> ModelError {
        ModelError::Hub {
            repository: format!("{}@{}", self.name, self.revision),
            problem: problem.into(),
            advice: advice.into(),
        }
    }
}

/// A hub and the cache before it.
pub(super) struct Hub {
    pub endpoint: String,
    /// The folder of `models--…` folders.
    pub cache: PathBuf,
    pub token: Option<String>,
    pub offline: bool,
}

impl Hub {
    /// The hub that environment variables describe.
    pub(super) fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, ModelError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let home = match get("HF_HOME") {
            Some(home) => PathBuf::from(home),
            None => std::env::home_dir()
                .map(|home| home.join(".cache").join("huggingface"))
                .ok_or_else(|| ModelError::Source {
                    location: "hf:".to_string(),
                    problem: "there is no home folder for the hub's cache; set `HF_HOME`"
                        .to_string(),
                })?,
        };
        let cache = home.join("hub");
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string());
        let offline = get("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
        });
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: get("HF_TOKEN").or_else(|| Cache::new(cache.clone()).token()),
            cache,
            offline,
        })
    }

    /// The folder of the model's files, fetched if they are not all in the cache.
    pub(super) fn fetch(&self, repository: &Repository) -> Result<PathBuf, ModelError> {
        let cached = self.cached(repository);
        let usable = cached.as_deref().map(missing).transpose()?;
        match (&cached, &usable) {
            // Without this file it is not certain that whoever filled the cache wanted a whole model.
            (Some(folder), Some(None))
                if self.offline || folder.join("tokenizer_config.json").exists() =>
            {
                return Ok(folder.clone());
            }
            _ => {}
        }
        if self.offline {
            let problem = match usable {
                Some(Some(file)) => {
                    format!("`{file}` is not in the cache `{}`", self.cache.display())
                }
                _ => format!("it is not in the cache `{}`", self.cache.display()),
            };
            let advice = "`HF_HUB_OFFLINE` forbids fetching it: unset it once, or point `HF_HOME` at a cache that has it";
            return Err(repository.error(problem, advice));
        }
        match (self.download(repository), cached, usable) {
            (Err(error), Some(folder), Some(None)) => {
                tracing::warn!("{error}; going on with the files in the cache");
                Ok(folder)
            }
            (result, _, _) => result,
        }
    }

    /// The folder that the cache has for the revision.
    fn cached(&self, repository: &Repository) -> Option<PathBuf> {
        let repo = repository.at(&repository.revision);
        let reference = self
            .cache
            .join(repo.folder_name())
            .join("refs")
            .join(&repository.revision);
        let commit = std::fs::read_to_string(reference);
        let commit = commit.map_or(repository.revision.clone(), |text| text.trim().to_string());
        let folder = Cache::new(self.cache.clone())
            .repo(repo)
            .pointer_path(&commit);
        folder.is_dir().then_some(folder)
    }

    fn download(&self, repository: &Repository) -> Result<PathBuf, ModelError> {
        let failed = |error: hf_hub::api::sync::ApiError| explain(repository, &error.to_string());
        let cache = Cache::new(self.cache.clone());
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(std::io::stderr().is_terminal())
            .with_retries(RETRIES)
            .build()
            .map_err(failed)?;
        let info = api
            .repo(repository.at(&repository.revision))
            .info()
            .map_err(failed)?;
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            let problem = format!("the hub named the commit `{}`", info.sha);
            return Err(repository.error(problem, "check `HF_ENDPOINT`"));
        }
        let folder = cache.repo(repository.at(&info.sha)).pointer_path(&info.sha);
        let there: BTreeSet<&str> = info
            .siblings
            .iter()
            .map(|file| file.rfilename.as_str())
            .collect();
        let download = Download {
            api,
            repository,
            commit: &info.sha,
            folder: &folder,
        };
        download.all(&there)?;
        if let Some(file) = missing(&folder)? {
            let problem = format!("`{file}` did not arrive");
            return Err(repository.error(problem, "check `HF_ENDPOINT`, or try again"));
        }
        cache
            .repo(repository.at(&repository.revision))
            .create_ref(&info.sha)
            .map_err(|error| ModelError::read(&self.cache, error))?;
        Ok(folder)
    }
}

/// The first file that opening the model in `folder` would miss.
fn missing(folder: &Path) -> Result<Option<String>, ModelError> {
    let absent = |name: &str| !folder.join(name).exists();
    if let Some(name) = NEEDED.into_iter().find(|name| absent(name)) {
        return Ok(Some(name.to_string()));
    }
    if !absent(SINGLE) {
        return Ok(None);
    }
    if absent(INDEX) {
        return Ok(Some(SINGLE.to_string()));
    }
    let index = folder.join(INDEX);
    let shards = shard_names(&index, &read_text(&index)?)?;
    Ok(shards.into_iter().find(|name| absent(name)))
}

/// One commit on its way into the cache.
struct Download<'a> {
    api: Api,
    repository: &'a Repository,
    commit: &'a str,
    /// Where its files appear.
    folder: &'a Path,
}

impl Download<'_> {
    /// Fetches what is wanted of the files that are `there`.
    fn all(&self, there: &BTreeSet<&str>) -> Result<(), ModelError> {
        for name in NEEDED {
            if !there.contains(name) {
                let advice = "choose a repository in the format of Hugging Face transformers";
                return Err(self
                    .repository
                    .error(format!("there is no `{name}`"), advice));
            }
            self.file(name)?;
        }
        for name in OPTIONAL.into_iter().filter(|name| there.contains(name)) {
            self.file(name)?;
        }
        if there.contains(SINGLE) {
            return self.file(SINGLE);
        }
        if !there.contains(INDEX) {
            let advice = "choose a repository or a revision with safetensors weights";
            return Err(self
                .repository
                .error(format!("there is no `{SINGLE}`"), advice));
        }
        self.file(INDEX)?;
        let index = self.folder.join(INDEX);
        for name in shard_names(&index, &read_text(&index)?)? {
            self.file(&name)?;
        }
        Ok(())
    }

    fn file(&self, name: &str) -> Result<(), ModelError> {
        if self.folder.join(name).exists() {
            return Ok(());
        }
        tracing::info!("fetching `{name}` of `{}`", self.repository.name);
        let result = self
            .api
            .repo(self.repository.at(self.commit))
            .download(name);
        let failed = |error: hf_hub::api::sync::ApiError| {
            explain(self.repository, &format!("`{name}`: {error}"))
        };
        result.map(|_| ()).map_err(failed)
    }
}

/// The client's message, with what to do about it.
fn explain(repository: &Repository, message: &str) -> ModelError {
    let status = message
        .split_once("http status: ")
        .map(|(_, code)| code.get(..3).unwrap_or(code));
    let advice = match status {
        Some("401" | "403") => {
            "it is private, gated or misspelt: set `HF_TOKEN` to a token that may read it, or correct the name"
        }
        Some("404") => "check the name and the revision",
        Some("429") => "the hub asks for patience: set `HF_TOKEN`, or try again later",
        _ if message.contains("Lock acquisition") => {
            "another process is fetching it: wait for it and run again"
        }
        _ => {
            "check the network and `HF_ENDPOINT`; what is in the cache already is used without them"
        }
    };
    repository.error(message, advice)
}
