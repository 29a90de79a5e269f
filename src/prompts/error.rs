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
    path: PathBuf,
    problems: Vec<Problem>,
}

/// One problem: where it is (lines and columns count from 1, columns in characters) and what it is.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) line: Option<usize>,
    pub(super) column: Option<usize>,
    pub(super) message: String,
}

impl PromptErrors {
    pub(super) fn new(path: &Path, problems: Vec<Problem>) -> Self {
        Self {
            path: path.to_owned(),
            problems,
        }
    }

    pub(super) fn whole_file(path: &Path, message: String) -> Self {
        let problem = Problem {
            line: None,
            column: None,
            message,
        };
        Self::new(path, vec![problem])
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
    let end = value.char_indices().nth(QUOTED_CHARACTERS);
    let (start, more) = match end {
        Some((end, _)) => (&value[..end], "…"),
        None => (value, ""),
    };
    format!("`{}{more}`", harmless::line(start))
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
        PromptErrors::new(Path::new("a.csv"), (1..=count).map(problem).collect()).to_string()
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
