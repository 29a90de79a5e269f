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
    if left.has_table("geometry") {
        figures.push(super::geometry::figure(stage, &left.table("geometry")?)?);
    }
    if left.has_table("detection") {
        figures.push(super::detection::figure(stage, &left.table("detection")?)?);
    }
    Ok(figures)
}

/// A direction at one end of a pair, in the order in which they are drawn: layer by layer, so that seeds of one layer stand together.
type End = (Option<i64>, Option<i64>, Option<i64>, String);

fn ends(table: &DataFrame, end: &str) -> Result<Vec<End>, StageError> {
    let seeds = table::read_integers(table, &format!("seed_{end}"))?;
    let places = places(table, &format!("_{end}"))?;
    let each = |(seed, place): (Option<i64>, Place)| {
        let told = seed.map_or(String::new(), |seed| format!(", seed {seed}"));
        let name = format!("{}{told}", place.name());
        (place.layer, place.position, seed, name)
    };
    Ok(seeds.into_iter().zip(places).map(each).collect())
}

/// A layer, and a position with its token where these are told.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    layer: Option<i64>,
    position: Option<i64>,
    token: Option<String>,
}

impl Place {
    fn name(&self) -> String {
        let layer = self.layer.map_or(String::new(), |layer| layer.to_string());
        let position = match (self.position, &self.token) {
            (Some(position), Some(token)) => format!(", position {position} (`{token}`)"),
            (Some(position), None) => format!(", position {position}"),
            (None, _) => String::new(),
        };
        format!("layer {layer}{position}")
    }
}

/// The places of a table's rows, in columns of that ending. Positions it has where they are other than the last.
fn places(table: &DataFrame, ending: &str) -> Result<Vec<Place>, StageError> {
    let layers = table::read_integers(table, &format!("layer{ending}"))?;
    let none = || vec![None; table.height()];
    let position = format!("position{ending}");
    let positions = match table.column(&position) {
        Ok(_) => table::read_integers(table, &position)?,
        Err(_) => none(),
    };
    let tokens: Vec<Option<String>> = match table.column(&format!("token{ending}")) {
        Ok(tokens) => tokens
            .str()?
            .iter()
            .map(|token| token.map(str::to_string))
            .collect(),
        Err(_) => vec![None; table.height()],
    };
    let rows = layers.into_iter().zip(positions).zip(tokens);
    Ok(rows
        .map(|((layer, position), token)| Place {
            layer,
            position,
            token,
        })
        .collect())
}

fn cosines(stage: &str, table: &DataFrame) -> Result<Option<Figure>, StageError> {
    let (first, second) = (ends(table, "a")?, ends(table, "b")?);
    let mut all: Vec<&End> = first.iter().chain(&second).collect();
    all.sort();
    all.dedup();
    if all.len() < 2 {
        return Ok(None);
    }
    let names: Vec<String> = all.iter().map(|(.., name)| name.clone()).collect();
    let place = |end: &End| all.iter().position(|other| *other == end);
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
            x: Axis::named("direction", names.clone()),
            y: Axis::named("direction", names),
            marks: vec![Mark::cells("cosine", cells)],
            colours: Some(ColourScale::diverging("cosine", &[Some(1.0)])),
            ..Panel::default()
        }],
        columns: 1,
        ..Figure::of(stage, "cosine")
    }))
}

/// Each shuffle's cosine with the learned direction, and its norm, layer by layer: what the procedure finds where there is nothing to find; and
/// among them the learned direction itself.
fn shuffled(stage: &str, table: &DataFrame, learned: &DataFrame) -> Result<Figure, StageError> {
    let shuffles = table::read_integers(table, "shuffle")?;
    let rows_at = places(table, "")?;
    let once = distinct(rows_at.iter().filter(|place| place.layer.is_some()));
    let learned_at = places(learned, "")?;
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
            let name = place.name();
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
