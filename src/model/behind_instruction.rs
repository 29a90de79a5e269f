//! What a chat template writes behind an instruction, in tokens.

use super::chat::Chat;
use super::error::Result;
use super::handle::ModelHandle;

/// What a chat template writes behind an instruction, on a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BehindInstruction {
    /// So many tokens, whatever the instruction.
    pub(crate) tokens: usize,
    /// Whether the last token of an instruction may be one with the first of them.
    pub(crate) can_merge: bool,
}

/// Instructions that end in a letter, which nothing that a template writes is known to join, and others that end in what might be joined.
const IN_LETTERS: [&str; 3] = ["Why", "3 is a number", "Name it"];
const OTHERWISE: [&str; 6] = ["Why?", "It is so.", "3 + 5", "(so it is)", "\"so\"", "So!"];

impl ModelHandle {
    /// How many tokens all instructions have behind them in this chat: the longest end that the token ids of several with nothing in common share.
    ///
    /// # Errors
    /// As [`ModelHandle::tokens`].
    pub(crate) fn behind_instruction(&self, chat: &Chat) -> Result<BehindInstruction> {
        let all = |texts: &[&str]| -> Result<Vec<Vec<u32>>> {
            texts.iter().map(|text| self.encoded(text, chat)).collect()
        };
        let mut encoded = all(&IN_LETTERS)?;
        let behind_letters = common_end(&encoded);
        encoded.extend(all(&OTHERWISE)?);
        // Where a vocabulary has none of these words they end alike, too.
        let most = self
            .tokens_behind(IN_LETTERS[0], chat)?
            .unwrap_or(usize::MAX);
        let behind_letters = behind_letters.min(most);
        let tokens = common_end(&encoded).min(most);
        Ok(BehindInstruction {
            tokens,
            can_merge: tokens < behind_letters,
        })
    }
}

/// The length of the longest end that all lists share.
fn common_end(lists: &[Vec<u32>]) -> usize {
    let Some((first, others)) = lists.split_first() else {
        return 0;
    };
    let shared = |other: &Vec<u32>| {
        let pairs = first.iter().rev().zip(other.iter().rev());
        pairs.take_while(|(a, b)| a == b).count()
    };
    others.iter().map(shared).min().unwrap_or(first.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_that_all_share() {
        let lists = [vec![1, 2, 3, 4], vec![9, 3, 4], vec![5, 4]];
        assert_eq!(common_end(&lists[..2]), 2);
        assert_eq!(common_end(&lists), 1);
        assert_eq!(common_end(&[]), 0);
    }
}
