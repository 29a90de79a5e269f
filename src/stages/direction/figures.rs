//! Directions drawn: how alike they are across layers and seeds, and against shuffled labels.

use polars::prelude::DataFrame;

use crate::figure::{Axis, ColourScale, Figure, Mark, Panel, Shape, colour};
use crate::stages::{Artifacts, StageError, distinct, table};

pub(in crate::stages) fn figures(stage: &str, left: &Artifacts) -> Result<Vec<Figure>, StageError> {
    let mut figures = Vec::new();
    if left.has_table("cosine") {
        figures.extend(cosines(stage, &left.table("cosine")?)?);
    }
    if left.has_table("shuffled") {
        figures.push(shuffled(stage, &left.table("shuffled")?)?);
    }
    Ok(figures)
}

/// The directions at one end of every pair, by name; empty where layers are missing.
fn names(table: &DataFrame, end: &str) -> Result<Vec<String>, StageError> {
    let seeds = table::read_integers(table, &format!("seed_{end}"))?;
    let layers = table::read_integers(table, &format!("layer_{end}"))?;
    let name = |(seed, layer): (Option<i64>, Option<i64>)| {
        let layer = layer.map_or(String::new(), |layer| layer.to_string());
        let seed = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        format!("layer {layer}{seed}")
    };
    Ok(seeds.into_iter().zip(layers).map(name).collect())
}

fn cosines(stage: &str, table: &DataFrame) -> Result<Option<Figure>, StageError> {
    let (first, second) = (names(table, "a")?, names(table, "b")?);
    let mut all: Vec<String> = first.iter().chain(&second).cloned().collect();
    // Layer by layer, so that seeds of one layer stand together.
    all.sort_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit());
        let numbers = numbers.filter_map(|n| n.parse::<i64>().ok());
        numbers.collect::<Vec<_>>()
    });
    all.dedup();
    if all.len() < 2 {
        return Ok(None);
    }
    let place = |name: &String| all.iter().position(|n| n == name);
    let values = table.column("cosine")?.f64()?;
    let mut cells = Vec::new();
    for ((a, b), cosine) in first.iter().zip(&second).zip(values.iter()) {
        let (Some(x), Some(y)) = (place(a), place(b)) else {
            continue;
        };
        cells.push((x, y, cosine));
        if x != y {
            cells.push((y, x, cosine));
        }
    }
    Ok(Some(Figure {
        title: "How alike the directions are".to_string(),
        note: "Cosine between every two directions of the stage.".to_string(),
        panels: vec![Panel {
            x: Axis::named("direction", all.clone()),
            y: Axis::named("direction", all),
            marks: vec![Mark::cells("cosine", cells)],
            colours: Some(ColourScale::diverging("cosine", &[Some(1.0)])),
            ..Panel::default()
        }],
        columns: 1,
        ..Figure::of(stage, "cosine")
    }))
}

/// Each shuffle's cosine with the learned direction, layer by layer: what the procedure finds where there is nothing to find.
fn shuffled(stage: &str, table: &DataFrame) -> Result<Figure, StageError> {
    let [layers, shuffles] = ["layer", "shuffle"].map(|name| table::read_integers(table, name));
    let (layers, shuffles) = (layers?, shuffles?);
    let layers_once = distinct(layers.iter().flatten());
    let marks = |column: &str| -> Result<Vec<Mark>, StageError> {
        let values: Vec<Option<f64>> = table.column(column)?.f64()?.iter().collect();
        let mark = |(index, layer): (usize, &&i64)| {
            let rows = (0..table.height()).filter(|&row| layers[row] == Some(**layer));
            let points = rows.filter_map(|row| Some((shuffles[row]? as f64, values[row]?)));
            let name = format!("layer {layer}");
            Mark::new(name, colour(index), Shape::Points, points)
        };
        Ok(layers_once.iter().enumerate().map(mark).collect())
    };
    let panel = |label: &str, marks: Vec<Mark>, low: Option<f64>, high: Option<f64>| Panel {
        x: Axis::of("shuffle"),
        y: Axis {
            low,
            high,
            ..Axis::of(label)
        },
        marks,
        ..Panel::default()
    };
    Ok(Figure {
        title: "The same procedure with shuffled labels".to_string(),
        note: "A negative control: prompts are dealt to the two groups at random. The learned direction's own norm is in the stage's table.".to_string(),
        panels: vec![
            panel("cosine with the learned direction", marks("cosine")?, Some(-1.0), Some(1.0)),
            panel("norm before scaling to 1", marks("pre_norm")?, Some(0.0), None),
        ],
        columns: 2,
        ..Figure::of(stage, "shuffled")
    })
}
