//! What a cell may ask, checked before any work, and what is said of one that has no value.

use crate::model::cell::{Cell, Edit, Readout};
use crate::model::config::ModelConfig;
use crate::model::hooks::HookPoint;

/// Refuses what a model of these dimensions cannot do; says why.
pub(super) fn check(cell: &Cell, config: &ModelConfig) -> Result<(), String> {
    let generated = match cell.readout {
        Readout::Generation { max_new_tokens, .. } => max_new_tokens,
        _ => 0,
    };
    let refuse = Err;
    let length = cell.tokens.len();
    if length == 0 {
        return refuse("it has no tokens".to_string());
    }
    if length + generated > config.context_length {
        return refuse(format!(
            "{length} tokens and {generated} to generate exceed the model's context of {}",
            config.context_length
        ));
    }
    if let Some(id) = cell
        .tokens
        .ids()
        .iter()
        .find(|&&id| id as usize >= config.d_vocab)
    {
        return refuse(format!(
            "token id {id} is outside the vocabulary of {}",
            config.d_vocab
        ));
    }
    for i in &cell.interventions {
        check_hook(i.hook, config.n_layers)?;
        if !i.hook.is_editable() {
            return refuse(format!("`{}` can be read but not edited", i.hook));
        }
        let (Edit::Add { vector, .. } | Edit::Ablate(vector) | Edit::Replace(vector)) = &i.edit;
        if vector.values().len() != config.d_model {
            return refuse(format!(
                "a vector of {} elements cannot edit `{}`, which has {}",
                vector.values().len(),
                i.hook,
                config.d_model
            ));
        }
        if i.positions.first() >= length + generated {
            return refuse(format!(
                "position {} is outside a prompt of {length} tokens",
                i.positions.first()
            ));
        }
    }
    match cell.readout {
        Readout::Activation { hook, position } => {
            check_hook(hook, config.n_layers)?;
            if position >= length {
                return refuse(format!(
                    "position {position} is outside a prompt of {length} tokens"
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn check_hook(hook: HookPoint, n_layers: usize) -> Result<(), String> {
    match hook {
        HookPoint::Block { layer, .. } if layer >= n_layers => Err(format!(
            "`{hook}` does not exist: the model has {n_layers} layers"
        )),
        _ => Ok(()),
    }
}

/// What is said of a cell whose numbers leave the range of their format.
pub(super) fn not_finite(cell: &Cell) -> String {
    let advice = match cell.interventions.is_empty() {
        true => "look for NaN in the model's weights, or use float32",
        false => "try float32 or a smaller α",
    };
    format!("{}: a value is not finite; {advice}", described(cell))
}

/// A cell as a person would name it: prompt, layer and α.
pub(super) fn described(cell: &Cell) -> String {
    let edits = cell.interventions.iter().map(|i| {
        let place = match i.hook {
            HookPoint::Block { layer, .. } => format!("layer {layer} (`{}`)", i.hook),
            hook => format!("`{hook}`"),
        };
        match &i.edit {
            Edit::Add { scale, .. } => format!("{place}, α = {scale:?}"),
            Edit::Ablate(_) => format!("{place}, ablated"),
            Edit::Replace(_) => format!("{place}, patched"),
        }
    });
    let parts: Vec<String> = [cell.tokens.label()].into_iter().chain(edits).collect();
    parts.join(", ")
}
