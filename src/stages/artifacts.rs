//! What a stage left, as later stages read it: directions in memory, tables when they are asked for.

use std::fmt;
use std::sync::Arc;

use polars::prelude::DataFrame;

use super::{Direction, Output, StageError, table};

/// Reads a table from where it is kept.
type Read = dyn Fn() -> Result<DataFrame, StageError> + Send + Sync;

/// The tables and directions of a stage that has run. A table is read when somebody needs it and held by nobody else: most are written once
/// and looked at by a person.
#[derive(Clone, Default)]
pub struct Artifacts {
    tables: Vec<(String, Arc<Read>)>,
    /// Directions, in a fixed order.
    pub(crate) directions: Vec<Direction>,
}

impl Artifacts {
    /// Directions, and no tables yet.
    pub(crate) fn of_directions(directions: Vec<Direction>) -> Self {
        Artifacts {
            tables: Vec::new(),
            directions,
        }
    }

    /// Adds a table by its name (empty: the main one) and how it is read.
    pub(crate) fn add_table(
        &mut self,
        name: &str,
        read: impl Fn() -> Result<DataFrame, StageError> + Send + Sync + 'static,
    ) {
        self.tables.push((name.to_string(), Arc::new(read)));
    }

    /// The tables' names, in order; the main one's is empty.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.tables.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub(crate) fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|(n, _)| n == name)
    }

    /// The table of that name (empty: the main one).
    ///
    /// # Errors
    /// [`StageError::Internal`] when there is none; those of reading it.
    pub(crate) fn table(&self, name: &str) -> Result<DataFrame, StageError> {
        let found = self.tables.iter().find(|(n, _)| n == name);
        let (_, read) =
            found.ok_or_else(|| StageError::Internal(format!("there is no table `{name}`")))?;
        read()
    }

    /// All tables by name, in order.
    pub(crate) fn tables(&self) -> Result<Vec<(String, DataFrame)>, StageError> {
        let read = |(name, read): &(String, Arc<Read>)| Ok((name.clone(), read()?));
        self.tables.iter().map(read).collect()
    }
}

impl fmt::Debug for Artifacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.tables.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Artifacts")
            .field("tables", &names)
            .field("directions", &self.directions)
            .finish()
    }
}

/// An output that is held in memory.
impl From<Output> for Artifacts {
    fn from(output: Output) -> Self {
        let mut artifacts = Artifacts::of_directions(output.directions);
        for (name, parts) in output.parts {
            artifacts.add_table(&name, move || table::whole(parts.as_ref()));
        }
        for (name, table) in output.tables {
            artifacts.add_table(&name, move || Ok(table.clone()));
        }
        artifacts
    }
}
