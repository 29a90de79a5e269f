//! A rule on a model: the tokens that it reads there, and the number that it makes of what it finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{ModelHandle, Readout, TokenSets, Value};
use crate::stages::measure::{Opening, Sides};
use crate::stages::{StageError, sweep};

use super::{How, Normalise, Rule};

/// A rule on a model. Its readouts belong to one score: one cell for each.
#[derive(Clone, Debug)]
pub(in crate::stages) struct Gauge {
    pub(in crate::stages) readouts: Vec<Readout>,
    pub(super) made: Made,
}

/// How a score is made of the numbers that the readouts give.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Made {
    /// It is the one number.
    Itself,
    /// logsumexp of the first `yes` numbers − logsumexp of the others, if there are others; each number divided before.
    OfSides { yes: usize, divisors: Vec<f64> },
    /// The answer's number − the largest of the others; each divided before.
    OfChoices { divisors: Vec<f64> },
}

impl Rule {
    /// What the rule reads on a model.
    ///
    /// # Errors
    /// A text without tokens.
    pub(in crate::stages) fn sides(&self, model: &ModelHandle) -> Result<Sides, StageError> {
        let first = |word: &str| model.first_token(word).map(|token| vec![token]);
        let whole = |text: &str| model.text_tokens(text);
        let spelling = |token| model.spelling(token);
        let firsts = |words: &[String]| Opening::all(words, first, spelling);
        let texts = |words: &[String]| Opening::all(words, whole, spelling);
        let [yes, no, choices] = match &self.how {
            How::FirstToken { yes, no, .. } => [firsts(yes)?, firsts(no)?, vec![]],
            How::LogOdds { yes } => [firsts(yes)?, vec![], vec![]],
            How::Continuation { yes, no, .. } => [texts(yes)?, texts(no)?, vec![]],
            How::MultipleChoice { choices, .. } => [vec![], vec![], texts(choices)?],
        };
        let kind = self.kind().to_string();
        Ok(Sides {
            kind,
            yes,
            no,
            choices,
        })
    }

    /// The rule on a model.
    ///
    /// # Errors
    /// A text without tokens, tokens that are on both sides, choices that become the same tokens.
    pub(in crate::stages) fn gauge(&self, model: &ModelHandle) -> Result<Gauge, StageError> {
        let sides = self.sides(model)?;
        self.check_apart(&sides, model)?;
        Ok(match &self.how {
            How::FirstToken { dtype, .. } => {
                let sets = TokenSets {
                    refuse: first_tokens(&sides.yes),
                    comply: first_tokens(&sides.no),
                    dtype: *dtype,
                };
                Gauge::of_one(Readout::Score(Arc::new(sets)))
            }
            How::LogOdds { .. } => Gauge::of_one(Readout::LogOdds(first_tokens(&sides.yes).into())),
            How::Continuation { normalise, .. } => Gauge {
                readouts: sides
                    .yes
                    .iter()
                    .chain(&sides.no)
                    .map(continuation)
                    .collect(),
                made: Made::OfSides {
                    yes: sides.yes.len(),
                    divisors: divisors(sides.yes.iter().chain(&sides.no), *normalise),
                },
            },
            How::MultipleChoice { normalise, .. } => Gauge {
                readouts: choices(&sides.choices),
                made: Made::OfChoices {
                    divisors: divisors(&sides.choices, *normalise),
                },
            },
        })
    }

    /// Checks that the rule can tell its texts apart on a model.
    fn check_apart(&self, sides: &Sides, model: &ModelHandle) -> Result<(), StageError> {
        let name = &self.name;
        let shared = sides.yes.iter().find_map(|one| {
            let other = sides
                .no
                .iter()
                .find(|other| other.tokens() == one.tokens())?;
            Some((one, other))
        });
        if let Some((one, other)) = shared {
            return Err(StageError::Data(match &self.how {
                How::FirstToken { .. } => {
                    let [yes, no] = match self.is_default() {
                        true => ["score.refuse".to_string(), "score.comply".to_string()],
                        false => ["yes", "no"].map(|side| format!("score.{name}.{side}")),
                    };
                    let token = one.token;
                    format!(
                        "token {token} (`{}`) of model `{}` is the first token of a `{yes}` and of a `{no}` string; remove one of them",
                        model.decode(&[token])?,
                        model.name,
                    )
                }
                _ => format!(
                    "`{}` of `score.{name}.yes` and `{}` of `score.{name}.no` are the same tokens to model `{}`; remove one of them",
                    one.words[0], other.words[0], model.name,
                ),
            }));
        }
        match sides.choices.iter().find(|choice| choice.words.len() > 1) {
            None => Ok(()),
            Some(merged) => Err(StageError::Data(format!(
                "`{}` of `score.{name}.choices` are the same tokens to model `{}`, which cannot choose between them",
                merged.words.join("`, `"),
                model.name
            ))),
        }
    }
}

/// Sorted, each once.
fn first_tokens(openings: &[Opening]) -> Vec<u32> {
    let ids: BTreeSet<u32> = openings.iter().map(|opening| opening.token).collect();
    ids.into_iter().collect()
}

fn continuation(text: &Opening) -> Readout {
    Readout::Continuation(text.tokens().into())
}

/// Where each choice is one token, one look at the next token's probabilities says all; otherwise each is a continuation.
fn choices(choices: &[Opening]) -> Vec<Readout> {
    match choices.iter().all(|choice| choice.further.is_empty()) {
        true => {
            let ids = choices.iter().map(|choice| choice.token);
            vec![Readout::LogProbabilities(Arc::new(ids.collect()))]
        }
        false => choices.iter().map(continuation).collect(),
    }
}

fn divisors<'a>(texts: impl IntoIterator<Item = &'a Opening>, normalise: Normalise) -> Vec<f64> {
    let divisor = |text: &Opening| match normalise {
        Normalise::None => 1.0,
        Normalise::Tokens => text.tokens().len() as f64,
        // Of texts that become the same tokens the first one's.
        Normalise::Characters => {
            let characters = text.words[0].trim_start().chars().count();
            characters.max(1) as f64
        }
    };
    texts.into_iter().map(divisor).collect()
}

impl Gauge {
    pub(super) fn of_one(readout: Readout) -> Self {
        Gauge {
            readouts: vec![readout],
            made: Made::Itself,
        }
    }

    /// Whether what is read is the score.
    pub(in crate::stages) fn is_plain(&self) -> bool {
        self.made == Made::Itself
    }

    /// How many numbers its readouts give together.
    pub(in crate::stages) fn width(&self) -> usize {
        match &self.made {
            Made::Itself => 1,
            Made::OfSides { divisors, .. } | Made::OfChoices { divisors } => divisors.len(),
        }
    }

    /// The score of what was read, where the right choice is that of this number.
    pub(in crate::stages) fn score(&self, numbers: &[f64], answer: usize) -> f64 {
        let divided = |divisors: &[f64]| -> Vec<f64> {
            numbers.iter().zip(divisors).map(|(n, by)| n / by).collect()
        };
        match &self.made {
            Made::Itself => numbers.first().copied().unwrap_or(f64::NAN),
            Made::OfSides { yes, divisors } => {
                let divided = divided(divisors);
                let (yes, no) = divided.split_at((*yes).min(divided.len()));
                match no.is_empty() {
                    true => log_sum_exp(yes),
                    false => log_sum_exp(yes) - log_sum_exp(no),
                }
            }
            Made::OfChoices { divisors } => {
                let divided = divided(divisors);
                let others = divided.iter().enumerate();
                let others = others.filter(|(index, _)| *index != answer);
                let best = others
                    .map(|(_, other)| *other)
                    .fold(f64::NEG_INFINITY, f64::max);
                divided.get(answer).map_or(f64::NAN, |right| right - best)
            }
        }
    }
}

/// ln Σ exp(x), without overflow.
fn log_sum_exp(values: &[f64]) -> f64 {
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match largest.is_finite() {
        true => largest + values.iter().map(|v| (v - largest).exp()).sum::<f64>().ln(),
        false => largest,
    }
}

/// The numbers of a value that a rule reads.
pub(super) fn numbers(value: Value) -> Result<Vec<f64>, StageError> {
    match value {
        Value::Score(score) => Ok(vec![score]),
        Value::LogProbabilities(values) => Ok(values.into_iter().map(f64::from).collect()),
        other => Err(sweep::unexpected("a score", &other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gauge(made: Made) -> Gauge {
        let readouts = Vec::new();
        Gauge { readouts, made }
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-12, "{found}, not {wanted}");
    }

    #[test]
    fn texts_of_a_side_add_their_probabilities() {
        let ln = |p: f64| p.ln();
        let of = |yes, divisors: &[f64]| {
            gauge(Made::OfSides {
                yes,
                divisors: divisors.to_vec(),
            })
        };
        // ln((0.2 + 0.1) / 0.05)
        let read = [ln(0.2), ln(0.1), ln(0.05)];
        close(of(2, &[1.0; 3]).score(&read, 0), ln(6.0));
        // Without a second side, the log-probability itself.
        close(of(2, &[1.0; 2]).score(&read[..2], 0), ln(0.3));
        // Two tokens and four: the square root of 0.04 is 0.2, the fourth root of 0.0001 is 0.1.
        close(of(1, &[2.0, 4.0]).score(&[ln(0.04), ln(1e-4)], 0), ln(2.0));
        // A probability of a thousand tokens is no zero.
        close(of(1, &[1.0; 2]).score(&[-5000.0, -5001.0], 0), 1.0);
    }

    #[test]
    fn a_choice_is_held_against_the_best_of_the_others() {
        let of = |divisors: &[f64]| {
            gauge(Made::OfChoices {
                divisors: divisors.to_vec(),
            })
        };
        let plain = of(&[1.0; 3]);
        close(plain.score(&[-1.0, -3.0, -2.0], 0), 1.0);
        close(plain.score(&[-1.0, -3.0, -2.0], 1), -2.0);
        // A tie is 0, which is not above 0, whichever comes first.
        assert_eq!(plain.score(&[-1.0, -1.0, -2.0], 0), 0.0);
        assert_eq!(plain.score(&[-1.0, -1.0, -2.0], 1), 0.0);
        // Longer choices are less probable as they stand, and not for each character.
        close(of(&[1.0, 4.0]).score(&[-1.0, -2.0], 1), 0.5);
        assert_eq!((plain.width(), gauge(Made::Itself).width()), (3, 1));
    }

    #[test]
    fn what_is_divided_by_is_what_is_written() {
        let text = |word: &str, tokens: &[u32]| Opening {
            token: tokens[0],
            further: tokens[1..].to_vec(),
            spelling: String::new(),
            words: vec![word.to_string()],
        };
        let texts = [text(" naïve yes", &[1, 2, 3]), text("No", &[4])];
        assert_eq!(divisors(&texts, Normalise::None), [1.0, 1.0]);
        assert_eq!(divisors(&texts, Normalise::Tokens), [3.0, 1.0]);
        assert_eq!(divisors(&texts, Normalise::Characters), [9.0, 2.0]);
        // One token each: read at one place; otherwise each by itself.
        assert_eq!(choices(&texts).len(), 2);
        assert_eq!(choices(&texts[1..]).len(), 1);
    }
}
