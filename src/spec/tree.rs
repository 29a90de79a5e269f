//! The tree of values that a study file becomes, whatever it was written in.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::source::Location;

/// One value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it was written: the value itself in TOML, the key before it in YAML, the header of a TOML table.
    pub at: Location,
}

/// What a study file can say. There are no dates and no nulls.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// A whole number.
    Integer(i64),
    /// A number with a point or an exponent; it may be NaN or infinite until it is decoded.
    Float(f64),
    /// `true` or `false`.
    Boolean(bool),
    /// A list.
    Array(Vec<Node>),
    /// Named values.
    Table(Table),
}

/// The name of a field and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// The name.
    pub name: String,
    /// Where the name was written.
    pub at: Location,
}

/// Named values in the order they were written; every name occurs once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(pub(super) Vec<(Key, Node)>);

impl Table {
    /// The value named `name`.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.iter()
            .find(|(key, _)| key.name == name)
            .map(|(_, node)| node)
    }

    /// The names and values, in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Node)> {
        self.0.iter().map(|(key, node)| (key, node))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the value named `name` out.
    pub(super) fn remove(&mut self, name: &str) -> Option<Node> {
        let index = self.0.iter().position(|(key, _)| key.name == name)?;
        Some(self.0.remove(index).1)
    }

    /// Puts a value in, in the place of an earlier one of that name or at the end.
    pub(super) fn insert(&mut self, key: Key, node: Node) {
        match self.0.iter_mut().find(|(old, _)| old.name == key.name) {
            Some(entry) => *entry = (key, node),
            None => self.0.push((key, node)),
        }
    }

    /// The value named `name`, put in from `new` if it was not there.
    pub(super) fn entry(&mut self, name: &str, new: impl FnOnce() -> (Key, Node)) -> &mut Node {
        let index = self.0.iter().position(|(key, _)| key.name == name);
        let index = index.unwrap_or_else(|| {
            self.0.push(new());
            self.0.len() - 1
        });
        &mut self.0[index].1
    }
}

impl Node {
    /// The table, if this is one.
    pub fn as_table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Value {
    /// The value in words for a message: "the string `ten`", "a list".
    pub fn describe(&self) -> String {
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
///
/// # Errors
/// Where the YAML writer refuses a value; none that a study file can hold is known to be refused.
pub fn to_yaml(node: &Node) -> Result<String, serde_yaml::Error> {
    serde_yaml::to_string(node)
}
