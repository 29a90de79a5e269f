//! `dial show`: a run's numbers in a terminal, with small charts in the lines.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::Value as Json;

use crate::harmless::{self, cut};
use crate::manifest::file_stem;
use crate::report::{self, FinishedRun, FinishedStage, Place, Point, Table, cell, grouped, points};
use crate::stages::rules::REFUSED;
use crate::stages::sweep::SweepFrame;

use super::report::failure;
use super::tables::{brief, grid};
use super::{Failure, console::duration, print, print_csv, print_json};

/// Rows of a table that a terminal shows.
const ROWS: usize = 40;
/// Characters of a cell that are shown.
const CHARACTERS: usize = 70;

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
type Named<'a> = (String, Cow<'a, Table>);

/// The tables that answer a study's question first.
fn main_tables(run: &FinishedRun) -> Vec<Named<'_>> {
    let tables = run.main_tables().into_iter();
    tables
        .map(|(stage, _, name, table)| (file_stem(&stage.name, name), table))
        .collect()
}

fn named<'a>(run: &'a FinishedRun, name: &str) -> Result<Vec<Named<'a>>, Failure> {
    let all = |stage: &'a FinishedStage| {
        let tables = stage.tables.iter();
        tables.map(|(table, content)| (file_stem(&stage.name, table), Cow::Borrowed(content)))
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
        let word = serde_json::json!(manifest.status);
        let status = word.as_str().unwrap_or_default();
        let seconds = manifest.seconds.unwrap_or_default();
        let _ = writeln!(text, "{}: {status}, {}", run.study(), duration(seconds));
        if let Some(question) = &manifest.question {
            let _ = writeln!(text, "{question}");
        }
        text.push('\n');
    }
    text += &charts(run, stage);
    for (name, table) in tables {
        let rows = (0..table.height().min(ROWS)).map(|row| brief_row(table, row));
        let grid = grid(&header(table), rows.collect());
        let _ = writeln!(text, "{name}\n{}", grid.trim_end());
        if table.height() > ROWS {
            let more = table.height() - ROWS;
            let _ = writeln!(text, "… and {more} more rows: `--format csv` has all");
        }
        text.push('\n');
    }
    let findings: Vec<&String> = match stage {
        None => run.conclusions().collect(),
        Some(name) => run
            .stage(name)
            .map_or(&[][..], FinishedStage::findings)
            .iter()
            .collect(),
    };
    for finding in findings {
        let _ = writeln!(text, "note: {}", harmless::line(finding));
    }
    text
}

/// The sweeps of all stages or of one as lines, one for each curve over α.
fn charts(run: &FinishedRun, only: Option<&str>) -> String {
    let mut rows = Vec::new();
    let stages = run.stages.iter();
    for stage in stages.filter(|stage| only.is_none_or(|name| name == stage.name)) {
        for sweep in stage.sweeps() {
            rows.extend(curves(run, stage, &sweep));
        }
    }
    if rows.is_empty() {
        return String::new();
    }
    let rate = match rows.iter().all(|row| !row[0].ends_with(')')) {
        true => REFUSED,
        false => "rate",
    };
    let header = ["sweep", "model", "layer", "set", "α", "score", "", rate, ""];
    format!("{}\n", grid(&header, rows))
}

/// The curves of a sweep by one score rule, each over α.
fn curves(run: &FinishedRun, stage: &FinishedStage, sweep: &SweepFrame<'_>) -> Vec<Vec<String>> {
    let name = match sweep.rule {
        REFUSED => stage.name.clone(),
        rule => format!("{} ({rule})", stage.name),
    };
    let curves = grouped(points(run, stage, sweep), |point| point.place).into_iter();
    let curve = |(place, mut curve): (Place<'_>, Vec<Point<'_>>)| {
        curve.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
        let means: Vec<f64> = curve.iter().map(|point| point.mean.value).collect();
        let rates: Vec<f64> = curve.iter().map(|point| point.rate.value).collect();
        let last = curve.len() - 1;
        let ends = |values: &[f64]| format!("{:.2} … {:.2}", values[0], values[last]);
        vec![
            name.clone(),
            place.model.to_string(),
            place.layer.to_string(),
            place.set.to_string(),
            format!("{} … {}", curve[0].alpha, curve[last].alpha),
            sparkline(&means, None),
            ends(&means),
            sparkline(&rates, Some((0.0, 1.0))),
            ends(&rates),
        ]
    };
    curves.map(curve).collect()
}

/// Numbers as blocks of eight heights, from the lowest to the highest or between given ends.
fn sparkline(values: &[f64], ends: Option<(f64, f64)>) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let (low, high) = ends.unwrap_or_else(|| report::ends(values.iter().copied()));
    let block = |value: &f64| {
        let share = match high > low {
            true => (value - low) / (high - low),
            false => 0.5,
        };
        BLOCKS[(share.clamp(0.0, 1.0) * 7.0).round() as usize]
    };
    values.iter().map(block).collect()
}

fn header(table: &Table) -> Vec<&str> {
    let columns = table.columns().iter();
    columns.map(|column| column.name().as_str()).collect()
}

/// A row for people.
fn brief_row(table: &Table, row: usize) -> Vec<String> {
    let columns = table.columns().iter();
    columns
        .map(|column| cut(&brief(cell(column, row)), CHARACTERS))
        .collect()
}

fn as_csv(tables: &[Named<'_>]) -> String {
    let mut text = String::new();
    for (name, table) in tables {
        if tables.len() > 1 {
            let _ = writeln!(text, "# {name}");
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        // Writing to memory cannot fail, and every row has as many cells as the header.
        let _ = writer.write_record(header(table));
        for row in 0..table.height() {
            let cells = table.columns().iter().map(|column| cell(column, row));
            let texts = cells.map(|cell| cell.map_or(String::new(), |cell| cell.to_string()));
            let _ = writer.write_record(texts);
        }
        text += &String::from_utf8_lossy(&writer.into_inner().unwrap_or_default());
    }
    text
}

fn as_json(tables: &[Named<'_>]) -> Json {
    let row = |table: &Table, row: usize| -> Json {
        let cells = table.columns().iter().map(|column| {
            let value = serde_json::json!(cell(column, row));
            (column.name().to_string(), value)
        });
        cells.collect()
    };
    let tables = tables.iter().map(|(name, table)| {
        let rows: Json = (0..table.height()).map(|at| row(table, at)).collect();
        (name.clone(), rows)
    });
    tables.collect()
}

/// A line of a Markdown table.
fn line<S: AsRef<str>>(cells: &[S]) -> String {
    let cells = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|"));
    format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

fn as_markdown(tables: &[Named<'_>]) -> String {
    let mut text = String::new();
    for (name, table) in tables {
        let _ = writeln!(text, "**{name}**\n");
        text += &line(&header(table));
        let rule = table.columns().iter().map(|column| match column.dtype() {
            kind if kind.is_primitive_numeric() => "---:",
            _ => "---",
        });
        text += &line(&rule.collect::<Vec<_>>());
        for row in 0..table.height() {
            text += &line(&brief_row(table, row));
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
