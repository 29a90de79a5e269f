//! Prompt sets: a file of prompts in, a checked list out.
//!
//! A prompt has an id, a text, a split (`harmful`, `edge`, …) and a category; other fields are kept for the tables. Only the text
//! ever reaches a model. A set is either whole and sound or an error that lists all that is wrong with the file, so that no study
//! runs on the part of a file that happened to be readable.
//!
//! - `read_jsonl`, `read_json`, `read_csv`, `read_lines` and `read_parquet`: a reader for each format; it sees syntax and columns.
//! - `json_text`: JSON as others write it.
//! - `encoding`: files that are not UTF-8.
//! - `columns`: the names that a study says the fields have in its file.
//! - `collect`: the rules that formats share (required fields, types, unique ids).
//! - `labels`: a table that says of prompts which group each is in.
//! - `questions`: choices beside a prompt, and which of them is right.
//! - `findings`: what a reader should know of a sound set.
//! - `draw`: a set drawn out of a larger one.
//! - `public`: sets that others have published.
//! - `error`: problems and how they are told.

mod collect;
mod columns;
mod draw;
mod encoding;
mod error;
mod findings;
mod json_text;
mod labels;
mod public;
mod questions;
mod read_csv;
mod read_json;
mod read_jsonl;
mod read_lines;
mod read_parquet;

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value};

use crate::files;

pub(crate) use columns::Columns;
pub(crate) use draw::{Draw, ORIGIN};
pub(crate) use error::PromptErrors;
pub(crate) use json_text::{no_number, with_marks};
pub(crate) use labels::Labels;
#[cfg(test)]
pub(crate) use public::Licence;
pub(crate) use public::{Home, PublicFile, PublicSet, SETS, Size, is_noncommercial};
pub(crate) use questions::{LETTERS, Question};

use collect::{Collector, Rows};

/// The split of a prompt whose file names none.
const DEFAULT_SPLIT: &str = "unknown";

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prompt {
    /// Its name, unique within the set; an integer in the file becomes its decimal text.
    pub(crate) id: String,
    /// What the user says to the model, exactly as in the file; never blank.
    pub(crate) text: String,
    /// The part of the set that it belongs to; [`DEFAULT_SPLIT`] where the file gives none.
    pub(crate) split: String,
    /// Its kind, finer than the split; empty where the file gives none.
    pub(crate) category: String,
    /// Every other field of the file; strings if the file is a CSV or TSV.
    pub(crate) other: Map<String, Value>,
    /// The line of the file that it begins on, from 1; its row if the file is Parquet.
    pub(crate) line: usize,
}

/// The prompts of one file: at least one, with unique ids.
#[derive(Debug, Clone)]
pub struct PromptSet {
    /// In file order.
    pub(crate) prompts: Vec<Prompt>,
    /// What a reader should know of how the file was read.
    pub(crate) notes: Vec<String>,
    /// The public set that its file is of, where that is known.
    pub(crate) public: Option<&'static PublicSet>,
}

/// Reads a text in UTF-8, without byte order mark.
type ReadText = fn(&[u8], &mut Collector);

/// How a file is read.
#[derive(Clone, Copy)]
enum Reader {
    Text(ReadText),
    Parquet,
}

impl PromptSet {
    /// Reads and checks a file with the usual names of fields: as [`PromptSet::load_as`].
    ///
    /// # Errors
    /// As there.
    pub fn load(path: &Path) -> Result<Self, PromptErrors> {
        Self::load_as(path, &Columns::default())
    }

    /// Reads and checks a file; the extension tells the format (`.jsonl` or `.ndjson`, `.json` for an array of objects or of texts, `.csv`,
    /// `.tsv`, `.txt` for a prompt on each line, `.parquet`). A byte order mark is passed over; that of UTF-16 is followed.
    ///
    /// JSON and Parquet: the id is `id`, `prompt_id` or `uid`, the text `prompt` or `text` (the first that is there and not null), then
    /// `split` and `category`. CSV: the same names for id and text; the split is `label` or `split`, the category `type` or
    /// `category`, after XSTest (Röttger et al., 2024). What `columns` says counts in place of these; where it says no id and the file has
    /// none, a prompt's id is a hash of its text.
    ///
    /// # Errors
    /// All problems of the file at once: unreadable, unknown extension, empty, bad UTF-8, bad JSON or CSV, missing columns, missing
    /// or duplicate ids, missing or blank prompts, fields of the wrong type.
    pub(crate) fn load_as(path: &Path, columns: &Columns) -> Result<Self, PromptErrors> {
        reader_for(path)?;
        let content = files::read(path, files::DATA_BYTES).map_err(|error| {
            let message =
                format!("cannot read the prompts: {error}; check the `path` of the prompt set");
            PromptErrors::whole_file(path, message)
        })?;
        let mut set = Self::read_as(path, &content, columns)?;
        set.public = PublicSet::of_content(&content);
        Ok(set)
    }

    /// The prompts in the content of a file of that name, with the usual names of fields.
    ///
    /// # Errors
    /// As [`PromptSet::load_as`].
    #[cfg(test)]
    pub(crate) fn read(path: &Path, content: &[u8]) -> Result<Self, PromptErrors> {
        Self::read_as(path, content, &Columns::default())
    }

    /// The prompts in the content of a file of that name.
    ///
    /// # Errors
    /// As [`PromptSet::load_as`].
    pub(crate) fn read_as(
        path: &Path,
        content: &[u8],
        columns: &Columns,
    ) -> Result<Self, PromptErrors> {
        Self::parse_as(path, content, reader_for(path)?, columns)
    }

    /// The prompts in a text of JSON Lines. The path is what errors name.
    ///
    /// # Errors
    /// As [`PromptSet::load_as`].
    pub(crate) fn parse_jsonl(path: &Path, content: &str) -> Result<Self, PromptErrors> {
        let reader = Reader::Text(read_jsonl::read);
        Self::parse_as(path, content.as_bytes(), reader, &Columns::default())
    }

    #[cfg(test)]
    fn parse(path: &Path, content: &[u8], reader: ReadText) -> Result<Self, PromptErrors> {
        Self::parse_as(path, content, Reader::Text(reader), &Columns::default())
    }

    fn parse_as(
        path: &Path,
        content: &[u8],
        reader: Reader,
        columns: &Columns,
    ) -> Result<Self, PromptErrors> {
        let Collector {
            prompts,
            problems,
            notes,
            ..
        } = read_rows(content, reader, Collector::of(Rows::Prompts, columns));
        if !problems.is_empty() {
            let path = path.to_owned();
            return Err(PromptErrors { path, problems });
        }
        if prompts.is_empty() {
            let message =
                "no prompts in the file; expected at least one with an `id` and a `prompt`";
            return Err(PromptErrors::whole_file(path, message.to_owned()));
        }
        Ok(Self {
            prompts,
            notes,
            public: None,
        })
    }

    /// The prompts of one split, in file order; none if there is no such split.
    pub(crate) fn split(&self, name: &str) -> impl Iterator<Item = &Prompt> {
        self.prompts
            .iter()
            .filter(move |prompt| prompt.split == name)
    }

    /// The splits, in order of first appearance.
    pub fn splits(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let splits = self.prompts.iter().map(|prompt| prompt.split.as_str());
        splits.filter(|split| seen.insert(*split)).collect()
    }

    /// The columns that prompts have values in beside id and text, by the names that they have here.
    pub(crate) fn columns(&self) -> Vec<&str> {
        let mut columns = vec!["split", "category"];
        for name in self.prompts.iter().flat_map(|prompt| prompt.other.keys()) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
        columns
    }

    /// What each prompt has in a column of the file, as text; none where that is blank. What a CSV calls `label` and `type` are the split and
    /// the category, unless there is such a column beside them.
    pub(crate) fn column(&self, name: &str) -> Vec<Option<String>> {
        let is_other = self.prompts.iter().any(|p| p.other.contains_key(name));
        let value = |prompt: &Prompt| match name {
            _ if is_other => match prompt.other.get(name)? {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            },
            "split" | "label" => Some(prompt.split.clone()),
            "category" | "type" => Some(prompt.category.clone()),
            _ => None,
        };
        let values = self.prompts.iter().map(value);
        values
            .map(|value| value.filter(|text| !text.trim().is_empty()))
            .collect()
    }

    /// A hash of all that a table can show: id, text, split, category and other fields of every prompt, and their order. Path,
    /// line numbers, the order of fields, white space between them and the spelling of a JSON string do not enter.
    pub fn content_hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hash_text(&mut hasher, "prompts");
        for prompt in &self.prompts {
            for text in [&prompt.id, &prompt.text, &prompt.split, &prompt.category] {
                hash_text(&mut hasher, text);
            }
            hash_object(&mut hasher, &prompt.other);
        }
        hasher.finalize()
    }
}

/// The sound rows of a file's content, and what is wrong with the others.
fn read_rows(content: &[u8], reader: Reader, mut collector: Collector) -> Collector {
    match reader {
        Reader::Text(read) => {
            if let Some(content) = encoding::as_utf8(content, &mut collector) {
                read(&content, &mut collector);
            }
        }
        Reader::Parquet => read_parquet::read(content, &mut collector),
    }
    collector.finish();
    if matches!(reader, Reader::Parquet) {
        for problem in &mut collector.problems {
            if let Some(row) = problem.line.take() {
                problem.message = format!("row {row}: {}", problem.message);
            }
        }
    }
    collector
}

fn reader_for(path: &Path) -> Result<Reader, PromptErrors> {
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    match extension.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" => Ok(Reader::Text(read_jsonl::read)),
        "json" => Ok(Reader::Text(read_json::read)),
        "csv" => Ok(Reader::Text(read_csv::read)),
        "tsv" => Ok(Reader::Text(read_csv::read_tsv)),
        "txt" => Ok(Reader::Text(read_lines::read)),
        "parquet" => Ok(Reader::Parquet),
        _ => {
            let extension = error::quoted(&extension);
            let message = format!(
                "unknown prompt format {extension}; expected a file name that ends in `.jsonl`, `.ndjson`, `.json`, `.csv`, `.tsv`, `.txt` or `.parquet`"
            );
            Err(PromptErrors::whole_file(path, message))
        }
    }
}

// Every part goes in behind its length, so that moving a boundary between two parts changes the hash.
fn hash_length(hasher: &mut blake3::Hasher, length: usize) {
    hasher.update(&(length as u64).to_le_bytes());
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hash_length(hasher, text.len());
    hasher.update(text.as_bytes());
}

// Sorted here, because whether a map of this library is sorted depends on what other crates ask of it.
fn hash_object(hasher: &mut blake3::Hasher, object: &Map<String, Value>) {
    let mut fields: Vec<(&String, &Value)> = object.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    hash_length(hasher, fields.len());
    for (name, value) in fields {
        hash_text(hasher, name);
        hash_value(hasher, value);
    }
}

fn hash_value(hasher: &mut blake3::Hasher, value: &Value) {
    match value {
        Value::Object(object) => {
            hasher.update(b"{");
            hash_object(hasher, object);
        }
        Value::Array(values) => {
            hasher.update(b"[");
            hash_length(hasher, values.len());
            for value in values {
                hash_value(hasher, value);
            }
        }
        scalar => {
            // As JSON, where a string is quoted and so differs from a number of the same digits.
            hasher.update(b"=");
            hash_text(hasher, &scalar.to_string());
        }
    }
}

#[cfg(test)]
mod tests;
