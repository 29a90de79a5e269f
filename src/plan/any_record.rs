//! What the records of a cache are of: what a stage left, or what was drawn of a run's tables.

use serde::{Deserialize, Serialize};

use crate::cache::Key;

use super::record::{ArtifactRecord, StageRecord};

/// What was drawn of a run's tables, for the next run that has the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DrawnRecord {
    /// The keys of the run's stages.
    pub(crate) drawn_of: Vec<Key>,
    /// The figures' files, and what the page shows.
    pub(crate) files: Vec<ArtifactRecord>,
    /// When it was made, as RFC 3339 in UTC.
    pub(crate) created: String,
}

/// Any record of the cache.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "WrittenRecord")]
pub(crate) enum Record {
    Stage(StageRecord),
    Drawn(DrawnRecord),
}

impl Record {
    pub(crate) fn objects(&self) -> Box<dyn Iterator<Item = &Key> + '_> {
        match self {
            Record::Stage(record) => Box::new(record.objects()),
            Record::Drawn(record) => Box::new(record.files.iter().map(|file| &file.key)),
        }
    }

    /// When it was made, as RFC 3339 in UTC; empty where it does not say.
    pub(crate) fn created(&self) -> &str {
        match self {
            Record::Stage(record) => &record.created,
            Record::Drawn(record) => &record.created,
        }
    }

    /// Seconds that it took; drawing takes too few to count.
    pub(crate) fn seconds(&self) -> f64 {
        match self {
            Record::Stage(record) => record.seconds,
            Record::Drawn(_) => 0.0,
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum WrittenRecord {
    Drawn(DrawnRecord),
    /// As 0.1 wrote what was drawn: a stage's record with files.
    DrawnBefore {
        key_parts: DrawnOf,
        files: Vec<ArtifactRecord>,
        created: String,
    },
    Stage(StageRecord),
}

#[derive(Deserialize)]
struct DrawnOf {
    drawn_of: Vec<Key>,
}

impl From<WrittenRecord> for Record {
    fn from(written: WrittenRecord) -> Self {
        match written {
            WrittenRecord::Stage(record) => Record::Stage(record),
            WrittenRecord::Drawn(record) => Record::Drawn(record),
            WrittenRecord::DrawnBefore {
                key_parts,
                files,
                created,
            } => Record::Drawn(DrawnRecord {
                drawn_of: key_parts.drawn_of,
                files,
                created,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As the cache of an earlier dial holds it: a stage's record without tables, of the kind `report`.
    #[test]
    fn what_0_1_drew_is_no_stages_and_keeps_its_files() {
        let (stage, figure) = (Key::of(b"stage"), Key::of(b"figure"));
        let drawn = json!({
            "tables": [], "directions": [], "files": [{ "file": "steer.gap.svg", "key": figure }], "findings": [],
            "key_parts": { "kind": "report", "drawn_of": [stage] }, "seconds": 0.0, "cells": 0, "packs": [], "weights": [],
            "stage": "", "created": "2026-01-02T03:04:05Z",
        });
        let Ok(Record::Drawn(record)) = serde_json::from_value(drawn) else {
            panic!("it is another's")
        };
        assert_eq!(record.drawn_of, [stage]);
        let now = serde_json::to_value(&record).unwrap();
        let Ok(again @ Record::Drawn(_)) = serde_json::from_value(now) else {
            panic!("it is another's")
        };
        assert_eq!(again.objects().collect::<Vec<_>>(), [&figure]);
        assert!(again.created().starts_with("2026"));
        let of_stage = StageRecord {
            key_parts: json!({ "kind": "steer" }),
            ..StageRecord::default()
        };
        let of_stage = serde_json::to_value(of_stage).unwrap();
        assert!(matches!(
            serde_json::from_value(of_stage),
            Ok(Record::Stage(record)) if record.kind() == "steer"
        ));
    }
}
