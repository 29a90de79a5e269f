//! What candidates do to the model: the cells, and the three numbers that follow from their values.

use std::sync::Arc;

use crate::model::{
    Cell, Cells, Edit, HookPoint, Intervention, ModelHandle, Positions, Readout, Site, Tokens,
    Value, Vector,
};
use crate::prompts::PromptSet;
use crate::stages::action::ablated_everywhere;
use crate::stages::direction::Direction;
use crate::stages::rules::{Readings, Reads};
use crate::stages::{Evaluate, StageError, sweep};
use crate::stats::{self, Interval};

use super::choice::Method;

/// In both logarithms of the divergence, as in `select_direction.py`.
const EPSILON: f64 = 1e-6;
/// Candidates whose values lie in memory at once.
const AT_ONCE: usize = 16;

/// A model with the prompts that it is asked.
pub(super) struct Lab<'a> {
    pub(super) model: &'a ModelHandle,
    pub(super) reads: &'a Reads,
    pub(super) readings: Readings,
    pub(super) prompts: &'a PromptSet,
    pub(super) tokens: &'a [Arc<Tokens>],
    pub(super) method: Method,
    /// The layers at which activations are compared; none where scores are.
    pub(super) compared_at: Vec<usize>,
}

/// Prompts by index.
#[derive(Clone, Debug, Default)]
pub(super) struct Sides {
    pub(super) harmful: Vec<usize>,
    pub(super) harmless: Vec<usize>,
}

/// A mean over prompts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    pub(super) mean: f64,
    /// None of what is no mean of numbers.
    pub(super) interval: Option<Interval>,
}

/// What a direction does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) bypass: Mean,
    pub(super) induce: Mean,
    pub(super) kl: Mean,
}

/// A vector, how long it is where it is added, and where that is.
pub(super) struct Trial {
    pub(super) vector: Arc<Vector>,
    pub(super) length: f64,
    pub(super) layer: usize,
    pub(super) site: Site,
}

/// What COSMIC compares with: the mean unedited activation of a side over prompts and layers.
struct Compared {
    harmful: Vec<f64>,
    harmless: Vec<f64>,
}

/// What is read of a prompt.
pub(super) enum Ask {
    Read(Readout),
    /// What a layer gives at the last token.
    Output(usize),
}

/// The cells of some trials, one after the other: harmful prompts without the direction, harmless ones with it, and the divergence of the latter
/// without it.
struct TrialCells<'a> {
    lab: &'a Lab<'a>,
    sides: &'a Sides,
    asks: &'a [Ask],
    /// Of each trial, what takes it out and what adds it.
    edits: Vec<[Vec<Intervention>; 2]>,
}

impl Trial {
    /// A candidate, as long as it was.
    pub(super) fn of(direction: &Direction) -> Self {
        Trial {
            vector: Arc::clone(&direction.vector),
            length: direction.pre_norm,
            layer: direction.layer,
            site: direction.site,
        }
    }

    /// Another vector in the same place.
    pub(super) fn instead(&self, vector: Vector) -> Self {
        Trial {
            vector: Arc::new(vector),
            ..*self
        }
    }

    fn edits(&self, lab: &Lab<'_>) -> [Vec<Intervention>; 2] {
        let everywhere = Positions::From(0);
        let added = Intervention {
            hook: HookPoint::block(self.layer, self.site),
            positions: everywhere.clone(),
            edit: Edit::Add {
                vector: Arc::clone(&self.vector),
                scale: self.length,
            },
        };
        let config = lab.model.config();
        [
            ablated_everywhere(&self.vector, &everywhere, config),
            vec![added],
        ]
    }
}

impl TrialCells<'_> {
    fn of_trial(&self) -> usize {
        (self.sides.harmful.len() + self.sides.harmless.len()) * self.asks.len()
            + self.sides.harmless.len()
    }
}

impl Cells for TrialCells<'_> {
    fn count(&self) -> usize {
        self.edits.len() * self.of_trial()
    }

    fn cell(&self, number: usize) -> Cell {
        let (trial, number) = (number / self.of_trial(), number % self.of_trial());
        let [without, with] = &self.edits[trial];
        let (Sides { harmful, harmless }, asks) = (self.sides, self.asks.len());
        let added = harmful.len() * asks;
        let divergence = added + harmless.len() * asks;
        let asked = |number: usize| &self.asks[number % asks];
        match number {
            n if n < added => self.lab.cell(harmful[n / asks], without, asked(n)),
            n if n < divergence => {
                let n = n - added;
                self.lab.cell(harmless[n / asks], with, asked(n))
            }
            n => {
                let readout = Readout::Divergence { epsilon: EPSILON };
                let prompt = harmless[n - divergence];
                self.lab.cell(prompt, without, &Ask::Read(readout))
            }
        }
    }
}

impl Lab<'_> {
    pub(super) fn cell(&self, prompt: usize, edits: &[Intervention], ask: &Ask) -> Cell {
        let tokens = &self.tokens[prompt];
        let (fingerprint, n_layers) = (self.model.fingerprint, self.model.config().n_layers);
        let readout = match ask {
            Ask::Read(readout) => readout.clone(),
            Ask::Output(layer) => Readout::Activation {
                hook: output_of(*layer, n_layers),
                position: tokens.len().saturating_sub(1),
            },
        };
        Cell::new(
            fingerprint,
            Arc::clone(tokens),
            edits.to_vec(),
            readout,
            n_layers,
        )
    }

    /// What each trial does to these prompts, and last what is there without any.
    ///
    /// # Errors
    /// Those of the evaluator.
    pub(super) fn measure(
        &self,
        trials: &[Trial],
        sides: &Sides,
        evaluator: &mut dyn Evaluate,
    ) -> Result<(Vec<Measured>, Measured), StageError> {
        let compared = match self.method {
            Method::RefusalDirection => None,
            Method::Cosmic => Some(self.compared(sides, evaluator)?),
        };
        let asks: Vec<Ask> = match &compared {
            None => self
                .readings
                .readouts
                .iter()
                .cloned()
                .map(Ask::Read)
                .collect(),
            Some(_) => self.compared_at.iter().copied().map(Ask::Output).collect(),
        };
        let mut measured = Vec::new();
        for trials in trials.chunks(AT_ONCE) {
            let cells = TrialCells {
                lab: self,
                sides,
                asks: &asks,
                edits: trials.iter().map(|trial| trial.edits(self)).collect(),
            };
            let mut values = evaluator.evaluate_all(&cells)?.into_iter();
            for _ in trials {
                measured.push(self.measured(&mut values, sides, asks.len(), compared.as_ref())?);
            }
        }
        Ok((
            measured,
            self.unedited(sides, compared.as_ref(), evaluator)?,
        ))
    }

    /// The next trial, whose values are taken.
    fn measured(
        &self,
        values: &mut impl Iterator<Item = Value>,
        sides: &Sides,
        asks: usize,
        compared: Option<&Compared>,
    ) -> Result<Measured, StageError> {
        let mut take = |count: usize| values.by_ref().take(count).collect::<Vec<Value>>();
        let without = take(sides.harmful.len() * asks);
        let with = take(sides.harmless.len() * asks);
        let nats = take(sides.harmless.len())
            .into_iter()
            .map(|value| match value {
                Value::Divergence { nats, .. } => Ok(nats),
                found => Err(sweep::unexpected("a divergence", &found)),
            });
        let kl = Mean::of(&nats.collect::<Result<Vec<f64>, StageError>>()?)?;
        let (bypass, induce) = match compared {
            None => (
                Mean::of(&self.scores_of(without, &sides.harmful)?)?,
                Mean::of(&self.scores_of(with, &sides.harmless)?)?,
            ),
            Some(compared) => (
                Mean::cosine(&mean_stream(without)?, &compared.harmless)?,
                Mean::cosine(&mean_stream(with)?, &compared.harmful)?,
            ),
        };
        Ok(Measured { bypass, induce, kl })
    }

    fn unedited(
        &self,
        sides: &Sides,
        compared: Option<&Compared>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Measured, StageError> {
        let none = Mean {
            mean: 0.0,
            interval: None,
        };
        let (bypass, induce) = match compared {
            Some(compared) => {
                let cosine = Mean::cosine(&compared.harmful, &compared.harmless)?;
                (cosine, cosine)
            }
            None => (
                Mean::of(&self.scores(&sides.harmful, evaluator)?)?,
                Mean::of(&self.scores(&sides.harmless, evaluator)?)?,
            ),
        };
        Ok(Measured {
            bypass,
            induce,
            kl: none,
        })
    }

    /// The scores of prompts, unedited.
    ///
    /// # Errors
    /// Those of the evaluator.
    pub(super) fn scores(
        &self,
        prompts: &[usize],
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<f64>, StageError> {
        let of_prompt = |&prompt: &usize| {
            let readouts = self.readings.readouts.iter();
            readouts.map(move |readout| self.cell(prompt, &[], &Ask::Read(readout.clone())))
        };
        let cells: Vec<Cell> = prompts.iter().flat_map(of_prompt).collect();
        self.scores_of(evaluator.evaluate(&cells)?, prompts)
    }

    fn scores_of(&self, values: Vec<Value>, prompts: &[usize]) -> Result<Vec<f64>, StageError> {
        let of = prompts.iter().map(|&prompt| &self.prompts.prompts[prompt]);
        let mut scores = self.readings.scores(&self.reads.rules, values, of)?;
        Ok(scores.swap_remove(0))
    }

    /// What the sides are, unedited, where they are compared.
    fn compared(
        &self,
        sides: &Sides,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Compared, StageError> {
        let mut mean = |prompts: &[usize]| {
            let of_prompt = |&prompt: &usize| {
                let layers = self.compared_at.iter();
                layers.map(move |&layer| self.cell(prompt, &[], &Ask::Output(layer)))
            };
            let cells: Vec<Cell> = prompts.iter().flat_map(of_prompt).collect();
            mean_stream(evaluator.evaluate(&cells)?)
        };
        Ok(Compared {
            harmful: mean(&sides.harmful)?,
            harmless: mean(&sides.harmless)?,
        })
    }
}

/// Where what a block gives is read: behind the last one the final norm, as in the `hidden_states` of transformers.
fn output_of(layer: usize, n_layers: usize) -> HookPoint {
    match layer + 1 == n_layers {
        true => HookPoint::FinalNorm,
        false => HookPoint::block(layer, Site::ResidPost),
    }
}

impl Mean {
    fn of(values: &[f64]) -> Result<Self, StageError> {
        Ok(Mean {
            mean: stats::mean(values)?.unwrap_or(f64::NAN),
            interval: stats::bootstrap_mean(values, 0)?,
        })
    }

    fn cosine(a: &[f64], b: &[f64]) -> Result<Self, StageError> {
        Ok(Mean {
            mean: stats::cosine(a, b)?.unwrap_or(f64::NAN),
            interval: None,
        })
    }
}

/// The mean of activations, in float64.
pub(super) fn mean_stream(values: Vec<Value>) -> Result<Vec<f64>, StageError> {
    let rows = sweep::activations(values)?;
    Ok(mean(
        rows.iter().map(|row| row.iter().map(|&x| f64::from(x))),
    ))
}

/// The mean of rows of one width.
fn mean(rows: impl Iterator<Item = impl Iterator<Item = f64>>) -> Vec<f64> {
    let (mut sum, mut count) = (Vec::new(), 0.0);
    for row in rows {
        let row: Vec<f64> = row.collect();
        sum.resize(row.len(), 0.0);
        sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        count += 1.0;
    }
    sum.iter().map(|x| x / count).collect()
}
