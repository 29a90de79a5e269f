//! Stage keys: {kind, version of its semantics, resolved parameters, content hashes of its inputs}.
//!
//! Names of stages, file paths, comments, the order of keys, other stages, the device and the number of threads are in no key.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::cache::Key;
use crate::model::EVALUATION_VERSION;
use crate::stages::Inputs;

use super::study::{StageSpec, Study};

/// What a stage's key is made of, for the key and for telling people what changed. `outputs` are the content hashes of the stages run
/// so far, by name; none when a stage it needs is not among them.
pub fn key_parts(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Option<Json> {
    let needs = spec.stage.needs();
    let models: Option<Vec<String>> = needs
        .models
        .iter()
        .map(|name| {
            inputs
                .models
                .get(&name.value)
                .map(|m| m.fingerprint().to_hex().to_string())
        })
        .collect();
    let prompts: Option<Vec<String>> = needs
        .prompts
        .iter()
        .map(|name| {
            inputs
                .prompts
                .get(&name.value)
                .map(|p| p.content_hash().to_hex().to_string())
        })
        .collect();
    let stages: Option<Vec<String>> = needs
        .stages
        .iter()
        .map(|(name, _)| outputs.get(&name.value).map(Key::to_string))
        .collect();
    let files: Option<Vec<String>> = needs
        .files
        .iter()
        .map(|file| {
            let content = inputs.files.get(&file.value)?;
            Some(content.hash.to_hex().to_string())
        })
        .collect();
    let mut parts = json!({
        "kind": spec.kind.name,
        "version": spec.kind.version,
        "evaluation": EVALUATION_VERSION,
        "parameters": spec.stage.parameters(),
        "models": models?,
        "prompts": prompts?,
        "stages": stages?,
    });
    if !needs.files.is_empty() {
        parts["files"] = json!(files?);
    }
    Some(parts)
}

/// The key of a stage's record; none when a stage it needs has not run.
pub fn stage_key(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Option<Key> {
    key_parts(spec, inputs, outputs).map(|parts| key_of(&parts))
}

/// The key of a stage's record, of what it is made of.
pub fn key_of(parts: &Json) -> Key {
    Key::of(parts.to_string().as_bytes())
}

/// A short name for what a study asks: the same for equal stages, parameters, models and prompts.
pub fn study_key(study: &Study, inputs: &Inputs) -> Key {
    let stages: Vec<Json> = study
        .stages
        .iter()
        .map(|spec| {
            let needs = spec.stage.needs();
            let of = |list: &[crate::stages::Name]| {
                list.iter().map(|n| n.value.clone()).collect::<Vec<_>>()
            };
            json!({
                "name": spec.name,
                "kind": spec.kind.name,
                "version": spec.kind.version,
                "parameters": spec.stage.parameters(),
                "models": of(&needs.models),
                "prompts": of(&needs.prompts),
                "stages": needs.stages.iter().map(|(n, _)| n.value.clone()).collect::<Vec<_>>(),
            })
        })
        .collect();
    let models: BTreeMap<&String, String> = inputs
        .models
        .iter()
        .map(|(n, m)| (n, m.fingerprint().to_hex().to_string()))
        .collect();
    let prompts: BTreeMap<&String, String> = inputs
        .prompts
        .iter()
        .map(|(n, p)| (n, p.content_hash().to_hex().to_string()))
        .collect();
    let mut parts = json!({ "stages": stages, "models": models, "prompts": prompts });
    if !inputs.files.is_empty() {
        let files = inputs.files.values();
        let hashes: Vec<String> = files.map(|f| f.hash.to_hex().to_string()).collect();
        parts["files"] = json!(hashes);
    }
    Key::of(parts.to_string().as_bytes())
}
