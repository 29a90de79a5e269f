//! A table as measurements under conditions, whatever its author called the columns.

use std::collections::BTreeMap;

use polars::prelude::{
    DataFrame, DataFrameJoinOps, IdxCa, IdxSize, JoinArgs, JoinType, SortMultipleOptions,
};

use crate::report::Table;
use crate::stages::sweep::{Measured, SweepFrame, SweepRow};
use crate::stages::{Rows, StageError, groups, read_numbers, read_text};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Quantity {
    /// Of a prompt.
    Score,
    Mean,
    RefusalRate,
    MeanDelta,
}

impl Quantity {
    pub(super) const ALL: [Quantity; 4] = [
        Quantity::Score,
        Quantity::Mean,
        Quantity::RefusalRate,
        Quantity::MeanDelta,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Quantity::Score => "score",
            Quantity::Mean => "mean",
            Quantity::RefusalRate => "refusal_rate",
            Quantity::MeanDelta => "mean_delta",
        }
    }
}

/// Names of conditions, and the other names that stages' tables give them.
const CONDITIONS: [(&str, &[&str]); 9] = [
    ("model", &[]),
    ("layer", &[]),
    ("k", &[]),
    ("site", &[]),
    ("seed", &[]),
    ("alpha", &[]),
    ("set", &["split", "label"]),
    ("type", &["category"]),
    ("id", &[]),
];

/// Where the conditions start that single prompts have and sets have not.
const OF_PROMPT: usize = 7;

/// A value for each of [`CONDITIONS`], empty where nothing says it.
type Conditions = [String; CONDITIONS.len()];

/// What every frame of measurements has beside conditions.
const QUANTITY: &str = "quantity";
const VALUE: &str = "value";

fn of_sweep(row: &SweepRow<'_>) -> Conditions {
    let prompt = row.prompt();
    [
        row.model.to_string(),
        row.layer.to_string(),
        String::new(),
        normal("site", row.site),
        said(row.seed),
        said(row.alpha.map(|alpha| alpha + 0.0)),
        normal("set", row.set),
        prompt.category.to_string(),
        prompt.id.to_string(),
    ]
}

fn said(value: Option<impl ToString>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// The measurements of a table.
#[derive(Clone, Debug)]
pub(super) struct Measurements {
    /// The kind of stage that it is of.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Columns: `quantity`, a text for each condition, `value`.
    frames: BTreeMap<Quantity, DataFrame>,
}

/// Measurements that are being read.
#[derive(Default)]
struct Collected {
    values: BTreeMap<Quantity, Vec<(Conditions, f64)>>,
    /// Of single prompts, until they are made into rates.
    refusals: Vec<(Conditions, f64)>,
}

impl Collected {
    fn push(&mut self, at: &Conditions, quantity: Quantity, value: Option<f64>) {
        let values = self.values.entry(quantity).or_default();
        values.extend(value.map(|value| (at.clone(), value)));
    }

    /// From scores and refusals of single prompts the mean and the rate of each set.
    fn add_means_and_rates(&mut self) {
        let scores = self.values.get(&Quantity::Score).cloned();
        let refusals = std::mem::take(&mut self.refusals);
        let of_prompts = [
            (Quantity::Mean, scores.unwrap_or_default()),
            (Quantity::RefusalRate, refusals),
        ];
        for (quantity, values) in of_prompts {
            let mut sums: BTreeMap<Conditions, (f64, f64)> = BTreeMap::new();
            for (mut at, value) in values {
                at[OF_PROMPT..].iter_mut().for_each(String::clear);
                let sum = sums.entry(at).or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
            for (at, (sum, count)) in sums {
                self.push(&at, quantity, Some(sum / count));
            }
        }
    }
}

fn frame(quantity: Quantity, values: &[(Conditions, f64)]) -> Result<DataFrame, StageError> {
    let rows = Rows::of(values).text(QUANTITY, |_| quantity.name());
    let conditions = CONDITIONS.iter().enumerate();
    let rows = conditions.fold(rows, |rows, (index, (name, _))| {
        rows.text(name, |(at, _)| &at[index])
    });
    rows.number(VALUE, |(_, value)| *value).frame()
}

impl Measurements {
    /// Of a table with columns of these names.
    pub(super) fn of(kind: &str, name: &str, table: &Table) -> Result<Self, StageError> {
        let conditions = CONDITIONS.map(|(name, others)| {
            let mut names = std::iter::once(&name).chain(others);
            let column = names.find_map(|name| table.column(name))?;
            let texts = table.texts(column.name()).into_iter();
            Some(texts.map(|text| normal(name, &text)).collect::<Vec<_>>())
        });
        let columns = Quantity::ALL.map(|quantity| (quantity, table.numbers(quantity.name())));
        let refused = table.numbers("refused");
        let is_by_prompt = table.has("id");
        let mut found = Collected::default();
        for row in 0..table.height() {
            let at = conditions.each_ref().map(|texts| match texts {
                Some(texts) => texts[row].clone(),
                None => String::new(),
            });
            for (quantity, values) in &columns {
                found.push(&at, *quantity, values[row]);
            }
            if let (true, Some(refused)) = (is_by_prompt, refused[row]) {
                found.refusals.push((at, refused));
            }
        }
        Measurements::new(kind, name, found)
    }

    pub(super) fn of_sweep(
        kind: &str,
        name: &str,
        sweep: &SweepFrame<'_>,
    ) -> Result<Self, StageError> {
        let mut found = Collected::default();
        for row in sweep.rows() {
            let at = of_sweep(&row);
            match row.measured {
                Measured::Prompt(prompt) => {
                    found.push(&at, Quantity::Score, Some(prompt.score));
                    found
                        .refusals
                        .push((at, f64::from(u8::from(prompt.refused))));
                }
                Measured::Group(group) => {
                    found.push(&at, Quantity::Mean, group.mean);
                    found.push(&at, Quantity::RefusalRate, group.refusal_rate);
                }
            }
        }
        Measurements::new(kind, name, found)
    }

    fn new(kind: &str, name: &str, mut found: Collected) -> Result<Self, StageError> {
        found.add_means_and_rates();
        found.values.retain(|_, values| !values.is_empty());
        let frames = found.values.iter();
        let frames = frames.map(|(quantity, values)| Ok((*quantity, frame(*quantity, values)?)));
        Ok(Measurements {
            kind: kind.to_string(),
            name: name.to_string(),
            frames: frames.collect::<Result<_, StageError>>()?,
        })
    }

    /// Whether the two are of the same thing: of one kind, and both by prompt or both not.
    pub(super) fn belongs_with(&self, other: &Measurements) -> bool {
        self.kind == other.kind && self.frames.keys().any(|quantity| other.has(*quantity))
    }

    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.frames.contains_key(&quantity)
    }

    /// The conditions of a quantity that both name. A prompt is known by its id; what type it is of may be called otherwise elsewhere.
    pub(super) fn shared_conditions(
        &self,
        other: &Measurements,
        quantity: Quantity,
    ) -> Vec<&'static str> {
        let named = |side: &Measurements, name: &str| {
            let frame = side.frames.get(&quantity);
            frame.is_some_and(|frame| texts(frame, name).iter().any(|text| !text.is_empty()))
        };
        let names = CONDITIONS.iter().map(|(name, _)| *name);
        let mut shared: Vec<&'static str> = names
            .filter(|name| named(self, name) && named(other, name))
            .collect();
        if shared.contains(&"id") {
            shared.retain(|name| *name != "type");
        }
        shared
    }

    /// A quantity's values by these conditions, each once.
    ///
    /// # Errors
    /// What to say where several values that differ have the same conditions.
    fn by_condition(&self, quantity: Quantity, by: &[&str]) -> Result<DataFrame, String> {
        let Some(frame) = self.frames.get(&quantity) else {
            return Ok(DataFrame::default());
        };
        let groups = groups(frame, by).map_err(|error| error.to_string())?;
        let values = numbers(frame, VALUE);
        if groups
            .iter()
            .any(|rows| rows.iter().any(|&row| values[row] != values[rows[0]]))
        {
            let conditions = by.iter().filter(|name| **name != QUANTITY).copied();
            return Err(format!(
                "several rows of `{}` have the same {}, so they are not compared",
                self.name,
                conditions.collect::<Vec<_>>().join(", ")
            ));
        }
        let firsts: Vec<IdxSize> = groups.iter().map(|rows| rows[0] as IdxSize).collect();
        let columns = by.iter().chain([&VALUE]).copied();
        let once = frame.take(&IdxCa::from_vec(VALUE.into(), firsts));
        once.and_then(|frame| frame.select(columns))
            .map_err(|error| error.to_string())
    }
}

/// A value of both sides.
pub(super) struct MatchedRow {
    /// By shared condition.
    pub(crate) at: Vec<String>,
    pub(crate) left: f64,
    pub(crate) right: f64,
}

/// A quantity of both sides, on the conditions that both name.
pub(super) struct Matched {
    pub(crate) conditions: Vec<&'static str>,
    /// Sorted by conditions.
    pub(crate) rows: Vec<MatchedRow>,
    pub(crate) only_left: usize,
    pub(crate) only_right: usize,
}

impl Matched {
    /// # Errors
    /// What to say where the two cannot be compared.
    pub(super) fn new(
        left: &Measurements,
        right: &Measurements,
        quantity: Quantity,
    ) -> Result<Self, String> {
        let conditions = left.shared_conditions(right, quantity);
        let mut by = vec![QUANTITY];
        by.extend(&conditions);
        let of_left = left.by_condition(quantity, &by)?;
        let of_right = right.by_condition(quantity, &by)?;
        let joined = of_left
            .join(&of_right, &by, &by, JoinArgs::new(JoinType::Inner), None)
            .and_then(|both| both.sort(&by, SortMultipleOptions::default()))
            .map_err(|error| error.to_string())?;
        let at: Vec<Vec<String>> = conditions.iter().map(|name| texts(&joined, name)).collect();
        let values = numbers(&joined, VALUE)
            .into_iter()
            .zip(numbers(&joined, "value_right"));
        let rows = values.enumerate().map(|(row, (left, right))| MatchedRow {
            at: at.iter().map(|texts| texts[row].clone()).collect(),
            left,
            right,
        });
        Ok(Matched {
            rows: rows.collect(),
            only_left: of_left.height() - joined.height(),
            only_right: of_right.height() - joined.height(),
            conditions,
        })
    }
}

/// A column of a frame of measurements, which has no gaps.
fn texts(frame: &DataFrame, name: &str) -> Vec<String> {
    read_text(frame, name).unwrap_or_default()
}

fn numbers(frame: &DataFrame, name: &str) -> Vec<f64> {
    read_numbers(frame, name).unwrap_or_default()
}

/// A condition's value as both sides would write it: `-10` for `-10.0`, `resid_pre` for `hook_resid_pre`.
fn normal(name: &str, value: &str) -> String {
    match name {
        "alpha" | "layer" | "seed" | "k" => value
            .parse::<f64>()
            .map_or_else(|_| value.to_string(), |number| (number + 0.0).to_string()),
        "site" => value.trim_start_matches("hook_").to_string(),
        _ => value.to_string(),
    }
}
