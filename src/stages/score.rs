//! `score`: the refusal score of every prompt on one or two models.
//!
//! Main table, long: `model, id, split, category, score, refused`. `means`: per model and split, with intervals. With two models also `wide`: `id, split, category, s_<first>,
//! s_<second>, s_gap` (gap = second − first), for which both models must be fed identical ids.

use polars::prelude::DataFrame;
use serde_json::json;

use crate::model::Cell;
use crate::prompts::PromptSet;
use crate::spec::{Fields, Problems};
use crate::stats;

use super::parameters::{self, Settings};
use super::sweep;
use super::table;
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

pub(super) static KIND: Kind = Kind {
    name: "score",
    version: 1,
    product: Product::Scores,
    about: "refusal score of every prompt",
    decode,
};

struct Score {
    models: Vec<Name>,
    prompts: Name,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    let models = parameters::models(fields);
    let prompts = fields.required("prompts");
    Some(Box::new(Score {
        models: models?,
        prompts: prompts?,
        settings: settings.clone(),
    }))
}

impl Stage for Score {
    fn needs(&self) -> Needs {
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: vec![],
        }
    }

    fn parameters(&self) -> serde_json::Value {
        json!({ "models": sweep::labels(&self.models), "settings": self.settings.key() })
    }

    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.models, &self.prompts)
    }

    fn check(&self, _inputs: &Inputs, _problems: &mut Problems) {}

    fn cost(&self, inputs: &Inputs) -> Cost {
        Cost::of_cells(&[
            self.models.len(),
            sweep::prompt_count(inputs, &self.prompts),
        ])
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.models)?;
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
        let mut tables = vec![
            (String::new(), self.long(prompts, &scores)?),
            ("means".to_string(), self.means(prompts, &scores)?),
        ];
        if self.models.len() == 2 {
            tables.push(("wide".to_string(), self.wide(prompts, &scores)?));
        }
        Ok(Output {
            tables,
            ..Output::default()
        })
    }
}

impl Score {
    fn long(&self, prompts: &PromptSet, scores: &[f64]) -> Result<DataFrame, StageError> {
        let rows = || {
            self.models
                .iter()
                .flat_map(|m| prompts.prompts.iter().map(move |p| (m, p)))
        };
        let threshold = self.settings.score.threshold;
        table::frame(vec![
            table::text("model", rows().map(|(m, _)| &m.value)),
            table::text("id", rows().map(|(_, p)| &p.id)),
            table::text("split", rows().map(|(_, p)| &p.split)),
            table::text("category", rows().map(|(_, p)| &p.category)),
            table::numbers("score", scores.to_vec()),
            table::flags("refused", scores.iter().map(|&s| s > threshold).collect()),
        ])
    }

    /// Mean score with a bootstrap interval and refusal rate with a Wilson interval, both 95 %, per model and split.
    fn means(&self, prompts: &PromptSet, scores: &[f64]) -> Result<DataFrame, StageError> {
        let failed = |error: stats::StatsError| StageError::Internal(error.to_string());
        let mut rows = Vec::new();
        for (name, scores) in self.models.iter().zip(scores.chunks(prompts.prompts.len())) {
            for (split, indices) in sweep::sets_by_split(prompts) {
                let of_split: Vec<f64> = indices.iter().map(|&i| scores[i]).collect();
                let refused = of_split
                    .iter()
                    .filter(|&&s| s > self.settings.score.threshold)
                    .count() as u64;
                let mean = stats::mean(&of_split).map_err(failed)?;
                let mean_interval = stats::bootstrap_mean(&of_split, 0).map_err(failed)?;
                let rate_interval =
                    stats::wilson(refused, of_split.len() as u64).map_err(failed)?;
                let rate = refused as f64 / of_split.len() as f64;
                rows.push((
                    name,
                    split,
                    of_split.len(),
                    mean,
                    mean_interval,
                    rate,
                    rate_interval,
                ));
            }
        }
        table::frame(vec![
            table::text("model", rows.iter().map(|r| &r.0.value)),
            table::text("split", rows.iter().map(|r| &r.1)),
            table::integers("n", rows.iter().map(|r| r.2)),
            table::optional_numbers("mean", rows.iter().map(|r| r.3).collect()),
            table::optional_numbers(
                "mean_low",
                rows.iter().map(|r| r.4.map(|i| i.low)).collect(),
            ),
            table::optional_numbers(
                "mean_high",
                rows.iter().map(|r| r.4.map(|i| i.high)).collect(),
            ),
            table::numbers("refusal_rate", rows.iter().map(|r| r.5).collect()),
            table::optional_numbers(
                "rate_low",
                rows.iter().map(|r| r.6.map(|i| i.low)).collect(),
            ),
            table::optional_numbers(
                "rate_high",
                rows.iter().map(|r| r.6.map(|i| i.high)).collect(),
            ),
        ])
    }

    fn wide(&self, prompts: &PromptSet, scores: &[f64]) -> Result<DataFrame, StageError> {
        let (first, second) = scores.split_at(prompts.prompts.len());
        let column = |name: &Name| format!("s_{}", name.value);
        let all = &prompts.prompts;
        table::frame(vec![
            table::text("id", all.iter().map(|p| &p.id)),
            table::text("split", all.iter().map(|p| &p.split)),
            table::text("category", all.iter().map(|p| &p.category)),
            table::numbers(&column(&self.models[0]), first.to_vec()),
            table::numbers(&column(&self.models[1]), second.to_vec()),
            table::numbers(
                "s_gap",
                first.iter().zip(second).map(|(a, b)| b - a).collect(),
            ),
        ])
    }
}
