//! The plan: what a study would do, before it does it.
//!
//! [`Study`] is the file made typed; [`open_study`] reads and checks it, and opens what it names; [`stage_key`] says what a stage's
//! output depends on; a [`Walk`] goes over the stages and knows which are cached; on it, [`Plan`] counts what each would compute,
//! [`Lock`] is what a study was found to be, for later comparison; [`explain`] says what has changed since the most similar earlier run, and `run` runs them.

mod chat;
mod estimate;
mod explain;
mod graph;
mod key;
mod lock;
mod one_model;
mod record;
#[cfg(test)]
mod recorded_tests;
pub(crate) mod reference;
mod resolve;
mod schema;
mod sections;
mod selection;
mod status;
mod study;
mod trust;
mod walk;
mod why;

use crate::cache::CacheError;
use crate::stages::StageError;

pub(crate) use explain::{Explanation, explain};
#[cfg(test)]
pub(crate) use key::stage_key;
pub(crate) use key::{key_of, study_key};
pub(crate) use lock::{Change, Concern, Environment, Lock, LockError, LockedFile, Pins};
pub(crate) use one_model::open_one_model;
pub(crate) use record::{
    ArtifactRecord, DrawnRecord, ModelParts, Record, TableRecord, describe, file_of_direction,
    is_incomplete, load_directions, read_direction, store, stored_artifacts,
};
pub use record::{StageRecord, load_artifacts};
pub use resolve::{Fetch, Opened, open_study};
pub(crate) use resolve::{PlanError, open_selected};
pub(crate) use schema::schema;
pub(crate) use selection::Selection;
pub use status::Plan;
pub(crate) use status::{PlannedStage, Status};
pub(crate) use study::{StageSpec, Study};
pub(crate) use trust::{cached_value, discard, set_aside_records};
pub(crate) use walk::{Next, State, Visited, Walk};
#[cfg(test)]
pub(crate) use why::Part;
pub(crate) use why::{Difference, Nearest};

impl From<CacheError> for StageError {
    fn from(error: CacheError) -> Self {
        StageError::Cache(error.to_string())
    }
}
