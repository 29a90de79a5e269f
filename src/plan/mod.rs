//! The plan: what a study would do, before it does it.
//!
//! [`Study`] is the file made typed; [`open_study`] reads and checks it, and opens what it names; [`stage_key`] says what a stage's
//! output depends on; [`Plan`] walks the graph and says of each stage whether it is cached, would run, or waits for another;
//! [`explain`] says what has changed since the most similar earlier run.

mod chat;
mod estimate;
mod explain;
mod findings;
mod graph;
mod key;
mod record;
#[cfg(test)]
mod recorded_tests;
mod resolve;
mod schema;
mod sections;
mod status;
mod study;
mod trust;
mod why;

pub(crate) use explain::{Explanation, explain};
#[cfg(test)]
pub(crate) use key::stage_key;
pub(crate) use key::{key_of, key_parts, study_key};
pub(crate) use record::{ArtifactRecord, StoredOutput, TableRecord, stored_artifacts};
pub use record::{StageRecord, load_artifacts};
pub(crate) use resolve::PlanError;
pub use resolve::{Fetch, Opened, open_study};
pub(crate) use schema::schema;
pub use status::Plan;
pub(crate) use status::{PlannedStage, Status};
pub(crate) use study::{StageSpec, Study};
pub(crate) use trust::{cached_value, discard, set_aside_records};
#[cfg(test)]
pub(crate) use why::Part;
pub(crate) use why::{Difference, Nearest};
