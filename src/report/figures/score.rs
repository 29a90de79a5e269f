//! Scores: a histogram per split, models overlaid, and one model against the other.

use crate::report::{Axis, Figure, FinishedStage, Mark, Panel, Shape, Table, colour, ends};
use crate::stages::rules::{by_rule, rule_of, score_in_words};

use super::swept::{distinct, grouped};

const BINS: usize = 24;
/// Bars drawn: ends are rounded outwards.
const DRAWN: usize = BINS + 1;

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let tables = stage.tables_by_rule();
    let figures = tables.flat_map(|(name, table)| {
        let rule = rule_of(&table.frame);
        let (suffix, wide) = match name {
            "" => (String::new(), "wide".to_string()),
            rule => (format!(".{rule}"), format!("{rule}_wide")),
        };
        let of_rule = OfRule { rule, suffix };
        let wide = stage
            .table(&wide)
            .and_then(|wide| scatter(stage, wide, &of_rule));
        histogram(stage, table, &of_rule).into_iter().chain(wide)
    });
    figures.collect()
}

/// The score rule of a figure, and what its name has behind it.
struct OfRule<'a> {
    rule: &'a str,
    suffix: String,
}

fn histogram(stage: &FinishedStage, table: &Table, of: &OfRule<'_>) -> Option<Figure> {
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
    let all_models = distinct(&models);
    let panel = |(split, rows): (&String, Vec<usize>)| {
        let mark = |(index, model): (usize, &&String)| {
            let mut counts = [0.0; DRAWN];
            let of_model = rows.iter().filter(|&&row| models[row] == **model);
            for score in of_model.filter_map(|&row| scores[row]) {
                counts[(((score - low) / width) as usize).min(DRAWN - 1)] += 1.0;
            }
            let bars = counts.into_iter().enumerate();
            let bars = bars.map(|(bin, n)| (low + width * (bin as f64 + 0.5), n));
            Mark::new(model.as_str(), colour(index), Shape::Bars, bars)
        };
        let x = Axis {
            low: Some(low),
            high: Some(low + width * DRAWN as f64),
            ..Axis::of(score_in_words(of.rule))
        };
        let y = Axis {
            low: Some(0.0),
            ..Axis::of("prompts")
        };
        let marks = all_models.iter().enumerate().map(mark);
        Panel::new(split, x, y, marks.collect())
    };
    let panels = grouped(0..table.height(), |&row| &splits[row]).into_iter();
    Some(Figure {
        title: format!("How scores are distributed{}", by_rule(of.rule)),
        note: format!(
            "Prompts by score, in bins of width {width:.2}; above the threshold (0 unless the study says otherwise) a prompt counts as {}.",
            of.rule
        ),
        panels: panels.map(panel).collect(),
        columns: 2,
        ..Figure::of(&stage.name, &format!("histogram{}", of.suffix))
    })
}

fn scatter(stage: &FinishedStage, table: &Table, of: &OfRule<'_>) -> Option<Figure> {
    let columns = table.columns().iter();
    let names = columns.filter_map(|column| column.name().strip_prefix("s_"));
    let names: Vec<&str> = names.filter(|name| *name != "gap").collect();
    let &[first, second] = names.as_slice() else {
        return None;
    };
    let [x, y] = [first, second].map(|name| table.numbers(&format!("s_{name}")));
    let (splits, ids) = (table.texts("split"), table.texts("id"));
    let of_split = |(index, (split, rows)): (usize, (&String, Vec<usize>))| {
        let scored = rows
            .iter()
            .filter_map(|&row| Some(((x[row]?, y[row]?), ids[row].clone())));
        let (points, labels): (Vec<(f64, f64)>, Vec<String>) = scored.unzip();
        Mark::new(split, colour(index), Shape::Cloud, points).labelled(labels)
    };
    let by_split = grouped(0..table.height(), |&row| &splits[row]).into_iter();
    let mut marks: Vec<Mark> = by_split.enumerate().map(of_split).collect();
    let (low, high) = ends(x.iter().chain(&y).flatten().copied());
    let axis =
        |model: &str| score_in_words(of.rule).replacen("score", &format!("score, {model}"), 1);
    let equal = [(low, low), (high, high)];
    marks.push(Mark::new("equal scores", "#666666", Shape::Dashed, equal));
    Some(Figure {
        title: format!("Scores of {first} against {second}{}", by_rule(of.rule)),
        note: "A point is a prompt; on the broken line both models score it alike.".to_string(),
        panels: vec![Panel::new(
            "",
            Axis::of(axis(first)),
            Axis::of(axis(second)),
            marks,
        )],
        columns: 1,
        ..Figure::of(&stage.name, &format!("scatter{}", of.suffix))
    })
}
