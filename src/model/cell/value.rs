//! Values of cells, the bytes they are kept as, and what cannot be one.

use super::Readout;
use crate::model::config::ModelConfig;

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A score, log-odds, or the log-probability of a text.
    Score(f64),
    /// Natural-log probabilities, in the order asked.
    LogProbabilities(Vec<f32>),
    /// A vector, `[width]`.
    Activation(Vec<f32>),
    Generation(Vec<u32>),
    /// Of one token or a mean over several.
    Divergence {
        /// Of the unedited distribution to the edited one.
        nats: f64,
        /// The share of the tokens at which both prefer the same.
        agreement: f64,
    },
}

impl Value {
    /// The bytes kept in the cache: a tag, then little-endian numbers.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        fn tagged<const N: usize>(tag: u8, items: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
            std::iter::once(tag).chain(items.flatten()).collect()
        }
        match self {
            Value::Score(score) => tagged(0, std::iter::once(score.to_le_bytes())),
            Value::LogProbabilities(values) => tagged(1, values.iter().map(|v| v.to_le_bytes())),
            Value::Activation(values) => tagged(2, values.iter().map(|v| v.to_le_bytes())),
            Value::Generation(ids) => tagged(3, ids.iter().map(|v| v.to_le_bytes())),
            Value::Divergence { nats, agreement } => {
                tagged(4, [nats, agreement].into_iter().map(|v| v.to_le_bytes()))
            }
        }
    }

    /// Reads what [`Value::to_bytes`] wrote; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        fn words<T>(bytes: &[u8], read: impl Fn([u8; 4]) -> T) -> Option<Vec<T>> {
            let chunks = bytes.chunks_exact(4);
            if !chunks.remainder().is_empty() {
                return None;
            }
            chunks.map(|c| Some(read(c.try_into().ok()?))).collect()
        }
        let (tag, rest) = bytes.split_first()?;
        Some(match tag {
            0 => Value::Score(f64::from_le_bytes(rest.try_into().ok()?)),
            1 => Value::LogProbabilities(words(rest, f32::from_le_bytes)?),
            2 => Value::Activation(words(rest, f32::from_le_bytes)?),
            3 => Value::Generation(words(rest, u32::from_le_bytes)?),
            4 => {
                let (nats, agreement) = rest.split_first_chunk()?;
                Value::Divergence {
                    nats: f64::from_le_bytes(*nats),
                    agreement: f64::from_le_bytes(agreement.try_into().ok()?),
                }
            }
            _ => return None,
        })
    }

    /// Whether it may be kept: every number in it is one. Log-probabilities may be −∞.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Value::Score(score) => score.is_finite(),
            Value::LogProbabilities(values) => values.iter().all(|v| !v.is_nan()),
            Value::Activation(values) => values.iter().all(|v| v.is_finite()),
            Value::Generation(_) => true,
            Value::Divergence { nats, agreement } => nats.is_finite() && agreement.is_finite(),
        }
    }

    /// Whether no evaluation leaves these bytes. Of a tag that is unknown here, perhaps a newer program's, nothing is said.
    pub(crate) fn is_impossible(bytes: &[u8]) -> bool {
        match bytes.first() {
            None => true,
            Some(0..=4) => Value::from_bytes(bytes).is_none_or(|value| !value.is_finite()),
            Some(_) => false,
        }
    }
}

impl Readout {
    /// Whether a value can be what is read of a model of these dimensions: its kind, its length, and that its numbers are finite.
    pub(crate) fn admits(&self, value: &Value, config: &ModelConfig) -> bool {
        let fits = match (self, value) {
            (
                Readout::Score(_) | Readout::LogOdds(_) | Readout::Continuation(_),
                Value::Score(_),
            ) => true,
            (Readout::Divergence { .. }, Value::Divergence { .. }) => true,
            (Readout::LogProbabilities(ids), Value::LogProbabilities(values)) => {
                ids.len() == values.len()
            }
            (
                Readout::Activation { hook, .. } | Readout::Mean { hook },
                Value::Activation(values),
            ) => values.len() == hook.width(config),
            (Readout::Generation { max_new_tokens, .. }, Value::Generation(ids)) => {
                ids.len() <= *max_new_tokens
            }
            _ => false,
        };
        fits && value.is_finite()
    }
}
