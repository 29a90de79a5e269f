//! The rules that every format shares: which fields a prompt must have, of which type, and that ids are unique.
//!
//! A format's reader hands over one [`Draft`] per prompt and reports what only it can see (syntax, encoding, columns).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::error::{Problem, quoted, quoted_list};
use super::{DEFAULT_SPLIT, Prompt};

/// The names under which an id is looked for; the first one present is it.
pub(super) const ID_NAMES: &[&str] = &["id", "prompt_id", "uid"];

/// The names under which a prompt's text is looked for.
pub(super) const TEXT_NAMES: &[&str] = &["prompt", "text"];

/// One of the four fields with a meaning, as a format's reader found it.
pub(super) enum Field {
    /// The prompt does not have it.
    Absent,
    /// Its whole column is missing, which has been reported once and is not repeated for every row.
    Reported,
    /// Its name in the file and its value.
    Present(String, Value),
}

/// A prompt as read, not yet checked.
pub(super) struct Draft {
    pub(super) line: usize,
    pub(super) id: Field,
    pub(super) text: Field,
    pub(super) split: Field,
    pub(super) category: Field,
    pub(super) other: Map<String, Value>,
}

/// The prompts and problems of one file, so far.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) prompts: Vec<Prompt>,
    pub(super) problems: Vec<Problem>,
    first_line_of_id: HashMap<String, usize>,
}

impl Collector {
    pub(super) fn report(&mut self, line: usize, message: String) {
        self.report_at(line, None, message);
    }

    /// Notes a problem in a line, at a column where that is known.
    pub(super) fn report_at(&mut self, line: usize, column: Option<usize>, message: String) {
        self.problems.push(Problem {
            line: Some(line),
            column,
            message,
        });
    }

    /// Checks a prompt and keeps it if it is sound; all that is wrong with it is reported.
    pub(super) fn add(&mut self, draft: Draft) {
        let line = draft.line;
        let id = self.id(line, draft.id);
        let text = self.text(line, draft.text);
        let split = self.optional(line, draft.split, DEFAULT_SPLIT);
        let category = self.optional(line, draft.category, "");
        if let (Some(id), Some(text), Some(split), Some(category)) = (id, text, split, category) {
            self.prompts.push(Prompt {
                id,
                text,
                split,
                category,
                other: draft.other,
                line,
            });
        }
    }

    fn id(&mut self, line: usize, field: Field) -> Option<String> {
        let (name, id) = match field {
            Field::Reported => return None,
            Field::Absent => (ID_NAMES[0].to_owned(), String::new()),
            Field::Present(name, Value::Number(number)) if !number.is_f64() => {
                (name, number.to_string())
            }
            Field::Present(name, value) => {
                let id = self.string(line, &name, value, "a string or an integer")?;
                (name, id)
            }
        };
        if id.trim().is_empty() {
            let names = quoted_list(ID_NAMES);
            let message = format!("missing {}; give each prompt one of {names}", quoted(&name));
            self.report(line, message);
            return None;
        }
        if let Some(first_line) = self.first_line_of_id.get(&id) {
            let message = format!(
                "duplicate {} {}, first used in line {first_line}; give each prompt an id of its own",
                quoted(&name),
                quoted(&id)
            );
            self.report(line, message);
            return None;
        }
        self.first_line_of_id.insert(id.clone(), line);
        Some(id)
    }

    fn text(&mut self, line: usize, field: Field) -> Option<String> {
        match field {
            Field::Reported => None,
            Field::Absent => {
                let names = quoted_list(TEXT_NAMES);
                let message = format!("missing `prompt`; expected a text under one of {names}");
                self.report(line, message);
                None
            }
            Field::Present(name, value) => {
                let text = self.string(line, &name, value, "a string")?;
                if !text.trim().is_empty() {
                    return Some(text);
                }
                let name = quoted(&name);
                self.report(
                    line,
                    format!("empty {name}; write a text or remove the prompt"),
                );
                None
            }
        }
    }

    /// A field that may be left out or empty, which both mean `default`: a CSV cannot tell the two apart.
    fn optional(&mut self, line: usize, field: Field, default: &str) -> Option<String> {
        let Field::Present(name, value) = field else {
            return Some(default.to_owned());
        };
        let text = self.string(line, &name, value, "a string")?;
        Some(match text.trim().is_empty() {
            true => default.to_owned(),
            false => text,
        })
    }

    fn string(&mut self, line: usize, name: &str, value: Value, expected: &str) -> Option<String> {
        if let Value::String(text) = value {
            return Some(text);
        }
        let (name, found) = (quoted(name), quoted(&value.to_string()));
        let message = format!("wrong type of {name}: {found}; expected {expected}");
        self.report(line, message);
        None
    }
}
