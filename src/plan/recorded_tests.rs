//! The keys of the project's own studies, as they were recorded: whoever has run them finds in the cache what they left.
//!
//! `tests/golden/stage_keys.json` holds them: a stage's parameters as they enter its key, and the key with content hashes of inputs in
//! which only what the file says is not made up. A change here throws away what people have computed: it is right only where a number was
//! wrong, and goes with a higher version of the kind. To record anew, run this test with `RECORD_KEYS=1`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::key::{key_of, key_parts};
use super::{Fetch, Study, open_study, stage_key};
use crate::cache::Key;
use crate::spec::{self, Document, Problems};
use crate::stages::Inputs;

const RECORDED: &str = "tests/golden/stage_keys.json";

fn document(path: &Path) -> Document {
    spec::load(path, &[]).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Parameters and key of every stage of every pipeline, by file and stage. What is not in the file is left out of the keys: no model or
/// prompt set is read.
fn of_pipelines() -> BTreeMap<String, Json> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut keys = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let study = Study::read(document(&path), "study", &mut Problems::default()).unwrap();
        for spec in &study.stages {
            let parts = key_parts(spec, &Inputs::default(), &BTreeMap::new());
            let entry = json!({
                "kind": parts["kind"], "version": parts["version"], "parameters": parts["parameters"],
                "key": key_of(&parts).to_string(),
            });
            keys.insert(format!("{file}: {}", spec.name), entry);
        }
    }
    keys
}

/// The keys of the quickstart with its model and prompts, each stage after made-up outputs of those it needs; none without the model.
fn of_quickstart() -> Option<BTreeMap<String, Json>> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !project.join("third_party/models").exists() {
        eprintln!("skipped: the quickstart's model is not here");
        return None;
    }
    let cache = tempfile::tempdir().unwrap();
    let document = document(&project.join("pipelines/quickstart.toml"));
    let opened = open_study(document, "quickstart", cache.path(), Fetch::Never);
    let opened = opened.unwrap_or_else(|error| panic!("{error}"));
    let output = |name: &str| (name.to_string(), Key::of(name.as_bytes()));
    let stages = &opened.study.stages;
    let outputs = stages.iter().map(|spec| output(&spec.name)).collect();
    let keys = stages.iter().map(|spec| {
        let key = stage_key(spec, &opened.inputs, &outputs).unwrap();
        (format!("quickstart: {}", spec.name), json!(key.to_string()))
    });
    Some(keys.collect())
}

#[test]
fn keys_are_as_recorded() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RECORDED);
    let mut keys = of_pipelines();
    let quickstart = of_quickstart();
    let has_model = quickstart.is_some();
    keys.extend(quickstart.into_iter().flatten());
    if std::env::var_os("RECORD_KEYS").is_some() {
        let lines: Vec<String> = keys
            .iter()
            .map(|(s, key)| format!("{}: {key}", json!(s)))
            .collect();
        std::fs::write(&path, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let recorded: BTreeMap<String, Json> = serde_json::from_str(&text).unwrap();
    for (stage, recorded) in &recorded {
        match keys.get(stage) {
            Some(now) => assert_eq!(now, recorded, "{stage}"),
            None => assert!(!has_model && stage.starts_with("quickstart: "), "{stage}"),
        }
    }
    let unrecorded = keys.keys().find(|stage| !recorded.contains_key(*stage));
    assert_eq!(unrecorded, None, "is not recorded");
}
