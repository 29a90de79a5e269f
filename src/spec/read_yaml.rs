//! YAML text to a tree.
//!
//! The YAML parser tells where a syntax error is but not where a value stands, so places come from `locate_yaml`.
//! A value whose own key was not found takes the place of the nearest value around it; the dotted path in the
//! message then says which one is meant.

use std::collections::HashMap;
use std::ops::Range;

use serde::de::DeserializeSeed;
use serde_yaml::Value as Yaml;

use super::bounds::{LONGEST_NAME, Room};
use super::diagnostic::Problems;
use super::locate_yaml::{self, Twice};
use super::parse_yaml::Values;
use super::source::{Location, SourceId, field_path, item_path};
use super::tree::{Key, Node, Table, Value};

/// The most that opening brackets times bytes of text may come to: some seconds of the YAML library's work, at worst. The library stops at
/// 128 levels, but only after it has read the whole text, in which every open bracket costs time with every token.
const MOST_WORK: usize = 4_000_000_000;

/// Reads a YAML document; `None` where it cannot be a study, with the reasons pushed.
pub(super) fn read(
    text: &str,
    source: SourceId,
    room: &mut Room,
    problems: &mut Problems,
) -> Option<Node> {
    let body = without_mark(text);
    let brackets = body.matches(['[', '{']).count();
    if brackets.saturating_mul(body.len()) > MOST_WORK {
        let message = format!("the file holds {brackets} of the brackets `[` and `{{`");
        problems
            .error_at(&Location::new(source, None, ""), message)
            .note("so many could take hours to read")
            .help("write a long list with `-` and one value a line, or the study in TOML");
        return None;
    }
    let yaml = match Values(room).deserialize(serde_yaml::Deserializer::from_str(body)) {
        // An empty file is an empty study, as in TOML.
        Ok(Yaml::Null) => Yaml::Mapping(Default::default()),
        Ok(yaml) => yaml,
        Err(_) if room.is_full() => {
            problems.no_room(room, source);
            return None;
        }
        Err(error) => {
            report(&error, text, source, problems);
            return None;
        }
    };
    let mut reader = Reader {
        source,
        places: locate_yaml::locate(text).places,
        room,
        problems,
    };
    let root = reader.node(yaml, "", None)?;
    if root.as_table().is_none() {
        return problems.mismatch(&root, "a table of fields");
    }
    Some(root)
}

fn report(error: &serde_yaml::Error, text: &str, source: SourceId, problems: &mut Problems) {
    let message = error.to_string();
    if message.contains("duplicate entry with key") {
        let twice = locate_yaml::locate(text).twice;
        report_twice(&twice, source, problems);
        if !twice.is_empty() {
            return;
        }
    }
    let Some(place) = error.location() else {
        return problems.syntax(&Location::new(source, None, ""), "YAML", message);
    };
    let start = offset(text, place.index());
    let at = Location::new(source, Some(start..start), "");
    let echo = format!(" at line {} column {}", place.line(), place.column());
    problems.syntax(&at, "YAML", message.replacen(&echo, "", 1));
}

fn report_twice(twice: &[Twice], source: SourceId, problems: &mut Problems) {
    for (index, (path, first, second)) in twice.iter().enumerate() {
        let mut earlier = twice[..index].iter();
        if earlier.any(|(outer, ..)| is_inside(path, outer)) {
            continue;
        }
        let at = |span: &Range<usize>| Location::new(source, Some(span.clone()), path);
        problems
            .error_at(&at(second), format!("the key `{path}` is given twice"))
            .label("already given above")
            .related(&at(first), "first given here");
    }
}

/// The text after its byte order mark, which some editors write and the YAML parser takes for a document of its own.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Whether the value at `path` lies within the value at `outer`.
fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The byte at which a character stands, counted as the YAML parser counts.
fn offset(text: &str, character: usize) -> usize {
    let body = without_mark(text);
    let within = body.char_indices().nth(character);
    text.len() - body.len() + within.map_or(body.len(), |(byte, _)| byte)
}

/// Turns the YAML crate's values into ours.
struct Reader<'r> {
    source: SourceId,
    places: HashMap<String, Range<usize>>,
    room: &'r mut Room,
    problems: &'r mut Problems,
}

impl Reader<'_> {
    /// The place of the value at `path`, or else of the value that it is in.
    fn at(&self, path: &str, outer: Option<&Location>) -> Location {
        let own = self.places.get(path);
        let span = own.or_else(|| outer?.span.as_ref());
        Location::new(self.source, span.cloned(), path)
    }

    fn node(&mut self, yaml: Yaml, path: &str, outer: Option<&Location>) -> Option<Node> {
        if !self.room.take(path.len()) {
            self.problems.no_room(self.room, self.source);
            return None;
        }
        let at = self.at(path, outer);
        let value = match yaml {
            Yaml::String(text) => Value::String(text),
            Yaml::Bool(flag) => Value::Boolean(flag),
            Yaml::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(integer), _) => Value::Integer(integer),
                (None, Some(float)) if number.is_f64() => Value::Float(float),
                _ => {
                    self.problems.large_integer(&at);
                    return None;
                }
            },
            Yaml::Sequence(items) => {
                let items = items.into_iter().enumerate();
                let items =
                    items.filter_map(|(i, item)| self.node(item, &item_path(path, i), Some(&at)));
                Value::Array(items.collect())
            }
            Yaml::Mapping(entries) => Value::Table(self.table(entries, &at)),
            Yaml::Null => {
                let message = format!("{} has no value", at.subject());
                self.problems
                    .error_at(&at, message)
                    .help("give it one, or leave the line out");
                return None;
            }
            Yaml::Tagged(tagged) => {
                let message = format!("{} has the tag `{}`", at.subject(), tagged.tag);
                self.problems
                    .error_at(&at, message)
                    .label("tags mean nothing here");
                return None;
            }
        };
        Some(Node { value, at })
    }

    fn table(&mut self, entries: serde_yaml::Mapping, outer: &Location) -> Table {
        let mut table = Table::default();
        for (name, value) in entries {
            let Yaml::String(name) = name else {
                let name = serde_yaml::to_string(&name).unwrap_or_default();
                let (name, outer_name) = (name.trim_end(), outer.subject());
                let message = format!("the key `{name}` in {outer_name} is not a string");
                self.problems
                    .error_at(outer, message)
                    .help("write it in quotes");
                continue;
            };
            if name.len() > LONGEST_NAME {
                self.problems.long_name(outer, &name);
                continue;
            }
            let path = field_path(&outer.path, &name);
            let at = self.at(&path, Some(outer));
            if let Some(node) = self.node(value, &path, Some(outer)) {
                table.insert(Key { name, at }, node);
            }
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{load_text, to_yaml};

    fn errors(text: &str) -> String {
        load_text(Path::new("study.yaml"), text, &[])
            .map(|document| panic!("read as {:?}", document.root))
            .unwrap_or_else(|problems| problems.to_string())
    }

    #[test]
    fn yaml_and_toml_give_the_same_tree() {
        let toml =
            "name = \"s\"\n[stages.steer]\nalpha = [0, -1.5]\nseed = \"0..20\"\nhot = true\n";
        let toml = load_text(Path::new("study.toml"), toml, &[]).unwrap();
        let written = to_yaml(&toml.root).unwrap();
        let yaml = load_text(Path::new("study.yml"), &written, &[]).unwrap();
        assert_eq!(to_yaml(&yaml.root).unwrap(), written);
        let empty = load_text(Path::new("study.yml"), "# nothing\n", &[]).unwrap();
        assert_eq!(to_yaml(&empty.root).unwrap(), "{}\n");
    }

    #[test]
    fn a_syntax_error_has_a_caret() {
        let expected = "\
error: the file is not valid YAML
 --> study.yaml:3:7
  |
3 |   seed: 3
  |       ^ did not find expected ',' or ']', while parsing a flow sequence at line 2 column 10";
        assert_eq!(errors("steer:\n  alpha: [0, 1\n  seed: 3\n"), expected);
    }

    #[test]
    fn a_duplicate_key_shows_both_places() {
        let expected = "\
error: the key `a.b` is given twice
 --> study.yaml:4:3
  |
2 |   b: 1
  |   - first given here
3 |   c: 2
4 |   b: 3
  |   ^ already given above";
        assert_eq!(errors("a:\n  b: 1\n  c: 2\n  b: 3\n"), expected);
    }

    #[test]
    fn what_a_study_cannot_hold_is_refused() {
        let expected = "\
error: `a` has no value
 --> study.yaml:1:1
  |
1 | a:
  | ^
  |
  = help: give it one, or leave the line out

error: `b` has the tag `!t`
 --> study.yaml:2:1
  |
2 | b: !t 1
  | ^ tags mean nothing here

error: the key `1` in `c` is not a string
 --> study.yaml:3:1
  |
3 | c: { 1: 2 }
  | ^
  |
  = help: write it in quotes

error: `d` is an integer beyond 64 bits
 --> study.yaml:4:1
  |
4 | d: 10000000000000000000
  | ^ too large";
        assert_eq!(
            errors("a:\nb: !t 1\nc: { 1: 2 }\nd: 10000000000000000000\n"),
            expected
        );
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        let deep = errors(&format!("{}1\n", "- ".repeat(1000)));
        assert!(deep.contains("^ recursion limit exceeded"), "{deep}");
        let expected = "\
error: the file holds 100000 of the brackets `[` and `{`
--> study.yaml
 = note: so many could take hours to read
 = help: write a long list with `-` and one value a line, or the study in TOML";
        let mut shown: Vec<String> = Vec::new();
        shown.extend(
            errors(&format!("a: {}", "[".repeat(100_000)))
                .lines()
                .map(String::from),
        );
        let mut expected: Vec<&str> = expected.lines().collect();
        shown.sort();
        expected.sort();
        assert_eq!(shown, expected);
        let wide = format!("a: [{}]", "[1],".repeat(10_000));
        assert!(load_text(Path::new("study.yaml"), &wide, &[]).is_ok());
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let long = "é".repeat(200);
        let expected = format!(
            "\
error: the name `{}…` is too long
 --> study.yaml:1:1
  |
1 | a:
  | ^ longer than 255 bytes",
            "é".repeat(40)
        );
        assert_eq!(errors(&format!("a:\n  {long}: 1\n")), expected);
    }

    #[test]
    fn a_list_is_not_a_study() {
        let expected = "\
error: the study is a list, not a table of fields
--> study.yaml";
        assert_eq!(errors("- a\n"), expected);
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let expected = "\
error: `a` has no value
 --> study.yaml:1:2
  |
1 | \u{feff}a:
  | ^
  |
  = help: give it one, or leave the line out";
        assert_eq!(errors("\u{feff}a:\nb: 1\n"), expected);
    }

    #[test]
    fn columns_are_characters() {
        assert_eq!(super::offset("ä: é\nüx\n", 6), 9);
        assert_eq!(super::offset("a\n", 9), 2);
        assert_eq!(super::offset("\u{feff}ab\n", 1), 4);
    }
}
