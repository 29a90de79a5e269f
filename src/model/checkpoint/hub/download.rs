//! One commit on its way into the cache: every file is compared with the length and the digest that were announced for it before it gets
//! its name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use indicatif::DecimalBytes;
use serde_json::Value;

use super::super::hugging_face::{SINGLE, read_config};
use super::listing::{Listed, Listing};
use super::{Repository, Store, is_sound, weight_names};
use crate::fetch::{Address, Answer, Client, Digest, Extent, FetchError, Progress, printable};
use crate::files;
use crate::model::checkpoint::read_text;
use crate::model::error::Result;

/// Bytes that a file of weights may have if the hub does not say how many it has.
const UNANNOUNCED_WEIGHTS: u64 = 64 << 30;
/// Files of that many bytes take a while to compare.
const LONG_TO_CHECK: u64 = 512 << 20;

pub(super) struct Download<'a> {
    client: &'a Client,
    endpoint: &'a str,
    repository: &'a Repository,
    store: &'a Store,
    pub(super) listing: Listing,
}

impl<'a> Download<'a> {
    pub(super) fn begin(
        client: &'a Client,
        endpoint: &'a str,
        repository: &'a Repository,
        store: &'a Store,
    ) -> Result<Self> {
        let list = || {
            let address = Address::parse(&repository.list_address(endpoint));
            let answer = client.get(&address.map_err(FetchError::Refused)?, None)?;
            let answer = no_page(answer)?;
            let mut body = Vec::new();
            answer.read(files::SETTINGS_BYTES, |part| {
                body.extend_from_slice(part);
                Ok(())
            })?;
            Listing::parse(&body, &repository.revision)
        };
        let listing = client.patiently(list);
        let listing = listing.map_err(|error| repository.explain("its list of files", &error))?;
        listing.check_kind(repository)?;
        store.prepare(&listing.commit)?;
        Ok(Self {
            client,
            endpoint,
            repository,
            store,
            listing,
        })
    }

    /// Fetches what is wanted of the commit and not there yet.
    ///
    /// # Errors
    /// A file cannot be had, or the settings ask for what is not supported: then no weights are fetched.
    pub(super) fn all(&self) -> Result<()> {
        self.settings()?;
        let folder = self.store.snapshot(&self.listing.commit);
        let weights = match self.listing.has(SINGLE) {
            true => vec![SINGLE.to_string()],
            false => weight_names(&folder)?,
        };
        if let Some(absent) = weights.iter().find(|name| !self.listing.has(name)) {
            let problem = format!("`{}` is in its index, but not there", printable(absent));
            return Err(self.repository.error(problem, "choose another revision"));
        }
        self.files(&weights, "weights")
    }

    /// Fetches settings and tokenizer, where they are not there yet.
    ///
    /// # Errors
    /// A file cannot be had, or the settings ask for what is not supported.
    pub(super) fn settings(&self) -> Result<()> {
        self.files(&self.listing.settings(), "settings and tokenizer")?;
        self.check_settings(&self.store.snapshot(&self.listing.commit))
    }

    /// Fails where the settings that have arrived ask for another computation than those that are done here.
    fn check_settings(&self, folder: &Path) -> Result<()> {
        let path = folder.join("config.json");
        let text = read_text(&path)?;
        let raw: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(code) = self.listing.own_code()
            && raw["auto_map"]["AutoModelForCausalLM"].is_string()
        {
            let problem = format!(
                "it wants `trust_remote_code`: its model is computed by code of its own (`{}`), which is not run here",
                printable(code)
            );
            let advice = "choose a model whose architecture transformers itself has";
            return Err(self.repository.error(problem, advice));
        }
        read_config(folder, &text).map(|_| ())
    }

    /// Fetches those of the files that are not there.
    fn files(&self, names: &[String], what: &str) -> Result<()> {
        let folder = self.store.snapshot(&self.listing.commit);
        let listed = |name: &str| self.listing.files.get(name).cloned().unwrap_or_default();
        let is_there = |name: &str| {
            let (path, listed) = (folder.join(name), listed(name));
            path.exists() && is_sound(&path, listed.digest.as_ref(), listed.bytes)
        };
        let absent: Vec<&String> = names.iter().filter(|name| !is_there(name)).collect();
        if absent.is_empty() {
            return Ok(());
        }
        let sizes = absent.iter().map(|name| listed(name).bytes);
        let total = sizes.sum::<Option<u64>>();
        self.check_space(total)?;
        let Repository { name, revision } = self.repository;
        let mut progress = Progress::new(&format!("`{name}@{revision}`, {what}"), total);
        for name in absent {
            tracing::info!("fetching `{name}` of `{}`", self.repository.name);
            self.file(name, &listed(name), &mut progress)?;
        }
        Ok(())
    }

    /// Fails where there is no room for so many bytes.
    fn check_space(&self, wanted: Option<u64>) -> Result<()> {
        match (wanted, self.store.free_bytes()) {
            (Some(wanted), Some(free)) if wanted > free => {
                let (wanted, free) = (DecimalBytes(wanted), DecimalBytes(free));
                let problem = format!("it needs {wanted}, and the disk of the cache has {free}");
                let advice = "make room, or point `HF_HUB_CACHE` at another disk";
                Err(self.repository.error(problem, advice))
            }
            _ => Ok(()),
        }
    }

    /// Fetches one file, unless its content is there under another name.
    fn file(&self, name: &str, listed: &Listed, progress: &mut Progress) -> Result<()> {
        let failed = |error: FetchError| self.repository.explain(&format!("`{name}`"), &error);
        let (digest, bytes) = match &listed.digest {
            Some(digest) => (digest.clone(), listed.bytes),
            None => {
                let announced = self.client.patiently(|| self.announced(name, listed));
                announced.map_err(failed)?
            }
        };
        let waiting = format!("another process is fetching `{name}`; waiting for it");
        let lock = self.store.lock(&digest, || progress.say(&waiting))?;
        let blob = self.store.blob(&digest);
        if !is_whole(&blob, &digest, bytes) {
            let (file, path) = self.store.partial(&digest, &lock)?;
            let mut partial = Partial {
                name,
                digest: &digest,
                bytes,
                file,
                progress,
            };
            let fetched = self.client.patiently(|| self.attempt(&mut partial));
            fetched.map_err(|error| {
                Store::tidy(&path, &lock);
                failed(error)
            })?;
            let placed = partial
                .file
                .sync_all()
                .and_then(|()| std::fs::rename(&path, &blob));
            placed.map_err(|error| failed(not_kept(error)))?;
        }
        progress.done(blob.metadata().map_or(0, |metadata| metadata.len()));
        self.store.link(&self.listing.commit, name, &digest)
    }

    /// Asks the hub what digest and, if it tells, how many bytes a file has to have, where its list does not say it.
    fn announced(&self, name: &str, listed: &Listed) -> Result<(Digest, Option<u64>), FetchError> {
        let answer = no_page(self.client.get(&self.address(name)?, Some("bytes=0-0"))?)?;
        self.check_commit(answer.origin_header("x-repo-commit"))?;
        let etag = answer
            .origin_header("x-linked-etag")
            .or_else(|| answer.origin_header("etag"));
        let untold = || FetchError::Wrong("the hub does not tell its digest (`etag`)".to_string());
        let etag = etag.ok_or_else(untold)?;
        let digits = etag.trim().trim_start_matches("W/").trim_matches('"');
        let digest = Digest::parse(digits).ok_or_else(|| {
            let etag = printable(etag);
            FetchError::Refused(format!("the hub answers with the `etag` `{etag}`, expected a digest of 40 or 64 hexadecimal digits"))
        })?;
        let linked = answer.origin_header("x-linked-size");
        let linked = linked.and_then(|size| size.trim().parse().ok());
        let bytes = listed.bytes.or(linked).or(answer.extent()?.total);
        Ok((digest, bytes))
    }

    fn address(&self, name: &str) -> Result<Address, FetchError> {
        let address = self
            .repository
            .file_address(self.endpoint, &self.listing.commit, name);
        Address::parse(&address).map_err(FetchError::Refused)
    }

    fn check_commit(&self, announced: Option<&str>) -> Result<(), FetchError> {
        match announced {
            Some(commit) if !commit.eq_ignore_ascii_case(&self.listing.commit) => {
                let commit = printable(commit);
                let problem = format!("the hub answers with a file of the commit `{commit}`");
                Err(FetchError::Wrong(problem))
            }
            _ => Ok(()),
        }
    }

    /// Fetches what a file lacks, and compares the whole. What is wrong is not left there.
    fn attempt(&self, partial: &mut Partial<'_>) -> Result<(), FetchError> {
        if partial.length()? > partial.most_bytes() {
            partial.discard()?;
        }
        let have = partial.length()?;
        if Some(have) != partial.bytes {
            let (answer, extent) = self.rest(partial, have)?;
            if extent.from != have && extent.from != 0 {
                partial.discard()?;
                return Err(FetchError::Wrong(format!(
                    "the server sends the file from byte {}, expected from {have}",
                    extent.from
                )));
            }
            let taken = partial.take(answer, extent);
            if let Err(FetchError::Wrong(_)) = taken {
                partial.discard()?;
            }
            taken?;
        }
        let compared = partial.compare();
        if compared.is_err() {
            partial.discard()?;
        }
        compared
    }

    fn rest(&self, partial: &Partial<'_>, have: u64) -> Result<(Answer, Extent), FetchError> {
        let range = (have > 0).then(|| format!("bytes={have}-"));
        let address = self.address(partial.name)?;
        let answer = match (self.client.get(&address, range.as_deref()), have) {
            // Nothing lies behind what is there, which may be all of it or another file.
            (Err(FetchError::Status { code, .. }), 1..) if code.as_u16() == 416 => {
                self.client.get(&address, None)?
            }
            (answer, _) => answer?,
        };
        let answer = no_page(answer)?;
        self.check_commit(answer.origin_header("x-repo-commit"))?;
        let extent = answer.extent()?;
        if let (Some(total), Some(bytes)) = (extent.total, partial.bytes)
            && total != bytes
        {
            return Err(FetchError::Wrong(format!(
                "the server sends {total} bytes, expected {bytes}"
            )));
        }
        Ok((answer, extent))
    }
}

/// A file on its way: what of it is there, and what it has to be.
struct Partial<'p> {
    name: &'p str,
    digest: &'p Digest,
    bytes: Option<u64>,
    file: File,
    progress: &'p mut Progress,
}

impl Partial<'_> {
    fn length(&self) -> Result<u64, FetchError> {
        Ok(self.file.metadata().map_err(not_kept)?.len())
    }

    fn discard(&self) -> Result<(), FetchError> {
        self.file.set_len(0).map_err(not_kept)
    }

    fn most_bytes(&self) -> u64 {
        let unannounced = match self.name.ends_with(".safetensors") {
            true => UNANNOUNCED_WEIGHTS,
            false => files::VOCABULARY_BYTES,
        };
        self.bytes.unwrap_or(unannounced)
    }

    /// Writes a body to where it belongs in the file.
    fn take(&mut self, answer: Answer, extent: Extent) -> Result<(), FetchError> {
        let mut there = extent.from;
        let room = self.most_bytes().saturating_sub(there);
        self.file.set_len(there).map_err(not_kept)?;
        self.file.seek(SeekFrom::Start(there)).map_err(not_kept)?;
        self.progress.at(there);
        answer.read(room, |part| {
            self.file.write_all(part).map_err(not_kept)?;
            there += part.len() as u64;
            self.progress.at(there);
            Ok(())
        })?;
        match (self.bytes, extent.total) {
            // A part that the server chose to end early; the rest follows.
            (Some(bytes), Some(_)) if there < bytes => Err(FetchError::Broken {
                problem: format!("it ends after {there} of {bytes} bytes"),
                arrived: there - extent.from,
            }),
            _ => Ok(()),
        }
    }

    fn compare(&mut self) -> Result<(), FetchError> {
        let length = self.length()?;
        if let Some(bytes) = self.bytes.filter(|bytes| *bytes != length) {
            let problem = format!("{length} bytes arrived, expected {bytes}");
            return Err(FetchError::Wrong(problem));
        }
        if length >= LONG_TO_CHECK {
            self.progress.say(&format!("checking `{}`", self.name));
        }
        match self.digest.is_of_file(&mut self.file) {
            Ok(true) => Ok(()),
            Ok(false) => Err(FetchError::Wrong(format!(
                "what arrived does not have the digest `{}`",
                self.digest.digits()
            ))),
            Err(error) => Err(not_kept(error)),
        }
    }
}

/// Whether a content is there with all that was announced of it.
fn is_whole(blob: &Path, digest: &Digest, bytes: Option<u64>) -> bool {
    let Ok(mut file) = files::open(blob) else {
        return false;
    };
    let length = file.metadata().map(|metadata| metadata.len()).ok();
    let fits = bytes.is_none() || length == bytes;
    fits && digest.is_of_file(&mut file).unwrap_or(false)
}

fn no_page(answer: Answer) -> Result<Answer, FetchError> {
    match answer.is_page() {
        true => Err(FetchError::Wrong(
            "a web page arrived in its place".to_string(),
        )),
        false => Ok(answer),
    }
}

fn not_kept(error: std::io::Error) -> FetchError {
    FetchError::Local(format!("it cannot be kept: {error}"))
}
