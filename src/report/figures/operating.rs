//! Operating points: the table of α that a reader asks for first, drawn so that it can stand in a paper.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel};

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
    let text = |name: &str| table.texts(name);
    let (sources, models, layers) = (text("source"), text("model"), text("layer"));
    let rows = (0..table.height()).map(|row| {
        let source = if sources[row] == "random" {
            "random (mean)"
        } else {
            &sources[row]
        };
        format!("{source}, {}, layer {}", models[row], layers[row])
    });
    let values: Vec<Vec<Option<f64>>> = COLUMNS
        .iter()
        .map(|(name, _)| table.numbers(name))
        .collect();
    let cells = (0..table.height()).flat_map(|row| {
        let columns = values.iter().enumerate();
        columns.map(move |(column, values)| (column, row, values[row]))
    });
    let targets = ["edge_target", "harmful_target"].map(|name| {
        let target = table.numbers(name).first().copied().flatten();
        target.map_or(String::new(), |target| format!("{:.0} %", target * 100.0))
    });
    let white = ["#FFFFFF", "#FFFFFF"].map(str::to_string).to_vec();
    vec![Figure {
        name: format!("{}.operating_points", stage.name),
        stage: stage.name.clone(),
        title: "Operating points".to_string(),
        note: format!(
            "α (edge): the smallest |α| that keeps the edge refusal rate at {} or less; α (harmful): the harmful one at {} or less; α (gap): where harmful − edge is largest; each with the rates there, blank where no α does.",
            targets[0], targets[1]
        ),
        panels: vec![Panel {
            x: Axis::named(
                "",
                COLUMNS
                    .iter()
                    .map(|(_, title)| (*title).to_string())
                    .collect(),
            ),
            y: Axis::named("", rows.collect()),
            marks: vec![Mark::cells("value", cells)],
            colours: Some(ColourScale {
                label: String::new(),
                low: -1.0,
                high: 1.0,
                colours: white,
            }),
            ..Panel::default()
        }],
        columns: 1,
    }]
}
