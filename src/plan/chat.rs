//! The section `[chat]`: how it is read, whether the models can be spoken to that way, and what a reader should know of it.

use serde_json::{Map, Value as Json};

use crate::model::{Chat, ModelHandle, SpecialTokens, reserved_variable};
use crate::prompts::PromptSet;
use crate::spec::{Decode, Location, Node, Problems, Value};
use crate::stages::Inputs;
use crate::stages::declare::Table;

use super::sections::{ChatSection, TemplateArguments};
use super::study::{ModelSpec, Study, models_with_prompts};

/// Prompts that a sentence names; the others are counted.
const NAMED: usize = 3;

/// The settings, and where the system message is written.
pub(super) fn decode(node: &Node, problems: &mut Problems) -> (Chat, Option<Location>) {
    let mut chat = Chat::default();
    let Some(Table(section)) = Table::<ChatSection>::decode(node, problems) else {
        return (chat, None);
    };
    chat.template_arguments = section.template_arguments.0;
    chat.special_tokens = section.special_tokens;
    let system_at = section.system.map(|system| {
        chat.system = system.value.0;
        system.at
    });
    (chat, system_at)
}

/// Variables for the template: any values, under names that the program does not set itself.
pub(super) fn decode_arguments(node: &Node, problems: &mut Problems) -> Option<Map<String, Json>> {
    let Some(table) = node.as_table() else {
        return problems.mismatch(node, &TemplateArguments::expected());
    };
    for (key, _) in table.iter() {
        let name = key.name.as_str();
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty()
            || name.starts_with(|c: char| c.is_ascii_digit())
            || !name.chars().all(is_name)
        {
            problems
                .error_at(&key.at, format!("no template can have a variable `{name}`"))
                .label("expected letters, digits and `_`");
        } else if let Some(why) = reserved_variable(name) {
            let message = format!("template argument `{name}` cannot be given: {why}");
            problems.error_at(&key.at, message).label("remove it");
        }
    }
    check_finite(node, problems);
    let arguments = serde_json::to_value(node).ok()?;
    arguments.as_object().cloned()
}

/// Says of every number in a value that it should be finite, where it is not.
fn check_finite(node: &Node, problems: &mut Problems) {
    match &node.value {
        Value::Float(number) if !number.is_finite() => {
            problems.mismatch::<()>(node, "a finite number");
        }
        Value::Array(items) => items.iter().for_each(|item| check_finite(item, problems)),
        Value::Table(table) => table
            .iter()
            .for_each(|(_, node)| check_finite(node, problems)),
        _ => {}
    }
}

/// Checks that a model has a template that takes this chat and hands the prompt on.
pub(super) fn check(study: &Study, spec: &ModelSpec, model: &ModelHandle, problems: &mut Problems) {
    let chat = &study.settings.chat;
    let Err(error) = model.check_chat(chat) else {
        return;
    };
    let is_the_system_message =
        chat.system.is_some() && model.check_chat(&chat.but_system(None)).is_ok();
    if !is_the_system_message {
        problems
            .error_at(&spec.source.at, error.to_string())
            .label("this model");
        return;
    }
    let (at, label) = match &study.system_at {
        Some(at) => (at, "this system message"),
        None => (&spec.source.at, "this model"),
    };
    let message = format!("model `{}` takes no system message: {error}", model.name);
    problems
        .error_at(at, message)
        .label(label)
        .help("leave it out with `[chat] system = false`");
}

/// What a reader should know of the prompts in their chat: text that templates insert, and control tokens in the study's own texts.
pub(super) fn findings(study: &Study, inputs: &Inputs) -> Vec<String> {
    let chat = &study.settings.chat;
    let mut findings = Vec::new();
    for (name, sets) in models_with_prompts(&study.stages) {
        let Some(model) = inputs.models.get(&name) else {
            continue;
        };
        let of_template = model.findings_in(chat).unwrap_or_default();
        let of_template = of_template.into_iter();
        findings.extend(of_template.map(|finding| format!("model `{name}`: {finding}")));
        if chat.special_tokens == SpecialTokens::Parsed {
            let sets = sets.iter();
            findings.extend(sets.filter_map(|set| spelt_out(set, inputs.prompts.get(set)?, model)));
            let system = chat.system.as_deref().unwrap_or_default();
            if let Some(token) = model.control_tokens(system).first() {
                findings.push(format!(
                    "the system message spells out `{token}`, a control token of model `{name}`, which reads it as such; {AS_TEXT}"
                ));
            }
        }
    }
    findings
}

const AS_TEXT: &str = "`[chat] special_tokens = \"text\"` makes it text";

/// The prompts of a set that spell out control tokens of a model.
fn spelt_out(name: &str, set: &PromptSet, model: &ModelHandle) -> Option<String> {
    let spelling = set.prompts.iter().filter_map(|prompt| {
        let token = *model.control_tokens(&prompt.text).first()?;
        Some(format!("`{}` (`{token}`)", prompt.id))
    });
    let spelling: Vec<String> = spelling.collect();
    let named = spelling[..spelling.len().min(NAMED)].join(", ");
    let which = match spelling.len() {
        0 => return None,
        count @ 1..=NAMED => format!("{count} of {}: {named}", set.prompts.len()),
        count => format!("{count} of {}, first {named}", set.prompts.len()),
    };
    Some(format!(
        "prompt set `{name}`: a control token of model `{}` that a prompt spells out is read as such ({which}); {AS_TEXT}",
        model.name
    ))
}
