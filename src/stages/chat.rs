//! The messages around every prompt: what the section `[chat]` of a study says of them, and `[stages.NAME.chat]` for one stage.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::model::{Chat, SpecialTokens, reserved_variable};
use crate::spec::{Choice, Decode, Location, Node, Problems, Spanned, Value};

use super::declare::{Field, Table, declared, fields_of, parameters};
use super::field_types::plain;

parameters! {
    /// The section `[chat]`.
    pub(crate) struct ChatSection {
        /// The system message, `You are a helpful assistant.` where left out; `false` for none, so that the template's own default applies.
        system: Option<Spanned<System>>,
        /// Variables that chat templates see beside their own, e.g. `{ enable_thinking = false }`.
        template_arguments: TemplateArguments = Map::new(),
        /// How control tokens are read that a prompt spells out itself.
        special_tokens: SpecialTokens = "parsed",
    }
}

impl Choice for SpecialTokens {
    const CHOICES: &'static [(&'static str, Self, &'static str)] = &[
        ("parsed", Self::Parsed, "as the control tokens they spell"),
        ("text", Self::Text, "as text like any other"),
    ];
}

/// The system message, none to leave it out.
#[derive(Serialize)]
pub(crate) struct System(pub(crate) Option<String>);

impl Decode for System {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Boolean(false) => Some(Self(None)),
            Value::String(text) => Some(Self(Some(text.clone()))),
            _ => problems.mismatch(node, &Self::expected()),
        }
    }

    fn expected() -> String {
        "a string, or `false` to leave the system message out".into()
    }
}

/// Variables for chat templates.
#[derive(Serialize)]
pub(crate) struct TemplateArguments(pub(crate) Map<String, Json>);

impl Decode for TemplateArguments {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        decode_arguments(node, problems).map(Self)
    }

    fn expected() -> String {
        "a table, e.g. `{ enable_thinking = false }`".into()
    }
}

plain! {
    System: { "anyOf": [{ "type": "string" }, { "const": false }] },
    TemplateArguments: { "type": "object" },
}

/// The chat that a section makes of another, of which all stays that the section leaves out; and where its system message is written.
pub(crate) fn decode(node: &Node, of: &Chat, problems: &mut Problems) -> (Chat, Option<Location>) {
    let mut chat = of.clone();
    let Some(Table(section)) = Table::<ChatSection>::decode(node, problems) else {
        return (chat, None);
    };
    let says = |field: &str| node.as_table().is_some_and(|t| t.get(field).is_some());
    if says("template_arguments") {
        chat.template_arguments = section.template_arguments.0;
    }
    if says("special_tokens") {
        chat.special_tokens = section.special_tokens;
    }
    let system_at = section.system.map(|system| {
        chat.system = system.value.0;
        system.at
    });
    (chat, system_at)
}

/// What a stage is told of its system message.
const NO_SYSTEM: &str =
    "The system message; `false` for none, so that the template's own default applies.";

/// The field in which a stage says another chat.
pub(super) fn field() -> Field {
    let mut inner = fields_of::<ChatSection>();
    // What a stage leaves out is the study's.
    for field in &mut inner {
        field.default = None;
        if field.name == "system" {
            field.about = NO_SYSTEM.to_string();
        }
    }
    Field {
        schema: super::declare::object(&inner),
        ..Field::optional::<Table<ChatSection>>(
            "chat",
            "Another chat than the study's, for this stage alone; what it leaves out is as in `[chat]`.",
        )
    }
}

/// Variables for the template: any values, under names that the program does not set itself.
fn decode_arguments(node: &Node, problems: &mut Problems) -> Option<Map<String, Json>> {
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
