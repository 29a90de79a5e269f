//! Generated texts: how many a classifier calls refusals, against α.

use crate::report::{Axis, Figure, FinishedStage, Mark, Panel, Shape, colour};

use super::swept::{distinct, spread};
use super::{ALPHA, RATE};

/// A column of true and false that says nothing of a text.
const NOT_A_CLASSIFIER: &str = "built_direction";

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let Some(table) = stage.table("") else {
        return Vec::new();
    };
    let columns = table.columns().iter();
    let flags = columns.filter(|column| column.dtype().is_bool());
    let classifiers = flags.map(|column| column.name().as_str());
    let classifiers: Vec<&str> = classifiers
        .filter(|name| *name != NOT_A_CLASSIFIER)
        .collect();
    let (models, splits) = (table.texts("model"), table.texts("split"));
    let layers = table.texts("layer");
    let alphas = table.numbers("alpha");
    if distinct(alphas.iter().flatten().map(|alpha| alpha.to_bits())).len() < 2 {
        return Vec::new();
    }
    let keys = models.iter().zip(&layers).zip(&splits);
    let keys = keys.map(|((model, layer), split)| (model.as_str(), layer.as_str(), split.as_str()));
    let keys: Vec<(&str, &str, &str)> = keys.collect();
    let panel = |key: (&str, &str, &str)| {
        let mark = |(index, name): (usize, &&str)| {
            let flags = table.numbers(name);
            let rows = (0..table.height()).filter(|&row| keys[row] == key);
            let values = rows.filter_map(|row| Some((alphas[row]?, flags[row]?)));
            let rates = spread(values).into_iter().map(|s| (s.alpha, s.mean));
            let name = match *name {
                "refused" => "score above threshold",
                other => other,
            };
            Mark::new(name, colour(index), Shape::Line, rates)
        };
        Panel {
            title: format!("{}, layer {}, {}", key.0, key.1, key.2),
            x: Axis::of(ALPHA),
            y: Axis::rate("share of texts"),
            marks: classifiers.iter().enumerate().map(mark).collect(),
            ..Panel::default()
        }
    };
    vec![Figure {
        title: format!("What classifiers call a refusal: {RATE} of generated texts"),
        note: "Steered generation; each line is one way of telling a refusal. No random directions were generated from.".to_string(),
        panels: distinct(keys.iter().copied()).into_iter().map(panel).collect(),
        columns: 2,
        ..Figure::of(&stage.name, "classifiers")
    }]
}
