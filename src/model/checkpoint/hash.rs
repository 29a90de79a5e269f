//! Content hashes of what decides a model's numbers: its weight files, and the model as a whole.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::hub::check_by_name;
use super::hugging_face::SETTINGS;
use super::{Checkpoint, WeightFile};
use crate::files;
use crate::model::chat::ChatTemplate;
use crate::model::config::{Dtype, ModelConfig};
use crate::model::error::{ModelError, Result};
use crate::model::tokenizer::{Answers, Tokenizer};

/// Times of files may be as coarse as this.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What tells, short of reading it, that a weight file is the one that was hashed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    /// The file, with symbolic links resolved.
    #[serde(with = "crate::files::as_text")]
    pub(crate) path: PathBuf,
    #[serde(rename = "size_bytes")]
    pub(crate) size: u64,
    /// When its content was last changed, in nanoseconds since 1970.
    #[serde(rename = "mtime_ns")]
    pub(crate) modified_nanoseconds: u128,
    /// When anything of it was last changed, its times and names among that, in nanoseconds since 1970; 0 where the system does not tell.
    #[serde(rename = "ctime_ns", default)]
    pub(crate) changed_nanoseconds: i128,
    /// Its number in the file system; 0 where there is none.
    pub(crate) inode: u64,
}

impl FileStamp {
    pub(crate) fn of(path: &Path) -> Result<Self> {
        Self::new(path, path.metadata())
    }

    /// The stamp of a file that was opened at `path`.
    pub(super) fn new(path: &Path, metadata: io::Result<Metadata>) -> Result<Self> {
        let read = |error| ModelError::read(path, error);
        let metadata = metadata.map_err(read)?;
        Ok(Self {
            path: path.canonicalize().map_err(read)?,
            size: metadata.len(),
            modified_nanoseconds: modified_nanoseconds(&metadata),
            changed_nanoseconds: i128::from(metadata.ctime()) * 1_000_000_000
                + i128::from(metadata.ctime_nsec()),
            inode: metadata.ino(),
        })
    }

    /// Whether the file has the size, time and inode of the stamp.
    pub(super) fn is_of(&self, metadata: &Metadata) -> bool {
        self.size == metadata.len()
            && self.modified_nanoseconds == modified_nanoseconds(metadata)
            && self.inode == metadata.ino()
    }
}

/// 0 where the system does not tell, or for a time before 1970.
fn modified_nanoseconds(metadata: &Metadata) -> u128 {
    let modified = metadata.modified().ok();
    let since_1970 = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
    since_1970.map_or(0, |since| since.as_nanos())
}

/// What is known of a model's files from the last time that they were opened.
pub(crate) trait Memory {
    /// The hash of the weight file that bore this stamp.
    fn weight_hash(&self, file: &FileStamp) -> Option<blake3::Hash>;
    /// Remembers the hash of the weight file that bears this stamp.
    fn remember_weight_hash(&self, file: &FileStamp, hash: blake3::Hash);
    /// What the tokenizer of this content answered.
    fn answers(&self, tokenizer: &blake3::Hash) -> Option<Answers>;
}

/// Remembers nothing.
pub(crate) struct NoMemory;

impl Memory for NoMemory {
    fn weight_hash(&self, _: &FileStamp) -> Option<blake3::Hash> {
        None
    }

    fn remember_weight_hash(&self, _: &FileStamp, _: blake3::Hash) {}

    fn answers(&self, _: &blake3::Hash) -> Option<Answers> {
        None
    }
}

impl Checkpoint {
    /// The hash of the bytes of each weight file, as it is mapped, in the order of their names.
    pub(crate) fn file_hashes(&self, memory: &dyn Memory) -> Result<Vec<blake3::Hash>> {
        if let Some(recorded) = &self.recorded {
            return Ok(recorded.weight_hashes());
        }
        let files = self.files.iter();
        files.map(|file| file_hash(file, memory)).collect()
    }

    /// Name, bytes and hash of every file that it was read from, in the order of their names. `weights` are [`Checkpoint::file_hashes`].
    ///
    /// # Errors
    /// A file of settings that cannot be read any more.
    pub(crate) fn files_read(
        &self,
        weights: &[blake3::Hash],
    ) -> Result<Vec<(String, u64, blake3::Hash)>> {
        if let Some(recorded) = &self.recorded {
            return Ok(recorded.files_read());
        }
        let name = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            files::text_of(name)
        };
        let of_weights = self.files.iter().zip(weights);
        let of_weights = of_weights.map(|(file, hash)| (name(&file.path), file.stamp.size, *hash));
        let mut all: Vec<(String, u64, blake3::Hash)> = of_weights.collect();
        let settings = SETTINGS.iter().map(|name| self.path.join(name));
        for path in settings.filter(|path| path.exists()) {
            let content = files::read(&path, files::VOCABULARY_BYTES)
                .map_err(|error| ModelError::read(&path, error))?;
            let hash = blake3::hash(&content);
            all.push((name(&path), content.len() as u64, hash));
        }
        all.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(all)
    }

    /// The commit of the hub that it was opened at, where the study's `source` names the hub, or named it where it was recorded.
    pub(crate) fn commit(&self, source: &str) -> Option<String> {
        match &self.recorded {
            Some(recorded) => recorded.commit.clone(),
            None if source.starts_with("hf:") => self.path.file_name().map(files::text_of),
            None => None,
        }
    }

    /// The hash of everything that decides what the model computes and how a text reaches it. `weights` are
    /// [`Checkpoint::file_hashes`]; `template` is the chat template in use, whichever model it came from.
    pub(crate) fn fingerprint(
        weights: &[blake3::Hash],
        config: &ModelConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        dtype: Dtype,
    ) -> blake3::Hash {
        let mut all_weights = blake3::Hasher::new_derive_key("dial model weights v1");
        for hash in weights {
            all_weights.update(hash.as_bytes());
        }
        // The key order of a derived serialisation is that of the fields, and floats are written so that they
        // read back the same: this text is canonical.
        let config = serde_json::to_vec(config).unwrap_or_default();
        let template = template.map(|template| template.hash);
        let mut hasher = blake3::Hasher::new_derive_key("dial model fingerprint v1");
        for part in [
            all_weights.finalize().as_bytes().as_slice(),
            &config,
            tokenizer.hash.as_bytes(),
            template.as_ref().map_or(&[], |hash| hash.as_bytes()),
            dtype.name().as_bytes(),
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

fn file_hash(file: &WeightFile, memory: &dyn Memory) -> Result<blake3::Hash> {
    if let Some(hash) = memory.weight_hash(&file.stamp) {
        return Ok(hash);
    }
    let hash = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_rayon(&file.map[..]);
        hasher.finalize()
    };
    // The whole file is read now or never: the time to see whether it is what the hub's cache calls it.
    let (hash, named) = rayon::join(hash, || check_by_name(&file.stamp.path, &file.map[..]));
    file.check_unchanged()?;
    named?;
    if is_settled(&file.stamp) {
        memory.remember_weight_hash(&file.stamp, hash);
    }
    Ok(hash)
}

/// Whether a file was last changed long enough ago that a further change would show in its times.
fn is_settled(stamp: &FileStamp) -> bool {
    let modified = u64::try_from(stamp.modified_nanoseconds).unwrap_or(u64::MAX);
    let changed = u64::try_from(stamp.changed_nanoseconds).unwrap_or_default();
    let last = UNIX_EPOCH.checked_add(Duration::from_nanos(modified.max(changed)));
    let age = last.and_then(|last| last.elapsed().ok());
    age.is_some_and(|age| age >= SETTLED_AFTER)
}
