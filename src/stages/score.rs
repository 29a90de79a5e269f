//! `score`: the score of every prompt on one or two models, by one score rule or several.
//!
//! Main table, long: `model, id, split, category, score, refused`. `means`: per model and split, with intervals. With two models also `wide`: `id, split, category, s_<first>,
//! s_<second>, s_gap` (gap = second − first), for which both models must be fed identical ids. They are of the first rule that is read; the
//! same of another rule are `<rule>`, `<rule>_means` and `<rule>_wide`. Columns are called as the rule ([`super::rules`]).

use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::model::{Cell, Tokens};
use crate::stats;

use super::parameters::{Models, PromptsName};
use super::prelude::*;
use super::rules::{Rule, rate_column};
use super::sweep;
use super::table::{self, Rows};

pub(super) static KIND: Kind = super::kind::<Score>(
    "score",
    2,
    Product::Scores,
    "score of every prompt, by one score rule or several",
    &TOLD,
);

static TOLD: Told = Told {
    computes: "`s = logsumexp(logits of refusing first tokens) − logsumexp(logits of complying ones)` at the last prompt token, where the chat \
        template leaves the answer to begin; the words are those of `[score]`, of each of which the first token counts, every token \
        once. A prompt is refused where `s > threshold`. So it is for the default rule; `read` names others, `[score.NAME]`, after which \
        columns and further tables are called. Intervals of means are percentile bootstraps over prompts, those of rates Wilson's. With two \
        models both are fed identical ids.",
    tables: &[
        TableTold::of(
            "",
            "a row for each model and prompt",
            "model id split category score refused",
        ),
        TableTold::of(
            "means",
            "a row for each model and split",
            "model split n mean mean_low mean_high refusal_rate rate_low rate_high",
        ),
        TableTold::of(
            "wide",
            "a row for each prompt; where two models are scored",
            "id split category s_<model> s_gap",
        ),
        TableTold::of(
            "<rule>",
            "the main table of each further rule that is read",
            "model id split category score <rule>",
        ),
        TableTold::of(
            "<rule>_means",
            "its means",
            "model split n mean mean_low mean_high <rule>_rate rate_low rate_high",
        ),
        TableTold::of(
            "<rule>_wide",
            "its scores side by side; where two models are scored",
            "id split category s_<model> s_gap",
        ),
    ],
    example: r#"
[stages.score]
model = "inst"
prompts = "main"
"#,
};

parameters! {
    struct Score {
        /// Models that are asked, in the order of the tables.
        model: Models,
        /// The prompts that are scored.
        prompts: PromptsName,
        settings: Reads,
    }
}

impl Stage for Score {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.model, &self.prompts).reading(&self.settings)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    fn cost(&self, inputs: &Inputs) -> Cost {
        let prompts = sweep::prompt_count(inputs, &self.prompts);
        let rows = product(&[self.model.len(), prompts]);
        self.settings.cost(rows, &self.model, inputs)
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.model)?;
        let (mut cells, mut readings) = (Vec::new(), Vec::new());
        let fed = sweep::tokens_of_each(&models, prompts, &self.settings)?;
        for (model, tokens) in models.iter().zip(fed) {
            let of_model = self.settings.on(model)?;
            let (model, n_layers) = (model.fingerprint, model.config().n_layers);
            let cells_of = |tokens: Arc<Tokens>| {
                let readouts = of_model.readouts.iter().cloned();
                readouts.map(move |r| Cell::new(model, Arc::clone(&tokens), vec![], r, n_layers))
            };
            cells.extend(tokens.into_iter().flat_map(cells_of));
            readings.push(of_model);
        }
        let mut values = evaluator.evaluate(&cells)?.into_iter();
        let rules = &self.settings.rules;
        let mut scores = vec![Vec::new(); rules.len()];
        for of_model in readings {
            let found = of_model.scores(rules, &mut values, &prompts.prompts)?;
            for (all, found) in scores.iter_mut().zip(found) {
                all.extend(found);
            }
        }
        let mut all = Vec::new();
        for (at, (rule, scores)) in rules.iter().zip(scores).enumerate() {
            let prompts_of = self.model.iter().flat_map(|model| {
                let all = prompts.prompts.iter();
                all.map(move |prompt| (model, prompt))
            });
            let scored = prompts_of.zip(scores);
            let scored = scored.map(|((model, prompt), score)| Scored {
                model: &model.value,
                id: &prompt.id,
                split: &prompt.split,
                category: &prompt.category,
                score,
            });
            let scored: Vec<Scored<'_>> = scored.collect();
            let tables = tables(&scored, rule)?.into_iter();
            all.extend(tables.map(|(name, table)| match (at, name.as_str()) {
                (0, _) => (name, table),
                (_, "") => (rule.name.clone(), table),
                _ => (format!("{}_{name}", rule.name), table),
            }));
        }
        Ok(Output::of(all))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Scored<'a> {
    pub(crate) model: &'a str,
    pub(crate) id: &'a str,
    pub(crate) split: &'a str,
    pub(crate) category: &'a str,
    pub(crate) score: f64,
}

/// The tables of one rule. Rows come model by model.
pub(super) fn tables(
    scored: &[Scored<'_>],
    rule: &Rule,
) -> Result<Vec<(String, DataFrame)>, StageError> {
    let long = long(scored, rule)?;
    let means = means(scored, &long, rule)?;
    let mut tables = vec![(String::new(), long), ("means".to_string(), means)];
    let models: Vec<&[Scored<'_>]> = scored.chunk_by(|a, b| a.model == b.model).collect();
    if let [first, second] = models[..]
        && first.len() == second.len()
    {
        tables.push(("wide".to_string(), wide(first, second)?));
    }
    Ok(tables)
}

fn long(scored: &[Scored<'_>], rule: &Rule) -> Result<DataFrame, StageError> {
    Rows::of(scored)
        .text("model", |row| row.model)
        .text("id", |row| row.id)
        .text("split", |row| row.split)
        .text("category", |row| row.category)
        .number("score", |row| row.score)
        .flag(&rule.name, |row| rule.counts(row.score))
        .frame()
}

struct Described<'a> {
    first: Scored<'a>,
    n: usize,
    mean: Option<f64>,
    mean_interval: Option<stats::Interval>,
    rate: f64,
    rate_interval: Option<stats::Interval>,
}

/// Mean score with a bootstrap interval and the rule's rate with a Wilson interval, both 95 %, per model and split.
fn means(scored: &[Scored<'_>], long: &DataFrame, rule: &Rule) -> Result<DataFrame, StageError> {
    let mut described = Vec::new();
    for rows in table::groups(long, &["model", "split"])? {
        let scores: Vec<f64> = rows.iter().map(|&row| scored[row].score).collect();
        let refused = scores.iter().filter(|&&s| rule.counts(s)).count() as u64;
        described.push(Described {
            first: scored[rows[0]],
            n: rows.len(),
            mean: stats::mean(&scores)?,
            mean_interval: stats::bootstrap_mean(&scores, 0)?,
            rate: refused as f64 / scores.len() as f64,
            rate_interval: stats::wilson(refused, scores.len() as u64)?,
        });
    }
    Rows::of(&described)
        .text("model", |row| row.first.model)
        .text("split", |row| row.first.split)
        .integer("n", |row| row.n as i64)
        .number("mean", |row| row.mean)
        .ends(["mean_low", "mean_high"], |row| row.mean_interval)
        .number(&rate_column(&rule.name), |row| row.rate)
        .ends(["rate_low", "rate_high"], |row| row.rate_interval)
        .frame()
}

fn wide(first: &[Scored<'_>], second: &[Scored<'_>]) -> Result<DataFrame, StageError> {
    let pairs: Vec<(&Scored<'_>, &Scored<'_>)> = first.iter().zip(second).collect();
    let name = |of: &[Scored<'_>]| format!("s_{}", of.first().map_or("", |row| row.model));
    Rows::of(&pairs)
        .text("id", |(a, _)| a.id)
        .text("split", |(a, _)| a.split)
        .text("category", |(a, _)| a.category)
        .number(&name(first), |(a, _)| a.score)
        .number(&name(second), |(_, b)| b.score)
        .number("s_gap", |(a, b)| b.score - a.score)
        .frame()
}
