//! Where COSMIC compares activations: the layers at which the prompts that made the directions are least alike.

use std::collections::HashMap;

use polars::prelude::DataFrame;

use crate::model::{Cell, Value};
use crate::prompts::PromptSet;
use crate::stages::direction::Direction;
use crate::stages::table::Rows;
use crate::stages::{Evaluate, StageError};
use crate::stats;

use super::measure::{Ask, Lab, Sides, mean_stream};

/// The share of the layers at which activations are compared.
const COMPARED: f64 = 0.1;

/// A layer, and how alike the mean activations of both sides are at what it gives.
pub(super) struct Alike {
    pub(super) layer: usize,
    /// None where a mean is zero.
    cosine: Option<f64>,
    /// Whether it is one of those that are compared at.
    pub(super) is_compared: bool,
}

/// At how many layers activations are compared: `int(0.10 * n_layers)` there, here one at least.
pub(super) fn compared_layers(n_layers: usize) -> usize {
    ((n_layers as f64 * COMPARED) as usize).max(1)
}

impl Lab<'_> {
    /// Every layer, and at which of them these sides are least alike; of equals the first.
    ///
    /// # Errors
    /// Those of the evaluator.
    pub(super) fn alike(
        &self,
        sides: &Sides,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Alike>, StageError> {
        let n_layers = self.model.config().n_layers;
        let both = || sides.harmful.iter().chain(&sides.harmless);
        let of_layer =
            |layer: usize| both().map(move |&prompt| self.cell(prompt, &[], &Ask::Output(layer)));
        let cells: Vec<Cell> = (0..n_layers).flat_map(of_layer).collect();
        let mut values = evaluator.evaluate(&cells)?.into_iter();
        let mut mean = |prompts: &[usize]| {
            let of_side: Vec<Value> = values.by_ref().take(prompts.len()).collect();
            mean_stream(of_side)
        };
        let mut all = Vec::new();
        for layer in 0..n_layers {
            let (harmful, harmless) = (mean(&sides.harmful)?, mean(&sides.harmless)?);
            all.push(Alike {
                layer,
                cosine: stats::cosine(&harmful, &harmless)?,
                is_compared: false,
            });
        }
        // What is no number is last, as NumPy sorts it.
        let alike = |&layer: &usize| all[layer].cosine.unwrap_or(f64::NAN);
        let mut layers: Vec<usize> = (0..n_layers).collect();
        layers.sort_by(|a, b| alike(a).total_cmp(&alike(b)));
        for layer in layers.into_iter().take(compared_layers(n_layers)) {
            all[layer].is_compared = true;
        }
        Ok(all)
    }
}

/// The prompts that made some directions, by index into a set: A for harmful ones, and B. None where they are not all in it.
pub(super) fn makers(directions: &[Direction], prompts: &PromptSet) -> Option<Sides> {
    let numbered = prompts.prompts.iter().zip(0..);
    let by_id: HashMap<&str, usize> = numbered.map(|(p, i)| (p.id.as_str(), i)).collect();
    let find = |of: fn(&Direction) -> &Vec<String>| -> Option<Vec<usize>> {
        let mut found = Vec::new();
        for direction in directions {
            for id in of(direction) {
                let index = *by_id.get(id.as_str())?;
                let is_maker = direction.builders.contains(&prompts.prompts[index].text);
                is_maker.then(|| found.push(index))?;
            }
        }
        found.sort_unstable();
        found.dedup();
        (!found.is_empty()).then_some(found)
    };
    Some(Sides {
        harmful: find(|direction| &direction.top)?,
        harmless: find(|direction| &direction.bottom)?,
    })
}

/// The layers, and at which of them activations are compared.
pub(super) fn table(layers: &[Alike]) -> Result<DataFrame, StageError> {
    Rows::of(layers)
        .integer("layer", |at| at.layer as i64)
        .number("cosine", |at| at.cosine)
        .flag("compared", |at| at.is_compared)
        .frame()
}
