//! The rules that every format shares: which fields a prompt must have, of which type, and that ids are unique.
//!
//! A format's reader hands over the fields of one prompt after the other and reports what only it can see (syntax, encoding, columns).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::error::{Problem, quoted, quoted_list};
use super::{DEFAULT_SPLIT, Prompt};

/// The names of the four fields with a meaning: id, text, split and category; of several, the first that is there counts. Of a field whose
/// whole column is missing, which has been reported once and is not repeated for every row, there are none.
pub(super) type Names = [&'static [&'static str]; 4];

/// The names under which an id is looked for.
pub(super) const ID_NAMES: &[&str] = &["id", "prompt_id", "uid"];

/// The names under which a prompt's text is looked for.
pub(super) const TEXT_NAMES: &[&str] = &["prompt", "text"];

/// The name under which the label of a prompt is looked for.
const LABEL_NAMES: &[&str] = &["label"];

/// What the rows of a file are.
#[derive(Clone, Copy, Default)]
pub(super) enum Rows {
    #[default]
    Prompts,
    /// Labels of prompts that are in another file; a label stands where else the text does.
    Labels,
}

/// A field of a prompt: the name that it has in the file, and its value.
type Found<'n> = Option<(&'n str, Value)>;

/// The prompts and problems of one file, so far.
#[derive(Default)]
pub(super) struct Collector {
    pub(super) prompts: Vec<Prompt>,
    pub(super) problems: Vec<Problem>,
    rows: Rows,
    first_line_of_id: HashMap<String, usize>,
}

impl Collector {
    pub(super) fn of(rows: Rows) -> Self {
        Collector {
            rows,
            ..Collector::default()
        }
    }

    /// The names of a row's fields, where those of a prompt's are these.
    pub(super) fn names(&self, of_prompts: Names) -> Names {
        match self.rows {
            Rows::Prompts => of_prompts,
            Rows::Labels => [ID_NAMES, LABEL_NAMES, &[], &[]],
        }
    }

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
    pub(super) fn add(&mut self, line: usize, mut fields: Map<String, Value>, names: &Names) {
        let [id, text, split, category] = names.map(|names| take_first(&mut fields, names));
        let id = self.id(line, names[0], id);
        let text = self.text(line, names[1], text);
        let split = self.optional(line, split, DEFAULT_SPLIT);
        let category = self.optional(line, category, "");
        if let (Some(id), Some(text), Some(split), Some(category)) = (id, text, split, category) {
            self.prompts.push(Prompt {
                id,
                text,
                split,
                category,
                other: fields,
                line,
            });
        }
    }

    fn id(&mut self, line: usize, names: &[&str], found: Found<'_>) -> Option<String> {
        let (name, id) = match found {
            None => (*names.first()?, String::new()),
            Some((name, Value::Number(number))) if !number.is_f64() => (name, number.to_string()),
            Some((name, value)) => {
                let id = self.string(line, name, value, "a string or an integer")?;
                (name, id)
            }
        };
        if id.trim().is_empty() {
            let (name, names) = (quoted(name), quoted_list(names));
            let message = format!("missing {name}; give each prompt one of {names}");
            self.report(line, message);
            return None;
        }
        if let Some(first_line) = self.first_line_of_id.get(&id) {
            let message = format!(
                "duplicate {} {}, first used in line {first_line}; give each prompt an id of its own",
                quoted(name),
                quoted(&id)
            );
            self.report(line, message);
            return None;
        }
        self.first_line_of_id.insert(id.clone(), line);
        Some(id)
    }

    fn text(&mut self, line: usize, names: &[&str], found: Found<'_>) -> Option<String> {
        let Some((name, value)) = found else {
            let (name, names) = (quoted(names.first()?), quoted_list(names));
            let message = format!("missing {name}; expected a text under one of {names}");
            self.report(line, message);
            return None;
        };
        let text = self.string(line, name, value, "a string")?;
        if text.trim().is_empty() {
            let name = quoted(name);
            let message = format!("empty {name}; write a text or remove the prompt");
            self.report(line, message);
            return None;
        }
        Some(text)
    }

    /// A field that may be left out or empty, which both mean `default`: a CSV cannot tell the two apart.
    fn optional(&mut self, line: usize, found: Found<'_>, default: &str) -> Option<String> {
        let text = match found {
            Some((name, value)) => self.string(line, name, value, "a string")?,
            None => String::new(),
        };
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

/// Takes the first of `names` that is there and not null out of the fields; nulls before it go too, since null means absent.
fn take_first<'n>(fields: &mut Map<String, Value>, names: &[&'n str]) -> Found<'n> {
    names.iter().find_map(|name| {
        let value = fields.remove(*name)?;
        (!value.is_null()).then_some((*name, value))
    })
}
