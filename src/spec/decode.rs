//! Decoding single values: what was expected, what was found, in words.

use std::path::PathBuf;

use super::diagnostic::Problems;
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

/// Types of one value: what it looks like, and which values it is read from.
macro_rules! scalars {
    ($($(#[doc = $doc:literal])* $type:ty: $expected:literal, $value:pat $(if $is_good:expr)? => $decoded:expr;)+) => {$(
        $(#[doc = $doc])*
        impl Decode for $type {
            fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
                let decoded = match &node.value {
                    $value $(if $is_good)? => $decoded,
                    _ => None,
                };
                decoded.or_else(|| problems.mismatch(node, $expected))
            }

            fn expected() -> String {
                $expected.into()
            }
        }
    )+};
}

scalars! {
    String: "a string", Value::String(text) => Some(text.clone());
    /// The path as written; [`super::Sources::resolve_path`] says what it is relative to.
    PathBuf: "a path", Value::String(text) if !text.is_empty() => Some(text.into());
    bool: "`true` or `false`", Value::Boolean(flag) => Some(*flag);
    i64: "an integer", Value::Integer(number) => Some(*number);
    u64: "an integer of 0 or more", Value::Integer(number) => (*number).try_into().ok();
    usize: "an integer of 0 or more", Value::Integer(number) => (*number).try_into().ok();
}

/// Finite numbers; an integer is a number too.
impl Decode for f64 {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        match node.value {
            Value::Float(number) if number.is_finite() => Some(number),
            Value::Float(_) => problems.mismatch(node, "a finite number"),
            Value::Integer(number) => Some(number as f64),
            _ => problems.mismatch(node, &Self::expected()),
        }
    }

    fn expected() -> String {
        "a number".into()
    }
}

/// What a study says with one of a few names: modes, sites, units.
pub(crate) trait Choice: Copy + PartialEq + 'static {
    /// Each name, what it stands for, and what it means, empty where the name says all. Of several names for one value the first is the
    /// usual one.
    const CHOICES: &'static [(&'static str, Self, &'static str)];

    /// The usual name.
    fn name(self) -> &'static str {
        let named = Self::CHOICES.iter().find(|(_, value, _)| *value == self);
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
    problems
        .error_at(&node.at, message)
        .suggest(&name, known(), "not a known name")
        .help(format!("it is one of {}", quoted.join(", ")));
    None
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{OneOrMany, load_text};
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
        assert_eq!(decode("3"), Ok(3.0_f64));
        assert_eq!(decode("-2.5e1"), Ok(-25.0_f64));
        let spanned: Spanned<f64> = decode("1.5").unwrap();
        assert_eq!((spanned.value, spanned.at.span), (1.5, Some(4..7)));
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
error: `x[0]` is the integer `-1`, not an integer of 0 or more
 --> s.toml:1:6
  |
1 | x = [-1, 2, 0.5]
  |      ^^ expected an integer of 0 or more

error: `x[2]` is the number `0.5`, not an integer of 0 or more
 --> s.toml:1:13
  |
1 | x = [-1, 2, 0.5]
  |             ^^^ expected an integer of 0 or more";
        assert_eq!(
            decode::<OneOrMany<u64>>("[-1, 2, 0.5]"),
            Err(expected.into())
        );
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
