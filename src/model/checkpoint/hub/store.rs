//! One repository's folder in the hub's cache, and whether a file in it is what it is said to be. Nothing is written but in it and among its
//! locks, whatever links lie there.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::fetch::Digest;
use crate::files;
use crate::model::checkpoint::{WeightFile, safetensors_header};
use crate::model::error::{ModelError, Result};

const REFERENCE_BYTES: u64 = 4096;
/// Files up to this size are read as a whole whenever they are used; their digest costs little more.
const SMALL: u64 = 64 << 20;

pub(super) struct Store {
    cache: PathBuf,
    /// `models--org--name`
    name: String,
}

/// Held while a blob is written, against whoever would write it, too; `huggingface_hub` holds the same. None on file systems without locks.
pub(super) struct BlobLock(Option<File>);

impl Store {
    pub(super) fn new(cache: &Path, repository: &str) -> Self {
        Self {
            cache: cache.to_path_buf(),
            name: format!("models--{}", repository.replace('/', "--")),
        }
    }

    fn root(&self) -> PathBuf {
        self.cache.join(&self.name)
    }

    /// The commit that a revision stands for: the one recorded for it, or itself.
    pub(super) fn commit_of(&self, revision: &str) -> String {
        let reference = self.root().join("refs").join(revision);
        let text = files::read_text(&reference, REFERENCE_BYTES).unwrap_or_default();
        let commit = text.trim();
        match Digest::parse(commit) {
            Some(_) => commit.to_string(),
            None => revision.to_string(),
        }
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root().join("blobs").join(digest.digits())
    }

    pub(super) fn prepare(&self, commit: &str) -> Result<()> {
        make_folder(&self.root(), &["blobs"])?;
        make_folder(&self.root(), &["snapshots", commit])?;
        Ok(())
    }

    /// Records the commit that a revision stands for.
    pub(super) fn record(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let mut parts: Vec<&str> = ["refs"].into_iter().chain(revision.split('/')).collect();
        let name = parts.pop().unwrap_or_default();
        let folder = make_folder(&self.root(), &parts)?;
        let write = || -> io::Result<()> {
            let mut file = temporary().tempfile_in(&folder)?;
            file.write_all(commit.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(folder.join(name))?;
            Ok(())
        };
        write().map_err(|error| not_written(&folder.join(name), &error))
    }

    /// Lets a commit have a content under a name, in place of what is there under it.
    pub(super) fn link(&self, commit: &str, name: &str, digest: &Digest) -> Result<()> {
        let folder = self.snapshot(commit);
        let target = Path::new("../../blobs").join(digest.digits());
        let made = temporary()
            .make_in(&folder, |path| symlink(&target, path))
            .and_then(|link| Ok(link.persist(folder.join(name)).map(drop)?));
        made.map_err(|error| not_written(&folder.join(name), &error))
    }

    /// Waits for the lock of a content; `wait` is called once if it has to be waited for.
    pub(super) fn lock(&self, digest: &Digest, wait: impl FnOnce()) -> Result<BlobLock> {
        let folder = make_folder(&self.cache, &[".locks", &self.name])?;
        let path = folder.join(format!("{}.lock", digest.digits()));
        let open = || {
            let file = open_or_create(&path)?;
            match file.try_lock() {
                Ok(()) => Ok(BlobLock(Some(file))),
                Err(TryLockError::WouldBlock) => {
                    wait();
                    file.lock().map(|()| BlobLock(Some(file)))
                }
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {
                    Ok(BlobLock(None))
                }
                Err(TryLockError::Error(error)) => Err(error),
            }
        };
        open().map_err(|error| not_written(&path, &error))
    }

    /// The file that a content is written to until it is whole; what an earlier attempt left in it is kept.
    pub(super) fn partial(&self, digest: &Digest, lock: &BlobLock) -> Result<(File, PathBuf)> {
        let name = match lock.0 {
            Some(_) => format!("{}.incomplete", digest.digits()),
            // Nobody is kept out: a file of this process alone.
            None => format!("{}.{}.incomplete", digest.digits(), std::process::id()),
        };
        let path = self.root().join("blobs").join(name);
        let open = || {
            let file = open_or_create(&path)?;
            let metadata = file.metadata()?;
            // Another name of the file may lie outside.
            match metadata.is_file() && metadata.nlink() == 1 {
                true => Ok(file),
                false => Err(io::Error::other("it is not a file of its own")),
            }
        };
        let file = open().or_else(|_| {
            std::fs::remove_file(&path).or_else(|error| match error.kind() {
                ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            open()
        });
        let file = file.map_err(|error| not_written(&path, &error))?;
        Ok((file, path))
    }

    /// Removes a partial file that no later attempt could go on from.
    pub(super) fn tidy(path: &Path, lock: &BlobLock) {
        let is_empty = path.metadata().is_ok_and(|metadata| metadata.len() == 0);
        if is_empty || lock.0.is_none() {
            // What stays is in nobody's way.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Bytes that are free where contents lie, where the system tells.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        crate::machine::free_bytes(&self.root().join("blobs"))
    }
}

/// Whether the file at `path` has a length and a digest, as far as that can be told at once: weights by their own header, other files by
/// their digest, and weights by it, too, where they are in doubt. The digest is `expected`, or the name of the blob that the path leads to.
/// A file that is not there, or cannot be read, is not judged here.
pub(super) fn is_sound(path: &Path, expected: Option<&Digest>, bytes: Option<u64>) -> bool {
    let opened = files::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
    let Ok((length, mut file)) = opened else {
        return true;
    };
    if bytes.is_some_and(|bytes| bytes != length) {
        return false;
    }
    let named = digest_in_name(path);
    let Some(digest) = expected.or(named.as_ref()) else {
        return true;
    };
    let is_other = named.as_ref().is_some_and(|named| named != digest);
    let is_weights = path.extension().is_some_and(|end| end == "safetensors");
    let looks_whole = match is_weights {
        true => WeightFile::open(path).is_ok_and(|file| safetensors_header::is_whole(&file.map)),
        false => length > SMALL,
    };
    (looks_whole && !is_other) || digest.is_of_file(&mut file).unwrap_or(true)
}

fn digest_in_name(path: &Path) -> Option<Digest> {
    let real = path.canonicalize().ok()?;
    let is_blob = real.parent()?.file_name()? == "blobs";
    let name = real.file_name()?.to_str()?;
    is_blob.then(|| Digest::parse(name)).flatten()
}

/// Fails where a weight file from the hub's cache does not have the digest that it is named by. Reads the whole of it, once it is read
/// anyway.
pub(in crate::model::checkpoint) fn check_by_name(path: &Path, content: &[u8]) -> Result<()> {
    match digest_in_name(path) {
        Some(digest) if !digest.is_of_bytes(content) => Err(ModelError::invalid(
            path,
            "it is damaged: its content does not have the digest that it is named by; delete it and run again, and it is fetched again",
        )),
        _ => Ok(()),
    }
}

/// The file itself, never what a link leads to, and without waiting for what is no file.
fn open_or_create(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
}

/// Names for files in the making, of the mode of an ordinary file: a cache may be shared.
fn temporary() -> tempfile::Builder<'static, 'static> {
    use std::os::unix::fs::PermissionsExt;
    let mut builder = tempfile::Builder::new();
    builder
        .prefix(".tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666));
    builder
}

/// Makes the folder `root/part/part…`, one part after the other, so that no link on the way leads it out of `root`.
fn make_folder(root: &Path, parts: &[&str]) -> Result<PathBuf> {
    let in_root = |error| not_written(root, &error);
    std::fs::create_dir_all(root).map_err(in_root)?;
    let real_root = root.canonicalize().map_err(in_root)?;
    let mut folder = root.to_path_buf();
    for part in parts {
        folder.push(part);
        match std::fs::create_dir(&folder) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(not_written(&folder, &error));
            }
            _ => {}
        }
        let real = folder.canonicalize();
        let real = real.map_err(|error| not_written(&folder, &error))?;
        if !real.starts_with(&real_root) {
            return Err(ModelError::invalid(
                &folder,
                format!(
                    "it leads to `{}`, out of the repository's folder; remove the link",
                    real.display()
                ),
            ));
        }
    }
    Ok(folder)
}

fn not_written(path: &Path, error: &io::Error) -> ModelError {
    let error = match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; point `HF_HUB_CACHE` at a folder that may be written")
        }
        _ => error.to_string(),
    };
    ModelError::invalid(path, format!("cannot be written: {error}"))
}
