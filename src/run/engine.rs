//! What computes cells: models on this machine, or in tests nothing but made-up numbers.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value as Json;

use crate::machine;
use crate::model::{
    self, Cells, DeviceName, LoadedModel, ModelConfig, ModelError, ModelHandle, Provenance, Step,
};
use crate::stages::Inputs;

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
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError>;
}

/// Models on this machine: loaded when a cell is missing, dropped when another needs the room.
pub(super) struct LocalEngine {
    device: DeviceName,
    /// Bytes for the prefixes of each model; half of what is free where none is given.
    prefix_bytes: Option<usize>,
    /// By fingerprint.
    models: HashMap<blake3::Hash, Arc<ModelHandle>>,
    loaded: HashMap<blake3::Hash, LoadedModel>,
}

impl LocalEngine {
    pub(super) fn new(inputs: &Inputs, device: DeviceName, prefix_bytes: Option<usize>) -> Self {
        let models = inputs.models.values();
        LocalEngine {
            device,
            prefix_bytes,
            models: models
                .map(|model| (model.fingerprint, Arc::clone(model)))
                .collect(),
            loaded: HashMap::new(),
        }
    }

    /// Loads a model. Two models are never needed at once, so the others go where memory is short.
    fn load(&mut self, model: &ModelHandle) -> Result<LoadedModel, ModelError> {
        let needed = weight_bytes(model);
        if machine::memory().is_some_and(|memory| needed * 2 > memory.available_bytes) {
            self.loaded.clear();
        }
        let half_of_free = || {
            let free = machine::memory().map(|memory| memory.available_bytes);
            free.map_or(2 << 30, |free| free.saturating_sub(needed) / 2)
        };
        let budget = self.prefix_bytes.unwrap_or_else(half_of_free);
        let started = Instant::now();
        let evaluator = model::load(model, self.device, budget)?;
        tracing::info!(
            model = model.name,
            seconds = started.elapsed().as_secs_f64(),
            prefix_bytes = budget,
            "model loaded"
        );
        Ok(evaluator)
    }
}

impl Engine for LocalEngine {
    fn models(&self) -> HashMap<blake3::Hash, ModelConfig> {
        let models = self.models.iter();
        models
            .map(|(fingerprint, model)| (*fingerprint, model.config().clone()))
            .collect()
    }

    fn provenance(&self) -> Json {
        serde_json::to_value(Provenance::here(self.device)).unwrap_or_default()
    }

    fn compute(
        &mut self,
        cells: &dyn Cells,
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        if cells.count() == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        let fingerprint = cells.cell(0).model;
        if !self.loaded.contains_key(&fingerprint) {
            let model = self.models.get(&fingerprint).cloned().ok_or_else(|| {
                ModelError::Internal("a cell of a model that was not opened".to_string())
            })?;
            // Before anything is reckoned with what may be anybody's numbers.
            model.check_weights()?;
            let flow = on_step(Step::Loading {
                model: model.name.clone(),
            });
            if flow.is_break() {
                return Ok(flow);
            }
            let evaluator = self.load(&model)?;
            self.loaded.insert(fingerprint, evaluator);
        }
        let loaded = self.loaded.get_mut(&fingerprint);
        let evaluate =
            loaded.ok_or_else(|| ModelError::Internal("a model was not loaded".to_string()))?;
        evaluate(cells, on_step)
    }
}

/// Bytes of a model's weights in its working dtype.
fn weight_bytes(model: &ModelHandle) -> usize {
    let shapes = model.config().parameter_shapes();
    let elements: usize = shapes
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    elements * model.dtype.size()
}
