//! What a cell may ask, checked before any work, and what a value must be, checked before it is kept.

use crate::model::cell::{Cell, Edit, Readout, Value};
use crate::model::config::ModelConfig;
use crate::model::error::ModelError;
use crate::model::hooks::HookPoint;

type Result<T> = std::result::Result<T, ModelError>;

/// Refuses what a model of these dimensions cannot do.
pub(super) fn check(cell: &Cell, config: &ModelConfig) -> Result<()> {
    let generated = match cell.readout {
        Readout::Generation { max_new_tokens, .. } => max_new_tokens,
        _ => 0,
    };
    let refuse = |message: String| Err(ModelError::Cell(message));
    let length = cell.tokens.len();
    if length == 0 {
        return refuse("a prompt has no tokens".to_string());
    }
    if length + generated > config.context_length {
        return refuse(format!(
            "a prompt of {length} tokens and {generated} to generate exceed the model's context of {}",
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

fn check_hook(hook: HookPoint, n_layers: usize) -> Result<()> {
    match hook {
        HookPoint::Block { layer, .. } if layer >= n_layers => Err(ModelError::Cell(format!(
            "`{hook}` does not exist: the model has {n_layers} layers"
        ))),
        _ => Ok(()),
    }
}

/// Whether a value may be kept. One that is not finite never reaches the cache.
pub(super) fn is_finite(value: &Value) -> bool {
    match value {
        Value::Score(score) => score.is_finite(),
        Value::LogProbabilities(values) => values.iter().all(|v| !v.is_nan()),
        Value::Activation(values) => values.iter().all(|v| v.is_finite()),
        Value::Generation(_) => true,
    }
}

/// The error of a cell whose numbers leave the range of their format.
pub(super) fn not_finite(cell: &Cell) -> ModelError {
    let advice = match cell.interventions.is_empty() {
        true => "look for NaN in the model's weights, or use float32",
        false => "try float32 or a smaller α",
    };
    ModelError::Cell(format!(
        "{}: a value is not finite; {advice}",
        described(cell)
    ))
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
