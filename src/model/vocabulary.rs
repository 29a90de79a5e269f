//! Whether a model's tokenizer and its embedding go together. The tokenizer may name fewer ids than there are rows, as padded embeddings do;
//! more of them are of no harm as long as no text uses one.

use super::config::ModelConfig;
use super::tokenizer::Tokenizer;

/// The tokenizer's largest id, if it is beyond the embedding.
pub(super) fn largest_beyond(tokenizer: &Tokenizer, config: &ModelConfig) -> Option<u32> {
    let largest = tokenizer.largest_id();
    largest.filter(|id| *id as usize >= config.d_vocab)
}

/// What a reader should know of it; `beyond` is [`largest_beyond`], and `ends` are the tokens that end a text.
pub(super) fn findings(
    tokenizer: &Tokenizer,
    config: &ModelConfig,
    beyond: Option<u32>,
    ends: &[u32],
) -> Vec<String> {
    let rows = config.d_vocab;
    let mut findings = Vec::new();
    if let Some(largest) = beyond {
        let token = tokenizer.token(largest).unwrap_or_default();
        findings.push(format!(
            "its tokenizer has tokens up to {largest} (`{token}`), but its embedding has {rows} rows: prompts and score words must do without \
             those from {rows} on"
        ));
    }
    let unreachable: Vec<String> = ends
        .iter()
        .filter(|id| **id as usize >= rows)
        .map(u32::to_string)
        .collect();
    if !unreachable.is_empty() {
        let consequence = match unreachable.len() == ends.len() {
            true => "no text ends before its longest length",
            false => "no text ends there",
        };
        findings.push(format!(
            "its end-of-text token {} is beyond its vocabulary of {rows}: {consequence}",
            unreachable.join(", ")
        ));
    }
    findings
}
