//! `steer`: h ← h + α·v (or ablation) with directions of another stage, then score.
//!
//! Without `layer` each direction acts at its own layer; with it, every direction acts at each of the layers named. Table: see
//! [`super::sweep::SweepTable`]. α = 0 is the score evaluation itself, the same cell.

use std::sync::Arc;

use crate::model::{ModelHandle, Site};
use crate::spec::{Fields, OneOrMany, Spanned};

use super::declare::Together;
use super::direction::Direction;
use super::forecast::check_directions;
use super::parameters::{
    self, Alphas, DirectionStage, LayersOfEach, Models, Position, PromptsName,
};
use super::prelude::*;
use super::sweep::{self, AlphaUnit, Line, Mode, Set, Sweep};

pub(super) static KIND: Kind = super::kind::<Steer>(
    "steer",
    2,
    Product::Sweep,
    "scores under a direction, for every α",
    &TOLD,
);

static TOLD: Told = Told {
    computes: "`h ← h + α·v` at (layer, site, position), then the score. `mode = \"ablate\"` takes the direction out instead, `h ← h − (h·v)v`, \
        at its layer, and `\"ablate_all\"` at every layer; there is no α then. α counts units of `alpha_unit`: the unit direction, the \
        norm of the difference of means, or the mean norm of the stream. Without `layer` each direction acts at its own layer; `layer = \
        [10, 14]` means that every direction acts at layer 10, and in runs of their own at layer 14, never at both at once. α = 0 is the \
        unedited score, and is not computed again.",
    tables: &[told::SWEEP_TABLE, told::SWEEP_OF_RULE],
    example: r#"
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-20, 0, 20]
"#,
};

parameters! {
    struct Steer {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// The prompts that are scored.
        prompts: PromptsName,
        /// The directions that act.
        direction: DirectionStage,
        places: Places,
        strength: Strength,
        /// Position of the edit, counted from the end of the prompt: -1 is its last token.
        position: Position = -1,
        settings: Reads,
    }
}

parameters! {
    /// Where directions of another stage act.
    pub(super) struct Places {
        /// Layers at which every direction acts, `"all"` for every layer of each model; each direction's own where left out.
        layer: Option<LayersOfEach>,
        /// Site at which every direction acts; each direction's own where left out.
        site: Option<Site>,
    }
}

parameters! {
    /// How strongly a direction acts. An ablation takes it out whole: there is no α to give, and one pass is made.
    group Strength {
        /// What is done with a direction.
        mode: Mode = "add",
        /// How much of the direction is added, in units of `alpha_unit`; not for an ablation.
        alpha: Alphas,
        /// The unit of α.
        alpha_unit: AlphaUnit = "unit",
    }
}

impl Together for Strength {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let mode = fields.optional("mode").unwrap_or(Mode::Add);
        let mut alpha = Some(OneOrMany(vec![Spanned {
            value: 0.0,
            at: fields.at.clone(),
        }]));
        let mut alpha_unit = AlphaUnit::Unit;
        if mode == Mode::Add {
            alpha = fields.required("alpha");
            alpha_unit = fields.optional("alpha_unit").unwrap_or(alpha_unit);
        }
        for name in ["alpha", "alpha_unit"] {
            let Some(node) = fields.node(name).filter(|_| mode != Mode::Add) else {
                continue;
            };
            let message = format!("`{name}` is given, but `mode` is an ablation");
            fields
                .problems
                .error_at(&node.at, message)
                .label("plays no part")
                .help(format!("remove `{name}`, or set `mode = \"add\"`"));
            alpha = None;
        }
        Some(Self {
            mode,
            alpha: alpha?,
            alpha_unit,
        })
    }
}

impl Places {
    /// Every direction at every layer at which it acts in a model of so many layers.
    pub(super) fn lines(
        &self,
        directions: &[Direction],
        unit: AlphaUnit,
        sets: &Arc<[Set]>,
        n_layers: usize,
    ) -> Vec<Line> {
        let of_direction = |direction: &Direction| {
            let layers = match &self.layer {
                None => vec![direction.layer],
                Some(layers) => parameters::layers(layers, n_layers),
            };
            let line = line_of(direction, unit, Arc::clone(sets));
            let places = layers.into_iter();
            places.map(move |layer| moved(line.clone(), layer, self.site))
        };
        directions.iter().flat_map(of_direction).collect()
    }

    /// How many lines there will be in each of some models together.
    pub(super) fn count(&self, direction: &Name, models: &[Name], inputs: &Inputs) -> usize {
        let layers = |model: &Name| match &self.layer {
            None => 1,
            Some(layers) => parameters::layers(layers, inputs.n_layers(&model.value)).len(),
        };
        inputs.expected_directions(direction).len() * models.iter().map(layers).sum::<usize>()
    }

    pub(super) fn check(
        &self,
        direction: &Name,
        models: &[Name],
        inputs: &Inputs,
        problems: &mut Problems,
    ) {
        if let Some(layers) = &self.layer {
            inputs.check_layers(layers, models, problems);
        }
        check_directions(direction, self.layer.is_none(), models, inputs, problems);
    }
}

impl Stage for Steer {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        Forecast {
            has_alpha: self.strength.mode == Mode::Add,
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.places
            .check(&self.direction, &self.model, inputs, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let rows = product(&[
            self.places.count(&self.direction, &self.model, inputs),
            sweep::prompt_count(inputs, &self.prompts),
            self.strength.alpha.len(),
        ]);
        self.settings.cost(rows, &self.model, inputs)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let directions = &inputs.stage(&self.direction)?.directions;
        let sets = sweep::sets_by_split(prompts);
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            alphas: &self.strength.alpha,
            position: self.position.value,
            mode: self.strength.mode,
            reads: &self.settings,
        };
        let (places, unit) = (&self.places, self.strength.alpha_unit);
        let lines = |model: &ModelHandle| {
            Ok(places.lines(directions, unit, &sets, model.config().n_layers))
        };
        Ok(Output {
            parts: sweep::in_parts(sweep.run(are_of_one_depth, lines, evaluator)?),
            ..Output::default()
        })
    }
}

pub(super) fn are_of_one_depth(one: &ModelHandle, other: &ModelHandle) -> bool {
    one.config().n_layers == other.config().n_layers
}

/// A direction at its own place.
pub(super) fn line_of(direction: &Direction, unit: AlphaUnit, sets: Arc<[Set]>) -> Line {
    Line {
        direction: direction.label.clone(),
        seed: direction.seed,
        layer: direction.layer,
        site: direction.site,
        vector: Arc::clone(&direction.vector),
        unit_length: unit.length(direction.pre_norm, direction.resid_norm),
        sets,
        builders: Arc::clone(&direction.builders),
    }
}

/// A line at another layer, and perhaps another site. Away from home a direction says where it came from, so that its rows can be told
/// from those of a direction that is at home there.
fn moved(line: Line, layer: usize, site: Option<Site>) -> Line {
    let direction = match layer == line.layer {
        true => line.direction,
        false => format!("{}_from_layer_{}", line.direction, line.layer),
    };
    Line {
        direction,
        layer,
        site: site.unwrap_or(line.site),
        ..line
    }
}
