//! The models in memory: loaded when a cell is missing, dropped when another needs the room.

use std::time::Instant;

use crate::machine;
use crate::model::{DeviceName, Evaluator, ModelError, ModelHandle};

/// Loaded models by fingerprint.
pub(super) struct LoadedModels {
    device: DeviceName,
    /// Bytes for the prefixes of each model; half of what is free where none is given.
    prefix_bytes: Option<usize>,
    loaded: Vec<(blake3::Hash, Evaluator)>,
}

impl LoadedModels {
    pub(super) fn new(device: DeviceName, prefix_bytes: Option<usize>) -> Self {
        LoadedModels {
            device,
            prefix_bytes,
            loaded: Vec::new(),
        }
    }

    pub(super) fn device(&self) -> DeviceName {
        self.device
    }

    pub(super) fn holds(&self, model: &ModelHandle) -> bool {
        self.loaded
            .iter()
            .any(|(fingerprint, _)| *fingerprint == model.fingerprint())
    }

    /// The model, loaded. Two models are never needed at once, so the others go where memory is short.
    pub(super) fn get(&mut self, model: &ModelHandle) -> Result<&mut Evaluator, ModelError> {
        let fingerprint = model.fingerprint();
        let index = match self.loaded.iter().position(|(f, _)| *f == fingerprint) {
            Some(index) => index,
            None => {
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
                let evaluator = model.load(self.device, budget)?;
                tracing::info!(
                    model = model.name(),
                    seconds = started.elapsed().as_secs_f64(),
                    prefix_bytes = budget,
                    "model loaded"
                );
                self.loaded.push((fingerprint, evaluator));
                self.loaded.len() - 1
            }
        };
        Ok(&mut self.loaded[index].1)
    }
}

/// Bytes of a model's weights in its working dtype.
fn weight_bytes(model: &ModelHandle) -> usize {
    let shapes = model.config().parameter_shapes();
    let elements: usize = shapes
        .iter()
        .map(|(_, shape)| shape.iter().product::<usize>())
        .sum();
    elements * model.dtype().size()
}
