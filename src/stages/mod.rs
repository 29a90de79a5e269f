//! Stages: pure functions from typed parameters and input artifacts to tables and directions.
//!
//! A stage asks a model for **cells** through [`Evaluate`] and assembles their values into tables, where ids, splits, categories and
//! thresholds join. Each kind is one file that declares its parameters ([`declare`]), says what it costs, and runs. Adding a kind is one
//! file and one line in [`KINDS`]: it is shown as its [`Product`] is, and what else is to be drawn of it, it says itself
//! ([`Kind::figures`]).
//!
//! A stage runs in rounds: it evaluates some cells, and what it learns (a direction, a donor's activations) may decide the next.
//! That is why it is handed an evaluator instead of returning one list of cells: a plan runs the same code with an evaluator that only
//! looks values up, and learns exactly which round would have to compute.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use polars::prelude::DataFrame;
use serde::{Deserialize, Serialize};

use crate::figure::Figure;
use crate::model::{Cell, Cells, Chat, ModelError, ModelHandle, Site, Value};
use crate::prompts::PromptSet;
use crate::spec::{Fields, Problems, Spanned};
use crate::stats::StatsError;

mod action;
mod activations;
mod artifacts;
pub(crate) mod chat;
pub(crate) mod columns;
mod combine;
mod condition;
mod cost;
pub(crate) mod declare;
#[cfg(test)]
pub(crate) mod declare_tests;
mod direction;
pub(crate) mod field_types;
mod forecast;
mod generate;
mod holdout;
mod import;
mod independence;
mod measure;
mod parameters;
mod patch;
mod place;
mod position;
mod random;
pub(crate) mod rules;
mod score;
mod select;
mod settings;
mod steer;
mod summary;
pub(crate) mod sweep;
mod table;
mod tensors;
pub(crate) mod told;
mod vector;
mod vocabulary;
mod xstest;

pub(crate) use artifacts::Artifacts;
pub(crate) use declare::Declaration;
use declare::{Declared, Field, Parameter};
pub(crate) use direction::{Affine, Direction};
pub(crate) use forecast::{Forecast, Forecasts};
pub(crate) use import::{ImportSection, PublishedFiles, kind_of, published_table};
pub(crate) use measure::Measure;
pub(crate) use place::RANDOM;
pub(crate) use rules::{NamedRule, Rule, Rules};
pub(crate) use settings::{ScoreRule, Settings};
pub(crate) use summary::{Outcome, PARTS, Source};
pub(crate) use tensors::{Numbers, Tensor, Tensors};
pub(crate) use told::Told;
pub(crate) use vocabulary::{check_prompts, check_rule};

pub(crate) use table::{
    Parts, Rows, cell, groups, parquet_rows, read_numbers, read_parquet, read_parquet_parts,
    read_text, text_of, without_texts, write_csv, write_parquet,
};

/// What the file of a kind needs, whatever kind it is.
mod prelude {
    pub(super) use super::columns::ColumnTold;
    pub(super) use super::declare::{declared, parameters};
    pub(super) use super::rules::{OfRule, Reads, ReadsOne};
    pub(super) use super::told::{self, TableTold, Told};
    pub(super) use super::{Cost, Evaluate, Forecast, Inputs, Kind, Name, Output, Product};
    pub(super) use super::{Settings, Stage, StageError, product};
    pub(super) use crate::spec::Problems;
}

/// What a stage produces, as other stages and views see it; a reference to a stage of another product is an error.
/// What is shown first of a run is shown in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Product {
    /// A table of scores, one row per model and prompt.
    Scores,
    /// Arrays of activations, and the tables that say what is in them.
    Activations,
    /// Directions, with the tables that describe them.
    Directions,
    /// On which prompts an edit is to be made: a direction, and a threshold of how like it they are.
    Condition,
    /// Which direction the rules take of evaluations that others published; without the direction.
    Choice,
    /// How far two directions go without each other.
    Independence,
    /// A table of steered scores.
    Sweep,
    /// Steered scores along directions made from a part of the prompts, and these directions.
    HeldOutSweep,
    /// Steered scores along random directions, which others are compared with.
    RandomSweep,
    /// Steered scores of prompts of several types, with refusal rates by type.
    SweepByType,
    /// What a direction costs on other prompts, beside what it does.
    Costs,
    Patches,
    Texts,
    Summary,
    /// Published numbers beside the study's own.
    Check,
}

impl Product {
    /// The word used in error messages.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Product::Scores => "scores",
            Product::Activations => "activations, as arrays",
            Product::Directions => "directions",
            Product::Condition => "a condition",
            Product::Choice => "a choice of a direction",
            Product::Independence => "how independent directions are",
            Product::Sweep | Product::RandomSweep | Product::SweepByType => {
                "a sweep of steered scores"
            }
            Product::HeldOutSweep => "a sweep of steered scores, and directions",
            Product::Costs => "costs",
            Product::Patches => "patching effects",
            Product::Texts => "texts",
            Product::Summary => "a summary",
            Product::Check => "a comparison with published numbers",
        }
    }

    /// Whether the main table holds steered scores by prompt.
    pub(crate) fn is_sweep(self) -> bool {
        matches!(
            self,
            Product::Sweep | Product::HeldOutSweep | Product::RandomSweep | Product::SweepByType
        )
    }

    /// Whether a stage of this product can stand where `wanted` is asked for.
    pub(crate) fn serves(self, wanted: Product) -> bool {
        match wanted {
            Product::Sweep => self.is_sweep(),
            Product::Directions => matches!(self, Product::Directions | Product::HeldOutSweep),
            wanted => self == wanted,
        }
    }
}

/// The names of the two splits that a gap is between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Splits {
    /// Prompts that should be answered.
    pub(crate) edge: String,
    /// Prompts that should be refused.
    pub(crate) harmful: String,
}

impl Splits {
    /// The split that a set is of: a holdout's halves are both of the split that was divided.
    pub(crate) fn split_of<'a>(&'a self, set: &'a str) -> &'a str {
        let is_half = |split: &&'a String| {
            let half = set.strip_prefix(split.as_str());
            matches!(half, Some("_train" | "_holdout"))
        };
        let split = [&self.edge, &self.harmful].into_iter().find(is_half);
        split.map_or(set, String::as_str)
    }

    /// The half of a split that a holdout sweep's direction is not made of.
    pub(crate) fn held_out(split: &str) -> String {
        format!("{split}_holdout")
    }
}

impl Default for Splits {
    fn default() -> Self {
        Splits {
            edge: "edge".to_string(),
            harmful: "harmful".to_string(),
        }
    }
}

/// Figures of the tables that a stage of that name has left. What is not there is not drawn.
pub(crate) type OwnFigures = fn(&str, &Artifacts) -> Result<Vec<Figure>, StageError>;

/// What a stage gives: to other stages a product, to whoever looks at it the tables of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gives {
    pub(crate) product: Product,
    /// Name of the kind.
    pub(crate) tables: &'static str,
}

/// A kind of stage: its name in study files, the version of its semantics, what it produces, and how it is decoded.
pub(crate) struct Kind {
    /// The name, e.g. `steer`.
    pub(crate) name: &'static str,
    /// Raised when the same parameters and inputs would give another output; part of the stage key.
    pub(crate) version: u32,
    pub(crate) product: Product,
    /// What is drawn of its own tables, before the figures of its product.
    pub(crate) figures: Option<OwnFigures>,
    pub(crate) about: &'static str,
    pub(crate) told: &'static Told,
    pub(crate) fields: fn() -> Vec<Field>,
    /// Reads the parameters from the stage's table; problems are collected.
    pub(crate) decode: fn(&mut Fields<'_, '_>, &Settings) -> Option<Box<dyn Stage>>,
}

/// A kind whose stages are `S`.
const fn kind<S: Stage + Parameter + 'static>(
    name: &'static str,
    version: u32,
    product: Product,
    about: &'static str,
    told: &'static Told,
) -> Kind {
    Kind {
        name,
        version,
        product,
        figures: None,
        about,
        told,
        fields: declare::fields_of::<S>,
        decode: |fields, study| Some(Box::new(S::read(fields, &Declared::default(), study)?)),
    }
}

/// Every kind of stage, in the order of a study.
pub(crate) static KINDS: &[&Kind] = &[
    &score::KIND,
    &generate::KIND,
    &patch::KIND,
    &activations::KIND,
    &direction::KIND,
    &vector::KIND,
    &combine::KIND,
    &select::KIND,
    &condition::KIND,
    &independence::KIND,
    &steer::KIND,
    &holdout::KIND,
    &random::KIND,
    &xstest::KIND,
    &cost::KIND,
    &summary::KIND,
    &import::KIND,
];

pub(crate) fn kind_named(name: &str) -> Option<&'static Kind> {
    KINDS.iter().copied().find(|kind| kind.name == name)
}

/// A name written in a study file, with the place where it was written.
pub(crate) type Name = Spanned<String>;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)
    }
}

/// The names a stage refers to; each is an edge of the study's graph or an input.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Names of models, in the order in which their rows appear in tables.
    pub(crate) models: Vec<Name>,
    pub(crate) prompts: Vec<Name>,
    /// Names of stages and what each must produce.
    pub(crate) stages: Vec<(Name, Product)>,
    /// Files that it reads, beside prompt sets.
    pub(crate) files: Vec<Spanned<PathBuf>>,
    /// Sites that its models must have.
    pub(crate) sites: Vec<Site>,
    /// The chat that its models are asked in; none where no model is asked.
    pub(crate) chat: Option<Chat>,
    /// The score rules that it reads.
    pub(crate) rules: Vec<Arc<Rule>>,
    /// Whether it depends on the tokens at which a text ends.
    pub(crate) ends: bool,
    /// Whether it depends on how many layers each of its models has, where they differ in that.
    pub(crate) depths: bool,
}

impl Needs {
    fn add_model(&mut self, name: &Name) {
        if !self.models.iter().any(|known| known.value == name.value) {
            self.models.push(name.clone());
        }
    }

    fn add_stage(&mut self, name: &Name, wanted: Product) {
        self.stages.push((name.clone(), wanted));
    }
}

/// What a stage would ask of a model, for a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Upper bound on the number of distinct cells.
    pub(crate) cells_at_most: u64,
    /// Full forward passes that a script looping over prompts would make for the same table, duplicates included.
    pub(crate) equivalent_forward_passes: u64,
    /// Upper bound on the number of tokens that pass through some of the blocks: one a cell, and one for every token generated.
    pub(crate) token_passes: u64,
}

impl Cost {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        let sum = |of: fn(&Cost) -> u64| of(&self).saturating_add(of(&other));
        Cost {
            cells_at_most: sum(|cost| cost.cells_at_most),
            equivalent_forward_passes: sum(|cost| cost.equivalent_forward_passes),
            token_passes: sum(|cost| cost.token_passes),
        }
    }

    /// The same where so many tokens pass for each cell instead of one.
    pub(crate) fn over(self, tokens: u64) -> Self {
        Cost {
            token_passes: self.token_passes.saturating_mul(tokens),
            ..self
        }
    }

    /// As many cells as a script makes forward passes.
    pub(crate) fn of_cells(count: u64) -> Self {
        Cost {
            cells_at_most: count,
            equivalent_forward_passes: count,
            token_passes: count,
        }
    }
}

/// The product of some counts; the largest number there is where it would not fit.
pub(crate) fn product(counts: &[usize]) -> u64 {
    counts.iter().fold(1, |product: u64, &count| {
        product.saturating_mul(count as u64)
    })
}

/// One stage with its parameters decoded.
pub trait Stage: Declaration + Send + Sync {
    /// What it gives, where its parameters decide that; otherwise its kind says it.
    fn gives(&self) -> Option<Gives> {
        None
    }

    /// The two splits that it compares, for those who show the sweeps of the study.
    fn compared_splits(&self) -> Option<Splits> {
        None
    }

    /// What is known of the output before it is there. The forecasts of the stages it needs are among the inputs.
    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::default()
    }

    /// Checks what can only be known from the models' configurations, the prompt sets and the other stages' forecasts (layer ranges,
    /// split names, sizes of groups), collecting problems with their places.
    fn check(&self, _inputs: &Inputs, _problems: &mut Problems) {}

    /// What it would ask of a model. Sizes come from the prompt sets and the other stages' forecasts.
    fn cost(&self, _inputs: &Inputs) -> Cost {
        Cost::default()
    }

    /// Computes the output.
    ///
    /// # Errors
    /// [`StageError`]; the evaluator's errors pass through.
    fn run(&self, inputs: &Inputs, evaluator: &mut dyn Evaluate) -> Result<Output, StageError>;
}

/// Answers cells.
pub trait Evaluate {
    /// Hands the value of every cell to `take`, with the cell's number, in any order. Equal cells may be given more than once. No more
    /// of the cells than are worked on lie in memory.
    ///
    /// # Errors
    /// Whatever keeps the values from being had; see [`StageError`].
    fn evaluate_each(
        &mut self,
        cells: &dyn Cells,
        take: &mut dyn FnMut(usize, Value),
    ) -> Result<(), StageError>;

    /// The value of each cell, in the order asked.
    ///
    /// # Errors
    /// As [`Evaluate::evaluate_each`].
    fn evaluate(&mut self, cells: &[Cell]) -> Result<Vec<Value>, StageError> {
        self.evaluate_all(&cells)
    }

    /// The same of cells that are made as they are asked for.
    ///
    /// # Errors
    /// As [`Evaluate::evaluate_each`].
    fn evaluate_all(&mut self, cells: &dyn Cells) -> Result<Vec<Value>, StageError> {
        let mut values: Vec<Option<Value>> = vec![None; cells.count()];
        self.evaluate_each(cells, &mut |number, value| values[number] = Some(value))?;
        let values: Option<Vec<Value>> = values.into_iter().collect();
        values.ok_or_else(|| StageError::Internal("a cell was left without a value".to_string()))
    }
}

/// A file that a stage reads.
#[derive(Clone, Debug)]
pub(crate) struct InputFile {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hash: blake3::Hash,
}

/// What a stage's references stand for. Outputs of stages are present only once those have run.
#[derive(Clone, Default)]
pub struct Inputs {
    /// By name in the study file.
    pub models: BTreeMap<String, Arc<ModelHandle>>,
    pub(crate) prompts: BTreeMap<String, Arc<PromptSet>>,
    pub(crate) files: BTreeMap<PathBuf, Arc<InputFile>>,
    /// By name in the study file.
    pub stages: BTreeMap<String, Arc<Artifacts>>,
    /// What is known of every stage before it has run.
    pub(crate) forecasts: Forecasts,
    /// What a reader should know of models and prompt sets before any number: whole sentences, each naming what it speaks of.
    pub(crate) findings: Vec<String>,
    /// What the scores that stages read are on each model that they ask, by name in the study file.
    pub(crate) measures: BTreeMap<String, Measure>,
}

impl Inputs {
    pub(crate) fn model(&self, name: &Name) -> Result<&Arc<ModelHandle>, StageError> {
        let missing = || StageError::Internal(format!("model `{name}` was not provided"));
        self.models.get(&name.value).ok_or_else(missing)
    }

    pub(crate) fn models_named(
        &self,
        names: &[Name],
    ) -> Result<Vec<&Arc<ModelHandle>>, StageError> {
        names.iter().map(|name| self.model(name)).collect()
    }

    pub(crate) fn prompt_set(&self, name: &Name) -> Result<&Arc<PromptSet>, StageError> {
        let missing = || StageError::Internal(format!("prompt set `{name}` was not provided"));
        self.prompts.get(&name.value).ok_or_else(missing)
    }

    /// What the stage of that name left.
    pub(crate) fn stage(&self, name: &Name) -> Result<&Arc<Artifacts>, StageError> {
        let missing = || StageError::Internal(format!("stage `{name}` has not run"));
        self.stages.get(&name.value).ok_or_else(missing)
    }
}

/// What a stage leaves: tables, directions, arrays, and findings a reader should know of.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Tables of so many rows that they are made part by part as they are written, by name, before the others.
    pub(crate) parts: Vec<(String, Arc<dyn Parts>)>,
    /// Tables by name; the main table's name is empty, so that it takes the stage's.
    pub(crate) tables: Vec<(String, DataFrame)>,
    /// Directions, in a fixed order.
    pub(crate) directions: Vec<Direction>,
    /// Files of arrays.
    pub(crate) tensors: Vec<Tensors>,
    /// Sentences worth a reader's attention (an overlap, prompts left out).
    pub(crate) findings: Vec<String>,
}

impl Output {
    /// Tables, and no more.
    fn of(tables: Vec<(String, DataFrame)>) -> Self {
        Output {
            tables,
            ..Output::default()
        }
    }
}

/// Each of some values once, in the order of first appearance.
fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for value in values {
        if !once.contains(&value) {
            once.push(value);
        }
    }
    once
}

/// Why a stage gave no output.
#[derive(Debug)]
pub enum StageError {
    /// A plan's evaluator found that many cells missing and does not compute.
    Missing(u64),
    /// The person asked to stop.
    Interrupted,
    /// The model could not do it.
    Model(ModelError),
    /// The inputs do not allow it; says what to change.
    Data(String),
    /// Computed again, it gave other bits than are cached; says which.
    NotReproduced(String),
    /// The cache failed; the text is that of the cache's error.
    Cache(String),
    /// The cache held what cannot be right; it was moved aside, and what has been made so far may rest on it. Whoever runs stages starts
    /// again.
    Untrusted(String),
    /// The program is at fault.
    Internal(String),
}

impl fmt::Display for StageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StageError::Missing(count) => write!(f, "{count} cells are not in the cache"),
            StageError::Interrupted => f.write_str("interrupted"),
            StageError::Model(error) => write!(f, "{error}"),
            StageError::Data(message)
            | StageError::NotReproduced(message)
            | StageError::Cache(message)
            | StageError::Untrusted(message) => f.write_str(message),
            StageError::Internal(message) => {
                write!(f, "internal error (please report it): {message}")
            }
        }
    }
}

impl std::error::Error for StageError {}

impl From<ModelError> for StageError {
    fn from(error: ModelError) -> Self {
        StageError::Model(error)
    }
}

/// A statistic that cannot be computed is the data's fault.
impl From<StatsError> for StageError {
    fn from(error: StatsError) -> Self {
        StageError::Data(error.to_string())
    }
}

impl From<polars::error::PolarsError> for StageError {
    fn from(error: polars::error::PolarsError) -> Self {
        StageError::Internal(format!("table: {error}"))
    }
}
