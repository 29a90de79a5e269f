//! A column's values, in as little memory as a sweep's hundreds of thousands of rows allow: what occurs many times is held once.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

use polars::prelude::DataType;
use serde::Serialize;

/// Distinct numbers beyond which a column holds each row's.
const MOST_DISTINCT: usize = 1 << 12;

/// The values of a column, one a row; none where the table has a gap.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", content = "values", rename_all = "lowercase")]
pub(crate) enum Values {
    /// Text.
    Text(Texts),
    /// Numbers, whole ones included.
    Number(Numbers),
    /// True or false.
    Flag(Vec<Option<bool>>),
}

/// Texts, one a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Texts(Coded<String>);

/// Numbers, one a row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Numbers(Kept);

#[derive(Clone, Debug, PartialEq)]
enum Kept {
    /// By their bits.
    Few(Coded<u64>),
    /// The rows without a value hold a 0, and are listed in order.
    Many { values: Vec<f64>, gaps: Vec<u32> },
}

/// Values of which most occur many times.
#[derive(Clone, Debug, PartialEq)]
struct Coded<T> {
    /// In the order of first appearance.
    distinct: Vec<T>,
    /// By row, one more than the value's place, or [`GAP`].
    codes: Codes,
}

/// The code where there is no value.
const GAP: u32 = 0;

/// Small whole numbers, each in as many bytes as the largest takes.
#[derive(Clone, Debug, PartialEq)]
enum Codes {
    Byte(Vec<u8>),
    Short(Vec<u16>),
    Long(Vec<u32>),
}

/// A column's cells as text, and a number for each that tells it from the others.
#[derive(Debug)]
pub struct Labels {
    texts: Texts,
    /// The code of the empty text, which a gap is as well.
    empty: Option<u32>,
}

impl Values {
    /// Those of a column of a data frame.
    pub(super) fn of(column: &polars::prelude::Column) -> Self {
        let gaps = column.len();
        match column.dtype() {
            DataType::String => Values::Text(match column.str() {
                Ok(values) => values.iter().collect(),
                Err(_) => vec![None::<&str>; gaps].into_iter().collect(),
            }),
            DataType::Boolean => Values::Flag(match column.bool() {
                Ok(values) => values.iter().collect(),
                Err(_) => vec![None; gaps],
            }),
            _ => {
                let cast = column.cast(&DataType::Float64);
                let values =
                    cast.and_then(|column| column.f64().map(|values| values.iter().collect()));
                Values::Number(values.unwrap_or_else(|_| vec![None; gaps].into_iter().collect()))
            }
        }
    }

    /// Numbers or flags where every cell that is not empty is one; otherwise text.
    pub(super) fn guess(cells: Vec<String>) -> Self {
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

    /// The number of rows.
    pub(super) fn len(&self) -> usize {
        match self {
            Values::Text(values) => values.len(),
            Values::Number(values) => values.len(),
            Values::Flag(values) => values.len(),
        }
    }

    /// Adds values of the same kind; of another kind, as many gaps.
    pub(super) fn append(&mut self, more: &Values) {
        let gaps = more.len();
        match (self, more) {
            (Values::Text(all), Values::Text(more)) => all.extend(more.iter()),
            (Values::Number(all), Values::Number(more)) => all.extend(more.iter()),
            (Values::Flag(all), Values::Flag(more)) => all.extend_from_slice(more),
            (Values::Text(all), _) => all.extend(vec![None::<&str>; gaps]),
            (Values::Number(all), _) => all.extend(vec![None; gaps]),
            (Values::Flag(all), _) => all.extend(vec![None; gaps]),
        }
    }

    /// A cell as text; whole numbers without a point, none for a gap.
    pub(super) fn text(&self, row: usize) -> Option<String> {
        match self {
            Values::Text(values) => values.get(row).map(str::to_string),
            Values::Number(values) => values.get(row).map(|value| value.to_string()),
            Values::Flag(values) => values.get(row).copied().flatten().map(|v| v.to_string()),
        }
    }
}

impl Texts {
    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.0.codes.len()
    }

    /// The text of a row; none for a gap.
    pub(crate) fn get(&self, row: usize) -> Option<&str> {
        self.0.get(row).map(String::as_str)
    }

    /// Row by row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        (0..self.len()).map(|row| self.get(row))
    }
}

impl<S: AsRef<str>> Extend<Option<S>> for Texts {
    fn extend<I: IntoIterator<Item = Option<S>>>(&mut self, texts: I) {
        let mut known = self.0.known();
        for text in texts {
            self.0.push(text.as_ref().map(AsRef::as_ref), &mut known);
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

impl Numbers {
    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        match &self.0 {
            Kept::Few(values) => values.codes.len(),
            Kept::Many { values, .. } => values.len(),
        }
    }

    /// The number of a row; none for a gap.
    pub(crate) fn get(&self, row: usize) -> Option<f64> {
        match &self.0 {
            Kept::Few(values) => values.get(row).map(|bits| f64::from_bits(*bits)),
            Kept::Many { values, gaps } => {
                let is_gap = u32::try_from(row).is_ok_and(|row| gaps.binary_search(&row).is_ok());
                values.get(row).copied().filter(|_| !is_gap)
            }
        }
    }

    /// Row by row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<f64>> {
        (0..self.len()).map(|row| self.get(row))
    }

    /// Each row's number for itself.
    fn spread_out(&mut self) {
        let (mut values, mut gaps) = (Vec::with_capacity(self.len()), Vec::new());
        self.iter()
            .for_each(|value| push_number(&mut values, &mut gaps, value));
        self.0 = Kept::Many { values, gaps };
    }
}

fn push_number(values: &mut Vec<f64>, gaps: &mut Vec<u32>, value: Option<f64>) {
    if value.is_none() {
        gaps.extend(u32::try_from(values.len()));
    }
    values.push(value.unwrap_or_default());
}

impl Default for Numbers {
    fn default() -> Self {
        Numbers(Kept::Few(Coded::default()))
    }
}

impl Extend<Option<f64>> for Numbers {
    fn extend<I: IntoIterator<Item = Option<f64>>>(&mut self, numbers: I) {
        let mut known = match &self.0 {
            Kept::Few(values) => values.known(),
            Kept::Many { .. } => HashMap::new(),
        };
        for number in numbers {
            match &mut self.0 {
                Kept::Few(values) => {
                    values.push(number.map(f64::to_bits).as_ref(), &mut known);
                    if values.distinct.len() > MOST_DISTINCT {
                        self.spread_out();
                    }
                }
                Kept::Many { values, gaps } => push_number(values, gaps, number),
            }
        }
    }
}

impl FromIterator<Option<f64>> for Numbers {
    fn from_iter<I: IntoIterator<Item = Option<f64>>>(numbers: I) -> Self {
        let mut all = Numbers::default();
        all.extend(numbers);
        all
    }
}

impl Serialize for Numbers {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<T> Default for Coded<T> {
    fn default() -> Self {
        Coded {
            distinct: Vec::new(),
            codes: Codes::Byte(Vec::new()),
        }
    }
}

impl<T: Clone + Eq + Hash> Coded<T> {
    fn get(&self, row: usize) -> Option<&T> {
        let place = self.codes.get(row)?.checked_sub(1)?;
        self.distinct.get(place as usize)
    }

    /// The codes of the distinct values, for [`Coded::push`].
    fn known(&self) -> HashMap<T, u32> {
        self.distinct.iter().cloned().zip(1..).collect()
    }

    fn push<K>(&mut self, value: Option<&K>, known: &mut HashMap<T, u32>)
    where
        T: Borrow<K>,
        K: ToOwned<Owned = T> + Eq + Hash + ?Sized,
    {
        let code = match value.map(|value| (value, known.get(value))) {
            None => GAP,
            Some((_, Some(code))) => *code,
            Some((value, None)) => {
                self.distinct.push(value.to_owned());
                // Rows are numbered in 32 bits, and so are values.
                let code = u32::try_from(self.distinct.len()).unwrap_or(GAP);
                known.insert(value.to_owned(), code);
                code
            }
        };
        self.codes.push(code);
    }
}

impl Codes {
    fn len(&self) -> usize {
        match self {
            Codes::Byte(codes) => codes.len(),
            Codes::Short(codes) => codes.len(),
            Codes::Long(codes) => codes.len(),
        }
    }

    fn get(&self, row: usize) -> Option<u32> {
        match self {
            Codes::Byte(codes) => codes.get(row).copied().map(u32::from),
            Codes::Short(codes) => codes.get(row).copied().map(u32::from),
            Codes::Long(codes) => codes.get(row).copied(),
        }
    }

    fn push(&mut self, code: u32) {
        match self {
            Codes::Byte(codes) => match u8::try_from(code) {
                Ok(code) => codes.push(code),
                Err(_) => {
                    *self = Codes::Short(codes.iter().copied().map(u16::from).collect());
                    self.push(code);
                }
            },
            Codes::Short(codes) => match u16::try_from(code) {
                Ok(code) => codes.push(code),
                Err(_) => {
                    *self = Codes::Long(codes.iter().copied().map(u32::from).collect());
                    self.push(code);
                }
            },
            Codes::Long(codes) => codes.push(code),
        }
    }
}

impl Labels {
    /// Of a column's texts.
    pub(super) fn new(texts: Texts) -> Self {
        let empty = texts.0.distinct.iter().position(String::is_empty);
        Labels {
            empty: empty.and_then(|place| u32::try_from(place + 1).ok()),
            texts,
        }
    }

    /// What tells the cell of a row from those of other texts; less than [`Labels::count`].
    pub(crate) fn code(&self, row: usize) -> u32 {
        let code = self.texts.0.codes.get(row);
        code.filter(|code| Some(*code) != self.empty).unwrap_or(GAP)
    }

    /// The text of a row, empty where there is a gap.
    pub(crate) fn name(&self, row: usize) -> &str {
        self.texts.get(row).unwrap_or_default()
    }

    /// An upper bound of the codes.
    pub(crate) fn count(&self) -> usize {
        self.texts.0.distinct.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_held_once_and_come_back_row_by_row() {
        let texts = [Some("a"), None, Some("b"), Some("a"), Some("")];
        let mut all: Texts = texts.into_iter().collect();
        assert_eq!(all.0.distinct, ["a", "b", ""]);
        all.extend([Some("b"), Some("c"), None]);
        let back: Vec<Option<&str>> = all.iter().collect();
        assert_eq!(back, [&texts[..], &[Some("b"), Some("c"), None]].concat());
        let labels = Labels::new(all);
        let names: Vec<&str> = (0..8).map(|row| labels.name(row)).collect();
        assert_eq!(names, ["a", "", "b", "a", "", "b", "c", ""]);
        let codes: Vec<u32> = (0..8).map(|row| labels.code(row)).collect();
        assert_eq!(codes[1], codes[4], "a gap is the empty text");
        assert!(codes.iter().all(|code| (*code as usize) < labels.count()));
    }

    #[test]
    fn many_texts_come_back_whatever_their_codes_take() {
        let names: Vec<String> = (0..70_000).map(|name| format!("n{name}")).collect();
        for count in [255, 256, 65_535, 65_536, 70_000] {
            let mut texts: Texts = names[..count].iter().map(Some).collect();
            texts.extend([None, Some("n0"), Some("another")]);
            assert_eq!(texts.len(), count + 3);
            assert!((0..count).all(|row| texts.get(row) == Some(names[row].as_str())));
            let rest: Vec<Option<&str>> = (count..count + 3).map(|row| texts.get(row)).collect();
            assert_eq!(rest, [None, Some("n0"), Some("another")]);
        }
    }

    #[test]
    fn numbers_come_back_to_the_bit_however_many_there_are() {
        let number = |row: usize| match row % 7 {
            0 => None,
            1 => Some(-0.0),
            _ => Some(row as f64 / 3.0),
        };
        for count in [10, MOST_DISTINCT, 3 * MOST_DISTINCT] {
            let (first, rest) = ((0..count / 2).map(number), (count / 2..count).map(number));
            let mut numbers: Numbers = first.collect();
            numbers.extend(rest);
            let bits = |number: Option<f64>| number.map(f64::to_bits);
            let back: Vec<_> = numbers.iter().map(bits).collect();
            assert_eq!(back, (0..count).map(number).map(bits).collect::<Vec<_>>());
            let is_few = matches!(numbers.0, Kept::Few(_));
            assert_eq!(is_few, count <= MOST_DISTINCT);
        }
    }
}
