//! What a reader should know of a study's models and prompt sets before any number: nothing that stops a run, but nothing to pass over.

use crate::stages::Inputs;

use super::chat;
use super::study::Study;

/// The findings of every model and prompt set, in the order of their names, then those of prompts in their chat. Each begins with what it
/// speaks of.
pub(super) fn findings(study: &Study, inputs: &Inputs) -> Vec<String> {
    let of_models = inputs.models.iter().flat_map(|(name, model)| {
        let findings = model.findings().iter();
        findings.map(move |finding| format!("model `{name}`: {finding}"))
    });
    let of_prompts = inputs.prompts.iter().flat_map(|(name, set)| {
        let findings = set.findings().into_iter();
        findings.map(move |finding| format!("prompt set `{name}`: {finding}"))
    });
    let of_chats = chat::findings(study, inputs);
    of_models.chain(of_prompts).chain(of_chats).collect()
}
