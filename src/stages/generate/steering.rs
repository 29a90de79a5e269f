//! Which directions act, where and how strongly.

use serde_json::{Value as Json, json};

use crate::model::{Positions, Site};
use crate::spec::{Fields, Layers, choice};

use super::super::parameters;
use super::super::steer::{line_of, moved};
use super::super::sweep::{self, AlphaUnit, Line};
use super::super::{Inputs, Name, StageError};

/// Where a direction acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acts {
    /// At the last prompt token.
    LastPrompt,
    /// At every generated token.
    Generated,
    /// At every token from the last of the prompt on.
    Both,
}

/// A direction of another stage and how it acts.
pub(super) struct Steering {
    /// The stage that makes the directions.
    pub(crate) direction: Name,
    /// Layers that every direction acts at; none for its own.
    pub(crate) layers: Option<Layers>,
    /// The site, if not the direction's own.
    pub(crate) site: Option<Site>,
    /// α, in units of `unit`.
    pub(crate) alphas: Vec<f64>,
    /// The unit of α.
    pub(crate) unit: AlphaUnit,
    /// At which tokens.
    pub(crate) acts: Acts,
}

/// Decodes `direction` and the fields that say how it acts; without it there is nothing that they could apply to.
pub(super) fn steering(fields: &mut Fields<'_, '_>) -> Option<Option<Steering>> {
    if fields.node("direction").is_none() {
        return no_steering(fields).then_some(None);
    }
    let direction = fields.required("direction");
    let layers = fields.optional("layer");
    let site = match fields.node("site") {
        None => Some(None),
        Some(node) => choice(node, fields.problems(), &parameters::residual_sites()).map(Some),
    };
    let alphas = parameters::alphas(fields);
    let unit = sweep::alpha_unit(fields);
    let acts = match fields.node("positions") {
        None => Some(Acts::Both),
        Some(node) => {
            let choices =
                [Acts::LastPrompt, Acts::Generated, Acts::Both].map(|acts| (acts.name(), acts));
            choice(node, fields.problems(), &choices)
        }
    };
    Some(Some(Steering {
        direction: direction?,
        layers,
        site: site?,
        alphas: alphas?,
        unit: unit?,
        acts: acts?,
    }))
}

/// Whether no field asks for steering; α = 0 asks for none.
fn no_steering(fields: &mut Fields<'_, '_>) -> bool {
    let mut given: Vec<&'static str> = Vec::new();
    for name in ["layer", "site", "alpha_unit", "positions"] {
        given.extend(fields.node(name).map(|_| name));
    }
    if fields.node("alpha").is_some()
        && parameters::alphas(fields).is_none_or(|alphas| alphas != [0.0])
    {
        given.push("alpha");
    }
    for name in &given {
        let Some(node) = fields.node(name) else {
            continue;
        };
        fields
            .problems()
            .error_at(&node.at, format!("`{name}` is given, but no `direction`"))
            .label("nothing is steered")
            .help("name the stage that makes the direction: `direction = \"…\"`");
    }
    given.is_empty()
}

impl Acts {
    fn name(self) -> &'static str {
        match self {
            Acts::LastPrompt => "last_prompt",
            Acts::Generated => "generated",
            Acts::Both => "both",
        }
    }

    /// The positions edited in a run that starts from a prompt of `length` tokens.
    pub(super) fn positions(self, length: usize) -> Positions {
        let last = length.saturating_sub(1);
        match self {
            Acts::LastPrompt => Positions::At(last),
            Acts::Generated => Positions::From(length),
            Acts::Both => Positions::From(last),
        }
    }

    /// Whether the last prompt token, and so the score, is edited.
    pub(super) fn reaches_prompt(self) -> bool {
        self != Acts::Generated
    }
}

impl Steering {
    /// Canonical form for stage keys.
    pub(super) fn key(&self) -> Json {
        json!({
            "layer": self.layers.as_ref().map(parameters::layers_key),
            "site": self.site.map(Site::short_name),
            "alpha": self.alphas,
            "alpha_unit": self.unit.name(),
            "positions": self.acts.name(),
        })
    }

    /// Every direction of the stage named, at every layer it acts at.
    pub(super) fn lines(&self, inputs: &Inputs, n_layers: usize) -> Result<Vec<Line>, StageError> {
        let mut lines = Vec::new();
        for direction in &inputs.stage(&self.direction)?.directions {
            let layers = match &self.layers {
                None => vec![direction.layer],
                Some(layers) => parameters::layers(layers, n_layers),
            };
            let here = |layer| moved(line_of(direction, self.unit), layer, self.site);
            lines.extend(layers.into_iter().map(here));
        }
        Ok(lines)
    }

    /// How many lines there will be.
    pub(super) fn line_count(&self, inputs: &Inputs, n_layers: usize) -> usize {
        let layers = self.layers.as_ref();
        let layers = layers.map_or(1, |layers| parameters::layers(layers, n_layers).len());
        inputs.expected_directions(&self.direction).len() * layers
    }
}
