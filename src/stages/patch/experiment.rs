//! The measurement: scores of both runs, the donors' activations, and the recipients' scores with those in place.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::model::{
    Cell, Edit, HookPoint, Intervention, Positions, Readout, Site, Tokens, Value, Vector,
};
use crate::prompts::PromptSet;
use crate::stats;

use super::super::direction::Places;
use super::super::rules::{Readings, Rule};
use super::super::table::Rows;
use super::super::{Evaluate, StageError, distinct, sweep};
use super::pairing::Pair;

/// One way of patching.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variant {
    pub(crate) site: Site,
    /// The layer, or K.
    pub(crate) number: usize,
    pub(crate) layers: Vec<usize>,
}

/// A model, with every prompt of the set as it sees it.
#[derive(Clone)]
pub(super) struct Side {
    pub(crate) name: String,
    pub(crate) fingerprint: blake3::Hash,
    pub(crate) n_layers: usize,
    /// By index into the prompt set.
    pub(crate) tokens: Vec<Arc<Tokens>>,
    /// What the score rule reads on it.
    pub(crate) readings: Readings,
}

impl Side {
    fn cell(&self, prompt: usize, interventions: Vec<Intervention>, readout: Readout) -> Cell {
        let tokens = Arc::clone(&self.tokens[prompt]);
        let (model, n_layers) = (self.fingerprint, self.n_layers);
        Cell::new(model, tokens, interventions, readout, n_layers)
    }

    /// The cells of a run's score.
    fn score(&self, prompt: usize, interventions: &[Intervention]) -> impl Iterator<Item = Cell> {
        let readouts = self.readings.readouts.iter().cloned();
        readouts.map(move |readout| self.cell(prompt, interventions.to_vec(), readout))
    }
}

/// Everything the measurement needs.
pub(super) struct Experiment<'a> {
    /// Whose activations are taken.
    pub(crate) donor: Side,
    /// Whose score is measured.
    pub(crate) recipient: Side,
    /// The prompts that the pairs point into.
    pub(crate) prompts: &'a PromptSet,
    pub(crate) pairs: Vec<Pair>,
    pub(crate) variants: Vec<Variant>,
    /// Places read and patched, all at once.
    pub(crate) places: Places,
    /// The score rule, which is one.
    pub(crate) rules: &'a [Arc<Rule>],
}

/// Scores by pair; the patched ones by variant, then by pair.
pub(super) struct Effects {
    pub(crate) donor: Vec<f64>,
    pub(crate) recipient: Vec<f64>,
    pub(crate) patched: Vec<f64>,
}

impl Effects {
    /// (Δ, donor − recipient) of a pair under a variant.
    fn of(&self, variant: usize, pair: usize) -> (f64, f64) {
        let recipient = self.recipient[pair];
        let patched = self.patched(variant, pair);
        (patched - recipient, self.donor[pair] - recipient)
    }

    fn patched(&self, variant: usize, pair: usize) -> f64 {
        self.patched[variant * self.donor.len() + pair]
    }
}

impl Experiment<'_> {
    /// Two rounds: what both runs score and the donors' activations; then the patched scores.
    ///
    /// # Errors
    /// Those of the evaluator; a prompt without the position asked for.
    pub(super) fn measure(&self, evaluator: &mut dyn Evaluate) -> Result<Effects, StageError> {
        // What is wrong with them is told before anything is computed.
        let pairs = || self.pairs.iter();
        let positions = pairs().map(|pair| self.positions(&self.recipient, pair.recipient));
        let positions = positions.collect::<Result<Vec<_>, _>>()?;
        let donors = pairs().flat_map(|pair| self.donor.score(pair.donor, &[]));
        let mut cells: Vec<Cell> = donors.collect();
        cells.extend(pairs().flat_map(|pair| self.recipient.score(pair.recipient, &[])));
        let scored = cells.len();
        let mut taken = Vec::new();
        for hook in self.places() {
            for (index, pair) in self.pairs.iter().enumerate() {
                let positions = self.positions(&self.donor, pair.donor)?;
                for (place, position) in positions.into_iter().enumerate() {
                    let readout = Readout::Activation { hook, position };
                    cells.push(self.donor.cell(pair.donor, vec![], readout));
                    taken.push((hook, index, place));
                }
            }
        }
        let mut values = evaluator.evaluate(&cells)?;
        let activations = sweep::activations(values.split_off(scored))?;
        let mut values = values.into_iter();
        let donors = pairs().map(|pair| pair.donor);
        let donor = self.scores(&self.donor, &mut values, donors)?;
        let recipients = pairs().map(|pair| pair.recipient);
        let recipient = self.scores(&self.recipient, values, recipients)?;
        let vectors = activations.into_iter();
        let vectors = vectors.map(|values| Arc::new(Vector::new(values)));
        let vectors = taken.into_iter().zip(vectors).collect();
        let patched = self.patched_cells(&positions, &vectors)?;
        let patched = evaluator.evaluate(&patched)?;
        Ok(Effects {
            donor,
            recipient,
            patched: self.patched_scores(patched)?,
        })
    }

    fn patched_scores(&self, values: Vec<Value>) -> Result<Vec<f64>, StageError> {
        let of_variant = |_: &Variant| self.pairs.iter().map(|pair| pair.recipient);
        let recipients = self.variants.iter().flat_map(of_variant);
        self.scores(&self.recipient, values, recipients)
    }

    /// The scores of some prompts' runs on one side.
    fn scores(
        &self,
        side: &Side,
        values: impl IntoIterator<Item = Value>,
        prompts: impl Iterator<Item = usize>,
    ) -> Result<Vec<f64>, StageError> {
        let prompts = prompts.map(|prompt| &self.prompts.prompts[prompt]);
        let found = side.readings.scores(self.rules, values, prompts)?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The hook points whose donor activations are needed, each once.
    fn places(&self) -> BTreeSet<HookPoint> {
        let hooks = |variant: &Variant| {
            let site = variant.site;
            let layers = variant.layers.clone().into_iter();
            layers.map(move |layer| HookPoint::block(layer, site))
        };
        self.variants.iter().flat_map(hooks).collect()
    }

    /// The cells of every variant and pair, by the recipients' patched positions and the donors' activations.
    fn patched_cells(
        &self,
        positions: &[Vec<usize>],
        vectors: &HashMap<(HookPoint, usize, usize), Arc<Vector>>,
    ) -> Result<Vec<Cell>, StageError> {
        let mut cells = Vec::with_capacity(self.variants.len() * self.pairs.len());
        for variant in &self.variants {
            for (index, pair) in self.pairs.iter().enumerate() {
                let replace = |(layer, (place, position)): (usize, (usize, usize))| {
                    let hook = HookPoint::block(layer, variant.site);
                    let vector = vectors.get(&(hook, index, place))?;
                    Some(Intervention {
                        hook,
                        positions: Positions::At(position),
                        edit: Edit::Replace(Arc::clone(vector)),
                    })
                };
                let each = variant.layers.iter().flat_map(|&layer| {
                    let places = positions[index].iter().copied().enumerate();
                    places.map(move |place| (layer, place))
                });
                let interventions = each.map(replace).collect::<Option<_>>();
                let interventions: Vec<Intervention> = interventions.ok_or_else(|| {
                    StageError::Internal("a donor's activation was not read".to_string())
                })?;
                cells.extend(self.recipient.score(pair.recipient, &interventions));
            }
        }
        Ok(cells)
    }

    /// The indices of the patched positions in a prompt.
    fn positions(&self, side: &Side, prompt: usize) -> Result<Vec<usize>, StageError> {
        let tokens = &side.tokens[prompt];
        self.places.in_prompt(tokens, &self.prompts.prompts[prompt])
    }

    /// One row per variant and pair.
    pub(super) fn table(&self, effects: &Effects, number: &str) -> Result<DataFrame, StageError> {
        let of_variant = |variant| (0..self.pairs.len()).map(move |pair| (variant, pair));
        let rows: Vec<_> = (0..self.variants.len()).flat_map(of_variant).collect();
        let prompt = |index: usize| &self.prompts.prompts[index];
        let donor = |pair: &usize| prompt(self.pairs[*pair].donor);
        let recipient = |pair: &usize| prompt(self.pairs[*pair].recipient);
        let variant = |index: &usize| &self.variants[*index];
        Rows::of(&rows)
            .text("donor_model", |_| &self.donor.name)
            .text("recipient_model", |_| &self.recipient.name)
            .text("donor", |(_, pair)| &donor(pair).id)
            .text("recipient", |(_, pair)| &recipient(pair).id)
            .text("split", |(_, pair)| &recipient(pair).split)
            .text("category", |(_, pair)| &recipient(pair).category)
            .text("site", |(index, _)| variant(index).site.short_name())
            .integer(number, |(index, _)| variant(index).number as i64)
            .number("score_donor", |(_, pair)| effects.donor[*pair])
            .number("score_recipient", |(_, pair)| effects.recipient[*pair])
            .number("score_patched", |(index, pair)| {
                effects.patched(*index, *pair)
            })
            .number("delta", |(index, pair)| effects.of(*index, *pair).0)
            .frame()
    }

    /// One row per variant and split of the recipients.
    pub(super) fn means(
        &self,
        effects: &Effects,
        number: &str,
        floor: f64,
    ) -> Result<DataFrame, StageError> {
        let split_of = |pair: &Pair| self.prompts.prompts[pair.recipient].split.as_str();
        let splits = distinct(self.pairs.iter().map(split_of));
        let mut rows: Vec<(&Variant, &str, Mean)> = Vec::new();
        for (index, variant) in self.variants.iter().enumerate() {
            for &split in &splits {
                let members =
                    (0..self.pairs.len()).filter(|&pair| split_of(&self.pairs[pair]) == split);
                let values: Vec<(f64, f64)> = members.map(|pair| effects.of(index, pair)).collect();
                rows.push((variant, split, Mean::of(&values, floor)?));
            }
        }
        Rows::of(&rows)
            .text("site", |(variant, ..)| variant.site.short_name())
            .integer(number, |(variant, ..)| variant.number as i64)
            .text("split", |(_, split, _)| split)
            .integer("n", |(.., mean)| mean.n as i64)
            .number("mean_delta", |(.., mean)| mean.delta)
            .ends(["delta_low", "delta_high"], |(.., mean)| mean.interval)
            .number("mean_recovery", |(.., mean)| mean.recovery)
            .integer("n_recovery", |(.., mean)| mean.n_recovery as i64)
            .integer("n_left_out", |(.., mean)| (mean.n - mean.n_recovery) as i64)
            .frame()
    }
}

/// Averages over pairs.
#[derive(Debug, PartialEq)]
struct Mean {
    n: usize,
    delta: f64,
    /// Of `delta`, 95 %, over pairs.
    interval: Option<stats::Interval>,
    /// None where every pair is below the floor.
    recovery: Option<f64>,
    n_recovery: usize,
}

impl Mean {
    /// Of (Δ, donor − recipient), at least one; the mean of the ratios, not the ratio of the means.
    fn of(values: &[(f64, f64)], floor: f64) -> Result<Self, StageError> {
        let above = values.iter().filter(|(_, gap)| gap.abs() >= floor);
        let ratios: Vec<f64> = above.map(|(delta, gap)| delta / gap).collect();
        let mean = |sum: f64, n: usize| sum / n as f64;
        let deltas: Vec<f64> = values.iter().map(|(delta, _)| *delta).collect();
        Ok(Mean {
            n: values.len(),
            delta: mean(deltas.iter().sum(), values.len()),
            interval: stats::bootstrap_mean(&deltas, 0)?,
            recovery: (!ratios.is_empty()).then(|| mean(ratios.iter().sum(), ratios.len())),
            n_recovery: ratios.len(),
        })
    }
}

#[cfg(test)]
mod tests;
