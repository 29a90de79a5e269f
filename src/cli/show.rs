//! `dial show`: a run's numbers in a terminal, with small charts in the lines.

use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value as Json};

use crate::harmless;
use crate::manifest::{RunStatus, file_stem};
use crate::report::{FinishedRun, FinishedStage, Table, Trace, Values, traces};

use super::report::failure;
use super::tables::grid;
use super::{Failure, console::duration, print, print_csv, print_json};

/// Rows of a table that a terminal shows.
const ROWS: usize = 40;

#[derive(Args)]
pub(super) struct ShowArguments {
    /// A run's folder, such as `runs/quickstart/latest`.
    run: PathBuf,
    /// A stage (`summary`), or one of its tables (`summary.controls`) [default: what answers the study's question].
    stage: Option<String>,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = ShowFormat::Text)]
    format: ShowFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ShowFormat {
    /// For a terminal; long tables are cut.
    Text,
    /// All rows as CSV; several tables are set apart by a line `# name`.
    Csv,
    /// An object with every table as a list of rows.
    Json,
    /// Markdown tables.
    Md,
}

pub(super) fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let run = FinishedRun::read(&arguments.run).map_err(failure)?;
    let tables = match &arguments.stage {
        None => main_tables(&run),
        Some(name) => named(&run, name)?,
    };
    match arguments.format {
        ShowFormat::Text => print(&as_text(&run, &tables, arguments.stage.as_deref())),
        ShowFormat::Csv => print_csv(&as_csv(&tables)),
        ShowFormat::Json => print_json(&as_json(&tables)),
        ShowFormat::Md => print(&as_markdown(&tables)),
    }
}

/// A table with the name of its files.
type Named<'a> = (String, &'a Table);

/// The tables that answer a study's question first.
fn main_tables(run: &FinishedRun) -> Vec<Named<'_>> {
    let tables = run.main_tables().into_iter();
    tables
        .map(|(stage, main, table)| (file_stem(&stage.name, main.name), table))
        .collect()
}

fn named<'a>(run: &'a FinishedRun, name: &str) -> Result<Vec<Named<'a>>, Failure> {
    let all = |stage: &'a FinishedStage| {
        let tables = stage.tables.iter();
        tables.map(|(table, content)| (file_stem(&stage.name, table), content))
    };
    if let Some(stage) = run.stage(name) {
        return Ok(all(stage).collect());
    }
    let mut tables: Vec<Named<'a>> = run.stages.iter().flat_map(all).collect();
    tables.retain(|(stem, _)| stem == name);
    if !tables.is_empty() {
        return Ok(tables);
    }
    let names = run.stages.iter().map(|stage| stage.name.as_str());
    let hint = match crate::spec::suggest(name, names.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("it has `{}`", names.collect::<Vec<_>>().join("`, `")),
    };
    Err(Failure::Usage(format!(
        "the run has no stage or table `{name}`; {hint}"
    )))
}

fn as_text(run: &FinishedRun, tables: &[Named<'_>], stage: Option<&str>) -> String {
    let mut text = String::new();
    if stage.is_none() {
        let manifest = &run.manifest;
        let status = manifest.status.map_or("", RunStatus::name);
        let seconds = manifest.seconds.unwrap_or_default();
        let _ = writeln!(text, "{}: {status}, {}", run.study(), duration(seconds));
        if let Some(question) = &manifest.question {
            let _ = writeln!(text, "{question}");
        }
        text.push('\n');
    }
    text += &charts(&traces(run, stage));
    for (name, table) in tables {
        let rows: Vec<Vec<String>> = (0..table.height().min(ROWS))
            .map(|row| {
                table
                    .columns
                    .iter()
                    .map(|c| brief(&c.values, row))
                    .collect()
            })
            .collect();
        let header: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let _ = writeln!(text, "{name}\n{}", grid(&header, rows).trim_end());
        if table.height() > ROWS {
            let _ = writeln!(
                text,
                "… and {} more rows: `--format csv` has all",
                table.height() - ROWS
            );
        }
        text.push('\n');
    }
    let findings: Vec<&String> = match stage {
        None => run.conclusions().collect(),
        Some(name) => run
            .stage(name)
            .map_or(Vec::new(), |s| s.findings().iter().collect()),
    };
    for finding in findings {
        let _ = writeln!(text, "note: {}", harmless::line(finding));
    }
    text
}

/// Sweeps as lines, one for each curve.
fn charts(traces: &[Trace]) -> String {
    let row = |trace: &Trace| {
        let ends = |values: &[f64]| match (values.first(), values.last()) {
            (Some(first), Some(last)) => format!("{first:.2} … {last:.2}"),
            _ => String::new(),
        };
        vec![
            trace.stage.clone(),
            trace.model.clone(),
            trace.layer.to_string(),
            trace.set.clone(),
            format!(
                "{} … {}",
                trace.alphas.first().unwrap_or(&0.0),
                trace.alphas.last().unwrap_or(&0.0)
            ),
            sparkline(&trace.means, None),
            ends(&trace.means),
            sparkline(&trace.rates, Some((0.0, 1.0))),
            ends(&trace.rates),
        ]
    };
    if traces.is_empty() {
        return String::new();
    }
    let header = [
        "sweep", "model", "layer", "set", "α", "score", "", "refused", "",
    ];
    format!("{}\n", grid(&header, traces.iter().map(row).collect()))
}

/// Numbers as blocks of eight heights, from the lowest to the highest or between given ends.
fn sparkline(values: &[f64], ends: Option<(f64, f64)>) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = ends.unwrap_or((low, high));
    let block = |value: &f64| {
        let share = if high > low {
            (value - low) / (high - low)
        } else {
            0.5
        };
        BLOCKS[(share.clamp(0.0, 1.0) * 7.0).round() as usize]
    };
    values.iter().map(block).collect()
}

/// A cell for people: three decimals.
fn brief(values: &Values, row: usize) -> String {
    match values {
        Values::Number(values) => match values.get(row) {
            None => String::new(),
            Some(value) if value.fract() == 0.0 && value.abs() < 1e6 => format!("{value}"),
            Some(value) => format!("{value:.3}"),
        },
        Values::Flag(values) => values
            .get(row)
            .copied()
            .flatten()
            .map_or(String::new(), |v| v.to_string()),
        Values::Text(values) => {
            let text = harmless::line(values.get(row).unwrap_or_default());
            match text.char_indices().nth(70) {
                Some((cut, _)) => format!("{}…", &text[..cut]),
                None => text.into_owned(),
            }
        }
    }
}

fn as_csv(tables: &[Named<'_>]) -> String {
    let mut text = String::new();
    for (name, table) in tables {
        if tables.len() > 1 {
            let _ = writeln!(text, "# {name}");
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Writing to memory cannot fail, and every row has as many cells as the header.
        let _ = writer.write_record(table.columns.iter().map(|c| &c.name));
        for row in 0..table.height() {
            let _ = writer.write_record(table.columns.iter().map(|c| c.cell(row)));
        }
        text += &String::from_utf8_lossy(&writer.into_inner().unwrap_or_default());
    }
    text
}

fn as_json(tables: &[Named<'_>]) -> Json {
    let rows = |table: &Table| -> Vec<Json> {
        let row = |row: usize| {
            let cells = table.columns.iter().map(|c| {
                let value = match &c.values {
                    Values::Text(values) => serde_json::json!(values.get(row)),
                    Values::Number(values) => serde_json::json!(values.get(row)),
                    Values::Flag(values) => serde_json::json!(values[row]),
                };
                (c.name.clone(), value)
            });
            Json::Object(cells.collect())
        };
        (0..table.height()).map(row).collect()
    };
    let all: Map<String, Json> = tables
        .iter()
        .map(|(name, table)| (name.clone(), Json::Array(rows(table))))
        .collect();
    Json::Object(all)
}

fn as_markdown(tables: &[Named<'_>]) -> String {
    let mut text = String::new();
    let line = |cells: Vec<String>| {
        let cells: Vec<String> = cells.into_iter().map(|c| c.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    for (name, table) in tables {
        let _ = writeln!(text, "**{name}**\n");
        text += &line(table.columns.iter().map(|c| c.name.clone()).collect());
        let rule = table.columns.iter().map(|c| match c.values {
            Values::Number(_) => "---:".to_string(),
            _ => "---".to_string(),
        });
        text += &line(rule.collect());
        for row in 0..table.height() {
            text += &line(
                table
                    .columns
                    .iter()
                    .map(|c| brief(&c.values, row))
                    .collect(),
            );
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::sparkline;

    #[test]
    fn sparklines_rise_with_their_values() {
        assert_eq!(sparkline(&[-1.0, 0.0, 1.0], None), "▁▅█");
        assert_eq!(sparkline(&[0.0, 0.5, 1.0], Some((0.0, 1.0))), "▁▅█");
        assert_eq!(sparkline(&[2.0, 2.0], None), "▅▅");
    }
}
