//! Tables for a terminal: plain text, legible without colour, of what matters most in a run.

use std::fmt::Display;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use polars::prelude::DataFrame;

use crate::harmless;
use crate::report::{AtEnd, Cell, cell, distinct, shown, view};
use crate::run::RunReport;
use crate::stages::rules::{REFUSED, rate_column, rate_in_words, rule_of, rule_of_rate};
use crate::stages::{Artifacts, RANDOM, Source, kind_named};

/// Rows of text under a header, columns of numbers to the right.
pub(super) fn grid<S: Display>(header: &[S], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for (index, column) in table.column_iter_mut().enumerate() {
        let numeric = |text: &String| text.is_empty() || text.parse::<f64>().is_ok();
        if rows.iter().all(|row| row.get(index).is_none_or(numeric)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        column.set_padding((0, 2));
    }
    table.add_rows(rows);
    let lines = table.lines();
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
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
                AtEnd::Learned(columns) => learned(&stage.name, output, columns),
                AtEnd::Columns(table, columns) => shown_tables(&stage.name, output, table, columns),
            };
        }
    }
    text
}

/// The steered sweep, a row per model, layer and α: mean score, its change from α = 0 prompt by prompt, and rate of every set, the latter two
/// with their 95 % intervals.
fn steered(stage: &str, output: &Artifacts) -> String {
    let Ok(table) = output.table("") else {
        return String::new();
    };
    let rule = rule_of(&table);
    let rate = rate_column(rule);
    let columns = [
        "source",
        "model",
        "layer",
        "direction",
        "alpha",
        "set",
        "mean",
        "change",
        "change_low",
        "change_high",
        &rate,
        "rate_low",
        "rate_high",
    ];
    let with_ends = |row: &[String], at: usize| match row[at + 1].is_empty() {
        true => row[at].clone(),
        false => format!("{} [{}, {}]", row[at], row[at + 1], row[at + 2]),
    };
    let Ok(steered) = table.select(columns) else {
        return String::new();
    };
    let mut rows = rows(&steered);
    rows.retain(|row| row[0] == Source::Steer.name());
    let sets = distinct(rows.iter().map(|row| &row[5]));
    let mut lines: Vec<Vec<String>> = Vec::new();
    for same in rows.chunk_by(|a, b| a[1..5] == b[1..5]) {
        let mut line = same[0][1..5].to_vec();
        for set in &sets {
            line.extend(match same.iter().find(|row| row[5] == **set) {
                None => [const { String::new() }; 3],
                Some(row) => [row[6].clone(), with_ends(row, 7), with_ends(row, 10)],
            });
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return String::new();
    }
    let mut header: Vec<String> = columns[1..5].iter().map(ToString::to_string).collect();
    for set in sets {
        header.extend([
            format!("{set} score"),
            format!("{set} change from α = 0 [95 %]"),
            format!("{set} {rule} [95 %]"),
        ]);
    }
    format!(
        "{stage}: steered scores and {}s\n{}\n",
        rate_in_words(rule),
        grid(&header, lines)
    )
}

/// The main table without random directions.
fn learned(stage: &str, output: &Artifacts, columns: &[&str]) -> String {
    let Ok(table) = output.table("") else {
        return String::new();
    };
    let has = |column: &&str| table.column(column).is_ok();
    let columns: Vec<&str> = columns.iter().copied().filter(has).collect();
    let Ok(table) = table.select(columns.iter().copied()) else {
        return String::new();
    };
    let mut rows = rows(&table);
    let direction = columns.iter().position(|column| *column == "direction");
    rows.retain(|row| direction.is_none_or(|at| !row[at].starts_with(RANDOM)));
    format!("{stage}\n{}\n", grid(&columns, rows))
}

/// A table, and the same of further score rules, which have the rule's name before.
fn shown_tables(stage: &str, output: &Artifacts, name: &str, columns: &[&str]) -> String {
    let of_rule = format!("_{name}");
    let names = output.names().into_iter();
    let names = names.filter(|table| *table == name || table.ends_with(&of_rule));
    let shown = names.map(|name| shown_table(stage, output, name, columns));
    shown.collect()
}

fn shown_table(stage: &str, output: &Artifacts, name: &str, columns: &[&str]) -> String {
    let Ok(table) = output.table(name) else {
        return String::new();
    };
    let rate = rate_column(rule_of(&table));
    let columns = columns.iter().map(|column| match rule_of_rate(column) {
        Some(REFUSED) => &rate,
        _ => *column,
    });
    let has = |column: &&str| table.column(column).is_ok();
    let columns: Vec<&str> = columns.filter(has).collect();
    let Ok(table) = table.select(columns.iter().copied()) else {
        return String::new();
    };
    format!("{stage}.{name}\n{}\n", grid(&columns, rows(&table)))
}

fn rows(table: &DataFrame) -> Vec<Vec<String>> {
    let row = |row: usize| {
        let cells = table.columns().iter().map(|column| cell(column, row));
        cells.map(brief).collect()
    };
    (0..table.height()).map(row).collect()
}

/// A cell for people.
pub(super) fn brief(cell: Option<Cell<'_>>) -> String {
    match cell {
        None => String::new(),
        Some(Cell::Number(value)) => shown(value),
        Some(Cell::Text(text)) => harmless::line(text).into_owned(),
        Some(cell) => cell.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
