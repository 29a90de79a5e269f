//! Tables for a terminal: plain text, legible without colour, of what matters most in a run.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use polars::prelude::{AnyValue, DataFrame};

use crate::harmless;
use crate::report::{AtEnd, view};
use crate::run::RunReport;
use crate::stages::{Artifacts, kind_named};

/// Rows of text under a header, columns of numbers to the right.
pub(super) fn grid(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        let numeric = |text: &String| text.is_empty() || text.parse::<f64>().is_ok();
        if rows.iter().all(|row| row.get(index).is_none_or(numeric)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_padding((0, 2));
    }
    table.add_rows(rows);
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_string())
        .collect();
    lines.join("\n") + "\n"
}

/// The tables of a run that answer its question first: scores, the sweep, and the learned direction against its controls.
/// All tables are in the run's folder.
pub(super) fn of_run(report: &RunReport) -> String {
    let mut text = String::new();
    for stage in &report.stages {
        let Some(output) = report.outputs.get(&stage.name) else {
            continue;
        };
        let product = kind_named(stage.kind).map(|kind| kind.product);
        for part in product.map_or(&[][..], |product| view(product).at_end) {
            text += &match part {
                AtEnd::Steered => steered(&stage.name, output),
                AtEnd::Columns(table, columns) => shown_table(&stage.name, output, table, columns),
            };
        }
    }
    text
}

/// The steered sweep, a row per model, layer and α: mean score and refusal rate [95 % interval] of every set.
fn steered(stage: &str, output: &Artifacts) -> String {
    let columns = [
        "source",
        "model",
        "layer",
        "direction",
        "alpha",
        "set",
        "mean",
        "refusal_rate",
        "rate_low",
        "rate_high",
    ];
    let Ok(table) = output.table("") else {
        return String::new();
    };
    let Ok(table) = table.select(columns) else {
        return String::new();
    };
    let rows = rows(&table);
    let steered: Vec<&Vec<String>> = rows.iter().filter(|row| row[0] == "steer").collect();
    let mut sets: Vec<&String> = Vec::new();
    for row in &steered {
        if !sets.contains(&&row[5]) {
            sets.push(&row[5]);
        }
    }
    let mut lines: Vec<Vec<String>> = Vec::new();
    for same in steered.chunk_by(|a, b| a[1..5] == b[1..5]) {
        let mut line = same[0][1..5].to_vec();
        for set in &sets {
            let of_set = same.iter().find(|row| row[5] == **set);
            line.push(of_set.map_or_else(String::new, |row| row[6].clone()));
            line.push(
                of_set.map_or_else(String::new, |row| match row[8].is_empty() {
                    true => row[7].clone(),
                    false => format!("{} [{}, {}]", row[7], row[8], row[9]),
                }),
            );
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return String::new();
    }
    let mut header: Vec<String> = ["model", "layer", "direction", "alpha"]
        .map(str::to_string)
        .to_vec();
    header.extend(
        sets.iter()
            .flat_map(|set| [format!("{set} score"), format!("{set} refused [95 %]")]),
    );
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    format!(
        "{stage}: steered scores and refusal rates\n{}\n",
        grid(&header, lines)
    )
}

fn shown_table(stage: &str, output: &Artifacts, name: &str, columns: &[&str]) -> String {
    let Ok(table) = output.table(name) else {
        return String::new();
    };
    let has = |column: &&str| table.column(column).is_ok();
    let columns: Vec<&str> = columns.iter().copied().filter(has).collect();
    let Ok(table) = table.select(columns.iter().copied()) else {
        return String::new();
    };
    format!("{stage}.{name}\n{}\n", grid(&columns, rows(&table)))
}

fn rows(table: &DataFrame) -> Vec<Vec<String>> {
    (0..table.height())
        .map(|row| {
            table
                .columns()
                .iter()
                .map(|column| column.get(row).map_or_else(|_| String::new(), |v| cell(&v)))
                .collect()
        })
        .collect()
}

fn cell(value: &AnyValue<'_>) -> String {
    match value {
        AnyValue::Null => String::new(),
        AnyValue::Float64(number) if number.fract() == 0.0 && number.abs() < 1e6 => {
            format!("{number}")
        }
        AnyValue::Float64(number) => format!("{number:.3}"),
        AnyValue::String(text) => harmless::line(text).into_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn numbers_stand_right_and_text_left() {
        let text = grid(
            &["name", "n"],
            vec![
                vec!["a".into(), "10".into()],
                vec!["bcd".into(), "2".into()],
            ],
        );
        assert_eq!(text, "name   n\na     10\nbcd    2\n");
    }
}
