//! Where a model's files are: on disk, or in the Hugging Face hub's standard cache, filled from the hub as needed.
//!
//! ```text
//! $HF_HUB_CACHE/models--org--name/
//!   refs/<revision>          the commit that a branch or tag stands for
//!   snapshots/<commit>/      the files of a commit, as links into
//!   blobs/<digest>           their contents, by SHA-256 or git's SHA-1
//! ```
//!
//! A complete snapshot in the cache is used as it is, without asking the hub, so that a study does not change under
//! its author and needs no network; to follow a branch that has moved, name the commit. What is missing is fetched
//! at one commit, and the branch is recorded only once everything is there.
//!
//! The client is our own, on `ureq`, and the layout that of Python's `huggingface_hub`, so that both fill and use one cache. The crate
//! `hf-hub`, which served here before, names files by whatever a header says, sends the token wherever it is redirected to, and compares
//! neither lengths nor digests; holding it to our rules would have meant asking for every header before it does. Here nothing that a hub says
//! is used before it was checked (`listing`), nothing is written outside of the repository's folder and its locks (`store`), and nothing
//! comes under `blobs/` or `snapshots/` but what has the length and the digest that were announced (`download`).
//!
//! What lies in the cache already is compared with its name (`store`): settings and tokenizer whenever they are used; weights by their own
//! header then, and by their digest when they are first hashed, for they are read as a whole at that time. What is damaged is fetched again.

mod data_sets;
mod download;
mod environment;
mod health;
mod listing;
mod repository;
mod store;

use std::fmt::Display;
use std::path::{Path, PathBuf};

pub(crate) use data_sets::hub_data_set;
use download::Download;
pub(crate) use health::{HubAnswer, HubHealth};
pub(super) use repository::Repository;
pub(super) use store::check_by_name;
use store::{Store, is_sound};

use super::hugging_face::{INDEX, SINGLE, shard_names};
use super::read_text;
use crate::fetch::{Address, Client, Credential, Patience};
use crate::model::error::{ModelError, Result};

/// Files that a model cannot be opened without.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that are used where a model has them.
const OPTIONAL: [&str; 3] = [
    "generation_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];

/// The folder or `.gguf` file that `source` names: a path, relative to `base`, or `hf:org/name@revision` (the
/// revision is `main` when left out), which is fetched into the hub's cache unless it is there.
///
/// The variables of Python's `huggingface_hub` are honoured: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and its kin, and
/// `HF_HUB_OFFLINE`.
///
/// # Errors
/// The path does not exist, the source is malformed, or the hub does not give the files.
pub fn locate(source: &str, base: &Path) -> Result<PathBuf> {
    match on_hub(source)? {
        None => on_disk(source, base),
        Some((repository, hub)) => hub.fetch(&repository),
    }
}

/// As [`locate`], but fetches nothing: none where the hub would have to be asked.
pub fn locate_without_fetching(source: &str, base: &Path) -> Result<Option<PathBuf>> {
    let Some((repository, mut hub)) = on_hub(source)? else {
        return on_disk(source, base).map(Some);
    };
    hub.offline = true;
    Ok(hub.fetch(&repository).ok())
}

/// As [`locate`], but of a model of the hub no weights are fetched: the folder may hold settings and tokenizer alone.
pub(super) fn locate_settings(source: &str, base: &Path) -> Result<PathBuf> {
    match on_hub(source)? {
        None => on_disk(source, base),
        Some((repository, hub)) => hub.fetch_settings(&repository),
    }
}

fn invalid(source: &str, problem: impl Display) -> ModelError {
    ModelError::Unusable(format!("model source `{source}`: {problem}"))
}

fn on_disk(source: &str, base: &Path) -> Result<PathBuf> {
    let path = base.join(source);
    match path.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => {
            let expected =
                "expected a Hugging Face folder, a `.gguf` file, or `hf:org/name@revision`";
            let problem = format!("`{}` does not exist; {expected}", path.display());
            Err(invalid(source, problem))
        }
        Err(error) => Err(ModelError::read(&path, error)),
    }
}

/// The repository that the source names, and the hub; none for a path.
fn on_hub(source: &str) -> Result<Option<(Repository, Hub)>> {
    let Some(name) = source.strip_prefix("hf:") else {
        return Ok(None);
    };
    let repository = Repository::parse(name).map_err(|problem| invalid(source, problem))?;
    let hub = Hub::from_variables(|name| std::env::var_os(name));
    let hub = hub.map_err(|problem| invalid(source, problem))?;
    Ok(Some((repository, hub)))
}

/// A hub and the cache before it. It has no `Debug`, so that the token is nowhere shown.
pub(super) struct Hub {
    pub(super) endpoint: String,
    /// The folder of `models--…` folders.
    pub(super) cache: PathBuf,
    pub(super) token: Option<String>,
    pub(super) offline: bool,
    pub(super) patience: Patience,
}

enum Cached {
    Nothing,
    Incomplete(String),
    /// A snapshot in which this file is not what it should be.
    Damaged(String),
    Whole,
}

impl Hub {
    /// The folder of the model's files, fetched if they are not all in the cache.
    pub(super) fn fetch(&self, repository: &Repository) -> Result<PathBuf> {
        let store = Store::new(&self.cache, &repository.name);
        let commit = store.commit_of(&repository.revision);
        let folder = store.snapshot(&commit);
        match inspect(&folder)? {
            // Without this file it is not certain that whoever filled the cache wanted a whole model.
            Cached::Whole if self.offline || folder.join("tokenizer_config.json").exists() => {
                Ok(folder)
            }
            cached if self.offline => Err(self.not_in_cache(repository, &cached)),
            Cached::Whole => self.download(repository, &store).or_else(|error| {
                tracing::warn!("{error}; going on with the files in the cache");
                Ok(folder)
            }),
            Cached::Damaged(file) => {
                let file = folder.join(file);
                tracing::warn!("`{}` is damaged and is fetched again", file.display());
                // Mended as it was: the branch may have moved.
                let mut repository = repository.clone();
                repository.revision = commit;
                self.download(&repository, &store)
            }
            Cached::Incomplete(_) | Cached::Nothing => self.download(repository, &store),
        }
    }

    /// A folder that has the model's settings, whatever else it has.
    fn fetch_settings(&self, repository: &Repository) -> Result<PathBuf> {
        let store = Store::new(&self.cache, &repository.name);
        let folder = store.snapshot(&store.commit_of(&repository.revision));
        match folder.join("config.json").exists() {
            true => Ok(folder),
            false if self.offline => Err(self.not_in_cache(repository, &Cached::Nothing)),
            false => {
                let commit = self.downloaded(repository, &store, |download| download.settings())?;
                Ok(store.snapshot(&commit))
            }
        }
    }

    fn not_in_cache(&self, repository: &Repository, cached: &Cached) -> ModelError {
        let cache = self.cache.display();
        let problem = match cached {
            Cached::Incomplete(file) => format!("`{file}` is not in the cache `{cache}`"),
            Cached::Damaged(file) => format!("`{file}` is damaged in the cache `{cache}`"),
            Cached::Nothing | Cached::Whole => format!("it is not in the cache `{cache}`"),
        };
        let advice = "`HF_HUB_OFFLINE` forbids fetching it: unset it once, or point `HF_HUB_CACHE` or `HF_HOME` at a cache that has it";
        repository.error(problem, advice)
    }

    fn download(&self, repository: &Repository, store: &Store) -> Result<PathBuf> {
        let commit = self.downloaded(repository, store, |download| download.all())?;
        let folder = store.snapshot(&commit);
        if let Some(file) = missing(&folder)? {
            let problem = format!("`{file}` did not arrive");
            return Err(repository.error(problem, "check `HF_ENDPOINT`, or try again"));
        }
        store.record(&repository.revision, &commit)?;
        Ok(folder)
    }

    /// Fetches a part of the repository, or all that is wanted of it; at which commit.
    fn downloaded(
        &self,
        repository: &Repository,
        store: &Store,
        part: impl FnOnce(&Download<'_>) -> Result<()>,
    ) -> Result<String> {
        let endpoint = Address::parse(&self.endpoint).map_err(|problem| {
            // It may hold a password, and is not shown.
            repository.error(format!("`HF_ENDPOINT`: {problem}"), "correct it")
        })?;
        let client = Client::new(self.patience, self.credential(repository, &endpoint)?);
        let download = Download::begin(&client, &self.endpoint, repository, store)?;
        part(&download)?;
        Ok(download.listing.commit)
    }

    /// The token, for the endpoint alone, unless it would be readable on the way there.
    fn credential(
        &self,
        repository: &Repository,
        endpoint: &Address,
    ) -> Result<Option<Credential>> {
        let Some(token) = &self.token else {
            return Ok(None);
        };
        let credential = Credential::bearer(token, endpoint).map_err(|problem| {
            let problem = format!("the token cannot be sent: {problem}");
            repository.error(problem, "set `HF_TOKEN` to the token alone")
        })?;
        if credential.is_none() {
            tracing::warn!(
                "the token is not sent to `{endpoint}`, where plain http would show it to everyone on the way; use https in `HF_ENDPOINT`"
            );
        }
        Ok(credential)
    }
}

/// What the cache has of the model that belongs in `folder`.
fn inspect(folder: &Path) -> Result<Cached> {
    if !folder.is_dir() {
        return Ok(Cached::Nothing);
    }
    // A link to a content that was deleted counts as damage: it was there once, at this commit.
    let damaged = |name: &str| {
        let path = folder.join(name);
        (path.is_symlink() && !path.exists()) || !is_sound(&path, None, None)
    };
    let mut small = NEEDED.into_iter().chain(OPTIONAL).chain([INDEX]);
    if let Some(name) = small.find(|name| damaged(name)) {
        return Ok(Cached::Damaged(name.to_string()));
    }
    let mut weights = weight_names(folder)?.into_iter();
    if let Some(name) = weights.find(|name| damaged(name)) {
        return Ok(Cached::Damaged(name));
    }
    Ok(missing(folder)?.map_or(Cached::Whole, Cached::Incomplete))
}

/// The first file that opening the model in `folder` would miss.
fn missing(folder: &Path) -> Result<Option<String>> {
    let needed = NEEDED.map(str::to_string).into_iter();
    let mut needed = needed.chain(weight_names(folder)?);
    Ok(needed.find(|name| !folder.join(name).exists()))
}

/// The weight files of the model in `folder`: one, or the shards of its index.
fn weight_names(folder: &Path) -> Result<Vec<String>> {
    let index = folder.join(INDEX);
    if folder.join(SINGLE).exists() || !index.exists() {
        return Ok(vec![SINGLE.to_string()]);
    }
    let shards = shard_names(&index, &read_text(&index)?)?;
    Ok(shards.into_iter().collect())
}
