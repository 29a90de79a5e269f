//! A table as measurements under conditions, whatever its author called the columns.

use std::collections::BTreeMap;
use std::rc::Rc;

use polars::prelude::{
    DataFrame, DataFrameJoinOps, IdxCa, IdxSize, JoinArgs, JoinType, SortMultipleOptions,
};

use crate::report::Table;
use crate::stages::{Rows, StageError, groups, read_numbers, read_text};

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// The places of the last two, which single prompts have and sets have not.
const TYPE: usize = 7;
const ID: usize = 8;

/// Columns of a frame of measurements beside its conditions.
const QUANTITY: &str = "quantity";
const VALUE: &str = "value";

/// A value for each of [`CONDITIONS`], empty where nothing says it.
type Conditions = [String; CONDITIONS.len()];

/// Values and where they were measured.
type Values = Vec<(Rc<Conditions>, f64)>;

/// The measurements of a table.
#[derive(Clone, Debug)]
pub(super) struct Measurements {
    /// The kind of stage that it is of.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Of each quantity that the table has.
    values: BTreeMap<Quantity, Values>,
}

impl Measurements {
    /// Of a table with columns of these names; from scores and refusals of single prompts also the mean and the rate of each set.
    pub(super) fn of(kind: &str, name: &str, table: &Table) -> Self {
        let columns = CONDITIONS.map(|(condition, others)| {
            let mut names = std::iter::once(&condition).chain(others);
            let found = names.find(|name| table.has(name))?;
            Some((condition, table.texts(found)))
        });
        let at = |row: usize| {
            let values = columns.each_ref().map(|column| match column {
                Some((condition, texts)) => normal(condition, &texts[row]),
                None => String::new(),
            });
            Rc::new(values)
        };
        let at: Vec<Rc<Conditions>> = (0..table.height()).map(at).collect();
        let measured = |column: &str| -> Values {
            let values = at.iter().cloned().zip(table.numbers(column));
            values
                .filter_map(|(at, value)| Some((at, value?)))
                .collect()
        };
        let of_quantity = |quantity: Quantity| (quantity, measured(quantity.name()));
        let mut values = BTreeMap::from(Quantity::ALL.map(of_quantity));
        let mut of_sets = vec![(Quantity::Mean, means_of_sets(&values[&Quantity::Score]))];
        if table.has("id") {
            of_sets.push((Quantity::RefusalRate, means_of_sets(&measured("refused"))));
        }
        for (quantity, means) in of_sets {
            values.entry(quantity).or_default().extend(means);
        }
        values.retain(|_, values| !values.is_empty());
        Measurements {
            kind: kind.to_string(),
            name: name.to_string(),
            values,
        }
    }

    /// Whether the two are of the same thing: of one kind, and both by prompt or both not.
    pub(super) fn belongs_with(&self, other: &Measurements) -> bool {
        self.kind == other.kind && self.values.keys().any(|quantity| other.has(*quantity))
    }

    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.values.contains_key(&quantity)
    }

    /// Whether a quantity's values say anything of a condition.
    fn names(&self, quantity: Quantity, condition: usize) -> bool {
        let mut values = self.values.get(&quantity).into_iter().flatten();
        values.any(|(at, _)| !at[condition].is_empty())
    }

    /// A quantity's values by these conditions, each once: columns [`QUANTITY`], the conditions as texts, [`VALUE`].
    ///
    /// # Errors
    /// What to say where several values that differ have the same conditions.
    fn by_condition(&self, quantity: Quantity, by: &[usize]) -> Result<DataFrame, String> {
        let values = self.values.get(&quantity).map_or(&[][..], Vec::as_slice);
        let rows = Rows::of(values).text(QUANTITY, |_| quantity.name());
        let rows = by.iter().fold(rows, |rows, &condition| {
            rows.text(CONDITIONS[condition].0, move |(at, _)| &at[condition])
        });
        let frame = rows.number(VALUE, |(_, value)| *value).frame();
        let frame = frame.map_err(|error| error.to_string())?;
        let groups = groups(&frame, &columns(by)).map_err(|error| error.to_string())?;
        let differ = |rows: &Vec<usize>| rows.iter().any(|&row| values[row].1 != values[rows[0]].1);
        if groups.iter().any(differ) {
            return Err(format!(
                "several rows of `{}` have the same {}, so they are not compared",
                self.name,
                columns(by)[1..].join(", ")
            ));
        }
        let firsts = groups.iter().map(|rows| rows[0] as IdxSize);
        let firsts = IdxCa::from_vec(VALUE.into(), firsts.collect());
        frame.take(&firsts).map_err(|error| error.to_string())
    }
}

/// What a frame of a quantity's values is grouped and joined by.
fn columns(by: &[usize]) -> Vec<&'static str> {
    let conditions = by.iter().map(|&condition| CONDITIONS[condition].0);
    std::iter::once(QUANTITY).chain(conditions).collect()
}

/// The mean of every set from the values of its prompts.
fn means_of_sets(values: &[(Rc<Conditions>, f64)]) -> Values {
    let mut sums: BTreeMap<Conditions, (f64, f64)> = BTreeMap::new();
    for (at, value) in values {
        let mut of_set = Conditions::clone(at);
        of_set[TYPE..].iter_mut().for_each(String::clear);
        let (sum, count) = sums.entry(of_set).or_default();
        *sum += value;
        *count += 1.0;
    }
    let means = sums.into_iter();
    means
        .map(|(at, (sum, count))| (at.into(), sum / count))
        .collect()
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
    /// What to say where the two cannot be compared, or no row of the one matches one of the other.
    pub(super) fn new(
        left: &Measurements,
        right: &Measurements,
        quantity: Quantity,
    ) -> Result<Self, String> {
        let is_shared = |at: usize| left.names(quantity, at) && right.names(quantity, at);
        let mut by: Vec<usize> = (0..CONDITIONS.len()).filter(|&at| is_shared(at)).collect();
        // A prompt is known by its id; what type it is of may be called otherwise elsewhere.
        if is_shared(ID) {
            by.retain(|&at| at != TYPE);
        }
        let of_left = left.by_condition(quantity, &by)?;
        let of_right = right.by_condition(quantity, &by)?;
        let by = columns(&by);
        let of_both = of_left.join(&of_right, &by, &by, JoinArgs::new(JoinType::Inner), None);
        let of_both = of_both.and_then(|both| both.sort(&by, SortMultipleOptions::default()));
        let rows = of_both
            .map_err(StageError::from)
            .and_then(|both| rows(&both, &by[1..]));
        let rows = rows.map_err(|error| error.to_string())?;
        if rows.is_empty() {
            let (left, right) = (&left.name, &right.name);
            return Err(format!("no row of {left} matches one of {right}"));
        }
        Ok(Matched {
            only_left: of_left.height() - rows.len(),
            only_right: of_right.height() - rows.len(),
            conditions: by[1..].to_vec(),
            rows,
        })
    }
}

/// The rows of what two sides' frames were joined to.
fn rows(both: &DataFrame, conditions: &[&str]) -> Result<Vec<MatchedRow>, StageError> {
    let texts = conditions.iter().map(|name| read_text(both, name));
    let texts = texts.collect::<Result<Vec<Vec<String>>, _>>()?;
    let (left, right) = (
        read_numbers(both, VALUE)?,
        read_numbers(both, "value_right")?,
    );
    let row = |(row, (left, right)): (usize, (f64, f64))| MatchedRow {
        at: texts.iter().map(|texts| texts[row].clone()).collect(),
        left,
        right,
    };
    Ok(left.into_iter().zip(right).enumerate().map(row).collect())
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
