//! A published table of statistics beside the same numbers of this study's summaries: which of them is it, to the digit?

use polars::prelude::DataFrame;

use crate::stages::table::{self, Rows};
use crate::stages::{Inputs, Name, Output, StageError};

use super::read::{Sheet, text_in};
use super::rows;
use super::shapes::{self, Statistic};
use super::{File, Import, name_of, text_of};

/// A published number, and where a summary has it.
#[derive(Clone, Debug)]
struct Number {
    model: String,
    alpha: Option<f64>,
    /// None where the table is blank: no α serves.
    value: Option<f64>,
    of: Statistic,
    /// The same in each of the study's summaries, `None` where it is blank there.
    found: Vec<Option<f64>>,
}

/// The main table: every published number with that of each summary. Findings say which summary each file is of.
pub(super) fn output(
    import: &Import,
    inputs: &Inputs,
    is_check: bool,
) -> Result<Output, StageError> {
    let mut read = Vec::new();
    for file in &import.files.named {
        read.push((name_of(file), numbers(import, file, inputs)?));
    }
    if is_check {
        return Ok(Output::default());
    }
    let mut findings = Vec::new();
    for (file, numbers) in &mut read {
        for name in import.summaries.iter() {
            let tables = inputs.stage(name)?.tables()?;
            for number in &mut *numbers {
                number.found.push(look_up(number, &tables)?);
            }
            findings.push(verdict(file, name, numbers, &tables)?);
        }
    }
    let rows = read
        .iter()
        .flat_map(|(file, numbers)| numbers.iter().map(move |n| (file, n)));
    let rows: Vec<(&String, &Number)> = rows.collect();
    let table = Rows::of(&rows)
        .text("file", |(file, _)| file)
        .text("model", |(_, number)| &number.model)
        .text("source", |(_, number)| number.of.source)
        .number("alpha", |(_, number)| number.alpha)
        .text("quantity", |(_, number)| number.of.column)
        .number("published", |(_, number)| number.value);
    let summaries = import.summaries.iter().enumerate();
    let table = summaries.fold(table, |table, (place, name)| {
        table.number(&name.value, move |(_, number)| number.found[place])
    });
    Ok(Output {
        tables: vec![(String::new(), table.frame()?)],
        findings,
        ..Output::default()
    })
}

/// Whether the numbers of a file are those of the summary that they were looked up in last.
fn verdict(
    file: &str,
    summary: &Name,
    numbers: &[Number],
    tables: &[(String, DataFrame)],
) -> Result<String, StageError> {
    let mut differing = 0;
    let mut largest = 0.0_f64;
    for number in numbers {
        match (number.value, number.found.last().copied().flatten()) {
            (None, None) => {}
            (Some(published), Some(found)) => {
                let difference = (published - found).abs();
                largest = largest.max(difference);
                differing += usize::from(difference > number.of.tolerance);
            }
            _ => differing += 1,
        }
    }
    let has_random = numbers.iter().any(|number| number.of.source == "random");
    let seeds = match random_seeds(tables)? {
        Some(seeds) if has_random => format!(", {seeds} random directions"),
        _ => String::new(),
    };
    let (summary, all) = (format!("`{summary}`{seeds}"), numbers.len());
    Ok(match differing {
        0 => format!("all {all} numbers of `{file}` are those of {summary}, to the digits written"),
        _ => format!(
            "{differing} of {all} numbers of `{file}` are not those of {summary}: the largest difference is {largest:.4}"
        ),
    })
}

fn random_seeds(tables: &[(String, DataFrame)]) -> Result<Option<i64>, StageError> {
    let Some((_, controls)) = tables.iter().find(|(name, _)| name == "controls") else {
        return Ok(None);
    };
    let sources = table::read_text(controls, "source")?;
    let seeds = table::read_integers(controls, "seeds")?;
    let random = sources.iter().position(|source| source == "random");
    Ok(random.and_then(|row| seeds[row]))
}

/// The number of a summary, `None` where it is blank there.
fn look_up(number: &Number, tables: &[(String, DataFrame)]) -> Result<Option<f64>, StageError> {
    let Some((_, rows)) = tables.iter().find(|(name, _)| name == number.of.table) else {
        return Ok(None);
    };
    let models = table::read_text(rows, "model")?;
    let sources = match rows.column("source") {
        Ok(_) => table::read_text(rows, "source")?,
        Err(_) => vec![number.of.source.to_string(); rows.height()],
    };
    let alphas = number.alpha.map(|_| table::read_numbers(rows, "alpha"));
    let alphas = alphas.transpose()?;
    let row = (0..rows.height()).find(|&row| {
        models[row] == number.model
            && sources[row] == number.of.source
            && alphas.as_ref().map(|alphas| alphas[row]) == number.alpha
    });
    let Some(row) = row else { return Ok(None) };
    Ok(rows.column(number.of.column)?.f64()?.get(row))
}

/// Every number of a file that a summary also has.
fn numbers(import: &Import, file: &File, inputs: &Inputs) -> Result<Vec<Number>, StageError> {
    let name = name_of(file);
    let content = inputs
        .files
        .get(&file.path.value)
        .ok_or_else(|| StageError::Internal(format!("file `{name}` was not provided")))?;
    let (sheet, records) = Sheet::read(&name, text_of(&name, content)?)?;
    let headings = sheet.header.iter().map(str::trim).enumerate();
    let columns: Vec<(usize, Statistic)> = headings
        .filter_map(|(place, name)| Some((place, shapes::statistic(name)?)))
        .collect();
    if columns.is_empty() {
        let found = sheet.columns();
        return Err(StageError::Data(format!(
            "{name}:1: no table of statistics that is known; expected rates over seeds (`edge_mean_holdout`, …), a summary of controls (`holdout_gen_gap_mean`, …) or operating points (`best_gap`, …), found the columns `{found}`"
        )));
    }
    let [run, model, alpha] = ["run", "model", "alpha"].map(|name| sheet.column(&[name]));
    let mut numbers = Vec::new();
    for record in records {
        let record = record?;
        let text = |place: usize| text_in(&record, place);
        let number = |place: usize| match text(place) {
            "" => Ok(None),
            filled => rows::number(filled)
                .map(Some)
                .map_err(|expected| sheet.wrong(&record, place, expected)),
        };
        if let (Some(run), Some(layer)) = (run, import.study.layer)
            && !shapes::is_of_layer(text(run), layer)
        {
            continue;
        }
        for (place, statistic) in &columns {
            let alpha = alpha.filter(|_| statistic.table == "controls");
            let alpha = alpha.map(number).transpose()?.flatten();
            numbers.push(Number {
                model: model.map_or(shapes::model_in(&name), text).to_string(),
                alpha: alpha.map(|alpha| alpha + 0.0),
                value: number(*place)?,
                of: *statistic,
                found: Vec::new(),
            });
        }
    }
    Ok(numbers)
}
