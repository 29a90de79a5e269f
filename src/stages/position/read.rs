//! Reads a selection from a study, and says how one is written.

use serde_json::{Value as Json, json};

use crate::spec::{Decode, Fields, Node, Problems, Value, choice};
use crate::stages::declare::FieldType;

use super::Selection;
use super::part::{Part, WORDS};

const EXPECTED: &str = "an index, `\"last\"`, `\"instruction_end\"`, `\"post_instruction\"`, `\"all\"`, `\"generated\"`, a window such as `\"-5..\"`, a list of \
     these, or a table of what to `include` and to `exclude`";

fn part(node: &Node, problems: &mut Problems) -> Option<Part> {
    let part = match &node.value {
        Value::Integer(index) => Some(Part::Index(*index)),
        Value::String(text) => Part::parsed(text),
        _ => None,
    };
    match part {
        None => match node.as_str().filter(|text| !text.contains("..")) {
            Some(_) => choice(node, problems, &WORDS.map(|word| (word, Part::All))),
            None => problems.mismatch(node, EXPECTED),
        },
        Some(window) if window.is_empty() => {
            let message = format!("`{}` is an empty window", node.at.field());
            problems
                .error_at(&node.at, message)
                .label("runs to just before its end");
            None
        }
        part => part,
    }
}

fn parts(node: &Node, problems: &mut Problems) -> Option<Vec<Part>> {
    let mut parts = match &node.value {
        Value::Array(items) if items.is_empty() => {
            let message = format!("`{}` is an empty list", node.at.field());
            problems
                .error_at(&node.at, message)
                .label("selects nothing");
            return None;
        }
        Value::Array(items) => {
            let parts: Vec<Option<Part>> = items.iter().map(|item| part(item, problems)).collect();
            parts.into_iter().collect::<Option<Vec<Part>>>()?
        }
        _ => vec![part(node, problems)?],
    };
    parts.sort_unstable();
    parts.dedup();
    Some(parts)
}

impl Decode for Selection {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if node.as_table().is_none() {
            let include = parts(node, problems)?;
            return Some(Selection {
                include,
                exclude: Vec::new(),
            });
        }
        let mut fields = Fields::new(node, problems)?;
        let include = fields.required::<Parts>("include");
        let exclude = fields.optional::<Parts>("exclude");
        fields.finish();
        Some(Selection {
            include: include?.0,
            exclude: exclude.map_or(Vec::new(), |parts| parts.0),
        })
    }

    fn expected() -> String {
        EXPECTED.into()
    }
}

/// The parts on one side of a selection.
struct Parts(Vec<Part>);

impl Decode for Parts {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        parts(node, problems).map(Self)
    }

    fn expected() -> String {
        EXPECTED.into()
    }
}

impl FieldType for Selection {
    fn schema() -> Json {
        let part = json!({ "anyOf": [
            { "type": "integer" },
            { "enum": WORDS },
            { "type": "string", "pattern": r"^\s*(-?[0-9]+\s*\.\.\s*(-?[0-9]+)?|\.\.\s*-?[0-9]+)\s*$" },
        ] });
        let parts = json!({ "anyOf": [part, { "type": "array", "items": part, "minItems": 1 }] });
        let sides = json!({
            "type": "object", "properties": { "include": parts, "exclude": parts }, "required": ["include"], "additionalProperties": false,
        });
        json!({ "anyOf": [part, { "type": "array", "items": part, "minItems": 1 }, sides] })
    }

    /// The last token by its number. Others by their words: what is computed of them starts from the stream of their layer.
    fn key(&self) -> Json {
        match self.is_last() {
            true => (-1).into(),
            false => self.to_string().into(),
        }
    }
}
