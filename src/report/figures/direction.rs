//! Directions: how alike they are across layers and seeds, and against shuffled labels.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Shape, Table, colour};

use super::swept::distinct;

pub(super) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let cosines = stage
        .table("cosine")
        .and_then(|table| cosines(stage, table));
    let shuffled = stage.table("shuffled").map(|table| shuffled(stage, table));
    cosines.into_iter().chain(shuffled).collect()
}

fn cosines(stage: &FinishedStage, table: &Table) -> Option<Figure> {
    let name = |seed: &str, layer: &str| match seed {
        "" => format!("layer {layer}"),
        seed => format!("layer {layer}, seed {seed}"),
    };
    let names = |end: &str| -> Vec<String> {
        let seeds = table.texts(&format!("seed_{end}"));
        let layers = table.texts(&format!("layer_{end}"));
        seeds.iter().zip(&layers).map(|(s, l)| name(s, l)).collect()
    };
    let (first, second) = (names("a"), names("b"));
    let mut all = distinct(first.iter().chain(&second).cloned());
    // Layer by layer, so that seeds of one layer stand together.
    all.sort_by_key(|name| {
        let numbers = name.split(|c: char| !c.is_ascii_digit());
        let numbers = numbers.filter_map(|n| n.parse::<i64>().ok());
        numbers.collect::<Vec<_>>()
    });
    if all.len() < 2 {
        return None;
    }
    let place = |name: &String| all.iter().position(|n| n == name);
    let mut cells = Vec::new();
    for ((a, b), cosine) in first.iter().zip(&second).zip(table.numbers("cosine")) {
        if let (Some(x), Some(y)) = (place(a), place(b)) {
            cells.push((x, y, cosine));
            cells.extend((x != y).then_some((y, x, cosine)));
        }
    }
    Some(Figure {
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
        ..Figure::of(&stage.name, "cosine")
    })
}

/// Each shuffle's cosine with the learned direction, layer by layer: what the procedure finds where there is nothing to find.
fn shuffled(stage: &FinishedStage, table: &Table) -> Figure {
    let (layers, cosines) = (table.numbers("layer"), table.numbers("cosine"));
    let (shuffles, norms) = (table.numbers("shuffle"), table.numbers("pre_norm"));
    let marks = |values: &[Option<f64>]| -> Vec<Mark> {
        let layers_once = distinct(layers.iter().flatten().map(|layer| *layer as i64));
        let mark = |(index, layer): (usize, i64)| {
            let rows = (0..table.height()).filter(|&row| layers[row] == Some(layer as f64));
            let points = rows.filter_map(|row| Some((shuffles[row]?, values[row]?)));
            let name = format!("layer {layer}");
            Mark::new(name, colour(index), Shape::Points, points)
        };
        layers_once.into_iter().enumerate().map(mark).collect()
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
    Figure {
        title: "The same procedure with shuffled labels".to_string(),
        note: "A negative control: prompts are dealt to the two groups at random. The learned direction's own norm is in the stage's table.".to_string(),
        panels: vec![
            panel("cosine with the learned direction", marks(&cosines), Some(-1.0), Some(1.0)),
            panel("norm before scaling to 1", marks(&norms), Some(0.0), None),
        ],
        columns: 2,
        ..Figure::of(&stage.name, "shuffled")
    }
}
