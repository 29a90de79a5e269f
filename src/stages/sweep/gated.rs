//! Which prompts of a sweep meet the condition of its edits.

use std::sync::Arc;

use crate::model::{Cell, ModelHandle};
use crate::stages::action::{Gate, Likeness, Line};
use crate::stages::{Evaluate, StageError};

use super::rows::Row;
use super::{PlacedPrompts, activations};

/// How like the direction of the condition each prompt is.
#[derive(Clone, Debug)]
pub(super) struct Gated {
    /// By model and prompt; none of a prompt that no line points to.
    likeness: Arc<[Vec<Option<f64>>]>,
}

/// The condition on one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OnRow {
    pub(crate) threshold: f64,
    pub(crate) likeness: f64,
    /// Whether the edit is made.
    pub(crate) is_open: bool,
}

impl Gated {
    /// Of lines that are conditioned, which all are on the same direction; none of others.
    ///
    /// # Errors
    /// Those of the evaluator.
    pub(super) fn of(
        lines: &[Line],
        models: &[&Arc<ModelHandle>],
        prompts: &[PlacedPrompts],
        evaluator: &mut dyn Evaluate,
    ) -> Result<Option<Self>, StageError> {
        let mut gates = lines.iter().filter_map(|line| line.gate.as_ref());
        let Some(gate) = gates.next() else {
            return Ok(None);
        };
        let mut used: Vec<usize> = (lines.iter().flat_map(|line| line.sets.iter()))
            .flat_map(|(_, prompts)| prompts.iter().copied())
            .collect();
        used.sort_unstable();
        used.dedup();
        let each = models.iter().zip(prompts).map(|(model, placed)| {
            let of_prompt =
                |&prompt: &usize| (prompt, gate.likeness.cell(model, &placed.prompts[prompt].0));
            let asked: Vec<(usize, Cell)> = used.iter().map(of_prompt).collect();
            let mut likeness = vec![None; placed.prompts.len()];
            for (prompt, found) in likenesses(&gate.likeness, asked, evaluator)? {
                likeness[prompt] = Some(found);
            }
            Ok(likeness)
        });
        let likeness = each.collect::<Result<_, StageError>>()?;
        Ok(Some(Gated { likeness }))
    }

    pub(super) fn of_row(&self, row: &Row<'_>) -> Option<OnRow> {
        let gate = row.line.gate.as_ref()?;
        let likeness = self.likeness[row.model][row.prompt]?;
        Some(OnRow::of(gate, likeness))
    }
}

impl OnRow {
    pub(in crate::stages) fn of(gate: &Gate, likeness: f64) -> Self {
        OnRow {
            threshold: gate.threshold,
            likeness,
            is_open: gate.is_open(likeness),
        }
    }
}

/// How like the direction the prompts are whose cells these are.
pub(in crate::stages) fn likenesses(
    to: &Likeness,
    asked: Vec<(usize, Cell)>,
    evaluator: &mut dyn Evaluate,
) -> Result<Vec<(usize, f64)>, StageError> {
    let (prompts, cells): (Vec<usize>, Vec<Cell>) = asked.into_iter().unzip();
    let vectors = activations(evaluator.evaluate(&cells)?)?;
    let found = prompts.into_iter().zip(vectors);
    found
        .map(|(prompt, vector)| Ok((prompt, to.of(&vector)?)))
        .collect()
}
