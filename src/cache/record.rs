//! Small JSON files that carry their own checksum: stage records, leases and the hashes of weight files.
//!
//! ```text
//! {"checksum":"<64 hex>","key":"<64 hex>","record":…}
//! ```
//!
//! The checksum is over the key and the *text* of the record, taken as it stands between fixed words. To
//! compare after parsing would depend on how numbers are printed again. A file that another tool has
//! reformatted therefore counts as damaged.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files;

use super::atomic::write_atomically;
use super::layout::Layout;
use super::reading::{is_gone, is_of_one_file, pass_over};
use super::{CacheError, Key};

const WRONG_CHECKSUM: &str = "its content does not match its checksum";

pub(super) fn put<T: Serialize>(path: &Path, key: &Key, record: &T) -> Result<(), CacheError> {
    write_atomically(path, encode(key, record)?.as_bytes())
}

/// The text of the file that holds `record` under `key`.
pub(super) fn encode<T: Serialize>(key: &Key, record: &T) -> Result<String, CacheError> {
    let record = serde_json::to_string(record).map_err(CacheError::Encode)?;
    let checksum = checksum(key, record.as_bytes());
    Ok(format!(
        "{{\"checksum\":\"{checksum}\",\"key\":\"{key}\",\"record\":{record}}}\n"
    ))
}

/// The record in a file's text; none if it is not whole, of another key or of another shape.
pub(super) fn decode<T: DeserializeOwned>(text: &[u8], key: &Key) -> Option<T> {
    serde_json::from_slice(verified_record(text, key)?).ok()
}

pub(super) fn get<T: DeserializeOwned>(
    layout: &Layout,
    path: &Path,
    key: &Key,
) -> Result<Option<T>, CacheError> {
    let text = match files::read(path, files::DATA_BYTES) {
        Ok(text) => text,
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) if is_of_one_file(&error) => {
            pass_over(path, &error);
            return Ok(None);
        }
        Err(error) => return Err(CacheError::io("read", path, error)),
    };
    let Some(record) = verified_record(&text, key) else {
        layout.set_aside(path, WRONG_CHECKSUM);
        return Ok(None);
    };
    // Sound but of another shape: the next `put` replaces it, so it stays.
    match serde_json::from_slice(record) {
        Ok(record) => Ok(Some(record)),
        Err(error) => {
            tracing::warn!(
                "`{}` is a record of another version of `dial` ({error}); it is not used",
                path.display()
            );
            Ok(None)
        }
    }
}

/// What is wrong with the record in a file; none for a sound one, or where there is no file.
pub(super) fn fault(path: &Path, key: &Key) -> Result<Option<&'static str>, CacheError> {
    match files::read(path, files::DATA_BYTES) {
        Ok(text) if verified_record(&text, key).is_some() => Ok(None),
        Ok(_) => Ok(Some(WRONG_CHECKSUM)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CacheError::io("read", path, error)),
    }
}

/// Every sound record on a shelf of folders, of this version; a damaged one is left for whoever asks for it by its key.
pub(super) fn all<T: DeserializeOwned>(folder: &Path) -> Result<Vec<T>, CacheError> {
    let mut records = Vec::new();
    for shelf in entries(folder)? {
        for path in entries(&shelf)? {
            let name = path.file_stem().and_then(|stem| stem.to_str());
            let (Some(key), Ok(text)) = (
                name.and_then(|name| name.parse::<Key>().ok()),
                files::read(&path, files::DATA_BYTES),
            ) else {
                continue;
            };
            records.extend(decode(&text, &key));
        }
    }
    Ok(records)
}

/// The paths in a folder, sorted; none in one that is not there.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, CacheError> {
    let found = match std::fs::read_dir(folder) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(CacheError::io("read", folder, error)),
    };
    let mut paths: Vec<PathBuf> = found.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn checksum(key: &Key, record: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(key.as_bytes()).update(record);
    hasher.finalize().into()
}

/// The record's JSON text inside the file's `text`, if the file is whole and belongs to `key`.
fn verified_record<'a>(text: &'a [u8], key: &Key) -> Option<&'a [u8]> {
    let rest = text.strip_prefix(b"{\"checksum\":\"")?;
    let (stated, rest) = rest.split_at_checked(64)?;
    let middle = format!("\",\"key\":\"{key}\",\"record\":");
    let record = rest
        .strip_prefix(middle.as_bytes())?
        .strip_suffix(b"}\n".as_slice())?;
    let actual = checksum(key, record).to_string();
    (stated == actual.as_bytes()).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::super::Cache;
    use super::*;

    #[derive(Clone, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
    struct Record {
        kind: String,
        artifacts: Vec<Key>,
        seconds: f64,
    }

    fn stored() -> (tempfile::TempDir, Cache, Key, Record) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let key = Key::of(b"stage");
        let record = Record {
            kind: "steer \"}\n".to_owned(),
            artifacts: vec![Key::of(b"a"), Key::of(b"b")],
            seconds: 1.5,
        };
        cache.put_stage_record(&key, &record).unwrap();
        (folder, cache, key, record)
    }

    #[test]
    fn records_round_trip_and_are_plain_json() {
        let (_folder, cache, key, record) = stored();
        assert_eq!(cache.stage_record(&key).unwrap(), Some(record.clone()));
        let text = std::fs::read_to_string(cache.layout.stage(&key)).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["key"], key.to_string());
        assert_eq!(json["record"]["kind"], record.kind);
    }

    #[test]
    fn a_later_record_replaces_an_earlier_one() {
        let (_folder, cache, key, mut record) = stored();
        record.seconds = 2.25;
        cache.put_stage_record(&key, &record).unwrap();
        assert_eq!(cache.stage_record(&key).unwrap(), Some(record));
    }

    #[test]
    fn every_truncation_and_every_flip_is_missing_and_moved_aside() {
        let (folder, cache, key, record) = stored();
        let path = cache.layout.stage(&key);
        let good = std::fs::read(&path).unwrap();
        let truncations = (0..good.len()).map(|length| good[..length].to_vec());
        let flips = (0..good.len()).map(|position| {
            let mut flipped = good.clone();
            flipped[position] ^= 1;
            flipped
        });
        let mut count = 0;
        for damage in truncations.step_by(64).chain(flips) {
            std::fs::write(&path, damage).unwrap();
            assert_eq!(cache.stage_record::<Record>(&key).unwrap(), None);
            assert!(!path.exists());
            count += 1;
        }
        let damaged = std::fs::read_dir(folder.path().join("v1/damaged")).unwrap();
        assert_eq!(damaged.count(), count);
        cache.put_stage_record(&key, &record).unwrap();
        assert_eq!(cache.stage_record(&key).unwrap(), Some(record));
    }

    #[test]
    fn a_record_under_another_key_is_not_believed() {
        let (_folder, cache, key, _) = stored();
        let other = Key::of(b"other stage");
        let path = cache.layout.stage(&other);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(cache.layout.stage(&key), &path).unwrap();
        assert_eq!(cache.stage_record::<Record>(&other).unwrap(), None);
        assert!(!path.exists());
    }

    #[test]
    fn a_record_of_another_shape_is_missing_and_stays() {
        let (_folder, cache, key, record) = stored();
        assert_eq!(cache.stage_record::<Vec<u32>>(&key).unwrap(), None);
        assert_eq!(cache.stage_record(&key).unwrap(), Some(record));
    }

    #[test]
    fn a_record_without_a_json_form_is_an_error() {
        let (_folder, cache, key, record) = stored();
        let pairs = std::collections::HashMap::from([((1, 2), 3)]);
        let error = cache.put_stage_record(&key, &pairs).unwrap_err();
        assert!(error.to_string().contains("JSON"), "{error}");
        assert_eq!(cache.stage_record(&key).unwrap(), Some(record));
    }
}
