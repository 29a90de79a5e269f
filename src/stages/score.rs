//! `score`: the refusal score of every prompt on one or two models.
//!
//! Main table, long: `model, id, split, category, score, refused`. `means`: per model and split, with intervals. With two models also `wide`: `id, split, category, s_<first>,
//! s_<second>, s_gap` (gap = second − first), for which both models must be fed identical ids.

use polars::prelude::DataFrame;

use crate::model::Cell;
use crate::spec::Problems;
use crate::stats;

use super::declare::{declared, parameters};
use super::parameters::{Models, PromptsName};
use super::settings::Settings;
use super::sweep;
use super::table::{self, Rows};
use super::{Cost, Evaluate, Forecast, Inputs, Kind, Output, Product, Stage, StageError};

pub(super) static KIND: Kind =
    super::kind::<Score>("score", 2, Product::Scores, "refusal score of every prompt");

parameters! {
    struct Score {
        /// Models that are asked, in the order of the tables.
        model: Models,
        /// The prompts that are scored.
        prompts: PromptsName,
        settings: Settings,
    }
}

impl Stage for Score {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.model, &self.prompts)
    }

    fn check(&self, _inputs: &Inputs, _problems: &mut Problems) {}

    fn cost(&self, inputs: &Inputs) -> Cost {
        Cost::of_cells(&[self.model.len(), sweep::prompt_count(inputs, &self.prompts)])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.model)?;
        let mut cells = Vec::new();
        let fed = sweep::tokens_of_each(&models, prompts, &self.settings)?;
        for (model, tokens) in models.iter().zip(fed) {
            let readout = self.settings.readout(model)?;
            let n_layers = model.config().n_layers;
            cells.extend(tokens.into_iter().map(|tokens| {
                Cell::new(
                    model.fingerprint(),
                    tokens,
                    vec![],
                    readout.clone(),
                    n_layers,
                )
            }));
        }
        let scores = sweep::scores(evaluator.evaluate(&cells)?)?;
        let prompts_of = self.model.iter().flat_map(|model| {
            let all = prompts.prompts.iter();
            all.map(move |prompt| (model, prompt))
        });
        let scored: Vec<Scored> = prompts_of
            .zip(scores)
            .map(|((model, prompt), score)| Scored {
                model: model.value.clone(),
                id: prompt.id.clone(),
                split: prompt.split.clone(),
                category: prompt.category.clone(),
                score,
            })
            .collect();
        Ok(Output {
            tables: tables(&scored, self.settings.score.threshold)?,
            ..Output::default()
        })
    }
}

/// A prompt's score on a model.
#[derive(Clone, Debug)]
pub(super) struct Scored {
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) split: String,
    pub(crate) category: String,
    pub(crate) score: f64,
}

/// The stage's tables. Rows come model by model.
pub(super) fn tables(
    scored: &[Scored],
    threshold: f64,
) -> Result<Vec<(String, DataFrame)>, StageError> {
    let long = long(scored, threshold)?;
    let means = means(scored, &long, threshold)?;
    let mut tables = vec![(String::new(), long), ("means".to_string(), means)];
    let models: Vec<&[Scored]> = scored.chunk_by(|a, b| a.model == b.model).collect();
    if let [first, second] = models[..]
        && first.len() == second.len()
    {
        tables.push(("wide".to_string(), wide(first, second)?));
    }
    Ok(tables)
}

fn long(scored: &[Scored], threshold: f64) -> Result<DataFrame, StageError> {
    Rows::of(scored)
        .text("model", |row| &row.model)
        .text("id", |row| &row.id)
        .text("split", |row| &row.split)
        .text("category", |row| &row.category)
        .number("score", |row| row.score)
        .flag("refused", |row| row.score > threshold)
        .frame()
}

/// The scores of a model and split, described.
struct Described<'a> {
    first: &'a Scored,
    n: usize,
    mean: Option<f64>,
    mean_interval: Option<stats::Interval>,
    rate: f64,
    rate_interval: Option<stats::Interval>,
}

/// Mean score with a bootstrap interval and refusal rate with a Wilson interval, both 95 %, per model and split.
fn means(scored: &[Scored], long: &DataFrame, threshold: f64) -> Result<DataFrame, StageError> {
    let failed = |error: stats::StatsError| StageError::Internal(error.to_string());
    let mut described = Vec::new();
    for rows in table::groups(long, &["model", "split"])? {
        let scores: Vec<f64> = rows.iter().map(|&row| scored[row].score).collect();
        let refused = scores.iter().filter(|&&s| s > threshold).count() as u64;
        described.push(Described {
            first: &scored[rows[0]],
            n: rows.len(),
            mean: stats::mean(&scores).map_err(failed)?,
            mean_interval: stats::bootstrap_mean(&scores, 0).map_err(failed)?,
            rate: refused as f64 / scores.len() as f64,
            rate_interval: stats::wilson(refused, scores.len() as u64).map_err(failed)?,
        });
    }
    Rows::of(&described)
        .text("model", |row| &row.first.model)
        .text("split", |row| &row.first.split)
        .integer("n", |row| row.n as i64)
        .number("mean", |row| row.mean)
        .number("mean_low", |row| {
            row.mean_interval.map(|interval| interval.low)
        })
        .number("mean_high", |row| {
            row.mean_interval.map(|interval| interval.high)
        })
        .number("refusal_rate", |row| row.rate)
        .number("rate_low", |row| {
            row.rate_interval.map(|interval| interval.low)
        })
        .number("rate_high", |row| {
            row.rate_interval.map(|interval| interval.high)
        })
        .frame()
}

fn wide(first: &[Scored], second: &[Scored]) -> Result<DataFrame, StageError> {
    let pairs: Vec<(&Scored, &Scored)> = first.iter().zip(second).collect();
    let name = |of: &[Scored]| format!("s_{}", of.first().map_or("", |row| &row.model));
    Rows::of(&pairs)
        .text("id", |(a, _)| &a.id)
        .text("split", |(a, _)| &a.split)
        .text("category", |(a, _)| &a.category)
        .number(&name(first), |(a, _)| a.score)
        .number(&name(second), |(_, b)| b.score)
        .number("s_gap", |(a, b)| b.score - a.score)
        .frame()
}
