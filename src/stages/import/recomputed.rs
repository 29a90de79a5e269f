//! A published table of statistics beside the same numbers of this study's summaries: which of them is it, to the digit?
//!
//! Three tables are known by their columns: rates over seeds by α (the study's Pareto tables), one row per model about the controls, and
//! operating points of several runs.

use polars::prelude::DataFrame;

use crate::stages::{Inputs, Name, Output, StageError, table};

use super::{File, Import, name_of};

/// Numbers written in full agree to rounding of sums of a few terms of size 1 or less.
const ROUNDING: f64 = 1e-12;
/// Those of the operating points are written with four decimals.
const FOUR_DECIMALS: f64 = 0.5e-4 + 1e-9;

/// A published number, and where a summary has it.
#[derive(Clone, Debug, PartialEq)]
struct Number {
    model: String,
    source: &'static str,
    alpha: Option<f64>,
    table: &'static str,
    column: String,
    /// None where the table is blank: no α serves.
    value: Option<f64>,
    tolerance: f64,
}

/// Columns of the table about the controls, without their source: table and column of a summary.
const CONTROLS: [(&str, &str, &str); 7] = [
    ("gen_gap_mean", "generalisation", "gap_mean"),
    ("gen_gap_max", "generalisation", "gap_max"),
    (
        "best_alpha_by_max_gap",
        "operating_points",
        "alpha_at_largest_gap",
    ),
    ("best_gap", "operating_points", "largest_gap"),
    (
        "best_edge_holdout",
        "operating_points",
        "edge_rate_at_largest_gap",
    ),
    ("best_edge", "operating_points", "edge_rate_at_largest_gap"),
    (
        "best_harmful",
        "operating_points",
        "harmful_rate_at_largest_gap",
    ),
];

/// Columns of the table of operating points: the column of a summary.
const POINTS: [(&str, &str); 11] = [
    ("gap_at_alpha0", "gap_at_zero"),
    ("alpha_edge<=target", "alpha_at_edge_target"),
    ("edge_rate@alpha_edge", "edge_rate_at_edge_target"),
    ("harm_rate@alpha_edge", "harmful_rate_at_edge_target"),
    ("alpha_harm<=target", "alpha_at_harmful_target"),
    ("edge_rate@alpha_harm", "edge_rate_at_harmful_target"),
    ("harm_rate@alpha_harm", "harmful_rate_at_harmful_target"),
    ("best_alpha_by_max_gap", "alpha_at_largest_gap"),
    ("best_gap", "largest_gap"),
    ("best_edge_rate", "edge_rate_at_largest_gap"),
    ("best_harm_rate", "harmful_rate_at_largest_gap"),
];

/// The main table: every published number with that of each summary. Findings say which summary each file is of.
pub(super) fn output(
    import: &Import,
    inputs: &Inputs,
    is_check: bool,
) -> Result<Output, StageError> {
    let mut read = Vec::new();
    for file in &import.files.named {
        read.push((file, numbers(import, file, inputs)?));
    }
    if is_check {
        return Ok(Output::default());
    }
    let mut output = Output::default();
    let mut columns: Vec<Vec<Option<f64>>> = vec![Vec::new(); import.summaries.len()];
    for (file, numbers) in &read {
        for (name, column) in import.summaries.iter().zip(&mut columns) {
            let tables = inputs.stage(name)?.tables()?;
            let found = numbers.iter().map(|number| look_up(number, &tables));
            let found = found.collect::<Result<Vec<_>, _>>()?;
            output
                .findings
                .push(verdict(&name_of(file), name, numbers, &found, &tables)?);
            column.extend(found);
        }
    }
    let all = || {
        read.iter()
            .flat_map(|(file, numbers)| numbers.iter().map(move |n| (file, n)))
    };
    let mut frame = vec![
        table::text("file", all().map(|(file, _)| name_of(file))),
        table::text("model", all().map(|(_, n)| &n.model)),
        table::text("source", all().map(|(_, n)| n.source)),
        table::optional_numbers("alpha", all().map(|(_, n)| n.alpha).collect()),
        table::text("quantity", all().map(|(_, n)| &n.column)),
        table::optional_numbers("published", all().map(|(_, n)| n.value).collect()),
    ];
    for (name, values) in import.summaries.iter().zip(columns) {
        frame.push(table::optional_numbers(&name.value, values));
    }
    output.tables.push((String::new(), table::frame(frame)?));
    Ok(output)
}

/// One sentence on a file and a summary.
fn verdict(
    file: &str,
    summary: &Name,
    numbers: &[Number],
    found: &[Option<f64>],
    tables: &[(String, DataFrame)],
) -> Result<String, StageError> {
    let mut differing = 0;
    let mut largest = 0.0_f64;
    for (number, found) in numbers.iter().zip(found) {
        match (number.value, found) {
            (None, None) => {}
            (Some(published), Some(found)) => {
                let difference = (published - found).abs();
                largest = largest.max(difference);
                differing += usize::from(difference > number.tolerance);
            }
            _ => differing += 1,
        }
    }
    let has_random = numbers.iter().any(|number| number.source == "random");
    let seeds = match random_seeds(tables)? {
        Some(seeds) if has_random => format!(", {seeds} random directions"),
        _ => String::new(),
    };
    let summary = format!("`{}`{seeds}", summary.value);
    Ok(match differing {
        0 => format!(
            "all {} numbers of `{file}` are those of {summary}, to the digits written",
            numbers.len()
        ),
        _ => format!(
            "{differing} of {} numbers of `{file}` are not those of {summary}: the largest difference is {largest:.4}",
            numbers.len()
        ),
    })
}

fn random_seeds(tables: &[(String, DataFrame)]) -> Result<Option<i64>, StageError> {
    let Some((_, controls)) = tables.iter().find(|(name, _)| name == "controls") else {
        return Ok(None);
    };
    let sources = table::read_text(controls, "source")?;
    let seeds = table::read_integers(controls, "seeds")?;
    let mut random = sources.iter().zip(seeds);
    Ok(random
        .find(|(source, _)| *source == "random")
        .and_then(|(_, n)| n))
}

/// The number of a summary, `None` where it is blank there.
fn look_up(number: &Number, tables: &[(String, DataFrame)]) -> Result<Option<f64>, StageError> {
    let Some((_, rows)) = tables.iter().find(|(name, _)| name == number.table) else {
        return Ok(None);
    };
    let models = table::read_text(rows, "model")?;
    let sources = match rows.column("source") {
        Ok(_) => table::read_text(rows, "source")?,
        Err(_) => vec![number.source.to_string(); rows.height()],
    };
    let alphas = match number.alpha {
        Some(_) => table::read_numbers(rows, "alpha")?
            .into_iter()
            .map(Some)
            .collect(),
        None => vec![None; rows.height()],
    };
    let row = (0..rows.height()).find(|&row| {
        models[row] == number.model && sources[row] == number.source && alphas[row] == number.alpha
    });
    let Some(row) = row else { return Ok(None) };
    Ok(rows.column(&number.column)?.f64()?.get(row))
}

/// Every number of a file that a summary also has.
fn numbers(import: &Import, file: &File, inputs: &Inputs) -> Result<Vec<Number>, StageError> {
    let name = name_of(file);
    let bytes = inputs.files.get(&file.path.value);
    let bytes = bytes.map_or(&[][..], |content| &content.bytes);
    let wrong = |line: u64, message: String| StageError::Data(format!("{name}:{line}: {message}"));
    let mut reader = csv::Reader::from_reader(bytes);
    let unreadable = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        wrong(line, format!("the row is not CSV: {error}"))
    };
    let header = reader.headers().map_err(unreadable)?.clone();
    let columns = columns(&name, &header);
    if columns.is_empty() {
        let known = header.iter().collect::<Vec<_>>().join("`, `");
        return Err(wrong(
            1,
            format!(
                "no table of statistics that is known; expected rates over seeds (`edge_mean_holdout`, …), a summary of controls (`holdout_gen_gap_mean`, …) or operating points (`best_gap`, …), found the columns `{known}`"
            ),
        ));
    }
    let mut numbers = Vec::new();
    for record in reader.records() {
        let record = record.map_err(unreadable)?;
        let line = record.position().map_or(0, csv::Position::line);
        let text = |wanted: &str| {
            let at = header.iter().position(|name| name == wanted)?;
            Some(record.get(at)?.trim())
        };
        let of_layer = |run: &str, layer: u64| run.starts_with(&format!("layer{layer}_"));
        if let (Some(run), Some(layer)) = (text("run"), import.study.layer)
            && !of_layer(run, layer)
        {
            continue;
        }
        let parsed = |column: &str| match text(column) {
            None | Some("") => Ok(None),
            Some(text) => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(Some(number)),
                _ => Err(wrong(
                    line,
                    format!("column `{column}` is `{text}`; expected a finite number"),
                )),
            },
        };
        for (column, number) in &columns {
            let is_by_alpha = number.table == "controls";
            let model = text("model").unwrap_or(&number.model).to_string();
            numbers.push(Number {
                alpha: match is_by_alpha {
                    true => parsed("alpha")?.map(|alpha| alpha + 0.0),
                    false => None,
                },
                value: parsed(column)?,
                model,
                ..number.clone()
            });
        }
    }
    Ok(numbers)
}

/// The columns that are known, each with what it holds.
fn columns(name: &str, header: &csv::StringRecord) -> Vec<(String, Number)> {
    let blank = |source: &'static str, table: &'static str, column: &str, tolerance: f64| Number {
        model: model_of(name),
        source,
        alpha: None,
        table,
        column: column.to_string(),
        value: None,
        tolerance,
    };
    let is_points = header.iter().any(|name| name == "gap_at_alpha0");
    let known = |column: &str| -> Option<Number> {
        if is_points {
            let (_, ours) = POINTS.iter().find(|(theirs, _)| *theirs == column)?;
            return Some(blank("steer", "operating_points", ours, FOUR_DECIMALS));
        }
        for source in ["holdout", "random"] {
            if let Some(rest) = column
                .strip_prefix(source)
                .and_then(|r| r.strip_prefix('_'))
            {
                let (_, table, ours) = CONTROLS.iter().find(|(theirs, ..)| *theirs == rest)?;
                return Some(blank(source, table, ours, ROUNDING));
            }
            if let Some(rest) = column
                .strip_suffix(source)
                .and_then(|r| r.strip_suffix('_'))
            {
                let ours = rest.replace("harm_", "harmful_");
                return Some(blank(source, "controls", &ours, ROUNDING));
            }
        }
        None
    };
    let found = header
        .iter()
        .map(|column| (column.to_string(), known(column)));
    found.filter_map(|(column, n)| Some((column, n?))).collect()
}

/// The model in the name of a file that has no such column: `…_inst_controls_pareto.csv`.
fn model_of(name: &str) -> String {
    let stem = name.split("_controls_").next().unwrap_or_default();
    stem.rsplit('_').next().unwrap_or_default().to_string()
}
