//! `--set path.to.key=value`: one value of a study given on the command line.

use toml::de::{DeTable, DeValue};

use super::diagnostic::Problems;
use super::read_toml;
use super::source::{Location, SourceId, Sources, field_path};
use super::tree::{Key, Node, Value};

/// Comes before every override in its source, so that messages show what was typed.
const FLAG: &str = "--set ";

/// Puts the value of one override into the tree, in place of whatever was there.
///
/// The value is read as TOML; what is not TOML is taken as a string, so that paths and names need no quotes.
pub(super) fn apply(root: &mut Node, text: &str, sources: &mut Sources, problems: &mut Problems) {
    let source = sources.add_command_line(format!("{FLAG}{text}"));
    let all = Location::new(source, Some(FLAG.len()..FLAG.len() + text.len()), "");
    let malformed = |problems: &mut Problems, label: &str| {
        let message = format!("an override is written `path.to.key=value`, not `{text}`");
        problems.error_at(&all, message).label(label);
    };
    let Some((path, value)) = text.split_once('=') else {
        return malformed(problems, "there is no `=`");
    };
    let Some(keys) = keys(path, source) else {
        return malformed(problems, "what stands before `=` is not a dotted path");
    };
    let Some(target) = keys.last().map(|key| &*key.at.path) else {
        return;
    };
    let indent = value.len() - value.trim_start().len();
    let place = (source, FLAG.len() + path.len() + 1 + indent);
    if let Some(node) = read_toml::read_value(value.trim(), place, target, problems) {
        put(root, keys, node, problems);
    }
}

/// Splits a dotted path with TOML's own rules for quoting; `None` where it is not one.
fn keys(path: &str, source: SourceId) -> Option<Vec<Key>> {
    if path.contains(['\n', '\r']) {
        return None;
    }
    let line = format!("{path} = 0");
    let document = DeTable::parse(&line).ok()?;
    let mut table = document.get_ref();
    let mut keys: Vec<Key> = Vec::new();
    loop {
        let (name, value) = table.iter().next()?;
        let parent = keys.last().map_or("", |key| &key.at.path);
        let at = field_path(parent, name.get_ref());
        let span = name.span().start + FLAG.len()..name.span().end + FLAG.len();
        keys.push(Key {
            name: name.get_ref().to_string(),
            at: Location::new(source, Some(span), &at),
        });
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(keys),
        }
    }
}

/// Walks down from the root, making the tables that are missing.
fn put(root: &mut Node, keys: Vec<Key>, node: Node, problems: &mut Problems) {
    if keys.first().is_some_and(|key| key.name == "extends") {
        problems
            .error_at(&node.at, "`extends` cannot be set on the command line")
            .help("write it in the study file");
        return;
    }
    let mut parent = root;
    let mut keys = keys.into_iter().peekable();
    while let Some(key) = keys.next() {
        let found = parent.value.describe();
        let Value::Table(table) = &mut parent.value else {
            let subject = parent.at.subject();
            let message = format!("{subject} is {found}, so nothing can be set inside it");
            problems
                .error_at(&key.at, message)
                .label(format!("{subject} is not a table"))
                .related(&parent.at, "its value");
            return;
        };
        if keys.peek().is_none() {
            table.insert(key, node);
            return;
        }
        parent = table.entry(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{load_text, to_yaml};

    const STUDY: &str = "[models.inst]\nsource = \"a.gguf\"\n[stages.steer]\nalpha = [1, 2]\n";

    fn set(overrides: &[&str]) -> Result<String, String> {
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        match load_text(Path::new("study.toml"), STUDY, &overrides) {
            Ok(document) => Ok(to_yaml(&document.root).unwrap()),
            Err(problems) => Err(problems.to_string()),
        }
    }

    #[test]
    fn values_are_toml_or_else_strings() {
        let overrides = [
            "models.inst.source=some/path.gguf",
            "stages.steer.alpha = [0, 1.5]",
            "stages.steer.seed=0..20",
            "stages.score.threshold=-1",
            "prompts.\"x.y\".path='z'",
        ];
        let expected = "\
models:
  inst:
    source: some/path.gguf
stages:
  steer:
    alpha:
    - 0
    - 1.5
    seed: 0..20
  score:
    threshold: -1
prompts:
  x.y:
    path: z
";
        assert_eq!(set(&overrides), Ok(expected.into()));
    }

    #[test]
    fn the_last_override_of_a_value_wins() {
        let text = set(&["stages.steer.alpha=1", "stages.steer.alpha=2"]).unwrap();
        assert!(text.contains("alpha: 2"), "{text}");
    }

    #[test]
    fn an_override_that_sets_nothing_is_shown() {
        let expected = "\
error: an override is written `path.to.key=value`, not `stages.steer.alpha`
 |
 | --set stages.steer.alpha
 |       ^^^^^^^^^^^^^^^^^^ there is no `=`

error: an override is written `path.to.key=value`, not `a..b=3`
 |
 | --set a..b=3
 |       ^^^^^^ what stands before `=` is not a dotted path

error: an override is written `path.to.key=value`, not `=3`
 |
 | --set =3
 |       ^^ what stands before `=` is not a dotted path";
        assert_eq!(
            set(&["stages.steer.alpha", "a..b=3", "=3"]),
            Err(expected.into())
        );
    }

    #[test]
    fn a_path_through_a_value_is_an_error_with_both_places() {
        let expected = "\
error: `stages.steer.alpha` is a list, so nothing can be set inside it
  |
  | --set stages.steer.alpha.x=3
  |                          ^ `stages.steer.alpha` is not a table
  |
 ::: study.toml:4:9
  |
4 | alpha = [1, 2]
  |         ------ its value";
        assert_eq!(set(&["stages.steer.alpha.x=3"]), Err(expected.into()));
    }

    #[test]
    fn a_date_and_extends_are_refused() {
        let expected = "\
error: a date is not a value dial uses
 |
 | --set models.inst.source=2024-01-01
 |                          ^^^^^^^^^^ a date
 |
 = help: write it in quotes if it is a name

error: `extends` cannot be set on the command line
 |
 | --set extends=b.toml
 |               ^^^^^^
 |
 = help: write it in the study file";
        assert_eq!(
            set(&["models.inst.source=2024-01-01", "extends=b.toml"]),
            Err(expected.into())
        );
    }
}
