//! What is wrong with a prompt file, all of it at once, each problem with its place.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::harmless;

/// How many problems are shown; the rest are counted.
const SHOWN_PROBLEMS: usize = 20;

/// How many characters of a value from the file are quoted in a message.
const QUOTED_CHARACTERS: usize = 60;

/// Every problem found in one prompt file, in file order.
///
/// Its text form has one line for each of the first 20 (`file:line: what is wrong; what to do`, or `file:line:column` where a
/// column is known) and says how many more there are.
#[derive(Debug)]
pub struct PromptErrors {
    pub(super) path: PathBuf,
    pub(super) problems: Vec<Problem>,
}

/// One problem: where it is (lines and columns count from 1, columns in characters) and what it is.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    pub(super) message: String,
}

impl PromptErrors {
    pub(super) fn whole_file(path: &Path, message: String) -> Self {
        let path = path.to_owned();
        Self {
            path,
            problems: vec![Problem::of_file(message)],
        }
    }
}

impl Problem {
    pub(super) fn of_file(message: String) -> Self {
        Problem {
            line: None,
            column: None,
            message,
        }
    }
}

impl fmt::Display for PromptErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().take(SHOWN_PROBLEMS).enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{}", self.path.display())?;
            for place in [problem.line, problem.column].into_iter().flatten() {
                write!(formatter, ":{place}")?;
            }
            write!(formatter, ": {}", problem.message)?;
        }
        match self.problems.len().saturating_sub(SHOWN_PROBLEMS) {
            0 => Ok(()),
            more => write!(formatter, "\n… and {more} more"),
        }
    }
}

impl std::error::Error for PromptErrors {}

/// A value from the file in backticks, on one line and not too long.
pub(super) fn quoted(value: &str) -> String {
    match value.char_indices().nth(QUOTED_CHARACTERS) {
        Some((end, _)) => format!("`{}…`", harmless::line(&value[..end])),
        None => format!("`{}`", harmless::line(value)),
    }
}

/// Names in backticks, joined by commas.
pub(super) fn quoted_list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<String> = names.iter().map(|name| quoted(name.as_ref())).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_problems(count: usize) -> String {
        let problem = |line| Problem {
            line: Some(line),
            column: None,
            message: "wrong".to_owned(),
        };
        let problems = (1..=count).map(problem).collect();
        let path = "a.csv".into();
        PromptErrors { path, problems }.to_string()
    }

    #[test]
    fn shows_twenty_problems_and_counts_the_rest() {
        assert_eq!(with_problems(2), "a.csv:1: wrong\na.csv:2: wrong");
        assert_eq!(with_problems(20).lines().count(), 20);
        let text = with_problems(23);
        assert_eq!(text.lines().count(), 21);
        assert!(
            text.ends_with("a.csv:20: wrong\n… and 3 more"),
            "unexpected: {text}"
        );
    }

    #[test]
    fn quotes_a_value_on_one_short_line() {
        assert_eq!(quoted("a\nb’c"), "`a\\nb’c`");
        assert_eq!(quoted(&"é".repeat(60)).chars().count(), 62);
        assert!(quoted(&"é".repeat(61)).ends_with("é…`"));
    }
}
