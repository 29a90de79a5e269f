//! What a cell may ask, checked before any work, and what is said of one that has no value.

use crate::model::cell::{Cell, Edit, Intervention, Readout};
use crate::model::config::ModelConfig;
use crate::model::hooks::HookPoint;

/// Edits that are named of a cell.
const NAMED: usize = 3;

/// Refuses what a model of these dimensions cannot do; says why.
pub(super) fn check(cell: &Cell, config: &ModelConfig) -> Result<(), String> {
    let (generated, given): (usize, &[u32]) = match &cell.readout {
        Readout::Generation { max_new_tokens, .. } => (*max_new_tokens, &[]),
        Readout::Continuation(ids) => (ids.len().saturating_sub(1), ids),
        Readout::LogOdds(ids) => (0, ids),
        _ => (0, &[]),
    };
    let length = cell.tokens.len();
    if length == 0 {
        return Err("it has no tokens".to_string());
    }
    if length + generated > config.context_length {
        return Err(format!(
            "{length} tokens and {generated} to generate exceed the model's context of {}",
            config.context_length
        ));
    }
    let d_vocab = config.d_vocab;
    let mut ids = cell.tokens.ids().iter().chain(given);
    if let Some(id) = ids.find(|&&id| id as usize >= d_vocab) {
        return Err(format!(
            "token id {id} is outside the vocabulary of {d_vocab}"
        ));
    }
    for i in &cell.interventions {
        check_edit(i, config)?;
        check_position(i.positions.first(), length + generated, length)?;
    }
    if let Some(hook) = cell.readout.hook() {
        check_hook(hook, config)?;
    }
    match cell.readout {
        Readout::Divergence { epsilon } if !epsilon.is_finite() || epsilon < 0.0 => Err(format!(
            "ε = {epsilon:?} of a divergence must be a finite number, 0 or more"
        )),
        Readout::Activation { position, .. } => check_position(position, length, length),
        _ => Ok(()),
    }
}

fn check_edit(intervention: &Intervention, config: &ModelConfig) -> Result<(), String> {
    let hook = intervention.hook;
    check_hook(hook, config)?;
    if !hook.is_editable() {
        return Err(format!("`{hook}` can be read but not edited"));
    }
    let widths = intervention.edit.vectors().map(|v| v.values().len());
    let d_model = config.d_model;
    match widths.into_iter().find(|width| *width != d_model) {
        Some(width) => Err(format!(
            "a vector of {width} elements cannot edit `{hook}`, which has {d_model}"
        )),
        None => Ok(()),
    }
}

fn check_position(position: usize, end: usize, length: usize) -> Result<(), String> {
    match position < end {
        true => Ok(()),
        false => Err(format!(
            "position {position} is outside a prompt of {length} tokens"
        )),
    }
}

fn check_hook(hook: HookPoint, config: &ModelConfig) -> Result<(), String> {
    let HookPoint::Block { layer, .. } = hook else {
        return Ok(());
    };
    let n_layers = config.n_layers;
    if layer >= n_layers {
        return Err(format!(
            "`{hook}` does not exist: the model has {n_layers} layers"
        ));
    }
    match hook.is_in(config) {
        true => Ok(()),
        false => Err(format!(
            "`{hook}` does not exist: block {layer} of a `{}` has {}",
            config.family.name(),
            config.sites(layer)
        )),
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
    let edits = cell.interventions.iter().take(NAMED).map(|i| {
        let place = match i.hook {
            HookPoint::Block { layer, .. } => format!("layer {layer} (`{}`)", i.hook),
            hook => format!("`{hook}`"),
        };
        match &i.edit {
            Edit::Add { scale, .. } => format!("{place}, α = {scale:?}"),
            Edit::Ablate(_) => format!("{place}, ablated"),
            Edit::Replace(_) => format!("{place}, patched"),
            Edit::AblateSpan(vectors) => format!("{place}, {} directions ablated", vectors.len()),
            Edit::SetLevel { level, .. } => format!("{place}, set to {level:?}"),
            Edit::Rotate { degrees, .. } => format!("{place}, turned to {degrees:?}°"),
        }
    });
    let more = cell.interventions.len().saturating_sub(NAMED);
    let more = (more > 0).then(|| format!("and {more} more edits"));
    let parts = [cell.tokens.label()].into_iter().chain(edits).chain(more);
    parts.collect::<Vec<String>>().join(", ")
}
