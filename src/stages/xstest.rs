//! `xstest`: the steer evaluation on XSTest (Röttger et al., NAACL 2024) or a set of its form.
//!
//! Directions come from another stage, usually `holdout`. Main table: that of a sweep, where `split` is XSTest's label and `category` its
//! type; `built_direction` marks prompts whose text helped to build the direction. `rates`: refusal rates by type and by label, with
//! and without those prompts.

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::spec::{Fields, Problems, Seeds};

use super::direction::Direction;
use super::parameters::{self, Settings};
use super::steer::line_of;
use super::sweep::{self, AlphaUnit, Line, Mode, Sweep};
use super::table;
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
        let rates = rates(&rows)?;
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

/// What one row of `rates` is about: model, direction seed, layer, α, and the label or type with its name.
type RateKey = (String, Option<i64>, i64, f64, &'static str, String);

/// Counts behind one row of `rates`.
#[derive(Default)]
struct Count {
    n: usize,
    refused: usize,
    n_without: usize,
    refused_without: usize,
}

/// Refusal rates by label and by type, in the order of first appearance.
fn rates(rows: &DataFrame) -> Result<DataFrame, StageError> {
    let (models, labels) = (
        table::read_text(rows, "model")?,
        table::read_text(rows, "split")?,
    );
    let types = table::read_text(rows, "category")?;
    let (seeds, layers) = (
        table::read_integers(rows, "seed")?,
        table::read_integers(rows, "layer")?,
    );
    let alphas = table::read_numbers(rows, "alpha")?;
    let (refused, built) = (
        table::read_flags(rows, "refused")?,
        table::read_flags(rows, "built_direction")?,
    );
    let mut counts: Vec<(RateKey, Count)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for i in 0..rows.height() {
        for (by, name) in [("label", &labels[i]), ("type", &types[i])] {
            let layer = layers[i].unwrap_or(0);
            let id = (
                models[i].clone(),
                seeds[i],
                layer,
                alphas[i].to_bits(),
                by,
                name.clone(),
            );
            let slot = *known.entry(id).or_insert_with(|| {
                let key = (
                    models[i].clone(),
                    seeds[i],
                    layer,
                    alphas[i],
                    by,
                    name.clone(),
                );
                counts.push((key, Count::default()));
                counts.len() - 1
            });
            let count = &mut counts[slot].1;
            count.n += 1;
            count.refused += usize::from(refused[i]);
            count.n_without += usize::from(!built[i]);
            count.refused_without += usize::from(refused[i] && !built[i]);
        }
    }
    let rate = |refused: usize, n: usize| (n > 0).then(|| refused as f64 / n as f64);
    let all = || counts.iter();
    table::frame(vec![
        table::text("model", all().map(|(k, _)| &k.0)),
        table::optional_integers("seed", all().map(|(k, _)| k.1.map(|s| s as u64))),
        table::integers("layer", all().map(|(k, _)| k.2 as usize)),
        table::numbers("alpha", all().map(|(k, _)| k.3).collect()),
        table::text("by", all().map(|(k, _)| k.4)),
        table::text("name", all().map(|(k, _)| &k.5)),
        table::integers("n", all().map(|(_, c)| c.n)),
        table::optional_numbers(
            "refusal_rate",
            all().map(|(_, c)| rate(c.refused, c.n)).collect(),
        ),
        table::integers("n_without", all().map(|(_, c)| c.n_without)),
        table::optional_numbers(
            "refusal_rate_without",
            all()
                .map(|(_, c)| rate(c.refused_without, c.n_without))
                .collect(),
        ),
    ])
}
