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
pub(crate) fn key_parts(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Option<Json> {
    let parts = known_parts(spec, inputs, outputs);
    let known = |field: &str| {
        let list = parts[field].as_array();
        list.is_none_or(|list| list.iter().all(|hash| !hash.is_null()))
    };
    ["models", "prompts", "stages", "files"]
        .into_iter()
        .all(known)
        .then_some(parts)
}

/// The same with null for what is not known yet.
pub(super) fn known_parts(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Json {
    let needs = spec.stage.needs();
    let models = needs.models.iter().map(|name| {
        let model = inputs.models.get(&name.value);
        model.map(|m| m.fingerprint().to_hex().to_string())
    });
    let prompts = needs.prompts.iter().map(|name| {
        let set = inputs.prompts.get(&name.value);
        set.map(|p| p.content_hash().to_hex().to_string())
    });
    let stages = needs
        .stages
        .iter()
        .map(|(name, _)| outputs.get(&name.value).map(Key::to_string));
    let files = needs.files.iter().map(|file| {
        let content = inputs.files.get(&file.value);
        content.map(|content| content.hash.to_hex().to_string())
    });
    let mut parts = json!({
        "kind": spec.kind.name,
        "version": spec.kind.version,
        "evaluation": EVALUATION_VERSION,
        "parameters": spec.stage.parameters(),
        "models": models.collect::<Vec<_>>(),
        "prompts": prompts.collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
    });
    if !needs.files.is_empty() {
        parts["files"] = json!(files.collect::<Vec<_>>());
    }
    // The other ends are in the models' fingerprints.
    let ends = needs.models.iter().map(|name| {
        let model = inputs.models.get(&name.value);
        model.map_or(&[][..], |model| model.further_ends())
    });
    let ends: Vec<&[u32]> = ends.collect();
    if needs.ends && ends.iter().any(|ends| !ends.is_empty()) {
        parts["further_ends"] = json!(ends);
    }
    // Every layer of models that differ in depth was once every layer of the shallowest.
    let models = needs.models.iter();
    let depths = models.filter_map(|name| inputs.models.get(&name.value));
    let depths: Vec<usize> = depths.map(|model| model.config().n_layers).collect();
    if needs.depths && depths.windows(2).any(|pair| pair[0] != pair[1]) {
        parts["depths"] = json!(depths);
    }
    parts
}

/// The key of a stage's record; none when a stage it needs has not run.
#[cfg(test)]
pub(crate) fn stage_key(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Option<Key> {
    key_parts(spec, inputs, outputs).map(|parts| key_of(&parts))
}

/// The key of a stage's record, of what it is made of.
pub(crate) fn key_of(parts: &Json) -> Key {
    Key::of(parts.to_string().as_bytes())
}

/// A short name for what a study asks: the same for equal stages, parameters, models and prompts.
pub(crate) fn study_key(study: &Study, inputs: &Inputs) -> Key {
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
