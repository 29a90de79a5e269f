//! Whether the texts that a stage gives to a model have only tokens that the model has an embedding for.

use std::collections::BTreeSet;

use crate::model::{ModelHandle, Readout};
use crate::spec::{Location, Problems};

use super::rules::{How, Rule};
use super::{Inputs, Needs, StageError, sweep};

/// Checks the prompts of a stage, as its models see them. `told` holds the models, prompt sets and chats of the stages before. Only a model
/// whose tokenizer and embedding disagree costs anything.
pub(crate) fn check_prompts(
    needs: &Needs,
    inputs: &Inputs,
    told: &mut BTreeSet<[String; 3]>,
    problems: &mut Problems,
) {
    let Some(chat) = &needs.chat else {
        return;
    };
    for name in &needs.models {
        let model = inputs.models.get(&name.value);
        let Some(model) = model.filter(|model| model.lacks_embeddings()) else {
            continue;
        };
        for set in &needs.prompts {
            let Some(prompts) = inputs.prompts.get(&set.value) else {
                continue;
            };
            if !told.insert([
                name.value.clone(),
                set.value.clone(),
                chat.key().to_string(),
            ]) {
                continue;
            }
            // What cannot be tokenised is told elsewhere.
            let Ok(tokens) = sweep::tokens_in(model, prompts, chat) else {
                continue;
            };
            let pairs = prompts.prompts.iter().zip(&tokens);
            let wrong = pairs.filter_map(|(prompt, tokens)| {
                Some((&prompt.id, model.without_embedding(tokens.ids())?))
            });
            let wrong: Vec<(&String, String)> = wrong.collect();
            if let Some((id, token)) = wrong.first() {
                let message = format!(
                    "prompt `{id}` of `{set}` has {token}, for which model `{name}` has no embedding"
                );
                let (n, all, rows) = (wrong.len(), tokens.len(), model.config().d_vocab);
                let tokenizer = "the tokenizer that belongs to the weights";
                problems
                    .error_at(&name.at, message)
                    .label(format!("its embedding has {rows} rows"))
                    .note(format!("so it is with {n} of {all} prompts"))
                    .help(format!("use {tokenizer}, or leave these prompts out"));
            }
        }
    }
}

/// Checks the tokens that a score rule reads, which are rows of the unembedding; those of a continuation of the embedding, too.
pub(crate) fn check_rule(
    rule: &Rule,
    model: &ModelHandle,
    at: &Location,
    problems: &mut Problems,
) -> Result<(), StageError> {
    let gauge = rule.gauge(model)?;
    let ids = gauge.readouts.iter().flat_map(|readout| match readout {
        Readout::Score(sets) => [&sets.refuse[..], &sets.comply[..]].concat(),
        Readout::LogOdds(ids) | Readout::Continuation(ids) => ids.to_vec(),
        Readout::LogProbabilities(ids) => ids.to_vec(),
        _ => vec![],
    });
    if let Some(token) = model.without_embedding(&ids.collect::<Vec<u32>>()) {
        let whose = match rule.how {
            How::FirstToken { .. } | How::LogOdds { .. } => "the first token of a score word",
            _ => "a token of a text",
        };
        let message = format!(
            "{token} is {whose}, and model `{}` has no row for it",
            model.name
        );
        problems
            .error_at(at, message)
            .label("the score rule")
            .help("use the tokenizer that belongs to the weights, or other words");
    }
    Ok(())
}
