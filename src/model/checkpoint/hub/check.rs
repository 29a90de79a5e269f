//! Whether a file in the cache is what it is said to be.

use std::path::Path;

use crate::fetch::Digest;
use crate::files;
use crate::model::checkpoint::{WeightFile, safetensors_header};
use crate::model::error::{ModelError, Result};

/// Files up to this size are read as a whole whenever they are used; their digest costs little more.
const SMALL: u64 = 64 << 20;

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
