//! What computes cells: models on this machine ([`super::local`]), or in tests nothing but made-up numbers.

use std::collections::HashMap;
use std::ops::ControlFlow;

use serde_json::Value as Json;

use crate::model::{Cells, ModelConfig, ModelError, Value};

/// Computes blocks of cells. What is cached, who else computes, and what is kept is not its concern.
pub(super) trait Engine {
    /// The models it has, by fingerprint.
    fn models(&self) -> HashMap<blake3::Hash, ModelConfig>;

    /// Where and with what it computes: a JSON object, kept with the values and in no key.
    fn provenance(&self) -> Json;

    /// Computes cells of one of its models, distinct ones, in the order that suits the work. `on_step` hears of progress and takes the
    /// values. After every step what came before may be committed, and the work ends where `on_step` breaks: then that is the result.
    ///
    /// # Errors
    /// At once where no cell can be computed any more; [`ModelError::Cells`] for cells that have no value, when all others are done.
    fn compute(
        &mut self,
        cells: &dyn Cells,
        on_step: &mut dyn FnMut(Step<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError>;
}

/// What an engine tells while it computes.
pub(super) enum Step<'a> {
    /// The weights of the model of that name are about to be loaded.
    Loading { model: &'a str },
    /// So many of the prompts that are needed now are prefilled.
    Prefilled { done: usize, total: usize },
    /// Values that are final, by number of the cell, each once and finite.
    Values(Vec<(usize, Value)>),
}
