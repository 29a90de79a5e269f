//! A table as a reader needs it: named columns of text, numbers or flags, from a run's Parquet or from any CSV.

use polars::prelude::DataFrame;
use serde::Serialize;

use super::ReportError;
use super::column::{Labels, Values};

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Its values.
    #[serde(flatten)]
    pub(crate) values: Values,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// In order; all of one length.
    pub columns: Vec<Column>,
}

impl Table {
    /// Adds the rows of a data frame of the same columns; an empty table takes its columns.
    pub(crate) fn append(&mut self, frame: &DataFrame) {
        if self.columns.is_empty() {
            let columns = frame.columns().iter();
            self.columns = columns
                .map(|column| Column {
                    name: column.name().to_string(),
                    values: Values::of(column),
                })
                .collect();
            return;
        }
        for (column, more) in self.columns.iter_mut().zip(frame.columns()) {
            column.values.append(&Values::of(more));
        }
    }

    /// The number of rows.
    pub(crate) fn height(&self) -> usize {
        let first = self.columns.first();
        first.map_or(0, |column| column.values.len())
    }

    /// The column of that name.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether there is a column of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.column(name).is_some()
    }

    /// A column as text, an empty text where there is a gap; empty texts where there is no such column.
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.column(name) {
            None => vec![String::new(); self.height()],
            Some(column) => (0..self.height()).map(|row| column.cell(row)).collect(),
        }
    }

    /// As [`Table::texts`], each distinct text once.
    pub fn labels(&self, name: &str) -> Labels {
        Labels::new(match self.column(name).map(|column| &column.values) {
            Some(Values::Text(texts)) => texts.clone(),
            _ => self.texts(name).into_iter().map(Some).collect(),
        })
    }

    /// The numbers of a column by row, as [`Table::numbers`] has them.
    pub(crate) fn number_at<'a>(&'a self, name: &str) -> impl Fn(usize) -> Option<f64> + use<'a> {
        let column = self.column(name);
        move |row| match &column?.values {
            Values::Number(values) => values.get(row),
            Values::Flag(values) => {
                let flag = values.get(row).copied().flatten()?;
                Some(f64::from(u8::from(flag)))
            }
            Values::Text(_) => None,
        }
    }

    /// A column of numbers, flags as 0 and 1; gaps where it holds text or there is no such column.
    pub fn numbers(&self, name: &str) -> Vec<Option<f64>> {
        match self.column(name).map(|column| &column.values) {
            Some(Values::Number(values)) => values.iter().collect(),
            Some(Values::Flag(values)) => values
                .iter()
                .map(|value| value.map(|flag| f64::from(u8::from(flag))))
                .collect(),
            Some(Values::Text(_)) | None => vec![None; self.height()],
        }
    }

    /// Reads CSV with a header. A column is of numbers or flags where every cell that is not empty is one.
    ///
    /// # Errors
    /// [`ReportError::Unreadable`] for anything but a rectangular table.
    pub fn from_csv(text: &str, name: &str) -> Result<Self, ReportError> {
        let unreadable = |error: csv::Error| ReportError::Unreadable {
            path: name.into(),
            why: error.to_string(),
        };
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let names: Vec<String> = reader
            .headers()
            .map_err(unreadable)?
            .iter()
            .map(str::to_string)
            .collect();
        let mut cells: Vec<Vec<String>> = vec![Vec::new(); names.len()];
        for record in reader.records() {
            for (column, cell) in cells.iter_mut().zip(record.map_err(unreadable)?.iter()) {
                column.push(cell.to_string());
            }
        }
        let columns = names.into_iter().zip(cells).map(|(name, cells)| Column {
            name,
            values: Values::guess(cells),
        });
        Ok(Table {
            columns: columns.collect(),
        })
    }
}

impl From<&DataFrame> for Table {
    fn from(frame: &DataFrame) -> Self {
        let mut table = Table::default();
        table.append(frame);
        table
    }
}

impl Column {
    /// A cell as text; whole numbers without a point, a gap as nothing.
    pub(crate) fn cell(&self, row: usize) -> String {
        self.values.text(row).unwrap_or_default()
    }
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
}
