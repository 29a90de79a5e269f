//! The study as it runs in the folder of the archive: `extends` and overrides applied, and every path one of that folder.

use std::fmt::Write;

use crate::plan::Opened;
use crate::spec::{Node, Value, field_path};

use super::super::layout;
use super::contents::{model_folders, prompt_files, selection_of};
use super::withhold::Withholding;

/// Stands at its head.
const HEAD: &str = "\
# The study of this run, with everything that it extends and was given on the command line, to be run in this folder.
# As its author wrote it, it is in as-given/. A model's source is its folder here, which has no weights; to compute something,
# name it with `--set models.NAME.source=SOURCE`.
";

/// A value as TOML has it: a table, or text.
enum Item {
    Table(Vec<(String, Item)>),
    Text(String),
}

/// The text of the study.
pub(super) fn text(opened: &Opened, withholding: &Withholding) -> String {
    let mut root = item_of(&opened.study.document.root);
    if let Some(Item::Table(models)) = root.get_mut("models") {
        models.retain(|(name, _)| opened.inputs.models.contains_key(name));
    }
    set(&mut root, &["study", "name"], quoted(&opened.study.name));
    for (name, folder) in model_folders(opened) {
        set(&mut root, &["models", &name, "source"], quoted(&folder));
    }
    for (name, file) in prompt_files(opened) {
        set(&mut root, &["prompts", &name, "path"], quoted(&file));
        if withholding.withheld.sets.contains_key(&name) {
            set(&mut root, &["prompts", &name, "share"], "false".to_string());
        }
        if let Some((_, file)) = selection_of(opened, &name) {
            let fields = ["prompts", &name, "draw", "selection"];
            let file = withholding.selection_place(&name, file);
            set(&mut root, &fields, quoted(&file));
        }
    }
    if !opened.inputs.files.is_empty() {
        set(&mut root, &["import", "folder"], quoted(layout::FILES));
    }
    let mut text = HEAD.to_string();
    write_table(&root, "", &mut text);
    text
}

impl Item {
    fn get_mut(&mut self, name: &str) -> Option<&mut Item> {
        match self {
            Item::Table(entries) => {
                let mut entries = entries.iter_mut();
                entries
                    .find(|(known, _)| known == name)
                    .map(|(_, item)| item)
            }
            Item::Text(_) => None,
        }
    }
}

fn item_of(node: &Node) -> Item {
    match &node.value {
        Value::Table(table) => Item::Table(
            table
                .iter()
                .map(|(key, node)| (key.name.clone(), item_of(node)))
                .collect(),
        ),
        _ => Item::Text(inline(node)),
    }
}

/// Sets a value, and makes the tables that lead to it; a new one comes first.
fn set(root: &mut Item, fields: &[&str], value: String) {
    let [field, rest @ ..] = fields else {
        *root = Item::Text(value);
        return;
    };
    if root.get_mut(field).is_none()
        && let Item::Table(entries) = root
    {
        entries.insert(0, ((*field).to_string(), Item::Table(Vec::new())));
    }
    if let Some(item) = root.get_mut(field) {
        set(item, rest, value);
    }
}

/// A value on one line.
fn inline(node: &Node) -> String {
    match &node.value {
        Value::String(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "nan".to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(flag) => flag.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Table(table) => {
            let entries = table.iter();
            let entries =
                entries.map(|(key, node)| format!("{} = {}", key_of(&key.name), inline(node)));
            let entries: Vec<String> = entries.collect();
            match entries.is_empty() {
                true => "{}".to_string(),
                false => format!("{{ {} }}", entries.join(", ")),
            }
        }
    }
}

/// A text in quotes, as TOML and JSON both have it.
fn quoted(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.replace('\u{7f}', "\\u007F")
}

/// A name as it stands before `=` and between dots.
fn key_of(name: &str) -> String {
    match field_path("", name) {
        bare if bare == name => bare,
        _ => quoted(name),
    }
}

/// Writes the fields of a table, then the tables in it, each under a header of its own.
fn write_table(table: &Item, path: &str, text: &mut String) {
    let Item::Table(entries) = table else {
        return;
    };
    for (name, item) in entries {
        if let Item::Text(value) = item {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} = {value}", key_of(name));
        }
    }
    for (name, item) in entries {
        if let Item::Table(inner) = item {
            let path = match path {
                "" => key_of(name),
                path => format!("{path}.{}", key_of(name)),
            };
            let has_fields = inner.iter().any(|(_, item)| matches!(item, Item::Text(_)));
            if has_fields || inner.is_empty() {
                let _ = writeln!(text, "\n[{path}]");
            }
            write_table(item, &path, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::spec::load_text;

    use super::*;

    /// What is written is read back as the same tree, in the same order.
    #[test]
    fn a_study_is_read_back_as_it_was() {
        let given = r#"
[study]
question = """two
lines, a "quote" and \u007F"""
[models."org/a b"]
source = "x"
[chat]
system = false
template_arguments = { enable_thinking = false, "odd key" = [1, { a = -0.0 }] }
[prompts.main]
path = "p.jsonl"
draw = { seed = 3, harmful = 2 }
[stages.steer]
alpha = [-1, 0.5, 1e-300, 12345678.9]
seed = "0..3"
empty = []
nothing = {}
"#;
        let tree = |text: &str| {
            let document = load_text(Path::new("s.toml"), text, &[]).unwrap();
            serde_yaml::to_string(&document.root).unwrap()
        };
        let document = load_text(Path::new("s.toml"), given, &[]).unwrap();
        let mut text = String::new();
        write_table(&item_of(&document.root), "", &mut text);
        assert_eq!(tree(&text), tree(given), "{text}");
    }

    #[test]
    fn paths_are_set_in_sections_that_are_there_or_not() {
        let mut root = Item::Table(Vec::new());
        set(
            &mut root,
            &["models", "a.b", "source"],
            quoted("models/a.b"),
        );
        set(&mut root, &["study", "name"], quoted("s"));
        set(&mut root, &["models", "a.b", "source"], quoted("other"));
        let mut text = String::new();
        write_table(&root, "", &mut text);
        let expected = "\n[study]\nname = \"s\"\n\n[models.\"a.b\"]\nsource = \"other\"\n";
        assert_eq!(text, expected);
    }
}
