//! Whether the texts that a stage gives to a model have only tokens that the model has an embedding for.

use std::collections::BTreeSet;

use crate::model::Readout;
use crate::spec::{Location, Problems};

use super::{Inputs, Needs, sweep};

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

/// Checks the first tokens of the score words, which are rows of the unembedding.
pub(crate) fn check_score(
    readout: &Readout,
    model: &crate::model::ModelHandle,
    at: &Location,
    problems: &mut Problems,
) {
    let Readout::Score(sets) = readout else {
        return;
    };
    let ids: Vec<u32> = sets.refuse.iter().chain(&sets.comply).copied().collect();
    if let Some(token) = model.without_embedding(&ids) {
        let message = format!(
            "{token} is the first token of a score word, and model `{}` has no row for it",
            model.name
        );
        problems
            .error_at(at, message)
            .label("the score rule")
            .help("use the tokenizer that belongs to the weights, or other words");
    }
}
