//! A table as a reader needs it: named columns of text, numbers or flags, from a run's Parquet or from any CSV.

use std::collections::HashMap;

use polars::prelude::{DataFrame, DataType};
use serde::Serialize;

use super::ReportError;

/// The values of a column, one a row; none where the table has a gap.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", content = "values", rename_all = "lowercase")]
pub enum Values {
    /// Text.
    Text(Texts),
    /// Numbers, whole ones included.
    Number(Vec<Option<f64>>),
    /// True or false.
    Flag(Vec<Option<bool>>),
}

/// Texts, most of which occur many times: each is held once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Texts {
    words: Vec<String>,
    /// By row, the number of the word, or [`GAP`].
    codes: Vec<u32>,
}

/// Stands where there is no text.
const GAP: u32 = u32::MAX;

impl Texts {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    /// The text of a row; none for a gap.
    pub fn get(&self, row: usize) -> Option<&str> {
        self.words
            .get(*self.codes.get(row)? as usize)
            .map(String::as_str)
    }

    /// Row by row.
    pub fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        (0..self.len()).map(|row| self.get(row))
    }
}

impl<S: AsRef<str>> Extend<Option<S>> for Texts {
    fn extend<I: IntoIterator<Item = Option<S>>>(&mut self, texts: I) {
        let words = self.words.iter().cloned();
        let mut known: HashMap<String, u32> = words.zip(0..).collect();
        for text in texts {
            let Some(text) = text else {
                self.codes.push(GAP);
                continue;
            };
            let text = text.as_ref();
            let code = match known.get(text) {
                Some(code) => *code,
                None => {
                    let code = u32::try_from(self.words.len()).unwrap_or(GAP);
                    self.words.push(text.to_string());
                    known.insert(text.to_string(), code);
                    code
                }
            };
            self.codes.push(code);
        }
    }
}

impl<S: AsRef<str>> FromIterator<Option<S>> for Texts {
    fn from_iter<I: IntoIterator<Item = Option<S>>>(texts: I) -> Self {
        let mut all = Texts::default();
        all.extend(texts);
        all
    }
}

impl Serialize for Texts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

/// A column's cells as numbers, for quick comparison, with the distinct texts that they stand for.
#[derive(Clone, Debug)]
pub struct Codes {
    /// By row.
    pub codes: Vec<u32>,
    /// By code; a gap is the empty text.
    pub names: Vec<String>,
}

impl Codes {
    /// The text of a row.
    pub fn name(&self, row: usize) -> &str {
        &self.names[self.codes[row] as usize]
    }
}

/// A column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Column {
    /// Its heading.
    pub name: String,
    /// Its values.
    #[serde(flatten)]
    pub values: Values,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// In order; all of one length.
    pub columns: Vec<Column>,
}

impl Table {
    /// Adds the rows of a data frame of the same columns; an empty table takes its columns.
    pub fn append(&mut self, frame: &DataFrame) {
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
            column.values.append(Values::of(more));
        }
    }

    /// The number of rows.
    pub fn height(&self) -> usize {
        let first = self.columns.first();
        first.map_or(0, |column| column.values.len())
    }

    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether there is a column of that name.
    pub fn has(&self, name: &str) -> bool {
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
    pub fn codes(&self, name: &str) -> Codes {
        let Some(Values::Text(texts)) = self.column(name).map(|column| &column.values) else {
            let texts: Texts = self.texts(name).into_iter().map(Some).collect();
            return Codes {
                codes: texts.codes,
                names: texts.words,
            };
        };
        let (mut codes, mut names) = (texts.codes.clone(), texts.words.clone());
        if codes.contains(&GAP) {
            let gap = names.iter().position(String::is_empty);
            let gap = gap.unwrap_or_else(|| {
                names.push(String::new());
                names.len() - 1
            });
            let gap = u32::try_from(gap).unwrap_or(GAP);
            codes
                .iter_mut()
                .filter(|code| **code == GAP)
                .for_each(|code| *code = gap);
        }
        Codes { codes, names }
    }

    /// The numbers of a column by row, as [`Table::numbers`] has them.
    pub fn number_at<'a>(&'a self, name: &str) -> impl Fn(usize) -> Option<f64> + use<'a> {
        let column = self.column(name);
        move |row| match &column?.values {
            Values::Number(values) => values.get(row).copied().flatten(),
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
            Some(Values::Number(values)) => values.clone(),
            Some(Values::Flag(values)) => values
                .iter()
                .map(|value| value.map(|flag| f64::from(u8::from(flag))))
                .collect(),
            Some(Values::Text(_)) | None => vec![None; self.height()],
        }
    }

    /// The table with these rows only.
    pub fn taken(&self, rows: &[usize]) -> Self {
        fn of<T: Clone>(values: &[Option<T>], rows: &[usize]) -> Vec<Option<T>> {
            rows.iter()
                .map(|row| values.get(*row).cloned().flatten())
                .collect()
        }
        let columns = self.columns.iter().map(|column| Column {
            name: column.name.clone(),
            values: match &column.values {
                Values::Text(values) => {
                    Values::Text(rows.iter().map(|row| values.get(*row)).collect())
                }
                Values::Number(values) => Values::Number(of(values, rows)),
                Values::Flag(values) => Values::Flag(of(values, rows)),
            },
        });
        Table {
            columns: columns.collect(),
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
    pub fn cell(&self, row: usize) -> String {
        let text = match &self.values {
            Values::Text(values) => values.get(row).map(str::to_string),
            Values::Number(values) => values
                .get(row)
                .copied()
                .flatten()
                .map(|value| value.to_string()),
            Values::Flag(values) => values
                .get(row)
                .copied()
                .flatten()
                .map(|value| value.to_string()),
        };
        text.unwrap_or_default()
    }
}

impl Values {
    /// Adds values of the same kind; of another kind, as many gaps.
    fn append(&mut self, more: Values) {
        match (self, more) {
            (Values::Text(all), Values::Text(more)) => all.extend(more.iter()),
            (Values::Number(all), Values::Number(more)) => all.extend(more),
            (Values::Flag(all), Values::Flag(more)) => all.extend(more),
            (Values::Text(all), more) => all.extend((0..more.len()).map(|_| None::<&str>)),
            (Values::Number(all), more) => all.resize(all.len() + more.len(), None),
            (Values::Flag(all), more) => all.resize(all.len() + more.len(), None),
        }
    }

    /// The number of rows.
    fn len(&self) -> usize {
        match self {
            Values::Text(values) => values.len(),
            Values::Number(values) => values.len(),
            Values::Flag(values) => values.len(),
        }
    }

    fn of(column: &polars::prelude::Column) -> Self {
        let as_numbers = || {
            let cast = column.cast(&DataType::Float64);
            let values = cast.and_then(|column| column.f64().map(|values| values.iter().collect()));
            Values::Number(values.unwrap_or_else(|_| vec![None; column.len()]))
        };
        match column.dtype() {
            DataType::String => match column.str() {
                Ok(values) => Values::Text(values.iter().collect()),
                Err(_) => Values::Text(vec![None::<&str>; column.len()].into_iter().collect()),
            },
            DataType::Boolean => match column.bool() {
                Ok(values) => Values::Flag(values.iter().collect()),
                Err(_) => Values::Flag(vec![None; column.len()]),
            },
            _ => as_numbers(),
        }
    }

    fn guess(cells: Vec<String>) -> Self {
        let filled = || cells.iter().filter(|cell| !cell.is_empty());
        let some = filled().next().is_some();
        let number = |cell: &String| cell.trim().parse::<f64>().ok().filter(|n| n.is_finite());
        let flag = |cell: &String| cell.to_ascii_lowercase().parse::<bool>().ok();
        if some && filled().all(|cell| number(cell).is_some()) {
            return Values::Number(cells.iter().map(number).collect());
        }
        if some && filled().all(|cell| flag(cell).is_some()) {
            return Values::Flag(cells.iter().map(flag).collect());
        }
        let text = |cell: String| (!cell.is_empty()).then_some(cell);
        Values::Text(cells.into_iter().map(text).collect())
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
    fn texts_are_held_once_and_come_back_row_by_row() {
        let texts = [Some("a"), None, Some("b"), Some("a"), Some("")];
        let mut all: Texts = texts.into_iter().collect();
        assert_eq!(all.words, ["a", "b", ""]);
        all.extend([Some("b"), Some("c"), None]);
        let back: Vec<Option<&str>> = all.iter().collect();
        assert_eq!(back, [&texts[..], &[Some("b"), Some("c"), None]].concat());
        let column = Column {
            name: "t".to_string(),
            values: Values::Text(all),
        };
        let table = Table {
            columns: vec![column],
        };
        let codes = table.codes("t");
        let names: Vec<&str> = (0..table.height()).map(|row| codes.name(row)).collect();
        assert_eq!(names, ["a", "", "b", "a", "", "b", "c", ""]);
        assert_eq!(codes.codes[1], codes.codes[4], "a gap is the empty text");
        assert_eq!(table.texts("t"), names);
    }

    #[test]
    fn ragged_csv_is_refused() {
        let message = Table::from_csv("a,b\n1\n", "t.csv")
            .unwrap_err()
            .to_string();
        assert!(message.contains("`t.csv`"), "{message}");
    }
}
