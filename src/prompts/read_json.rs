//! JSON: one array of objects, or of texts.

use super::collect::Collector;
use super::error::quoted;
use super::read_jsonl::{NAMES, Place, bad_utf8_at, example, read_object};

/// Reads every object of a file's content (without byte order mark).
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    let text = match std::str::from_utf8(content) {
        Ok(text) => text,
        Err(error) => {
            let before = String::from_utf8_lossy(&content[..error.valid_up_to()]).into_owned();
            let (line, column) = Place::default().of(&before, before.len());
            let message = bad_utf8_at("");
            return collector.report_at(line, Some(column), message);
        }
    };
    let names = collector.names(NAMES);
    let whole = Place::default();
    let start = text.len() - text.trim_start().len();
    let Some(inside) = text[start..].strip_prefix('[') else {
        if let Some(found) = text[start..].chars().next() {
            let (line, column) = whole.of(text, start);
            let found = quoted(&found.to_string());
            let message = format!(
                "the file begins with {found}; expected an array of objects such as [{}] (a file with one object on each line is to be named `.jsonl`)",
                example(&names)
            );
            collector.report_at(line, Some(column), message);
        }
        return;
    };
    let mut at = text.len() - inside.len();
    // Of the last place that was asked for: to count from the beginning each time takes the square of the rows.
    let (mut place, mut counted) = (whole, 0);
    let mut place_of = |at: usize| {
        let (line, column) = place.of(&text[counted..], at - counted);
        place = Place {
            line,
            before: column - 1,
            in_array: true,
        };
        counted = at;
        place
    };
    let mut is_first = true;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if is_first && text[at..].starts_with(']') {
            at += 1;
            break;
        }
        is_first = false;
        let length = element(&text[at..]);
        let place = place_of(at);
        let Some(end) = text[at + length..].chars().next() else {
            let message =
                "the array or this part of it is not closed; the file may be cut off: get it again";
            let column = Some(place.before + 1);
            return collector.report_at(place.line, column, message.to_string());
        };
        match text[at..at + length].trim_end() {
            "" => {
                let message = match end {
                    ']' => {
                        "a comma before the end of the array, with no element behind it; take the comma out"
                    }
                    _ => "a comma with no element before it; take the comma out",
                };
                collector.report_at(place.line, Some(place.before + 1), message.to_string());
            }
            element => read_object(place, element, &names, collector),
        }
        at += length + 1;
        if end == ']' {
            break;
        }
    }
    let behind = &text[at..];
    if !behind.trim().is_empty() {
        let at = at + behind.len() - behind.trim_start().len();
        let (line, column) = whole.of(text, at);
        let message = "text behind the end of the array; a file holds one array";
        collector.report_at(line, Some(column), message.to_string());
    }
}

/// Bytes of the element that the text begins with: up to the comma or bracket behind it, or to the end where there is none.
fn element(text: &str) -> usize {
    let mut depth = 0_usize;
    let (mut is_in_string, mut is_escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            _ if is_in_string => {}
            b',' | b']' if depth == 0 => return at,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Columns, PromptErrors, PromptSet};

    fn read(content: &str) -> Result<PromptSet, PromptErrors> {
        PromptSet::read(Path::new("p.json"), content.as_bytes())
    }

    fn problems(content: &str) -> Vec<String> {
        let text = read(content).unwrap_err().to_string();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_array_gives_the_content_of_its_lines() {
        let objects = [
            r#"{"id": 1, "prompt": "a, ] \" b", "n": [1, {"x": "}"}]}"#,
            r#"{"id": "b", "prompt": "c", "split": "s"}"#,
        ];
        let lines = PromptSet::parse_jsonl(Path::new("p.jsonl"), &objects.join("\n")).unwrap();
        let spread = objects.join(",\n").replace(", \"", ",\n  \"");
        for text in [
            format!("[{}]", objects.join(",")),
            format!("\u{feff}\n [\n{spread}\n]\n"),
        ] {
            assert_eq!(read(&text).unwrap().content_hash(), lines.content_hash());
        }
        let rows = read(&format!("[\n{spread}]")).unwrap();
        assert_eq!(
            rows.prompts.iter().map(|p| p.line).collect::<Vec<_>>(),
            [2, 5]
        );
    }

    #[test]
    fn texts_alone_get_ids_that_stay_with_them() {
        let set = read("[\"a\", \"b, ]\",\n \"a\"]").unwrap();
        let texts: Vec<&str> = set.prompts.iter().map(|p| p.text.as_str()).collect();
        assert_eq!(texts, ["a", "b, ]", "a"]);
        let ids =
            |set: &PromptSet| -> Vec<String> { set.prompts.iter().map(|p| p.id.clone()).collect() };
        let all = ids(&set);
        assert_eq!(all[2], format!("{}-2", all[0]));
        assert_eq!(ids(&read("[\"b, ]\"]").unwrap()), all[1..2]);
    }

    #[test]
    fn problems_have_their_places() {
        for (text, starts) in [
            ("", &["p.json: no prompts in the file; "][..]),
            (" []\n", &["p.json: no prompts in the file; "]),
            (
                "\n {\"id\": 1}",
                &["p.json:2:2: the file begins with `{`; expected an array"],
            ),
            (
                "[\n{\"id\": 1, \"prompt\": \"a\"},\n3]",
                &["p.json:3: found `3`; expected a JSON object"],
            ),
            (
                "[\n{\"id\": 1, \"prompt\": \"a\"},\n\"b\"]",
                &["p.json:3: missing `id`, which other prompts of the file have"],
            ),
            ("[\"a\",\n\" \"]", &["p.json:2: empty `prompt`"]),
            (
                "[\n{\"id\": 1, \"prompt\": \"a\"},\n]",
                &["p.json:3:1: a comma before the end of the array"],
            ),
            (
                "[,{\"id\": 1, \"prompt\": \"a\"}]",
                &["p.json:1:2: a comma with no element before it"],
            ),
            (
                "[\n{\"id\": 1, \"prompt\": \"a\"}",
                &["p.json:2:1: the array or this part of it is not closed"],
            ),
            (
                "[{\"id\": 1, \"prompt\": \"a\"}]\n x",
                &["p.json:2:2: text behind the end of the array"],
            ),
            (
                "[{\"id\": 1,\n \"prompt\": x},\n {\"id\": 1, \"id\": 2}]",
                &[
                    "p.json:2:12: bad JSON: expected value",
                    "p.json:3:12: field `id` stands twice",
                ],
            ),
            (
                "[{\"id\": 1,\n \"prompt\": \"a\",\n\"id\": 2}]",
                &["p.json:3:1: field `id` stands twice"],
            ),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), starts.len(), "{found:#?}");
            for (found, start) in found.iter().zip(starts) {
                assert!(
                    found.starts_with(start),
                    "{found} does not start with {start}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_number_matters_where_it_is_used() {
        let text = "[{\"id\": 1, \"prompt\": \"a\", \"score\": NaN},\n{\"id\": 2, \"prompt\": \"b\", \"score\": 0.5}]";
        let set = read(text).unwrap();
        assert!(set.prompts[0].other["score"].is_null());
        assert!(
            set.findings()[0].contains("`score`"),
            "{:?}",
            set.findings()
        );
        let found = problems(&text.replace("score", "category"));
        assert_eq!(found.len(), 2, "{found:#?}");
        assert!(
            found[0].starts_with("p.json:1: `category` is `NaN`"),
            "{found:#?}"
        );
        let columns = Columns {
            category: Some("score".to_string()),
            ..Columns::default()
        };
        let found = PromptSet::read_as(Path::new("p.json"), text.as_bytes(), &columns);
        let found = found.unwrap_err().to_string();
        assert!(found.starts_with("p.json:1: `score` is `NaN`"), "{found}");
    }

    #[test]
    fn half_of_an_emoji_is_told_in_words() {
        let found =
            problems("[{\"id\": 1, \"prompt\": \"a\"},\n{\"id\": 2, \"prompt\": \"b \\ud83d\"}]");
        assert_eq!(found.len(), 1, "{found:#?}");
        let start = "p.json:2:24: half of a character in `prompt`: `\\ud83d` is the first half";
        assert!(found[0].starts_with(start), "{found:#?}");
    }
}
