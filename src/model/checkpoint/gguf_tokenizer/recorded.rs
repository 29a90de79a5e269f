//! The tokenizer of a GGUF file where the file is not: as a `tokenizer.json`, and the little that this does not say.
//!
//! What is set up of it is not what the `tokenizer.json` asks for, but what the GGUF file would: vocabulary and merges are taken out of it, and
//! the rest follows from the rules. So the hash, too, is that of the GGUF file's tokenizer, made of the content, and cannot be claimed. A
//! `tokenizer.json` that says something else beside, which another program would follow, is refused when the tokenizer is set up.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{CONTROL, USER_DEFINED};
use super::{MOST_MERGES, MOST_TOKENS, MOST_WHOLE_TOKENS, Parts, PreTokenizer, parts};
use crate::model::checkpoint::Memory;
use crate::model::checkpoint::gguf_metadata::Metadata;
use crate::model::json;
use crate::model::tokenizer::{Source, Tokenizer};

/// What a `tokenizer.json` does not say of the GGUF tokenizer that it was made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::model::checkpoint) struct GgufRules {
    pre: PreTokenizer,
    /// The types of the tokens, in the order of their ids: how many have which. Empty where the file gives none.
    types: Vec<(u32, i64)>,
}

/// What of a `tokenizer.json` the parts are taken from.
#[derive(Deserialize)]
struct File {
    model: Vocabulary,
}

#[derive(Deserialize)]
struct Vocabulary {
    vocab: HashMap<String, u32>,
    merges: Vec<(String, String)>,
}

impl GgufRules {
    /// The `tokenizer.json` of a GGUF file, and what it does not say.
    ///
    /// # Errors
    /// A tokenizer that cannot be written down so. A fragment.
    pub(in crate::model::checkpoint) fn of(metadata: &Metadata) -> Result<(Vec<u8>, Self), String> {
        let parts = parts(metadata)?;
        let hash = parts.hash();
        let rules = GgufRules {
            pre: parts.pre,
            types: runs(&parts.types),
        };
        let text = parts
            .library_tokenizer()
            .and_then(|made| made.to_string(false));
        let text = text.map_err(|error| error.to_string())?;
        match rules.parts(&text)?.hash() == hash {
            true => Ok((text.into_bytes(), rules)),
            false => Err(
                "its tokenizer lists a merge twice, and cannot be written as `tokenizer.json`"
                    .to_string(),
            ),
        }
    }

    /// The tokenizer that a `tokenizer.json` and these rules came from.
    ///
    /// # Errors
    /// They came from none. A fragment.
    pub(in crate::model::checkpoint) fn tokenizer(
        &self,
        text: String,
        memory: &dyn Memory,
    ) -> Result<Arc<Tokenizer>, String> {
        let parts = self.parts(&text)?;
        let source = Source {
            hash: parts.hash(),
            length: text.len(),
            make: Box::new(move || {
                let made = parts.library_tokenizer()?;
                match made.to_string(false)? == text {
                    true => Ok(made),
                    false => Err(
                        "it says something else than the GGUF tokenizer that it was made of".into(),
                    ),
                }
            }),
        };
        Tokenizer::new(source, memory)
    }

    fn parts(&self, text: &str) -> Result<Parts, String> {
        let Vocabulary { vocab, merges } = json::read::<File>(text)?.model;
        if vocab.len() as u64 > MOST_TOKENS || merges.len() as u64 > MOST_MERGES {
            return Err(format!(
                "it has `{}` tokens and `{}` merges, expected at most {MOST_TOKENS} and {MOST_MERGES}",
                vocab.len(),
                merges.len()
            ));
        }
        let mut tokens: Vec<(u32, String)> =
            vocab.into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        if !tokens
            .iter()
            .zip(0u32..)
            .all(|((id, _), expected)| *id == expected)
        {
            return Err("the ids of its tokens do not count from 0 on".to_string());
        }
        Ok(Parts {
            pre: self.pre,
            types: self.types(tokens.len())?,
            tokens: tokens.into_iter().map(|(_, token)| token).collect(),
            merges: merges
                .into_iter()
                .map(|(one, next)| format!("{one} {next}"))
                .collect(),
        })
    }

    /// The type of each token.
    fn types(&self, tokens: usize) -> Result<Vec<i64>, String> {
        let count = |wanted: fn(i64) -> bool| -> u64 {
            let runs = self.types.iter().filter(|(_, kind)| wanted(*kind));
            runs.map(|(count, _)| u64::from(*count)).sum()
        };
        let all = count(|_| true);
        if all != 0 && all != tokens as u64 {
            return Err(format!(
                "types of `{all}` tokens, expected one for each of the {tokens} tokens"
            ));
        }
        let whole = count(|kind| [CONTROL, USER_DEFINED].contains(&kind));
        if whole > MOST_WHOLE_TOKENS as u64 {
            return Err(format!(
                "`{whole}` control and user-defined tokens, expected at most {MOST_WHOLE_TOKENS}"
            ));
        }
        let runs = self.types.iter();
        Ok(runs
            .flat_map(|(count, kind)| std::iter::repeat_n(*kind, *count as usize))
            .collect())
    }
}

/// Equal numbers that follow each other as how many, and which.
fn runs(numbers: &[i64]) -> Vec<(u32, i64)> {
    let runs = numbers.chunk_by(|one, next| one == next);
    runs.map(|run| (run.len() as u32, run[0])).collect()
}
