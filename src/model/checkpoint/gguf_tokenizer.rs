//! The tokenizer inside a GGUF file: byte-level BPE, rebuilt from the vocabulary, the merges and the name of the
//! pre-tokeniser.
//!
//! The file names the rule that cuts a text into pieces (`tokenizer.ggml.pre`) but does not hold it. The rules below
//! are those of the models' own `tokenizer.json`, which llama.cpp follows too; Qwen2's also composes the text (NFC),
//! as its `tokenizer.json` does. A wrong rule would give wrong ids without a sign, so unknown names are refused.

mod recorded;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

pub(super) use recorded::GgufRules;

use super::gguf_metadata::{Metadata, invalid};
use crate::model::checkpoint::Memory;
use crate::model::error::unsupported;
use crate::model::tokenizer::{Source, Tokenizer};

/// The pre-tokenisers known here, as error messages list them.
const SUPPORTED_PRE: &str = "`gpt-2`, `smollm`, `qwen2`, `llama-bpe`";

/// Token types of the GGUF specification that are matched as a whole wherever they stand in a text.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The most tokens of a vocabulary; the largest known has 262,144.
const MOST_TOKENS: u64 = 1 << 21;
/// The most merges; the largest known list has 514,906.
const MOST_MERGES: u64 = 1 << 22;
/// The most tokens that are matched as a whole; every text is searched for all of them.
const MOST_WHOLE_TOKENS: usize = 1 << 16;

/// How a text is cut into the pieces that are then merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum PreTokenizer {
    #[serde(rename = "gpt-2")]
    Gpt2,
    /// GPT-2's rule after every digit stands alone.
    #[serde(rename = "smollm")]
    SmolLm,
    /// Digits alone, letters with one leading mark, contractions in any case; text composed (NFC) first.
    #[serde(rename = "qwen2")]
    Qwen2,
    /// As Qwen2, but up to three digits together, no NFC, and whole words of the vocabulary are not merged anew.
    #[serde(rename = "llama-bpe")]
    Llama3,
}

impl PreTokenizer {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "gpt-2" => Some(Self::Gpt2),
            "smollm" => Some(Self::SmolLm),
            "qwen2" => Some(Self::Qwen2),
            "llama-bpe" | "llama3" | "llama-v3" => Some(Self::Llama3),
            _ => None,
        }
    }

    fn build(self) -> tokenizers::Result<PreTokenizerWrapper> {
        let digits = match self {
            Self::Gpt2 => return Ok(ByteLevel::new(false, true, true).into()),
            Self::SmolLm => {
                let bytes = ByteLevel::new(false, true, true);
                let steps = vec![Digits::new(true).into(), bytes.into()];
                return Ok(Sequence::new(steps).into());
            }
            Self::Qwen2 => r"\p{N}",
            Self::Llama3 => r"\p{N}{1,3}",
        };
        let pattern = [
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
            r"[^\r\n\p{L}\p{N}]?\p{L}+",
            digits,
            r" ?[^\s\p{L}\p{N}]+[\r\n]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ];
        let pattern = SplitPattern::Regex(pattern.join("|"));
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
        let steps = vec![split.into(), ByteLevel::new(false, true, false).into()];
        Ok(Sequence::new(steps).into())
    }
}

/// What the tokenizer is made of.
struct Parts {
    pre: PreTokenizer,
    tokens: Vec<String>,
    /// One per token, or none at all.
    types: Vec<i64>,
    merges: Vec<String>,
}

pub(super) fn tokenizer(
    metadata: &Metadata,
    memory: &dyn Memory,
) -> Result<Arc<Tokenizer>, String> {
    let parts = parts(metadata)?;
    let source = Source {
        hash: parts.hash(),
        length: parts.length(),
        make: Box::new(|| parts.library_tokenizer()),
    };
    Tokenizer::new(source, memory)
}

fn parts(metadata: &Metadata) -> Result<Parts, String> {
    let model = metadata.text("tokenizer.ggml.model")?.unwrap_or("none");
    if model != "gpt2" {
        return Err(unsupported(
            format!("tokenizer `{model}`"),
            "`gpt2`, which is byte-level BPE; for others use the Hugging Face folder",
        ));
    }
    let name = metadata.text("tokenizer.ggml.pre")?.unwrap_or("none");
    let pre = PreTokenizer::from_name(name)
        .ok_or_else(|| unsupported(format!("pre-tokeniser `{name}`"), SUPPORTED_PRE))?;
    let types_key = "tokenizer.ggml.token_type";
    let parts = Parts {
        pre,
        types: metadata.integers(types_key, MOST_TOKENS)?,
        tokens: metadata.texts("tokenizer.ggml.tokens", MOST_TOKENS)?,
        merges: metadata.texts("tokenizer.ggml.merges", MOST_MERGES)?,
    };
    let (types, tokens) = (parts.types.len(), parts.tokens.len());
    if types != 0 && types != tokens {
        let problem = format!("has {types} entries, expected one for each of the {tokens} tokens");
        return Err(invalid(types_key, &problem));
    }
    let whole = |kind: &&i64| [CONTROL, USER_DEFINED].contains(kind);
    let whole = parts.types.iter().filter(whole).count();
    if whole > MOST_WHOLE_TOKENS {
        let problem = format!(
            "has `{whole}` control and user-defined tokens, expected at most {MOST_WHOLE_TOKENS}"
        );
        return Err(invalid(types_key, &problem));
    }
    Ok(parts)
}

impl Parts {
    /// Of its texts, in bytes.
    fn length(&self) -> usize {
        let texts = self.tokens.iter().chain(&self.merges);
        texts.map(String::len).sum()
    }

    fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("dial gguf tokenizer v1");
        hasher.update(&[self.pre as u8]);
        for texts in [&self.tokens, &self.merges] {
            hasher.update(&(texts.len() as u64).to_le_bytes());
            for text in texts {
                hasher.update(&(text.len() as u64).to_le_bytes());
                hasher.update(text.as_bytes());
            }
        }
        for kind in &self.types {
            hasher.update(&kind.to_le_bytes());
        }
        hasher.finalize()
    }

    fn library_tokenizer(self) -> tokenizers::Result<tokenizers::Tokenizer> {
        let of_type = |wanted: i64| -> Vec<AddedToken> {
            let token =
                |text: &String| AddedToken::from(text.clone(), wanted == CONTROL).normalized(false);
            let typed = self.tokens.iter().zip(&self.types);
            let typed = typed.filter(|(_, kind)| **kind == wanted);
            typed.map(|(text, _)| token(text)).collect()
        };
        let (special, whole) = (of_type(CONTROL), of_type(USER_DEFINED));
        let n_tokens = self.tokens.len();
        let vocab: Vocab = self.tokens.into_iter().zip(0u32..).collect();
        if vocab.len() != n_tokens {
            return Err("the vocabulary lists a token twice".into());
        }
        let pairs = self.merges.iter().map(|merge| merge.split_once(' '));
        let pairs = pairs.map(|pair| pair.map(|(one, next)| (one.to_string(), next.to_string())));
        let merges: Option<Vec<(String, String)>> = pairs.collect();
        let merges = merges.ok_or("a merge is not two tokens with a space between")?;
        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .ignore_merges(self.pre == PreTokenizer::Llama3)
            .build()?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        if self.pre == PreTokenizer::Qwen2 {
            tokenizer.with_normalizer(Some(NFC))?;
        }
        tokenizer.with_pre_tokenizer(Some(self.pre.build()?));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_special_tokens(special)?;
        tokenizer.add_tokens(whole)?;
        Ok(tokenizer)
    }
}

/// The special tokens that a chat template may name.
pub(super) fn special_tokens(
    metadata: &Metadata,
    tokenizer: &Tokenizer,
) -> Result<BTreeMap<String, String>, String> {
    let mut tokens = BTreeMap::new();
    for (name, key) in [
        ("bos_token", "bos_token_id"),
        ("eos_token", "eos_token_id"),
        ("unk_token", "unknown_token_id"),
        ("pad_token", "padding_token_id"),
    ] {
        if let Some(id) = metadata.token_id(key)? {
            let key = format!("tokenizer.ggml.{key}");
            let text = tokenizer.token(id).map_err(|error| error.to_string())?;
            let text = text.ok_or_else(|| invalid(&key, "is not an id of the vocabulary"))?;
            tokens.insert(name.to_string(), text);
        }
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    /// The pieces that a rule cuts `text` into, in the text's own letters.
    fn pieces<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let rule = PreTokenizer::from_name(name).unwrap().build().unwrap();
        let mut cut = PreTokenizedString::from(text);
        rule.pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits
            .iter()
            .map(|(_, (start, end), _)| &text[*start..*end])
            .collect()
    }

    #[test]
    fn each_rule_cuts_as_its_model_was_trained() {
        let text = "I'M 1234 cafés!!\n\n  x's";
        assert_eq!(
            pieces("gpt-2", text),
            ["I", "'", "M", " 1234", " cafés", "!!", "\n\n ", " x", "'s"]
        );
        assert_eq!(
            pieces("smollm", text),
            [
                "I", "'", "M", " ", "1", "2", "3", "4", " cafés", "!!", "\n\n ", " x", "'s"
            ]
        );
        assert_eq!(
            pieces("qwen2", text),
            [
                "I", "'M", " ", "1", "2", "3", "4", " cafés", "!!\n\n", " ", " x", "'s"
            ]
        );
        for name in ["llama-bpe", "llama3", "llama-v3"] {
            assert_eq!(
                pieces(name, text),
                [
                    "I", "'M", " ", "123", "4", " cafés", "!!\n\n", " ", " x", "'s"
                ]
            );
        }
    }

    fn parts(pre: PreTokenizer, tokens: &[&str], types: Vec<i64>, merges: &[&str]) -> Parts {
        Parts {
            pre,
            tokens: tokens.iter().map(ToString::to_string).collect(),
            types,
            merges: merges.iter().map(ToString::to_string).collect(),
        }
    }

    fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text, false).unwrap().get_ids().to_vec()
    }

    #[test]
    fn control_and_user_defined_tokens_are_whole_and_only_control_ones_are_special() {
        let tokens = ["a", "b", "<end>", "ab", "<tool>"];
        let built = parts(PreTokenizer::Gpt2, &tokens, vec![1, 1, 3, 1, 4], &["a b"])
            .library_tokenizer()
            .unwrap();
        let ids = encode(&built, "ab<end><tool>a");
        assert_eq!(ids, [3, 2, 4, 0]);
        assert_eq!(built.decode(&ids, true).unwrap(), "ab<tool>a");
        assert_eq!(built.decode(&ids, false).unwrap(), "ab<end><tool>a");
    }

    #[test]
    fn llama3_takes_whole_words_and_qwen2_composes() {
        // `abc` is in the vocabulary, but no merge leads to it.
        let tokens = ["a", "b", "c", "abc", "Ã", "©", "Ã©"];
        let llama = parts(PreTokenizer::Llama3, &tokens, vec![], &["Ã ©"])
            .library_tokenizer()
            .unwrap();
        assert_eq!(encode(&llama, "abc"), [3]);
        let qwen = parts(PreTokenizer::Qwen2, &tokens, vec![], &["Ã ©"])
            .library_tokenizer()
            .unwrap();
        assert_eq!(encode(&qwen, "abc"), [0, 1, 2]);
        // An e with a combining accent would be other bytes than é; the vocabulary has only é's.
        assert_eq!(encode(&qwen, "e\u{301}"), [6]);
        assert_ne!(encode(&llama, "e\u{301}"), [6]);
    }

    #[test]
    fn the_hash_covers_every_part() {
        let base = || {
            parts(
                PreTokenizer::Gpt2,
                &["a", "b", "ab"],
                vec![1, 1, 1],
                &["a b"],
            )
        };
        let hash = base().hash();
        assert_eq!(hash, base().hash());
        for other in [
            Parts {
                pre: PreTokenizer::SmolLm,
                ..base()
            },
            Parts {
                tokens: vec!["a".into(), "b".into(), "ba".into()],
                ..base()
            },
            Parts {
                types: vec![1, 1, 4],
                ..base()
            },
            Parts {
                merges: vec!["b a".into()],
                ..base()
            },
        ] {
            assert_ne!(other.hash(), hash);
        }
    }
}
