//! The figures of a study, each from the run's own tables, by what stages produce (`super::views` says which); what only one kind of stage has is
//! drawn in its own file.
//!
//! Wherever a learned direction is drawn, so is what random directions do there: a grey band from the lowest to the highest of them,
//! and their mean as a broken line.

pub(super) mod generate;
pub(super) mod operating;
pub(super) mod patch;
mod readable;
pub(super) mod score;
pub(super) mod sweep;
mod sweep_gap;
pub(super) mod sweep_types;
mod swept;
#[cfg(test)]
mod tests;

use crate::stages::sweep::{Mode, Setting};
use crate::stages::{Splits, kind_named};

use super::{Figure, FinishedRun, FinishedStage};
use swept::Baseline;
pub(super) use swept::Spread;
pub(crate) use swept::{Place, Point, distinct, grouped, points};

/// Every figure of a run, in the order of its stages.
pub(crate) fn figures(run: &FinishedRun) -> Vec<Figure> {
    // The two splits that are compared: those of the run's first summary, or the default.
    let mut stages = run.stages.iter();
    let splits = stages.find_map(|stage| stage.node.splits.clone());
    let sweeps = run.stages.iter().flat_map(FinishedStage::sweeps);
    let mut baselines: Vec<(Compared<'_>, Baseline<'_>)> = Vec::new();
    for sweep in sweeps {
        let compared = (sweep.rule, sweep.setting());
        if !baselines.iter().any(|(known, _)| *known == compared) {
            baselines.push((compared, Baseline::beside(run, &sweep, false)));
        }
    }
    let context = Context {
        run,
        baselines,
        splits: splits.unwrap_or_default(),
    };
    let stages = run.stages.iter();
    let figures = stages.flat_map(|stage| {
        let mut figures = of_kind(run, stage);
        figures.extend((stage.view().figures)(&context, stage));
        figures
    });
    figures.map(readable::readable).collect()
}

/// The figures that a stage's kind draws of its own tables; none of a stage that has left none, having failed or not run.
fn of_kind(run: &FinishedRun, stage: &FinishedStage) -> Vec<Figure> {
    if stage.tables.is_empty() {
        return Vec::new();
    }
    let kind = kind_named(&stage.kind).and_then(|kind| kind.figures);
    let drawn = kind.map_or(Ok(Vec::new()), |figures| {
        figures(&stage.name, &run.artifacts(stage))
    });
    drawn.unwrap_or_else(|error| {
        let name = &stage.name;
        tracing::warn!("figures of stage `{name}` are not drawn: {error}");
        Vec::new()
    })
}

/// The score rule of a sweep, and what it does: what its control must have in common with it.
type Compared<'a> = (&'a str, Setting<'a>);

/// What the figures of sweeps have in common.
pub(super) struct Context<'a> {
    run: &'a FinishedRun,
    /// Of everything that sweeps do.
    baselines: Vec<(Compared<'a>, Baseline<'a>)>,
    splits: Splits,
}

/// The label of an axis of α, where a direction is added.
const ALPHA: &str = "α (length added along the unit direction)";

/// The label of an axis of α in a sweep.
fn alpha_of(setting: Setting<'_>) -> &'static str {
    match setting.done {
        "" => ALPHA,
        done if done == Mode::Rotate.done() => "α (degrees from the direction)",
        done if done == Mode::Ace.done() => "α (0: the level of B, 1: that of A)",
        _ => "α",
    }
}

/// A figure of one of a stage's models, without panels yet; where there are several, its name and its title say which.
fn of_model(stage: &str, models: &[String], model: &str, kind: &str, title: &str) -> Figure {
    let of_model = match models.len() {
        0 | 1 => String::new(),
        _ => format!(", model {model}"),
    };
    Figure {
        title: format!("{title}{of_model}"),
        ..Figure::of(stage, &format!("{kind}{}", suffix(models, model)))
    }
}

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
