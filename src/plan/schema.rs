//! The JSON Schema of study files, from the declarations of their sections and of the kinds of stages.
//!
//! It is of draft 2020-12, and holds to what validators that know draft-07 only read alike (`$ref` stands alone, no `prefixItems`, no
//! `unevaluatedProperties`). A file that `extends` others may leave out what they say: nothing is required of it, and a stage of it that
//! does not say its kind may be of any.

use serde_json::{Map, Value as Json, json};

use crate::stages::chat::ChatSection;
use crate::stages::declare::{Parameter, fields_of, object, required};
use crate::stages::field_types::{one_or_many, with};
use crate::stages::{ImportSection, KINDS, Kind, NamedRule, ScoreRule};

use super::sections::{About, ModelEntry, PromptsEntry};

/// The JSON Schema of a study file.
pub(crate) fn schema() -> Json {
    let extends = described(
        one_or_many(&json!({ "type": "string" })),
        "Study files that this one adds to; what it says itself wins. Paths start from its folder.",
    );
    let models = section::<ModelEntry>("The models, by names of your choice.");
    let prompts = section::<PromptsEntry>("The prompt sets, by names of your choice.");
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A study for `dial`",
        "type": "object",
        "properties": {
            "extends": extends,
            "study": section::<About>("What the study is called and asks."),
            "models": map_of(&models),
            "prompts": map_of(&prompts),
            "chat": section::<ChatSection>("The messages around every prompt."),
            "score": with(
                section::<ScoreRule>("The score rules. What stands here itself is the default, `refused`: logsumexp of the logits of refusing first tokens − logsumexp of those of complying ones."),
                &json!({ "additionalProperties": section::<NamedRule>("A score rule of your own, which stages name in `read`.") }),
            ),
            "import": section::<ImportSection>(
                "Where published files lie, for stages of kind `import`."
            ),
            "stages": {
                "type": "object",
                "description": "What is done. A stage that is not named after its kind says it with `kind`.",
                "properties": by_kind(shown_as),
                "additionalProperties": { "type": "object", "properties": { "kind": kind_names() } },
            },
        },
        "additionalProperties": false,
        "if": { "required": ["extends"] },
        "then": { "properties": { "stages": { "additionalProperties": reference("part") } } },
        "else": {
            "properties": {
                "models": { "additionalProperties": { "required": required(&fields_of::<ModelEntry>()) } },
                "prompts": { "additionalProperties": { "required": required(&fields_of::<PromptsEntry>()) } },
                "stages": {
                    "minProperties": 1,
                    "properties": by_kind(named_after),
                    "additionalProperties": { "allOf": [{ "required": ["kind"] }, reference("whole")] },
                },
            },
            "required": ["stages"],
        },
        "$defs": definitions(),
    })
}

fn definitions() -> Json {
    let mut definitions = by_kind(|kind| {
        let mut schema = object(&(kind.fields)());
        schema["properties"]["kind"] = kind_names();
        described(schema, kind.about)
    });
    definitions.insert("whole".to_string(), of_kind_said(whole));
    let any: Vec<Json> = KINDS.iter().map(|kind| reference(kind.name)).collect();
    let part = json!({
        "if": { "required": ["kind"] },
        "then": of_kind_said(|kind| reference(kind.name)),
        "else": { "anyOf": any },
    });
    definitions.insert("part".to_string(), part);
    definitions.into()
}

/// A section has no required fields but in files that stand by themselves.
fn section<T: Parameter>(about: &str) -> Json {
    described(object(&fields_of::<T>()), about)
}

/// A table whose keys are names that the user chooses.
fn map_of(entry: &Json) -> Json {
    json!({ "type": "object", "description": entry["description"], "additionalProperties": entry })
}

/// All that a stage of a kind must have.
fn whole(kind: &Kind) -> Json {
    json!({ "allOf": [reference(kind.name), { "required": required(&(kind.fields)()) }] })
}

/// A stage that is named after its kind, as editors show it; what is right and wrong in it is said elsewhere.
fn shown_as(kind: &Kind) -> Json {
    json!({ "anyOf": [reference(kind.name), {}] })
}

/// A stage that is named after a kind, and of that kind unless it says another.
fn named_after(kind: &Kind) -> Json {
    json!({ "if": { "required": ["kind"] }, "then": reference("whole"), "else": whole(kind) })
}

/// A stage that is of the kind it says.
fn of_kind_said(stage: fn(&Kind) -> Json) -> Json {
    let is = |kind: &Kind| json!({ "required": ["kind"], "properties": { "kind": { "const": kind.name } } });
    let said = KINDS
        .iter()
        .map(|kind| json!({ "if": is(kind), "then": stage(kind) }));
    let known = json!({ "properties": { "kind": kind_names() } });
    json!({ "allOf": std::iter::once(known).chain(said).collect::<Vec<_>>() })
}

fn kind_names() -> Json {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    json!({ "enum": names, "description": "The kind of stage; its name where left out." })
}

fn by_kind(schema: fn(&Kind) -> Json) -> Map<String, Json> {
    let named = |kind: &&Kind| (kind.name.to_string(), schema(kind));
    KINDS.iter().map(named).collect()
}

fn reference(definition: &str) -> Json {
    json!({ "$ref": format!("#/$defs/{definition}") })
}

fn described(schema: Json, about: &str) -> Json {
    with(schema, &json!({ "description": about }))
}
