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

/// A value that is not finite is an error here, so that it never reaches the cache.
pub(super) fn finite(cell: &Cell, value: &Value) -> Result<()> {
    let good = match value {
        Value::Score(score) => score.is_finite(),
        Value::LogProbabilities(values) => values.iter().all(|v| !v.is_nan()),
        Value::Activation(values) => values.iter().all(|v| v.is_finite()),
        Value::Generation(_) => true,
    };
    match good {
        true => Ok(()),
        false => Err(not_finite(cell)),
    }
}

/// The error of a cell whose numbers leave the range of their format.
pub(super) fn not_finite(cell: &Cell) -> ModelError {
    let edits: Vec<String> = cell
        .interventions
        .iter()
        .map(|i| match &i.edit {
            Edit::Add { scale, .. } => format!("adding α = {scale} at `{}`", i.hook),
            Edit::Ablate(_) => format!("ablating at `{}`", i.hook),
            Edit::Replace(_) => format!("patching `{}`", i.hook),
        })
        .collect();
    ModelError::Cell(format!(
        "a value is not finite{}{}; try float32 or a smaller α",
        if edits.is_empty() { "" } else { " after " },
        edits.join(", ")
    ))
}
