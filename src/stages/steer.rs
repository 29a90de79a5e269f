//! `steer`: h ← h + α·v (or ablation) with directions of another stage, then score.
//!
//! Without `layer` each direction acts at its own layer; with it, every direction acts at each of the layers named. Table: see
//! [`super::sweep::SweepTable`]. α = 0 is the score evaluation itself, the same cell.

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::spec::{Fields, Layers, Problems, choice};

use super::direction::Direction;
use super::forecast::check_directions;
use super::parameters::{self, Settings};
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = Kind {
    name: "steer",
    version: 2,
    product: Product::Sweep,
    figures: None,
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
    let (alphas, unit) = match mode {
        Some(Mode::Add) | None => (parameters::alphas(fields), sweep::alpha_unit(fields)),
        Some(_) => (no_alpha(fields), Some(AlphaUnit::Unit)),
    };
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

/// An ablation takes the direction out whole: there is no α to give. One pass is made.
fn no_alpha(fields: &mut Fields<'_, '_>) -> Option<Vec<f64>> {
    let given = ["alpha", "alpha_unit"].map(|name| (name, fields.node(name)));
    for (name, node) in given {
        if let Some(node) = node {
            fields
                .problems()
                .error_at(
                    &node.at,
                    format!("`{name}` is given, but `mode` is an ablation"),
                )
                .label("plays no part")
                .help(format!("remove `{name}`, or set `mode = \"add\"`"));
        }
    }
    given
        .iter()
        .all(|(_, node)| node.is_none())
        .then(|| vec![0.0])
}

impl Stage for Steer {
    fn needs(&self) -> Needs {
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: vec![(self.direction.clone(), Product::Directions)],
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "model": sweep::labels(&self.models),
            "layer": self.layers.as_ref().map(parameters::layers_key),
            "site": self.site.map(Site::short_name),
            "alpha": self.alphas,
            "alpha_unit": self.unit.name(),
            "mode": self.mode.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            has_alpha: self.mode == Mode::Add,
            ..Forecast::of_sweep(&self.models, &self.prompts, inputs)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        if let Some(layers) = &self.layers {
            parameters::check_layers(layers, &self.models, inputs, problems);
        }
        let own_layers = self.layers.is_none();
        check_directions(&self.direction, own_layers, &self.models, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let deepest = self.models.iter().map(|m| inputs.n_layers(&m.value)).max();
        let layers = match &self.layers {
            None => 1,
            Some(layers) => parameters::layers(layers, deepest.unwrap_or(0)).len(),
        };
        Cost::of_cells(&[
            self.models.len(),
            sweep::prompt_count(inputs, &self.prompts),
            inputs.expected_directions(&self.direction).len(),
            layers,
            self.alphas.len(),
        ])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.models)?;
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
                sets: Arc::clone(&sets),
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
            parts: Some(Arc::new(sweep.run(evaluator)?)),
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
        sets: Arc::from([]),
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
