//! The parts of a selection: their words, and which tokens of a prompt each is.

use std::ops::Range;

use crate::model::Positions;

use super::Layout;

/// A part of a selection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Counted from the start, or, below 0, from the end: −1 is the last token of the prompt.
    Index(i64),
    /// From the first index to before the second; to the end of the prompt where there is none.
    Window(i64, Option<i64>),
    /// The last token of the instruction, before what the template writes behind it.
    InstructionEnd,
    /// Each token that the template writes behind the instruction.
    PostInstruction,
    /// Every token of the prompt, and every generated one.
    All,
    /// Every generated token.
    Generated,
}

impl Part {
    /// The positions in a prompt of so many tokens.
    ///
    /// # Errors
    /// An index that the prompt does not have.
    pub(super) fn range(&self, layout: &Layout, length: usize) -> Result<Range<usize>, i64> {
        let end = length as i64;
        let from_start = |index: i64| match index < 0 {
            true => end + index,
            false => index,
        };
        let inside = |index: i64| from_start(index).clamp(0, end) as usize;
        let behind = layout.behind() as i64;
        Ok(match *self {
            Part::Index(index) => match from_start(index) {
                at if (0..end).contains(&at) => at as usize..at as usize + 1,
                _ => return Err(index),
            },
            Part::Window(start, last) => inside(start)..last.map_or(length, inside),
            Part::InstructionEnd => Part::Index(-behind - 1).range(layout, length)?,
            Part::PostInstruction => {
                inside(-behind)..match behind {
                    0 => inside(0),
                    _ => length,
                }
            }
            Part::All => 0..Positions::OPEN,
            Part::Generated => length..Positions::OPEN,
        })
    }

    pub(super) fn parsed(text: &str) -> Option<Self> {
        Some(match text {
            "last" => Part::Index(-1),
            "instruction_end" => Part::InstructionEnd,
            "post_instruction" => Part::PostInstruction,
            "all" => Part::All,
            "generated" => Part::Generated,
            _ => {
                let (start, end) = text.split_once("..")?;
                let number = |text: &str| match text.trim() {
                    "" => Some(None),
                    digits => digits.parse::<i64>().ok().map(Some),
                };
                let (start, end) = (number(start)?, number(end)?);
                if start.is_none() && end.is_none() {
                    return None;
                }
                Part::Window(start.unwrap_or(0), end)
            }
        })
    }

    /// Whether a window holds nothing whatever the prompt.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Part::Window(start, Some(end)) => (*start < 0) == (*end < 0) && start >= end,
            _ => false,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Part::Index(index) => write!(f, "{index}"),
            Part::Window(start, None) => write!(f, "{start}.."),
            Part::Window(start, Some(end)) => write!(f, "{start}..{end}"),
            Part::InstructionEnd => f.write_str("instruction_end"),
            Part::PostInstruction => f.write_str("post_instruction"),
            Part::All => f.write_str("all"),
            Part::Generated => f.write_str("generated"),
        }
    }
}

pub(super) const WORDS: [&str; 5] = [
    "last",
    "instruction_end",
    "post_instruction",
    "all",
    "generated",
];
