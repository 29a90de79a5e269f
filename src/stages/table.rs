//! Tables: typed columns in, a polars data frame out, and back. NaN never passes silently.

use std::fmt;
use std::fs::File;
use std::io::{Cursor, Write};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use polars::prelude::{
    AnyValue, Column, CsvWriter, DataFrame, GroupsIndicator, IntoColumn, NamedFrom, ParquetReader,
    ParquetWriter, PolarsResult, SerReader, SerWriter, Series, UInt32Chunked,
};

use crate::stats::Interval;

use super::StageError;
use super::columns::TEXTS;

type Result<T> = std::result::Result<T, StageError>;

/// A data frame made of rows, column by column.
pub(crate) struct Rows<'a, R> {
    rows: &'a [R],
    columns: Vec<Column>,
}

impl<'a, R> Rows<'a, R> {
    pub(crate) fn of(rows: &'a [R]) -> Self {
        let columns = Vec::new();
        Rows { rows, columns }
    }

    fn with(mut self, column: Column) -> Self {
        self.columns.push(column);
        self
    }

    pub(crate) fn rows(&self) -> &'a [R] {
        self.rows
    }

    /// Adds a text column.
    pub(crate) fn text<S: AsRef<str>>(self, name: &str, of: impl Fn(&'a R) -> S) -> Self {
        let values: Vec<S> = self.rows.iter().map(of).collect();
        let values: Vec<&str> = values.iter().map(AsRef::as_ref).collect();
        self.with(Series::new(name.into(), values).into())
    }

    /// Adds an int64 column, with gaps where there is none.
    pub(crate) fn integer<N: Into<Option<i64>>>(self, name: &str, of: impl Fn(&'a R) -> N) -> Self {
        let values: Vec<Option<i64>> = self.rows.iter().map(|row| of(row).into()).collect();
        self.with(Series::new(name.into(), values).into())
    }

    /// Adds a float64 column, with gaps where there is none.
    pub(crate) fn number<N: Into<Option<f64>>>(self, name: &str, of: impl Fn(&'a R) -> N) -> Self {
        let values: Vec<Option<f64>> = self.rows.iter().map(|row| of(row).into()).collect();
        self.with(Series::new(name.into(), values).into())
    }

    /// Adds a true/false column, with gaps where there is none.
    pub(crate) fn flag<N: Into<Option<bool>>>(self, name: &str, of: impl Fn(&'a R) -> N) -> Self {
        let values: Vec<Option<bool>> = self.rows.iter().map(|row| of(row).into()).collect();
        self.with(Series::new(name.into(), values).into())
    }

    /// Adds the columns of both ends of an interval.
    pub(crate) fn ends(
        self,
        [low, high]: [&str; 2],
        of: impl Fn(&'a R) -> Option<Interval>,
    ) -> Self {
        self.number(low, |row| Some(of(row)?.low))
            .number(high, |row| Some(of(row)?.high))
    }

    /// As [`frame`].
    pub(crate) fn frame(self) -> Result<DataFrame> {
        frame(self.columns)
    }
}

/// A cell; nothing beyond the last.
pub(crate) fn cell(column: &Column, row: usize) -> AnyValue<'_> {
    // A column of one row may be held as its value, whose text would not live as long as the column.
    let series = column.as_materialized_series();
    series.get(row).unwrap_or(AnyValue::Null)
}

/// A cell's text; none of a gap or of another kind of value.
pub(crate) fn text_of<'a>(cell: &AnyValue<'a>) -> Option<&'a str> {
    match cell {
        AnyValue::String(text) => Some(text),
        AnyValue::Categorical(code, texts) => texts.cat_to_str(*code),
        _ => None,
    }
}

/// The rows of a table that have the same values in these columns, group by group: groups in the order of their first row, and the rows of
/// each in the table's order, so that sums over them are those over the table.
pub(crate) fn groups(table: &DataFrame, by: &[&str]) -> Result<Vec<Vec<usize>>> {
    let keys = table.select_to_vec(by)?;
    let keys = keys.iter().map(key).collect();
    let groups = table.group_by_with_series(keys, false, true)?.into_groups();
    let rows = |group: GroupsIndicator<'_>| match group {
        GroupsIndicator::Idx((_, rows)) => rows.iter().map(|&row| row as usize).collect(),
        GroupsIndicator::Slice([first, count]) => {
            (first as usize..(first + count) as usize).collect()
        }
    };
    Ok(groups.iter().map(rows).collect())
}

/// What rows are grouped by: of a column of small categories their codes, since polars makes no series of bytes unless it is built to.
fn key(column: &Column) -> Column {
    let codes: UInt32Chunked = match (column.try_cat8(), column.try_cat16()) {
        (Some(texts), _) => texts.physical().iter().map(|c| c.map(u32::from)).collect(),
        (_, Some(texts)) => texts.physical().iter().map(|c| c.map(u32::from)).collect(),
        (None, None) => return column.clone(),
    };
    codes.with_name(column.name().clone()).into_column()
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
pub(crate) fn read_text(table: &DataFrame, name: &str) -> Result<Vec<String>> {
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
pub(crate) fn read_numbers(table: &DataFrame, name: &str) -> Result<Vec<f64>> {
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

/// A table without the columns that hold texts; none where it has no such column.
pub(crate) fn without_texts(table: &DataFrame) -> Option<DataFrame> {
    let has_texts = TEXTS.iter().any(|name| table.column(name).is_ok());
    has_texts.then(|| table.drop_many(TEXTS))
}

/// Rows of a table that lie in memory at once, where it is made or read part by part.
const PART_ROWS: usize = 1 << 16;

/// A table that is made part by part.
pub(crate) trait Parts: fmt::Debug + Send + Sync {
    /// The number of rows.
    fn height(&self) -> usize;

    /// Some of the rows; the columns are the same for all.
    ///
    /// # Errors
    /// A number that is not finite; [`StageError::Internal`] when polars cannot make the table.
    fn part(&self, rows: Range<usize>) -> Result<DataFrame>;
}

impl Parts for DataFrame {
    fn height(&self) -> usize {
        DataFrame::height(self)
    }

    fn part(&self, rows: Range<usize>) -> Result<DataFrame> {
        Ok(self.slice(rows.start as i64, rows.len()))
    }
}

/// The parts of a table in order; at least one, so that a table without rows has its columns.
fn parts(table: &dyn Parts) -> impl Iterator<Item = Result<DataFrame>> {
    let height = table.height();
    let starts = (0..height.max(1)).step_by(PART_ROWS);
    starts.map(move |start| table.part(start..(start + PART_ROWS).min(height)))
}

/// Writes the table as Parquet.
///
/// # Errors
/// Those of making the parts; [`StageError::Internal`] when polars cannot write, the writer's own errors among those.
pub(crate) fn write_parquet(table: &dyn Parts, writer: impl Write) -> Result<()> {
    let mut parts = parts(table);
    let Some(first) = parts.next().transpose()? else {
        return Ok(());
    };
    let mut batches = ParquetWriter::new(writer).batched(first.schema())?;
    batches.write_batch(&first)?;
    for part in parts {
        batches.write_batch(&part?)?;
    }
    batches.finish()?;
    Ok(())
}

/// Writes the table as CSV with a header.
///
/// # Errors
/// As [`write_parquet`].
pub(crate) fn write_csv(table: &dyn Parts, mut writer: impl Write) -> Result<()> {
    for (number, part) in parts(table).enumerate() {
        CsvWriter::new(&mut writer)
            .include_header(number == 0)
            .finish(&mut part?)?;
    }
    Ok(())
}

/// Reads what [`write_parquet`] wrote.
///
/// # Errors
/// [`StageError::Internal`] for anything else.
pub(crate) fn read_parquet(bytes: Vec<u8>) -> Result<DataFrame> {
    whole_or_error(|| ParquetReader::new(Cursor::new(bytes)).finish())
}

/// How many rows a file has that [`write_parquet`] wrote, which it says at its end.
///
/// # Errors
/// As [`read_parquet`].
pub(crate) fn parquet_rows(file: File) -> Result<usize> {
    whole_or_error(|| ParquetReader::new(file).num_rows())
}

/// The same as [`read_parquet`] part by part.
///
/// # Errors
/// As [`read_parquet`], and those of `take`.
pub(crate) fn read_parquet_parts(
    bytes: Vec<u8>,
    take: &mut dyn FnMut(&DataFrame) -> Result<()>,
) -> Result<()> {
    let bytes: Arc<[u8]> = bytes.into();
    let reader = || ParquetReader::new(Cursor::new(Arc::clone(&bytes)));
    let height = whole_or_error(|| reader().num_rows())?;
    for start in (0..height.max(1)).step_by(PART_ROWS) {
        let part = whole_or_error(|| reader().with_slice(Some((start, PART_ROWS))).finish())?;
        if part.height() != PART_ROWS.min(height - start) {
            return Err(damaged());
        }
        take(&part)?;
    }
    Ok(())
}

/// Has the library read a file. It panics at some that are damaged (polars 0.55: "thrift bool field", slices out of range), and that is no
/// more than an error here.
fn whole_or_error<T>(read: impl FnOnce() -> PolarsResult<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => Ok(read?),
        Err(_panic) => Err(damaged()),
    }
}

fn damaged() -> StageError {
    StageError::Internal("it is damaged, or no Parquet file".to_string())
}

pub(super) fn whole(table: &dyn Parts) -> Result<DataFrame> {
    stacked(parts(table))
}

/// Tables of the same columns, one below the other.
pub(super) fn stacked(tables: impl IntoIterator<Item = Result<DataFrame>>) -> Result<DataFrame> {
    let mut tables = tables.into_iter();
    let mut all = tables.next().transpose()?.unwrap_or_default();
    for table in tables {
        all.vstack_mut(&table?)?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library panics at some of these, where a run's folder was damaged.
    #[test]
    fn a_damaged_file_is_read_or_refused() {
        let mut good = Vec::new();
        write_parquet(&numbered(3), &mut good).unwrap();
        let damaged = (0..good.len()).map(|at| {
            let mut bytes = good.clone();
            bytes[at] ^= 0xFF;
            bytes
        });
        let cut = (0..good.len()).map(|length| good[..length].to_vec());
        let mut refused = 0;
        for bytes in damaged.chain(cut) {
            let read = read_parquet_parts(bytes.clone(), &mut |_| Ok(()));
            refused += usize::from(read.is_err() && read_parquet(bytes).is_err());
        }
        assert!(refused > good.len(), "{refused} of {}", 2 * good.len());
    }

    fn numbered(height: usize) -> DataFrame {
        let rows: Vec<usize> = (0..height).collect();
        let gap = |row: &usize| (!row.is_multiple_of(3)).then_some(*row as i64);
        let table = Rows::of(&rows)
            .text("id", |row| format!("row {}, {row}", row % 7))
            .integer("seed", gap)
            .number("score", |row| *row as f64 / 3.0)
            .flag("refused", |row| row.is_multiple_of(2));
        table.frame().unwrap()
    }

    /// Whatever falls on a boundary between parts: the files are those of the table in one piece.
    #[test]
    fn a_table_in_parts_is_the_table_in_one_piece() {
        for height in [
            0,
            1,
            PART_ROWS - 1,
            PART_ROWS,
            PART_ROWS + 1,
            2 * PART_ROWS + 5,
        ] {
            let table = numbered(height);
            let (mut csv, mut in_one_piece) = (Vec::new(), Vec::new());
            write_csv(&table, &mut csv).unwrap();
            let mut writer = CsvWriter::new(&mut in_one_piece);
            writer.finish(&mut table.clone()).unwrap();
            assert!(csv == in_one_piece, "{height} rows as CSV");

            let mut parquet = Vec::new();
            write_parquet(&table, &mut parquet).unwrap();
            assert!(
                read_parquet(parquet.clone())
                    .unwrap()
                    .equals_missing(&table)
            );
            let mut parts = Vec::new();
            let keep = &mut |part: &DataFrame| {
                parts.push(Ok(part.clone()));
                Ok(())
            };
            read_parquet_parts(parquet, keep).unwrap();
            assert!(stacked(parts).unwrap().equals_missing(&table), "{height}");
        }
    }

    #[test]
    fn groups_stand_in_the_order_of_their_rows() {
        let rows = [
            ("b", Some(1), 0.0),
            ("a", None, 1.0),
            ("b", Some(1), 0.0),
            ("b", None, 2.0),
            ("a", None, 1.0),
        ];
        let table = Rows::of(&rows)
            .text("set", |row| row.0)
            .integer("seed", |row| row.1)
            .number("alpha", |row| row.2);
        let table = table.frame().unwrap();
        let of = |by: &[&str]| groups(&table, by).unwrap();
        assert_eq!(of(&["set"]), [vec![0, 2, 3], vec![1, 4]]);
        assert_eq!(of(&["seed", "set"]), [vec![0, 2], vec![1, 4], vec![3]]);
        assert_eq!(of(&["alpha"]), [vec![0, 2], vec![1, 4], vec![3]]);
        assert!(groups(&table, &["nothing"]).is_err());
    }

    /// Files stay the same whichever way a column was made.
    #[test]
    fn a_column_made_of_rows_is_the_column_made_of_values() {
        let rows = [(1.5, 2, true, "a"), (-0.5, 3, false, "b")];
        let of_rows = Rows::of(&rows)
            .number("number", |row| row.0)
            .integer("integer", |row| row.1)
            .flag("flag", |row| row.2)
            .text("text", |row| row.3);
        let of_values = frame(vec![
            Column::new("number".into(), [1.5, -0.5]),
            Column::new("integer".into(), [2_i64, 3]),
            Column::new("flag".into(), [true, false]),
            Column::new("text".into(), ["a", "b"]),
        ]);
        let written = |table: DataFrame| {
            let (mut csv, mut parquet) = (Vec::new(), Vec::new());
            write_csv(&table, &mut csv).unwrap();
            write_parquet(&table, &mut parquet).unwrap();
            (csv, parquet)
        };
        assert!(written(of_rows.frame().unwrap()) == written(of_values.unwrap()));
    }
}
