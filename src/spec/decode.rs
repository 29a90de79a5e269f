//! Decoding single values: what was expected, what was found, in words.

use std::path::PathBuf;

use super::diagnostic::{Problems, suggest};
use super::source::Location;
use super::tree::{Node, Value};

/// A type that can be read from a value of a study.
pub(crate) trait Decode: Sized {
    /// Reads the value; `None` where that failed, with at least one problem pushed.
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// What a value of this type looks like, with its article: "a number", "a string or a list".
    fn expected() -> String;
}

/// A decoded value that remembers where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    /// Where it was written.
    pub(crate) at: Location,
}

impl<T: Decode> Decode for Spanned<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        Some(Self {
            value: T::decode(node, problems)?,
            at: node.at.clone(),
        })
    }

    fn expected() -> String {
        T::expected()
    }
}

impl Decode for String {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::String(text) => Some(text.clone()),
            _ => {
                problems.mismatch(node, &Self::expected());
                None
            }
        }
    }

    fn expected() -> String {
        "a string".into()
    }
}

/// The path as written; [`super::Sources::resolve_path`] says what it is relative to.
impl Decode for PathBuf {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.as_str() {
            Some(text) if !text.is_empty() => Some(text.into()),
            _ => {
                problems.mismatch(node, &Self::expected());
                None
            }
        }
    }

    fn expected() -> String {
        "a path".into()
    }
}

impl Decode for bool {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Boolean(flag) => Some(flag),
            _ => {
                problems.mismatch(node, &Self::expected());
                None
            }
        }
    }

    fn expected() -> String {
        "`true` or `false`".into()
    }
}

/// Finite numbers; an integer is a number too.
impl Decode for f64 {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Float(number) if number.is_finite() => Some(number),
            Value::Float(_) => {
                problems.mismatch(node, "a finite number");
                None
            }
            Value::Integer(number) => Some(number as f64),
            _ => {
                problems.mismatch(node, &Self::expected());
                None
            }
        }
    }

    fn expected() -> String {
        "a number".into()
    }
}

/// Whole numbers within the type's range.
macro_rules! decode_integer {
    ($($type:ty: $expected:expr),+ $(,)?) => {$(
        impl Decode for $type {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let decoded = match node.value {
                    Value::Integer(number) => <$type>::try_from(number).ok(),
                    _ => None,
                };
                if decoded.is_none() {
                    problems.mismatch(node, &Self::expected());
                }
                decoded
            }

            fn expected() -> String {
                $expected.into()
            }
        }
    )+};
}

decode_integer! {
    i64: "an integer",
    u64: "an integer of 0 or more",
    usize: "an integer of 0 or more",
    u32: "an integer from 0 to 4294967295",
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            problems.mismatch(node, &Self::expected());
            return None;
        };
        // Every item is decoded before any failure counts, so that every bad item is told.
        let decoded: Vec<Option<T>> = items.iter().map(|item| T::decode(item, problems)).collect();
        decoded.into_iter().collect()
    }

    fn expected() -> String {
        "a list".into()
    }
}

/// What a study says with one of a few names: modes, sites, units.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Each name, what it stands for, and what it means, empty where the name says all. Of several names for one value the first is the
    /// usual one.
    const CHOICES: &'static [(&'static str, Self, &'static str)];

    /// The usual name.
    fn name(self) -> &'static str {
        let mut choices = Self::CHOICES.iter();
        let named = choices.find(|(_, value, _)| *value == self);
        named.map_or("", |(name, ..)| name)
    }
}

impl<T: Choice> Decode for T {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        let choices = T::CHOICES.iter().map(|(name, value, _)| (*name, *value));
        choice(node, problems, &choices.collect::<Vec<_>>())
    }

    fn expected() -> String {
        String::expected()
    }
}

/// Reads one of a few names, with a suggestion where it is none of them.
pub(crate) fn choice<T: Clone>(
    node: &Node,
    problems: &mut Problems,
    choices: &[(&str, T)],
) -> Option<T> {
    let name = String::decode(node, problems)?;
    if let Some((_, value)) = choices.iter().find(|(known, _)| *known == name) {
        return Some(value.clone());
    }
    let known = || choices.iter().map(|(known, _)| *known);
    let quoted: Vec<String> = known().map(|known| format!("`{known}`")).collect();
    let message = format!("{} cannot be `{name}`", node.at.subject());
    let diagnostic = problems
        .error_at(&node.at, message)
        .help(format!("it is one of {}", quoted.join(", ")));
    match suggest(&name, known()) {
        Some(meant) => diagnostic.label(format!("did you mean `{meant}`?")),
        None => diagnostic.label("not a known name"),
    };
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::load_text;
    use super::*;

    /// Decodes the value of `x = …`.
    fn decode<T: Decode>(value: &str) -> Result<T, String> {
        let text = format!("x = {value}\n");
        let document = load_text(Path::new("s.toml"), &text, &[]).unwrap();
        let mut problems = Problems::default();
        let node = document.root.as_table().unwrap().get("x").unwrap();
        let decoded = T::decode(node, &mut problems);
        match problems.finish(&document.sources) {
            Ok(()) => Ok(decoded.unwrap()),
            Err(problems) => {
                assert!(decoded.is_none());
                Err(problems.to_string())
            }
        }
    }

    #[test]
    fn good_values_decode() {
        assert_eq!(decode("\"a\""), Ok("a".to_string()));
        assert_eq!(decode("\"a/b\""), Ok(PathBuf::from("a/b")));
        assert_eq!(decode("true"), Ok(true));
        assert_eq!(decode("-3"), Ok(-3_i64));
        assert_eq!(decode("3"), Ok(3_u64));
        assert_eq!(decode("4294967295"), Ok(u32::MAX));
        assert_eq!(decode("3"), Ok(3.0_f64));
        assert_eq!(decode("-2.5e1"), Ok(-25.0_f64));
        assert_eq!(decode("[1, 2]"), Ok(vec![1_usize, 2]));
        assert_eq!(decode("[]"), Ok(Vec::<f64>::new()));
        let spanned: Spanned<f64> = decode("1.5").unwrap();
        assert_eq!((spanned.value, spanned.at.span()), (1.5, Some(4..7)));
    }

    #[test]
    fn a_wrong_type_says_what_was_expected_and_found() {
        let expected = "\
error: `x` is the string `ten`, not a number
 --> s.toml:1:5
  |
1 | x = \"ten\"
  |     ^^^^^ expected a number";
        assert_eq!(decode::<f64>("\"ten\""), Err(expected.into()));
    }

    #[test]
    fn every_bad_item_is_told() {
        let expected = "\
error: `x[0]` is the integer `-1`, not an integer from 0 to 4294967295
 --> s.toml:1:6
  |
1 | x = [-1, 2, 0.5]
  |      ^^ expected an integer from 0 to 4294967295

error: `x[2]` is the number `0.5`, not an integer from 0 to 4294967295
 --> s.toml:1:13
  |
1 | x = [-1, 2, 0.5]
  |             ^^^ expected an integer from 0 to 4294967295";
        assert_eq!(decode::<Vec<u32>>("[-1, 2, 0.5]"), Err(expected.into()));
    }

    #[test]
    fn messages_name_what_was_found() {
        let first_line = |result: Result<(), String>| {
            let text = result.unwrap_err();
            text.lines().next().unwrap().to_string()
        };
        let number = |value| first_line(decode::<f64>(value).map(|_| ()));
        assert_eq!(
            number("nan"),
            "error: `x` is the number `NaN`, not a finite number"
        );
        assert_eq!(
            number("-inf"),
            "error: `x` is the number `-inf`, not a finite number"
        );
        assert_eq!(
            number("true"),
            "error: `x` is the boolean `true`, not a number"
        );
        assert_eq!(number("[1]"), "error: `x` is a list, not a number");
        assert_eq!(number("{}"), "error: `x` is a table, not a number");
        let integer = |value| first_line(decode::<u64>(value).map(|_| ()));
        assert_eq!(
            integer("3.0"),
            "error: `x` is the number `3.0`, not an integer of 0 or more"
        );
        let path = first_line(decode::<PathBuf>("\"\"").map(|_| ()));
        assert_eq!(path, "error: `x` is the string ``, not a path");
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Mode {
        Add,
        Ablate,
    }

    impl Choice for Mode {
        const CHOICES: &[(&str, Self, &str)] =
            &[("add", Self::Add, ""), ("ablate", Self::Ablate, "")];
    }

    #[test]
    fn a_choice_suggests() {
        assert_eq!(decode("\"ablate\""), Ok(Mode::Ablate));
        let expected = "\
error: `x` cannot be `ablat`
 --> s.toml:1:5
  |
1 | x = \"ablat\"
  |     ^^^^^^^ did you mean `ablate`?
  |
  = help: it is one of `add`, `ablate`";
        assert_eq!(decode::<Mode>("\"ablat\""), Err(expected.into()));
    }
}
