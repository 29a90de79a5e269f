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
use super::table;
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
    let mut tables = vec![
        (String::new(), long(scored, threshold)?),
        ("means".to_string(), means(scored, threshold)?),
    ];
    let models: Vec<&[Scored]> = scored.chunk_by(|a, b| a.model == b.model).collect();
    if let [first, second] = models[..]
        && first.len() == second.len()
    {
        tables.push(("wide".to_string(), wide(first, second)?));
    }
    Ok(tables)
}

fn long(scored: &[Scored], threshold: f64) -> Result<DataFrame, StageError> {
    let rows = || scored.iter();
    table::frame(vec![
        table::text("model", rows().map(|row| &row.model)),
        table::text("id", rows().map(|row| &row.id)),
        table::text("split", rows().map(|row| &row.split)),
        table::text("category", rows().map(|row| &row.category)),
        table::numbers("score", rows().map(|row| row.score).collect()),
        table::flags("refused", rows().map(|r| r.score > threshold).collect()),
    ])
}

/// Mean score with a bootstrap interval and refusal rate with a Wilson interval, both 95 %, per model and split.
fn means(scored: &[Scored], threshold: f64) -> Result<DataFrame, StageError> {
    let failed = |error: stats::StatsError| StageError::Internal(error.to_string());
    let mut groups: Vec<(&str, &str, Vec<f64>)> = Vec::new();
    for row in scored {
        let at = groups
            .iter()
            .position(|(model, split, _)| (*model, *split) == (&row.model, &row.split));
        match at {
            Some(at) => groups[at].2.push(row.score),
            None => groups.push((&row.model, &row.split, vec![row.score])),
        }
    }
    let mut rows = Vec::new();
    for (_, _, scores) in &groups {
        let refused = scores.iter().filter(|&&s| s > threshold).count() as u64;
        rows.push((
            stats::mean(scores).map_err(failed)?,
            stats::bootstrap_mean(scores, 0).map_err(failed)?,
            refused as f64 / scores.len() as f64,
            stats::wilson(refused, scores.len() as u64).map_err(failed)?,
        ));
    }
    let column = |name: &str, of: fn(&Described) -> Option<f64>| {
        table::optional_numbers(name, rows.iter().map(of).collect())
    };
    table::frame(vec![
        table::text("model", groups.iter().map(|group| group.0)),
        table::text("split", groups.iter().map(|group| group.1)),
        table::integers("n", groups.iter().map(|group| group.2.len())),
        column("mean", |row| row.0),
        column("mean_low", |row| row.1.map(|interval| interval.low)),
        column("mean_high", |row| row.1.map(|interval| interval.high)),
        column("refusal_rate", |row| Some(row.2)),
        column("rate_low", |row| row.3.map(|interval| interval.low)),
        column("rate_high", |row| row.3.map(|interval| interval.high)),
    ])
}

/// Mean, its interval, rate, its interval.
type Described = (
    Option<f64>,
    Option<stats::Interval>,
    f64,
    Option<stats::Interval>,
);

fn wide(first: &[Scored], second: &[Scored]) -> Result<DataFrame, StageError> {
    let column = |of: &[Scored]| {
        let model = of.first().map_or("", |row| &row.model);
        let scores = of.iter().map(|row| row.score).collect();
        table::numbers(&format!("s_{model}"), scores)
    };
    let gaps = first.iter().zip(second).map(|(a, b)| b.score - a.score);
    table::frame(vec![
        table::text("id", first.iter().map(|row| &row.id)),
        table::text("split", first.iter().map(|row| &row.split)),
        table::text("category", first.iter().map(|row| &row.category)),
        column(first),
        column(second),
        table::numbers("s_gap", gaps.collect()),
    ])
}
