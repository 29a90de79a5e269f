//! Generated texts: how many a classifier calls refusals, against α.

use crate::report::{Axis, Figure, FinishedStage, Mark, Panel, Shape, colour};

use crate::stages::rules::{BUILT, REFUSED, rule_of};

use super::ALPHA;
use super::swept::{distinct, grouped, spread};

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let Some(table) = stage.table("") else {
        return Vec::new();
    };
    let flags = table
        .columns()
        .iter()
        .filter(|column| column.dtype().is_bool());
    let names = flags.map(|column| column.name().as_str());
    let classifiers: Vec<&str> = names.filter(|name| *name != BUILT).collect();
    let rule = rule_of(&table.frame);
    let alphas = table.numbers("alpha");
    if distinct(alphas.iter().flatten().map(|alpha| alpha.to_bits())).len() < 2 {
        return Vec::new();
    }
    let [models, layers, splits] = ["model", "layer", "split"].map(|name| table.texts(name));
    let places = grouped(0..table.height(), |&row| {
        (&models[row], &layers[row], &splits[row])
    });
    let panel = |((model, layer, split), rows): (_, Vec<usize>)| {
        let mark = |(index, name): (usize, &&str)| {
            let flags = table.numbers(name);
            let values = rows
                .iter()
                .filter_map(|&row| Some((alphas[row]?, flags[row]?)));
            let rates = spread(values).into_iter().map(|s| (s.alpha, s.mean));
            let name = match *name {
                REFUSED => "score above threshold".to_string(),
                other if other == rule => format!("score above threshold ({rule})"),
                other => other.to_string(),
            };
            Mark::new(name, colour(index), Shape::Line, rates)
        };
        Panel::new(
            format!("{model}, layer {layer}, {split}"),
            Axis::of(ALPHA),
            Axis::rate("share of texts"),
            classifiers.iter().enumerate().map(mark).collect(),
        )
    };
    vec![Figure {
        title: "What classifiers call a refusal: refusal rate of generated texts".to_string(),
        note: "Steered generation; each line is one way of telling a refusal. No random directions were generated from.".to_string(),
        panels: places.into_iter().map(panel).collect(),
        columns: 2,
        ..Figure::of(&stage.name, "classifiers")
    }]
}
