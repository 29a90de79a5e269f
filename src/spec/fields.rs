//! Reading one table field by field, so that what is missing, wrong or unknown is all told.

use serde_json::Value as Json;

use super::decode::Decode;
use super::diagnostic::Problems;
use super::source::Location;
use super::tree::{Key, Node, Table};

/// A list of known fields longer than this is no help.
const LONGEST_HELP: usize = 20;

/// Reads the fields of one table. Ask for every field the table may have, then call [`Fields::finish`].
pub(crate) struct Fields<'n, 'p> {
    table: &'n Table,
    /// Where the table was written.
    pub(crate) at: &'n Location,
    /// The collector, for problems between fields.
    pub(crate) problems: &'p mut Problems,
    /// The names of the fields asked for so far.
    pub(crate) known: Vec<&'static str>,
    /// Names of entries that the user chose.
    named: Vec<&'n str>,
}

impl<'n, 'p> Fields<'n, 'p> {
    /// Starts on `node`; `None`, with the problem pushed, where it is not a table.
    pub(crate) fn new(node: &'n Node, problems: &'p mut Problems) -> Option<Self> {
        let Some(table) = node.as_table() else {
            return problems.mismatch(node, "a table");
        };
        Some(Self {
            table,
            at: &node.at,
            problems,
            known: Vec::new(),
            named: Vec::new(),
        })
    }

    /// The tables among the entries that were not asked for, whose names are the user's; these count as known.
    pub(crate) fn named_tables(&mut self) -> Vec<(&'n Key, &'n Node)> {
        let known = &self.known;
        let others = self.table.iter();
        let others = others
            .filter(|(key, node)| node.as_table().is_some() && !known.contains(&key.name.as_str()));
        let others: Vec<(&'n Key, &'n Node)> = others.collect();
        self.named
            .extend(others.iter().map(|(key, _)| key.name.as_str()));
        others
    }

    /// The value of a field, not decoded; the field counts as known.
    pub(crate) fn node(&mut self, name: &'static str) -> Option<&'n Node> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        self.table.get(name)
    }

    /// The value of a field that somebody else reads.
    pub(crate) fn peek(&self, name: &str) -> Option<&'n Node> {
        self.table.get(name)
    }

    /// A field that must be there; `None`, with the problem pushed, where it is missing or cannot be decoded.
    pub(crate) fn required<T: Decode>(&mut self, name: &'static str) -> Option<T> {
        if let Some(node) = self.node(name) {
            return T::decode(node, self.problems);
        }
        let subject = self.at.subject();
        self.problems
            .error_at(self.at, format!("{subject} has no field `{name}`"))
            .label(format!("`{name}` is missing"))
            .help(format!("give it {}", T::expected()));
        None
    }

    /// A field that may be left out; `None` where it is, or, with the problem pushed, where it cannot be decoded.
    pub(crate) fn optional<T: Decode>(&mut self, name: &'static str) -> Option<T> {
        T::decode(self.node(name)?, self.problems)
    }

    /// A field with a default, as the study would have it, which also stands in, with the problem pushed, where the value cannot be
    /// decoded.
    pub(crate) fn or<T: Decode>(&mut self, name: &'static str, default: &Json) -> Option<T> {
        self.optional(name)
            .or_else(|| T::decode(&Node::of_json(default, self.at), self.problems))
    }

    /// Reports every field of the table that was not asked for.
    pub(crate) fn finish(self) {
        let subject = self.at.subject();
        let quoted: Vec<String> = self.known.iter().map(|name| format!("`{name}`")).collect();
        for (key, _) in self.table.iter() {
            let name = key.name.as_str();
            if self.known.contains(&name) || self.named.contains(&name) {
                continue;
            }
            let message = format!("{subject} has an unknown field `{}`", key.name);
            let diagnostic = self.problems.error_at(&key.at, message);
            diagnostic.suggest(&key.name, self.known.iter().copied(), "unknown field");
            if (1..=LONGEST_HELP).contains(&quoted.len()) {
                diagnostic.help(format!("known fields: {}", quoted.join(", ")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{OneOrMany, load_text};
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Steer {
        alpha: Vec<f64>,
        layer: usize,
        threshold: f64,
        name: Option<String>,
    }

    impl Decode for Steer {
        fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
            let mut fields = Fields::new(node, problems)?;
            let alpha = fields.required::<OneOrMany<f64>>("alpha");
            let layer = fields.required("layer");
            let threshold = fields.or("threshold", &Json::from(0.5));
            let name = fields.optional("name");
            fields.finish();
            Some(Self {
                alpha: alpha?.values().copied().collect(),
                layer: layer?,
                threshold: threshold?,
                name,
            })
        }

        fn expected() -> String {
            "a table".into()
        }
    }

    /// Decodes `stages.steer` of the study.
    fn steer(name: &str, text: &str, overrides: &[&str]) -> Result<Steer, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        let document = load_text(Path::new(name), text, &overrides).unwrap();
        let mut problems = Problems::default();
        let stages = document.root.as_table().unwrap().get("stages").unwrap();
        let node = stages.as_table().unwrap().get("steer").unwrap();
        let decoded = Steer::decode(node, &mut problems);
        match problems.finish(&document.sources) {
            Ok(()) => Ok(decoded.unwrap()),
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[test]
    fn a_good_table_decodes() {
        let text = "[stages.steer]\nalpha = [0, 1]\nlayer = 3\n";
        let expected = Steer {
            alpha: vec![0.0, 1.0],
            layer: 3,
            threshold: 0.5,
            name: None,
        };
        assert_eq!(steer("s.toml", text, &[]), Ok(expected));
    }

    #[test]
    fn an_unknown_field_has_a_suggestion() {
        let text = "[stages.steer]\nalpha = 1\nlayer = 3\ntreshold = 0.1\nzebra = 1\n";
        let expected = "\
error: `stages.steer` has an unknown field `treshold`
 --> s.toml:4:1
  |
4 | treshold = 0.1
  | ^^^^^^^^ did you mean `threshold`?
  |
  = help: known fields: `alpha`, `layer`, `threshold`, `name`

error: `stages.steer` has an unknown field `zebra`
 --> s.toml:5:1
  |
5 | zebra = 1
  | ^^^^^ unknown field
  |
  = help: known fields: `alpha`, `layer`, `threshold`, `name`";
        assert_eq!(steer("s.toml", text, &[]), Err(expected.into()));
    }

    #[test]
    fn all_errors_are_told_at_once() {
        let text = "[stages.steer]\nalpha = \"ten\"\nname = 7\n";
        let expected = "\
error: `stages.steer` has no field `layer`
 --> s.toml:1:1
  |
1 | [stages.steer]
  | ^^^^^^^^^^^^^^ `layer` is missing
  |
  = help: give it an integer of 0 or more

error: `stages.steer.alpha` is the string `ten`, not a number
 --> s.toml:2:9
  |
2 | alpha = \"ten\"
  |         ^^^^^ expected a number

error: `stages.steer.name` is the integer `7`, not a string
 --> s.toml:3:8
  |
3 | name = 7
  |        ^ expected a string";
        assert_eq!(steer("s.toml", text, &[]), Err(expected.into()));
    }

    #[test]
    fn an_error_points_into_an_override() {
        let text = "[stages.steer]\nalpha = 1\nlayer = 3\n";
        let overrides = ["stages.steer.alpha=[0, \"x\"]", "stages.steer.lajer=2"];
        let expected = "\
error: `stages.steer.alpha[1]` is the string `x`, not a number
 |
 | --set stages.steer.alpha=[0, \"x\"]
 |                              ^^^ expected a number

error: `stages.steer` has an unknown field `lajer`
 |
 | --set stages.steer.lajer=2
 |                    ^^^^^ did you mean `layer`?
 |
 = help: known fields: `alpha`, `layer`, `threshold`, `name`";
        assert_eq!(steer("s.toml", text, &overrides), Err(expected.into()));
    }

    #[test]
    fn yaml_errors_point_at_the_nearest_key() {
        let text = "stages:\n  steer:\n    alpha: [0, x]\n    layer: -1\n";
        let expected = "\
error: `stages.steer.alpha[1]` is the string `x`, not a number
 --> s.yaml:3:5
  |
3 |     alpha: [0, x]
  |     ^^^^^ expected a number

error: `stages.steer.layer` is the integer `-1`, not an integer of 0 or more
 --> s.yaml:4:5
  |
4 |     layer: -1
  |     ^^^^^ expected an integer of 0 or more";
        assert_eq!(steer("s.yaml", text, &[]), Err(expected.into()));
    }

    #[test]
    fn what_is_not_a_table_is_told() {
        let expected = "\
error: `stages.steer` is the integer `3`, not a table
 --> s.toml:2:9
  |
2 | steer = 3
  |         ^ expected a table";
        assert_eq!(
            steer("s.toml", "[stages]\nsteer = 3\n", &[]),
            Err(expected.into())
        );
    }
}
