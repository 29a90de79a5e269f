//! A table as a reader needs it: named columns of text, numbers or flags, from a run's Parquet or from any CSV.
//!
//! It is a data frame of few kinds of columns. Texts are categories, so that what occurs many times is held once: a sweep has hundreds of
//! thousands of rows.

use std::fmt;
use std::path::Path;

use polars::prelude::{
    AnyValue, BooleanChunked, CategoricalPhysical, Categories, Column, DataFrame, DataType,
    PlSmallStr, PolarsResult,
};
use serde::Serialize;

use crate::stages::{self, text_of};

use super::ReportError;

/// A table of a run, or of a file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub(crate) frame: DataFrame,
}

/// What a cell holds that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Cell<'a> {
    Text(&'a str),
    /// Whole ones included.
    Number(f64),
    Flag(bool),
}

impl Table {
    pub(crate) fn new(columns: Vec<Column>) -> PolarsResult<Self> {
        let frame = DataFrame::new_infer_height(columns)?;
        Ok(Table { frame })
    }

    /// Of a data frame of any columns.
    ///
    /// # Errors
    /// Those of polars.
    pub(crate) fn of(frame: &DataFrame) -> PolarsResult<Self> {
        let mut table = Table::default();
        table.append(frame)?;
        Ok(table)
    }

    /// Adds the rows of a data frame of the same columns; an empty table takes its columns.
    ///
    /// # Errors
    /// Those of polars, where a column is of another type.
    pub(crate) fn append(&mut self, rows: &DataFrame) -> PolarsResult<()> {
        let mut columns = std::mem::take(&mut self.frame).into_columns();
        if columns.is_empty() {
            let empty = |column: &Column| {
                let name = column.name().clone();
                Column::new_empty(name, &widths(column.dtype())[0])
            };
            columns = rows.columns().iter().map(empty).collect();
        }
        for (column, more) in columns.iter_mut().zip(rows.columns()) {
            append(column, more)?;
        }
        *self = Table::new(columns)?;
        Ok(())
    }

    /// Text, numbers or flags each.
    pub fn columns(&self) -> &[Column] {
        self.frame.columns()
    }

    pub(crate) fn height(&self) -> usize {
        self.frame.height()
    }

    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.frame.column(name).ok()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.column(name).is_some()
    }

    /// The texts of a column by row; empty where there is a gap, or no such column of texts.
    pub(crate) fn text_at<'a>(&'a self, name: &str) -> impl Fn(usize) -> &'a str + use<'a> {
        let column = self.column(name);
        move |row| match column.and_then(|column| cell(column, row)) {
            Some(Cell::Text(text)) => text,
            _ => "",
        }
    }

    /// The rows that have this text in a column.
    pub(crate) fn only(&self, column: &str, text: &str) -> Self {
        let texts = self.text_at(column);
        let is_meant: BooleanChunked = (0..self.height()).map(|row| texts(row) == text).collect();
        // Its length is the table's.
        let frame = self.frame.filter(&is_meant).unwrap_or_default();
        Table { frame }
    }

    /// A column as text, an empty text where there is a gap; empty texts where there is no such column.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let text = |cell: Option<Cell<'_>>| cell.map_or(String::new(), |cell| cell.to_string());
        match self.column(name) {
            None => vec![String::new(); self.height()],
            Some(column) => cells(column).map(text).collect(),
        }
    }

    /// A column of numbers, flags as 0 and 1; gaps where it holds text or there is no such column.
    pub fn numbers(&self, name: &str) -> Vec<Option<f64>> {
        let number = |cell: Option<Cell<'_>>| match cell? {
            Cell::Number(value) => Some(value),
            Cell::Flag(flag) => Some(f64::from(u8::from(flag))),
            Cell::Text(_) => None,
        };
        match self.column(name) {
            None => vec![None; self.height()],
            Some(column) => cells(column).map(number).collect(),
        }
    }

    /// Reads CSV with a header. A column is of numbers or flags where every cell that is not empty is one.
    ///
    /// # Errors
    /// [`ReportError::Unreadable`] for anything but a rectangular table.
    pub fn from_csv(text: &str, name: &str) -> Result<Self, ReportError> {
        let path = Path::new(name);
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let headers = reader.headers().map_err(ReportError::unreadable(path))?;
        let names: Vec<PlSmallStr> = headers.iter().map(PlSmallStr::from).collect();
        let mut cells: Vec<Vec<String>> = vec![Vec::new(); names.len()];
        for record in reader.records() {
            let record = record.map_err(ReportError::unreadable(path))?;
            for (column, cell) in cells.iter_mut().zip(&record) {
                column.push(cell.to_string());
            }
        }
        let mut columns: Vec<Column> = Vec::new();
        for (name, cells) in names.into_iter().zip(&cells) {
            // Of columns of one name the first counts.
            if columns.iter().all(|column| *column.name() != name) {
                columns.push(guess(name, cells));
            }
        }
        let read = Table::new(columns).and_then(|plain| Table::of(&plain.frame));
        read.map_err(ReportError::unreadable(path))
    }
}

/// The cells of a column; none for a gap.
pub(crate) fn cells(column: &Column) -> impl Iterator<Item = Option<Cell<'_>>> {
    (0..column.len()).map(|row| cell(column, row))
}

pub(crate) fn cell(column: &Column, row: usize) -> Option<Cell<'_>> {
    match stages::cell(column, row) {
        AnyValue::Null => None,
        AnyValue::Boolean(flag) => Some(Cell::Flag(flag)),
        value => match text_of(&value) {
            Some(text) => Some(Cell::Text(text)),
            None => value.extract().map(Cell::Number),
        },
    }
}

/// As text; whole numbers without a point.
impl fmt::Display for Cell<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Number(value) => write!(f, "{value}"),
            Cell::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// How the values of a column can be held, the shortest first. What is neither text nor flag is a number.
fn widths(kind: &DataType) -> Vec<DataType> {
    let categories =
        |width| DataType::from_categories(Categories::random(PlSmallStr::EMPTY, width));
    match kind {
        DataType::String => vec![
            categories(CategoricalPhysical::U8),
            categories(CategoricalPhysical::U16),
            categories(CategoricalPhysical::U32),
        ],
        DataType::Boolean => vec![DataType::Boolean],
        kind if kind.is_integer() => vec![DataType::Int32, DataType::Int64],
        _ => vec![DataType::Float64],
    }
}

/// Adds values to a column, which becomes wider where they do not fit.
fn append(column: &mut Column, more: &Column) -> PolarsResult<()> {
    for wider in widths(more.dtype()).iter().skip(1) {
        match more.strict_cast(column.dtype()) {
            Ok(more) => return column.append_owned(more).map(|_| ()),
            Err(_) => *column = column.cast(wider)?,
        }
    }
    let gaps = |_| Column::full_null(more.name().clone(), more.len(), column.dtype());
    let more = more.strict_cast(column.dtype()).unwrap_or_else(gaps);
    column.append_owned(more).map(|_| ())
}

/// Numbers or flags where every cell that is not empty is one; otherwise text.
fn guess(name: PlSmallStr, cells: &[String]) -> Column {
    let filled = cells.iter().filter(|cell| !cell.is_empty()).count();
    let number = |cell: &String| cell.trim().parse::<f64>().ok().filter(|n| n.is_finite());
    let numbers: Vec<Option<f64>> = cells.iter().map(number).collect();
    if filled > 0 && numbers.iter().flatten().count() == filled {
        return Column::new(name, numbers);
    }
    let flag = |cell: &String| cell.to_ascii_lowercase().parse::<bool>().ok();
    let flags: Vec<Option<bool>> = cells.iter().map(flag).collect();
    if filled > 0 && flags.iter().flatten().count() == filled {
        return Column::new(name, flags);
    }
    let texts = cells
        .iter()
        .map(|cell| Some(cell.as_str()).filter(|cell| !cell.is_empty()));
    Column::new(name, texts.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_columns_take_the_type_that_all_their_cells_have() {
        let table = Table::from_csv(
            "id,score,refused,note\n007a,-1.5,true,\nb,,False,x\n",
            "t.csv",
        );
        let table = table.unwrap();
        assert_eq!(table.height(), 2);
        assert_eq!(table.texts("id"), ["007a", "b"]);
        assert_eq!(table.numbers("score"), [Some(-1.5), None]);
        assert_eq!(table.numbers("refused"), [Some(1.0), Some(0.0)]);
        assert_eq!(table.texts("note"), ["", "x"]);
        assert!(!table.has("nothing"));
    }

    #[test]
    fn ragged_csv_is_refused() {
        let message = Table::from_csv("a,b\n1\n", "t.csv")
            .unwrap_err()
            .to_string();
        assert!(message.contains("`t.csv`"), "{message}");
    }

    /// Beyond 255 and 65,535 texts a column of categories becomes wider.
    #[test]
    fn parts_come_back_row_by_row_however_many_texts_they_have() {
        let names: Vec<String> = (0..70_000).map(|name| format!("n{name}")).collect();
        for count in [200, 300, 65_535, 70_000] {
            let part = |rows: std::ops::Range<usize>| {
                let texts: Vec<Option<&str>> = rows.clone().map(|r| Some(&*names[r])).collect();
                let numbers: Vec<Option<f64>> = rows.map(|r| Some(r as f64 / -3.0)).collect();
                let columns = vec![
                    Column::new("text".into(), texts),
                    Column::new("number".into(), numbers),
                ];
                Table::new(columns).unwrap().frame
            };
            let gap = vec![
                Column::new("text".into(), [None::<&str>, Some("n0")]),
                Column::new("number".into(), [None, Some(-0.0)]),
            ];
            let mut table = Table::default();
            for frame in [
                part(0..count / 2),
                part(count / 2..count),
                Table::new(gap).unwrap().frame,
            ] {
                table.append(&frame).unwrap();
            }
            assert_eq!(table.height(), count + 2);
            let texts = table.texts("text");
            assert!(texts[..count] == names[..count]);
            assert_eq!(texts[count..], ["", "n0"]);
            let bits = |number: Option<f64>| number.map(f64::to_bits);
            let numbers = table.numbers("number").into_iter().map(bits);
            let expected = (0..count).map(|row| Some(row as f64 / -3.0));
            let expected = expected.chain([None, Some(-0.0)]).map(bits);
            assert!(numbers.eq(expected));
        }
    }

    #[test]
    fn whole_numbers_become_wider_and_stay_whole() {
        let mut table = Table::default();
        for numbers in [[1, -2], [3, i64::from(i32::MAX) + 1]] {
            let column = Column::new("seed".into(), numbers);
            table
                .append(&Table::new(vec![column]).unwrap().frame)
                .unwrap();
        }
        assert!(table.columns()[0].dtype().is_integer());
        assert_eq!(table.texts("seed"), ["1", "-2", "3", "2147483648"]);
    }

    /// Rows of categories are grouped as rows of texts are.
    #[test]
    fn what_is_shown_is_grouped() {
        let texts = (0..600).map(|row| format!("t{}", row % 300));
        let columns = vec![
            Column::new("text".into(), texts.collect::<Vec<_>>()),
            Column::new("few".into(), vec!["a"; 600]),
            Column::new("number".into(), vec![0.5; 600]),
        ];
        let plain = Table::new(columns).unwrap().frame;
        let mut table = Table::default();
        table.append(&plain).unwrap();
        for by in [
            &["text"][..],
            &["few"],
            &["few", "text"],
            &["few", "number", "text"],
        ] {
            let found = stages::groups(&table.frame, by).unwrap();
            assert_eq!(found, stages::groups(&plain, by).unwrap());
        }
    }

    #[test]
    fn of_columns_of_one_name_the_first_counts() {
        let table = Table::from_csv("a,b,a\n1,2,x\n", "t.csv").unwrap();
        assert_eq!(table.columns().len(), 2);
        assert_eq!(table.numbers("a"), [Some(1.0)]);
    }
}
