//! A row of a sweep's table, which is written and read here alone: what has swept, and summaries, figures and comparisons go through it.

use std::borrow::Cow;

use polars::prelude::{AnyValue, Column, DataFrame, DataType};

use crate::stages::StageError;
use crate::stages::action::Mode;
use crate::stages::rules::{BUILT, REFUSED, rate_column, rule_of, rule_of_rate};
use crate::stages::table::{self, Rows, cell};

use super::OnRow;

/// One prompt, or one group of prompts, under one direction at one α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SweepRow<'a> {
    pub(crate) model: &'a str,
    /// What the direction is, e.g. `top_bottom_30`; that of an ablation says that it is one.
    pub(crate) direction: &'a str,
    pub(crate) seed: Option<i64>,
    pub(crate) layer: i64,
    pub(crate) site: &'a str,
    /// An ablation has none.
    pub(crate) alpha: Option<f64>,
    pub(crate) further: Further<'a>,
    /// The prompts: a split, or a half of one.
    pub(crate) set: &'a str,
    pub(crate) measured: Measured<'a>,
}

/// What is to be told of an edit beside its layer, site and α, where there is more.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Further<'a> {
    /// All layers of one at several at once.
    pub(crate) layers: Option<&'a str>,
    /// Where it is, where that is not the last token.
    pub(crate) position: Option<&'a str>,
    /// The tokens there, as the vocabulary spells them.
    pub(crate) token: Option<&'a str>,
    /// α of what else is done in the same run, in its order; none of an ablation.
    pub(crate) with: &'a [Option<f64>],
    /// Whether the prompt is one of those that are edited, where not all are.
    pub(crate) condition: Option<OnRow>,
}

/// What must be the same for one sweep to be the control of another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Setting<'a> {
    /// Empty for the last token.
    pub(crate) position: &'a str,
    /// Empty for one layer at a time.
    pub(crate) layers: &'a str,
    /// Empty for a direction that is added.
    pub(crate) done: &'static str,
    /// What else is done in the same run, as the name of the direction has it.
    pub(crate) with: &'a str,
}

impl<'a> Setting<'a> {
    /// What the name of a direction says of it.
    pub(crate) fn of_direction(direction: &'a str) -> Self {
        Setting {
            done: Mode::done_in(direction),
            with: direction.find('+').map_or("", |at| &direction[at..]),
            ..Setting::default()
        }
    }
}

/// A table has rows of one of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Measured<'a> {
    Prompt(SweptPrompt<'a>),
    /// All prompts of a set of which no single scores were published.
    Group(SweptGroup),
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SweptPrompt<'a> {
    pub(crate) id: &'a str,
    pub(crate) split: &'a str,
    pub(crate) category: &'a str,
    pub(crate) score: f64,
    /// Whether it counts by the table's score rule: its column is called as the rule.
    pub(crate) refused: bool,
    /// Whether the direction was made from it.
    pub(crate) built: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct SweptGroup {
    pub(crate) n: Option<i64>,
    pub(crate) mean: Option<f64>,
    /// With the ddof of the source.
    pub(crate) std: Option<f64>,
    pub(crate) refusal_rate: Option<f64>,
}

/// What a column holds, and where a row has it.
enum Value {
    Text(for<'a> fn(&SweepRow<'a>) -> &'a str),
    Integer(fn(&SweepRow<'_>) -> Option<i64>),
    Number(fn(&SweepRow<'_>) -> Option<f64>),
    Flag(fn(&SweepRow<'_>) -> bool),
}

type Columns<const N: usize> = [(&'static str, Value); N];

static PLACE: Columns<7> = [
    ("model", Value::Text(|row| row.model)),
    ("direction", Value::Text(|row| row.direction)),
    ("seed", Value::Integer(|row| row.seed)),
    ("layer", Value::Integer(|row| Some(row.layer))),
    ("site", Value::Text(|row| row.site)),
    ("alpha", Value::Number(|row| row.alpha)),
    ("set", Value::Text(|row| row.set)),
];

static PROMPT: Columns<6> = [
    ("id", Value::Text(|row| row.prompt().id)),
    ("split", Value::Text(|row| row.prompt().split)),
    ("category", Value::Text(|row| row.prompt().category)),
    ("score", Value::Number(|row| Some(row.prompt().score))),
    (REFUSED, Value::Flag(|row| row.prompt().refused)),
    (BUILT, Value::Flag(|row| row.prompt().built)),
];

static GROUP: Columns<4> = [
    ("n", Value::Integer(|row| row.group().n)),
    ("mean", Value::Number(|row| row.group().mean)),
    ("std", Value::Number(|row| row.group().std)),
    (
        "refusal_rate",
        Value::Number(|row| row.group().refusal_rate),
    ),
];

impl<'a> SweepRow<'a> {
    /// The prompt; an empty one of a group.
    pub(crate) fn prompt(&self) -> SweptPrompt<'a> {
        match self.measured {
            Measured::Prompt(prompt) => prompt,
            Measured::Group(_) => SweptPrompt::default(),
        }
    }

    fn group(&self) -> SweptGroup {
        match self.measured {
            Measured::Group(group) => group,
            Measured::Prompt(_) => SweptGroup::default(),
        }
    }

    /// The table of rows that are all of prompts, by a score rule.
    pub(crate) fn table_of_prompts(rows: &[Self], rule: &str) -> Result<DataFrame, StageError> {
        written(rows, &PROMPT, rule)
    }

    /// The table of rows that are all of groups.
    pub(crate) fn table_of_groups(rows: &[Self]) -> Result<DataFrame, StageError> {
        written(rows, &GROUP, REFUSED)
    }
}

fn written(
    rows: &[SweepRow<'_>],
    measured: &[(&'static str, Value)],
    rule: &str,
) -> Result<DataFrame, StageError> {
    let first = rows.first();
    let [before @ .., alpha, set] = &PLACE;
    let table = added(Rows::of(rows), before, rule);
    // Those that the rows of a study have that says more than layer, site and α.
    let mut table = table;
    if first.is_some_and(|row| row.further.layers.is_some()) {
        table = table.text("layers", |row| row.further.layers.unwrap_or_default());
    }
    if first.is_some_and(|row| row.further.position.is_some()) {
        table = table.text("position", |row| row.further.position.unwrap_or_default());
        table = table.text("token", |row| row.further.token.unwrap_or_default());
    }
    let mut table = added(table, std::slice::from_ref(alpha), rule);
    for place in 0..first.map_or(0, |row| row.further.with.len()) {
        let of = move |row: &SweepRow<'_>| row.further.with.get(place).copied().flatten();
        table = table.number(&format!("alpha_{}", place + 2), of);
    }
    if first.is_some_and(|row| row.further.condition.is_some()) {
        let of = |row: &SweepRow<'_>| row.further.condition;
        table = table
            .number("threshold", move |row| Some(of(row)?.threshold))
            .number("likeness", move |row| Some(of(row)?.likeness))
            .flag("edited", move |row| Some(of(row)?.is_open));
    }
    let table = added(table, std::slice::from_ref(set), rule);
    added(table, measured, rule).frame()
}

fn added<'r, 'a>(
    table: Rows<'r, SweepRow<'a>>,
    columns: &[(&'static str, Value)],
    rule: &str,
) -> Rows<'r, SweepRow<'a>> {
    columns.iter().fold(table, |table, (name, value)| {
        let name = of_rule(name, rule);
        match value {
            Value::Text(of) => table.text(&name, of),
            Value::Integer(of) => table.integer(&name, of),
            Value::Number(of) => table.number(&name, of),
            Value::Flag(of) => table.flag(&name, of),
        }
    })
}

/// What a column of the default rule is called in the table of a rule.
fn of_rule(column: &'static str, rule: &str) -> Cow<'static, str> {
    if column == REFUSED {
        return rule.to_string().into();
    }
    match rule_of_rate(column) {
        Some(_) => rate_column(rule),
        None => column.into(),
    }
}

impl Value {
    /// What a column of it holds, in words and as a type.
    fn held(&self) -> (&'static str, fn(&DataType) -> bool) {
        match self {
            Value::Text(_) => ("texts", |of| of.is_string() || of.is_categorical()),
            Value::Integer(_) => ("whole numbers", DataType::is_integer),
            Value::Number(_) => ("numbers", DataType::is_float),
            Value::Flag(_) => ("true and false", DataType::is_bool),
        }
    }
}

/// The table of a sweep, read row by row.
#[derive(Clone, Copy)]
pub(crate) struct SweepFrame<'a> {
    frame: &'a DataFrame,
    /// The score rule that it is of.
    pub(crate) rule: &'a str,
    place: [&'a Column; PLACE.len()],
    measured: MeasuredColumns<'a>,
}

#[derive(Clone, Copy)]
enum MeasuredColumns<'a> {
    Prompt([&'a Column; PROMPT.len()]),
    Group([&'a Column; GROUP.len()]),
}

impl<'a> SweepFrame<'a> {
    /// # Errors
    /// [`StageError::Data`] where a column is missing or holds something else.
    pub(crate) fn read(frame: &'a DataFrame) -> Result<Self, StageError> {
        let rule = rule_of(frame);
        Ok(SweepFrame {
            frame,
            rule,
            place: found(frame, &PLACE, rule)?,
            measured: match frame.column("id") {
                Ok(_) => MeasuredColumns::Prompt(found(frame, &PROMPT, rule)?),
                Err(_) => MeasuredColumns::Group(found(frame, &GROUP, rule)?),
            },
        })
    }

    pub(crate) fn is_by_prompt(&self) -> bool {
        matches!(self.measured, MeasuredColumns::Prompt(_))
    }

    /// The row of that number; an empty one beyond the last.
    pub(crate) fn row(&self, number: usize) -> SweepRow<'a> {
        let [model, direction, seed, layer, site, alpha, set] =
            self.place.map(|column| cell(column, number));
        SweepRow {
            model: text(model),
            direction: text(direction),
            seed: seed.extract(),
            layer: layer.extract().unwrap_or_default(),
            site: text(site),
            alpha: alpha.extract(),
            // Rows of different edits have directions of different names, too.
            further: Further::default(),
            set: text(set),
            measured: match self.measured {
                MeasuredColumns::Prompt(columns) => {
                    let [id, split, category, score, refused, built] =
                        columns.map(|column| cell(column, number));
                    Measured::Prompt(SweptPrompt {
                        id: text(id),
                        split: text(split),
                        category: text(category),
                        score: score.extract().unwrap_or_default(),
                        refused: refused == AnyValue::Boolean(true),
                        built: built == AnyValue::Boolean(true),
                    })
                }
                MeasuredColumns::Group(columns) => {
                    let [n, mean, std, refusal_rate] = columns.map(|column| cell(column, number));
                    Measured::Group(SweptGroup {
                        n: n.extract(),
                        mean: mean.extract(),
                        std: std.extract(),
                        refusal_rate: refusal_rate.extract(),
                    })
                }
            },
        }
    }

    /// What all rows of it have in common: where, and what is done.
    pub(crate) fn setting(&self) -> Setting<'a> {
        let first = self.row(0);
        Setting {
            position: self.first_of("position"),
            layers: self.first_of("layers"),
            ..Setting::of_direction(first.direction)
        }
    }

    /// The first row of a text column that it need not have; empty where it has not.
    fn first_of(&self, column: &str) -> &'a str {
        let column = self.frame.column(column).ok();
        column.map_or("", |column| text(cell(column, 0)))
    }

    /// Where it edits, in words, if not at the last token.
    pub(crate) fn told_position(&self) -> Option<String> {
        let position = self.first_of("position");
        let told = match self.first_of("token") {
            "" => format!("Edited at position {position}."),
            token => format!("Edited at position {position} (`{token}`)."),
        };
        (!position.is_empty()).then_some(told)
    }

    pub(crate) fn alpha(&self, number: usize) -> Option<f64> {
        let [.., alpha, _] = self.place;
        cell(alpha, number).extract()
    }

    /// The score of a row's prompt, or the mean of its group's.
    pub(crate) fn mean(&self, number: usize) -> Option<f64> {
        match self.measured {
            MeasuredColumns::Prompt([_, _, _, score, ..]) => cell(score, number).extract(),
            MeasuredColumns::Group([_, mean, ..]) => cell(mean, number).extract(),
        }
    }

    /// The rule's rate of a row; of a prompt 0 or 1.
    pub(crate) fn refusal_rate(&self, number: usize) -> Option<f64> {
        match self.measured {
            MeasuredColumns::Prompt([.., refused, _]) => cell(refused, number).extract(),
            MeasuredColumns::Group([.., rate]) => cell(rate, number).extract(),
        }
    }

    /// As [`table::groups`].
    pub(crate) fn groups(&self, by: &[&str]) -> Result<Vec<Vec<usize>>, StageError> {
        table::groups(self.frame, by)
    }
}

fn found<'a, const N: usize>(
    frame: &'a DataFrame,
    wanted: &Columns<N>,
    rule: &str,
) -> Result<[&'a Column; N], StageError> {
    let mut columns = Vec::new();
    for (name, value) in wanted {
        let (noun, is_held_by) = value.held();
        let name = of_rule(name, rule);
        match frame.column(&name) {
            Ok(column) if is_held_by(column.dtype()) => columns.push(column),
            Ok(column) => {
                return Err(StageError::Data(format!(
                    "column `{name}` of a sweep's table holds `{}`, where {noun} are expected",
                    column.dtype()
                )));
            }
            Err(_) => {
                return Err(StageError::Data(format!(
                    "a sweep's table has no column `{name}`, where {noun} are expected"
                )));
            }
        }
    }
    let count = |_| StageError::Internal("a sweep's table has other columns".to_string());
    columns.try_into().map_err(count)
}

fn text(cell: AnyValue<'_>) -> &str {
    table::text_of(&cell).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measured: Measured<'static>) -> SweepRow<'static> {
        SweepRow {
            model: "inst",
            direction: "random",
            seed: Some(3),
            layer: 20,
            site: "resid_pre",
            alpha: None,
            further: Further::default(),
            set: "edge",
            measured,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let prompt = row(Measured::Prompt(SweptPrompt {
            id: "e1",
            split: "edge",
            category: "violence",
            score: -0.5,
            refused: true,
            built: false,
        }));
        let other = SweepRow {
            seed: None,
            alpha: Some(-2.0),
            ..prompt
        };
        let table = SweepRow::table_of_prompts(&[prompt, other], "polite").unwrap();
        assert!(table.column("polite").is_ok() && table.column(REFUSED).is_err());
        let read = SweepFrame::read(&table).unwrap();
        assert_eq!([read.row(0), read.row(1)], [prompt, other]);
        assert_eq!(read.rule, "polite");
        assert_eq!(
            (read.mean(0), read.refusal_rate(1)),
            (Some(-0.5), Some(1.0))
        );
        let group = row(Measured::Group(SweptGroup {
            n: Some(4),
            mean: Some(0.5),
            std: None,
            refusal_rate: Some(0.25),
        }));
        let table = SweepRow::table_of_groups(&[group]).unwrap();
        let read = SweepFrame::read(&table).unwrap();
        assert_eq!((table.height(), read.row(0)), (1, group));
        assert_eq!(
            (read.mean(0), read.refusal_rate(0)),
            (Some(0.5), Some(0.25))
        );
    }

    #[test]
    fn a_column_that_is_missing_or_of_another_kind_is_named() {
        let table = SweepRow::table_of_groups(&[row(Measured::Group(SweptGroup::default()))]);
        let table = table.unwrap();
        let message = |table: &DataFrame| SweepFrame::read(table).err().unwrap().to_string();
        let missing = message(&table.drop("site").unwrap());
        assert!(missing.contains("no column `site`"), "{missing}");
        let mut other = table.clone();
        other
            .with_column(Column::new("layer".into(), ["20"]))
            .unwrap();
        let other = message(&other);
        assert!(
            other.contains("`layer`") && other.contains("whole numbers"),
            "{other}"
        );
    }
}
