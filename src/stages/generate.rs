//! `generate`: continuations of prompts, with or without a direction, and whether they are refusals.
//!
//! The direction acts at the last prompt token, at the generated tokens, or at both; an edited position's keys and values stay edited.
//! Without `layer` each direction acts at its own layer. Main table, one row per model, direction, place, α and prompt: `model, direction,
//! seed` (of the direction), `layer, site, alpha, id, split, category, score` (the logit score at the last prompt token of the same run: with
//! `positions = "generated"` nothing is edited there), `refused` (score > threshold), `text`, and each text classifier's verdict, `regex`
//! and `xstest_prefix`. Without a direction, `direction` and `site` are `none` and α is 0. `agreement`: each classifier against the logit
//! score, per model, direction, place and α: the 2×2 table and Cohen's κ.

mod classify;

use std::sync::Arc;

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::model::{Cell, Edit, HookPoint, Intervention, ModelHandle, Positions, Readout, Sampling, Site, Value};
use crate::prompts::{Prompt, PromptSet};
use crate::spec::{Fields, Layers, OneOrMany, Problems, Spanned, choice};
use crate::stats;

use super::parameters::{self, Settings};
use super::patch;
use super::steer::line_of;
use super::sweep::{self, AlphaUnit, Line};
use super::table;
use super::{Cost, Evaluate, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError};

pub(super) static KIND: Kind = Kind {
    name: "generate",
    version: 1,
    product: Product::Texts,
    about: "continuations, and whether they are refusals",
    decode,
};

const DEFAULT_NEW_TOKENS: usize = 64;

/// What stands for a direction and its site where there is none.
const NONE: &str = "none";

/// Where a direction acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acts {
    /// At the last prompt token.
    LastPrompt,
    /// At every generated token.
    Generated,
    /// At every token from the last of the prompt on.
    Both,
}

/// What the regex classifier reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// The continuation.
    Continuation,
    /// The rendered prompt and the continuation, as the study did.
    Full,
}

/// A direction of another stage and how it acts.
struct Steering {
    direction: Name,
    layers: Option<Layers>,
    site: Option<Site>,
    alphas: Vec<f64>,
    unit: AlphaUnit,
    acts: Acts,
}

struct Generate {
    models: Vec<Name>,
    prompts: Name,
    splits: Option<Vec<Name>>,
    limit: Option<usize>,
    steering: Option<Steering>,
    max_new_tokens: usize,
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
    let max_new_tokens = patch::count(fields, "max_new_tokens");
    let sampling = sampling(fields);
    let stop_at_end = fields.or("stop_at_end", true);
    let scope = match fields.node("scope") {
        None => Some(Scope::Continuation),
        Some(node) => choice(node, fields.problems(), &Scope::CHOICES),
    };
    let normalize_quotes = fields.or("normalize_quotes", true);
    Some(Generate {
        models: models?,
        prompts: prompts?,
        splits: splits.map(|splits| splits.0),
        limit: limit?,
        steering: steering?,
        max_new_tokens: max_new_tokens?.unwrap_or(DEFAULT_NEW_TOKENS),
        sampling: sampling?,
        stop_at_end,
        scope: scope?,
        normalize_quotes,
        settings: settings.clone(),
    })
}

/// Decodes `direction` and the fields that say how it acts; without it there is nothing that they could apply to.
fn steering(fields: &mut Fields<'_, '_>) -> Option<Option<Steering>> {
    if fields.node("direction").is_none() {
        return no_steering(fields).then_some(None);
    }
    let direction = fields.required("direction");
    let layers = fields.optional("layer");
    let site = match fields.node("site") {
        None => Some(None),
        Some(node) => choice(node, fields.problems(), &parameters::residual_sites()).map(Some),
    };
    let alphas = parameters::alphas(fields);
    let unit = sweep::alpha_unit(fields);
    let acts = match fields.node("positions") {
        None => Some(Acts::Both),
        Some(node) => choice(node, fields.problems(), &Acts::CHOICES),
    };
    Some(Some(Steering {
        direction: direction?,
        layers,
        site: site?,
        alphas: alphas?,
        unit: unit?,
        acts: acts?,
    }))
}

/// Whether no field asks for steering; α = 0 asks for none.
fn no_steering(fields: &mut Fields<'_, '_>) -> bool {
    let mut given: Vec<&'static str> = Vec::new();
    for name in ["layer", "site", "alpha_unit", "positions"] {
        given.extend(fields.node(name).map(|_| name));
    }
    if fields.node("alpha").is_some() && parameters::alphas(fields).is_none_or(|alphas| alphas != [0.0]) {
        given.push("alpha");
    }
    for name in &given {
        let Some(node) = fields.node(name) else { continue };
        fields
            .problems()
            .error_at(&node.at, format!("`{name}` is given, but no `direction`"))
            .label("nothing is steered")
            .help("name the stage that makes the direction: `direction = \"…\"`");
    }
    given.is_empty()
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
            (temperature.at, message, "leave it out for the most probable token each time")
        }
        (None, Some(seed)) => {
            let message = "`seed` is given, but no `temperature`".to_string();
            (seed.at, message, "without a temperature nothing is drawn")
        }
    };
    fields.problems().error_at(&at, message).label(label);
    None
}

impl Acts {
    const CHOICES: [(&str, Acts); 3] = [
        ("last_prompt", Acts::LastPrompt),
        ("generated", Acts::Generated),
        ("both", Acts::Both),
    ];

    /// The positions edited in a run that starts from a prompt of `length` tokens.
    fn positions(self, length: usize) -> Positions {
        let last = length.saturating_sub(1);
        match self {
            Acts::LastPrompt => Positions::At(last),
            Acts::Generated => Positions::From(length),
            Acts::Both => Positions::From(last),
        }
    }

    /// Whether the last prompt token, and so the score, is edited.
    fn reaches_prompt(self) -> bool {
        self != Acts::Generated
    }
}

impl Scope {
    const CHOICES: [(&str, Scope); 2] = [("continuation", Scope::Continuation), ("full", Scope::Full)];
}

/// The name of a choice in study files.
fn name_of<T: PartialEq>(choices: &[(&'static str, T)], value: &T) -> Option<&'static str> {
    choices.iter().find(|(_, known)| known == value).map(|(name, _)| *name)
}

impl Steering {
    fn key(&self) -> Json {
        json!({
            "layers": self.layers.as_ref().map(|layers| match layers {
                Layers::All => json!("all"),
                Layers::List(list) => json!(list.iter().map(|l| l.value).collect::<Vec<_>>()),
            }),
            "site": self.site.map(Site::short_name),
            "alphas": self.alphas,
            "alpha_unit": self.unit.name(),
            "positions": name_of(&Acts::CHOICES, &self.acts),
        })
    }

    /// Every direction of the stage named, at every layer it acts at.
    fn lines(&self, inputs: &Inputs, n_layers: usize) -> Result<Vec<Line>, StageError> {
        let mut lines = Vec::new();
        for direction in &inputs.stage(&self.direction)?.directions {
            let layers = match &self.layers {
                None => vec![direction.layer],
                Some(layers) => parameters::layers(layers, n_layers),
            };
            lines.extend(layers.into_iter().map(|layer| Line {
                layer,
                site: self.site.unwrap_or(direction.site),
                ..line_of(direction, self.unit)
            }));
        }
        Ok(lines)
    }

    /// How many lines there will be, a guess of one direction where the stage that makes them has not run.
    fn line_count(&self, inputs: &Inputs, n_layers: usize) -> usize {
        let directions = inputs.stages.get(&self.direction.value).map_or(1, |output| output.directions.len());
        let layers = self.layers.as_ref().map_or(1, |layers| parameters::layers(layers, n_layers).len());
        directions * layers
    }
}

/// One row of the table, before its answer.
#[derive(Clone, Copy)]
struct Row<'a> {
    model: &'a str,
    /// None without a direction.
    line: Option<&'a Line>,
    alpha: f64,
    prompt: &'a Prompt,
}

impl Row<'_> {
    fn intervention(&self, positions: Positions) -> Vec<Intervention> {
        let of_line = |line: &Line| Intervention {
            hook: HookPoint::block(line.layer, line.site),
            positions,
            edit: Edit::Add {
                vector: Arc::clone(&line.vector),
                scale: self.alpha * line.unit_length,
            },
        };
        self.line.map(of_line).into_iter().collect()
    }

    fn direction(&self) -> &str {
        self.line.map_or(NONE, |line| &line.direction)
    }

    fn site(&self) -> &str {
        self.line.map_or(NONE, |line| line.site.short_name())
    }

    /// Whether both stand in the same rows of `agreement`.
    fn is_with(&self, other: &Row<'_>) -> bool {
        let line = |row: &Row<'_>| row.line.map(std::ptr::from_ref);
        self.model == other.model && line(self) == line(other) && self.alpha == other.alpha
    }
}

/// What was found for a row.
struct Answer {
    score: f64,
    refused: bool,
    text: String,
    regex: bool,
    xstest_prefix: bool,
}

impl Stage for Generate {
    fn needs(&self) -> Needs {
        let direction = self.steering.as_ref().map(|steering| steering.direction.clone());
        Needs {
            models: self.models.clone(),
            prompts: vec![self.prompts.clone()],
            stages: direction.into_iter().map(|name| (name, Product::Directions)).collect(),
        }
    }

    fn parameters(&self) -> Json {
        let splits = self.splits.as_ref();
        json!({
            "models": sweep::labels(&self.models),
            "splits": splits.map(|splits| sweep::labels(splits)),
            "limit": self.limit,
            "steering": self.steering.as_ref().map(Steering::key),
            "max_new_tokens": self.max_new_tokens,
            "sampling": match self.sampling {
                Sampling::Greedy => json!("greedy"),
                Sampling::Seeded { temperature, seed } => json!({ "temperature": temperature, "seed": seed }),
            },
            "stop_at_end": self.stop_at_end,
            "scope": name_of(&Scope::CHOICES, &self.scope),
            "normalize_quotes": self.normalize_quotes,
            "settings": self.settings.key(),
        })
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        for split in self.splits.iter().flatten() {
            parameters::check_split(split, &self.prompts, inputs, problems);
        }
        if let Some(layers) = self.steering.as_ref().and_then(|steering| steering.layers.as_ref()) {
            parameters::check_layers(layers, &self.models, inputs, problems);
        }
    }

    /// A script runs the model once per token generated, and once for the score.
    fn cost(&self, inputs: &Inputs) -> Cost {
        let models = self.models.iter().filter_map(|name| inputs.models.get(&name.value));
        let n_layers = models.map(|model| model.config().n_layers).max().unwrap_or(0);
        let steered = self.steering.as_ref().map_or(1, |steering| {
            steering.line_count(inputs, n_layers) * steering.alphas.len()
        });
        let prompts = inputs.prompts.get(&self.prompts.value).map_or(0, |set| self.chosen(set).len());
        let rows = (self.models.len() * steered * prompts) as u64;
        Cost {
            cells_at_most: 2 * rows,
            equivalent_forward_passes: rows * (self.max_new_tokens as u64 + 1),
        }
    }

    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let prompts = inputs.prompt_set(&self.prompts)?;
        let models = self.models.iter().map(|name| inputs.model(name)).collect::<Result<Vec<_>, _>>()?;
        let n_layers = models.iter().map(|m| m.config().n_layers).min().unwrap_or(0);
        let lines = match &self.steering {
            Some(steering) => steering.lines(inputs, n_layers)?,
            None => Vec::new(),
        };
        let mut rows: Vec<(&ModelHandle, Row<'_>)> = Vec::new();
        let (mut scored, mut continued) = (Vec::new(), Vec::new());
        for model in models {
            let readout = self.settings.readout(model)?;
            let tokens = sweep::tokens_of(model, prompts, &self.settings)?;
            for (index, row) in self.rows(model.name(), &lines, prompts) {
                let cell = |positions: Option<Positions>, readout: Readout| {
                    let edits = positions.map_or(Vec::new(), |positions| row.intervention(positions));
                    Cell::new(model.fingerprint(), Arc::clone(&tokens[index]), edits, readout, model.config().n_layers)
                };
                let length = tokens[index].len();
                scored.push(cell(self.score_position(length), readout.clone()));
                continued.push(cell(Some(self.acts().positions(length)), self.continuation()));
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
            ],
            ..Output::default()
        })
    }
}

impl Generate {
    /// Where the direction acts; of no consequence without one.
    fn acts(&self) -> Acts {
        self.steering.as_ref().map_or(Acts::Both, |steering| steering.acts)
    }

    /// Where the score's run is edited: at the last prompt token, if that is edited at all.
    fn score_position(&self, length: usize) -> Option<Positions> {
        self.acts().reaches_prompt().then(|| Acts::LastPrompt.positions(length))
    }

    fn continuation(&self) -> Readout {
        Readout::Generation {
            max_new_tokens: self.max_new_tokens,
            sampling: self.sampling,
            stop_at_end: self.stop_at_end,
        }
    }

    /// The prompts continued: at most `limit` of each split, split by split.
    fn chosen(&self, prompts: &PromptSet) -> Vec<usize> {
        let splits = match &self.splits {
            Some(splits) => splits.iter().map(|split| split.value.as_str()).collect(),
            None => prompts.splits(),
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let of_split = |split| parameters::split_indices(prompts, split).into_iter().take(limit);
        splits.into_iter().flat_map(of_split).collect()
    }

    /// The rows of one model, each with the index of its prompt.
    fn rows<'a>(&self, model: &'a str, lines: &'a [Line], prompts: &'a PromptSet) -> Vec<(usize, Row<'a>)> {
        let steered: Vec<(Option<&Line>, f64)> = match &self.steering {
            None => vec![(None, 0.0)],
            Some(steering) => {
                let alphas = |line| steering.alphas.iter().map(move |&alpha| (Some(line), alpha));
                lines.iter().flat_map(alphas).collect()
            }
        };
        let chosen = self.chosen(prompts);
        let rows = steered.into_iter().flat_map(|(line, alpha)| {
            chosen.iter().map(move |&index| {
                let prompt = &prompts.prompts[index];
                (index, Row { model, line, alpha, prompt })
            })
        });
        rows.collect()
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
                return Err(StageError::Internal(format!("expected a continuation, found {value:?}")));
            };
            let text = model.decode(&ids)?;
            let before = match self.scope {
                Scope::Continuation => String::new(),
                Scope::Full => model.render(&row.prompt.text, self.settings.chat.system.as_deref())?,
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

fn main_table(rows: &[Row<'_>], answers: &[Answer]) -> Result<DataFrame, StageError> {
    let prompts = || rows.iter().map(|row| row.prompt);
    let mut columns = place_columns(rows);
    columns.extend([
        table::text("id", prompts().map(|prompt| &prompt.id)),
        table::text("split", prompts().map(|prompt| &prompt.split)),
        table::text("category", prompts().map(|prompt| &prompt.category)),
        table::numbers("score", answers.iter().map(|answer| answer.score).collect()),
        table::flags("refused", answers.iter().map(|answer| answer.refused).collect()),
        table::text("text", answers.iter().map(|answer| &answer.text)),
        table::flags("regex", answers.iter().map(|answer| answer.regex).collect()),
        table::flags("xstest_prefix", answers.iter().map(|answer| answer.xstest_prefix).collect()),
    ]);
    table::frame(columns)
}

/// What the rows of both tables begin with.
fn place_columns(rows: &[Row<'_>]) -> Vec<polars::prelude::Column> {
    vec![
        table::text("model", rows.iter().map(|row| row.model)),
        table::text("direction", rows.iter().map(Row::direction)),
        table::optional_integers("seed", rows.iter().map(|row| row.line.and_then(|line| line.seed))),
        table::optional_integers("layer", rows.iter().map(|row| row.line.map(|line| line.layer as u64))),
        table::text("site", rows.iter().map(Row::site)),
        table::numbers("alpha", rows.iter().map(|row| row.alpha).collect()),
    ]
}

/// The text classifiers, by the name of their column.
const CLASSIFIERS: [(&str, fn(&Answer) -> bool); 2] = [
    ("regex", |answer| answer.regex),
    ("xstest_prefix", |answer| answer.xstest_prefix),
];

/// Each text classifier against the logit score. κ is null where both gave every text one and the same label.
fn agreement(rows: &[Row<'_>], answers: &[Answer]) -> Result<DataFrame, StageError> {
    let mut groups: Vec<Row<'_>> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let mut counts: Vec<[[u64; 2]; 2]> = Vec::new();
    let mut rest = answers;
    for group in rows.chunk_by(|a, b| a.is_with(b)) {
        let (now, later) = rest.split_at(group.len().min(rest.len()));
        for (name, refuses) in CLASSIFIERS {
            groups.push(group[0]);
            names.push(name);
            counts.push(count(now, refuses));
        }
        rest = later;
    }
    let column = |score: usize, text: usize| counts.iter().map(move |table| table[score][text] as usize);
    let mut columns = place_columns(&groups);
    columns.extend([
        table::text("classifier", names),
        table::integers("n", counts.iter().map(|table| table.iter().flatten().sum::<u64>() as usize)),
        table::integers("both", column(0, 0)),
        table::integers("score_only", column(0, 1)),
        table::integers("text_only", column(1, 0)),
        table::integers("neither", column(1, 1)),
        table::optional_numbers("kappa", counts.iter().map(|&table| stats::cohens_kappa(table)).collect()),
    ]);
    table::frame(columns)
}

/// Counts of `[score][text]`, index 0 a refusal and 1 none.
fn count(answers: &[Answer], refuses: fn(&Answer) -> bool) -> [[u64; 2]; 2] {
    let mut counts = [[0; 2]; 2];
    for answer in answers {
        counts[usize::from(!answer.refused)][usize::from(!refuses(answer))] += 1;
    }
    counts
}
