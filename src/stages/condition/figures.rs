//! Conditions drawn: how like the chosen direction the prompts are, and how well each direction tells them apart.

use polars::prelude::DataFrame;

use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Shape};
use crate::stages::{Artifacts, StageError, table};

pub(super) fn figures(stage: &str, left: &Artifacts) -> Result<Vec<Figure>, StageError> {
    let chosen = left.table("chosen")?;
    let mut figures = vec![likeness(stage, &left.table("likeness")?, &chosen)?];
    let all = left.table("")?;
    if all.height() > 1 {
        figures.push(by_layer(stage, &all)?);
    }
    Ok(figures)
}

/// For each group the share of its prompts that are at most so like the direction, and the threshold.
fn likeness(stage: &str, prompts: &DataFrame, chosen: &DataFrame) -> Result<Figure, StageError> {
    let likeness = table::read_numbers(prompts, "likeness")?;
    let wanted: Vec<bool> = prompts.column("wanted")?.bool()?.iter().flatten().collect();
    let group = |name: &str, colour: &str, is_wanted: bool| {
        let of_group = likeness
            .iter()
            .zip(&wanted)
            .filter(|(_, w)| **w == is_wanted);
        let mut values: Vec<f64> = of_group.map(|(value, _)| *value).collect();
        values.sort_by(f64::total_cmp);
        let count = values.len() as f64;
        let shares = values
            .into_iter()
            .zip(1..)
            .map(|(value, rank)| (value, f64::from(rank) / count));
        Mark::new(name, colour, Shape::Line, shares)
    };
    let threshold = table::read_numbers(chosen, "threshold")?[0];
    let ends = [(threshold, 0.0), (threshold, 1.0)];
    let text = |column: &str| -> Result<String, StageError> {
        Ok(table::read_text(chosen, column)?.swap_remove(0))
    };
    let layer = table::read_integers(chosen, "layer")?[0].unwrap_or_default();
    let (direction, side) = (text("direction")?, text("when")?);
    let over = match text("over")?.as_str() {
        "mean" => "the mean over all tokens of a prompt",
        _ => "the last token of a prompt",
    };
    Ok(Figure {
        title: "The condition and the prompts".to_string(),
        note: format!(
            "How like `{direction}` {over} is at layer {layer}, before anything is edited: the share of each group that is at most so like it, both halves. \
             The edit is made {side} the broken line."
        ),
        panels: vec![Panel::new(
            "",
            Axis::of(format!("likeness ({})", text("similarity")?)),
            Axis::rate("share of the prompts"),
            vec![
                group("to act on", PALETTE[1], true),
                group("to leave alone", PALETTE[0], false),
                Mark::new("threshold", PALETTE[6], Shape::Dashed, ends),
            ],
        )],
        columns: 1,
        ..Figure::of(stage, "likeness")
    })
}

/// F1 of each direction, on the half that chose its threshold and on the other.
fn by_layer(stage: &str, all: &DataFrame) -> Result<Figure, StageError> {
    let layers: Vec<f64> = table::read_integers(all, "layer")?
        .into_iter()
        .map(|layer| layer.unwrap_or_default() as f64)
        .collect();
    let points = |column: &str| -> Result<Vec<(f64, f64)>, StageError> {
        let values = all.column(column)?.f64()?;
        let points = layers.iter().zip(values.iter());
        Ok(points
            .filter_map(|(layer, value)| Some((*layer, value?)))
            .collect())
    };
    Ok(Figure {
        title: "How well each direction tells the prompts apart".to_string(),
        note: "F1 of each direction's own best threshold. The training half chose it, so that its line is too high; the held-out half is what to expect."
            .to_string(),
        panels: vec![Panel::new(
            "",
            Axis::of("layer"),
            Axis::rate("F1"),
            vec![
                Mark::new("training half", PALETTE[5], Shape::Dashed, points("f1_train")?),
                Mark::new("held-out half", PALETTE[0], Shape::Points, points("f1")?),
                Mark::new("acting on every prompt", PALETTE[6], Shape::Dashed, points("f1_of_all")?),
            ],
        )],
        columns: 1,
        ..Figure::of(stage, "by_layer")
    })
}
