//! JSON Lines: one object per line; blank lines are skipped.

use serde_json::{Map, Value};

use crate::json;

use super::collect::{Collector, ID_NAMES, Names, TEXT_NAMES};
use super::error::{quoted, quoted_list};

const NAMES: Names = [ID_NAMES, TEXT_NAMES, &["split"], &["category"]];

/// Reads every line of a file's content (without byte order mark).
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    for (index, bytes) in content.split(|&byte| byte == b'\n').enumerate() {
        let line = index + 1;
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => read_line(line, text, collector),
            Err(error) => {
                let column = column_after(bytes, error.valid_up_to()) + 1;
                collector.report_at(line, Some(column), bad_utf8(bytes));
            }
        }
    }
}

fn read_line(line: usize, text: &str, collector: &mut Collector) {
    let names = collector.names(NAMES);
    match serde_json::from_str(text) {
        // Readers differ in which of two values they take.
        Ok(Value::Object(object)) => match json::key_given_twice(text) {
            None => collector.add(line, object, &names),
            Some((key, start)) => {
                let column = column_after(text.as_bytes(), start) + 1;
                let message = format!(
                    "field {} stands twice in one object; leave one of them, or give the other a name of its own",
                    quoted(&key)
                );
                collector.report_at(line, Some(column), message);
            }
        },
        Ok(other) => {
            let found = quoted(&other.to_string());
            let message = format!(
                "found {found}; expected a JSON object such as {}",
                example(&names)
            );
            collector.report(line, message);
        }
        Err(error) => {
            let column = column_after(text.as_bytes(), error.column());
            // The library counts bytes and ends its text with its own place; ours is in front.
            let place = format!(" at line {} column {}", error.line(), error.column());
            let reason = error.to_string();
            let reason = reason.strip_suffix(&place).unwrap_or(&reason);
            let message = format!(
                "bad JSON: {reason}; each line must be one object such as {}",
                example(&names)
            );
            collector.report_at(line, Some(column), message);
        }
    }
}

/// What a line looks like, for messages.
fn example(names: &Names) -> String {
    let [_, text, ..] = names.map(|names| names.first().unwrap_or(&""));
    format!("`{{\"id\": \"e1\", \"{text}\": \"…\"}}`")
}

/// Names the fields that hold the bad bytes, if the line is JSON apart from them.
fn bad_utf8(bytes: &[u8]) -> String {
    let repaired = String::from_utf8_lossy(bytes);
    let is_bad = |(name, value): &(String, Value)| {
        let text = value.to_string();
        name.contains(char::REPLACEMENT_CHARACTER) || text.contains(char::REPLACEMENT_CHARACTER)
    };
    let object: Map<String, Value> = serde_json::from_str(&repaired).unwrap_or_default();
    let bad = object.into_iter().filter(is_bad).map(|(name, _)| name);
    let place = match bad.collect::<Vec<String>>().as_slice() {
        [] => String::new(),
        bad => format!(" in {}", quoted_list(bad)),
    };
    format!("bad UTF-8{place}; save the file as UTF-8")
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
