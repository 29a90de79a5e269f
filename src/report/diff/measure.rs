//! A table as measurements under conditions, whatever its author called the columns.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use polars::prelude::{
    DataFrame, DataFrameJoinOps, IdxCa, IdxSize, JoinArgs, JoinType, SortMultipleOptions,
};

use crate::report::Table;
use crate::stages::rules::{rate_column, rule_of};
use crate::stages::{Rows, StageError, groups, read_numbers, read_text};

macro_rules! quantities {
    ($($(#[doc = $doc:literal])* $quantity:ident = $name:literal,)+) => {
        /// What was measured.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Quantity {
            $($(#[doc = $doc])* $quantity,)+
        }

        impl Quantity {
            pub(super) const ALL: &'static [Quantity] = &[$(Quantity::$quantity,)+];

            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Quantity::$quantity => $name,)+
                }
            }
        }
    };
}

quantities! {
    /// Of a prompt.
    Score = "score",
    Mean = "mean",
    RefusalRate = "refusal_rate",
    /// Of a pair, one of which is patched into the other.
    ScorePatched = "score_patched",
    /// Of a pair.
    Delta = "delta",
    MeanDelta = "mean_delta",
    /// Of a direction, before it was made 1 long.
    PreNorm = "pre_norm",
    /// Of a direction that is tried.
    Bypass = "bypass",
    Induce = "induce",
    /// Of that, and of any edit.
    Kl = "kl",
    /// Of texts and of answers, by how improbable they become.
    TextsCrossEntropy = "texts_ce",
    AnswersCrossEntropy = "answers_ce",
    /// Of questions with choices.
    Accuracy = "accuracy",
    /// Among directions that are tried.
    Rank = "rank",
    /// Of a direction or a condition.
    Auroc = "auroc",
    /// Of a condition.
    Threshold = "threshold",
    Precision = "precision",
    Recall = "recall",
    F1 = "f1",
    /// Of a prompt, to a condition's direction.
    Likeness = "likeness",
}

impl Quantity {
    /// Whether it is a rate or a cosine, or a threshold of these, and not in logits, nats or the activations' units.
    pub(super) fn is_a_share(self) -> bool {
        use Quantity::{Accuracy, Auroc, F1, Likeness, Precision, Recall, RefusalRate, Threshold};
        let shares = [
            RefusalRate,
            Accuracy,
            Auroc,
            Threshold,
            Precision,
            Recall,
            F1,
            Likeness,
        ];
        shares.contains(&self)
    }

    /// Its column in the table of a score rule.
    fn column(self, rule: &str) -> Cow<'static, str> {
        match self {
            Quantity::RefusalRate => rate_column(rule),
            other => other.name().into(),
        }
    }

    /// The column of single prompts whose mean over a set it is, for what is such a mean.
    fn of_prompts(self, rule: &str) -> Option<&str> {
        match self {
            Quantity::Mean => Some("score"),
            Quantity::RefusalRate => Some(rule),
            _ => None,
        }
    }
}

/// Names of conditions, and the other names that stages' tables give them.
const CONDITIONS: [(&str, &[&str]); 13] = [
    ("model", &[]),
    ("layer", &[]),
    ("k", &[]),
    ("site", &[]),
    ("seed", &[]),
    ("alpha", &[]),
    ("set", &["half", "split", "label"]),
    ("donor", &[]),
    ("recipient", &[]),
    ("direction", &[]),
    ("position", &[]),
    ("type", &["category"]),
    ("id", &[]),
];

/// What a direction is called, which two studies may do as they like: it is asked for only where several act at one place.
const DIRECTION: usize = 9;
/// Where in a prompt a direction was read, which is asked for likewise.
const POSITION: usize = 10;
/// The places of the last two, which single prompts have and sets have not.
const TYPE: usize = 11;
const ID: usize = 12;

/// Columns of a frame of measurements beside its conditions.
const QUANTITY: &str = "quantity";
const VALUE: &str = "value";
const COUNT: &str = "n";

/// A value for each of [`CONDITIONS`], empty where nothing says it.
type Conditions = [String; CONDITIONS.len()];

/// A value, where it was measured, and of how many prompts it is the mean, where that is known.
#[derive(Clone, Debug)]
struct Measured {
    at: Rc<Conditions>,
    value: f64,
    n: Option<f64>,
}

/// The measurements of a table.
#[derive(Clone, Debug)]
pub(super) struct Measurements {
    /// The kind of stage that it is of.
    pub(crate) kind: String,
    pub(crate) name: String,
    /// The score rule that it is of.
    pub(crate) rule: String,
    /// Of each quantity that the table has.
    values: BTreeMap<Quantity, Vec<Measured>>,
    /// Of each quantity that is a mean over prompts, what single prompts have of it.
    of_prompts: BTreeMap<Quantity, Vec<Measured>>,
}

impl Measurements {
    /// Of a table with columns of these names; scores and refusals of single prompts also say what the mean and the rate of each set are.
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
        let counts = table.numbers(COUNT);
        let measured = |column: &str| -> Vec<Measured> {
            let values = at.iter().cloned().zip(table.numbers(column)).enumerate();
            let values = values.filter_map(|(row, (at, value))| {
                let n = counts.get(row).copied().flatten();
                Some(Measured {
                    at,
                    value: value?,
                    n,
                })
            });
            values.collect()
        };
        let rule = rule_of(&table.frame);
        let all = Quantity::ALL.iter();
        let mut values: BTreeMap<Quantity, Vec<Measured>> =
            all.map(|q| (*q, measured(&q.column(rule)))).collect();
        values.retain(|_, values| !values.is_empty());
        let has_prompts = table.has("id");
        let of_prompts = Quantity::ALL.iter().filter_map(|&quantity| {
            let column = quantity.of_prompts(rule).filter(|_| has_prompts)?;
            let values = measured(column);
            (!values.is_empty()).then_some((quantity, values))
        });
        Measurements {
            kind: kind.to_string(),
            name: name.to_string(),
            rule: rule.to_string(),
            of_prompts: of_prompts.collect(),
            values,
        }
    }

    /// Whether the two are of the same thing: of one kind, by one score rule, and both by prompt or both not.
    pub(super) fn belongs_with(&self, other: &Measurements) -> bool {
        let has = |quantity: &Quantity| self.has(*quantity) && other.has(*quantity);
        let is_alike = self.kind == other.kind && self.rule == other.rule;
        is_alike && Quantity::ALL.iter().any(has)
    }

    pub(super) fn has(&self, quantity: Quantity) -> bool {
        self.values.contains_key(&quantity) || self.of_prompts.contains_key(&quantity)
    }

    /// What it says of a quantity: of one that is a mean over prompts and not stated, the means of those that it has.
    fn values(&self, quantity: Quantity) -> Cow<'_, [Measured]> {
        match (self.values.get(&quantity), self.of_prompts.get(&quantity)) {
            (Some(stated), _) => Cow::Borrowed(stated),
            (None, Some(of_prompts)) => Cow::Owned(means_of_sets(of_prompts)),
            (None, None) => Cow::Borrowed(&[]),
        }
    }
}

/// Values by these conditions, each once: columns [`QUANTITY`], the conditions as texts, [`VALUE`] and [`COUNT`].
///
/// # Errors
/// What to say where several values that differ have the same conditions.
fn by_condition(
    values: &[Measured],
    by: &[usize],
    quantity: Quantity,
    table: &str,
) -> Result<DataFrame, String> {
    let rows = Rows::of(values).text(QUANTITY, |_| quantity.name());
    let rows = by.iter().fold(rows, |rows, &condition| {
        rows.text(CONDITIONS[condition].0, move |of| &of.at[condition])
    });
    let rows = rows.number(VALUE, |of| of.value).number(COUNT, |of| of.n);
    let frame = rows.frame().map_err(|error| error.to_string())?;
    let groups = groups(&frame, &columns(by)).map_err(|error| error.to_string())?;
    let value = |row: usize| values[row].value;
    let differ = |rows: &Vec<usize>| rows.iter().any(|&row| value(row) != value(rows[0]));
    if groups.iter().any(differ) {
        return Err(format!(
            "several rows of `{table}` have the same {}, so they are not compared",
            columns(by)[1..].join(", ")
        ));
    }
    let firsts = groups.iter().map(|rows| rows[0] as IdxSize);
    let firsts = IdxCa::from_vec(VALUE.into(), firsts.collect());
    frame.take(&firsts).map_err(|error| error.to_string())
}

/// What a frame of a quantity's values is grouped and joined by.
fn columns(by: &[usize]) -> Vec<&'static str> {
    let conditions = by.iter().map(|&condition| CONDITIONS[condition].0);
    std::iter::once(QUANTITY).chain(conditions).collect()
}

/// The mean of every set from the values of its prompts.
fn means_of_sets(values: &[Measured]) -> Vec<Measured> {
    let mut sums: BTreeMap<Conditions, (f64, f64)> = BTreeMap::new();
    for of in values {
        let mut of_set = Conditions::clone(&of.at);
        of_set[TYPE..].iter_mut().for_each(String::clear);
        let (sum, count) = sums.entry(of_set).or_default();
        *sum += of.value;
        *count += 1.0;
    }
    let means = sums.into_iter();
    means
        .map(|(at, (sum, count))| Measured {
            at: at.into(),
            value: sum / count,
            n: Some(count),
        })
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
    /// What a reader should know of how they were matched.
    pub(crate) note: Option<String>,
}

impl Matched {
    /// Of a mean over prompts where both sides have single prompts, the means over those that both have.
    ///
    /// # Errors
    /// What to say where the two cannot be compared, or no row of the one matches one of the other.
    pub(super) fn new(
        left: &Measurements,
        right: &Measurements,
        quantity: Quantity,
    ) -> Result<Self, String> {
        let of_prompts = |side: &'_ Measurements| side.of_prompts.get(&quantity).cloned();
        if let (Some(of_left), Some(of_right)) = (of_prompts(left), of_prompts(right)) {
            let prompts = join((&of_left, left), (&of_right, right), quantity)?;
            return Ok(prompts.means());
        }
        join(
            (&left.values(quantity), left),
            (&right.values(quantity), right),
            quantity,
        )
    }

    /// The means over prompts of rows of single prompts.
    fn means(self) -> Self {
        let is_of_set = |name: &&str| !["type", "id"].contains(name);
        let places: Vec<usize> = (0..self.conditions.len())
            .filter(|&at| is_of_set(&self.conditions[at]))
            .collect();
        let mut sums: BTreeMap<Vec<String>, [f64; 3]> = BTreeMap::new();
        for row in &self.rows {
            let at = places.iter().map(|&at| row.at[at].clone()).collect();
            let sum = sums.entry(at).or_default();
            *sum = [sum[0] + row.left, sum[1] + row.right, sum[2] + 1.0];
        }
        let rows = sums.into_iter().map(|(at, [left, right, n])| MatchedRow {
            at,
            left: left / n,
            right: right / n,
        });
        let unmatched = self.only_left + self.only_right;
        Matched {
            conditions: places.iter().map(|&at| self.conditions[at]).collect(),
            rows: rows.collect(),
            only_left: 0,
            only_right: 0,
            note: (unmatched > 0)
                .then(|| "over the prompts that both sides have at the same place".to_string()),
        }
    }
}

/// Joins what two sides have of a quantity.
///
/// # Errors
/// As [`Matched::new`].
fn join(
    (of_left, left): (&[Measured], &Measurements),
    (of_right, right): (&[Measured], &Measurements),
    quantity: Quantity,
) -> Result<Matched, String> {
    let names = |values: &[Measured], at: usize| values.iter().any(|of| !of.at[at].is_empty());
    let is_shared = |at: usize| names(of_left, at) && names(of_right, at);
    let mut by: Vec<usize> = (0..CONDITIONS.len()).filter(|&at| is_shared(at)).collect();
    // A prompt is known by its id; what type it is of may be called otherwise elsewhere.
    if is_shared(ID) {
        by.retain(|&at| at != TYPE);
    }
    let both_by = |by: &[usize]| {
        let left = by_condition(of_left, by, quantity, &left.name);
        left.and_then(|left| Ok((left, by_condition(of_right, by, quantity, &right.name)?)))
    };
    let without = |names: &[usize]| {
        let rest = by.iter().copied().filter(|at| !names.contains(at));
        rest.collect::<Vec<usize>>()
    };
    let ways = [without(&[DIRECTION, POSITION]), without(&[DIRECTION])];
    let first = ways
        .into_iter()
        .find_map(|by| Some((both_by(&by).ok()?, by)));
    let ((of_left, of_right), by) = match first {
        Some(found) => found,
        None => (both_by(&by)?, by),
    };
    let by = columns(&by);
    let of_both = of_left.join(&of_right, &by, &by, JoinArgs::new(JoinType::Inner), None);
    let of_both = of_both.and_then(|both| both.sort(&by, SortMultipleOptions::default()));
    let of_both = of_both.map_err(|error| error.to_string())?;
    let matched = of_both.height();
    let (of_both, of_others) = with_equal_counts(&of_both)?;
    let rows = rows(&of_both, &by[1..]).map_err(|error| error.to_string())?;
    let (left, right) = (&left.name, &right.name);
    if rows.is_empty() {
        return Err(match of_others {
            Some((a, b)) => format!(
                "a mean over {a} prompts in `{left}` is none over {b} in `{right}`, so they are not compared"
            ),
            None => format!("no row of {left} matches one of {right}"),
        });
    }
    Ok(Matched {
        only_left: of_left.height() - matched,
        only_right: of_right.height() - matched,
        conditions: by[1..].to_vec(),
        note: of_others.map(|(a, b)| {
            let left_out = matched - rows.len();
            format!("{left_out} means over different numbers of prompts ({a} and {b}, for one) are not compared")
        }),
        rows,
    })
}

/// The rows of which neither side, or only one, says of how many prompts they are, or both the same; and of the first of the others what they say.
fn with_equal_counts(both: &DataFrame) -> Result<(DataFrame, Option<(f64, f64)>), String> {
    let counts = |name: &str| -> Result<Vec<Option<f64>>, String> {
        let column = both.column(name).and_then(|column| column.f64().cloned());
        let column = column.map_err(|error| error.to_string())?;
        Ok(column.iter().collect())
    };
    let (left, right) = (counts(COUNT)?, counts("n_right")?);
    let pairs: Vec<Option<(f64, f64)>> =
        left.into_iter().zip(right).map(|(a, b)| a.zip(b)).collect();
    let others = pairs.iter().flatten().find(|(a, b)| a != b).copied();
    let kept = (0..pairs.len()).filter(|&row| pairs[row].is_none_or(|(a, b)| a == b));
    let kept = IdxCa::from_vec(VALUE.into(), kept.map(|row| row as IdxSize).collect());
    let kept = both.take(&kept).map_err(|error| error.to_string())?;
    Ok((kept, others))
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
        "alpha" | "layer" | "seed" | "k" | "position" => value
            .parse::<f64>()
            .map_or_else(|_| value.to_string(), |number| (number + 0.0).to_string()),
        "site" => value.trim_start_matches("hook_").to_string(),
        _ => value.to_string(),
    }
}
