//! Stage keys: {kind, version of its semantics, resolved parameters, content hashes of its inputs}.
//!
//! Names of stages, file paths, comments, the order of keys, other stages, the device and the number of threads are in no key.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::cache::Key;
use crate::model::{EVALUATION_VERSION, ModelHandle};
use crate::stages::{Inputs, Name};

use super::study::{StageSpec, Study};

fn hex(hash: blake3::Hash) -> String {
    hash.to_hex().to_string()
}

/// What a stage's key is made of, for the key and for telling people what changed, with null for what is not known yet. `outputs` are the
/// content hashes of the stages run so far, by name.
pub(super) fn key_parts(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Json {
    let needs = spec.stage.needs();
    let models = needs
        .models
        .iter()
        .map(|name| inputs.models.get(&name.value));
    let models: Vec<Option<&Arc<ModelHandle>>> = models.collect();
    let fingerprints = models
        .iter()
        .map(|model| Some(hex(model.as_ref()?.fingerprint)));
    let prompts = needs.prompts.iter();
    let prompts = prompts.map(|name| Some(hex(inputs.prompts.get(&name.value)?.content_hash())));
    let stages = needs.stages.iter();
    let stages = stages.map(|(name, _)| Some(outputs.get(&name.value)?.to_string()));
    let mut parts = json!({
        "kind": spec.kind.name,
        "version": spec.kind.version,
        "evaluation": EVALUATION_VERSION,
        "parameters": spec.stage.parameters(),
        "models": fingerprints.collect::<Json>(),
        "prompts": prompts.collect::<Json>(),
        "stages": stages.collect::<Json>(),
    });
    if !needs.files.is_empty() {
        let files = needs.files.iter();
        let hashes = files.map(|file| Some(hex(inputs.files.get(&file.value)?.hash)));
        parts["files"] = hashes.collect();
    }
    // The other ends are in the models' fingerprints.
    let ends = models
        .iter()
        .map(|model| model.map_or(&[][..], |model| model.further_ends()));
    let ends: Vec<&[u32]> = ends.collect();
    if needs.ends && ends.iter().any(|ends| !ends.is_empty()) {
        parts["further_ends"] = json!(ends);
    }
    // Every layer of models that differ in depth was once every layer of the shallowest.
    let depths = models.iter().flatten().map(|model| model.config().n_layers);
    let depths: Vec<usize> = depths.collect();
    if needs.depths && depths.windows(2).any(|pair| pair[0] != pair[1]) {
        parts["depths"] = json!(depths);
    }
    parts
}

/// Whether all inputs are known: nothing has a key before.
pub(super) fn are_known(parts: &Json) -> bool {
    let inputs = ["models", "prompts", "stages", "files"].map(|field| parts[field].as_array());
    !inputs.into_iter().flatten().flatten().any(Json::is_null)
}

/// The key of a stage's record; none when a stage it needs has not run.
#[cfg(test)]
pub(crate) fn stage_key(
    spec: &StageSpec,
    inputs: &Inputs,
    outputs: &BTreeMap<String, Key>,
) -> Option<Key> {
    let parts = key_parts(spec, inputs, outputs);
    are_known(&parts).then(|| key_of(&parts))
}

/// The key that is made of these parts.
pub(crate) fn key_of(parts: &Json) -> Key {
    Key::of(parts.to_string().as_bytes())
}

/// A short name for what a study asks: the same for equal stages, parameters, models and prompts.
pub(crate) fn study_key(study: &Study, inputs: &Inputs) -> Key {
    let names = |list: &[Name]| {
        list.iter()
            .map(|name| name.value.as_str())
            .collect::<Json>()
    };
    let stages = study.stages.iter().map(|spec| {
        let needs = spec.stage.needs();
        let stages: Vec<Name> = needs.stages.into_iter().map(|(name, _)| name).collect();
        json!({
            "name": spec.name,
            "kind": spec.kind.name,
            "version": spec.kind.version,
            "parameters": spec.stage.parameters(),
            "models": names(&needs.models),
            "prompts": names(&needs.prompts),
            "stages": names(&stages),
        })
    });
    let models = inputs.models.iter();
    let models = models.map(|(name, model)| (name.clone(), hex(model.fingerprint)));
    let prompts = inputs.prompts.iter();
    let prompts = prompts.map(|(name, set)| (name.clone(), hex(set.content_hash())));
    let mut parts = json!({
        "stages": stages.collect::<Json>(),
        "models": models.collect::<Json>(),
        "prompts": prompts.collect::<Json>(),
    });
    if !inputs.files.is_empty() {
        let files = inputs.files.values();
        parts["files"] = files.map(|file| hex(file.hash)).collect();
    }
    key_of(&parts)
}
