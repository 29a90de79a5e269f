//! `generate`: continuations of prompts, with or without a direction, and whether they are refusals.
//!
//! The direction acts at the last prompt token, at the generated tokens, or at both; an edited position's keys and values stay edited.
//! Without `layer` each direction acts at its own layer. Main table, one row per model, direction, place, α and prompt: `model, direction,
//! seed` (of the direction), `layer, site, alpha, id, split, category, score` (by the one score rule that is read; at the last prompt token of the
//! same run: with `positions = "generated"` nothing is edited there), `refused` (score > threshold; called as the rule), `text`, and each text classifier's verdict, `regex`
//! and `xstest_prefix`. Without a direction, `direction` and `site` are `none` and α is 0. `agreement`: each classifier against the logit
//! score, per model, direction, place and α: the 2×2 table and Cohen's κ.

mod classify;
mod steering;
mod tables;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use crate::model::{Cell, Intervention, ModelHandle, Positions, Readout, Sampling, Tokens, Value};
use crate::prompts::{Prompt, PromptSet};
use crate::spec::{Fields, Spanned};

use super::action::Line;
use super::declare::{Declared, Field, KeyParts, Parameter};
use super::field_types::choices;
use super::measure::Measure;
use super::parameters::{self, Count, Models, Names, PromptsName, StopAtEnd, Temperature};
use super::position::{Layout, Selection};
use super::prelude::*;
use super::rules::Readings;
use super::sweep::{self, OnRow};

pub(super) use steering::Steering;
pub(super) use tables::{Answer, Answered, Row, tables};

/// What the two text classifiers call a continuation: by the study's patterns, and by XSTest's openings.
pub(super) fn classified(text: &str, normalize_quotes: bool) -> (bool, bool) {
    (
        classify::matches_pattern(text),
        classify::has_refusing_prefix(text, normalize_quotes),
    )
}

pub(super) static KIND: Kind = super::kind::<Generate>(
    "generate",
    3,
    Product::Texts,
    "continuations, and whether they are refusals",
    &TOLD,
);

const SCORE_OF_THE_RUN: ColumnTold = ColumnTold::of(
    "score",
    "the score of the same run at the last prompt token, where `positions = \"generated\"` edits nothing",
    "logits",
);
const REFUSED: ColumnTold = ColumnTold::of(
    "refused",
    "texts that the classifier calls a refusal",
    "count",
);

static TOLD: Told = Told {
    computes: "The continuation of every prompt: the most probable token each time, or tokens drawn from `softmax(logits / temperature)`. With \
        `direction`, `h ← h + α·v` at the last prompt token, at every generated token, or at both (`positions`); the keys and values of \
        an edited token stay edited. Without `layer` each direction acts at its own layer. Two classifiers read the texts, and \
        `agreement` holds them against the score of the same run: Cohen's `κ = (p − pₑ) / (1 − pₑ)`. Both know refusals alone: by another \
        score rule than the default there is no `agreement`.",
    tables: &[
        TableTold::of(
            "",
            "a row for each model, direction, place, α and prompt",
            "model direction seed layer site layers? position? alpha alpha_<n>? threshold? likeness? edited? id split category score refused? <rule>? text regex xstest_prefix",
        )
        .but(&[SCORE_OF_THE_RUN]),
        TableTold::of(
            "rates",
            "what each classifier calls a refusal: a row for each model, direction, place, α, split and classifier",
            "model direction seed layer site layers? position? alpha alpha_<n>? threshold? split classifier n refused refusal_rate rate_low rate_high",
        )
        .but(&[REFUSED]),
        told::AGREEMENT,
    ],
    example: r#"
[stages.generate]
model = "inst"
prompts = "main"
limit = 4                      # of each split
direction = "direction"
alpha = [-20, 0, 20]
positions = "both"
max_new_tokens = 12
"#,
};

parameters! {
    struct Generate {
        /// Models that are asked, in the order of the table.
        model: Models,
        /// The prompts.
        prompts: PromptsName,
        /// Splits that are continued, in this order; all where left out.
        split: Option<Names>,
        /// How many prompts of each split at most.
        limit: Option<Count>,
        steering: Option<Steering>,
        /// How many tokens are generated at most.
        max_new_tokens: Count = 64,
        sampling: Sampling,
        /// Whether a text ends with the token at which the model ends one.
        stop_at_end: StopAtEnd = true,
        /// What the patterns of the study read.
        scope: Scope = "continuation",
        /// Whether `’` counts as `'` where the openings of XSTest's classifier are looked for.
        normalize_quotes: bool = true,
        settings: ReadsOne,
    }
}

choices! {
    /// What the regex classifier reads; the study had it read all.
    enum Scope {
        /// the continuation
        Continuation = "continuation",
        /// the rendered prompt and the continuation
        Full = "full",
    }
}

/// `temperature` and `seed`; greedy without a temperature.
impl Parameter for Sampling {
    fn read(fields: &mut Fields<'_, '_>, _: &Declared, _: &Settings) -> Option<Self> {
        let is_greedy = fields.node("temperature").is_none();
        let temperature = fields.optional::<Temperature>("temperature");
        let seed = fields.optional::<Spanned<u64>>("seed");
        match seed {
            Some(seed) if is_greedy => {
                let message = "`seed` is given, but no `temperature`";
                fields
                    .problems
                    .error_at(&seed.at, message)
                    .label("without a temperature nothing is drawn");
                None
            }
            _ if is_greedy => Some(Sampling::Greedy),
            seed => Some(Sampling::Seeded {
                temperature: temperature?.value,
                seed: seed.map_or(0, |seed| seed.value),
            }),
        }
    }

    fn add_key(&self, name: &'static str, key: &mut KeyParts) {
        let drawn = match *self {
            Sampling::Greedy => json!("greedy"),
            Sampling::Seeded { temperature, seed } => {
                json!({ "temperature": temperature, "seed": seed })
            }
        };
        key.insert(name.to_string(), drawn);
    }

    fn list(_: &Declared) -> Vec<Field> {
        let temperature = "Tokens are drawn from softmax(logits / temperature); the most probable one is taken where it is left out.";
        vec![
            Field::optional::<Temperature>("temperature", temperature),
            Field::optional::<u64>(
                "seed",
                "Seed of the drawing, with `temperature`; 0 where left out.",
            ),
        ]
    }
}

impl Stage for Generate {
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::about(&self.model, &self.prompts).reading(&self.settings)
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        for split in self.split.iter().flat_map(|splits| splits.iter()) {
            inputs.check_split(split, &self.prompts, problems);
        }
        if let Some(steering) = &self.steering {
            let places = &steering.places;
            places.check(&steering.direction, &self.model, inputs, problems);
            steering.action.check(&self.model, inputs, problems);
        }
        self.check_context(inputs, problems);
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    /// A script runs the model once per token generated, and once for the score.
    fn cost(&self, inputs: &Inputs) -> Cost {
        let (lines, alphas) = match &self.steering {
            None => (self.model.len(), 1),
            Some(Steering {
                direction,
                places,
                action,
                ..
            }) => (places.count(direction, &self.model, inputs), action.count()),
        };
        let set = inputs.prompts.get(&self.prompts.value);
        let prompts = set.map_or(0, |set| self.chosen(set).len());
        let is_conditioned = |steering: &Steering| steering.action.when.is_some();
        let unedited = match self.steering.as_ref().is_some_and(is_conditioned) {
            true => product(&[self.model.len(), prompts]),
            false => 0,
        };
        let rows = product(&[lines, alphas, prompts]).saturating_add(unedited);
        let passes = rows.saturating_mul(self.max_new_tokens.value as u64);
        let texts = Cost {
            cells_at_most: rows,
            equivalent_forward_passes: passes,
            token_passes: passes,
        };
        let scores = self.settings.cost(rows, &self.model, inputs);
        scores.and(texts).and(Cost::of_cells(unedited))
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = inputs.models_named(&self.model)?;
        let lines = models.iter().map(|model| self.lines(model, inputs));
        let lines = lines.collect::<Result<Vec<_>, _>>()?;
        let mut rows: Vec<(&ModelHandle, Row<'_>)> = Vec::new();
        let (mut cells, mut continued, mut read) = (Vec::new(), Vec::new(), Vec::new());
        let mut otherwise = Vec::new();
        let fed = sweep::tokens_of_each(&models, prompts, &self.settings)?;
        for ((model, lines), tokens) in models.into_iter().zip(&lines).zip(fed) {
            let readings = self.settings.on(model)?;
            let likeness = self.likeness(model, lines, &tokens, prompts, evaluator)?;
            let of_model = self.rows(&model.name, lines, prompts, &likeness);
            let places = self.selections().into_iter();
            let places = places.map(|s| Ok((s, Layout::of(s, model, &self.settings.chat)?)));
            let places: Vec<(&Selection, Layout)> = places.collect::<Result<_, StageError>>()?;
            for (index, row) in &of_model {
                let tokens = &tokens[*index];
                let positions = places.iter();
                let positions = positions.map(|(s, layout)| s.of(layout, tokens, row.prompt));
                let positions: Vec<Positions> = positions.collect::<Result<_, _>>()?;
                let asked = |row: &Row<'_>| {
                    let edits = row.edits(&positions, model.config());
                    self.cells(model, tokens, &edits, &readings)
                };
                let (of_row, text) = asked(row);
                cells.extend(of_row);
                continued.push(text);
                // What no threshold asks for again.
                let (of_row, text) = row.otherwise().as_ref().map(asked).unzip();
                otherwise.extend(of_row.into_iter().flatten().chain(text));
            }
            read.push((readings, of_model.len()));
            rows.extend(of_model.into_iter().map(|(_, row)| (model.as_ref(), row)));
        }
        let texts = cells.len()..cells.len() + rows.len();
        cells.append(&mut continued);
        cells.append(&mut otherwise);
        let mut values = evaluator.evaluate(&cells)?;
        values.truncate(texts.end);
        let texts = values.split_off(texts.start);
        let scores = self.scores(&read, values, rows.iter().map(|(_, row)| row.prompt))?;
        let mut answered: Vec<Answered<'_>> = Vec::with_capacity(rows.len());
        let mut opened: BTreeMap<&str, Vec<(u32, bool)>> = BTreeMap::new();
        for (((model, row), score), text) in rows.into_iter().zip(scores).zip(texts) {
            let Value::Generation(ids) = text else {
                return Err(sweep::unexpected("a continuation", &text));
            };
            let text = model.decode(&ids)?;
            let first = ids.first().copied();
            let before = match self.scope {
                Scope::Continuation => String::new(),
                Scope::Full => model.render(&row.prompt.text, &self.settings.chat)?,
            };
            let answer = self.answer(score, text, &before);
            let is_refusal = answer.regex || answer.xstest_prefix;
            if let Some(first) = first {
                let of_model = opened.entry(&model.name).or_default();
                of_model.push((first, is_refusal));
            }
            answered.push((row, answer));
        }
        Ok(Output {
            findings: self.findings(inputs, &opened)?,
            ..Output::of(tables(&answered, self.settings.main())?)
        })
    }
}

impl Generate {
    /// Tokens of the score that open refusals and answers alike; of each model's texts the first token, and whether it is a refusal.
    fn findings(
        &self,
        inputs: &Inputs,
        opened: &BTreeMap<&str, Vec<(u32, bool)>>,
    ) -> Result<Vec<String>, StageError> {
        let mut findings = Vec::new();
        // The classifiers know refusals, which other rules are not about.
        if !self.settings.main().is_default() {
            return Ok(findings);
        }
        for name in self.model.iter() {
            let Some(texts) = opened.get(name.value.as_str()) else {
                continue;
            };
            let measure = Measure::of(&self.settings.rules, inputs.model(name)?)?;
            let told = measure.openings_of_both(texts).into_iter();
            findings.extend(told.map(|told| format!("model `{name}`: {told}")));
        }
        Ok(findings)
    }

    /// Checks that what is generated fits a model's context, the prompt left aside.
    fn check_context(&self, inputs: &Inputs, problems: &mut Problems) {
        for name in self.model.iter() {
            let model = inputs.models.get(&name.value);
            let Some(config) = model.map(|model| model.config()) else {
                continue;
            };
            if self.max_new_tokens.value >= config.context_length {
                let (asked, model) = (self.max_new_tokens.value, &name.value);
                let message = format!("`max_new_tokens = {asked}` leaves no room for a prompt");
                problems
                    .error_at(&self.max_new_tokens.at, message)
                    .label(format!(
                        "model `{model}` reads at most {} tokens",
                        config.context_length
                    ));
            }
        }
    }

    /// The directions at the layers where they act in a model; none where nothing is steered.
    fn lines(&self, model: &ModelHandle, inputs: &Inputs) -> Result<Vec<Line>, StageError> {
        let Some(steering) = &self.steering else {
            return Ok(Vec::new());
        };
        let directions = &inputs.stage(&steering.direction)?.directions;
        let acting = steering.action.acting(inputs)?;
        let (places, n_layers) = (&steering.places, model.config().n_layers);
        places.lines(directions, &acting, &Arc::from([]), n_layers)
    }

    /// How like the direction of the condition each prompt is, by index into the prompt set; none without a condition.
    fn likeness(
        &self,
        model: &ModelHandle,
        lines: &[Line],
        tokens: &[Arc<Tokens>],
        prompts: &PromptSet,
        evaluator: &mut dyn Evaluate,
    ) -> Result<BTreeMap<usize, f64>, StageError> {
        let Some(gate) = lines.iter().find_map(|line| line.gate.as_ref()) else {
            return Ok(BTreeMap::new());
        };
        let asked = self.chosen(prompts).into_iter();
        let asked = asked.map(|prompt| (prompt, gate.likeness.cell(model, &tokens[prompt])));
        let found = sweep::likenesses(&gate.likeness, asked.collect(), evaluator)?;
        Ok(found.into_iter().collect())
    }

    /// What is read of one run: for its score, and its text.
    fn cells(
        &self,
        model: &ModelHandle,
        tokens: &Arc<Tokens>,
        edits: &[Intervention],
        readings: &Readings,
    ) -> (Vec<Cell>, Cell) {
        let cell = |readout: Readout| {
            let (tokens, n_layers) = (Arc::clone(tokens), model.config().n_layers);
            Cell::new(model.fingerprint, tokens, edits.to_vec(), readout, n_layers)
        };
        // Edits behind the prompt do not reach a score, but they do the tokens of a text whose probability is one.
        let read = readings.readouts.iter().cloned().map(cell);
        (read.collect(), cell(self.continuation(model)))
    }

    /// Where each edit of a run acts; none without a direction.
    fn selections(&self) -> Vec<&Selection> {
        let steering = self.steering.as_ref();
        steering.map_or(Vec::new(), Steering::selections)
    }

    /// The score of every row, of what was read of the rows of each model, so many.
    fn scores<'p>(
        &self,
        read: &[(Readings, usize)],
        values: Vec<Value>,
        mut prompts: impl Iterator<Item = &'p Prompt>,
    ) -> Result<Vec<f64>, StageError> {
        let mut values = values.into_iter();
        let mut scores = Vec::new();
        for (readings, rows) in read {
            let of_model = prompts.by_ref().take(*rows);
            let found = readings.scores(&self.settings.rules, &mut values, of_model)?;
            scores.extend(found.into_iter().flatten());
        }
        Ok(scores)
    }

    fn continuation(&self, model: &ModelHandle) -> Readout {
        let further_ends = match self.stop_at_end.0 {
            true => model.further_ends().into(),
            false => Arc::default(),
        };
        Readout::Generation {
            max_new_tokens: self.max_new_tokens.value,
            sampling: self.sampling,
            stop_at_end: self.stop_at_end.0,
            further_ends,
        }
    }

    /// The prompts continued: at most `limit` of each split, split by split.
    fn chosen(&self, prompts: &PromptSet) -> Vec<usize> {
        let splits = match &self.split {
            Some(splits) => splits.iter().map(|split| split.value.as_str()).collect(),
            None => prompts.splits(),
        };
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| limit.value);
        parameters::first_indices(prompts, &splits, limit)
    }

    /// The rows of one model, each with the index of its prompt.
    fn rows<'a>(
        &'a self,
        model: &'a str,
        lines: &'a [Line],
        prompts: &'a PromptSet,
        likeness: &BTreeMap<usize, f64>,
    ) -> Vec<(usize, Row<'a>)> {
        let steered: Vec<(Option<&Line>, f64)> = match &self.steering {
            None => vec![(None, 0.0)],
            Some(steering) => {
                let alphas = |line| {
                    steering
                        .action
                        .alpha
                        .values()
                        .map(move |alpha| (Some(line), *alpha))
                };
                lines.iter().flat_map(alphas).collect()
            }
        };
        let chosen = self.chosen(prompts);
        let position = self.steering.as_ref().and_then(Steering::position);
        let of_line = |(line, alpha): (Option<&'a Line>, f64)| {
            let gate = line.and_then(|line| line.gate.as_ref());
            let row = move |index: usize| Row {
                model,
                line,
                position,
                alpha,
                condition: gate.and_then(|gate| Some(OnRow::of(gate, *likeness.get(&index)?))),
                prompt: &prompts.prompts[index],
            };
            let chosen = chosen.iter();
            chosen.map(move |&index| (index, row(index)))
        };
        steered.into_iter().flat_map(of_line).collect()
    }

    /// Judges a continuation; the regex reads what comes `before` it too.
    fn answer(&self, score: f64, text: String, before: &str) -> Answer {
        Answer {
            score,
            refused: self.settings.main().counts(score),
            regex: classify::matches_pattern(&format!("{before}{text}")),
            xstest_prefix: classify::has_refusing_prefix(&text, self.normalize_quotes),
            text,
        }
    }
}

#[cfg(test)]
mod tests;
