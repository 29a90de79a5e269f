//! What a model is asked for each measure, and what is read of it.

use std::sync::Arc;

use crate::model::{ModelHandle, Readout, Sampling, Tokens, Value};
use crate::prompts::{LETTERS, Prompt, PromptSet, Question};
use crate::stages::rules::{Readings, Reads};
use crate::stages::{Evaluate, Inputs, Settings, StageError, sweep};

use super::data::{Answers, Divergence, Effect, Kl, Of, Questions, Texts};
use super::grid::{Bench, Item, Reading};

/// In both logarithms of refusal_direction's divergence.
const EPSILON: f64 = 1e-6;
/// Tokens of an answer in which heretic's common beginning is looked for.
pub(super) const BEGINNING: usize = 32;

/// What is asked, and what a reader should know of it.
pub(super) struct Asked<'a> {
    pub(super) items: Vec<Item<'a>>,
    pub(super) findings: Vec<String>,
}

/// Prompts of a set in the chat.
struct InChat<'a> {
    prompts: Vec<&'a Prompt>,
    tokens: Vec<Arc<Tokens>>,
}

/// The prompts of a measure.
fn taken<'a>(of: &Of, inputs: &'a Inputs) -> Result<(&'a PromptSet, Vec<usize>), StageError> {
    let set = inputs.prompt_set(&of.prompts)?;
    Ok((set, of.chosen(set)))
}

impl<'a> InChat<'a> {
    fn of(
        of: &Of,
        (model, settings): (&ModelHandle, &Settings),
        inputs: &'a Inputs,
    ) -> Result<Self, StageError> {
        let (set, chosen) = taken(of, inputs)?;
        let some = PromptSet {
            prompts: chosen.iter().map(|&i| set.prompts[i].clone()).collect(),
            notes: Vec::new(),
            public: None,
        };
        Ok(InChat {
            prompts: chosen.iter().map(|&index| &set.prompts[index]).collect(),
            tokens: sweep::tokens_in(model, &some, &settings.chat)?,
        })
    }

    /// What the unedited model answers, the most probable token each time, without the token that ends an answer.
    fn answers(
        &self,
        (max_new_tokens, stop_at_end): (usize, bool),
        bench: &Bench<'_>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Vec<u32>>, StageError> {
        let model = bench.model;
        let readout = Readout::Generation {
            max_new_tokens,
            sampling: Sampling::Greedy,
            stop_at_end,
            further_ends: match stop_at_end {
                true => model.further_ends().into(),
                false => Arc::default(),
            },
        };
        let cells = self.tokens.iter();
        let cells: Vec<_> = cells
            .map(|tokens| bench.unedited(tokens, readout.clone()))
            .collect();
        let ends = model.end_of_text();
        let answer = |value| match value {
            Value::Generation(mut ids) => {
                if stop_at_end && ids.last().is_some_and(|id| ends.contains(id)) {
                    ids.pop();
                }
                Ok(ids)
            }
            other => Err(sweep::unexpected("an answer", &other)),
        };
        evaluator
            .evaluate(&cells)?
            .into_iter()
            .map(answer)
            .collect()
    }
}

/// Of each prompt the divergence of the next token, or of that behind what all answers begin with.
pub(super) fn of_kl<'a>(
    kl: &Kl,
    bench: &Bench<'_>,
    inputs: &'a Inputs,
    evaluator: &mut dyn Evaluate,
) -> Result<Asked<'a>, StageError> {
    let InChat { prompts, tokens } = InChat::of(&kl.of, (bench.model, bench.settings), inputs)?;
    let mut findings = Vec::new();
    let mut beginning = Vec::new();
    if *kl.variant == Divergence::Heretic {
        let chat = InChat {
            prompts: Vec::new(),
            tokens: tokens.clone(),
        };
        beginning = common_beginning(&chat.answers((BEGINNING, true), bench, evaluator)?);
        findings.push(match beginning.is_empty() {
            true => "the unedited answers have no common beginning, so that the divergence is of their first token".to_string(),
            false => format!(
                "the unedited answers all begin with `{}`, and the divergence is of the token behind that",
                bench.model.decode(&beginning)?.escape_debug()
            ),
        });
    }
    let epsilon = match *kl.variant {
        Divergence::RefusalDirection => EPSILON,
        Divergence::NextToken | Divergence::Heretic => 0.0,
    };
    let item = |(prompt, asked): (&'a Prompt, Arc<Tokens>)| Item {
        prompt,
        readings: vec![Reading {
            tokens: match beginning.is_empty() {
                true => Arc::clone(&asked),
                false => Arc::new(asked.continued(&beginning)),
            },
            readout: Readout::Divergence { epsilon },
        }],
        asked,
        whole: None,
        is_plain: false,
    };
    Ok(Asked {
        items: prompts.into_iter().zip(tokens).map(item).collect(),
        findings,
    })
}

/// The tokens that all answers begin with, as long as each goes on behind them; none of a single answer, which tells nothing of others.
fn common_beginning(answers: &[Vec<u32>]) -> Vec<u32> {
    let Some((first, others)) = answers.split_first().filter(|(_, o)| !o.is_empty()) else {
        return Vec::new();
    };
    let shortest = answers.iter().map(Vec::len).min().unwrap_or(0);
    let is_common = |&place: &usize| others.iter().all(|other| other[place] == first[place]);
    let common = (0..shortest.saturating_sub(1)).take_while(is_common);
    first[..common.count()].to_vec()
}

/// Of each text the log-probability of every token after the first.
pub(super) fn of_texts<'a>(
    texts: &Texts,
    bench: &Bench<'_>,
    inputs: &'a Inputs,
) -> Result<Asked<'a>, StageError> {
    let (set, chosen) = taken(&texts.of, inputs)?;
    let most = texts
        .max_tokens
        .value
        .min(bench.model.config().context_length);
    let (mut items, mut without) = (Vec::new(), Vec::new());
    for index in chosen {
        let prompt = &set.prompts[index];
        let mut ids = plain_tokens(bench.model, texts.start.as_deref(), &prompt.text, prompt)?;
        ids.truncate(most);
        let Some((first, rest)) = ids.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            without.push(prompt.id.as_str());
            continue;
        };
        let asked = Arc::new(Tokens::new(vec![*first])).labelled(&prompt.id);
        items.push(Item {
            prompt,
            readings: vec![continuation(&asked, rest)],
            whole: Some(Arc::new(Tokens::new(ids.clone()))),
            asked,
            is_plain: true,
        });
    }
    found(
        items,
        left_out(&without, "without a token after the first"),
        &texts.of,
    )
}

/// Of each prompt the log-probability of the unedited model's own answer.
pub(super) fn of_answers<'a>(
    answers: &Answers,
    bench: &Bench<'_>,
    inputs: &'a Inputs,
    evaluator: &mut dyn Evaluate,
) -> Result<Asked<'a>, StageError> {
    let chat = InChat::of(&answers.of, (bench.model, bench.settings), inputs)?;
    let how = (answers.max_new_tokens.value, answers.stop_at_end.0);
    let written = chat.answers(how, bench, evaluator)?;
    let (mut items, mut without) = (Vec::new(), Vec::new());
    for ((prompt, asked), answer) in chat.prompts.into_iter().zip(chat.tokens).zip(written) {
        if answer.is_empty() {
            without.push(prompt.id.as_str());
            continue;
        }
        items.push(Item {
            prompt,
            readings: vec![continuation(&asked, &answer)],
            asked,
            whole: None,
            is_plain: false,
        });
    }
    found(
        items,
        left_out(&without, "to which the unedited model answers nothing"),
        &answers.of,
    )
}

/// Of each question the log-probability of each choice.
pub(super) fn of_questions<'a>(
    asked: &Questions,
    bench: &Bench<'_>,
    inputs: &'a Inputs,
) -> Result<(Asked<'a>, Vec<Question>), StageError> {
    let (set, chosen) = taken(&asked.of, inputs)?;
    let questions = asked.of_prompts(set, &chosen)?;
    let model = bench.model;
    let mut items = Vec::new();
    for (index, question) in chosen.into_iter().zip(&questions) {
        let prompt = &set.prompts[index];
        let text = asked.form.asked(&prompt.text, question);
        let tokens = match asked.in_chat {
            true => model
                .tokens(&text, &bench.settings.chat)
                .map_err(|error| StageError::Data(format!("prompt `{}`: {error}", prompt.id)))?,
            false => {
                let ids = plain_tokens(model, asked.start.as_deref(), &text, prompt)?;
                Arc::new(Tokens::new(ids))
            }
        };
        let tokens = tokens.labelled(&prompt.id);
        let texts = asked.form.choices(question, asked.in_chat);
        let choices = choices_of(model, prompt, &texts)?;
        fits(model, prompt, &tokens, choices.iter().map(Vec::len).max())?;
        items.push(Item {
            prompt,
            readings: readings_of(&tokens, &choices),
            asked: tokens,
            whole: None,
            is_plain: !asked.in_chat,
        });
    }
    Ok((found(items, Vec::new(), &asked.of)?, questions))
}

/// The tokens of each choice.
///
/// # Errors
/// Choices that a model cannot tell apart.
fn choices_of(
    model: &ModelHandle,
    prompt: &Prompt,
    texts: &[String],
) -> Result<Vec<Vec<u32>>, StageError> {
    let told = |error| StageError::Data(format!("prompt `{}`: {error}", prompt.id));
    let ids = texts
        .iter()
        .map(|text| model.text_tokens(text).map_err(told));
    let ids = ids.collect::<Result<Vec<Vec<u32>>, StageError>>()?;
    for (place, one) in ids.iter().enumerate() {
        if let Some(other) = ids[..place].iter().position(|other| other == one) {
            return Err(StageError::Data(format!(
                "prompt `{}`: the choices `{}` and `{}` are the same tokens to model `{}`, which cannot choose between them",
                prompt.id, texts[other], texts[place], model.name
            )));
        }
    }
    Ok(ids)
}

/// Where each choice is one token, one look at the next token's probabilities says all; otherwise each is read by itself.
fn readings_of(tokens: &Arc<Tokens>, choices: &[Vec<u32>]) -> Vec<Reading> {
    let single: Option<Vec<u32>> = choices
        .iter()
        .map(|ids| match ids[..] {
            [only] => Some(only),
            _ => None,
        })
        .collect();
    match single {
        Some(ids) => vec![Reading {
            tokens: Arc::clone(tokens),
            readout: Readout::LogProbabilities(Arc::new(ids)),
        }],
        None => choices
            .iter()
            .map(|ids| continuation(tokens, ids))
            .collect(),
    }
}

impl super::data::Form {
    /// The text that a model is asked.
    fn asked(self, text: &str, question: &Question) -> String {
        let mut asked = text.trim().to_string();
        if self == Self::Letters {
            for (letter, choice) in LETTERS.chars().zip(&question.choices) {
                asked += &format!("\n{letter}. {choice}");
            }
            asked += "\nAnswer:";
        }
        asked
    }

    /// What is compared behind it; behind the chat's generation prompt no space comes first.
    pub(super) fn choices(self, question: &Question, in_chat: bool) -> Vec<String> {
        let space = if in_chat { "" } else { " " };
        let letters = LETTERS.chars().map(|letter| letter.to_string());
        let texts = question
            .choices
            .iter()
            .map(|choice| choice.trim().to_string());
        let all = question.choices.len();
        let written: Vec<String> = match self {
            Self::Letters => letters.take(all).collect(),
            Self::Continuations => texts.collect(),
        };
        written
            .into_iter()
            .map(|choice| format!("{space}{choice}"))
            .collect()
    }
}

/// Of each prompt what its score is made of.
pub(super) fn of_effect<'a>(
    effect: &Effect,
    bench: &Bench<'_>,
    (reads, inputs): (&Reads, &'a Inputs),
) -> Result<(Asked<'a>, Readings), StageError> {
    let InChat { prompts, tokens } = InChat::of(&effect.of, (bench.model, bench.settings), inputs)?;
    let readings = reads.on(bench.model)?;
    let item = |(prompt, asked): (&'a Prompt, Arc<Tokens>)| Item {
        prompt,
        readings: readings
            .readouts
            .iter()
            .map(|readout| Reading {
                tokens: Arc::clone(&asked),
                readout: readout.clone(),
            })
            .collect(),
        asked,
        whole: None,
        is_plain: false,
    };
    let items = prompts.into_iter().zip(tokens).map(item).collect();
    Ok((found(items, Vec::new(), &effect.of)?, readings))
}

fn continuation(asked: &Arc<Tokens>, ids: &[u32]) -> Reading {
    Reading {
        tokens: Arc::clone(asked),
        readout: Readout::Continuation(ids.into()),
    }
}

/// The tokens of a text without the chat, and what is written before it.
fn plain_tokens(
    model: &ModelHandle,
    start: Option<&str>,
    text: &str,
    prompt: &Prompt,
) -> Result<Vec<u32>, StageError> {
    let whole = format!("{}{text}", start.unwrap_or_default());
    let tokens = model.text_tokens(&whole);
    tokens.map_err(|error| StageError::Data(format!("prompt `{}`: {error}", prompt.id)))
}

/// Checks that a question fits a model with the longest choice.
fn fits(
    model: &ModelHandle,
    prompt: &Prompt,
    tokens: &Tokens,
    longest: Option<usize>,
) -> Result<(), StageError> {
    let (length, most) = (
        tokens.len() + longest.unwrap_or(0),
        model.config().context_length,
    );
    match length <= most {
        true => Ok(()),
        false => Err(StageError::Data(format!(
            "prompt `{}` has {length} tokens with its choices, but model `{}` reads at most {most}; shorten it or leave it out",
            prompt.id, model.name
        ))),
    }
}

/// What is asked; there is something to ask.
fn found<'a>(
    items: Vec<Item<'a>>,
    findings: Vec<String>,
    of: &Of,
) -> Result<Asked<'a>, StageError> {
    match items.is_empty() {
        false => Ok(Asked { items, findings }),
        true => Err(StageError::Data(format!(
            "no prompt of `{}` can be measured{}",
            of.prompts.value,
            findings
                .first()
                .map_or(String::new(), |told| format!(": {told}"))
        ))),
    }
}

/// What to say of prompts that are left out, and why.
fn left_out(ids: &[&str], why: &str) -> Vec<String> {
    let prompts = match ids.len() {
        0 => return Vec::new(),
        1 => "prompt is".to_string(),
        _ => "prompts are".to_string(),
    };
    let named = ids[..ids.len().min(3)].join("`, `");
    vec![format!(
        "{} {prompts} left out, {why}: `{named}`",
        ids.len()
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_all_answers_begin_with_leaves_a_token_of_each() {
        let of = |answers: &[&[u32]]| {
            let answers: Vec<Vec<u32>> = answers.iter().map(|a| a.to_vec()).collect();
            common_beginning(&answers)
        };
        assert_eq!(of(&[&[1, 2, 3], &[1, 2, 4]]), [1, 2]);
        assert_eq!(of(&[&[1, 2], &[1, 2]]), [1]);
        assert!(of(&[&[1, 2], &[3, 2]]).is_empty());
        assert!(of(&[&[1, 2], &[]]).is_empty());
        assert!(of(&[&[1, 2]]).is_empty());
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn a_question_is_put_as_mmlu_puts_it() {
        use super::super::data::Form;
        let question = Question {
            choices: ["red", "blue"].map(str::to_string).to_vec(),
            answer: 1,
        };
        let text = " Which colour has the sky?\n";
        assert_eq!(
            Form::Letters.asked(text, &question),
            "Which colour has the sky?\nA. red\nB. blue\nAnswer:"
        );
        assert_eq!(Form::Letters.choices(&question, false), [" A", " B"]);
        assert_eq!(Form::Letters.choices(&question, true), ["A", "B"]);
        assert_eq!(Form::Continuations.asked(text, &question), text.trim());
        assert_eq!(
            Form::Continuations.choices(&question, false),
            [" red", " blue"]
        );
    }

    #[test]
    fn choices_of_one_token_are_read_at_once() {
        let tokens = Arc::new(Tokens::new(vec![1, 2]));
        assert_eq!(readings_of(&tokens, &[vec![3], vec![4]]).len(), 1);
        assert_eq!(readings_of(&tokens, &[vec![3], vec![4, 5]]).len(), 2);
    }
}
