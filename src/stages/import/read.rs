//! CSV with a row a prompt, and JSON that nests seeds, models, sets, layers and α, as rows with named columns.
//!
//! What columns are called and where JSON has rows is in [`super::shapes`]. What they do not say (a layer, a seed, a site), the file's
//! name or its other fields may.

use csv::StringRecord;
use regex::Regex;
use serde_json::Value as Json;

use crate::stages::StageError;

use super::rows::{Row, wrong};
use super::shapes::{self, Holds};

/// A file, read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Published {
    /// In file order.
    pub(super) rows: Vec<Row>,
    /// The prompts behind the direction, where the file names them.
    pub(super) builders: Option<Builders>,
}

/// The prompts that built a direction.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Builders {
    /// Seed of the split, where there was one.
    pub(super) seed: Option<u64>,
    /// Layer of the direction.
    pub(super) layer: Option<u64>,
    /// Share held out, where there was a split.
    pub(super) fraction: Option<f64>,
    /// Ids of the highest scoring, in the order given.
    pub(super) top: Vec<String>,
    /// Ids of the lowest scoring.
    pub(super) bottom: Vec<String>,
    /// Sizes of the training half and of the half held out.
    pub(super) halves: Option<(u64, u64)>,
}

/// Whether a CSV or JSON file has the shape of a published one, so that it is to be read here: JSON always has, and CSV where a
/// column is called as only a published table calls it.
pub(super) fn is_published_shape(name: &str, text: &str) -> bool {
    let header = text.lines().next().unwrap_or_default();
    let mut names = header.trim_start_matches('\u{feff}').split(',');
    is_json(name) || names.any(|name| shapes::PUBLISHED_COLUMNS.contains(&name.trim()))
}

/// The rows of a file of that name. `kind` is the kind of stage that would have made it.
///
/// # Errors
/// Text that is not CSV or JSON, columns or fields that are missing, values that are not of their type; with the place.
pub(super) fn read(kind: &str, name: &str, text: &str) -> Result<Published, StageError> {
    let mut said = Row::default();
    for pattern in shapes::FILE_NAMES.iter().filter_map(|p| Regex::new(p).ok()) {
        // A number in a name that is none is no layer and no seed.
        put_groups(&pattern, name, name, &mut said).ok();
    }
    if is_json(name) {
        return read_json(kind, name, text, said);
    }
    Ok(Published {
        rows: read_csv(kind, name, text, &said)?,
        builders: None,
    })
}

fn is_json(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".json")
}

/// Fills the columns that the pattern's groups are named after.
fn put_groups(pattern: &Regex, file: &str, path: &str, row: &mut Row) -> Result<(), StageError> {
    let found = pattern.captures(path);
    for column in pattern.capture_names().flatten() {
        if let Some(group) = found.as_ref().and_then(|found| found.name(column)) {
            row.put(column, group.as_str())
                .map_err(|expected| wrong_value(file, path, group.as_str(), expected))?;
        }
    }
    Ok(())
}

/// The error that what is found at a path of JSON is not what is expected there.
fn wrong_value(file: &str, path: &str, found: &str, expected: &str) -> StageError {
    let path = path.replace('/', ".");
    wrong(file, &format!("`{path}` is `{found}`; expected {expected}"))
}

/// A CSV file with its header.
pub(super) struct Sheet<'a> {
    pub(super) name: &'a str,
    pub(super) header: StringRecord,
}

/// The rows of such a file, with their places in it; of some that cannot be read, what is wrong.
type Records = Vec<Result<StringRecord, StageError>>;

impl<'a> Sheet<'a> {
    pub(super) fn read(name: &'a str, text: &str) -> Result<(Self, Records), StageError> {
        let mut reader = csv::Reader::from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let unreadable = |error: csv::Error| {
            let line = error.position().map_or(1, csv::Position::line);
            let message = match error.kind() {
                csv::ErrorKind::UnequalLengths {
                    expected_len, len, ..
                } => format!("the row has {len} fields; expected {expected_len}, as in the header"),
                csv::ErrorKind::Utf8 { .. } => "the row is not UTF-8 text".to_string(),
                _ => format!("the row is not CSV: {error}"),
            };
            wrong(&format!("{name}:{line}"), &message)
        };
        let header = reader.headers().map_err(unreadable)?.clone();
        let records = reader.records().map(|record| record.map_err(unreadable));
        Ok((Sheet { name, header }, records.collect()))
    }

    /// The place of the column that has one of these names, the first of them that there is.
    pub(super) fn column(&self, names: &[&str]) -> Option<usize> {
        let place = |wanted: &&str| self.header.iter().position(|name| name.trim() == *wanted);
        names.iter().find_map(place)
    }

    /// The error that a row's value in that column is not what is expected there.
    pub(super) fn wrong(&self, row: &StringRecord, column: usize, expected: &str) -> StageError {
        let (heading, found) = (&self.header[column], text_in(row, column));
        let place = format!("{}:{}:{}", self.name, line_of(row), column + 1);
        let message = format!("column `{heading}` is `{found}`; expected {expected}");
        wrong(&place, &message)
    }

    /// The columns, for a message.
    pub(super) fn columns(&self) -> String {
        self.header.iter().collect::<Vec<_>>().join("`, `")
    }
}

/// A row's value in that column.
pub(super) fn text_in(row: &StringRecord, column: usize) -> &str {
    row.get(column).unwrap_or_default().trim()
}

fn line_of(row: &StringRecord) -> usize {
    row.position().map_or(0, |place| place.line() as usize)
}

/// The names that a column has in files.
fn names_of(column: &'static str) -> Vec<&'static str> {
    let known = shapes::COLUMNS.iter().find(|(name, _)| *name == column);
    known.map_or_else(|| vec![column], |(_, names)| names.to_vec())
}

/// A row for each of the file's, or, where a column is the scores of one model, for each of those columns.
fn read_csv(kind: &str, name: &str, text: &str, said: &Row) -> Result<Vec<Row>, StageError> {
    let (sheet, records) = Sheet::read(name, text)?;
    let headings = sheet.header.iter().map(str::trim).enumerate();
    let side_by_side: Vec<(usize, &str)> = headings
        .filter(|(_, name)| kind == "score" && *name != shapes::DIFFERENCE_OF_SCORES)
        .filter_map(|(place, name)| Some((place, name.strip_prefix(shapes::SCORES_OF_A_MODEL)?)))
        .collect();
    check_columns(kind, &sheet, side_by_side.is_empty())?;
    let measured: &[&'static str] = match kind {
        _ if !side_by_side.is_empty() => &[],
        "generate" => &["text"],
        _ => &["score", "refused"],
    };
    let wanted = shapes::OF_PROMPTS.iter().chain(measured);
    let columns: Vec<(&str, usize)> = wanted
        .filter_map(|column| Some((*column, sheet.column(&names_of(column))?)))
        .collect();
    let mut rows = Vec::new();
    for record in records {
        let record = record?;
        let mut row = Row {
            line: line_of(&record),
            ..said.clone()
        };
        let put = |row: &mut Row, column: &str, place: usize| {
            row.put(column, text_in(&record, place))
                .map_err(|expected| sheet.wrong(&record, place, expected))
        };
        for (column, place) in &columns {
            put(&mut row, column, *place)?;
        }
        for (place, model) in &side_by_side {
            row.model = Some((*model).to_string());
            put(&mut row, "score", *place)?;
            rows.push(row.clone());
        }
        if side_by_side.is_empty() {
            rows.push(row);
        }
    }
    if rows.is_empty() {
        let message = "no rows below the header; expected at least one";
        return Err(wrong(name, message));
    }
    Ok(rows)
}

/// Checks that the columns are there without which a table of that kind says nothing.
fn check_columns(kind: &str, sheet: &Sheet<'_>, is_long: bool) -> Result<(), StageError> {
    let measured = match kind {
        "generate" => names_of("text"),
        "score" if is_long => vec!["s_<model>", "score"],
        _ => names_of("score"),
    };
    let is_sweep = matches!(kind, "steer" | "holdout" | "random" | "xstest");
    let required = [
        (is_long, measured),
        (true, names_of("id")),
        (is_long, names_of("model")),
        (is_sweep, names_of("alpha")),
    ];
    for (_, names) in required.iter().filter(|(is_required, _)| *is_required) {
        if sheet.column(names).is_none() {
            let message = format!(
                "a table of kind `{kind}` needs a column `{}`; the columns are `{}`",
                names.join("` or `"),
                sheet.columns()
            );
            return Err(wrong(&format!("{}:1", sheet.name), &message));
        }
    }
    Ok(())
}

fn read_json(kind: &str, name: &str, text: &str, mut said: Row) -> Result<Published, StageError> {
    let json: Json = serde_json::from_str(text).map_err(|error| {
        let place = format!("{name}:{}:{}", error.line(), error.column());
        wrong(&place, &format!("not JSON: {error}"))
    })?;
    for (column, pointer) in shapes::OF_ALL {
        if let Some(value) = json.pointer(pointer) {
            let text = value.as_str().map(str::to_string);
            let text = text.unwrap_or_else(|| value.to_string());
            said.put(column, &text).ok();
        }
    }
    let builders = builders(&json, &said);
    if kind == "patch" && said.site.is_none() {
        said.site = Some(shapes::SITE_OF_PATCHES.to_string());
    }
    let place = |(path, holds): &shapes::Place| Some((Regex::new(path).ok()?, *holds));
    let mut reader = JsonReader {
        name,
        said,
        counts: counts(&json),
        places: shapes::places(kind, name)
            .iter()
            .filter_map(place)
            .collect(),
        rows: Vec::new(),
    };
    reader.walk("", &json)?;
    let rows = reader.rows;
    if rows.is_empty() && builders.is_none() {
        let results = shapes::RESULTS;
        let message = format!(
            "nothing of kind `{kind}` in the file; expected results under one of {results}"
        );
        return Err(wrong(name, &message));
    }
    Ok(Published { rows, builders })
}

/// How many prompts each set has, where the file says so.
fn counts(json: &Json) -> Vec<(String, u64)> {
    let numbers = |pointer: &&str| {
        let object = json.pointer(pointer).and_then(Json::as_object);
        let fields = object.into_iter().flatten();
        fields.filter_map(|(set, count)| Some((shapes::set(set).to_string(), count.as_u64()?)))
    };
    let mut counts: Vec<_> = shapes::COUNTS.iter().flat_map(numbers).collect();
    let groups = numbers(&shapes::EDGE_COUNTS).map(|(_, count)| count);
    let total = groups.fold(0, u64::saturating_add);
    if total > 0 {
        counts.push(("edge".to_string(), total));
    }
    counts
}

/// The ids of the prompts behind the direction.
fn builders(json: &Json, said: &Row) -> Option<Builders> {
    let ids = |list: &Json| -> Option<Vec<String>> {
        let ids = list.as_array()?.iter();
        ids.map(|id| Some(id.as_str()?.to_string())).collect()
    };
    let number = |pointer: &str| json.pointer(pointer).and_then(Json::as_u64);
    shapes::SELECTIONS.iter().find_map(|pointer| {
        let selection = json.pointer(pointer)?;
        Some(Builders {
            seed: said.seed,
            layer: said.layer,
            fraction: json.pointer(shapes::HELD_OUT).and_then(Json::as_f64),
            top: ids(&selection["top_ids"])?,
            bottom: ids(&selection["bottom_ids"])?,
            halves: number(shapes::HALVES[0]).zip(number(shapes::HALVES[1])),
        })
    })
}

struct JsonReader<'a> {
    name: &'a str,
    said: Row,
    counts: Vec<(String, u64)>,
    places: Vec<(Regex, Holds)>,
    rows: Vec<Row>,
}

impl JsonReader<'_> {
    /// Reads the rows at and below a value.
    fn walk(&mut self, path: &str, value: &Json) -> Result<(), StageError> {
        self.row(path, value)?;
        let below = |name: &str| match path {
            "" => name.to_string(),
            path => format!("{path}/{name}"),
        };
        for (name, value) in value.as_object().into_iter().flatten() {
            self.walk(&below(name), value)?;
        }
        if !shapes::LISTS.contains(&path) {
            return Ok(());
        }
        for item in value.as_array().into_iter().flatten() {
            let key = &item[shapes::LISTED_BY];
            let text = key.to_string();
            if !key.is_number() {
                let path = below(&format!("[…]/{}", shapes::LISTED_BY));
                return Err(wrong_value(self.name, &path, &text, "a number"));
            }
            self.walk(&below(&text), item)?;
        }
        Ok(())
    }

    fn row(&mut self, path: &str, value: &Json) -> Result<(), StageError> {
        let mut places = self.places.iter();
        let Some((pattern, holds)) = places.find(|(pattern, _)| pattern.is_match(path)) else {
            return Ok(());
        };
        let mut row = self.said.clone();
        put_groups(pattern, self.name, path, &mut row)?;
        let mut put = |column: &str, path: &str, value: &Json| {
            let found = value.to_string();
            row.put(column, &found)
                .map_err(|expected| wrong_value(self.name, path, &found, expected))
        };
        match (holds, value) {
            (Holds::Number(column), value) => put(column, path, value)?,
            (Holds::List(columns), Json::Array(list)) if list.len() == columns.len() => {
                for (column, value) in columns.iter().zip(list) {
                    put(column, path, value)?;
                }
            }
            (Holds::List(columns), value) => {
                let expected = format!("[{}]", columns.join(", "));
                let found = value.to_string();
                return Err(wrong_value(self.name, path, &found, &expected));
            }
            (Holds::Fields(columns), value) => {
                for column in *columns {
                    let mut names = names_of(column).into_iter();
                    if let Some(name) = names.find(|name| !value[*name].is_null()) {
                        put(column, &format!("{path}/{name}"), &value[name])?;
                    }
                }
                if row.mean.is_none() && row.refusal_rate.is_none() {
                    return Ok(());
                }
            }
        }
        let mut counts = self.counts.iter();
        let count = counts.find(|(set, _)| Some(set) == row.set.as_ref());
        row.n = row.n.or(count.map(|(_, count)| *count));
        self.rows.push(row);
        Ok(())
    }
}
