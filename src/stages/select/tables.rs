//! What comes out: the candidates, and how the choice does where it was not chosen.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::direction::Direction;
use crate::stages::table::Rows;

use super::choice::{Candidate, Method, Verdict};
use super::measure::{Mean, Measured, Sides};

/// A candidate.
pub(super) struct Row<'a> {
    pub(super) direction: &'a Direction,
    pub(super) measured: &'a Measured,
    pub(super) verdict: &'a Verdict,
}

/// What is measured of a direction, or of none.
#[derive(Clone)]
pub(super) struct Check<'a> {
    half: &'a str,
    direction: String,
    seed: Option<u64>,
    sides: &'a Sides,
    measured: Measured,
}

impl<'a> Check<'a> {
    /// Of one half: what is there without any direction, what the choice does, and behind it what random directions do.
    pub(super) fn of(
        half: &'a str,
        sides: &'a Sides,
        chosen: &str,
        (unedited, measured): (&Measured, &[Measured]),
    ) -> Vec<Self> {
        let check = |direction: &str, seed, measured: &Measured| Check {
            half,
            direction: direction.to_string(),
            seed,
            sides,
            measured: *measured,
        };
        let own = measured.first().map(|own| check(chosen, None, own));
        let random = measured.iter().skip(1).zip(0..);
        let random = random.map(|(measured, seed)| check("random", Some(seed), measured));
        let none = check("none", None, unedited);
        [none].into_iter().chain(own).chain(random).collect()
    }
}

pub(super) fn of_candidates(rows: &[Row<'_>]) -> Result<DataFrame, StageError> {
    let table = Rows::of(rows)
        .text("model", |row| &row.direction.model)
        .text("direction", |row| &row.direction.label)
        .integer("seed", |row| row.direction.seed.map(|seed| seed as i64))
        .integer("layer", |row| row.direction.layer as i64)
        .text("site", |row| row.direction.site.short_name())
        .integer("position", |row| row.direction.position)
        .text("token", |row| {
            row.direction.token.as_deref().unwrap_or_default()
        });
    let table = numbers(table, |row| row.measured);
    judged(table, |row| row.verdict).frame()
}

pub(super) fn of_checks(checks: &[Check<'_>], layer: usize) -> Result<DataFrame, StageError> {
    let table = Rows::of(checks)
        .text("half", |check| check.half)
        .text("direction", |check| &check.direction)
        .integer("seed", |check| check.seed.map(|seed| seed as i64))
        .integer("layer", |check| {
            (check.direction != "none").then_some(layer as i64)
        })
        .integer("n_harmful", |check| check.sides.harmful.len() as i64)
        .integer("n_harmless", |check| check.sides.harmless.len() as i64);
    numbers(table, |check| &check.measured).frame()
}

/// Candidates whose numbers others have published.
pub(super) fn of_published(
    candidates: &[Candidate],
    verdicts: &[Verdict],
) -> Result<DataFrame, StageError> {
    let rows: Vec<(&Candidate, &Verdict)> = candidates.iter().zip(verdicts).collect();
    let table = Rows::of(&rows)
        .integer("layer", |(c, _)| c.layer as i64)
        .integer("position", |(c, _)| c.position)
        .number("bypass", |(c, _)| there(c.bypass))
        .number("induce", |(c, _)| there(c.induce))
        .number("kl", |(c, _)| there(c.kl));
    judged(table, |(_, verdict)| verdict).frame()
}

/// A number, where it is one that a table holds.
fn there(number: f64) -> Option<f64> {
    number.is_finite().then_some(number)
}

fn judged<'r, R>(rows: Rows<'r, R>, of: impl Fn(&'r R) -> &'r Verdict + Copy) -> Rows<'r, R> {
    rows.text("discarded", move |row| of(row).discarded)
        .integer("rank", move |row| of(row).rank.map(|rank| rank as i64))
}

fn numbers<'r, R>(rows: Rows<'r, R>, of: impl Fn(&'r R) -> &'r Measured + Copy) -> Rows<'r, R> {
    let with = |rows: Rows<'r, R>, names: [&str; 3], mean: fn(&Measured) -> &Mean| {
        rows.number(names[0], move |row| mean(of(row)).mean)
            .ends([names[1], names[2]], move |row| mean(of(row)).interval)
    };
    let rows = with(rows, ["bypass", "bypass_low", "bypass_high"], |m| &m.bypass);
    let rows = with(rows, ["induce", "induce_low", "induce_high"], |m| &m.induce);
    with(rows, ["kl", "kl_low", "kl_high"], |m| &m.kl)
}

/// What to say of a choice that does no more than a random direction where it was not chosen.
pub(super) fn findings(checks: &[Check<'_>], method: Method) -> Vec<String> {
    let others = || checks.iter().filter(|check| check.half == "holdout");
    let random: Vec<&Check<'_>> = others().filter(|check| check.seed.is_some()).collect();
    let chosen = others().find(|check| check.seed.is_none() && check.direction != "none");
    let (Some(chosen), false) = (chosen, random.is_empty()) else {
        return Vec::new();
    };
    let bypass = chosen.measured.bypass.mean;
    let is_as_good = |check: &&&Check<'_>| match method {
        Method::RefusalDirection => check.measured.bypass.mean <= bypass,
        Method::Cosmic => check.measured.bypass.mean >= bypass,
    };
    let as_good = random.iter().filter(is_as_good).count();
    match as_good {
        0 => Vec::new(),
        _ => vec![format!(
            "on the held-out prompts {as_good} of {} random directions bypass as well as `{}`, the choice",
            random.len(),
            chosen.direction
        )],
    }
}
