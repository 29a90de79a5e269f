//! What comes out: a row for everything that is done, and the prompts behind each measure.

use polars::prelude::DataFrame;

use crate::prompts::{LETTERS, Prompt};
use crate::stages::StageError;
use crate::stages::place::{self, Place};
use crate::stages::rules::{Rule, rate_column};
use crate::stages::table::Rows;

use super::measure::{Accuracy, Loss, Mean, Moved, Scores};

/// What was measured in one run. Of every run of a stage it is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    pub(super) kl: Option<Moved>,
    pub(super) texts: Option<Loss>,
    pub(super) answers: Option<Loss>,
    pub(super) choices: Option<Accuracy>,
    pub(super) effect: Option<Scores>,
}

/// The prompts of each measure, those that are left out aside.
#[derive(Clone, Default)]
pub(super) struct Prompts<'a> {
    pub(super) kl: Vec<&'a Prompt>,
    pub(super) texts: Vec<&'a Prompt>,
    pub(super) answers: Vec<&'a Prompt>,
    pub(super) choices: Vec<&'a Prompt>,
    pub(super) effect: Vec<&'a Prompt>,
}

/// A run.
pub(super) struct Row<'a> {
    pub(super) place: Place<'a>,
    pub(super) measured: &'a Measured,
    pub(super) prompts: &'a Prompts<'a>,
}

/// Of a measure, what there is of it in a row.
type Of<T> = fn(&Measured) -> Option<&T>;

/// Every table of a stage.
pub(super) fn tables(
    rows: &[Row<'_>],
    rule: &Rule,
) -> Result<Vec<(String, DataFrame)>, StageError> {
    let mut tables = vec![(String::new(), of_runs(rows, &rule.name)?)];
    let Some(Measured {
        kl,
        texts,
        answers,
        choices,
        effect,
    }) = rows.first().map(|row| row.measured)
    else {
        return Ok(tables);
    };
    let mut add = |name: &str, table| tables.push((name.to_string(), table));
    if kl.is_some() {
        add("kl", of_kl(rows)?);
    }
    if texts.is_some() {
        let all = singles(rows, |p| &p.texts, |m| Some(&m.texts.as_ref()?.each));
        add("texts", of_loss(&all, first(rows))?);
    }
    if answers.is_some() {
        let all = singles(rows, |p| &p.answers, |m| Some(&m.answers.as_ref()?.each));
        add("answers", of_loss(&all, first(rows))?);
    }
    if choices.is_some() {
        add("choices", of_choices(rows)?);
    }
    if effect.is_some() {
        add("effect", of_effect(rows, rule)?);
    }
    Ok(tables)
}

/// The first place with a line, whose columns all rows have.
fn first<'a>(rows: &'a [Row<'a>]) -> Option<Place<'a>> {
    rows.iter()
        .map(|row| row.place)
        .find(|place| place.line.is_some())
}

fn of_runs(rows: &[Row<'_>], rule: &str) -> Result<DataFrame, StageError> {
    let mut table = place::columns(Rows::of(rows), first(rows), |row| row.place);
    let has =
        |is_there: fn(&Measured) -> bool| rows.first().is_some_and(|row| is_there(row.measured));
    if has(|m| m.kl.is_some()) {
        let of: Of<Moved> = |m| m.kl.as_ref();
        table = table.integer("kl_n", move |row| count(of(row.measured)?.each.len()));
        table = mean(table, "kl", move |row| Some(of(row.measured)?.mean))
            .number("kl_median", move |row| Some(of(row.measured)?.median))
            .number("kl_p95", move |row| Some(of(row.measured)?.p95))
            .number("same_token", move |row| Some(of(row.measured)?.same));
    }
    if has(|m| m.texts.is_some()) {
        table = with_loss(table, "texts", |m| m.texts.as_ref());
    }
    if has(|m| m.answers.is_some()) {
        table = with_loss(table, "answers", |m| m.answers.as_ref());
    }
    if has(|m| m.choices.is_some()) {
        table = with_accuracy(table);
    }
    if has(|m| m.effect.is_some()) {
        let of: Of<Scores> = |m| m.effect.as_ref();
        table = table.integer("n", move |row| count(of(row.measured)?.each.len()));
        table = mean(table, "mean", move |row| Some(of(row.measured)?.mean));
        table = mean(table, "change", move |row| Some(of(row.measured)?.change));
        table = table
            .number(&rate_column(rule), move |row| {
                let scores = of(row.measured)?;
                Some(scores.count as f64 / scores.each.len() as f64)
            })
            .ends(["rate_low", "rate_high"], move |row| {
                of(row.measured)?.interval
            });
    }
    table.frame()
}

fn count(of: usize) -> Option<i64> {
    Some(of as i64)
}

/// A mean and both ends of its interval.
fn mean<'r, 'a>(
    table: Rows<'r, Row<'a>>,
    name: &str,
    of: impl Fn(&'r Row<'a>) -> Option<Mean> + Copy,
) -> Rows<'r, Row<'a>> {
    let [low, high] = ["low", "high"].map(|end| format!("{name}_{end}"));
    table
        .number(name, move |row| Some(of(row)?.value))
        .ends([&low, &high], move |row| of(row)?.interval)
}

fn with_loss<'r, 'a>(table: Rows<'r, Row<'a>>, name: &str, of: Of<Loss>) -> Rows<'r, Row<'a>> {
    let column = |what: &str| format!("{name}_{what}");
    let tokens = |loss: &Loss| loss.each.iter().map(|(_, tokens)| tokens).sum::<usize>();
    let table = table
        .integer(&column("n"), move |row| count(of(row.measured)?.each.len()))
        .integer(&column("tokens"), move |row| {
            count(tokens(of(row.measured)?))
        });
    let table = mean(table, &column("ce"), move |row| {
        Some(of(row.measured)?.mean)
    });
    let table = mean(table, &column("ppl"), move |row| {
        Some(of(row.measured)?.mean.exp())
    });
    mean(table, &column("change"), move |row| {
        Some(of(row.measured)?.change)
    })
}

fn with_accuracy<'r, 'a>(table: Rows<'r, Row<'a>>) -> Rows<'r, Row<'a>> {
    let of: Of<Accuracy> = |m| m.choices.as_ref();
    table
        .integer("choices_n", move |row| count(of(row.measured)?.each.len()))
        .number("accuracy", move |row| Some(of(row.measured)?.rate()))
        .ends(["accuracy_low", "accuracy_high"], move |row| {
            of(row.measured)?.interval
        })
        .number("p_correct", move |row| Some(of(row.measured)?.p_correct))
        .number("same_choice", move |row| Some(of(row.measured)?.same))
        .number("accuracy_change", move |row| {
            Some(of(row.measured)?.change())
        })
        .integer("lost", move |row| Some(of(row.measured)?.lost as i64))
        .integer("won", move |row| Some(of(row.measured)?.won as i64))
        .number("mcnemar_p", move |row| Some(of(row.measured)?.p()))
}

/// A prompt in a run.
struct Single<'a, T> {
    place: Place<'a>,
    prompt: &'a Prompt,
    found: &'a T,
}

/// The prompts of a measure in every run.
fn singles<'a, T>(
    rows: &'a [Row<'a>],
    prompts: impl Fn(&'a Prompts<'a>) -> &'a [&'a Prompt],
    found: impl Fn(&'a Measured) -> Option<&'a [T]>,
) -> Vec<Single<'a, T>> {
    let mut all = Vec::new();
    for row in rows {
        let found = found(row.measured).unwrap_or_default();
        for (&prompt, found) in prompts(row.prompts).iter().zip(found) {
            all.push(Single {
                place: row.place,
                prompt,
                found,
            });
        }
    }
    all
}

/// What the tables of single prompts begin with.
fn begun<'r, T>(all: &'r [Single<'r, T>], first: Option<Place<'r>>) -> Rows<'r, Single<'r, T>> {
    place::columns(Rows::of(all), first, |single| single.place)
        .text("id", |single| &single.prompt.id)
        .text("split", |single| &single.prompt.split)
        .text("category", |single| &single.prompt.category)
}

fn of_kl(rows: &[Row<'_>]) -> Result<DataFrame, StageError> {
    let all = singles(rows, |p| &p.kl, |m| Some(&m.kl.as_ref()?.each));
    begun(&all, first(rows))
        .number("kl", |single| single.found.0)
        .flag("same_token", |single| single.found.1)
        .frame()
}

fn of_choices(rows: &[Row<'_>]) -> Result<DataFrame, StageError> {
    let all = singles(rows, |p| &p.choices, |m| Some(&m.choices.as_ref()?.each));
    let letter = |place: usize| LETTERS.get(place..=place).unwrap_or_default();
    begun(&all, first(rows))
        .text("chosen", |single| letter(single.found.chosen))
        .text("answer", |single| letter(single.found.answer))
        .flag("right", |single| single.found.is_right())
        .number("p_correct", |single| single.found.p_correct)
        .frame()
}

fn of_loss<'r>(
    all: &'r [Single<'r, (f64, usize)>],
    first: Option<Place<'r>>,
) -> Result<DataFrame, StageError> {
    begun(all, first)
        .integer("tokens", |single| single.found.1 as i64)
        .number("nll", |single| single.found.0)
        .frame()
}

fn of_effect(rows: &[Row<'_>], rule: &Rule) -> Result<DataFrame, StageError> {
    let all = singles(rows, |p| &p.effect, |m| Some(&m.effect.as_ref()?.each));
    begun(&all, first(rows))
        .number("score", |single| *single.found)
        .flag(&rule.name, |single| rule.counts(*single.found))
        .frame()
}
