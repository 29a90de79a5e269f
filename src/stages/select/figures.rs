//! The choice drawn: the three numbers by layer, a line for each position.

use polars::prelude::DataFrame;

use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Shape};
use crate::stages::{Artifacts, StageError, table};

/// A number of the main table, what its figure is called, and how it is to be read.
const NUMBERS: [(&str, &str, &str); 3] = [
    (
        "bypass",
        "Harmful prompts without the direction",
        "Harmful prompts with each direction ablated everywhere.",
    ),
    (
        "induce",
        "Harmless prompts with the direction",
        "Harmless prompts with each direction added at its layer, at every token.",
    ),
    (
        "kl",
        "What ablation changes in harmless prompts (nats)",
        "Divergence of the next token of harmless prompts with each direction ablated everywhere.",
    ),
];

pub(super) fn figures(stage: &str, left: &Artifacts) -> Result<Vec<Figure>, StageError> {
    let candidates = left.table("")?;
    // Published evaluations come without.
    let checks = left.table("checks").ok();
    let figure = |number| of_number(stage, &candidates, checks.as_ref(), number);
    NUMBERS.into_iter().map(figure).collect()
}

fn of_number(
    stage: &str,
    candidates: &DataFrame,
    checks: Option<&DataFrame>,
    (column, title, note): (&str, &str, &str),
) -> Result<Figure, StageError> {
    let layers = table::read_integers(candidates, "layer")?;
    let positions = table::read_integers(candidates, "position")?;
    let ranks = table::read_integers(candidates, "rank")?;
    let tokens = table::read_text(candidates, "token").ok();
    let values: Vec<Option<f64>> = candidates.column(column)?.f64()?.iter().collect();
    let mut once: Vec<i64> = positions.iter().flatten().copied().collect();
    once.sort_unstable();
    once.dedup();
    let points = |is_there: &dyn Fn(usize) -> bool| -> Vec<(f64, f64)> {
        let rows = (0..values.len()).filter(|&row| is_there(row));
        let mut points: Vec<_> = rows
            .filter_map(|row| Some((layers[row]? as f64, values[row].filter(|v| v.is_finite())?)))
            .collect();
        points.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        points
    };
    let of_position = |(index, &position): (usize, &i64)| {
        let row = positions.iter().position(|other| *other == Some(position));
        let token = row
            .zip(tokens.as_ref())
            .map(|(row, tokens)| tokens[row].as_str());
        let name = match token.filter(|token| !token.is_empty()) {
            Some(token) => format!("{position} {token}"),
            None => position.to_string(),
        };
        let here = points(&|row| positions[row] == Some(position));
        Mark::new(name, PALETTE[index % PALETTE.len()], Shape::Line, here)
    };
    let mut marks: Vec<Mark> = once.iter().enumerate().map(of_position).collect();
    let ends = layers
        .iter()
        .flatten()
        .min()
        .zip(layers.iter().flatten().max());
    if let (Some(checks), Some((first, last))) = (checks, ends) {
        let unedited = checks.column(column)?.f64()?.iter().next().flatten();
        let across = unedited.map(|y| [(*first as f64, y), (*last as f64, y)]);
        let mark = |ends| Mark::new("unedited", PALETTE[6], Shape::Dashed, ends);
        marks.extend(across.map(mark));
    }
    let chosen = points(&|row| ranks[row] == Some(1));
    let labels = vec!["chosen".to_string(); chosen.len()];
    marks.push(Mark::new("chosen", PALETTE[6], Shape::Points, chosen).labelled(labels));
    Ok(Figure {
        title: title.to_string(),
        note: format!(
            "{note} One line for each position; the broken line is the unedited model, on the prompts that choose."
        ),
        panels: vec![Panel::new("", Axis::of("layer"), Axis::of(column), marks)],
        columns: 1,
        ..Figure::of(stage, column)
    })
}
