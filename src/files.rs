//! Reading what people and other programs put on the disk: regular files only, and none longer than such a file can sensibly be.
//!
//! A pipe or a device given as an input would make the program wait for ever, an endless file would take all memory. Every file that comes
//! from outside is opened here; what the program wrote itself (the cache, the runs) may be read here, too.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, percent_encode};

/// Bytes that a file of settings may have: a study, a configuration, a template.
pub(crate) const SETTINGS_BYTES: u64 = 16 << 20;
/// Bytes that a tokenizer, an index of weights or the header of a weight file may have; the largest known has 35 MB.
pub(crate) const VOCABULARY_BYTES: u64 = 256 << 20;
/// Bytes that a file of prompts or of published results may have.
pub(crate) const DATA_BYTES: u64 = 1 << 30;

/// Whether a name from outside names a file in the folder that it is joined to, and none elsewhere.
pub(crate) fn is_plain_name(name: &str) -> bool {
    !name.contains(['/', '\\', '\0']) && !name.starts_with('.')
}

/// Opens a regular file for reading; never waits for whoever may write into a pipe.
///
/// # Errors
/// As [`File::open`], and what is no regular file, with what it is.
pub(crate) fn open(path: &Path) -> Result<File> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(match kind.is_dir() {
        true => Error::new(ErrorKind::IsADirectory, "it is a folder, not a file"),
        false => Error::new(
            ErrorKind::InvalidInput,
            "it is a pipe or a device, expected a regular file",
        ),
    })
}

/// The content of a regular file of at most `most_bytes`.
///
/// # Errors
/// As [`open`], and [`ErrorKind::FileTooLarge`] for a longer file, of which no more than that is read.
pub(crate) fn read(path: &Path, most_bytes: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    let mut file = open(path)?.take(most_bytes.saturating_add(1));
    file.read_to_end(&mut content)?;
    if content.len() as u64 > most_bytes {
        let message = format!(
            "it is longer than {}, which is the most that such a file may have",
            megabytes(most_bytes)
        );
        return Err(Error::new(ErrorKind::FileTooLarge, message));
    }
    Ok(content)
}

/// The text of a regular file of at most `most_bytes`.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] for bytes that are not UTF-8.
pub(crate) fn read_text(path: &Path, most_bytes: u64) -> Result<String> {
    String::from_utf8(read(path, most_bytes)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("it is not UTF-8 text: byte {at} begins no character");
        Error::new(ErrorKind::InvalidData, message)
    })
}

/// Begins the text form of a path that is not UTF-8.
const AS_BYTES: &str = "bytes:";
/// Beside the bytes that are not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// A path as text that [`path_of`] turns back, for records and manifests, whose strings are UTF-8 where paths need not be: the path
/// itself, or `bytes:` and its bytes, those beyond printable ASCII percent-encoded.
pub(crate) fn text_of(path: impl AsRef<OsStr>) -> String {
    let path = path.as_ref();
    match path.to_str() {
        Some(text) if !text.starts_with(AS_BYTES) => text.to_string(),
        _ => format!("{AS_BYTES}{}", percent_encode(path.as_bytes(), ENCODED)),
    }
}

/// The path that a text of [`text_of`] stands for; of any other text the path of that name.
pub(crate) fn path_of(text: &str) -> PathBuf {
    match text.strip_prefix(AS_BYTES) {
        Some(encoded) => OsString::from_vec(percent_decode_str(encoded).collect()).into(),
        None => text.into(),
    }
}

/// Paths in JSON, as [`text_of`]; the library refuses those that are not UTF-8.
pub(crate) mod as_text {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::text_of(path))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(super::path_of(&String::deserialize(from)?))
    }

    /// Several, or one that may be absent.
    pub(crate) fn each<'p, S: Serializer>(
        paths: impl IntoIterator<Item = &'p PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.into_iter().map(super::text_of))
    }

    pub(crate) fn optional<S: Serializer>(
        path: &Option<PathBuf>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => to.serialize_some(&super::text_of(path)),
            None => to.serialize_none(),
        }
    }
}

fn megabytes(bytes: u64) -> String {
    match bytes >> 20 {
        0 => format!("{bytes} bytes"),
        whole => format!("{whole} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_are_read_and_nothing_waits() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let name = std::ffi::CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: makes a named pipe; the name outlives the call.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        for (path, what) in [
            (pipe.as_path(), "it is a pipe or a device"),
            (Path::new("/dev/zero"), "it is a pipe or a device"),
            (folder.path(), "it is a folder"),
        ] {
            let error = read(path, 10).unwrap_err().to_string();
            assert!(error.starts_with(what), "{error}");
        }
    }

    #[test]
    fn a_file_may_be_as_long_as_said_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_text(&path, 10).unwrap(), "0123456789");
        let error = read(&path, 9).unwrap_err();
        assert!(error.to_string().contains("longer than 9 bytes"), "{error}");
    }

    #[test]
    fn every_path_has_a_text_that_gives_it_back() {
        for bytes in [
            &b"/data/a b.toml"[..],
            "/data/caf\u{e9}".as_bytes(),
            b"/data/caf\xE9/100%",
            b"bytes:a%41",
            b"\xFF\n%",
        ] {
            let path = Path::new(OsStr::from_bytes(bytes));
            assert_eq!(path_of(&text_of(path)), path);
        }
        assert_eq!(text_of("a/caf\u{e9}"), "a/caf\u{e9}");
        let odd = OsStr::from_bytes(b"/caf\xE9/100%");
        assert_eq!(text_of(odd), "bytes:/caf%E9/100%25");
        assert_eq!(path_of("bytes:50%, %4"), Path::new("50%, %4"));
    }

    #[test]
    fn a_plain_name_leads_nowhere_else() {
        for name in [
            "",
            "steer",
            "layer3.hook_resid_pre.seed0.safetensors",
            "β-2",
        ] {
            assert!(is_plain_name(name), "{name}");
        }
        for name in ["..", ".", "../a", "/a", "a/b", "a\\b", ".hidden", "a\0b"] {
            assert!(!is_plain_name(name), "{name}");
        }
    }

    #[test]
    fn text_is_utf8() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, b"ab\xFF").unwrap();
        let error = read_text(&path, 10).unwrap_err();
        assert!(error.to_string().contains("byte 2"), "{error}");
    }
}
