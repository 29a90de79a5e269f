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
mod status;
mod study;
mod trust;
mod why;

pub use estimate::Estimate;
pub use explain::{Explanation, explain};
pub use key::{key_of, key_parts, stage_key, study_key};
pub use record::{
    ArtifactRecord, StageRecord, StoredOutput, TableRecord, load_artifacts, stored_artifacts,
};
pub use resolve::{Fetch, Opened, PlanError, open_study};
pub use status::{Plan, PlannedStage, Status};
pub use study::{ModelSpec, StageSpec, Study};
pub use trust::{cached_value, discard, set_aside_records};
pub use why::{Difference, Nearest, Part};
