//! CSV with a header and one row a prompt.

use csv::StringRecord;

use super::{Measured, Of, Published, PublishedError, PublishedRow, set_name, short_site};

/// Columns that only published tables have.
const PUBLISHED_COLUMNS: [&str; 5] = ["eval_set", "example_id", "refuse", "refuse_flag", "s_gap"];

/// Whether the header names a column as only a published table does.
pub(super) fn is_published_shape(text: &str) -> bool {
    let header = text.lines().next().unwrap_or_default();
    let mut names = header.trim_start_matches('\u{feff}').split(',');
    names.any(|name| PUBLISHED_COLUMNS.contains(&name.trim()))
}

/// Reads every row; what columns do not say is taken from `given`.
pub(super) fn read(
    kind: &str,
    name: &str,
    text: &str,
    given: &Of,
) -> Result<Published, PublishedError> {
    let text = text.trim_start_matches('\u{feff}');
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let header = reader
        .headers()
        .map_err(|error| unreadable(name, &error))?
        .clone();
    let columns = Columns::find(kind, name, &header)?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| unreadable(name, &error))?;
        let line = record.position().map_or(0, |place| place.line() as usize);
        let cells = Cells {
            file: name,
            line,
            record: &record,
            header: &header,
        };
        columns.read(&cells, given, &mut rows)?;
    }
    if rows.is_empty() {
        return Err(PublishedError {
            place: name.to_string(),
            message: "no rows below the header; expected at least one".to_string(),
        });
    }
    Ok(Published {
        rows,
        builders: None,
    })
}

fn unreadable(name: &str, error: &csv::Error) -> PublishedError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => format!("the row has {len} fields; expected {expected_len}, as in the header"),
        csv::ErrorKind::Utf8 { .. } => "the row is not UTF-8 text".to_string(),
        _ => format!("the row is not CSV: {error}"),
    };
    PublishedError {
        place: format!("{name}:{line}"),
        message,
    }
}

/// Where the columns with a meaning are.
struct Columns {
    id: usize,
    model: Option<usize>,
    layer: Option<usize>,
    seed: Option<usize>,
    site: Option<usize>,
    alpha: Option<usize>,
    set: Option<usize>,
    category: Option<usize>,
    prompt: Option<usize>,
    refused: Option<usize>,
    values: Values,
}

/// The columns that hold what was measured.
enum Values {
    /// A score of the row's model.
    Score(usize),
    /// A score of each model, by its name.
    Wide(Vec<(String, usize)>),
    /// A text.
    Text(usize),
}

impl Columns {
    fn find(kind: &str, name: &str, header: &StringRecord) -> Result<Self, PublishedError> {
        let place = |wanted: &[&str]| {
            let mut wanted = wanted.iter();
            wanted.find_map(|wanted| header.iter().position(|name| name.trim() == *wanted))
        };
        let required = |wanted: &[&str]| {
            place(wanted).ok_or_else(|| PublishedError {
                place: format!("{name}:1"),
                message: format!(
                    "a table of kind `{kind}` needs a column {}; the columns are `{}`",
                    quoted(wanted, " or "),
                    header.iter().collect::<Vec<_>>().join("`, `")
                ),
            })
        };
        let wide: Vec<(String, usize)> = header
            .iter()
            .enumerate()
            .filter_map(|(index, name)| Some((name.trim().strip_prefix("s_")?.to_string(), index)))
            .filter(|(model, _)| model != "gap")
            .collect();
        let values = match kind {
            "generate" => Values::Text(required(&["text", "completion", "continuation"])?),
            "score" if !wide.is_empty() => Values::Wide(wide),
            "score" if place(&["score"]).is_none() => {
                required(&["s_<model>", "score"]).map(Values::Score)?
            }
            _ => Values::Score(required(&["score"])?),
        };
        let is_wide = matches!(values, Values::Wide(_));
        let is_sweep = matches!(kind, "steer" | "holdout" | "random" | "xstest");
        Ok(Columns {
            id: required(&["id", "example_id", "prompt_id"])?,
            model: match is_wide {
                true => None,
                false => Some(required(&["model"])?),
            },
            alpha: match is_sweep {
                true => Some(required(&["alpha"])?),
                false => place(&["alpha"]),
            },
            layer: place(&["layer"]),
            seed: place(&["seed"]),
            site: place(&["site"]),
            set: place(&["eval_set", "set", "split", "label"]),
            category: place(&["category", "type"]),
            prompt: place(&["prompt"]),
            refused: place(&["refused", "refuse_flag", "refuse"]),
            values,
        })
    }

    fn read(
        &self,
        cells: &Cells<'_>,
        given: &Of,
        rows: &mut Vec<PublishedRow>,
    ) -> Result<(), PublishedError> {
        let text = |column: Option<usize>| {
            let text = column.map(|column| cells.text(column).to_string());
            text.filter(|text| !text.is_empty())
        };
        let of = Of {
            model: text(self.model),
            layer: cells.integer(self.layer)?.or(given.layer),
            k: None,
            site: text(self.site)
                .map(|site| short_site(&site))
                .or_else(|| given.site.clone()),
            seed: cells.integer(self.seed)?.or(given.seed),
            alpha: self
                .alpha
                .map(|column| cells.number(column))
                .transpose()?
                .map(|alpha| alpha + 0.0),
            set: text(self.set).map(|set| set_name(&set)),
            id: Some(cells.required(self.id)?.to_string()),
            category: text(self.category),
            prompt: text(self.prompt),
        };
        let mut push = |of: Of, measured: Measured| {
            rows.push(PublishedRow {
                line: cells.line,
                of,
                measured,
            });
        };
        match &self.values {
            Values::Text(column) => push(of, Measured::Text(cells.text(*column).to_string())),
            Values::Score(column) => {
                let score = cells.number(*column)?;
                let refused = self
                    .refused
                    .map(|column| cells.flag(column))
                    .transpose()?
                    .flatten();
                push(of, Measured::Score { score, refused });
            }
            Values::Wide(models) => {
                for (model, column) in models {
                    let score = cells.number(*column)?;
                    let of = Of {
                        model: Some(model.clone()),
                        ..of.clone()
                    };
                    let refused = None;
                    push(of, Measured::Score { score, refused });
                }
            }
        }
        Ok(())
    }
}

/// One row's cells.
struct Cells<'a> {
    file: &'a str,
    line: usize,
    record: &'a StringRecord,
    header: &'a StringRecord,
}

impl Cells<'_> {
    fn text(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default().trim()
    }

    fn wrong(&self, column: usize, expected: &str) -> PublishedError {
        PublishedError {
            place: format!("{}:{}:{}", self.file, self.line, column + 1),
            message: format!(
                "column `{}` is `{}`; expected {expected}",
                self.header.get(column).unwrap_or_default(),
                self.text(column)
            ),
        }
    }

    fn required(&self, column: usize) -> Result<&str, PublishedError> {
        match self.text(column) {
            "" => Err(self.wrong(column, "a name")),
            text => Ok(text),
        }
    }

    fn number(&self, column: usize) -> Result<f64, PublishedError> {
        let number = self.text(column).parse::<f64>().ok();
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| self.wrong(column, "a finite number"))
    }

    /// A whole number; none where there is no such column or it is empty.
    fn integer(&self, column: Option<usize>) -> Result<Option<u64>, PublishedError> {
        let filled = column.filter(|&column| !self.text(column).is_empty());
        let integer = |column| {
            let number = self.text(column).parse::<u64>();
            number.map_err(|_| self.wrong(column, "an integer of 0 or more"))
        };
        filled.map(integer).transpose()
    }

    fn flag(&self, column: usize) -> Result<Option<bool>, PublishedError> {
        match self.text(column).to_ascii_lowercase().as_str() {
            "" => Ok(None),
            "0" | "false" => Ok(Some(false)),
            "1" | "true" => Ok(Some(true)),
            _ => Err(self.wrong(column, "0 or 1")),
        }
    }
}

/// Names in backticks.
fn quoted(names: &[&str], between: &str) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(between)
}
