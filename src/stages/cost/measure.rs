//! From the values of cells to what is measured, over all prompts of a measure.

use crate::model::Value;
use crate::prompts::{Prompt, Question};
use crate::stages::rules::{Readings, Rule};
use crate::stages::{StageError, sweep};
use crate::stats::{self, Interval};

use std::sync::Arc;

/// What was read of the items of a measure in one run, by item and reading.
type Read = [Vec<Value>];

/// A mean with its interval over prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mean {
    pub(super) value: f64,
    /// None of fewer than two prompts.
    pub(super) interval: Option<Interval>,
}

impl Mean {
    fn of(values: &[f64]) -> Result<Self, StageError> {
        Ok(Mean {
            value: stats::mean(values)?.unwrap_or(f64::NAN),
            interval: stats::bootstrap_mean(values, 0)?,
        })
    }

    /// Of what each part has as many of as `counts` says.
    fn weighted(sums: &[f64], counts: &[f64]) -> Result<Self, StageError> {
        Ok(Mean {
            value: sums.iter().sum::<f64>() / counts.iter().sum::<f64>(),
            interval: stats::bootstrap_ratio(sums, counts, 0)?,
        })
    }

    /// Of its exponential.
    pub(super) fn exp(self) -> Self {
        Mean {
            value: self.value.exp(),
            interval: self.interval.map(|ends| Interval {
                low: ends.low.exp(),
                high: ends.high.exp(),
            }),
        }
    }
}

/// How far the next token's distribution moved.
#[derive(Clone, Debug)]
pub(super) struct Moved {
    /// By prompt: nats, and whether the most probable token is the same.
    pub(super) each: Vec<(f64, bool)>,
    pub(super) mean: Mean,
    pub(super) median: f64,
    pub(super) p95: f64,
    /// Share of the prompts whose most probable token is the same.
    pub(super) same: f64,
}

impl Moved {
    pub(super) fn of(read: &Read) -> Result<Self, StageError> {
        let pair = |values: &Vec<Value>| match values.first() {
            Some(Value::Divergence { nats, agreement }) => Ok((*nats, *agreement == 1.0)),
            other => Err(odd("a divergence", other)),
        };
        let each: Vec<(f64, bool)> = read.iter().map(pair).collect::<Result<_, _>>()?;
        let nats: Vec<f64> = each.iter().map(|(nats, _)| *nats).collect();
        let at =
            |percent| Ok::<_, StageError>(stats::percentile(&nats, percent)?.unwrap_or(f64::NAN));
        Ok(Moved {
            mean: Mean::of(&nats)?,
            median: at(50.0)?,
            p95: at(95.0)?,
            same: share(each.iter().map(|(_, same)| *same)),
            each,
        })
    }
}

/// How improbable texts are.
#[derive(Clone, Debug)]
pub(super) struct Loss {
    /// By text: −ln p of its tokens together, and how many they are.
    pub(super) each: Vec<(f64, usize)>,
    /// Cross-entropy: nats a token, over all tokens.
    pub(super) mean: Mean,
    /// The same less that of the unedited run.
    pub(super) change: Mean,
}

impl Loss {
    /// Of texts of so many tokens, beside what was read of them unedited.
    pub(super) fn of(read: &Read, unedited: &Read, tokens: &[usize]) -> Result<Self, StageError> {
        let (lost, before) = (losses(read)?, losses(unedited)?);
        let counts: Vec<f64> = tokens.iter().map(|&count| count as f64).collect();
        let changes: Vec<f64> = lost.iter().zip(&before).map(|(a, b)| a - b).collect();
        Ok(Loss {
            mean: Mean::weighted(&lost, &counts)?,
            change: Mean::weighted(&changes, &counts)?,
            each: lost.into_iter().zip(tokens.iter().copied()).collect(),
        })
    }
}

/// −ln p of each text.
fn losses(read: &Read) -> Result<Vec<f64>, StageError> {
    let of = |values: &Vec<Value>| match values.first() {
        Some(Value::Score(score)) => Ok(-score),
        other => Err(odd("the probability of a text", other)),
    };
    read.iter().map(of).collect()
}

/// What was chosen for one question.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) chosen: usize,
    pub(super) answer: usize,
    /// Of the right one among the choices.
    pub(super) p_correct: f64,
}

impl Choice {
    pub(super) fn is_right(&self) -> bool {
        self.chosen == self.answer
    }

    /// Of the choices' log-probabilities: the largest, of equal ones the first.
    fn of(logs: &[f64], answer: usize) -> Self {
        let mut chosen = 0;
        for (place, log) in logs.iter().enumerate() {
            if *log > logs[chosen] {
                chosen = place;
            }
        }
        let largest = logs[chosen];
        let of_largest = |log: &f64| match largest.is_finite() {
            true => (log - largest).exp(),
            // Where none has any probability, all have the same.
            false => 1.0,
        };
        let all: f64 = logs.iter().map(of_largest).sum();
        Choice {
            chosen,
            answer,
            p_correct: of_largest(&logs[answer]) / all,
        }
    }
}

/// How many questions are answered right.
#[derive(Clone, Debug)]
pub(super) struct Accuracy {
    pub(super) each: Vec<Choice>,
    pub(super) right: u64,
    /// Wilson's.
    pub(super) interval: Option<Interval>,
    /// Mean probability of the right choice among the choices.
    pub(super) p_correct: f64,
    /// Share of the questions of which the unedited model chooses the same.
    pub(super) same: f64,
    /// Questions that only the unedited model answers right, and that only the edited one does.
    pub(super) lost: u64,
    pub(super) won: u64,
}

impl Accuracy {
    pub(super) fn of(
        read: &Read,
        unedited: &Read,
        questions: &[Question],
    ) -> Result<Self, StageError> {
        let (each, before) = (chosen(read, questions)?, chosen(unedited, questions)?);
        let pairs = || before.iter().zip(&each);
        let changed = |from: bool, to: bool| {
            let is_so = |(a, b): &(&Choice, &Choice)| a.is_right() == from && b.is_right() == to;
            pairs().filter(is_so).count() as u64
        };
        let right = each.iter().filter(|choice| choice.is_right()).count() as u64;
        let p_correct: Vec<f64> = each.iter().map(|choice| choice.p_correct).collect();
        Ok(Accuracy {
            right,
            interval: stats::wilson(right, each.len() as u64)?,
            p_correct: stats::mean(&p_correct)?.unwrap_or(f64::NAN),
            same: share(pairs().map(|(a, b)| a.chosen == b.chosen)),
            lost: changed(true, false),
            won: changed(false, true),
            each,
        })
    }

    pub(super) fn rate(&self) -> f64 {
        self.right as f64 / self.each.len() as f64
    }

    /// That rate less that of the unedited run.
    pub(super) fn change(&self) -> f64 {
        (self.won as f64 - self.lost as f64) / self.each.len() as f64
    }

    pub(super) fn p(&self) -> f64 {
        stats::mcnemar(self.lost, self.won)
    }
}

fn chosen(read: &Read, questions: &[Question]) -> Result<Vec<Choice>, StageError> {
    let of = |(values, question): (&Vec<Value>, &Question)| {
        let mut logs: Vec<f64> = Vec::new();
        for value in values {
            match value {
                Value::LogProbabilities(all) => logs.extend(all.iter().map(|&log| f64::from(log))),
                Value::Score(log) => logs.push(*log),
                other => return Err(odd("the probability of a choice", Some(other))),
            }
        }
        match logs.len() == question.choices.len() {
            true => Ok(Choice::of(&logs, question.answer)),
            false => Err(odd("a probability of each choice", None)),
        }
    };
    read.iter().zip(questions).map(of).collect()
}

/// What the edit does to scores.
#[derive(Clone, Debug)]
pub(super) struct Scores {
    pub(super) each: Vec<f64>,
    pub(super) mean: Mean,
    /// Less that of the same prompt unedited.
    pub(super) change: Mean,
    /// How many count by the rule.
    pub(super) count: u64,
    /// Wilson's.
    pub(super) interval: Option<Interval>,
}

impl Scores {
    pub(super) fn of(
        (read, unedited): (&Read, &Read),
        (rule, readings): (&Arc<Rule>, &Readings),
        prompts: &[&Prompt],
    ) -> Result<Self, StageError> {
        let scores = |read: &Read| -> Result<Vec<f64>, StageError> {
            let values = read.iter().flatten().cloned();
            let rules = std::slice::from_ref(rule);
            let mut scores = readings.scores(rules, values, prompts.iter().copied())?;
            Ok(scores.swap_remove(0))
        };
        let (each, before) = (scores(read)?, scores(unedited)?);
        let changes: Vec<f64> = each.iter().zip(&before).map(|(a, b)| a - b).collect();
        let count = each.iter().filter(|score| rule.counts(**score)).count() as u64;
        Ok(Scores {
            mean: Mean::of(&each)?,
            change: Mean::of(&changes)?,
            interval: stats::wilson(count, each.len() as u64)?,
            count,
            each,
        })
    }
}

fn share(of: impl Iterator<Item = bool>) -> f64 {
    let (mut yes, mut all) = (0.0, 0.0);
    for is_so in of {
        yes += f64::from(u8::from(is_so));
        all += 1.0;
    }
    yes / all
}

fn odd(wanted: &str, found: Option<&Value>) -> StageError {
    match found {
        Some(found) => sweep::unexpected(wanted, found),
        None => StageError::Internal(format!("expected {wanted}, found nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(answer: usize) -> Question {
        Question {
            choices: ["a", "b", "c"].map(str::to_string).to_vec(),
            answer,
        }
    }

    #[test]
    fn of_equal_choices_the_first_is_taken() {
        let quarter = 0.25_f64.ln();
        let choice = Choice::of(&[quarter, 0.5_f64.ln(), 0.5_f64.ln()], 2);
        assert_eq!((choice.chosen, choice.is_right()), (1, false));
        assert!((choice.p_correct - 0.4).abs() < 1e-15, "{choice:?}");
        // Among the choices, whatever else is probable.
        let choice = Choice::of(&[-800.0, -800.0 - 2.0_f64.ln()], 0);
        assert!((choice.p_correct - 2.0 / 3.0).abs() < 1e-12, "{choice:?}");
        let none = Choice::of(&[f64::NEG_INFINITY; 4], 3);
        assert_eq!((none.chosen, none.p_correct), (0, 0.25));
    }

    #[test]
    fn answers_that_changed_are_counted_both_ways() {
        let logs = |best: usize| {
            let mut logs = vec![-2.0_f32; 3];
            logs[best] = -1.0;
            vec![Value::LogProbabilities(logs)]
        };
        let questions = [0, 1, 2, 0].map(question);
        let before = [0, 1, 0, 1].map(logs);
        let after = [0, 0, 2, 2].map(logs);
        let found = Accuracy::of(&after, &before, &questions).unwrap();
        assert_eq!((found.right, found.lost, found.won), (2, 1, 1));
        assert_eq!((found.change(), found.p(), found.same), (0.0, 1.0, 0.25));
        let same = Accuracy::of(&before, &before, &questions).unwrap();
        assert_eq!((same.change(), same.p(), same.same), (0.0, 1.0, 1.0));
    }

    #[test]
    fn every_token_counts_the_same() {
        let read = |scores: &[f64]| -> Vec<Vec<Value>> {
            scores
                .iter()
                .map(|score| vec![Value::Score(*score)])
                .collect()
        };
        let found = Loss::of(&read(&[-2.0, -6.0]), &read(&[-1.0, -6.0]), &[1, 3]).unwrap();
        // (2 + 6) / (1 + 3) and (1 + 0) / 4; the mean over texts would be 2 and 1/2.
        assert_eq!((found.mean.value, found.change.value), (2.0, 0.25));
        assert_eq!(found.mean.exp().value, 2.0_f64.exp());
        // Resamples of two texts: both the same, or one of each.
        let ends = found.change.interval.unwrap();
        assert_eq!((ends.low, ends.high), (0.0, 1.0));
    }

    #[test]
    fn a_divergence_is_told_in_full() {
        let value = |nats, agreement| vec![Value::Divergence { nats, agreement }];
        let found = Moved::of(&[value(0.0, 1.0), value(0.5, 0.0), value(0.1, 1.0)]).unwrap();
        assert!((found.mean.value - 0.2).abs() < 1e-15);
        assert_eq!(found.median, 0.1);
        assert!((found.p95 - 0.46).abs() < 1e-12, "{found:?}");
        assert!((found.same - 2.0 / 3.0).abs() < 1e-15);
        assert!(Moved::of(&[vec![Value::Score(1.0)]]).is_err());
    }
}
