//! `holdout`: does a direction made from half of the prompts steer the other half?
//!
//! For every seed the split's prompts are divided by a hash of seed and id; the direction comes from the training half alone and is
//! tried on `<split>_train`, `<split>_holdout` and the comparison split. Of groups that the study names, both are divided, and the direction
//! of their training halves is tried on all four halves. Table: that of a sweep, with those names in `set`. The
//! directions of all seeds and layers are kept too.

mod halves;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ModelHandle, Site};
use crate::spec::{Layers, Seeds};

use super::action::{Acting, Action, Line, Mode};
use super::declare::Declaration;
use super::direction::{self, Direction, How, Places, Recipe, Scored};
use super::forecast::directions_of;
use super::parameters::{self, Fraction, Model, Models, PromptsName};
use super::position::Position;
use super::prelude::*;
use super::rules::Reads;
use super::steer::are_of_one_depth;
use super::sweep::{self, Sweep};
use halves::{Halved, Split};

pub(super) static KIND: Kind = Kind {
    figures: Some(direction::figures),
    ..super::kind::<Holdout>(
        "holdout",
        2,
        Product::HeldOutSweep,
        "directions from half of the prompts, tried on the other half",
        &TOLD,
    )
};

static TOLD: Told = Told {
    computes: "Does a direction made from one half of the prompts steer the other half? For each seed the split is divided by a hash of seed \
        and id: `fraction` of it is held out, the rest is the training half. The direction is the difference of means of the training half's `n` \
        highest and `n` lowest prompts, as in `direction`, and is then tried, as in `steer`, on `<split>_train`, `<split>_holdout` and \
        the split `compare`. Where groups are named (`select = \"splits\"`, `\"column\"` or `\"labels\"`, as in `direction`), both are divided, \
        and the direction of the training halves is tried on `<a>_train`, `<a>_holdout`, `<b>_train` and `<b>_holdout`. `layer = [10, 14]` makes a direction at each layer, which acts there.",
    tables: &[
        told::SWEEP_TABLE,
        told::SWEEP_OF_RULE,
        TableTold::of("directions", "a row for each direction", told::DIRECTIONS),
        told::MEMBERS,
        told::COSINES,
    ],
    example: r#"
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..2"
n = 8
layer = [10, 20]
alpha = [-20, 0, 20]
"#,
};

parameters! {
    struct Holdout {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// The model whose activations the directions are made of.
        direction_model: Model,
        /// The prompts.
        prompts: PromptsName,
        halved: Halved,
        /// One division, and one direction a layer, for each seed.
        seed: Seeds,
        /// The share of the prompts that is held out.
        fraction: Fraction = 0.5,
        /// Whether a prompt may be in A and in B.
        allow_overlap: bool = false,
        /// Layers of the directions, `"all"` for every layer of the model that makes them. Each acts at its own.
        layer: Layers,
        /// Site of the directions.
        site: Site = "resid_pre",
        action: Action,
        /// Which tokens are edited, as `steer` has it. Where it is one token, the activations are taken there, too; otherwise at the last.
        position: Position = -1,
        settings: Reads,
    }
}

impl Stage for Holdout {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let seeds: Vec<Option<u64>> = self.seed.iter().map(Some).collect();
        Forecast {
            directions: directions_of(&self.direction_model, &seeds, &self.layer, inputs),
            sets: self.halved.sets(),
            has_alpha: self.action.mode.has_alpha(),
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        inputs.check_layers(&self.layer, &self.needs().models, problems);
        inputs.check_widths(&self.direction_model, &self.model, problems);
        self.halved.check(self, inputs, problems);
        self.action.check(&self.model, inputs, problems);
        self.position.check_of_prompt(problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        if !inputs.prompts.contains_key(&self.prompts.value) {
            return Cost::default();
        }
        let (tried, makers) = self.halved.counts(self, inputs);
        let directions = self.forecast(inputs).directions;
        let in_model = |model: &Name| {
            let n_layers = inputs.n_layers(&model.value);
            let is_there = |layer| n_layers == 0 || layer < n_layers;
            directions.iter().filter(|d| is_there(d.layer)).count()
        };
        let lines = self.model.iter().map(in_model).sum();
        let members = product(&[makers, directions.len()]);
        let steered = product(&[lines, self.action.count(), tried]);
        let steered = self
            .settings
            .cost(steered, &self.model, inputs)
            .over(self.position.expected_tokens());
        let prompts = sweep::prompt_count(inputs, &self.prompts);
        let condition = self
            .action
            .condition_cost(prompts, &self.model, &self.settings, inputs);
        Cost::of_cells(members).and(steered).and(condition)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let scores = match &self.halved {
            Halved::Split { scores, rule, .. } => {
                let maker = &self.direction_model;
                Some(Scored::read((scores, rule), maker, prompts, inputs)?)
            }
            Halved::Named(_) => None,
        };
        let scores = scores.as_ref();
        let (splits, mut findings) = self.halved.splits(self, prompts, inputs, scores)?;
        let (directions, without) = self.directions(&splits, inputs, scores, evaluator)?;
        findings.extend(without);
        findings.extend(direction::findings(&directions));
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            action: &self.action,
            position: &self.position,
            reads: &self.settings,
        };
        findings.extend(sweep.findings()?);
        let acting = self.action.acting(inputs)?;
        let lines = self.lines(&acting, &splits, &directions)?;
        // A direction acts at its own layer, in every model that has it.
        let lines_in = |model: &ModelHandle| {
            let n_layers = model.config().n_layers;
            let there = lines.iter().filter(|line| line.layer < n_layers);
            Ok(acting.finished(there.cloned().collect(), n_layers, &Arc::from([])))
        };
        let swept = sweep.run(are_of_one_depth, lines_in, evaluator)?;
        Ok(Output {
            parts: sweep::in_parts(swept),
            tables: vec![
                ("directions".to_string(), direction::describe(&directions)?),
                ("members".to_string(), direction::members_of(&directions)?),
                ("cosine".to_string(), direction::cosines(&directions)?),
            ],
            directions,
            findings,
            ..Output::default()
        })
    }
}

impl Holdout {
    /// The directions of all seeds, layer by layer within a seed, and what to say of layers that have none, as a rule for every seed.
    fn directions(
        &self,
        splits: &[Split],
        inputs: &Inputs,
        scores: Option<&Scored<'_>>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<(Vec<Direction>, Vec<String>), StageError> {
        let model = inputs.model(&self.direction_model)?;
        let layers = parameters::layers(&self.layer, model.config().n_layers);
        let mut directions = Vec::new();
        let mut seeds_by_finding: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for split in splits {
            let recipe = Recipe {
                model,
                prompts: inputs.prompt_set(&self.prompts)?,
                layers: &layers,
                site: self.site,
                places: &self.places(model)?,
                how: How::means(),
                with_affine: matches!(self.action.mode, Mode::Ace | Mode::Leace),
                label: self.halved.label(),
                seed: Some(split.seed),
                settings: &self.settings,
            };
            let activations = recipe.activations(&split.groups, evaluator)?;
            let (found, without) = recipe.directions(&split.groups, &activations, scores)?;
            directions.extend(found);
            for finding in recipe.left_out(&without) {
                let seeds = seeds_by_finding.entry(finding).or_default();
                seeds.push(split.seed.to_string());
            }
        }
        let of_seeds = |(finding, seeds): (String, Vec<String>)| match seeds.len() == splits.len() {
            true => finding,
            false => format!("holdout seed {}: {finding}", seeds.join(", ")),
        };
        Ok((
            directions,
            seeds_by_finding.into_iter().map(of_seeds).collect(),
        ))
    }

    /// Where the activations are taken.
    fn places(&self, model: &ModelHandle) -> Result<Places, StageError> {
        let places = Places::of(&self.position, model, &self.settings.chat)?;
        Ok(match places {
            Some(places) if places.are_one() => places,
            _ => Places::last(),
        })
    }

    fn lines(
        &self,
        acting: &Acting<'_>,
        splits: &[Split],
        directions: &[Direction],
    ) -> Result<Vec<Line>, StageError> {
        let on_its_sets = |line: Line| {
            let seed = line.seed;
            let of_seed = splits.iter().filter(|s| Some(s.seed) == seed);
            line.on(of_seed.flat_map(|split| split.sets.clone()).collect())
        };
        let lines = acting.lines(directions, false)?;
        Ok(lines.into_iter().map(on_its_sets).collect())
    }
}
