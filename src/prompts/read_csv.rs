//! CSV with a header, in the columns of XSTest (`id,prompt,type,label,focus,note`): the type is the category, the label the
//! split. Quoted fields may hold commas and line breaks.

use csv::ByteRecord;
use serde_json::{Map, Value};

use super::collect::{Collector, ID_NAMES, Names, TEXT_NAMES, Usual};
use super::error::{quoted, quoted_list};

pub(super) const NAMES: Usual = [
    ID_NAMES,
    TEXT_NAMES,
    &["label", "split"],
    &["type", "category"],
];

/// A row of our own behind the file's last: it comes back as it is, unless a quote is still open above it.
const LAST_ROW: &str = "end";

struct Row {
    line: usize,
    fields: ByteRecord,
}

/// What may separate the fields of a row, and what it is called.
const SEPARATORS: [(u8, &str); 3] = [(b',', "comma"), (b';', "semicolon"), (b'\t', "tab")];

/// Reads every row of a file's content (in UTF-8, without byte order mark). Fields are separated by commas; where the header then has no
/// column of prompts, and has with semicolons or tabs, by these, which is said.
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    let text = &collector.names(NAMES)[1];
    let has_text = |(separator, _): &&(u8, &str)| {
        let header = first_row(content, *separator).unwrap_or_default();
        let mut columns = header.iter().map(|name| name.trim_ascii());
        columns.any(|name| text.iter().any(|text| text.as_bytes() == name))
    };
    match SEPARATORS.iter().find(has_text) {
        None | Some((b',', _)) => read_separated(content, SEPARATORS[0], collector),
        Some(&(separator, name)) => {
            let note = format!("the fields of the file are separated by {name}s, and are read so");
            collector.note(note);
            read_separated(content, (separator, name), collector);
        }
    }
}

/// Reads a file whose name says that tabs separate its fields.
pub(super) fn read_tsv(content: &[u8], collector: &mut Collector) {
    read_separated(content, SEPARATORS[2], collector);
}

fn read_separated(
    content: &[u8],
    (separator, what): (u8, &'static str),
    collector: &mut Collector,
) {
    let mut rows = match split_rows(content, separator) {
        Ok(rows) => rows,
        Err(error) => return collector.report(1, format!("cannot read the rows: {error}")),
    };
    let unclosed = rows.pop().filter(|row| row.fields != vec![LAST_ROW]);
    let mut rows = rows.into_iter();
    let mut header = match rows.next() {
        Some(row) => Header::read(&row, collector),
        None => Header::default(),
    };
    header.separator = what;
    for row in rows {
        header.read_row(&row, collector);
    }
    if let Some(row) = unclosed {
        let name = header.name(row.fields.len().saturating_sub(1));
        let message = format!(
            "unclosed double quote in {name}; the row runs to the end of the file: close the quote, or double it if it is meant"
        );
        collector.report(row.line, message);
    }
}

fn first_row(content: &[u8], separator: u8) -> Option<ByteRecord> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .from_reader(content);
    reader.byte_records().next()?.ok()
}

/// The rows with the lines they begin on; blank lines are no rows. The last is [`LAST_ROW`], or has a quote that is never closed.
fn split_rows(content: &[u8], separator: u8) -> Result<Vec<Row>, csv::Error> {
    let closed = [content, b"\n", LAST_ROW.as_bytes()].concat();
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(separator)
        .from_reader(closed.as_slice());
    let rows = reader.byte_records().map(|fields| {
        let fields = fields?;
        // The library's place of a row is where the one before ended, so blank lines lie between.
        let (byte, line) = fields
            .position()
            .map_or((0, 1), |at| (at.byte(), at.line()));
        let between = closed.iter().skip(byte as usize);
        let between = between.take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let blank_lines = between.filter(|&&byte| byte == b'\n').count();
        let line = line as usize + blank_lines;
        Ok(Row { line, fields })
    });
    rows.collect()
}

#[derive(Default)]
struct Header {
    columns: Vec<String>,
    /// Of the fields with a meaning, those that rows can have.
    names: Names,
    separator: &'static str,
}

impl Header {
    fn read(row: &Row, collector: &mut Collector) -> Self {
        let mut columns: Vec<String> = Vec::with_capacity(row.fields.len());
        for bytes in &row.fields {
            let name = String::from_utf8_lossy(bytes).trim().to_owned();
            let shown = quoted(&name);
            if std::str::from_utf8(bytes).is_err() {
                let message =
                    format!("bad UTF-8 in the column name {shown}; save the file as UTF-8");
                collector.report(row.line, message);
            }
            if columns.contains(&name) {
                let message =
                    format!("two columns are named {shown}; give each column a name of its own");
                collector.report(row.line, message);
            }
            columns.push(name);
        }
        let mut names = collector.names(NAMES);
        let is_said = collector.columns.said().map(|(_, said)| said.is_some());
        let is_needed = [!collector.columns.makes_ids(), true, is_said[2], is_said[3]];
        let hints = ["", collector.hint(), "", ""];
        for ((wanted, _), hint) in names
            .iter_mut()
            .zip(is_needed)
            .zip(hints)
            .filter(|((_, needed), _)| *needed)
        {
            if !columns.iter().any(|name| wanted.contains(name)) {
                let message = format!(
                    "the header has no column {}; expected one of {} (columns found, separated by commas: {}){hint}",
                    quoted(wanted.first().map_or("", |name| name)),
                    quoted_list(wanted),
                    quoted_list(&columns)
                );
                collector.report(row.line, message);
                wanted.clear();
            }
        }
        Self {
            columns,
            names,
            separator: SEPARATORS[0].1,
        }
    }

    /// A column's name for a message; a row may have more fields than the header.
    fn name(&self, column: usize) -> String {
        match self.columns.get(column) {
            Some(name) => quoted(name),
            None => format!("field {}", column + 1),
        }
    }

    fn read_row(&self, row: &Row, collector: &mut Collector) {
        if row.fields.len() != self.columns.len() {
            let message = format!(
                "wrong number of fields: {}; expected {}, as in the header ({}); put double quotes around a field with a {}",
                row.fields.len(),
                self.columns.len(),
                quoted_list(&self.columns),
                self.separator
            );
            return collector.report(row.line, message);
        }
        let problems_before = collector.problems.len();
        let mut fields = Map::new();
        for (name, bytes) in self.columns.iter().zip(&row.fields) {
            let Ok(text) = std::str::from_utf8(bytes) else {
                let message = format!("bad UTF-8 in {}; save the file as UTF-8", quoted(name));
                collector.report(row.line, message);
                continue;
            };
            // Of two columns of one name, which have been reported, the first.
            fields.entry(name).or_insert_with(|| Value::from(text));
        }
        if collector.problems.len() == problems_before {
            collector.add(row.line, fields, &self.names);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::PromptSet;
    use super::*;

    fn parse(content: impl AsRef<[u8]>) -> PromptSet {
        PromptSet::parse(Path::new("p.csv"), content.as_ref(), read)
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The problems' texts begin with `starts`, one by one.
    fn assert_problems(content: impl AsRef<[u8]>, starts: &[&str]) {
        let found = match PromptSet::parse(Path::new("p.csv"), content.as_ref(), read) {
            Ok(set) => panic!("no error: {set:?}"),
            Err(errors) => errors.to_string(),
        };
        assert_eq!(found.lines().count(), starts.len(), "{found}");
        for (line, start) in found.lines().zip(starts) {
            assert!(
                line.starts_with(start),
                "{line} does not start with {start}"
            );
        }
    }

    #[test]
    fn reads_xstest_columns_and_quoted_fields() {
        let set = parse(concat!(
            "\u{feff}id,prompt,type,label,focus,note\n",
            "1,\"Kill, \"\"softly\"\",\nplease\",homonyms,safe,kill,\n",
            "\n",
            "2,b, spaced ,,,n",
        ));
        let rows: Vec<_> = set
            .prompts
            .iter()
            .map(|p| {
                (
                    p.line,
                    p.id.as_str(),
                    p.text.as_str(),
                    p.split.as_str(),
                    p.category.as_str(),
                )
            })
            .collect();
        let expected = [
            (2, "1", "Kill, \"softly\",\nplease", "safe", "homonyms"),
            (5, "2", "b", "unknown", " spaced "),
        ];
        assert_eq!(rows, expected);
        let other = Value::Object(set.prompts[0].other.clone());
        assert_eq!(other, serde_json::json!({"focus": "kill", "note": ""}));
    }

    #[test]
    fn type_and_label_go_before_category_and_split() {
        let set = parse(" uid , text ,split,label,category,type\nu,t,s,l,c,y\n");
        let prompt = &set.prompts[0];
        assert_eq!((prompt.id.as_str(), prompt.text.as_str()), ("u", "t"));
        assert_eq!(
            (prompt.split.as_str(), prompt.category.as_str()),
            ("l", "y")
        );
        let other = Value::Object(prompt.other.clone());
        assert_eq!(other, serde_json::json!({"split": "s", "category": "c"}));
        let set = parse("id,prompt,category,split\nu,t,c,s\n");
        let prompt = &set.prompts[0];
        assert_eq!(
            (prompt.split.as_str(), prompt.category.as_str()),
            ("s", "c")
        );
    }

    #[test]
    fn lines_are_right_with_crlf_and_blank_lines() {
        for line_end in ["\n", "\r\n"] {
            let text = "\nid,prompt\n1,a\n\n\n2,\"b\nb\"\n3,c\n".replace('\n', line_end);
            let set = parse(&text);
            let lines: Vec<usize> = set.prompts.iter().map(|prompt| prompt.line).collect();
            assert_eq!(lines, [3, 6, 8], "line end {line_end:?}");
        }
    }

    #[test]
    fn tells_all_problems_of_a_file_in_file_order() {
        assert_problems(
            b"id,prompt,type\n1,a,x\n1,,x\n,c,x\n4,d\n5,e, f,x\n6,caf\xe9,x\n",
            &[
                "p.csv:3: duplicate `id` `1`, first used in line 2; ",
                "p.csv:3: empty `prompt`; ",
                "p.csv:4: missing `id`; ",
                "p.csv:5: wrong number of fields: 2; expected 3, as in the header (`id`, `prompt`, `type`); ",
                "p.csv:6: wrong number of fields: 4; ",
                "p.csv:7: bad UTF-8 in `prompt`; ",
            ],
        );
    }

    #[test]
    fn a_missing_column_is_told_once_beside_the_rows_own_problems() {
        assert_problems(
            "id,question\n1,a\n1,b\n",
            &[
                "p.csv:1: the header has no column `prompt`; expected one of `prompt`, `text` (columns found, separated by commas: `id`, `question`); where it has another name, say in the prompt set `columns = { prompt = \"…\" }`",
                "p.csv:3: duplicate `id` `1`, first used in line 2; ",
            ],
        );
        assert_problems(
            "prompt\na\n\" \"\n",
            &[
                "p.csv:1: the header has no column `id`; ",
                "p.csv:3: empty `prompt`; ",
            ],
        );
    }

    #[test]
    fn a_column_name_twice_or_not_utf8_is_an_error() {
        assert_problems(
            b"id,prompt,note,note,\xff\n1,a,b,c,d\n",
            &[
                "p.csv:1: two columns are named `note`; ",
                "p.csv:1: bad UTF-8 in the column name ",
            ],
        );
    }

    #[test]
    fn an_unclosed_quote_does_not_swallow_rows() {
        let problem = "p.csv:3: unclosed double quote in `prompt`; ";
        assert_problems("id,prompt\n1,a\n2,\"b\n3,c\n", &[problem]);
        assert_problems("id,prompt\n1,a\n2,\"b \"\"\n", &[problem]);
        assert_problems("id,prompt\n1,a\n2,\"", &[problem]);
        assert_eq!(parse("id,prompt\n1,\"a\n\"").prompts[0].text, "a\n");
        assert_eq!(parse("prompt,id\na,end").prompts[0].id, "end");
    }

    #[test]
    fn a_file_without_rows_is_an_error() {
        for content in ["", "\u{feff}", "\r\n\n", "id,prompt\n"] {
            assert_problems(content, &["p.csv: no prompts in the file; "]);
        }
    }
}
