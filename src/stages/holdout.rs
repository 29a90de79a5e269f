//! `holdout`: does a direction made from half of the prompts steer the other half?
//!
//! For every seed the split's prompts are divided by a hash of seed and id; the direction comes from the training half alone and is
//! tried on `<split>_train`, `<split>_holdout` and the comparison split. Table: that of a sweep, with those names in `set`. The
//! directions of all seeds and layers are kept too.

use std::collections::BTreeMap;

use crate::model::{ModelHandle, Site};
use crate::prompts::PromptSet;
use crate::spec::{Layers, Seeds};
use crate::stats;

use super::declare::Declaration;
use super::direction::{self, Direction, Groups, Recipe, Scored};
use super::forecast::{check_scores, directions_of};
use super::parameters::{
    self, Alphas, Fraction, GroupSize, Model, Models, Position, PromptsName, ScoreStage,
};
use super::prelude::*;
use super::steer::{are_of_one_depth, line_of};
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};

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
        and id into a training half (`fraction`) and the rest. The direction is the difference of means of the training half's `n` \
        highest and `n` lowest prompts, as in `direction`, and is then tried, as in `steer`, on `<split>_train`, `<split>_holdout` and \
        the split `compare`. `layer = [10, 14]` makes a direction at each layer, which acts there.",
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
        /// Scores of the prompts, by which those that make a direction are chosen.
        scores: ScoreStage,
        /// The score rule of these scores; the first that their stage has read where left out.
        rule: OfRule,
        /// The split that is divided into a half that makes a direction and a half that it is tried on.
        split: Name,
        /// Another split that the directions are tried on, for comparison.
        compare: Name,
        /// One division, and one direction a layer, for each seed.
        seed: Seeds,
        /// The share of the split that makes the direction.
        fraction: Fraction = 0.5,
        /// How many prompts of the training half are in A, and in B.
        n: GroupSize,
        /// Whether a prompt may be in A and in B.
        allow_overlap: bool = false,
        /// Layers of the directions, `"all"` for every layer of the model that makes them. Each acts at its own.
        layer: Layers,
        /// Site of the directions.
        site: Site = "resid_pre",
        /// How much of the direction is added, in units of `alpha_unit`.
        alpha: Alphas,
        /// The unit of α.
        alpha_unit: AlphaUnit = "unit",
        /// Position of activations and edits, counted from the end of the prompt: -1 is its last token.
        position: Position = -1,
        settings: Reads,
    }
}

/// One seed's halves and the groups its direction is made from.
struct Split {
    seed: u64,
    train: Vec<usize>,
    holdout: Vec<usize>,
    groups: Groups,
}

impl Stage for Holdout {
    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let seeds: Vec<Option<u64>> = self.seed.iter().map(Some).collect();
        Forecast {
            directions: directions_of(&self.direction_model, &seeds, &self.layer, inputs),
            sets: self.sets().to_vec(),
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs).reading(&self.settings)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        inputs.check_layers(&self.layer, &self.needs().models, problems);
        inputs.check_split(&self.compare, &self.prompts, problems);
        let maker = &self.direction_model;
        check_scores(&self.scores, maker, &self.prompts, inputs, problems);
        self.rule.check(&self.scores, inputs, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
        inputs.check_widths(maker, &self.model, problems);
        if inputs.check_split(&self.split, &self.prompts, problems) {
            self.check_halves(inputs, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(set) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let tried = set.split(&self.split.value).count() + set.split(&self.compare.value).count();
        let directions = self.forecast(inputs).directions;
        let in_model = |model: &Name| {
            let n_layers = inputs.n_layers(&model.value);
            let is_there = |layer| n_layers == 0 || layer < n_layers;
            directions.iter().filter(|d| is_there(d.layer)).count()
        };
        let lines = self.model.iter().map(in_model).sum();
        let members = product(&[2, self.n.value, directions.len()]);
        let steered = product(&[lines, self.alpha.len(), tried]);
        let steered = self.settings.cost(steered, &self.model, inputs);
        Cost::of_cells(members).and(steered)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let scores = Scored::read(
            (&self.scores, &self.rule),
            &self.direction_model,
            prompts,
            inputs,
        )?;
        let mut findings = Vec::new();
        let mut splits = Vec::new();
        for seed in self.seed.iter() {
            let (split, overlap) = self.split(seed, prompts, &scores)?;
            splits.push(split);
            findings.extend(overlap);
        }
        let (directions, without) = self.directions(&splits, inputs, &scores, evaluator)?;
        findings.extend(without);
        findings.extend(direction::findings(&directions));
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            alphas: &self.alpha,
            position: self.position.value,
            mode: Mode::Add,
            reads: &self.settings,
        };
        let lines = self.lines(&splits, &directions, prompts);
        // A direction acts at its own layer, in every model that has it.
        let lines_in = |model: &ModelHandle| {
            let there = |line: &&Line| line.layer < model.config().n_layers;
            Ok(lines.iter().filter(there).cloned().collect())
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
        })
    }
}

impl Holdout {
    /// The training half and the half held out, by index into the prompt set.
    fn halves(&self, seed: u64, prompts: &PromptSet) -> [Vec<usize>; 2] {
        let of_split = parameters::split_indices(prompts, &self.split.value);
        let ids = ids_of(prompts, &of_split);
        let halves = stats::holdout_split(seed, &ids, self.fraction.value);
        [halves.train, halves.holdout].map(|half| half.iter().map(|&k| of_split[k]).collect())
    }

    /// Checks that every seed leaves prompts to try the direction on, and enough to make it of.
    fn check_halves(&self, inputs: &Inputs, problems: &mut Problems) {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return;
        };
        let sizes = self.seed.iter().map(|seed| {
            let [train, holdout] = self.halves(seed, prompts);
            (train.len(), holdout.len(), seed)
        });
        let sizes: Vec<(usize, usize, u64)> = sizes.collect();
        if let Some((_, _, seed)) = sizes.iter().find(|(_, holdout, _)| *holdout == 0) {
            let split = &self.split;
            let message = format!("seed {seed} holds out none of the prompts of `{split}`");
            let at = self.seed.0.iter().find(|s| s.value == *seed);
            problems
                .error_at(at.map_or(&split.at, |seed| &seed.at), message)
                .label("leaves nothing to try the direction on")
                .help("lower `fraction`, or add prompts to the split");
        }
        if let Some((train, _, seed)) = sizes.iter().min() {
            let whose = format!("seed {seed} leaves {train} training prompts");
            parameters::check_group_size(&self.n, *train, &whose, self.allow_overlap, problems);
        }
    }

    /// The halves and groups of a seed, and what to say of prompts that are in both groups.
    fn split(
        &self,
        seed: u64,
        prompts: &PromptSet,
        scores: &Scored<'_>,
    ) -> Result<(Split, Option<String>), StageError> {
        let [train, holdout] = self.halves(seed, prompts);
        let (ids, n) = (ids_of(prompts, &train), self.n.value);
        let selection = stats::top_bottom_descending(&ids, &scores.of(&train)?, n)
            .map_err(|error| StageError::Data(format!("holdout seed {seed}: {error}")))?;
        let count = train.len();
        let what = format!("holdout seed {seed}, {count} training prompts for {n} + {n}");
        let (groups, overlap) = scores.groups(&train, &selection, self.allow_overlap, &what)?;
        let split = Split {
            seed,
            train,
            holdout,
            groups,
        };
        Ok((split, overlap))
    }

    /// The directions of all seeds, layer by layer within a seed, and what to say of layers that have none, as a rule for every seed.
    fn directions(
        &self,
        splits: &[Split],
        inputs: &Inputs,
        scores: &Scored<'_>,
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
                position: self.position.value,
                label: format!("holdout_{}", self.n.value),
                seed: Some(split.seed),
                settings: &self.settings,
            };
            let activations = recipe.activations(&split.groups, evaluator)?;
            let (found, without) = recipe.directions(&split.groups, &activations, scores)?;
            directions.extend(found);
            if let Some(finding) = recipe.left_out(&without) {
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

    fn lines(&self, splits: &[Split], directions: &[Direction], prompts: &PromptSet) -> Vec<Line> {
        let compare = parameters::split_indices(prompts, &self.compare.value);
        let sets_of = |s: &Split| {
            let [train, holdout, compared] = self.sets();
            [
                (train, s.train.clone()),
                (holdout, s.holdout.clone()),
                (compared, compare.clone()),
            ]
        };
        let line = |direction: &Direction| {
            let of_seed = splits.iter().filter(|s| Some(s.seed) == direction.seed);
            line_of(
                direction,
                self.alpha_unit,
                of_seed.flat_map(sets_of).collect(),
            )
        };
        directions.iter().map(line).collect()
    }

    /// Names of the sets that each direction is tried on.
    fn sets(&self) -> [String; 3] {
        let split = &self.split.value;
        [
            format!("{split}_train"),
            format!("{split}_holdout"),
            self.compare.value.clone(),
        ]
    }
}

fn ids_of<'a>(prompts: &'a PromptSet, indices: &[usize]) -> Vec<&'a str> {
    let prompts = indices.iter().map(|&i| &prompts.prompts[i]);
    prompts.map(|prompt| prompt.id.as_str()).collect()
}
