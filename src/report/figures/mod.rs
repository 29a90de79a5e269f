//! The figures of a study, each from the run's own tables, by kind of stage.
//!
//! Wherever a learned direction is drawn, so is what random directions do there: a grey band from the lowest to the highest of them,
//! and their mean as a broken line.

mod direction;
mod generate;
mod operating;
mod patch;
mod readable;
mod score;
mod sweep;
mod sweep_gap;
mod sweep_types;
mod swept;
#[cfg(test)]
mod tests;

use super::{Figure, FinishedRun};
use swept::{Baseline, Splits};
pub(super) use swept::{distinct, points};

/// Every figure of a run, in the order of its stages.
pub(crate) fn figures(run: &FinishedRun) -> Vec<Figure> {
    let context = Context {
        run,
        baseline: Baseline::of(run, false),
        splits: Splits::of(run),
    };
    let mut figures = Vec::new();
    for stage in &run.stages {
        figures.extend(match stage.kind.as_str() {
            "score" => score::figures(stage),
            "patch" => patch::figures(stage),
            "direction" => direction::figures(stage),
            "steer" | "random" => sweep::figures(&context, stage),
            "holdout" => {
                let mut figures = direction::figures(stage);
                figures.extend(sweep::figures(&context, stage));
                figures
            }
            "xstest" => sweep_types::figures(&context, stage),
            "summary" => operating::figures(stage),
            "generate" => generate::figures(stage),
            _ => Vec::new(),
        });
    }
    figures.into_iter().map(readable::readable).collect()
}

/// What the figures of sweeps have in common.
struct Context<'a> {
    run: &'a FinishedRun,
    baseline: Baseline<'a>,
    splits: Splits,
}

/// The label of an axis of α.
const ALPHA: &str = "α (length added along the unit direction)";
/// The label of an axis of scores.
const SCORE: &str = "mean score (logit difference)";
/// The label of an axis of refusal rates.
const RATE: &str = "refusal rate";

/// The suffix of a figure's name where a stage has several models. A model may be called anything, a file may not: what could lead out of
/// the folder is replaced, and the model's place then keeps names apart.
fn suffix(models: &[String], model: &str) -> String {
    if models.len() < 2 {
        return String::new();
    }
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if model.chars().all(is_plain) {
        return format!(".{model}");
    }
    let plain = model.replace(|c: char| !is_plain(c), "_");
    let place = models.iter().position(|known| known == model);
    format!(".{plain}-{}", place.unwrap_or_default())
}

/// What a title says of the model where a stage has several.
fn of_model(models: &[String], model: &str) -> String {
    match models.len() {
        0 | 1 => String::new(),
        _ => format!(", model {model}"),
    }
}
