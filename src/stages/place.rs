//! What the rows of a table begin with that are of runs under a direction, or under none.

use super::action::Line;
use super::position::Selection;
use super::table::Rows;

/// What stands for a direction and its site where there is none.
pub(super) const NONE: &str = "none";

/// What the name of a random direction begins with.
pub(crate) const RANDOM: &str = "random";

/// A model, and what is done to it.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) model: &'a str,
    /// The direction and its place; none where nothing is steered.
    pub(super) line: Option<&'a Line>,
    /// Where it acts, unless a word says it that needs no telling.
    pub(super) position: Option<&'a Selection>,
    /// α, in the line's units; 0 without one.
    pub(super) alpha: f64,
}

/// Adds the columns of each row's place: that there are several layers, another position, more than one α or a condition is said where it is so of
/// the `first` place with a line.
pub(super) fn columns<'a, R>(
    rows: Rows<'a, R>,
    first: Option<Place<'a>>,
    of: impl Fn(&'a R) -> Place<'a> + Copy,
) -> Rows<'a, R> {
    let line = move |row| of(row).line;
    let mut rows = rows
        .text("model", |row| of(row).model)
        .text("direction", |row| {
            line(row).map_or(NONE, |line| &line.direction)
        })
        .integer("seed", |row| line(row)?.seed.map(|seed| seed as i64))
        .integer("layer", |row| line(row).map(|line| line.layer as i64))
        .text("site", |row| {
            line(row).map_or(NONE, |line| line.site.short_name())
        });
    let of_first = first.and_then(|place| place.line);
    if of_first.is_some_and(|line| line.layers.is_some()) {
        rows = rows.text("layers", move |row| {
            line(row)
                .and_then(|line| line.layers.clone())
                .unwrap_or_default()
        });
    }
    if first.is_some_and(|place| place.position.is_some()) {
        rows = rows.text("position", move |row| {
            of(row).position.map_or(String::new(), Selection::to_string)
        });
    }
    rows = rows.number("alpha", move |row| {
        let has_alpha = line(row).is_none_or(|line| line.has_alpha);
        has_alpha.then_some(of(row).alpha)
    });
    for place in 0..of_first.map_or(0, |line| line.also_alphas.len()) {
        rows = rows.number(&format!("alpha_{}", place + 2), move |row| {
            line(row)?.also_alphas.get(place).copied().flatten()
        });
    }
    if of_first.is_some_and(|line| line.gate.is_some()) {
        rows = rows.number("threshold", move |row| {
            Some(line(row)?.gate.as_ref()?.threshold)
        });
    }
    rows
}
