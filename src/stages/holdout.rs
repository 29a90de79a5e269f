//! `holdout`: does a direction made from half of the prompts steer the other half?
//!
//! For every seed the split's prompts are divided by a hash of seed and id; the direction comes from the training half alone and is
//! tried on `<split>_train`, `<split>_holdout` and the comparison split. Table: that of a sweep, with those names in `set`. The
//! directions of all seeds and layers are kept too.

use serde_json::{Value as Json, json};

use crate::model::Site;
use crate::prompts::PromptSet;
use crate::spec::{Fields, Layers, Problems, Seeds, Spanned};
use crate::stats;

use super::direction::{self, Direction, Groups, Recipe};
use super::parameters::{self, Settings};
use super::steer::line_of;
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{Cost, Evaluate, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = Kind {
    name: "holdout",
    version: 1,
    product: Product::SweepWithDirections,
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
    n: usize,
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
    let n = fields.required("n");
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
        }
    }

    fn parameters(&self) -> Json {
        json!({
            "models": sweep::labels(&self.models),
            "direction_model": self.direction_model.value,
            "split": self.split.value,
            "compare": self.compare.value,
            "seeds": self.seeds.iter().collect::<Vec<_>>(),
            "fraction": self.fraction,
            "n": self.n,
            "allow_overlap": self.allow_overlap,
            "layers": match &self.layers {
                Layers::All => json!("all"),
                Layers::List(list) => json!(list.iter().map(|l| l.value).collect::<Vec<_>>()),
            },
            "site": self.site.short_name(),
            "alphas": self.alphas,
            "alpha_unit": self.unit.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        parameters::check_layers(&self.layers, &self.needs().models, inputs, problems);
        parameters::check_split(&self.split, &self.prompts, inputs, problems);
        parameters::check_split(&self.compare, &self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let Some(set) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let tried = set.split(&self.split.value).count() + set.split(&self.compare.value).count();
        let n_layers = inputs
            .models
            .get(&self.direction_model.value)
            .map_or(0, |m| m.config().n_layers);
        let directions = self.seeds.0.len() * parameters::layers(&self.layers, n_layers).len();
        let members = 2 * self.n * directions;
        let steered = directions * self.alphas.len() * tried * self.models.len();
        Cost {
            cells_at_most: (members + steered) as u64,
            equivalent_forward_passes: (members + steered) as u64,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let table = inputs.stage(&self.scores)?.table("")?;
        let scores = direction::scores_of(table, &self.direction_model, prompts)?;
        let mut findings = Vec::new();
        let splits = self
            .seeds
            .iter()
            .map(|seed| self.split(seed, prompts, &scores, &mut findings))
            .collect::<Result<Vec<_>, _>>()?;
        let directions = self.directions(&splits, inputs, &scores, evaluator)?;
        let sweep = Sweep {
            models: self
                .models
                .iter()
                .map(|name| inputs.model(name))
                .collect::<Result<_, _>>()?,
            prompts,
            lines: self.lines(&splits, &directions, prompts),
            alphas: &self.alphas,
            position: self.position,
            mode: Mode::Add,
            settings: &self.settings,
        };
        let tables = vec![
            (String::new(), sweep.run(evaluator)?),
            ("directions".to_string(), direction::describe(&directions)?),
            ("members".to_string(), direction::members(&directions)?),
            ("cosine".to_string(), direction::cosines(&directions)?),
        ];
        Ok(Output {
            tables,
            directions,
            findings,
        })
    }
}

impl Holdout {
    fn split(
        &self,
        seed: u64,
        prompts: &PromptSet,
        scores: &[Option<f64>],
        findings: &mut Vec<String>,
    ) -> Result<Split, StageError> {
        let of_split = parameters::split_indices(prompts, &self.split.value);
        let ids: Vec<&str> = of_split
            .iter()
            .map(|&i| prompts.prompts[i].id.as_str())
            .collect();
        let halves = stats::holdout_split(seed, &ids, self.fraction);
        let whole = |list: &[usize]| list.iter().map(|&k| of_split[k]).collect::<Vec<_>>();
        let (train, holdout) = (whole(&halves.train), whole(&halves.holdout));
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
        let selection = stats::top_bottom_descending(&train_ids, &train_scores, self.n)
            .map_err(|error| StageError::Data(format!("holdout seed {seed}: {error}")))?;
        let pick = |list: &[usize]| list.iter().map(|&k| train[k]).collect::<Vec<_>>();
        let what = format!(
            "holdout seed {seed}, {} training prompts for {} + {}",
            train.len(),
            self.n,
            self.n
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

    /// The directions of all seeds, layer by layer within a seed.
    fn directions(
        &self,
        splits: &[Split],
        inputs: &Inputs,
        scores: &[Option<f64>],
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Direction>, StageError> {
        let model = inputs.model(&self.direction_model)?;
        let layers = parameters::layers(&self.layers, model.config().n_layers);
        let mut directions = Vec::new();
        for split in splits {
            let recipe = Recipe {
                model,
                prompts: inputs.prompt_set(&self.prompts)?,
                layers: &layers,
                site: self.site,
                position: self.position,
                label: format!("holdout_{}", self.n),
                seed: Some(split.seed),
                settings: &self.settings,
            };
            let activations = recipe.activations(&split.groups, evaluator)?;
            directions.extend(recipe.directions(&split.groups, &activations, scores)?);
        }
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
