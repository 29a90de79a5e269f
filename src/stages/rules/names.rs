//! What a rule's name names: the column of its verdict, that of its rate, its tables; and so what cannot be one.

use std::borrow::Cow;

use polars::prelude::DataFrame;

use crate::spec::{Key, Problems};
use crate::stages::{KINDS, columns};

/// The name of the default rule, and of the column that says of each prompt whether it counts.
pub(crate) const REFUSED: &str = "refused";
/// The column of whether a prompt built its row's direction, which is no rule's verdict.
pub(crate) const BUILT: &str = "built_direction";
/// The column of the default rule's rates.
const REFUSAL_RATE: &str = "refusal_rate";
/// What columns of rates end in.
const RATE: &str = "_rate";
/// Endings that tables and columns of a rule have behind its name.
const ENDINGS: [&str; 4] = ["_means", "_wide", "_rates", RATE];

/// The column of a rule's rates.
pub(crate) fn rate_column(rule: &str) -> Cow<'static, str> {
    match rule {
        REFUSED => REFUSAL_RATE.into(),
        rule => format!("{rule}{RATE}").into(),
    }
}

/// The rule that a column holds rates of; none for another column.
pub(crate) fn rule_of_rate(column: &str) -> Option<&str> {
    match column {
        REFUSAL_RATE => Some(REFUSED),
        column => column.strip_suffix(RATE),
    }
}

/// A rule's rate, on axes and in sentences.
pub(crate) fn rate_in_words(rule: &str) -> String {
    match rule {
        REFUSED => "refusal rate".to_string(),
        rule => format!("{rule} rate"),
    }
}

/// A rule's score, on axes. What it is counted in, the kind of the rule says.
pub(crate) fn score_in_words(rule: &str) -> &'static str {
    match rule {
        REFUSED => "score (logit difference)",
        _ => "score",
    }
}

/// What titles say behind themselves of a rule that is not the default.
pub(crate) fn by_rule(rule: &str) -> String {
    match rule {
        REFUSED => String::new(),
        rule => format!(", {rule}"),
    }
}

/// The score rule that a table is of: what the first column is called that holds true and false, `built_direction` aside, or whose rates it
/// holds; the default one of others.
pub(crate) fn rule_of(table: &DataFrame) -> &str {
    let columns = || table.columns().iter();
    let verdict = columns().find(|column| column.dtype().is_bool() && column.name() != BUILT);
    let rated = columns().find_map(|column| rule_of_rate(column.name()));
    let verdict = verdict.map(|column| column.name().as_str());
    verdict.or(rated).unwrap_or(REFUSED)
}

/// Whether a rule may have this name; what is wrong with it is told.
pub(super) fn check(key: &Key, problems: &mut Problems) -> bool {
    let name = key.name.as_str();
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(is_good) {
        problems
            .error_at(&key.at, format!("score rule `{name}` cannot name a column"))
            .label("expected letters, digits and `_`, a letter first");
        return false;
    }
    let why = match name {
        REFUSED => Some("is the default rule, `[score]` itself"),
        name if is_column(name) => Some("is a column of tables, or the beginning of one"),
        name if is_table(name) => Some("is a table of stages"),
        name if ENDINGS.iter().any(|ending| name.ends_with(ending)) => {
            Some("ends as the tables and rates of rules do")
        }
        _ => None,
    };
    if let Some(why) = why {
        tell_taken(key, why, problems);
    }
    why.is_none()
}

pub(super) fn tell_taken(key: &Key, why: &str, problems: &mut Problems) {
    let name = &key.name;
    problems
        .error_at(&key.at, format!("no score rule can be called `{name}`"))
        .label(format!("`{name}` {why}"))
        .help("give the rule another name: tables and figures call it by that");
}

/// Whether a table may have a column of that name, or of that name's rate.
fn is_column(name: &str) -> bool {
    let is_known = |name: &str| columns::column(name).is_some();
    is_known(name) || is_known(&rate_column(name))
}

fn is_table(name: &str) -> bool {
    let mut tables = KINDS.iter().flat_map(|kind| kind.told.tables);
    tables.any(|table| table.name == name)
}
