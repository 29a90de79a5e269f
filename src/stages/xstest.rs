//! `xstest`: the steer evaluation on XSTest (Röttger et al., NAACL 2024) or a set of its form.
//!
//! Directions come from another stage, usually `holdout`. Main table: that of a sweep, where `split` is XSTest's label and `category` its
//! type; `built_direction` marks prompts whose text helped to build the direction. `rates`: refusal rates by type and by label, with
//! and without those prompts.

use serde_json::{Value as Json, json};

use crate::spec::{Fields, Problems, Seeds};

use super::direction::Direction;
use super::parameters::{self, Settings};
use super::steer::line_of;
use super::summary;
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::{Cost, Evaluate, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = Kind {
    name: "xstest",
    version: 1,
    product: Product::Sweep,
    about: "refusal rates by XSTest type under a direction",
    decode,
};

struct XsTest {
    models: Vec<Name>,
    prompts: Name,
    direction: Name,
    seeds: Option<Seeds>,
    alphas: Vec<f64>,
    unit: AlphaUnit,
    position: i64,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let models = parameters::models(fields);
    let prompts = fields.required("prompts");
    let direction = fields.required("direction");
    let seeds = fields.optional("seed");
    let alphas = parameters::alphas(fields);
    let unit = sweep::alpha_unit(fields);
    let position = parameters::position(fields);
    Some(Box::new(XsTest {
        models: models?,
        prompts: prompts?,
        direction: direction?,
        seeds,
        alphas: alphas?,
        unit: unit?,
        position: position?,
        settings: settings.clone(),
    }))
}

impl Stage for XsTest {
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
            "seeds": self.seeds.as_ref().map(|s| s.iter().collect::<Vec<_>>()),
            "alphas": self.alphas,
            "alpha_unit": self.unit.name(),
            "position": self.position,
            "settings": self.settings.key(),
        })
    }

    fn check(&self, _inputs: &Inputs, _problems: &mut Problems) {}

    fn cost(&self, inputs: &Inputs) -> Cost {
        let directions = match inputs.stages.get(&self.direction.value) {
            Some(output) => self.chosen(&output.directions).count(),
            None => self.seeds.as_ref().map_or(1, |s| s.0.len()),
        };
        let settings = directions * self.alphas.len() * self.models.len();
        let count = settings as u64 * sweep::prompt_count(inputs, &self.prompts);
        Cost {
            cells_at_most: count,
            equivalent_forward_passes: count,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let directions = &inputs.stage(&self.direction)?.directions;
        let sets = sweep::sets_by_split(prompts);
        let lines: Vec<Line> = self
            .chosen(directions)
            .map(|direction| Line {
                sets: sets.clone(),
                ..line_of(direction, self.unit)
            })
            .collect();
        if lines.is_empty() {
            return Err(StageError::Data(format!(
                "stage `{}` has no direction with the seeds asked for",
                self.direction.value
            )));
        }
        let built = lines.iter().map(|l| {
            prompts
                .prompts
                .iter()
                .filter(|p| l.builders.contains(&p.text))
                .count()
        });
        let built = built.max().unwrap_or(0);
        let sweep = Sweep {
            models: self
                .models
                .iter()
                .map(|name| inputs.model(name))
                .collect::<Result<_, _>>()?,
            prompts,
            lines,
            alphas: &self.alphas,
            position: self.position,
            mode: Mode::Add,
            settings: &self.settings,
        };
        let rows = sweep.run(evaluator)?;
        let rates = summary::xstest_rates(&rows)?;
        let mut findings = Vec::new();
        if built > 0 {
            findings.push(format!("{built} of the {} prompts helped to build the direction; rates are given with and without them", prompts.prompts.len()));
        }
        Ok(Output {
            tables: vec![(String::new(), rows), ("rates".to_string(), rates)],
            directions: Vec::new(),
            findings,
        })
    }
}

impl XsTest {
    fn chosen<'a>(&'a self, directions: &'a [Direction]) -> impl Iterator<Item = &'a Direction> {
        directions
            .iter()
            .filter(|direction| match (&self.seeds, direction.seed) {
                (Some(seeds), Some(seed)) => seeds.iter().any(|s| s == seed),
                _ => true,
            })
    }
}
