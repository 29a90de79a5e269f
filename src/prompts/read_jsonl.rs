//! JSON Lines: one object per line; blank lines are skipped.

use serde_json::{Map, Value};

use crate::json;

use super::collect::{Collector, ID_NAMES, Names, TEXT_NAMES, Usual};
use super::error::{quoted, quoted_list};
use super::json_text::{lone_half, with_marks};

pub(super) const NAMES: Usual = [ID_NAMES, TEXT_NAMES, &["split"], &["category"]];

/// Where a text begins in its file.
#[derive(Clone, Copy, Default)]
pub(super) struct Place {
    /// From 1; [`Place::default`] is the file's first.
    pub(super) line: usize,
    /// Characters of the line in front of the text.
    pub(super) before: usize,
    /// Whether it is an element of an array, and not a line.
    pub(super) in_array: bool,
}

impl Place {
    /// Line and column, in characters from 1, of a byte of a text that begins here.
    pub(super) fn of(self, text: &str, byte: usize) -> (usize, usize) {
        let before = text.get(..byte).unwrap_or(text);
        let line = self.line.max(1);
        match before.rfind('\n') {
            None => (line, self.before + before.chars().count() + 1),
            Some(end) => {
                let lines = before.bytes().filter(|byte| *byte == b'\n').count();
                (line + lines, before[end + 1..].chars().count() + 1)
            }
        }
    }
}

/// Reads every line of a file's content (without byte order mark).
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    let names = collector.names(NAMES);
    for (index, bytes) in content.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => read_object(
                Place {
                    line,
                    ..Place::default()
                },
                text,
                &names,
                collector,
            ),
            Err(error) => {
                let column = column_after(bytes, error.valid_up_to()) + 1;
                collector.report_at(line, Some(column), bad_utf8(bytes));
            }
        }
    }
}

/// Reads the text of one object.
pub(super) fn read_object(place: Place, text: &str, names: &Names, collector: &mut Collector) {
    match serde_json::from_str(text) {
        Ok(value) => add_object(place, text, value, names, collector),
        Err(error) => {
            let marked = with_marks(text);
            let read = marked.as_deref().map(serde_json::from_str);
            match (read, marked.as_deref(), lone_half(text)) {
                (Some(Ok(value)), Some(marked), _) => {
                    collector.is_marked = true;
                    add_object(place, marked, value, names, collector)
                }
                (_, _, Some((byte, told))) => {
                    let (line, column) = place.of(text, byte);
                    let field = field_of_half(text, byte);
                    let message = format!("half of a character{field}: {told}");
                    collector.report_at(line, Some(column), message);
                }
                _ => report_bad_json(place, text, &error, names, collector),
            }
        }
    }
}

fn add_object(place: Place, text: &str, value: Value, names: &Names, collector: &mut Collector) {
    let object = match value {
        Value::Object(object) => object,
        Value::String(text) if place.in_array => {
            return collector.add_text(place.line, &text, names);
        }
        other => return report_no_object(place, &other, names, collector),
    };
    // Readers differ in which of two values they take. In sound JSON, line breaks stand between its parts alone.
    match json::key_given_twice(&text.replace('\n', " ")) {
        None => collector.add(place.line, object, names),
        Some((key, start)) => {
            let (line, column) = place.of(text, start);
            let message = format!(
                "field {} stands twice in one object; leave one of them, or give the other a name of its own",
                quoted(&key)
            );
            collector.report_at(line, Some(column), message);
        }
    }
}

fn report_no_object(place: Place, found: &Value, names: &Names, collector: &mut Collector) {
    let found = quoted(&found.to_string());
    let message = format!(
        "found {found}; expected a JSON object such as {}",
        example(names)
    );
    collector.report(place.line, message);
}

fn report_bad_json(
    place: Place,
    text: &str,
    error: &serde_json::Error,
    names: &Names,
    collector: &mut Collector,
) {
    let lines = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1));
    let byte = lines.map(str::len).sum::<usize>() + error.column();
    // The library counts bytes, and from the character behind which it stopped.
    let byte = (0..=byte.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    let (line, column) = place.of(text, byte.unwrap_or(0));
    // The library ends its text with its own place; ours is in front.
    let own = format!(" at line {} column {}", error.line(), error.column());
    let reason = error.to_string();
    let reason = reason.strip_suffix(&own).unwrap_or(&reason);
    let message = format!(
        "bad JSON: {reason}; each {} must be one object such as {}",
        if place.in_array { "element" } else { "line" },
        example(names)
    );
    collector.report_at(line, Some(column.saturating_sub(1).max(1)), message);
}

/// Names the field that holds half of a character, if the text is JSON apart from such.
fn field_of_half(text: &str, byte: usize) -> String {
    let mut repaired = text.to_string();
    repaired.replace_range(byte..byte + 6, "\\ufffd");
    while let Some((next, _)) = lone_half(&repaired) {
        repaired.replace_range(next..next + 6, "\\u0020");
    }
    in_fields(&repaired)
}

/// What a line looks like, for messages.
pub(super) fn example(names: &Names) -> String {
    let text = names[1].first().map_or("", |name| name);
    format!("`{{\"id\": \"e1\", \"{text}\": \"…\"}}`")
}

/// Names the fields that hold the bad bytes, if the line is JSON apart from them.
fn bad_utf8(bytes: &[u8]) -> String {
    bad_utf8_at(&in_fields(&String::from_utf8_lossy(bytes)))
}

pub(super) fn bad_utf8_at(place: &str) -> String {
    format!("bad UTF-8{place}; save the file as UTF-8")
}

/// The fields of an object with a character that replaces a bad one, as a fragment; nothing where there are none.
fn in_fields(repaired: &str) -> String {
    let is_bad = |(name, value): &(String, Value)| {
        let text = value.to_string();
        name.contains(char::REPLACEMENT_CHARACTER) || text.contains(char::REPLACEMENT_CHARACTER)
    };
    let object: Map<String, Value> = serde_json::from_str(repaired).unwrap_or_default();
    let bad = object.into_iter().filter(is_bad).map(|(name, _)| name);
    match bad.collect::<Vec<String>>().as_slice() {
        [] => String::new(),
        bad => format!(" in {}", quoted_list(bad)),
    }
}

/// The number of characters in the first `byte_count` bytes.
fn column_after(bytes: &[u8], byte_count: usize) -> usize {
    let before = bytes.get(..byte_count).unwrap_or(bytes);
    String::from_utf8_lossy(before).chars().count()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::PromptSet;
    use super::*;

    fn parse(content: impl AsRef<[u8]>) -> PromptSet {
        PromptSet::parse(Path::new("p.jsonl"), content.as_ref(), read)
            .unwrap_or_else(|errors| panic!("{errors}"))
    }

    fn problems(content: impl AsRef<[u8]>) -> Vec<String> {
        match PromptSet::parse(Path::new("p.jsonl"), content.as_ref(), read) {
            Ok(set) => panic!("no error: {set:?}"),
            Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
        }
    }

    /// The first problem's text begins with `start`, and there is no second.
    fn assert_one(content: impl AsRef<[u8]>, start: &str) {
        let found = problems(content);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(start),
            "{found:?} does not start with {start}"
        );
    }

    #[test]
    fn reads_all_names_defaults_and_other_fields() {
        let set = parse(concat!(
            "\u{feff}{\"id\": \"a\", \"prompt\": \" Hi\\n\", \"split\": \"edge\", \"category\": \"c\", \"n\": [1]}\r\n",
            "\r\n   \n",
            "{\"prompt_id\": 7, \"text\": \"b\", \"split\": null, \"category\": \"\"}\n",
            "{\"id\": null, \"uid\": \"c\", \"prompt\": \"c\", \"text\": \"kept\", \"split\": \"\"}",
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
            (1, "a", " Hi\n", "edge", "c"),
            (4, "7", "b", "unknown", ""),
            (5, "c", "c", "unknown", ""),
        ];
        assert_eq!(rows, expected);
        let other = |index: usize| Value::Object(set.prompts[index].other.clone());
        assert_eq!(other(0), serde_json::json!({"n": [1]}));
        assert_eq!(other(1), serde_json::json!({}));
        assert_eq!(other(2), serde_json::json!({"text": "kept"}));
    }

    #[test]
    fn tells_all_problems_of_a_file_in_file_order() {
        let found = problems(concat!(
            "{\"id\": \"a\", \"prompt\": \"x\"}\n",
            "{\"prompt\": \"x\"}\n",
            "{\"uid\": \"a\", \"prompt\": \" \\t\\u00a0\"}\n",
            "{\"id\": \"b\"}\n",
            "\n",
            "{\"id\": 1.5, \"prompt\": 3, \"split\": [], \"category\": {}}\n",
            "[1]\n",
        ));
        let starts = [
            "p.jsonl:2: missing `id`; ",
            "p.jsonl:3: duplicate `uid` `a`, first used in line 1; ",
            "p.jsonl:3: empty `prompt`; ",
            "p.jsonl:4: missing `prompt`; ",
            "p.jsonl:6: wrong type of `id`: `1.5`; expected a string or an integer",
            "p.jsonl:6: wrong type of `prompt`: `3`; expected a string",
            "p.jsonl:6: wrong type of `split`: `[]`; expected a string",
            "p.jsonl:6: wrong type of `category`: `{}`; expected a string",
            "p.jsonl:7: found `[1]`; expected a JSON object",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (line, start) in found.iter().zip(starts) {
            assert!(
                line.starts_with(start),
                "{line} does not start with {start}"
            );
        }
    }

    #[test]
    fn an_integer_and_its_text_are_the_same_id() {
        assert_one(
            "{\"id\": 12, \"prompt\": \"x\"}\n{\"id\": \"12\", \"prompt\": \"y\"}",
            "p.jsonl:2: duplicate `id` `12`, first used in line 1; ",
        );
    }

    #[test]
    fn an_id_of_a_prompt_that_is_wrong_otherwise_still_counts() {
        let found = problems("{\"id\": 1, \"prompt\": \"\"}\n{\"id\": 1, \"prompt\": \"y\"}");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[1].contains("first used in line 1"), "{found:?}");
    }

    #[test]
    fn bad_json_has_line_and_column_in_characters() {
        // `x` is the seventh character and the eighth byte.
        assert_one("\n{\"é\": x}", "p.jsonl:2:7: bad JSON: expected value; ");
        assert_one(
            "{\"id\": \"a\"",
            "p.jsonl:1:10: bad JSON: EOF while parsing an object; ",
        );
    }

    #[test]
    fn a_field_twice_in_one_object_is_an_error_where_the_second_stands() {
        assert_one(
            "\n{\"id\": \"é\", \"prompt\": \"x\", \"prompt\": \"prompt\"}",
            "p.jsonl:2:28: field `prompt` stands twice in one object; ",
        );
        assert_one(
            r#"{"id": "a", "prompt": "x", "note": null, "no\u0074e": [1]}"#,
            "p.jsonl:1:53: field `note` stands twice in one object; ",
        );
        assert_one(
            r#"{"id": "a", "prompt": "x", "other": [{"k": 1.5, "l": {}}, {"k": true, "l": "l", "k": -1}]}"#,
            "p.jsonl:1:81: field `k` stands twice in one object; ",
        );
        // Of different objects, they may.
        parse(
            r#"{"id": "a", "prompt": "x", "other": [{"k": 1}, {"k": {"k": [18446744073709551615, 1e300]}}]}"#,
        );
    }

    #[test]
    fn bad_utf8_has_line_column_and_field() {
        assert_one(
            b"{\"id\": \"a\", \"prompt\": \"caf\xe9\"}\n",
            "p.jsonl:1:27: bad UTF-8 in `prompt`; save the file as UTF-8",
        );
        assert_one(b"\n\xff", "p.jsonl:2:1: bad UTF-8; ");
    }

    #[test]
    fn a_file_without_prompts_is_an_error() {
        for content in ["", "\u{feff}", " \n\r\n"] {
            assert_one(content, "p.jsonl: no prompts in the file; ");
        }
    }
}
