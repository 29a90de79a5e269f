//! Small JSON files that carry their own checksum: stage records, leases and the hashes of weight files.
//!
//! ```text
//! {"checksum":"<64 hex>","key":"<64 hex>","record":…}
//! ```
//!
//! The checksum is over the key and the *text* of the record, taken as it stands between fixed words. To
//! compare after parsing would depend on how numbers are printed again. A file that another tool has
//! reformatted therefore counts as damaged.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::files;

use super::atomic::write_atomically;
use super::layout::{FileKind, Layout};
use super::reading::Fault;
use super::{Cache, CacheError, Key};

impl Cache {
    /// The record stored under the stage key `key`; `None` if there is none, if it was damaged, or if it
    /// does not decode as a `T` (a record of another program version).
    pub fn stage_record<T: DeserializeOwned>(&self, key: &Key) -> Result<Option<T>, CacheError> {
        get(&self.layout, &self.layout.file(FileKind::Record, key), key)
    }

    /// Every sound stage record of this version, of any study; a damaged one is left for whoever asks for it by its key.
    pub fn stage_records<T: DeserializeOwned>(&self) -> Result<Vec<T>, CacheError> {
        let files = self.layout.files(FileKind::Record)?.into_iter();
        Ok(files
            .filter_map(|(key, path)| read_sound(&path, &key))
            .collect())
    }

    /// Stores `record` as JSON under the stage key `key`, replacing any record that is there. JSON has no
    /// NaN or infinity: a record must not hold them.
    ///
    /// # Errors
    /// [`CacheError::Encode`] if `record` has no JSON form.
    pub(crate) fn put_stage_record<T: Serialize>(
        &self,
        key: &Key,
        record: &T,
    ) -> Result<(), CacheError> {
        put(&self.layout.file(FileKind::Record, key), key, record)
    }
}

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

pub(super) fn get<T: DeserializeOwned>(
    layout: &Layout,
    path: &Path,
    key: &Key,
) -> Result<Option<T>, CacheError> {
    let Some(record) = layout.usable(path, read(path, key))? else {
        return Ok(None);
    };
    // Sound but of another shape: the next `put` replaces it, so it stays.
    let decoded = serde_json::from_slice(&record).inspect_err(|error| {
        tracing::warn!(
            "`{}` is a record of another version of `dial` ({error}); it is not used",
            path.display()
        );
    });
    Ok(decoded.ok())
}

/// The record in a file; none if it is gone, damaged, of another key or of another shape.
pub(super) fn read_sound<T: DeserializeOwned>(path: &Path, key: &Key) -> Option<T> {
    serde_json::from_slice(&read(path, key).ok()?).ok()
}

/// The text of the record in a file.
pub(super) fn read(path: &Path, key: &Key) -> Result<Vec<u8>, Fault> {
    let text = files::read(path, files::DATA_BYTES)?;
    let record = verified_record(&text, key).map(<[u8]>::to_vec);
    record.ok_or(Fault::Damaged("its content does not match its checksum"))
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
        let text = std::fs::read_to_string(cache.layout.file(FileKind::Record, &key)).unwrap();
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
        let path = cache.layout.file(FileKind::Record, &key);
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
        let path = cache.layout.file(FileKind::Record, &other);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::copy(cache.layout.file(FileKind::Record, &key), &path).unwrap();
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
