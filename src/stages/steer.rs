//! `steer`: h ← h + α·v (or ablation) with directions of another stage, then score.
//!
//! Without `layer` each direction acts at its own layer; with it, every direction acts at each of the layers named. Table: see
//! [`super::sweep::SweepTable`]. α = 0 is the score evaluation itself, the same cell.

use std::sync::Arc;

use crate::model::{ModelHandle, Site};
use crate::spec::{Choice, Fields, Node};

use super::action::{Acting, Action, Line, Mode, Set, together};
use super::declare::{Declared, KeyParts, Parameter};
use super::direction::Direction;
use super::field_types::OnlyIfTrue;
use super::forecast::check_directions;
use super::parameters::{self, DirectionStage, LayersOfEach, Models, PromptsName};
use super::position::Position;
use super::prelude::*;
use super::sweep::{self, Sweep};

pub(super) static KIND: Kind = super::kind::<Steer>(
    "steer",
    2,
    Product::Sweep,
    "scores under a direction, for every α",
    &TOLD,
);

static TOLD: Told = Told {
    computes: "`h ← h + α·v` at (layer, site, position), then the score. `mode = \"ablate\"` takes the direction out instead, `h ← h − (h·v)v`, \
        at its layer, `\"ablate_all\"` at every layer, and `\"ablate_everywhere\"` at the input of every block and at what attention and \
        MLP add, in all tokens (Arditi et al., arXiv:2406.11717); there is no α then. α counts units of `alpha_unit`: the unit \
        direction, the norm of the difference of means, or the mean norm of the stream. Without `layer` each direction acts at its own \
        layer; `layer = [10, 14]` means that every direction acts at layer 10, and in runs of their own at layer 14. With `together = \
        true` it acts at both at once, and without `layer` all directions of the stage act at once, each at its own. `with` names what \
        else is done in the same run, with an α of its own: `with = [{ direction = \"other\", alpha = [0, 4] }]`; where two edits are at \
        one place, the first is made first. `position` takes an index from either end, `\"last\"`, `\"instruction_end\"`, \
        `\"post_instruction\"` (each token of the template behind the instruction), `\"all\"`, a half-open window such as `\"-5..\"`, a list \
        of these, or `{ include = …, exclude = … }`. With `when` only prompts are edited whose unedited run is like a direction; the others' rows \
        are those of the unedited run. α = 0 is the unedited score, and is not computed again.",
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
        action: Action,
        /// Which tokens are edited: an index, counted from the end below 0, a word, a window, a list of these.
        position: Position = -1,
        settings: Reads,
        mode: ModeInKey,
    }
}

parameters! {
    /// Where directions of another stage act.
    pub(super) struct Places {
        /// Layers at which every direction acts, `"all"` for every layer of each model; each direction's own where left out.
        layer: Option<LayersOfEach>,
        /// Whether it acts at all of them at once; without `layer` all directions at once, each at its own.
        together: OnlyIfTrue = false,
        /// Site at which every direction acts; each direction's own where left out.
        site: Option<Site>,
    }
}

/// The mode, which is in this kind's key whatever it is. [`Action`] reads it.
struct ModeInKey(Mode);

impl Parameter for ModeInKey {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let mode = fields.peek("mode").and_then(Node::as_str);
        let known = Mode::CHOICES.iter().find(|(name, ..)| Some(*name) == mode);
        Some(ModeInKey(known.map_or(Mode::Add, |(_, mode, _)| *mode)))
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        key.insert(name.to_string(), self.0.name().into());
    }
}

impl Places {
    /// Every direction at every layer at which it acts in a model of so many layers.
    pub(super) fn lines(
        &self,
        directions: &[Direction],
        acting: &Acting<'_>,
        sets: &Arc<[Set]>,
        n_layers: usize,
    ) -> Result<Vec<Line>, StageError> {
        let home = acting.lines(directions, self.layer.is_some())?;
        Ok(self.placed(home, acting, sets, n_layers))
    }

    /// The same of lines that are each at a place of its own.
    pub(super) fn placed(
        &self,
        home: Vec<Line>,
        acting: &Acting<'_>,
        sets: &Arc<[Set]>,
        n_layers: usize,
    ) -> Vec<Line> {
        let lines: Vec<Line> = match (&self.layer, self.together.0) {
            (None, false) => home.into_iter().map(|line| line.to(self.site)).collect(),
            (None, true) => together(home.into_iter().map(|line| line.to(self.site)).collect()),
            (Some(layers), is_together) => {
                let layers = parameters::layers(layers, n_layers);
                let moved = |line: Line| {
                    let moved = layers
                        .iter()
                        .map(|layer| line.clone().at(*layer, self.site));
                    match is_together {
                        true => together(moved.collect()),
                        false => moved.collect(),
                    }
                };
                home.into_iter().flat_map(moved).collect()
            }
        };
        acting.finished(lines, n_layers, sets)
    }

    /// How many lines there will be in each of some models together, at most, but for combinations of what else is done.
    pub(super) fn count(&self, direction: &Name, models: &[Name], inputs: &Inputs) -> usize {
        let layers = |model: &Name| match &self.layer {
            Some(layers) if !self.together.0 => {
                parameters::layers(layers, inputs.n_layers(&model.value)).len()
            }
            _ => 1,
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
            has_alpha: self.action.mode.has_alpha(),
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.places
            .check(&self.direction, &self.model, inputs, problems);
        self.action.check(&self.model, inputs, problems);
        self.position.check_of_prompt(problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let rows = product(&[
            self.places.count(&self.direction, &self.model, inputs),
            sweep::prompt_count(inputs, &self.prompts),
            self.action.count(),
        ]);
        self.settings
            .cost(rows, &self.model, inputs)
            .over(self.position.expected_tokens())
            .and(self.action.condition_cost(
                sweep::prompt_count(inputs, &self.prompts),
                &self.model,
                &self.settings,
                inputs,
            ))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let directions = &inputs.stage(&self.direction)?.directions;
        let sets = sweep::sets_by_split(prompts);
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            action: &self.action,
            position: &self.position,
            reads: &self.settings,
        };
        let acting = self.action.acting(inputs)?;
        let lines = |model: &ModelHandle| {
            let n_layers = model.config().n_layers;
            self.places.lines(directions, &acting, &sets, n_layers)
        };
        Ok(Output {
            parts: sweep::in_parts(sweep.run(are_of_one_depth, lines, evaluator)?),
            findings: sweep.findings()?,
            ..Output::default()
        })
    }
}

pub(super) fn are_of_one_depth(one: &ModelHandle, other: &ModelHandle) -> bool {
    one.config().n_layers == other.config().n_layers
}
