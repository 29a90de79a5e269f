//! `holdout`: does a direction made from half of the prompts steer the other half?
//!
//! For every seed the split's prompts are divided by a hash of seed and id; the direction comes from the training half alone and is
//! tried on `<split>_train`, `<split>_holdout` and the comparison split. Table: that of a sweep, with those names in `set`. The
//! directions of all seeds and layers are kept too.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Fields, Layers, Problems, Seeds, Spanned};
use crate::stats;

use super::direction::{self, Direction, Groups, Recipe};
use super::forecast::{check_scores, check_widths, directions_of};
use super::parameters::{self, Settings};
use super::steer::line_of;
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = Kind {
    name: "holdout",
    version: 2,
    product: Product::HeldOutSweep,
    figures: Some(direction::figures),
    about: "directions from half of the prompts, tried on the other half",
    decode,
};

struct Holdout {
    models: Vec<Name>,
    direction_model: Name,
    prompts: Name,
    scores: Name,
    split: Name,
    compare: Name,
    seeds: Seeds,
    fraction: f64,
    n: Spanned<usize>,
    allow_overlap: bool,
    layers: Layers,
    site: Site,
    alphas: Vec<f64>,
    unit: AlphaUnit,
    position: i64,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let models = parameters::models(fields);
    let direction_model = fields.required("direction_model");
    let prompts = fields.required("prompts");
    let scores = fields.required("scores");
    let split = fields.required("split");
    let compare = fields.required("compare");
    let seeds = fields.required("seed");
    let fraction = fraction(fields);
    let n = fields
        .required("n")
        .filter(|n: &Spanned<usize>| is_positive(n, fields));
    let allow_overlap = fields.or("allow_overlap", false);
    let layers = fields.required("layer");
    let site = parameters::site(fields);
    let alphas = parameters::alphas(fields);
    let unit = sweep::alpha_unit(fields);
    let position = parameters::position(fields);
    Some(Box::new(Holdout {
        models: models?,
        direction_model: direction_model?,
        prompts: prompts?,
        scores: scores?,
        split: split?,
        compare: compare?,
        seeds: seeds?,
        fraction: fraction?,
        n: n?,
        allow_overlap,
        layers: layers?,
        site: site?,
        alphas: alphas?,
        unit: unit?,
        position: position?,
        settings: settings.clone(),
    }))
}

fn fraction(fields: &mut Fields<'_, '_>) -> Option<f64> {
    let Some(fraction) = fields.optional::<Spanned<f64>>("fraction") else {
        return Some(0.5);
    };
    if fraction.value > 0.0 && fraction.value < 1.0 {
        return Some(fraction.value);
    }
    fields
        .problems()
        .error_at(
            &fraction.at,
            format!("fraction `{}` leaves one half empty", fraction.value),
        )
        .label("expected a number between 0 and 1");
    None
}

/// Whether there is a direction to be made of n + n prompts.
fn is_positive(n: &Spanned<usize>, fields: &mut Fields<'_, '_>) -> bool {
    if n.value == 0 {
        let message = "`n` must be at least 1: a direction is made of two groups of prompts";
        fields.problems().error_at(&n.at, message);
    }
    n.value > 0
}

/// One seed's halves and the groups its direction is made from.
struct Split {
    seed: u64,
    train: Vec<usize>,
    holdout: Vec<usize>,
    groups: Groups,
}

impl Stage for Holdout {
    fn needs(&self) -> Needs {
        let mut models = self.models.clone();
        if !models.iter().any(|m| m.value == self.direction_model.value) {
            models.push(self.direction_model.clone());
        }
        Needs {
            models,
            prompts: vec![self.prompts.clone()],
            stages: vec![(self.scores.clone(), Product::Scores)],
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "model": sweep::labels(&self.models),
            "direction_model": self.direction_model.value,
            "split": self.split.value,
            "compare": self.compare.value,
            "seed": self.seeds.iter().collect::<Vec<_>>(),
            "fraction": self.fraction,
            "n": self.n.value,
            "allow_overlap": self.allow_overlap,
            "layer": parameters::layers_key(&self.layers),
            "site": self.site.short_name(),
            "alpha": self.alphas,
            "alpha_unit": self.unit.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, inputs: &Inputs) -> Forecast {
        let seeds: Vec<Option<u64>> = self.seeds.iter().map(Some).collect();
        let split = &self.split.value;
        Forecast {
            directions: directions_of(&self.direction_model, &seeds, &self.layers, inputs),
            sets: vec![
                format!("{split}_train"),
                format!("{split}_holdout"),
                self.compare.value.clone(),
            ],
            ..Forecast::of_sweep(&self.models, &self.prompts, inputs)
        }
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(&self.layers, &self.needs().models, inputs, problems);
        parameters::check_split(&self.compare, &self.prompts, inputs, problems);
        check_scores(
            &self.scores,
            &self.direction_model,
            &self.prompts,
            inputs,
            problems,
        );
        check_widths(&self.direction_model, &self.models, inputs, problems);
        if parameters::check_split(&self.split, &self.prompts, inputs, problems) {
            self.check_halves(inputs, problems);
        }
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(set) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let tried = set.split(&self.split.value).count() + set.split(&self.compare.value).count();
        let directions = self.forecast(inputs).directions.len();
        let members = Cost::of_cells(&[2, self.n.value, directions]);
        let steered = Cost::of_cells(&[directions, self.alphas.len(), tried, self.models.len()]);
        members.and(steered)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let table = inputs.stage(&self.scores)?.table("")?;
        let scores = direction::scores_of(&table, &self.direction_model, prompts)?;
        let mut findings = Vec::new();
        let splits = self
            .seeds
            .iter()
            .map(|seed| self.split(seed, prompts, &scores, &mut findings))
            .collect::<Result<Vec<_>, _>>()?;
        let directions = self.directions(&splits, inputs, (&scores, &mut findings), evaluator)?;
        findings.extend(direction::findings(&directions));
        let sweep = Sweep {
            models: inputs.models_named(&self.models)?,
            prompts,
            lines: self.lines(&splits, &directions, prompts),
            alphas: &self.alphas,
            position: self.position,
            mode: Mode::Add,
            settings: &self.settings,
        };
        let swept = sweep.run(evaluator)?;
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
        let halves = stats::holdout_split(seed, &ids, self.fraction);
        [halves.train, halves.holdout].map(|half| half.iter().map(|&k| of_split[k]).collect())
    }

    /// Checks that every seed leaves prompts to try the direction on, and enough to make it of.
    fn check_halves(&self, inputs: &Inputs, problems: &mut Problems) {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return;
        };
        let sizes = self.seeds.iter().map(|seed| {
            let [train, holdout] = self.halves(seed, prompts);
            (train.len(), holdout.len(), seed)
        });
        let sizes: Vec<(usize, usize, u64)> = sizes.collect();
        if let Some((_, _, seed)) = sizes.iter().find(|(_, holdout, _)| *holdout == 0) {
            let message = format!(
                "seed {seed} holds out none of the prompts of `{}`",
                self.split.value
            );
            let at = self.seeds.0.iter().find(|s| s.value == *seed);
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
        let layers = parameters::layers(&self.layers, model.config().n_layers);
        let mut directions = Vec::new();
        let mut seeds_by_finding: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for split in splits {
            let recipe = Recipe {
                model,
                prompts: inputs.prompt_set(&self.prompts)?,
                layers: &layers,
                site: self.site,
                position: self.position,
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
                ..line_of(direction, self.unit)
            })
            .collect()
    }
}
