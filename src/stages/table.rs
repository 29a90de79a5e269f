//! Tables: typed columns in, a polars data frame out, and back. NaN never passes silently.

use std::io::{Cursor, Write};

use polars::prelude::{
    Column, CsvWriter, DataFrame, NamedFrom, ParquetReader, ParquetWriter, SerReader, SerWriter,
    Series,
};

use super::StageError;

type Result<T> = std::result::Result<T, StageError>;

/// A text column.
pub(super) fn text<S: AsRef<str>>(name: &str, values: impl IntoIterator<Item = S>) -> Column {
    let values: Vec<S> = values.into_iter().collect();
    let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
    Series::new(name.into(), values).into()
}

/// A float64 column.
pub(super) fn numbers(name: &str, values: Vec<f64>) -> Column {
    Series::new(name.into(), values).into()
}

/// A float64 column with gaps.
pub(super) fn optional_numbers(name: &str, values: Vec<Option<f64>>) -> Column {
    Series::new(name.into(), values).into()
}

/// An int64 column.
pub(super) fn integers(name: &str, values: impl IntoIterator<Item = usize>) -> Column {
    let values: Vec<i64> = values.into_iter().map(|v| v as i64).collect();
    Series::new(name.into(), values).into()
}

/// An int64 column with gaps.
pub(super) fn optional_integers(
    name: &str,
    values: impl IntoIterator<Item = Option<u64>>,
) -> Column {
    let values: Vec<Option<i64>> = values.into_iter().map(|v| v.map(|v| v as i64)).collect();
    Series::new(name.into(), values).into()
}

/// A true/false column.
pub(super) fn flags(name: &str, values: Vec<bool>) -> Column {
    Series::new(name.into(), values).into()
}

/// A data frame of columns of one length, in which no number is NaN or infinite.
pub(super) fn frame(columns: Vec<Column>) -> Result<DataFrame> {
    let height = columns.first().map_or(0, Column::len);
    let table = DataFrame::new(height, columns)?;
    for column in table.columns() {
        if let Ok(values) = column.f64()
            && let Some(row) = values
                .iter()
                .position(|v| v.is_some_and(|v| !v.is_finite()))
        {
            return Err(StageError::Data(format!(
                "column `{}` is not finite in row {row}; nothing was saved",
                column.name()
            )));
        }
    }
    Ok(table)
}

/// The text column of that name; null is the empty text.
///
/// # Errors
/// [`StageError::Internal`] when there is no such column.
pub fn read_text(table: &DataFrame, name: &str) -> Result<Vec<String>> {
    let column = table.column(name)?.str()?;
    Ok(column
        .iter()
        .map(|v| v.unwrap_or_default().to_string())
        .collect())
}

/// The float64 column of that name, without gaps.
///
/// # Errors
/// [`StageError::Internal`] when there is no such column, or it has gaps.
pub fn read_numbers(table: &DataFrame, name: &str) -> Result<Vec<f64>> {
    let values: Vec<f64> = table.column(name)?.f64()?.iter().flatten().collect();
    if values.len() == table.height() {
        Ok(values)
    } else {
        Err(StageError::Internal(format!("column `{name}` has gaps")))
    }
}

/// The int64 column of that name.
pub(super) fn read_integers(table: &DataFrame, name: &str) -> Result<Vec<Option<i64>>> {
    Ok(table.column(name)?.i64()?.iter().collect())
}

/// The true/false column of that name, without gaps.
pub(super) fn read_flags(table: &DataFrame, name: &str) -> Result<Vec<bool>> {
    Ok(table
        .column(name)?
        .bool()?
        .iter()
        .map(|v| v.unwrap_or(false))
        .collect())
}

/// Writes the table as Parquet.
///
/// # Errors
/// [`StageError::Internal`] when polars cannot write it; the writer's own errors are among those.
pub fn write_parquet(table: &DataFrame, writer: impl Write) -> Result<()> {
    ParquetWriter::new(writer).finish(&mut table.clone())?;
    Ok(())
}

/// Writes the table as CSV with a header.
///
/// # Errors
/// As [`write_parquet`].
pub fn write_csv(table: &DataFrame, writer: impl Write) -> Result<()> {
    CsvWriter::new(writer).finish(&mut table.clone())?;
    Ok(())
}

/// Reads what [`write_parquet`] wrote.
///
/// # Errors
/// [`StageError::Internal`] for anything else.
pub fn read_parquet(bytes: Vec<u8>) -> Result<DataFrame> {
    Ok(ParquetReader::new(Cursor::new(bytes)).finish()?)
}

/// Tables of the same columns, one below the other.
pub(super) fn stacked(tables: Vec<DataFrame>) -> Result<DataFrame> {
    let mut tables = tables.into_iter();
    let mut all = tables.next().unwrap_or_default();
    for table in tables {
        all.vstack_mut(&table)?;
    }
    Ok(all)
}
