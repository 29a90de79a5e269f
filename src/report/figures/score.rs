//! Scores: a histogram per split, models overlaid, and one model against the other.

use crate::report::{Axis, Figure, FinishedStage, Mark, Panel, Shape, colour};

use super::swept::distinct;

const BINS: usize = 24;
/// Bars drawn: ends are rounded outwards.
const DRAWN: usize = BINS + 1;

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    histogram(stage).into_iter().chain(scatter(stage)).collect()
}

fn histogram(stage: &FinishedStage) -> Option<Figure> {
    let table = stage.table("")?;
    let (models, splits) = (table.texts("model"), table.texts("split"));
    let scores = table.numbers("score");
    let (low, high) = ends(scores.iter().flatten().copied());
    if low > high {
        return None;
    }
    let width = ((high - low) / BINS as f64).max(1e-9);
    // Ends and widths that an axis can write.
    let width = (width * 20.0).ceil() / 20.0;
    let low = (low / width).floor() * width;
    let counts = |model: &str, split: &str| {
        let mut counts = [0.0; DRAWN];
        for (row, score) in scores.iter().enumerate() {
            if let Some(score) = score
                && models[row] == model
                && splits[row] == split
            {
                counts[(((score - low) / width) as usize).min(DRAWN - 1)] += 1.0;
            }
        }
        counts
    };
    let panels = distinct(splits.iter().map(String::as_str))
        .into_iter()
        .map(|split| {
            let models = distinct(models.iter().map(String::as_str)).into_iter();
            let mark = |(index, model): (usize, &str)| {
                let bars = counts(model, split).into_iter().enumerate();
                let bars = bars.map(|(bin, n)| (low + width * (bin as f64 + 0.5), n));
                Mark::new(model, colour(index), Shape::Bars, bars)
            };
            Panel {
                title: split.to_string(),
                x: Axis {
                    low: Some(low),
                    high: Some(low + width * DRAWN as f64),
                    ..Axis::of("score (logit difference)")
                },
                y: Axis {
                    low: Some(0.0),
                    ..Axis::of("prompts")
                },
                marks: models.enumerate().map(mark).collect(),
                ..Panel::default()
            }
        });
    Some(Figure {
        title: "How scores are distributed".to_string(),
        note: format!(
            "Prompts by score, in bins of width {width:.2}; above the threshold (0 unless the study says otherwise) a prompt counts as refused."
        ),
        panels: panels.collect(),
        columns: 2,
        ..Figure::of(&stage.name, "histogram")
    })
}

fn scatter(stage: &FinishedStage) -> Option<Figure> {
    let table = stage.table("wide")?;
    let columns = table.columns().iter();
    let names = columns.filter_map(|column| column.name().strip_prefix("s_"));
    let names: Vec<&str> = names.filter(|name| *name != "gap").collect();
    let &[first, second] = names.as_slice() else {
        return None;
    };
    let [x, y] = [first, second].map(|name| table.numbers(&format!("s_{name}")));
    let (splits, ids) = (table.texts("split"), table.texts("id"));
    let of_split = |(index, split): (usize, String)| {
        let rows: Vec<usize> = (0..table.height())
            .filter(|&row| splits[row] == split && x[row].is_some() && y[row].is_some())
            .collect();
        let points = rows.iter().filter_map(|&row| Some((x[row]?, y[row]?)));
        Mark::new(split, colour(index), Shape::Cloud, points)
            .labelled(rows.iter().map(|&row| ids[row].clone()).collect())
    };
    let mut marks: Vec<Mark> = distinct(splits.iter().cloned())
        .into_iter()
        .enumerate()
        .map(of_split)
        .collect();
    let (low, high) = ends(x.iter().chain(&y).flatten().copied());
    let equal = [(low, low), (high, high)];
    marks.push(Mark::new("equal scores", "#666666", Shape::Dashed, equal));
    Some(Figure {
        title: format!("Scores of {first} against {second}"),
        note: "A point is a prompt; on the broken line both models score it alike.".to_string(),
        panels: vec![Panel {
            x: Axis::of(format!("score, {first} (logit difference)")),
            y: Axis::of(format!("score, {second} (logit difference)")),
            marks,
            ..Panel::default()
        }],
        columns: 1,
        ..Figure::of(&stage.name, "scatter")
    })
}

/// The lowest and the highest value; the wrong way round where there is none.
fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    })
}
