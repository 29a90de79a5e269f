//! Content hashes of what decides a model's numbers: its weight files, and the model as a whole.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::Checkpoint;
use crate::model::chat::ChatTemplate;
use crate::model::config::{Dtype, ModelConfig};
use crate::model::error::ModelError;
use crate::model::tokenizer::Tokenizer;

/// What tells, short of reading it, that a weight file is the one that was hashed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// The file, with symbolic links resolved.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last changed, in nanoseconds since 1970.
    pub modified_nanoseconds: u128,
    /// Its number in the file system; 0 where there is none.
    pub inode: u64,
}

impl FileStamp {
    /// The stamp of the file at `path` as it is now.
    ///
    /// # Errors
    /// The file does not exist or may not be read.
    pub fn of(path: &Path) -> Result<Self, ModelError> {
        let read = |error| ModelError::read(path, error);
        let metadata = path.metadata().map_err(read)?;
        let since_1970 = metadata
            .modified()
            .map_err(read)?
            .duration_since(UNIX_EPOCH);
        Ok(Self {
            path: path.canonicalize().map_err(read)?,
            size: metadata.len(),
            modified_nanoseconds: since_1970.map(|d| d.as_nanos()).unwrap_or(0),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&metadata),
            #[cfg(not(unix))]
            inode: 0,
        })
    }
}

/// A memory of weight files that were hashed before.
pub trait HashShortcut {
    /// The hash of the file that bore this stamp, if known.
    fn get(&self, file: &FileStamp) -> Option<blake3::Hash>;
    /// Remembers the hash of the file that bears this stamp.
    fn put(&self, file: &FileStamp, hash: blake3::Hash);
}

/// Remembers nothing: every file is read.
pub struct NoShortcut;

impl HashShortcut for NoShortcut {
    fn get(&self, _: &FileStamp) -> Option<blake3::Hash> {
        None
    }

    fn put(&self, _: &FileStamp, _: blake3::Hash) {}
}

impl Checkpoint {
    /// The hash of the bytes of all weight files, in the order of [`Checkpoint::files`]; their names do not enter.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn weights_hash(&self, shortcut: &dyn HashShortcut) -> Result<blake3::Hash, ModelError> {
        let mut hasher = blake3::Hasher::new_derive_key("dial model weights v1");
        for path in self.files() {
            hasher.update(file_hash(path, shortcut)?.as_bytes());
        }
        Ok(hasher.finalize())
    }

    /// The hash of everything that decides what the model computes and how a text reaches it. `weights` is
    /// [`Checkpoint::weights_hash`]; `template` is the chat template in use, whichever model it came from.
    pub fn fingerprint(
        weights: blake3::Hash,
        config: &ModelConfig,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        dtype: Dtype,
    ) -> blake3::Hash {
        // The key order of a derived serialisation is that of the fields, and floats are written so that they
        // read back the same: this text is canonical.
        let config = serde_json::to_vec(config).unwrap_or_default();
        let template = template.map(ChatTemplate::hash);
        let mut hasher = blake3::Hasher::new_derive_key("dial model fingerprint v1");
        for part in [
            weights.as_bytes().as_slice(),
            &config,
            tokenizer.hash().as_bytes(),
            template.as_ref().map_or(&[], |hash| hash.as_bytes()),
            dtype.name().as_bytes(),
        ] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize()
    }
}

fn file_hash(path: &Path, shortcut: &dyn HashShortcut) -> Result<blake3::Hash, ModelError> {
    let before = FileStamp::of(path)?;
    if let Some(hash) = shortcut.get(&before) {
        return Ok(hash);
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_mmap_rayon(path)
        .map_err(|error| ModelError::read(path, error))?;
    let hash = hasher.finalize();
    // A file that changed while it was read must not be remembered under either stamp.
    if FileStamp::of(path)? == before {
        shortcut.put(&before, hash);
    }
    Ok(hash)
}
