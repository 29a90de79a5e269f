//! The rules that every format shares: which fields a prompt must have, of which type, and that ids are unique.
//!
//! A format's reader hands over the fields of one prompt after the other and reports what only it can see (syntax, encoding, columns).

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::error::{Problem, quoted, quoted_list};
use super::json_text::{clear_marks, no_number};
use super::{DEFAULT_SPLIT, Prompt};

/// The names of the four fields with a meaning: id, text, split and category; of several, the first that is there counts. Of a field whose
/// whole column is missing, which has been reported once and is not repeated for every row, there are none.
pub(super) type Names = [Vec<String>; 4];

/// The names that a format has for the four fields.
pub(super) type Usual = [&'static [&'static str]; 4];

/// The names under which an id is looked for.
pub(super) const ID_NAMES: &[&str] = &["id", "prompt_id", "uid"];

/// The names under which a prompt's text is looked for.
pub(super) const TEXT_NAMES: &[&str] = &["prompt", "text"];

/// The name under which the label of a prompt is looked for.
const LABEL_NAMES: &[&str] = &["label"];

/// Digits of a hash that an id has which is made here.
const ID_DIGITS: usize = 12;

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
    /// What a reader should know of how the file was read.
    pub(super) notes: Vec<String>,
    pub(super) columns: Columns,
    rows: Rows,
    first_line_of_id: HashMap<String, usize>,
    /// The places in `prompts` of those that have no id, where they may get one.
    without_id: Vec<usize>,
    /// Whether the next row may hold marks in place of what is no JSON number.
    pub(super) is_marked: bool,
    /// The fields without a meaning that hold what is no JSON number.
    without_number: Vec<String>,
    /// Whether the next row is a text alone, to which an id is given.
    is_text_alone: bool,
    /// Whether it was said what to do where a file has no field of prompts.
    is_hinted: bool,
    /// Which of the columns that are said were in a row at least.
    seen: [bool; 4],
}

impl Collector {
    pub(super) fn of(rows: Rows, columns: &Columns) -> Self {
        Collector {
            rows,
            columns: columns.clone(),
            ..Collector::default()
        }
    }

    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The names of a row's fields, where those of a prompt's are these.
    pub(super) fn names(&self, of_prompts: Usual) -> Names {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        match self.rows {
            Rows::Prompts => self.columns.names(of_prompts.map(owned)),
            Rows::Labels => [ID_NAMES, LABEL_NAMES, &[], &[]].map(owned),
        }
    }

    pub(super) fn report_file(&mut self, message: String) {
        self.problems.push(Problem::of_file(message));
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
        for (seen, (_, said)) in self.seen.iter_mut().zip(self.columns.said()) {
            *seen |= said.is_some_and(|name| fields.contains_key(name));
        }
        if std::mem::take(&mut self.is_marked) && !self.has_numbers(line, &mut fields, names) {
            return;
        }
        let is_there = |name: &String| fields.get(name).is_some_and(|value| !value.is_null());
        let without_text = match names[1].iter().any(is_there) {
            true => String::new(),
            false => self.without_text(&fields),
        };
        let [id, text, split, category] =
            names.each_ref().map(|names| take_first(&mut fields, names));
        let gets_id = id.is_none() && (self.columns.makes_ids() || self.is_text_alone);
        let id = match gets_id {
            true => Some(String::new()),
            false => self.id(line, &names[0], id),
        };
        let text = self.text(line, &names[1], text, &without_text);
        let split = self.group(line, split, self.columns.split.is_some());
        let split = split.map(|split| match split.is_empty() {
            true => DEFAULT_SPLIT.to_owned(),
            false => split,
        });
        let category = self.group(line, category, self.columns.category.is_some());
        if let (Some(id), Some(text), Some(split), Some(category)) = (id, text, split, category) {
            if gets_id {
                self.without_id.push(self.prompts.len());
            }
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

    fn id(&mut self, line: usize, names: &[String], found: Found<'_>) -> Option<String> {
        let (name, id) = match found {
            None => (names.first()?.as_str(), String::new()),
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

    /// Checks a prompt that is its text and nothing else.
    pub(super) fn add_text(&mut self, line: usize, text: &str, names: &Names) {
        if let Rows::Labels = self.rows {
            let found = quoted(text);
            let message = format!("found {found}; expected a row with an `id` and a `label`");
            return self.report(line, message);
        }
        let name = names[1].iter().take(1).cloned();
        let fields = name.map(|name| (name, Value::from(text))).collect();
        self.is_text_alone = true;
        self.add(line, fields, names);
        self.is_text_alone = false;
    }

    /// What there is in a row without a text, and once, as long as no row had one, what to do about it.
    fn without_text(&mut self, fields: &Map<String, Value>) -> String {
        let found: Vec<&String> = fields.keys().collect();
        let found = match found.is_empty() {
            true => String::new(),
            false => format!(
                " (fields found, separated by commas: {})",
                quoted_list(&found)
            ),
        };
        let is_hinted = std::mem::replace(&mut self.is_hinted, true);
        match is_hinted || !self.prompts.is_empty() {
            true => found,
            false => found + self.hint(),
        }
    }

    /// What to do where a file has no field of prompts.
    pub(super) fn hint(&self) -> &'static str {
        match (self.rows, &self.columns.prompt) {
            (Rows::Prompts, None) => {
                "; where it has another name, say in the prompt set `columns = { prompt = \"…\" }`"
            }
            _ => "",
        }
    }

    fn text(
        &mut self,
        line: usize,
        names: &[String],
        found: Found<'_>,
        without: &str,
    ) -> Option<String> {
        let Some((name, value)) = found else {
            let (name, names) = (quoted(names.first()?), quoted_list(names));
            let message = format!("missing {name}; expected a text under one of {names}{without}");
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

    /// A field that may be left out or empty, which both mean the same: a CSV cannot tell the two apart. One that a study names may be a whole
    /// number or a truth value, which becomes its text.
    fn group(&mut self, line: usize, found: Found<'_>, is_said: bool) -> Option<String> {
        let text = match found {
            Some((_, Value::Number(number))) if is_said && !number.is_f64() => number.to_string(),
            Some((_, Value::Bool(value))) if is_said => value.to_string(),
            Some((name, value)) => self.string(line, name, value, "a string")?,
            None => String::new(),
        };
        Some(match text.trim().is_empty() {
            true => String::new(),
            false => text,
        })
    }

    /// Checks what only the whole file can show, and gives ids to the prompts of a file without any.
    pub(super) fn finish(&mut self) {
        if !self.without_number.is_empty() {
            let fields = quoted_list(&self.without_number);
            self.note(format!(
                "`NaN` or an infinity, which JSON does not have, is read as null in {fields}"
            ));
        }
        let told = self.columns.said().into_iter().zip(self.seen);
        let missing =
            told.filter_map(|((field, said), seen)| Some((field, said.filter(|_| !seen)?)));
        let missing: Vec<String> = missing
            .map(|(field, said)| {
                let said = quoted(said);
                format!("no row has a field {said}, which `columns` says is the {field}; correct the name")
            })
            .collect();
        if self.problems.is_empty() && !self.prompts.is_empty() {
            self.problems
                .extend(missing.into_iter().map(Problem::of_file));
        }
        let without = std::mem::take(&mut self.without_id);
        if without.len() == self.prompts.len() && self.first_line_of_id.is_empty() {
            return self.make_ids();
        }
        for index in without {
            let line = self.prompts[index].line;
            let message = format!(
                "missing `id`, which other prompts of the file have; give each prompt one of {}, or say in `columns` which field it is",
                quoted_list(ID_NAMES)
            );
            self.report(line, message);
        }
    }

    /// An id is a hash of the text, so that it stays as it is when rows are added or change their order; those of equal texts are numbered.
    fn make_ids(&mut self) {
        let mut times: HashMap<String, usize> = HashMap::new();
        for prompt in &mut self.prompts {
            let hash = blake3::hash(prompt.text.as_bytes()).to_hex();
            let id = format!("p{}", &hash[..ID_DIGITS]);
            let times = times.entry(id.clone()).or_default();
            *times += 1;
            prompt.id = match *times {
                1 => id,
                further => format!("{id}-{further}"),
            };
        }
    }

    /// Reports fields with a meaning that hold what is no JSON number; in others null takes its place, which is noted once.
    fn has_numbers(&mut self, line: usize, fields: &mut Map<String, Value>, names: &Names) -> bool {
        let mut is_sound = true;
        for names in names {
            let name = names
                .iter()
                .find(|name| fields.get(*name).is_some_and(|value| !value.is_null()));
            let found = name.and_then(|name| Some((name, no_number(fields.get(name)?)?)));
            if let Some((name, found)) = found {
                let (name, found) = (quoted(name), quoted(found));
                self.report(line, format!("{name} is {found}, which is neither JSON nor text; expected a string, or null where there is none"));
                is_sound = false;
            }
        }
        for (name, value) in fields {
            if clear_marks(value) > 0 && !self.without_number.contains(name) {
                self.without_number.push(name.clone());
            }
        }
        is_sound
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
fn take_first<'n>(fields: &mut Map<String, Value>, names: &'n [String]) -> Found<'n> {
    names.iter().find_map(|name| {
        let value = fields.remove(name)?;
        (!value.is_null()).then_some((name.as_str(), value))
    })
}
