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
        figures.push(shuffled(stage, &left.table("shuffled")?, &left.table("")?)?);
    }
    Ok(figures)
}

/// The directions at one end of every pair, by name; empty where layers are missing.
fn names(table: &DataFrame, end: &str) -> Result<Vec<String>, StageError> {
    let seeds = table::read_integers(table, &format!("seed_{end}"))?;
    let layers = table::read_integers(table, &format!("layer_{end}"))?;
    let positions = positions(table, &format!("position_{end}"))?;
    let name = |((seed, layer), position): ((Option<i64>, Option<i64>), Option<i64>)| {
        let layer = layer.map_or(String::new(), |layer| layer.to_string());
        let position = position.map_or(String::new(), |p| format!(", position {p}"));
        let seed = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        format!("layer {layer}{position}{seed}")
    };
    let places = seeds.into_iter().zip(layers).zip(positions);
    Ok(places.map(name).collect())
}

/// A column of positions, which a table has where they are other than the last; none for each row of one that has not.
fn positions(table: &DataFrame, name: &str) -> Result<Vec<Option<i64>>, StageError> {
    match table.column(name) {
        Ok(_) => table::read_integers(table, name),
        Err(_) => Ok(vec![None; table.height()]),
    }
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

/// A layer, and a position where that is told.
type Place = (Option<i64>, Option<i64>);

/// Each shuffle's cosine with the learned direction, and its norm, layer by layer: what the procedure finds where there is nothing to find; and
/// among them the learned direction itself.
fn shuffled(stage: &str, table: &DataFrame, learned: &DataFrame) -> Result<Figure, StageError> {
    let [layers, shuffles] = ["layer", "shuffle"].map(|name| table::read_integers(table, name));
    let shuffles = shuffles?;
    let places = |table: &DataFrame, layers: Vec<Option<i64>>| -> Result<Vec<_>, StageError> {
        let positions = positions(table, "position")?;
        Ok(layers.into_iter().zip(positions).collect::<Vec<Place>>())
    };
    let rows_at = places(table, layers?)?;
    let once = distinct(rows_at.iter().filter(|(layer, _)| layer.is_some()));
    let learned_at = places(learned, table::read_integers(learned, "layer")?)?;
    let norms = learned.column("pre_norm")?.f64()?;
    let norm_at = |place: &Place| {
        let row = learned_at.iter().position(|at| at == place)?;
        norms.get(row)
    };
    let last = shuffles.iter().flatten().max().map_or(0.0, |n| *n as f64);
    let marks = |column: &str,
                 own: &dyn Fn(&Place) -> Option<f64>|
     -> Result<Vec<Mark>, StageError> {
        let values: Vec<Option<f64>> = table.column(column)?.f64()?.iter().collect();
        let of_place = |(index, place): (usize, &&Place)| {
            let rows = (0..table.height()).filter(|&row| rows_at[row] == **place);
            let points = rows.filter_map(|row| Some((shuffles[row]? as f64, values[row]?)));
            let layer = place.0.unwrap_or_default();
            let position = place.1.map_or(String::new(), |p| format!(", position {p}"));
            let name = format!("layer {layer}{position}");
            let shuffled = Mark::new(name.clone(), colour(index), Shape::Points, points);
            let across = own(place).map(|value| [(0.0, value), (last, value)]);
            let name = format!("{name}, learned");
            let learned = across.map(|ends| Mark::new(name, colour(index), Shape::Dashed, ends));
            [Some(shuffled), learned].into_iter().flatten()
        };
        Ok(once.iter().enumerate().flat_map(of_place).collect())
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
        note: "A negative control: prompts are dealt to the two groups at random. Broken lines: the learned direction, whose cosine with itself is 1.".to_string(),
        panels: vec![
            panel("cosine with the learned direction", marks("cosine", &|_| Some(1.0))?, Some(-1.0), Some(1.0)),
            panel("norm before scaling to 1", marks("pre_norm", &norm_at)?, Some(0.0), None),
        ],
        columns: 2,
        ..Figure::of(stage, "shuffled")
    })
}
