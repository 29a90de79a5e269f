//! The names that a file has for the fields with a meaning, where a study says them.

use serde::{Deserialize, Serialize};

use super::collect::Names;

/// The fields of a file that are a prompt's id, text, split and category; none where the names that are usual are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Columns {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prompt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) split: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) category: Option<String>,
}

impl Columns {
    /// Each field with a meaning, and what it is called in the file.
    pub(crate) fn said(&self) -> [(&'static str, Option<&str>); 4] {
        [
            ("id", self.id.as_deref()),
            ("prompt", self.prompt.as_deref()),
            ("split", self.split.as_deref()),
            ("category", self.category.as_deref()),
        ]
    }

    /// Two fields that are said to be the same in the file, and its name.
    pub(crate) fn given_twice(&self) -> Option<[&str; 3]> {
        let said = self.said();
        let with_others = said.iter().enumerate();
        let mut pairs =
            with_others.flat_map(|(at, one)| said[at + 1..].iter().map(move |other| (one, other)));
        pairs.find_map(|(one, other)| match one.1 {
            Some(name) if one.1 == other.1 => Some([one.0, other.0, name]),
            _ => None,
        })
    }

    /// Whether none is said.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Columns::default()
    }

    /// Whether prompts of a file without ids get some: where columns are said, and none for the id.
    pub(super) fn makes_ids(&self) -> bool {
        !self.is_empty() && self.id.is_none()
    }

    /// These names, where they are said, in place of the usual ones.
    pub(super) fn names(&self, mut usual: Names) -> Names {
        for (names, (_, said)) in usual.iter_mut().zip(self.said()) {
            if let Some(said) = said {
                *names = vec![said.to_string()];
            }
        }
        usual
    }
}
