//! An engine without a model: the value of a cell is made of its key.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde_json::{Value as Json, json};

use crate::cache::Key;
use crate::model::{Cell, Cells, ModelConfig, ModelError, Step, Value};
use crate::run::engine::Engine;
use crate::stages::Inputs;

/// Hears, before a block of values, how many cells were computed before it; may wait, or fail.
type BeforeBlock = Box<dyn FnMut(usize) -> Result<(), ModelError> + Send>;

/// What it does can be set; by default it gives every value, all at once.
pub(super) struct Fake {
    pub(super) models: HashMap<blake3::Hash, ModelConfig>,
    /// Set where the person asks to stop.
    pub(super) stop: Arc<AtomicBool>,
    /// Values that come at once.
    pub(super) block: usize,
    /// Puts the cells' numbers into the order in which they are computed.
    pub(super) order: fn(&mut Vec<usize>),
    pub(super) before_block: BeforeBlock,
    /// Whether a cell has no value; also the length of the longest prompt.
    pub(super) lacks: fn(&Cell, usize) -> bool,
    pub(super) value: fn(&Cell) -> Value,
    /// The keys of the cells that were given a value, in order.
    pub(super) computed: Vec<Key>,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            models: HashMap::new(),
            stop: Arc::default(),
            block: usize::MAX,
            order: |_| {},
            before_block: Box::new(|_| Ok(())),
            lacks: |_, _| false,
            value: value_of,
            computed: Vec::new(),
        }
    }
}

impl Fake {
    /// Takes the models of a study for its own.
    pub(super) fn know(&mut self, inputs: &Inputs) {
        let models = inputs.models.values();
        self.models = models
            .map(|model| (model.fingerprint, model.config().clone()))
            .collect();
    }
}

/// A score that differs from cell to cell.
pub(super) fn value_of(cell: &Cell) -> Value {
    let key = cell.key();
    let bytes = key.as_bytes().first_chunk().unwrap();
    Value::Score(f64::from(u32::from_le_bytes(*bytes)) / f64::from(u32::MAX) - 0.5)
}

impl Engine for Fake {
    fn models(&self) -> HashMap<blake3::Hash, ModelConfig> {
        self.models.clone()
    }

    fn provenance(&self) -> Json {
        json!({ "device": "none" })
    }

    fn compute(
        &mut self,
        cells: &dyn Cells,
        on_step: &mut dyn FnMut(Step) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ModelError> {
        let lengths = (0..cells.count()).map(|number| cells.cell(number).tokens.len());
        let longest = lengths.max().unwrap_or_default();
        let mut numbers: Vec<usize> = (0..cells.count()).collect();
        (self.order)(&mut numbers);
        let mut lacking = Vec::new();
        for block in numbers.chunks(self.block) {
            (self.before_block)(self.computed.len())?;
            let mut values = Vec::new();
            for &number in block {
                let cell = cells.cell(number);
                if (self.lacks)(&cell, longest) {
                    lacking.push(cell);
                    continue;
                }
                self.computed.push(cell.key().into());
                values.push((number, (self.value)(&cell)));
            }
            let flow = on_step(Step::Values(values));
            if flow.is_break() {
                return Ok(flow);
            }
        }
        match lacking.first() {
            None => Ok(ControlFlow::Continue(())),
            Some(cell) => Err(ModelError::Cells {
                first: format!("{}: no value", cell.tokens.label()),
                more: lacking.len() - 1,
            }),
        }
    }
}
