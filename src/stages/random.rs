//! `random`: the control. Unit vectors from a seeded standard normal, steered like the learned direction.
//!
//! A vector depends on (seed, d_model) alone, so layers share it: libtorch's CPU generator with `manual_seed(seed)`, float32. (The
//! published study drew on the GPU; its vectors cannot be made again elsewhere, their distribution can.) Table: that of a sweep.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::model::{Site, random_unit_vector};
use crate::spec::{Fields, Layers, Problems, Seeds};

use super::parameters::{self, Settings};
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = Kind {
    name: "random",
    version: 1,
    product: Product::RandomSweep,
    figures: None,
    about: "the same sweep with random directions, as a control",
    decode,
};

struct Random {
    models: Vec<Name>,
    prompts: Name,
    seeds: Seeds,
    layers: Layers,
    site: Site,
    alphas: Vec<f64>,
    unit: AlphaUnit,
    reference: Option<Name>,
    position: i64,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let models = parameters::models(fields);
    let prompts = fields.required("prompts");
    let seeds = fields.required("seed");
    let layers = fields.required("layer");
    let site = parameters::site(fields);
    let alphas = parameters::alphas(fields);
    let unit = sweep::alpha_unit(fields);
    // A random direction has no norm of its own: another unit than 1 needs a learned direction to take it from.
    let reference = match unit {
        Some(AlphaUnit::Unit) | None => Some(None),
        Some(_) => fields.required("reference").map(Some),
    };
    let position = parameters::position(fields);
    Some(Box::new(Random {
        models: models?,
        prompts: prompts?,
        seeds: seeds?,
        layers: layers?,
        site: site?,
        alphas: alphas?,
        unit: unit?,
        reference: reference?,
        position: position?,
        settings: settings.clone(),
    }))
}

impl Stage for Random {
    fn needs(&self) -> Needs {
        let reference = self.reference.iter();
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: reference
                .map(|name| (name.clone(), Product::Directions))
                .collect(),
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "model": sweep::labels(&self.models),
            "seed": self.seeds.iter().collect::<Vec<_>>(),
            "layer": parameters::layers_key(&self.layers),
            "site": self.site.short_name(),
            "alpha": self.alphas,
            "alpha_unit": self.unit.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast::of_sweep(&self.models, &self.prompts, inputs)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(&self.layers, &self.models, inputs, problems);
        let Some(reference) = &self.reference else {
            return;
        };
        let learned: Vec<usize> = inputs
            .expected_directions(reference)
            .iter()
            .map(|direction| direction.layer)
            .collect();
        let deepest = self.models.iter().map(|m| inputs.n_layers(&m.value)).max();
        let layers = parameters::layers(&self.layers, deepest.unwrap_or(0));
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
        let deepest = self.models.iter().map(|m| inputs.n_layers(&m.value)).max();
        Cost::of_cells(&[
            self.seeds.0.len(),
            parameters::layers(&self.layers, deepest.unwrap_or(0)).len(),
            self.alphas.len(),
            self.models.len(),
            sweep::prompt_count(inputs, &self.prompts),
        ])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.models)?;
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
                .seeds
                .iter()
                .map(|seed| Ok((seed, Arc::new(random_unit_vector(seed, config.d_model)?))))
                .collect::<Result<Vec<_>, StageError>>()?;
            let mut lines = Vec::new();
            for layer in parameters::layers(&self.layers, config.n_layers) {
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
                alphas: &self.alphas,
                position: self.position,
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
        let Some(name) = &self.reference else {
            return Ok(Some(1.0));
        };
        let output = inputs.stage(name)?;
        let at = |layer| output.directions.iter().find(|d| d.layer == layer);
        if let Some(direction) = at(layer) {
            return Ok(Some(
                self.unit.length(direction.pre_norm, direction.resid_norm),
            ));
        }
        let deepest = self.models.iter().map(|m| inputs.n_layers(&m.value)).max();
        let layers = parameters::layers(&self.layers, deepest.unwrap_or(0));
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
        let reference = self.reference.as_ref().filter(|_| !layers.is_empty())?;
        let numbers: Vec<String> = layers.iter().map(usize::to_string).collect();
        Some(format!(
            "left out at layer {}: stage `{}` has no direction there to take the unit of α from",
            numbers.join(", "),
            reference.value
        ))
    }
}
