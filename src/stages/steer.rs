//! `steer`: h ← h + α·v (or ablation) with directions of another stage, then score.
//!
//! Without `layer` each direction acts at its own layer; with it, every direction acts at each of the layers named. Table: see
//! [`super::sweep::Sweep::run`]. α = 0 is the score evaluation itself, the same cell.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::spec::{Fields, Layers, Problems, choice};

use super::direction::Direction;
use super::parameters::{self, Settings};
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{Cost, Evaluate, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = Kind {
    name: "steer",
    version: 1,
    product: Product::Sweep,
    about: "scores under a direction, for every α",
    decode,
};

struct Steer {
    models: Vec<Name>,
    prompts: Name,
    direction: Name,
    layers: Option<Layers>,
    site: Option<Site>,
    alphas: Vec<f64>,
    unit: AlphaUnit,
    mode: Mode,
    position: i64,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let models = parameters::models(fields);
    let prompts = fields.required("prompts");
    let direction = fields.required("direction");
    let layers = fields.optional("layer");
    let site = match fields.node("site") {
        None => Some(None),
        Some(node) => choice(node, fields.problems(), &parameters::residual_sites()).map(Some),
    };
    let mode = sweep::mode(fields);
    let alphas = match mode {
        Some(Mode::Add) | None => parameters::alphas(fields),
        Some(_) => Some(vec![0.0]),
    };
    let unit = sweep::alpha_unit(fields);
    let position = parameters::position(fields);
    Some(Box::new(Steer {
        models: models?,
        prompts: prompts?,
        direction: direction?,
        layers,
        site: site?,
        alphas: alphas?,
        unit: unit?,
        mode: mode?,
        position: position?,
        settings: settings.clone(),
    }))
}

impl Stage for Steer {
    fn needs(&self) -> Needs {
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: vec![(self.direction.clone(), Product::Directions)],
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "models": sweep::labels(&self.models),
            "layers": self.layers.as_ref().map(|layers| match layers {
                Layers::All => json!("all"),
                Layers::List(list) => json!(list.iter().map(|l| l.value).collect::<Vec<_>>()),
            }),
            "site": self.site.map(Site::short_name),
            "alphas": self.alphas,
            "alpha_unit": self.unit.name(),
            "mode": self.mode.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        if let Some(layers) = &self.layers {
            parameters::check_layers(layers, &self.models, inputs, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let lines = inputs
            .stages
            .get(&self.direction.value)
            .map_or(1, |output| output.directions.len());
        let n_layers = self
            .models
            .iter()
            .filter_map(|m| inputs.models.get(&m.value))
            .map(|m| m.config().n_layers);
        let layers = match &self.layers {
            None => 1,
            Some(layers) => parameters::layers(layers, n_layers.max().unwrap_or(0)).len(),
        };
        let prompts = sweep::prompt_count(inputs, &self.prompts);
        let count =
            self.models.len() as u64 * prompts * (lines * layers * self.alphas.len()) as u64;
        Cost {
            cells_at_most: count,
            equivalent_forward_passes: count,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = self
            .models
            .iter()
            .map(|name| inputs.model(name))
            .collect::<Result<Vec<_>, _>>()?;
        let sets = sweep::sets_by_split(prompts);
        let n_layers = models
            .iter()
            .map(|m| m.config().n_layers)
            .min()
            .unwrap_or(0);
        let mut lines = Vec::new();
        for direction in &inputs.stage(&self.direction)?.directions {
            let layers = match &self.layers {
                None => vec![direction.layer],
                Some(layers) => parameters::layers(layers, n_layers),
            };
            lines.extend(layers.into_iter().map(|layer| Line {
                sets: sets.clone(),
                ..moved(line_of(direction, self.unit), layer, self.site)
            }));
        }
        let sweep = Sweep {
            models,
            prompts,
            lines,
            alphas: &self.alphas,
            position: self.position,
            mode: self.mode,
            settings: &self.settings,
        };
        Ok(Output {
            tables: vec![(String::new(), sweep.run(evaluator)?)],
            ..Output::default()
        })
    }
}

/// A direction at its own place, without prompts yet.
pub(super) fn line_of(direction: &Direction, unit: AlphaUnit) -> Line {
    Line {
        direction: direction.label.clone(),
        seed: direction.seed,
        layer: direction.layer,
        site: direction.site,
        vector: Arc::clone(&direction.vector),
        unit_length: unit.length(direction.pre_norm, direction.resid_norm),
        sets: Vec::new(),
        builders: Arc::clone(&direction.builders),
    }
}

/// A line at another layer, and perhaps another site. Away from home a direction says where it came from, so that its rows can be told
/// from those of a direction that is at home there.
pub(super) fn moved(line: Line, layer: usize, site: Option<Site>) -> Line {
    if layer == line.layer {
        return Line {
            site: site.unwrap_or(line.site),
            ..line
        };
    }
    Line {
        direction: format!("{}_from_layer_{}", line.direction, line.layer),
        layer,
        site: site.unwrap_or(line.site),
        ..line
    }
}
