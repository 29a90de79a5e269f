//! `generate`: continuations of prompts, with or without a direction, and whether they are refusals.
//!
//! The direction acts at the last prompt token, at the generated tokens, or at both; an edited position's keys and values stay edited.
//! Without `layer` each direction acts at its own layer. Main table, one row per model, direction, place, α and prompt: `model, direction,
//! seed` (of the direction), `layer, site, alpha, id, split, category, score` (the logit score at the last prompt token of the same run: with
//! `positions = "generated"` nothing is edited there), `refused` (score > threshold), `text`, and each text classifier's verdict, `regex`
//! and `xstest_prefix`. Without a direction, `direction` and `site` are `none` and α is 0. `agreement`: each classifier against the logit
//! score, per model, direction, place and α: the 2×2 table and Cohen's κ.

mod classify;
mod steering;
mod tables;

use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::model::{Cell, ModelHandle, Positions, Readout, Sampling, Tokens, Value};
use crate::prompts::PromptSet;
use crate::spec::{Fields, OneOrMany, Problems, Spanned, choice};

use super::forecast::check_directions;
use super::parameters::{self, Settings};
use super::patch;
use super::sweep::{self, Line};
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
    product,
};

use steering::{Acts, Steering, steering};
pub(super) use tables::{Answer, Row, agreement, main_table, rates};

/// What the two text classifiers call a continuation: by the study's patterns, and by XSTest's openings.
pub(super) fn classified(text: &str, normalize_quotes: bool) -> (bool, bool) {
    (
        classify::matches_pattern(text),
        classify::has_refusing_prefix(text, normalize_quotes),
    )
}

pub(super) static KIND: Kind = Kind {
    name: "generate",
    version: 2,
    product: Product::Texts,
    about: "continuations, and whether they are refusals",
    decode,
};

const DEFAULT_NEW_TOKENS: usize = 64;

/// What the regex classifier reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The continuation.
    Continuation,
    /// The rendered prompt and the continuation, as the study did.
    Full,
}

struct Generate {
    models: Vec<Name>,
    prompts: Name,
    splits: Option<Vec<Name>>,
    limit: Option<usize>,
    steering: Option<Steering>,
    max_new_tokens: Spanned<usize>,
    sampling: Sampling,
    stop_at_end: bool,
    scope: Scope,
    normalize_quotes: bool,
    settings: Settings,
}

fn decode(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Box<dyn Stage>> {
    Some(Box::new(read(fields, settings)?))
}

fn read(fields: &mut Fields<'_, '_>, settings: &Settings) -> Option<Generate> {
    let models = parameters::models(fields);
    let prompts = fields.required("prompts");
    let splits = fields.optional::<OneOrMany<String>>("split");
    let limit = patch::count(fields, "limit");
    let steering = steering(fields);
    let default = Spanned {
        value: DEFAULT_NEW_TOKENS,
        at: fields.at().clone(),
    };
    let max_new_tokens = patch::count(fields, "max_new_tokens");
    let sampling = sampling(fields);
    let stop_at_end = fields.or("stop_at_end", true);
    let scope = match fields.node("scope") {
        None => Some(Scope::Continuation),
        Some(node) => {
            let choices = [Scope::Continuation, Scope::Full].map(|scope| (scope.name(), scope));
            choice(node, fields.problems(), &choices)
        }
    };
    let normalize_quotes = fields.or("normalize_quotes", true);
    Some(Generate {
        models: models?,
        prompts: prompts?,
        splits: splits.map(|splits| splits.0),
        limit: limit?.map(|limit| limit.value),
        steering: steering?,
        max_new_tokens: max_new_tokens?.unwrap_or(default),
        sampling: sampling?,
        stop_at_end,
        scope: scope?,
        normalize_quotes,
        settings: settings.clone(),
    })
}

/// Decodes `temperature` and `seed`; greedy without a temperature.
fn sampling(fields: &mut Fields<'_, '_>) -> Option<Sampling> {
    let temperature = fields.optional::<Spanned<f64>>("temperature");
    let seed = fields.optional::<Spanned<u64>>("seed");
    let (at, message, label) = match (temperature, seed) {
        (None, None) => return Some(Sampling::Greedy),
        (Some(temperature), seed) if temperature.value > 0.0 => {
            return Some(Sampling::Seeded {
                temperature: temperature.value,
                seed: seed.map_or(0, |seed| seed.value),
            });
        }
        (Some(temperature), _) => {
            let message = format!("temperature `{}` is not above 0", temperature.value);
            (
                temperature.at,
                message,
                "leave it out for the most probable token each time",
            )
        }
        (None, Some(seed)) => {
            let message = "`seed` is given, but no `temperature`".to_string();
            (seed.at, message, "without a temperature nothing is drawn")
        }
    };
    fields.problems().error_at(&at, message).label(label);
    None
}

impl Scope {
    /// The name in study files.
    fn name(self) -> &'static str {
        match self {
            Scope::Continuation => "continuation",
            Scope::Full => "full",
        }
    }
}

impl Stage for Generate {
    fn needs(&self) -> Needs {
        let direction = self
            .steering
            .as_ref()
            .map(|steering| steering.direction.clone());
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: direction
                .into_iter()
                .map(|name| (name, Product::Directions))
                .collect(),
            ends: self.stop_at_end,
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        let splits = self.splits.as_ref();
        json!({
            "model": sweep::labels(&self.models),
            "split": splits.map(|splits| sweep::labels(splits)),
            "limit": self.limit,
            "steering": self.steering.as_ref().map(Steering::key),
            "max_new_tokens": self.max_new_tokens.value,
            "sampling": match self.sampling {
                Sampling::Greedy => json!("greedy"),
                Sampling::Seeded { temperature, seed } => json!({ "temperature": temperature, "seed": seed }),
            },
            "stop_at_end": self.stop_at_end,
            "scope": self.scope.name(),
            "normalize_quotes": self.normalize_quotes,
            "settings": self.settings.key(),
        })
    }

    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.models, &self.prompts)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        for split in self.splits.iter().flatten() {
            parameters::check_split(split, &self.prompts, inputs, problems);
        }
        if let Some(steering) = &self.steering {
            if let Some(layers) = &steering.layers {
                parameters::check_layers(layers, &self.models, inputs, problems);
            }
            let own_layers = steering.layers.is_none();
            check_directions(
                &steering.direction,
                own_layers,
                &self.models,
                inputs,
                problems,
            );
        }
        self.check_context(inputs, problems);
    }

    /// A script runs the model once per token generated, and once for the score.
    fn cost(&self, inputs: &Inputs) -> Cost {
        let deepest = self.models.iter().map(|m| inputs.n_layers(&m.value)).max();
        let steered = self.steering.as_ref().map_or(1, |steering| {
            steering.line_count(inputs, deepest.unwrap_or(0)) * steering.alphas.len()
        });
        let set = inputs.prompts.get(&self.prompts.value);
        let prompts = set.map_or(0, |set| self.chosen(set).len());
        let rows = [self.models.len(), steered, prompts];
        let passes = product(&rows).saturating_mul(self.max_new_tokens.value as u64 + 1);
        Cost {
            cells_at_most: product(&rows).saturating_mul(2),
            equivalent_forward_passes: passes,
            token_passes: passes,
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.models)?;
        let n_layers = models.iter().map(|m| m.config().n_layers).min();
        let n_layers = n_layers.unwrap_or(0);
        let lines = match &self.steering {
            Some(steering) => steering.lines(inputs, n_layers)?,
            None => Vec::new(),
        };
        let mut rows: Vec<(&ModelHandle, Row<'_>)> = Vec::new();
        let (mut scored, mut continued) = (Vec::new(), Vec::new());
        let fed = sweep::tokens_of_each(&models, prompts, &self.settings)?;
        for (model, tokens) in models.into_iter().zip(fed) {
            let readout = self.settings.readout(model)?;
            for (index, row) in self.rows(model.name(), &lines, prompts) {
                let [score, text] = self.cells(model, &row, &tokens[index], &readout);
                scored.push(score);
                continued.push(text);
                rows.push((model, row));
            }
        }
        scored.append(&mut continued);
        let mut values = evaluator.evaluate(&scored)?;
        let texts = values.split_off(rows.len());
        let answers = self.answers(&rows, sweep::scores(values)?, texts)?;
        let rows: Vec<Row<'_>> = rows.into_iter().map(|(_, row)| row).collect();
        Ok(Output {
            tables: vec![
                (String::new(), main_table(&rows, &answers)?),
                ("agreement".to_string(), agreement(&rows, &answers)?),
                ("rates".to_string(), rates(&rows, &answers)?),
            ],
            ..Output::default()
        })
    }
}

impl Generate {
    /// Checks that what is generated fits a model's context, the prompt left aside.
    fn check_context(&self, inputs: &Inputs, problems: &mut Problems) {
        for name in &self.models {
            let model = inputs.models.get(&name.value);
            let context = model.map_or(usize::MAX, |model| model.config().context_length);
            if self.max_new_tokens.value >= context {
                let message = format!(
                    "`max_new_tokens = {}` leaves no room for a prompt",
                    self.max_new_tokens.value
                );
                problems
                    .error_at(&self.max_new_tokens.at, message)
                    .label(format!(
                        "model `{}` reads at most {context} tokens",
                        name.value
                    ));
            }
        }
    }

    /// Where the direction acts; of no consequence without one.
    fn acts(&self) -> Acts {
        self.steering
            .as_ref()
            .map_or(Acts::Both, |steering| steering.acts)
    }

    /// Where the score's run is edited: at the last prompt token, if that is edited at all.
    fn score_position(&self, length: usize) -> Option<Positions> {
        self.acts()
            .reaches_prompt()
            .then(|| Acts::LastPrompt.positions(length))
    }

    /// The cells of a row: its score, and its continuation.
    fn cells(
        &self,
        model: &ModelHandle,
        row: &Row<'_>,
        tokens: &Arc<Tokens>,
        score: &Readout,
    ) -> [Cell; 2] {
        let (fingerprint, n_layers) = (model.fingerprint(), model.config().n_layers);
        let cell = |positions: Option<Positions>, readout: Readout| {
            let edits = positions.map_or(Vec::new(), |positions| row.intervention(positions));
            Cell::new(fingerprint, Arc::clone(tokens), edits, readout, n_layers)
        };
        let everywhere = self.acts().positions(tokens.len());
        [
            cell(self.score_position(tokens.len()), score.clone()),
            cell(Some(everywhere), self.continuation(model)),
        ]
    }

    fn continuation(&self, model: &ModelHandle) -> Readout {
        let further_ends = match self.stop_at_end {
            true => model.further_ends().into(),
            false => Arc::default(),
        };
        Readout::Generation {
            max_new_tokens: self.max_new_tokens.value,
            sampling: self.sampling,
            stop_at_end: self.stop_at_end,
            further_ends,
        }
    }

    /// The prompts continued: at most `limit` of each split, split by split.
    fn chosen(&self, prompts: &PromptSet) -> Vec<usize> {
        let splits = match &self.splits {
            Some(splits) => splits.iter().map(|split| split.value.as_str()).collect(),
            None => prompts.splits(),
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let of_split = |split| parameters::split_indices(prompts, split).into_iter();
        let of_splits = splits.into_iter().map(of_split);
        of_splits.flat_map(|split| split.take(limit)).collect()
    }

    /// The rows of one model, each with the index of its prompt.
    fn rows<'a>(
        &self,
        model: &'a str,
        lines: &'a [Line],
        prompts: &'a PromptSet,
    ) -> Vec<(usize, Row<'a>)> {
        let mut steered: Vec<(Option<&Line>, f64)> = Vec::new();
        match &self.steering {
            None => steered.push((None, 0.0)),
            Some(steering) => {
                for line in lines {
                    let alphas = steering.alphas.iter();
                    steered.extend(alphas.map(|&alpha| (Some(line), alpha)));
                }
            }
        }
        let chosen = self.chosen(prompts);
        let mut rows = Vec::with_capacity(steered.len() * chosen.len());
        for (line, alpha) in steered {
            rows.extend(chosen.iter().map(|&index| {
                let prompt = &prompts.prompts[index];
                let row = Row {
                    model,
                    line,
                    alpha,
                    prompt,
                };
                (index, row)
            }));
        }
        rows
    }

    fn answers(
        &self,
        rows: &[(&ModelHandle, Row<'_>)],
        scores: Vec<f64>,
        texts: Vec<Value>,
    ) -> Result<Vec<Answer>, StageError> {
        let found = rows.iter().zip(scores).zip(texts);
        let answer = |(((model, row), score), value): ((&(&ModelHandle, Row<'_>), f64), Value)| {
            let Value::Generation(ids) = value else {
                return Err(StageError::Internal(format!(
                    "expected a continuation, found {value:?}"
                )));
            };
            let text = model.decode(&ids)?;
            let before = match self.scope {
                Scope::Continuation => String::new(),
                Scope::Full => model.render(&row.prompt.text, &self.settings.chat)?,
            };
            Ok(self.answer(score, text, &before))
        };
        found.map(answer).collect()
    }

    /// Judges a continuation; the regex reads what comes `before` it too.
    fn answer(&self, score: f64, text: String, before: &str) -> Answer {
        Answer {
            score,
            refused: score > self.settings.score.threshold,
            regex: classify::matches_pattern(&format!("{before}{text}")),
            xstest_prefix: classify::has_refusing_prefix(&text, self.normalize_quotes),
            text,
        }
    }
}

#[cfg(test)]
mod tests;
