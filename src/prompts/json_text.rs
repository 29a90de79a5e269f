//! JSON as other programs write it: `NaN` among its numbers, and strings with half of a character.

use serde_json::Value;

use super::error::quoted;

/// Stands for what is no JSON number while a text is read; a code point that no text has.
const MARK: char = '\u{fdd0}';

/// What Python's `json.dump` writes for numbers that JSON does not have. Longer ones first.
const NO_NUMBERS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// A text with strings in place of what is no JSON number, each as many characters long; none where there is nothing of the kind.
pub(crate) fn with_marks(text: &str) -> Option<String> {
    if text.contains(MARK) || text.to_ascii_lowercase().contains("\\ufdd0") {
        return None;
    }
    let mut marked = String::with_capacity(text.len());
    let mut rest = text;
    let mut is_in_string = false;
    while let Some(character) = rest.chars().next() {
        let found = NO_NUMBERS
            .iter()
            .find(|name| !is_in_string && rest.starts_with(**name));
        let length = match (found, character) {
            (Some(name), _) => {
                let filling = name.len() - 3;
                marked.push('"');
                marked.push(MARK);
                marked.extend(std::iter::repeat_n('x', filling));
                marked.push('"');
                rest = &rest[name.len()..];
                continue;
            }
            (None, '\\') if is_in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, '"') => {
                is_in_string = !is_in_string;
                1
            }
            _ => character.len_utf8(),
        };
        marked.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    marked.contains(MARK).then_some(marked)
}

/// What stands for a number that JSON does not have.
pub(super) fn mark(number: f64) -> Value {
    let length = match number {
        f64::INFINITY => 8,
        f64::NEG_INFINITY => 9,
        _ => 3,
    };
    Value::from(format!("{MARK}{}", "x".repeat(length - 3)))
}

/// Whether the value stands for what is no JSON number, and for which.
pub(crate) fn no_number(value: &Value) -> Option<&'static str> {
    let text = value.as_str()?.strip_prefix(MARK)?;
    let length = text.len() + 3;
    NO_NUMBERS.into_iter().find(|name| name.len() == length)
}

/// Puts null where the value, or one in it, stands for what is no JSON number; gives how many there were.
pub(super) fn clear_marks(value: &mut Value) -> usize {
    if no_number(value).is_some() {
        *value = Value::Null;
        return 1;
    }
    match value {
        Value::Array(values) => values.iter_mut().map(clear_marks).sum(),
        Value::Object(object) => object.values_mut().map(clear_marks).sum(),
        _ => 0,
    }
}

/// The first escape that is half of a surrogate pair without the other: its first byte, and what is to be said of it.
pub(super) fn lone_half(text: &str) -> Option<(usize, String)> {
    let bytes = text.as_bytes();
    let escape_at = |at: usize| {
        let digits = text.get(at..)?.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], escape_at(at)) {
            (b'\\', Some(0xD800..=0xDBFF))
                if matches!(escape_at(at + 6), Some(0xDC00..=0xDFFF)) =>
            {
                at += 12;
            }
            (b'\\', Some(unit @ 0xD800..=0xDFFF)) => {
                return Some((at, told(&text[at..at + 6], unit)));
            }
            (b'\\', _) => at += 2,
            _ => at += 1,
        }
    }
    None
}

fn told(escape: &str, unit: u16) -> String {
    let (half, missing) = match unit < 0xDC00 {
        true => ("first", "second"),
        false => ("second", "first"),
    };
    format!(
        "{} is the {half} half of a character (such as an emoji) whose {missing} half is missing, so that it is no text; put the whole character there, or take the half out",
        quoted(escape)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_marked_outside_of_strings_alone() {
        assert_eq!(with_marks(r#"{"a": "NaN", "b\"NaN": 1}"#), None);
        let text = r#"{"é": NaN, "b": [-Infinity, {"c": Infinity}], "d": "\"NaN"}"#;
        let marked = with_marks(text).unwrap();
        assert_eq!(marked.chars().count(), text.chars().count());
        let mut value: Value = serde_json::from_str(&marked).unwrap();
        assert_eq!(no_number(&value["é"]), Some("NaN"));
        assert_eq!(no_number(&value["b"][0]), Some("-Infinity"));
        assert_eq!(no_number(&value["b"][1]["c"]), Some("Infinity"));
        assert_eq!(clear_marks(&mut value), 3);
        let expected = serde_json::json!({"é": null, "b": [null, {"c": null}], "d": "\"NaN"});
        assert_eq!(value, expected);
    }

    #[test]
    fn half_of_a_pair_is_found_where_it_stands() {
        for (text, at) in [
            (r#"{"a": "\ud83d\ude00"}"#, None),
            (r#"{"a": "\\ud83d"}"#, None),
            (r#"{"a": "é\ud83d"}"#, Some(9)),
            (r#"{"a": "\ude00\ud83d"}"#, Some(7)),
            (r#"{"a": "\ud83d\ude00\ud83dx"}"#, Some(19)),
        ] {
            assert_eq!(lone_half(text).map(|(at, _)| at), at, "{text}");
        }
    }
}
