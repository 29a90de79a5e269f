//! Tables for a terminal: plain text, legible without colour, of what matters most in a run.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use polars::prelude::{AnyValue, DataFrame};

use crate::run::RunReport;
use crate::stages::Output;

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

/// The tables of a run that answer its question first: those of its summaries, or else the scores.
pub(super) fn of_run(report: &RunReport) -> String {
    let of_kind = |kind: &str| {
        let names = report.stages.iter().filter(move |s| s.kind == kind);
        names
            .filter_map(|s| {
                report
                    .outputs
                    .get(&s.name)
                    .map(|o| (s.name.clone(), o.clone()))
            })
            .collect::<Vec<_>>()
    };
    let mut text = String::new();
    for kind in ["score", "summary"] {
        for (name, output) in of_kind(kind) {
            for (title, columns) in shown_tables(kind) {
                text += &shown_table(&name, &output, title, columns);
            }
        }
    }
    text
}

/// Which tables of a kind are shown, and which of their columns.
fn shown_tables(kind: &str) -> Vec<(&'static str, &'static [&'static str])> {
    match kind {
        "score" => vec![("means", &["model", "split", "n", "mean", "refusal_rate"])],
        "summary" => vec![
            (
                "",
                &[
                    "source",
                    "model",
                    "layer",
                    "alpha",
                    "set",
                    "n",
                    "mean",
                    "mean_low",
                    "mean_high",
                    "refusal_rate",
                    "rate_low",
                    "rate_high",
                ],
            ),
            ("operating_points", &[]),
            ("learned_vs_random", &[]),
        ],
        _ => vec![],
    }
}

fn shown_table(stage: &str, output: &Output, name: &str, columns: &[&str]) -> String {
    let Ok(table) = output.table(name) else {
        return String::new();
    };
    let names: Vec<String> = match columns {
        [] => table
            .get_column_names()
            .iter()
            .map(|n| n.to_string())
            .collect(),
        some => some.iter().map(|n| (*n).to_string()).collect(),
    };
    let Ok(table) = table.select(names.iter().map(String::as_str)) else {
        return String::new();
    };
    let title = if name.is_empty() {
        stage.to_string()
    } else {
        format!("{stage}.{name}")
    };
    let header: Vec<&str> = names.iter().map(String::as_str).collect();
    format!("{title}\n{}\n", grid(&header, rows(&table)))
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
        AnyValue::String(text) => (*text).to_string(),
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
