//! `random`: the control. Unit vectors from a seeded standard normal, steered like the learned direction.
//!
//! A vector depends on (seed, d_model) alone, so layers share it: libtorch's CPU generator with `manual_seed(seed)`, float32. (The
//! published study drew on the GPU; its vectors cannot be made again elsewhere, their distribution can.) Table: that of a sweep.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use crate::model::{Site, random_unit_vector};
use crate::spec::{Fields, Layers, Problems, Seeds};

use super::declare::{Together, declared, parameters};
use super::parameters::{self, Alphas, Directions, Models, Position, PromptsName, StageOf};
use super::settings::Settings;
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{Cost, Evaluate, Forecast, Inputs, Kind, Name, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = super::kind::<Random>(
    "random",
    1,
    Product::RandomSweep,
    "the same sweep with random directions, as a control",
);

parameters! {
    struct Random {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// The prompts that are scored.
        prompts: PromptsName,
        /// One direction for each seed.
        seed: Seeds,
        /// Layers of the edit, `"all"` for every layer of each model.
        layer: Layers,
        /// Site of the edit.
        site: Site = "resid_pre",
        /// How much of the direction is added, in units of `alpha_unit`.
        alpha: Alphas,
        unit: Unit,
        /// Position of the edit, counted from the end of the prompt: -1 is its last token.
        position: Position = -1,
        settings: Settings,
    }
}

parameters! {
    /// The unit of α. A random direction has no norm of its own: another unit than 1 needs a learned direction to take it from.
    group Unit {
        /// The unit of α.
        alpha_unit: AlphaUnit = "unit",
        /// The stage whose direction at a layer says how long a unit is there; where `alpha_unit` is not `unit`.
        reference: Option<StageOf<Directions>>,
    }
}

impl Together for Unit {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let alpha_unit = fields.optional("alpha_unit").unwrap_or(AlphaUnit::Unit);
        let reference = match alpha_unit {
            AlphaUnit::Unit => None,
            AlphaUnit::PreNorm | AlphaUnit::ResidNorm => Some(fields.required("reference")?),
        };
        Some(Self {
            alpha_unit,
            reference,
        })
    }
}

impl Stage for Random {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast::of_sweep(&self.model, &self.prompts, inputs)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(&self.layer, &self.model, inputs, problems);
        let Some(reference) = &self.unit.reference else {
            return;
        };
        let learned: Vec<usize> = inputs
            .expected_directions(reference)
            .iter()
            .map(|direction| direction.layer)
            .collect();
        let deepest = self.model.iter().map(|m| inputs.n_layers(&m.value)).max();
        let layers = parameters::layers(&self.layer, deepest.unwrap_or(0));
        let without = layers.iter().find(|layer| !learned.contains(layer));
        if let (false, Some(layer)) = (learned.is_empty(), without) {
            let message = format!(
                "stage `{}` makes no direction at layer {layer} to take the unit of α from",
                reference.value
            );
            problems
                .error_at(&reference.at, message)
                .label(format!("it makes directions at {learned:?}"));
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let layers = |model: &Name| {
            let n_layers = inputs.n_layers(&model.value);
            parameters::layers(&self.layer, n_layers).len()
        };
        Cost::of_cells(&[
            self.seed.0.len(),
            self.model.iter().map(layers).sum(),
            self.alpha.len(),
            sweep::prompt_count(inputs, &self.prompts),
        ])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.model)?;
        if models.len() > 1 {
            sweep::tokens_of_each(&models, prompts, &self.settings)?;
        }
        let sets = sweep::sets_by_split(prompts);
        let builders = Arc::new(HashSet::new());
        let (mut sweeps, mut without) = (Vec::new(), BTreeSet::new());
        // Models of different width need vectors of different length.
        for model in models {
            let config = model.config();
            let vectors = self
                .seed
                .iter()
                .map(|seed| Ok((seed, Arc::new(random_unit_vector(seed, config.d_model)?))))
                .collect::<Result<Vec<_>, StageError>>()?;
            let mut lines = Vec::new();
            for layer in parameters::layers(&self.layer, config.n_layers) {
                let Some(unit_length) = self.unit_length(layer, inputs)? else {
                    without.insert(layer);
                    continue;
                };
                for (seed, vector) in &vectors {
                    lines.push(Line {
                        direction: "random".to_string(),
                        seed: Some(*seed),
                        layer,
                        site: self.site,
                        vector: Arc::clone(vector),
                        unit_length,
                        sets: Arc::clone(&sets),
                        builders: Arc::clone(&builders),
                    });
                }
            }
            let sweep = Sweep {
                models: vec![model],
                prompts,
                lines,
                alphas: &self.alpha,
                position: self.position.value,
                mode: Mode::Add,
                settings: &self.settings,
            };
            sweeps.push(sweep.run(evaluator)?);
        }
        Ok(Output {
            parts: Some(Arc::new(sweeps)),
            findings: self.left_out(&without).into_iter().collect(),
            ..Output::default()
        })
    }
}

impl Random {
    /// Length of one unit of α at a layer, by the reference direction there; none where it has none, as long as it has one elsewhere.
    fn unit_length(&self, layer: usize, inputs: &Inputs) -> Result<Option<f64>, StageError> {
        let Some(name) = &self.unit.reference else {
            return Ok(Some(1.0));
        };
        let output = inputs.stage(name)?;
        let at = |layer| output.directions.iter().find(|d| d.layer == layer);
        if let Some(direction) = at(layer) {
            return Ok(Some(
                self.unit
                    .alpha_unit
                    .length(direction.pre_norm, direction.resid_norm),
            ));
        }
        let deepest = self.model.iter().map(|m| inputs.n_layers(&m.value)).max();
        let layers = parameters::layers(&self.layer, deepest.unwrap_or(0));
        match layers.into_iter().any(|layer| at(layer).is_some()) {
            true => Ok(None),
            false => Err(StageError::Data(format!(
                "stage `{}` has no direction at layer {layer} to take the unit of α from",
                name.value
            ))),
        }
    }

    /// What to say of layers that were left out.
    fn left_out(&self, layers: &BTreeSet<usize>) -> Option<String> {
        let reference = self
            .unit
            .reference
            .as_ref()
            .filter(|_| !layers.is_empty())?;
        let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
        Some(format!(
            "left out at layer {}: stage `{}` has no direction there to take the unit of α from",
            numbers.join(", "),
            reference.value
        ))
    }
}
