//! The tree of values that a study file becomes, whatever it was written in.

use std::collections::HashMap;

use serde::{Serialize, Serializer};
use serde_json::Value as Json;

use super::bounds::shortened;
use super::source::Location;

/// One value and where it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Where it was written: the value itself in TOML, the key before it in YAML, the header of a TOML table.
    #[serde(skip)]
    pub(crate) at: Location,
}

/// What a study file can say. There are no dates and no nulls.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
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
#[derive(Clone, Debug, Default, PartialEq)]
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
            None => {
                self.places.insert(key.name.clone(), self.entries.len());
                self.entries.push((key, node));
            }
        }
    }

    /// The value of that name; an empty table is put in where there is none.
    pub(super) fn entry(&mut self, key: &Key) -> &mut Node {
        if !self.places.contains_key(&key.name) {
            self.insert(key.clone(), Node::empty_table(&key.at));
        }
        &mut self.entries[self.places[&key.name]].1
    }
}

impl Node {
    pub(super) fn empty_table(at: &Location) -> Self {
        Self {
            value: Value::Table(Table::default()),
            at: at.clone(),
        }
    }

    /// Lays `over` on this: tables are merged field by field, anything else is replaced.
    pub(super) fn lay(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Table(table), Value::Table(over)) => {
                for (key, node) in over.entries {
                    match table.places.get(&key.name) {
                        Some(&place) => {
                            let (old_key, old) = &mut table.entries[place];
                            *old_key = key;
                            old.lay(node);
                        }
                        None => table.insert(key, node),
                    }
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
                    let (name, at) = (name.clone(), at.clone());
                    let node = Self::of_json(value, &at);
                    table.insert(Key { name, at }, node);
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
        match self {
            Self::String(text) => format!("the string `{}`", shortened(text)),
            Self::Integer(number) => format!("the integer `{number}`"),
            Self::Float(number) => format!("the number `{number:?}`"),
            Self::Boolean(flag) => format!("the boolean `{flag}`"),
            Self::Array(_) => "a list".into(),
            Self::Table(_) => "a table".into(),
        }
    }
}

impl Serialize for Table {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(key, node)| (&key.name, node)))
    }
}

/// Writes a tree as YAML, fields in the order of the tree, places forgotten.
#[cfg(test)]
pub(super) fn to_yaml(node: &Node) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(node)
}
