//! Finds where the keys and list items of a YAML text stand, for carets.
//!
//! This is not a parser. It walks the lines of block style by their indentation and believes nothing else: flow
//! collections, quoted text over many lines, block scalars and anchored values are skipped with whatever is indented
//! below them. A path that seems to stand in two places is given none.

use std::collections::HashMap;
use std::ops::Range;

use super::read_yaml::without_mark;
use super::source::{field_path, item_path};

/// Paths longer than this are none that a study has; below them nothing is walked.
const LONGEST_PATH: usize = 1000;
/// Bytes that the paths may take together; further ones are given no place.
const MOST_BYTES: usize = 256 << 20;

/// A path that stands in two places, and the first two of them.
pub(super) type Twice = (String, Range<usize>, Range<usize>);

#[derive(Default)]
pub(super) struct Found {
    /// Byte range of the key (or list item) at each dotted path.
    pub(super) places: HashMap<String, Range<usize>>,
    pub(super) twice: Vec<Twice>,
}

/// A key or list item whose contents may follow on deeper lines.
struct Open {
    /// Column of the key or dash, in bytes from 0.
    column: usize,
    path: String,
    is_item: bool,
    /// How many list items stood directly in it so far.
    items: usize,
}

/// Walks `text`, which need not be valid YAML.
pub(super) fn locate(text: &str) -> Found {
    let mut walk = Walk::default();
    let body = without_mark(text);
    let mut start = text.len() - body.len();
    for line in body.split_inclusive('\n') {
        walk.line(line.trim_end(), start);
        start += line.len();
    }
    for (path, ..) in &walk.found.twice {
        walk.found.places.remove(path);
    }
    walk.found
}

#[derive(Default)]
struct Walk {
    found: Found,
    open: Vec<Open>,
    /// What the paths take together so far.
    bytes: usize,
    root_items: usize,
    /// Lines indented deeper than this column belong to a value that is not walked.
    skip_below: Option<usize>,
}

impl Walk {
    /// Reads one line, without its newline, that starts at byte `start`.
    fn line(&mut self, line: &str, start: usize) {
        if self.bytes >= MOST_BYTES {
            return;
        }
        let mut rest = line.trim_start_matches(' ');
        let is_marker = line.starts_with("---") || line.starts_with('%') || line.starts_with("...");
        if rest.is_empty() || rest.starts_with('#') || is_marker {
            return;
        }
        let mut column = line.len() - rest.len();
        match self.skip_below {
            Some(limit) if column > limit => return,
            _ => self.skip_below = None,
        }
        while let Some(item) = dash(rest) {
            let dash_column = column;
            column += rest.len() - item.len();
            rest = item;
            let end = rest.find(" #").unwrap_or(rest.len());
            if !self.item(dash_column, start + column..start + column + end) {
                self.skip_below = Some(dash_column);
                return;
            }
            if rest.is_empty() || rest.starts_with('#') {
                return;
            }
            self.skip_below = Some(dash_column);
        }
        let Some((name, key_length, value)) = split_key(rest) else {
            return;
        };
        let is_walked = self.key(column, name, start + column..start + column + key_length);
        let is_open = is_walked && (value.is_empty() || value.starts_with('#'));
        self.skip_below = (!is_open).then_some(column);
    }

    /// Notes a list item; whether what is inside it is walked.
    fn item(&mut self, column: usize, span: Range<usize>) -> bool {
        // A list may stand in the same column as the key that holds it.
        self.close(|open| open.column > column || (open.column == column && open.is_item));
        let (parent, items) = match self.open.last_mut() {
            Some(parent) => (&*parent.path, &mut parent.items),
            None => ("", &mut self.root_items),
        };
        let path = item_path(parent, *items);
        *items += 1;
        self.enter(column, path, true, span)
    }

    /// Notes a key; whether what is inside it is walked.
    fn key(&mut self, column: usize, name: &str, span: Range<usize>) -> bool {
        self.close(|open| open.column >= column);
        let parent = self.open.last().map_or("", |open| &open.path);
        let path = field_path(parent, name);
        self.enter(column, path, false, span)
    }

    fn close(&mut self, is_over: impl Fn(&Open) -> bool) {
        while self.open.last().is_some_and(&is_over) {
            self.open.pop();
        }
    }

    fn enter(&mut self, column: usize, path: String, is_item: bool, span: Range<usize>) -> bool {
        self.bytes = self.bytes.saturating_add(path.len());
        if path.len() > LONGEST_PATH || self.bytes >= MOST_BYTES {
            return false;
        }
        match self.found.places.get(&path) {
            Some(first) => self.found.twice.push((path.clone(), first.clone(), span)),
            None => drop(self.found.places.insert(path.clone(), span)),
        }
        self.open.push(Open {
            column,
            path,
            is_item,
            items: 0,
        });
        true
    }
}

/// What follows the dash of a list item.
fn dash(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('-')?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim_start())
}

/// The name of the key that starts a line, how many bytes it takes as written, and what follows its colon.
fn split_key(line: &str) -> Option<(&str, usize, &str)> {
    let quote = line.chars().next().filter(|c| matches!(c, '"' | '\''));
    let (name, length) = match quote {
        Some(quote) => {
            let name = line[1..].split(quote).next()?;
            // An escape would make the name differ from its spelling.
            if name.contains('\\') {
                return None;
            }
            (name, name.len() + 2)
        }
        None => {
            let colon = line
                .find(": ")
                .or_else(|| line.strip_suffix(':').map(str::len))?;
            let name = line[..colon].trim_end();
            if name.starts_with(['[', '{', '&', '*', '!', '?', '|', '>', '%', '@', '`']) {
                return None;
            }
            (name, name.len())
        }
    };
    let rest = line.get(length..)?.trim_start().strip_prefix(':')?;
    (rest.is_empty() || rest.starts_with(' ')).then(|| (name, length, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts at the given paths.
    fn texts<'a>(text: &'a str, paths: &[&str]) -> Vec<Option<&'a str>> {
        let found = locate(text);
        let at = |path: &&str| found.places.get(*path).map(|span| &text[span.clone()]);
        paths.iter().map(at).collect()
    }

    #[test]
    fn block_style_is_walked() {
        let text = "\
a: 1 # one
stages:
  steer:   # two
    alpha:
    - 1
    - 2 # three
    \"top p\": 3
  'score': { x: 1 }
runs:
  - name: n
    seed: 1
  -
    name: m
";
        let paths = [
            "a",
            "stages.steer.alpha",
            "stages.steer.alpha[1]",
            "stages.steer.\"top p\"",
            "stages.score",
            "stages.score.x",
            "runs[0].seed",
            "runs[1].name",
        ];
        let expected = [
            Some("a"),
            Some("alpha"),
            Some("2"),
            Some("\"top p\""),
            Some("'score'"),
            None,
            Some("seed"),
            Some("name"),
        ];
        assert_eq!(texts(text, &paths), expected);
    }

    #[test]
    fn what_only_looks_like_a_key_is_not_believed() {
        let text = "\
a: |
  b: 1
c: [1,
  d: 2]
e: &x
  f: 3
- g: 4
";
        let paths = ["a", "a.b", "b", "c.d", "e.f", "f"];
        let expected = [Some("a"), None, None, None, None, None];
        assert_eq!(texts(text, &paths), expected);
    }

    #[test]
    fn what_stands_too_deep_is_passed_over() {
        let text = format!("a: 1\nb:\n  {}1\nc: 2\n", "- ".repeat(50_000));
        let found = locate(&text);
        let longest = found.places.keys().map(String::len).max();
        assert!(longest.is_some_and(|longest| longest <= LONGEST_PATH));
        assert!(found.places.len() < 500);
        assert_eq!(found.places.get("c"), Some(&(100_000 + 12..100_000 + 13)));
    }

    #[test]
    fn a_path_in_two_places_has_none() {
        let found = locate("a: 1\na: 2\n");
        assert!(found.places.is_empty());
        assert_eq!(found.twice, vec![("a".to_string(), 0..1, 5..6)]);
    }
}
