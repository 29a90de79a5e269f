//! TOML text to a tree.

use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::bounds::{LONGEST_NAME, Room};
use super::diagnostic::Problems;
use super::source::{Location, SourceId, field_path, item_path};
use super::tree::{Key, Node, Table, Value};

/// Reads a TOML document; `None` where its syntax is broken, with the reasons pushed.
pub(super) fn read(
    text: &str,
    source: SourceId,
    room: &mut Room,
    problems: &mut Problems,
) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        report(&errors, text, source, problems);
        return None;
    }
    let mut reader = Reader {
        source,
        offset: 0,
        room,
        problems,
    };
    Some(Node {
        value: Value::Table(reader.table(table.get_ref(), "")),
        at: Location::new(source, None, ""),
    })
}

/// Reads one value that stands at byte `offset` of its source; what is not TOML is taken as a string. `None`, with the
/// reason pushed, where it is a value that a study cannot hold.
pub(super) fn read_value(
    text: &str,
    (source, offset): (SourceId, usize),
    path: &str,
    problems: &mut Problems,
) -> Option<Node> {
    let mut reader = Reader {
        source,
        offset,
        room: &mut Room::default(),
        problems,
    };
    match DeValue::parse(text) {
        Ok(value) => reader.node(&value, path),
        Err(_) => Some(Node {
            value: Value::String(text.to_string()),
            at: reader.at(0..text.len(), path),
        }),
    }
}

/// What follows the first syntax error is mostly its echo, so only duplicate keys before it are reported with it.
fn report(errors: &[Error], text: &str, source: SourceId, problems: &mut Problems) {
    for error in errors {
        let span = error.span();
        let at = Location::new(source, span.clone(), "");
        if error.message() != "duplicate key" {
            return problems.syntax(&at, "TOML", error.message());
        }
        let name = span.and_then(|span| text.get(span)).unwrap_or_default();
        problems
            .error_at(&at, format!("the key `{name}` is given twice"))
            .label("already given above");
    }
}

/// Turns the TOML crate's values into ours.
struct Reader<'r> {
    source: SourceId,
    /// Where the text that was parsed starts in its source, in bytes.
    offset: usize,
    room: &'r mut Room,
    problems: &'r mut Problems,
}

impl Reader<'_> {
    fn at(&self, span: Range<usize>, path: &str) -> Location {
        let span = span.start + self.offset..span.end + self.offset;
        Location::new(self.source, Some(span), path)
    }

    fn table(&mut self, table: &DeTable<'_>, path: &str) -> Table {
        let mut entries: Vec<_> = table.iter().collect();
        // The parser's map is sorted by name; the order of the file is the order of the places.
        entries.sort_by_key(|(name, _)| name.span().start);
        let mut table = Table::default();
        for (key, value) in entries {
            let name = key.get_ref();
            if name.len() > LONGEST_NAME {
                let at = self.at(key.span(), path);
                self.problems.long_name(&at, name);
                continue;
            }
            let path = field_path(path, name);
            if let Some(node) = self.node(value, &path) {
                let (name, at) = (name.to_string(), self.at(key.span(), &path));
                table.insert(Key { name, at }, node);
            }
        }
        table
    }

    fn node(&mut self, value: &toml::Spanned<DeValue<'_>>, path: &str) -> Option<Node> {
        let text_bytes = value.get_ref().as_str().map_or(0, str::len);
        if !self.room.take(text_bytes + path.len()) {
            self.problems.no_room(self.room, self.source);
            return None;
        }
        let at = self.at(value.span(), path);
        let value = match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(digits) => {
                let Ok(number) = i64::from_str_radix(digits.as_str(), digits.radix()) else {
                    self.problems.large_integer(&at);
                    return None;
                };
                Value::Integer(number)
            }
            DeValue::Float(digits) => Value::Float(digits.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Datetime(_) => {
                self.problems
                    .error_at(&at, "a date is not a value dial uses")
                    .label("a date")
                    .help("write it in quotes if it is a name");
                return None;
            }
            DeValue::Array(items) => {
                let items = items.iter().enumerate();
                let items = items.filter_map(|(i, item)| self.node(item, &item_path(path, i)));
                Value::Array(items.collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, path)),
        };
        Some(Node { value, at })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{load_text, to_yaml};

    fn errors(text: &str) -> String {
        load_text(Path::new("study.toml"), text, &[])
            .map(|document| panic!("read as {:?}", document.root))
            .unwrap_or_else(|problems| problems.to_string())
    }

    #[test]
    fn the_order_of_the_file_is_kept() {
        let text =
            "z = 0x1F\na = [1_000, -2.5, \"x\"]\n[b.y]\nt = { q = true, c = \"0..20\" }\n[b.a]\n";
        let document = load_text(Path::new("study.toml"), text, &[]).unwrap();
        let expected = "z: 31\na:\n- 1000\n- -2.5\n- x\nb:\n  y:\n    t:\n      q: true\n      c: 0..20\n  a: {}\n";
        assert_eq!(to_yaml(&document.root).unwrap(), expected);
        assert_eq!(document.given(), text);
    }

    #[test]
    fn a_syntax_error_has_a_caret() {
        let expected = "\
error: the file is not valid TOML
 --> study.toml:2:15
  |
2 | alpha = [0, 1,, 2]
  |               ^ extra comma in array, expected value";
        assert_eq!(errors("[steer]\nalpha = [0, 1,, 2]\nseed = \n"), expected);
    }

    #[test]
    fn every_duplicate_key_is_reported() {
        let expected = "\
error: the key `x` is given twice
 --> study.toml:3:1
  |
3 | x = 2
  | ^ already given above

error: the key `a` is given twice
 --> study.toml:4:2
  |
4 | [a]
  |  ^ already given above";
        assert_eq!(errors("[a]\nx = 1\nx = 2\n[a]\ny = 1\n"), expected);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused() {
        let text = format!("[a]\n{} = 1\n", "x".repeat(256));
        let message = errors(&text);
        let first = format!(
            "error: the name `{}…` is too long\n --> study.toml:2:1",
            "x".repeat(40)
        );
        assert!(message.starts_with(&first), "{message}");
        let text = format!("[a]\n{} = 1\n", "x".repeat(255));
        assert!(load_text(Path::new("study.toml"), &text, &[]).is_ok());
    }

    #[test]
    fn what_is_nested_too_deep_is_refused() {
        for text in [
            format!("a = {}{}\n", "[".repeat(1000), "]".repeat(1000)),
            format!("{}a = 1\n", "a.".repeat(1000)),
            format!("a = {}1{}\n", "{a=".repeat(1000), "}".repeat(1000)),
        ] {
            let message = errors(&text);
            assert!(message.contains("recurs"), "{message}");
        }
    }

    #[test]
    fn dates_and_huge_integers_are_refused() {
        let expected = "\
error: a date is not a value dial uses
 --> study.toml:1:7
  |
1 | day = 2024-01-01
  |       ^^^^^^^^^^ a date
  |
  = help: write it in quotes if it is a name

error: `n` is an integer beyond 64 bits
 --> study.toml:2:5
  |
2 | n = 99999999999999999999
  |     ^^^^^^^^^^^^^^^^^^^^ too large";
        assert_eq!(
            errors("day = 2024-01-01\nn = 99999999999999999999\n"),
            expected
        );
    }
}
