//! What is cached and, where something is not, exactly why. Only stage records are read: no cell, no artifact, no weight.

use crate::cache::{Cache, CacheError};
use crate::stages::Inputs;

use super::study::Study;
use super::walk::{Next, State, Walk};
use super::why::Nearest;

/// Whether a stage is cached, and if not, what keeps it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Explanation {
    pub(crate) stage: String,
    pub(crate) kind: &'static str,
    pub(crate) cached: bool,
    /// Names of the stages it refers to whose output is not there: whether it is cached shows when they have run.
    pub(crate) waits_for: Vec<String>,
    /// Names of its models that are not on this machine.
    pub(crate) unfetched: Vec<String>,
    /// When its output was made, as RFC 3339, where it is cached; empty in records of early versions.
    pub(crate) created: String,
    /// The most similar earlier run and how it differs; none where it is cached, or where no stage of its kind ever ran here.
    pub(crate) nearest: Option<Nearest>,
}

/// Explains every stage of a study. `inputs` come from [`super::open_study`].
///
/// # Errors
/// A cache that cannot be read.
pub(crate) fn explain(
    study: &Study,
    inputs: &Inputs,
    cache: &Cache,
) -> Result<Vec<Explanation>, CacheError> {
    let mut explanations = Vec::new();
    Walk::new(inputs, cache).go(study.stages.iter(), |stage, state, walk| {
        let mut explanation = Explanation {
            stage: stage.spec.name.clone(),
            kind: stage.spec.kind.name,
            ..Explanation::default()
        };
        let next = match state? {
            State::Cached(record) => {
                explanation.cached = true;
                explanation.created.clone_from(&record.created);
                Next::Known(record, None)
            }
            state => {
                if let State::Unknown { models, stages } = state {
                    (explanation.unfetched, explanation.waits_for) = (models, stages);
                }
                explanation.nearest = walk.nearest(&stage)?;
                Next::Unknown
            }
        };
        explanations.push(explanation);
        Ok(next)
    })?;
    Ok(explanations)
}
