//! What can go wrong between a model's name and its numbers, said for the person at the keyboard.

use std::fmt;
use std::path::{Path, PathBuf};

/// What the model room gives, or why not.
pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;

/// An error of the model room. Its text is a lower-case fragment that says where, what and what to do.
#[derive(Debug)]
pub enum ModelError {
    Read {
        path: PathBuf,
        problem: String,
    },
    /// A file was read, but what it holds is not what it should be.
    Invalid {
        path: PathBuf,
        problem: String,
    },
    /// A file is sound, but asks for something this program would not compute correctly.
    Unsupported {
        path: PathBuf,
        /// What was asked for, with the value in backticks.
        what: String,
        supported: String,
    },
    Tokenizer(String),
    Template(String),
    /// A model's `source` does not lead to a model.
    Source {
        location: String,
        /// Why it leads nowhere, and what to write instead.
        problem: String,
    },
    /// The hub did not give what was asked of it.
    Hub {
        /// `org/name@revision`.
        repository: String,
        problem: String,
        advice: String,
    },
    /// Cells have no value: no finite one, or none that their model could give. All others were computed.
    Cells {
        /// The first of them by prompt, layer and α, and what to do.
        first: String,
        more: usize,
    },
    /// There is not enough memory; says for what.
    Memory(String),
    /// It takes libtorch, which this program is not linked with.
    NeedsLibtorch,
    /// The device, the tensor library or an invariant of the evaluation failed.
    Internal(String),
}

/// What is wrong with a file, said where it does not matter which file it is.
#[derive(Debug)]
pub(super) enum Problem {
    /// What it holds is not what it should be.
    Invalid(String),
    /// It asks for `what`, with the value in backticks, which this program would not compute correctly.
    Unsupported { what: String, supported: String },
}

impl Problem {
    pub(super) fn unsupported(what: impl Into<String>, supported: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            supported: supported.into(),
        }
    }

    /// As an error about the file.
    pub(super) fn at(self, path: &Path) -> ModelError {
        match self {
            Self::Invalid(problem) => ModelError::invalid(path, problem),
            Self::Unsupported { what, supported } => ModelError::unsupported(path, what, supported),
        }
    }
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Invalid(problem)
    }
}

impl ModelError {
    /// An error of the tensor library, by its text.
    pub(super) fn of_libtorch(text: &str) -> Self {
        // It appends its C++ call stack, which says nothing to a person.
        let mut lines = text.lines().map(str::trim);
        let first = lines.find(|line| !line.is_empty());
        let message = format!("libtorch: {}", first.unwrap_or("unknown error"));
        // The words of its allocators, for the processor and for CUDA.
        let of_memory = [
            "can't allocate memory",
            "not enough memory",
            "out of memory",
        ];
        match of_memory.iter().any(|words| text.contains(words)) {
            true => Self::Memory(message),
            false => Self::Internal(message),
        }
    }

    /// Says which cells were being computed: the first of them, and how many they were.
    pub(super) fn in_cells(self, first: &str, count: usize) -> Self {
        self.in_some(first, count, "cells")
    }

    /// Says which prompts were being prefilled: the first of them, and how many they were.
    pub(super) fn in_prompts(self, first: &str, count: usize) -> Self {
        self.in_some(&format!("prefilling {first}"), count, "prompts")
    }

    fn in_some(self, first: &str, count: usize, noun: &str) -> Self {
        let with = |problem: String| match count {
            0 | 1 => format!("{first}: {problem}"),
            count => format!("{first} and {} more {noun}: {problem}", count - 1),
        };
        match self {
            Self::Memory(problem) => Self::Memory(with(problem)),
            Self::Internal(problem) => Self::Internal(with(problem)),
            other => other,
        }
    }

    pub(super) fn read(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Read {
            path: path.to_path_buf(),
            problem: problem.to_string(),
        }
    }

    pub(super) fn invalid(path: &Path, problem: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.to_path_buf(),
            problem: problem.into(),
        }
    }

    pub(super) fn unsupported(
        path: &Path,
        what: impl Into<String>,
        supported: impl Into<String>,
    ) -> Self {
        Self::Unsupported {
            path: path.to_path_buf(),
            what: what.into(),
            supported: supported.into(),
        }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, problem } => {
                write!(f, "cannot read `{}`: {problem}", path.display())
            }
            Self::Invalid { path, problem } => write!(f, "`{}`: {problem}", path.display()),
            Self::Unsupported {
                path,
                what,
                supported,
            } => write!(
                f,
                "`{}`: {what} is not supported (supported: {supported})",
                path.display()
            ),
            Self::Tokenizer(problem) => write!(f, "tokenizer: {problem}"),
            Self::Template(problem) => write!(f, "chat template: {problem}"),
            Self::Source { location, problem } => write!(f, "model source `{location}`: {problem}"),
            Self::Hub {
                repository,
                problem,
                advice,
            } => write!(f, "hub repository `{repository}`: {problem}; {advice}"),
            Self::Memory(problem) => write!(
                f,
                "out of memory: {problem}; close other programs, bound what prefilled prompts take with `--memory`, use fewer `--threads`, or \
                 a smaller dtype for the model"
            ),
            Self::Cells { first, more: 0 } => f.write_str(first),
            Self::Cells { first, more } => write!(
                f,
                "{first} ({more} more cells like this; all others are kept)"
            ),
            Self::NeedsLibtorch => {
                f.write_str("it takes libtorch, which is loaded by `dial-engine`")
            }
            Self::Internal(problem) => f.write_str(problem),
        }
    }
}

impl std::error::Error for ModelError {}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        Self::of_libtorch(&error.to_string())
    }
}
