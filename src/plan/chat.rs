//! The chats that stages ask models in: whether the models can be spoken to that way, and what a reader should know of it.

use std::collections::BTreeSet;

use crate::model::{Chat, ModelHandle, SpecialTokens};
use crate::prompts::PromptSet;
use crate::spec::Problems;
use crate::stages::Inputs;

use super::study::{ModelSpec, StageSpec, Study};

/// Prompts that a sentence names; the others are counted.
const NAMED: usize = 3;

/// A model that stages ask in one chat, and what they ask it.
struct Asked<'s> {
    model: String,
    chat: Chat,
    /// The first of these stages, where the chat is not the study's.
    own: Option<&'s StageSpec>,
    sets: BTreeSet<String>,
}

/// What stages ask of each model: first in the study's chat, then in those of single stages.
fn asked<'s>(study: &Study, stages: impl IntoIterator<Item = &'s StageSpec>) -> Vec<Asked<'s>> {
    let mut all: Vec<Asked<'s>> = Vec::new();
    for spec in stages {
        let needs = spec.stage.needs();
        let Some(chat) = needs.chat else {
            continue;
        };
        let own = (chat != study.settings.chat).then_some(spec);
        for model in needs.models {
            let is_same = |asked: &&mut Asked<'_>| asked.model == model.value && asked.chat == chat;
            let sets = needs.prompts.iter().map(|set| set.value.clone());
            match all.iter_mut().find(is_same) {
                Some(asked) => asked.sets.extend(sets),
                None => all.push(Asked {
                    model: model.value,
                    chat: chat.clone(),
                    own,
                    sets: sets.collect(),
                }),
            }
        }
    }
    all.sort_by(|a, b| (a.own.is_some(), &a.model).cmp(&(b.own.is_some(), &b.model)));
    all
}

impl Asked<'_> {
    /// Where a study says it.
    fn section(&self) -> String {
        match self.own {
            None => "[chat]".to_string(),
            Some(spec) => format!("[stages.{}.chat]", spec.name),
        }
    }

    /// Of whose messages a sentence speaks.
    fn whose(&self) -> String {
        match self.own {
            None => String::new(),
            Some(spec) => format!(" of stage `{}`", spec.name),
        }
    }
}

/// Checks that every model has a template that takes the chats it is asked in and hands prompts on.
pub(super) fn check<'s>(
    study: &Study,
    stages: impl IntoIterator<Item = &'s StageSpec>,
    inputs: &Inputs,
    problems: &mut Problems,
) {
    for asked in asked(study, stages) {
        let spec = study.models.get(&asked.model);
        if let Some((spec, model)) = spec.zip(inputs.models.get(&asked.model)) {
            check_one(study, &asked, (spec, model), problems);
        }
    }
}

fn check_one(
    study: &Study,
    asked: &Asked<'_>,
    (spec, model): (&ModelSpec, &ModelHandle),
    problems: &mut Problems,
) {
    let chat = &asked.chat;
    let Err(error) = model.check_chat(chat) else {
        return;
    };
    let is_the_system_message =
        chat.system.is_some() && model.check_chat(&chat.but_system(None)).is_ok();
    let written = match asked.own {
        None => study
            .system_at
            .as_ref()
            .map(|at| (at, "this system message")),
        Some(stage) => Some((&stage.at, "the chat of this stage")),
    };
    let of_model = (&spec.source.at, "this model");
    if !is_the_system_message {
        let (at, label) = written.filter(|_| asked.own.is_some()).unwrap_or(of_model);
        problems.error_at(at, error.to_string()).label(label);
        return;
    }
    let (at, label) = written.unwrap_or(of_model);
    let message = format!("model `{}` takes no system message: {error}", model.name);
    problems.error_at(at, message).label(label).help(format!(
        "leave it out with `{} system = false`",
        asked.section()
    ));
}

/// What a reader should know of the prompts in their chats: text that templates insert, and control tokens in the study's own texts.
pub(super) fn findings(study: &Study, inputs: &Inputs) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    for asked in asked(study, &study.stages) {
        let name = &asked.model;
        let Some(model) = inputs.models.get(name) else {
            continue;
        };
        let chat = &asked.chat;
        let of_template = model.findings_in(chat).unwrap_or_default().into_iter();
        let mut told: Vec<String> = of_template
            .map(|finding| format!("model `{name}`: {finding}"))
            .collect();
        if chat.special_tokens == SpecialTokens::Parsed {
            let as_text = format!(
                "`{} special_tokens = \"text\"` makes it text",
                asked.section()
            );
            let sets = asked.sets.iter();
            told.extend(
                sets.filter_map(|set| spelt_out(set, inputs.prompts.get(set)?, model, &as_text)),
            );
            let system = chat.system.as_deref().unwrap_or_default();
            if let Some(token) = model.control_tokens(system).first() {
                told.push(format!(
                    "the system message{} spells out `{token}`, a control token of model `{name}`, which reads it as such; {as_text}",
                    asked.whose()
                ));
            }
        }
        // A template does with most chats the same.
        told.retain(|told| !findings.contains(told));
        findings.extend(told);
    }
    findings
}

/// The prompts of a set that spell out control tokens of a model.
fn spelt_out(name: &str, set: &PromptSet, model: &ModelHandle, as_text: &str) -> Option<String> {
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
        "prompt set `{name}`: a control token of model `{}` that a prompt spells out is read as such ({which}); {as_text}",
        model.name
    ))
}
