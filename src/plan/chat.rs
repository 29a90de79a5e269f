//! The section `[chat]`: how it is read, whether the models can be spoken to that way, and what a reader should know of it.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json};

use crate::model::{Chat, ModelHandle, SpecialTokens, reserved_variable};
use crate::prompts::PromptSet;
use crate::spec::{Decode, Location, Node, Problems, Value};
use crate::stages::Inputs;
use crate::stages::declare::Table;

use super::sections::{ChatSection, TemplateArguments};
use super::study::{ModelSpec, Study};

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
        chat.system = system.text;
        system.at
    });
    (chat, system_at)
}

/// Variables for the template: any values, under names that the program does not set itself.
pub(super) fn decode_arguments(node: &Node, problems: &mut Problems) -> Option<Map<String, Json>> {
    let Some(table) = node.as_table() else {
        problems.mismatch(node, &TemplateArguments::expected());
        return None;
    };
    let mut arguments = Map::new();
    for (key, node) in table.iter() {
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
            problems
                .error_at(
                    &key.at,
                    format!("template argument `{name}` cannot be given: {why}"),
                )
                .label("remove it");
        }
        if let Some(value) = json(node, problems) {
            arguments.insert(name.to_string(), value);
        }
    }
    Some(arguments)
}

/// A value as templates and keys take it.
fn json(node: &Node, problems: &mut Problems) -> Option<Json> {
    Some(match &node.value {
        Value::String(text) => Json::from(text.as_str()),
        Value::Integer(number) => Json::from(*number),
        Value::Boolean(flag) => Json::from(*flag),
        Value::Float(number) if number.is_finite() => Json::from(*number),
        Value::Float(_) => {
            problems.mismatch(node, "a finite number");
            return None;
        }
        Value::Array(items) => {
            let items = items.iter().map(|item| json(item, problems));
            Json::Array(
                items
                    .collect::<Vec<_>>()
                    .into_iter()
                    .collect::<Option<_>>()?,
            )
        }
        Value::Table(table) => {
            let entries = table
                .iter()
                .map(|(key, node)| Some((key.name.clone(), json(node, problems)?)));
            let entries: Vec<Option<(String, Json)>> = entries.collect();
            Json::Object(entries.into_iter().collect::<Option<_>>()?)
        }
    })
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
    let message = format!("model `{}` takes no system message: {error}", model.name());
    let diagnostic = match &study.system_at {
        Some(at) => problems.error_at(at, message),
        None => problems.error_at(&spec.source.at, message),
    };
    match &study.system_at {
        Some(_) => diagnostic.label("this system message"),
        None => diagnostic.label("this model"),
    };
    diagnostic.help("leave it out with `[chat] system = false`");
}

/// What a reader should know of the prompts in their chat: text that templates insert, and control tokens in the study's own texts.
pub(super) fn findings(study: &Study, inputs: &Inputs) -> Vec<String> {
    let chat = &study.settings.chat;
    let mut pairs: BTreeSet<(String, String)> = BTreeSet::new();
    let mut models: BTreeSet<String> = BTreeSet::new();
    for needs in study.stages.iter().map(|spec| spec.stage.needs()) {
        for model in &needs.models {
            models.insert(model.value.clone());
            let sets = needs.prompts.iter();
            pairs.extend(sets.map(|set| (model.value.clone(), set.value.clone())));
        }
    }
    let mut findings = Vec::new();
    for name in &models {
        let Some(model) = inputs.models.get(name) else {
            continue;
        };
        let of_template = model.findings_in(chat).unwrap_or_default();
        findings.extend(
            of_template
                .into_iter()
                .map(|finding| format!("model `{name}`: {finding}")),
        );
        if chat.special_tokens == SpecialTokens::Parsed {
            let sets = pairs.iter().filter(|(model, _)| model == name);
            let sets = sets.filter_map(|(_, set)| Some((set, inputs.prompts.get(set)?)));
            findings.extend(sets.filter_map(|(name, set)| spelt_out(name, set, model)));
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
        model.name()
    ))
}
