//! Parquet, as data sets of the hub are stored: columns of texts, numbers and truth values.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use polars::prelude::{AnyValue, ArrowDataType, DataFrame, ParquetReader, PolarsResult, SerReader};
use serde_json::{Map, Value};

use super::collect::Collector;
use super::error::{quoted, quoted_list};
use super::json_text::mark;
use super::read_jsonl::NAMES;

/// Rows that a file may have; one of few bytes can say that it has any number.
const MOST_ROWS: usize = 4 << 20;

/// Reads every row of a file's content. Lines are rows here, from 1.
pub(super) fn read(content: &[u8], collector: &mut Collector) {
    match whole_or_error(|| columns(content)) {
        Ok((height, _, _)) if height > MOST_ROWS => {
            let message = format!("the file has {height} rows; expected {MOST_ROWS} at most");
            collector.report_file(message);
        }
        Ok((_, read, left)) => read_columns(content, read, &left, collector),
        Err(why) => report_damaged(&why, collector),
    }
}

fn report_damaged(why: &str, collector: &mut Collector) {
    collector.report_file(format!(
        "cannot read it as Parquet: {why}; get the file again, or check that it is one"
    ));
}

/// How many rows there are, the columns that can be read, and the others.
fn columns(content: &[u8]) -> PolarsResult<(usize, Vec<String>, Vec<String>)> {
    let mut reader = ParquetReader::new(Cursor::new(content));
    let schema = reader.schema()?;
    let columns = schema.iter_values();
    let (read, left): (Vec<_>, Vec<_>) = columns.partition(|field| is_plain(field.dtype()));
    let names = |fields: Vec<&polars::prelude::ArrowField>| -> Vec<String> {
        fields.iter().map(|field| field.name.to_string()).collect()
    };
    let (read, left) = (names(read), names(left));
    Ok((reader.num_rows()?, read, left))
}

fn is_plain(dtype: &ArrowDataType) -> bool {
    use ArrowDataType as T;
    matches!(
        dtype,
        T::Null
            | T::Boolean
            | T::Int32
            | T::Int64
            | T::UInt32
            | T::UInt64
            | T::Float32
            | T::Float64
            | T::Utf8
            | T::LargeUtf8
            | T::Utf8View
    )
}

fn read_columns(content: &[u8], read: Vec<String>, left: &[String], collector: &mut Collector) {
    let names = collector.names(NAMES);
    let problems_before = collector.problems.len();
    let is_said = collector.columns.said().map(|(_, said)| said.is_some());
    let is_needed = [!collector.columns.makes_ids(), true, is_said[2], is_said[3]];
    let hints = ["", collector.hint(), "", ""];
    let needed = names.iter().zip(is_needed).zip(hints);
    for ((wanted, _), hint) in needed.filter(|((_, needed), _)| *needed) {
        if let Some(name) = wanted.iter().find(|name| left.contains(name)) {
            let name = quoted(name);
            collector.report_file(format!(
                "column {name} is of a kind that is not read (lists, structures, dates, categories, bytes, small integers); expected text (write the column anew as text)"
            ));
        } else if !wanted.iter().any(|name| read.contains(name)) {
            collector.report_file(format!(
                "there is no column {}; expected one of {} (columns found, separated by commas: {}){hint}",
                quoted(wanted.first().map_or("", |name| name)),
                quoted_list(wanted),
                quoted_list(&read)
            ));
        }
    }
    if collector.problems.len() > problems_before {
        return;
    }
    if !left.is_empty() {
        let left = quoted_list(left);
        collector.note(format!(
            "columns of the file that hold lists, structures, dates, categories, bytes or small integers are left out: {left}"
        ));
    }
    let reader = || ParquetReader::new(Cursor::new(content)).with_columns(Some(read));
    match whole_or_error(|| reader().finish()) {
        Ok(frame) => match whole_or_error(AssertUnwindSafe(|| read_frame(&frame, collector))) {
            Ok(()) => {}
            Err(why) => report_damaged(&why, collector),
        },
        Err(why) => report_damaged(&why, collector),
    }
}

fn read_frame(frame: &DataFrame, collector: &mut Collector) -> PolarsResult<()> {
    let names = collector.names(NAMES);
    for row in 0..frame.height() {
        let mut fields = Map::new();
        for column in frame.columns() {
            let found = column.get(row)?;
            collector.is_marked |= is_no_number(&found);
            fields.insert(column.name().to_string(), value(&found));
        }
        collector.add(row + 1, fields, &names);
    }
    Ok(())
}

fn number(value: f64) -> Value {
    match value.is_finite() {
        true => Value::from(value),
        false => mark(value),
    }
}

fn is_no_number(value: &AnyValue<'_>) -> bool {
    match value {
        AnyValue::Float32(value) => !value.is_finite(),
        AnyValue::Float64(value) => !value.is_finite(),
        _ => false,
    }
}

/// A value as JSON has it.
fn value(value: &AnyValue<'_>) -> Value {
    match value {
        AnyValue::Boolean(value) => Value::from(*value),
        AnyValue::Int32(value) => Value::from(*value),
        AnyValue::Int64(value) => Value::from(*value),
        AnyValue::UInt32(value) => Value::from(*value),
        AnyValue::UInt64(value) => Value::from(*value),
        AnyValue::Float32(value) => number(f64::from(*value)),
        AnyValue::Float64(value) => number(*value),
        AnyValue::String(value) => Value::from(*value),
        AnyValue::StringOwned(value) => Value::from(value.as_str()),
        _ => Value::Null,
    }
}

/// Has the library read a file. It panics at some that are damaged, and that is no more than an error here.
fn whole_or_error<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_panic) => Err("it is damaged, or no Parquet file".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use polars::prelude::{IntoColumn, NamedFrom, ParquetWriter, Series};

    use super::super::{Columns, PromptSet};
    use super::*;

    fn file(texts: &[Option<&str>]) -> Vec<u8> {
        let ids: Vec<i64> = (1..).take(texts.len()).collect();
        let scores = vec![f64::NAN; texts.len()];
        let columns = vec![
            Series::new("goal".into(), texts).into_column(),
            Series::new("Index".into(), ids).into_column(),
            Series::new("score".into(), scores).into_column(),
        ];
        let mut frame = DataFrame::new(texts.len(), columns).unwrap();
        let mut bytes = Vec::new();
        ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
        bytes
    }

    fn goal() -> Columns {
        Columns {
            prompt: Some("goal".to_string()),
            id: Some("Index".to_string()),
            ..Columns::default()
        }
    }

    fn problem(content: &[u8], columns: &Columns) -> String {
        let read = PromptSet::read_as(Path::new("p.parquet"), content, columns);
        read.unwrap_err().to_string()
    }

    #[test]
    fn rows_give_the_content_of_the_lines_that_say_the_same() {
        let content = file(&[Some("Is it far?"), Some("Où ?")]);
        let set = PromptSet::read_as(Path::new("p.parquet"), &content, &goal()).unwrap();
        let lines = "{\"id\": 1, \"prompt\": \"Is it far?\", \"score\": null}\n{\"id\": 2, \"prompt\": \"Où ?\", \"score\": null}";
        let lines = PromptSet::parse_jsonl(Path::new("p.jsonl"), lines).unwrap();
        assert_eq!(set.content_hash(), lines.content_hash());
    }

    #[test]
    fn problems_name_row_and_field() {
        let content = file(&[Some("a"), None, Some(" ")]);
        let told = problem(&content, &goal());
        let told: Vec<&str> = told.lines().collect();
        assert_eq!(told.len(), 2, "{told:#?}");
        assert!(
            told[0].starts_with("p.parquet: row 2: missing `goal`"),
            "{told:#?}"
        );
        assert!(
            told[1].starts_with("p.parquet: row 3: empty `goal`"),
            "{told:#?}"
        );
        let told = problem(&content, &Columns::default());
        assert!(
            told.contains("p.parquet: there is no column `id`"),
            "{told}"
        );
        assert!(told.contains("no column `prompt`; expected one of `prompt`, `text` (columns found, separated by commas: `goal`, `Index`, `score`)"), "{told}");
        let score = Columns {
            category: Some("score".to_string()),
            ..goal()
        };
        let told = problem(&file(&[Some("a")]), &score);
        assert!(told.contains("row 1: `score` is `NaN`"), "{told}");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let whole = file(&[Some("a"), Some("b")]);
        for content in [&b""[..], b"PAR1", b"{}", &whole[..whole.len() / 2]] {
            let told = problem(content, &goal());
            assert!(
                told.starts_with("p.parquet: cannot read it as Parquet: "),
                "{told}"
            );
        }
    }
}
