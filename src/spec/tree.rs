//! The tree of values that a study file becomes, whatever it was written in.

use std::collections::HashMap;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value as Json;

use super::source::Location;

/// One value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Where it was written: the value itself in TOML, the key before it in YAML, the header of a TOML table.
    pub(crate) at: Location,
}

/// What a study file can say. There are no dates and no nulls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    String(String),
    Integer(i64),
    /// A number with a point or an exponent; it may be NaN or infinite until it is decoded.
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(Table),
}

/// The name of a field and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) at: Location,
}

/// Named values in the order they were written; every name occurs once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: Vec<(Key, Node)>,
    /// Where each name stands among the entries.
    places: HashMap<String, usize>,
}

impl Table {
    pub(crate) fn get(&self, name: &str) -> Option<&Node> {
        let place = *self.places.get(name)?;
        self.entries.get(place).map(|(_, node)| node)
    }

    /// The names and values, in the order they were written.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Key, &Node)> {
        self.entries.iter().map(|(key, node)| (key, node))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Node> {
        let place = self.places.remove(name)?;
        for later in self.places.values_mut().filter(|later| **later > place) {
            *later -= 1;
        }
        Some(self.entries.remove(place).1)
    }

    /// Puts a value in, in the place of an earlier one of that name or at the end.
    pub(super) fn insert(&mut self, key: Key, node: Node) {
        match self.places.get(&key.name) {
            Some(&place) => self.entries[place] = (key, node),
            None => self.push(key, node),
        }
    }

    /// Lays a value over the one of its name; what is new stands at the end.
    pub(super) fn lay(&mut self, key: Key, node: Node) {
        match self.places.get(&key.name) {
            Some(&place) => {
                let (old_key, old) = &mut self.entries[place];
                *old_key = key;
                old.lay(node);
            }
            None => self.push(key, node),
        }
    }

    fn push(&mut self, key: Key, node: Node) {
        self.places.insert(key.name.clone(), self.entries.len());
        self.entries.push((key, node));
    }

    /// The value named `name`, put in from `new` if it was not there.
    pub(super) fn entry(&mut self, name: &str, new: impl FnOnce() -> (Key, Node)) -> &mut Node {
        let place = self.places.get(name).copied().unwrap_or_else(|| {
            let (key, node) = new();
            self.push(key, node);
            self.entries.len() - 1
        });
        &mut self.entries[place].1
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.entries == other.entries
    }
}

impl IntoIterator for Table {
    type Item = (Key, Node);
    type IntoIter = std::vec::IntoIter<(Key, Node)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl Node {
    /// Lays `over` on this: tables are merged field by field, anything else is replaced.
    pub(super) fn lay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(table), Value::Table(over)) => {
                for (key, node) in over {
                    table.lay(key, node);
                }
            }
            (value, over) => *value = over,
        }
        self.at = over.at;
    }

    /// A value that a program gives in the place of one that was not written, as if it stood at `at`.
    pub(super) fn of_json(value: &Json, at: &Location) -> Self {
        let value = match value {
            Json::Null => Value::Table(Table::default()),
            Json::Bool(flag) => Value::Boolean(*flag),
            Json::Number(number) => match number.as_i64() {
                Some(number) => Value::Integer(number),
                None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => {
                Value::Array(items.iter().map(|item| Self::of_json(item, at)).collect())
            }
            Json::Object(entries) => {
                let mut table = Table::default();
                for (name, value) in entries {
                    let (name, node) = (name.clone(), Self::of_json(value, at));
                    table.push(
                        Key {
                            name,
                            at: at.clone(),
                        },
                        node,
                    );
                }
                Value::Table(table)
            }
        };
        let at = at.clone();
        Self { value, at }
    }

    pub(crate) fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Value {
    /// The value in words for a message: "the string `ten`", "a list".
    pub(crate) fn describe(&self) -> String {
        const LONGEST: usize = 40;
        match self {
            Self::String(text) if text.chars().count() > LONGEST => {
                let start: String = text.chars().take(LONGEST).collect();
                format!("the string `{start}…`")
            }
            Self::String(text) => format!("the string `{text}`"),
            Self::Integer(number) => format!("the integer `{number}`"),
            Self::Float(number) => format!("the number `{number:?}`"),
            Self::Boolean(flag) => format!("the boolean `{flag}`"),
            Self::Array(_) => "a list".into(),
            Self::Table(_) => "a table".into(),
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::String(text) => serializer.serialize_str(text),
            Value::Integer(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Boolean(flag) => serializer.serialize_bool(*flag),
            Value::Array(items) => serializer.collect_seq(items),
            Value::Table(table) => {
                let mut map = serializer.serialize_map(Some(table.len()))?;
                for (key, node) in table.iter() {
                    map.serialize_entry(&key.name, node)?;
                }
                map.end()
            }
        }
    }
}

/// Writes a tree as YAML, fields in the order of the tree, places forgotten.
#[cfg(test)]
pub(super) fn to_yaml(node: &Node) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(node)
}
