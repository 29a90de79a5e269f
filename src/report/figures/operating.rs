//! Operating points: the table of α that a reader asks for first, drawn so that it can stand in a paper.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel};
use crate::stages::Source;
use crate::stages::rules::{REFUSED, by_rule, rate_in_words, rule_of};

/// A column of the summary's table, and what it is called here.
const COLUMNS: [(&str, &str); 9] = [
    ("alpha_at_edge_target", "α (edge)"),
    ("edge_rate_at_edge_target", "edge rate"),
    ("harmful_rate_at_edge_target", "harmful rate"),
    ("alpha_at_harmful_target", "α (harmful)"),
    ("edge_rate_at_harmful_target", "edge rate"),
    ("harmful_rate_at_harmful_target", "harmful rate"),
    ("alpha_at_largest_gap", "α (gap)"),
    ("edge_rate_at_largest_gap", "edge rate"),
    ("harmful_rate_at_largest_gap", "harmful rate"),
];

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let Some(table) = stage.table("operating_points") else {
        return Vec::new();
    };
    let rule = stage.table("").map_or(REFUSED, |main| rule_of(&main.frame));
    let rate = rate_in_words(rule);
    let [sources, models, layers] = ["source", "model", "layer"].map(|name| table.texts(name));
    let name = |row: usize| {
        let source = match sources[row].as_str() {
            source if source == Source::Random.name() => "random (mean)",
            source => source,
        };
        format!("{source}, {}, layer {}", models[row], layers[row])
    };
    let columns = COLUMNS.map(|(name, _)| table.numbers(name));
    let cells = (0..table.height()).flat_map(|row| {
        let columns = columns.iter().enumerate();
        columns.map(move |(column, values)| (column, row, values[row]))
    });
    let [edge, harmful] = ["edge_target", "harmful_target"].map(|name| {
        let target = table.numbers(name).first().copied().flatten();
        target.map_or(String::new(), |target| format!("{:.0} %", target * 100.0))
    });
    let titles = COLUMNS.map(|(_, title)| title.to_string());
    vec![Figure {
        title: format!("Operating points{}", by_rule(rule)),
        note: format!(
            "α (edge): the smallest |α| that keeps the edge {rate} at {edge} or less; α (harmful): the harmful one at {harmful} or less; α (gap): where harmful − edge is largest; each with the rates there, blank where no α does."
        ),
        panels: vec![Panel {
            x: Axis::named("", titles.to_vec()),
            y: Axis::named("", (0..table.height()).map(name).collect()),
            marks: vec![Mark::cells("value", cells)],
            colours: Some(ColourScale {
                label: String::new(),
                low: -1.0,
                high: 1.0,
                colours: vec!["#FFFFFF".to_string(); 2],
            }),
            ..Panel::default()
        }],
        columns: 1,
        ..Figure::of(&stage.name, "operating_points")
    }]
}
