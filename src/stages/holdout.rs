//! `holdout`: does a direction made from half of the prompts steer the other half?
//!
//! For every seed the split's prompts are divided by a hash of seed and id; the direction comes from the training half alone and is
//! tried on `<split>_train`, `<split>_holdout` and the comparison split. Table: that of a sweep, with those names in `set`. The
//! directions of all seeds and layers are kept too.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Layers, Problems, Seeds};
use crate::stats;

use super::declare::{Declaration, declared, parameters};
use super::direction::{self, Direction, Groups, Recipe};
use super::forecast::{check_scores, check_widths, directions_of};
use super::parameters::{
    self, Alphas, Fraction, GroupSize, Model, Models, Position, PromptsName, Scores, StageOf,
};
use super::settings::Settings;
use super::steer::line_of;
use super::sweep::{AlphaUnit, Line, Mode, Sweep};
use super::{Cost, Evaluate, Forecast, Inputs, Kind, Name, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = super::kind::<Holdout>(
    "holdout",
    2,
    Product::HeldOutSweep,
    "directions from half of the prompts, tried on the other half",
)
.with_figures(direction::figures);

parameters! {
    struct Holdout {
        /// Models that are steered, in the order of the table.
        model: Models,
        /// The model whose activations the directions are made of.
        direction_model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// Scores of the prompts, by which those that make a direction are chosen.
        scores: StageOf<Scores>,
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
        settings: Settings,
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
        let split = &self.split.value;
        Forecast {
            directions: directions_of(&self.direction_model, &seeds, &self.layer, inputs),
            sets: vec![
                format!("{split}_train"),
                format!("{split}_holdout"),
                self.compare.value.clone(),
            ],
            ..Forecast::of_sweep(&self.model, &self.prompts, inputs)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(&self.layer, &self.needs().models, inputs, problems);
        parameters::check_split(&self.compare, &self.prompts, inputs, problems);
        check_scores(
            &self.scores,
            &self.direction_model,
            &self.prompts,
            inputs,
            problems,
        );
        check_widths(&self.direction_model, &self.model, inputs, problems);
        if parameters::check_split(&self.split, &self.prompts, inputs, problems) {
            self.check_halves(inputs, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(set) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let tried = set.split(&self.split.value).count() + set.split(&self.compare.value).count();
        let directions = self.forecast(inputs).directions;
        let members = Cost::of_cells(&[2, self.n.value, directions.len()]);
        let in_model = |model: &Name| {
            let n_layers = inputs.n_layers(&model.value);
            let there = directions.iter();
            let there = there.filter(|d| n_layers == 0 || d.layer < n_layers);
            there.count()
        };
        let lines = self.model.iter().map(in_model).sum();
        let steered = Cost::of_cells(&[lines, self.alpha.len(), tried]);
        members.and(steered)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let table = inputs.stage(&self.scores)?.table("")?;
        let scores = direction::scores_of(&table, &self.direction_model, prompts)?;
        let mut findings = Vec::new();
        let splits = self
            .seed
            .iter()
            .map(|seed| self.split(seed, prompts, &scores, &mut findings))
            .collect::<Result<Vec<_>, _>>()?;
        let directions = self.directions(&splits, inputs, (&scores, &mut findings), evaluator)?;
        findings.extend(direction::findings(&directions));
        let sweep = Sweep {
            models: inputs.models_named(&self.model)?,
            prompts,
            lines: Vec::new(),
            alphas: &self.alpha,
            position: self.position.value,
            mode: Mode::Add,
            settings: &self.settings,
        };
        let lines = self.lines(&splits, &directions, prompts);
        // A direction acts at its own layer, in every model that has it.
        let lines_in = |n_layers| {
            let there = lines.iter().filter(|line| line.layer < n_layers);
            there.cloned().collect()
        };
        let swept = sweep.run_by_depth(lines_in, evaluator)?;
        let tables = vec![
            ("directions".to_string(), direction::describe(&directions)?),
            ("members".to_string(), direction::members(&directions)?),
            ("cosine".to_string(), direction::cosines(&directions)?),
        ];
        Ok(Output {
            parts: Some(Arc::new(swept)),
            tables,
            directions,
            findings,
        })
    }
}

impl Holdout {
    /// The training half and the half held out, by index into the prompt set.
    fn halves(&self, seed: u64, prompts: &PromptSet) -> [Vec<usize>; 2] {
        let of_split = parameters::split_indices(prompts, &self.split.value);
        let ids: Vec<&str> = of_split
            .iter()
            .map(|&i| prompts.prompts[i].id.as_str())
            .collect();
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
            let message = format!(
                "seed {seed} holds out none of the prompts of `{}`",
                self.split.value
            );
            let at = self.seed.0.iter().find(|s| s.value == *seed);
            problems
                .error_at(at.map_or(&self.split.at, |seed| &seed.at), message)
                .label("leaves nothing to try the direction on")
                .help("lower `fraction`, or add prompts to the split");
        }
        if let Some((train, _, seed)) = sizes.iter().min() {
            let whose = format!("seed {seed} leaves {train} training prompts");
            parameters::check_group_size(&self.n, *train, &whose, self.allow_overlap, problems);
        }
    }

    fn split(
        &self,
        seed: u64,
        prompts: &PromptSet,
        scores: &[Option<f64>],
        findings: &mut Vec<String>,
    ) -> Result<Split, StageError> {
        let [train, holdout] = self.halves(seed, prompts);
        let train_ids: Vec<&str> = train
            .iter()
            .map(|&i| prompts.prompts[i].id.as_str())
            .collect();
        let train_scores = train
            .iter()
            .map(|&i| {
                scores[i].ok_or_else(|| {
                    StageError::Data(format!(
                        "stage `{}` has no score for prompt `{}`",
                        self.scores.value, prompts.prompts[i].id
                    ))
                })
            })
            .collect::<Result<Vec<f64>, _>>()?;
        let selection = stats::top_bottom_descending(&train_ids, &train_scores, self.n.value)
            .map_err(|error| StageError::Data(format!("holdout seed {seed}: {error}")))?;
        let pick = |list: &[usize]| list.iter().map(|&k| train[k]).collect::<Vec<_>>();
        let what = format!(
            "holdout seed {seed}, {} training prompts for {} + {}",
            train.len(),
            self.n.value,
            self.n.value
        );
        findings.extend(direction::overlap_finding(
            &pick(&selection.overlap),
            prompts,
            self.allow_overlap,
            &what,
        )?);
        Ok(Split {
            seed,
            groups: Groups {
                top: pick(&selection.top),
                bottom: pick(&selection.bottom),
            },
            train,
            holdout,
        })
    }

    /// The directions of all seeds, layer by layer within a seed. Layers that have none, as a rule for every seed, are told.
    fn directions(
        &self,
        splits: &[Split],
        inputs: &Inputs,
        (scores, findings): (&[Option<f64>], &mut Vec<String>),
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Direction>, StageError> {
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
            let extracted = recipe.directions(&split.groups, &activations, scores)?;
            directions.extend(extracted.directions);
            if !extracted.without.is_empty() {
                let finding = recipe.left_out(&extracted.without);
                let seeds = seeds_by_finding.entry(finding).or_default();
                seeds.push(split.seed.to_string());
            }
        }
        findings.extend(seeds_by_finding.into_iter().map(|(finding, seeds)| {
            match seeds.len() == splits.len() {
                true => finding,
                false => format!("holdout seed {}: {finding}", seeds.join(", ")),
            }
        }));
        Ok(directions)
    }

    fn lines(&self, splits: &[Split], directions: &[Direction], prompts: &PromptSet) -> Vec<Line> {
        let compare = parameters::split_indices(prompts, &self.compare.value);
        let sets_of = |seed: Option<u64>| {
            let of_seed = splits.iter().filter(|s| Some(s.seed) == seed);
            of_seed
                .flat_map(|s| {
                    [
                        (format!("{}_train", self.split.value), s.train.clone()),
                        (format!("{}_holdout", self.split.value), s.holdout.clone()),
                        (self.compare.value.clone(), compare.clone()),
                    ]
                })
                .collect()
        };
        directions
            .iter()
            .map(|direction| Line {
                sets: sets_of(direction.seed),
                ..line_of(direction, self.alpha_unit)
            })
            .collect()
    }
}
