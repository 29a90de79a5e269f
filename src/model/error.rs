//! What can go wrong between a model's name and its numbers, said for the person at the keyboard.

use std::fmt;
use std::path::Path;

/// What the model room gives, or why not.
pub(crate) type Result<T, E = ModelError> = std::result::Result<T, E>;

/// An error of the model room. Its text is a lower-case fragment that says where, what and what to do.
#[derive(Debug)]
pub enum ModelError {
    /// What a model is made of, or where it should come from, is not such that it can be used.
    Unusable(String),
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

/// That a file is sound, but asks for `what`, with the value in backticks, which this program would not compute correctly. A fragment.
pub(super) fn unsupported(what: impl fmt::Display, supported: impl fmt::Display) -> String {
    format!("{what} is not supported (supported: {supported})")
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
        Self::Unusable(format!("cannot read `{}`: {problem}", path.display()))
    }

    /// What a file holds is not what it should be, or asks for what is not supported.
    pub(super) fn invalid(path: &Path, problem: impl fmt::Display) -> Self {
        Self::Unusable(format!("`{}`: {problem}", path.display()))
    }

    pub(super) fn tokenizer(problem: impl fmt::Display) -> Self {
        Self::Unusable(format!("tokenizer: {problem}"))
    }

    pub(super) fn template(problem: impl fmt::Display) -> Self {
        Self::Unusable(format!("chat template: {problem}"))
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory(problem) => write!(
                f,
                "out of memory: {problem}; close other programs, bound what prefilled prompts take with `--memory`, use fewer `--threads`, or \
                 a smaller dtype for the model"
            ),
            Self::Cells { first, more } if *more > 0 => write!(
                f,
                "{first} ({more} more cells like this; all others are kept)"
            ),
            Self::NeedsLibtorch => {
                f.write_str("it takes libtorch, which is loaded by `dial-engine`")
            }
            Self::Cells { first: text, .. } | Self::Unusable(text) | Self::Internal(text) => {
                f.write_str(text)
            }
        }
    }
}

impl std::error::Error for ModelError {}

impl From<tch::TchError> for ModelError {
    fn from(error: tch::TchError) -> Self {
        Self::of_libtorch(&error.to_string())
    }
}
