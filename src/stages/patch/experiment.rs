//! The measurement: scores of both runs, the donors' activations, and the recipients' scores with those in place.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::model::{Cell, Edit, HookPoint, Intervention, Positions, Readout, Site, Tokens, Vector};
use crate::prompts::PromptSet;
use crate::stats;

use super::super::{Evaluate, StageError, parameters, sweep, table};
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
    pub(crate) readout: Readout,
}

impl Side {
    fn cell(&self, prompt: usize, interventions: Vec<Intervention>, readout: Readout) -> Cell {
        let tokens = Arc::clone(&self.tokens[prompt]);
        let (model, n_layers) = (self.fingerprint, self.n_layers);
        Cell::new(model, tokens, interventions, readout, n_layers)
    }

    fn score(&self, prompt: usize, interventions: Vec<Intervention>) -> Cell {
        self.cell(prompt, interventions, self.readout.clone())
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
    /// Position read and patched, counted from the end of each prompt.
    pub(crate) position: i64,
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
        let patched = self.patched[variant * self.donor.len() + pair];
        let recipient = self.recipient[pair];
        (patched - recipient, self.donor[pair] - recipient)
    }
}

impl Experiment<'_> {
    /// Two rounds: what both runs score and the donors' activations; then the patched scores.
    ///
    /// # Errors
    /// Those of the evaluator; a prompt without the position asked for.
    pub(super) fn measure(&self, evaluator: &mut dyn Evaluate) -> Result<Effects, StageError> {
        let places = self.places();
        // What is wrong with them is told before anything is computed.
        let pairs = || self.pairs.iter();
        let positions = pairs().map(|pair| self.position(&self.recipient, pair.recipient));
        let positions = positions.collect::<Result<Vec<_>, _>>()?;
        let donors = pairs().map(|pair| self.donor.score(pair.donor, vec![]));
        let recipients = pairs().map(|pair| self.recipient.score(pair.recipient, vec![]));
        let mut cells: Vec<Cell> = donors.chain(recipients).collect();
        for &hook in &places {
            for pair in &self.pairs {
                let position = self.position(&self.donor, pair.donor)?;
                let readout = Readout::Activation { hook, position };
                cells.push(self.donor.cell(pair.donor, vec![], readout));
            }
        }
        let mut values = evaluator.evaluate(&cells)?;
        let activations = sweep::activations(values.split_off(2 * self.pairs.len()))?;
        let mut donor = sweep::scores(values)?;
        let recipient = donor.split_off(self.pairs.len());
        let each_pair = 0..self.pairs.len();
        let keys = places.iter();
        let keys = keys.flat_map(|&hook| each_pair.clone().map(move |pair| (hook, pair)));
        let vectors = activations.into_iter();
        let vectors = vectors.map(|values| Arc::new(Vector::new(values)));
        let patched = self.patched_cells(&positions, &keys.zip(vectors).collect())?;
        let patched = evaluator.evaluate(&patched)?;
        Ok(Effects {
            donor,
            recipient,
            patched: sweep::scores(patched)?,
        })
    }

    /// The hook points whose donor activations are needed, each once.
    fn places(&self) -> Vec<HookPoint> {
        let mut places = BTreeSet::new();
        for variant in &self.variants {
            let layers = variant.layers.iter();
            places.extend(layers.map(|&layer| HookPoint::block(layer, variant.site)));
        }
        places.into_iter().collect()
    }

    /// The cells of every variant and pair, by the recipients' patched positions and the donors' activations.
    fn patched_cells(
        &self,
        positions: &[usize],
        vectors: &HashMap<(HookPoint, usize), Arc<Vector>>,
    ) -> Result<Vec<Cell>, StageError> {
        let mut cells = Vec::with_capacity(self.variants.len() * self.pairs.len());
        for variant in &self.variants {
            for (index, pair) in self.pairs.iter().enumerate() {
                let replace = |&layer: &usize| {
                    let hook = HookPoint::block(layer, variant.site);
                    let vector = vectors.get(&(hook, index))?;
                    Some(Intervention {
                        hook,
                        positions: Positions::At(positions[index]),
                        edit: Edit::Replace(Arc::clone(vector)),
                    })
                };
                let interventions = variant.layers.iter().map(replace).collect::<Option<_>>();
                let interventions = interventions.ok_or_else(|| {
                    StageError::Internal("a donor's activation was not read".to_string())
                })?;
                cells.push(self.recipient.score(pair.recipient, interventions));
            }
        }
        Ok(cells)
    }

    /// The index of the patched position in a prompt.
    fn position(&self, side: &Side, prompt: usize) -> Result<usize, StageError> {
        let length = side.tokens[prompt].len();
        parameters::index_of(self.position, length, &self.prompts.prompts[prompt])
    }

    /// One row per variant and pair.
    pub(super) fn table(&self, effects: &Effects, number: &str) -> Result<DataFrame, StageError> {
        let rows = || {
            let of_variant = |variant| self.pairs.iter().map(move |pair| (variant, pair));
            self.variants.iter().flat_map(of_variant)
        };
        let donors = || rows().map(|(_, pair)| &self.prompts.prompts[pair.donor]);
        let recipients = || rows().map(|(_, pair)| &self.prompts.prompts[pair.recipient]);
        let each = |of: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
            let of_variant = |variant| (0..self.pairs.len()).map(move |pair| of(variant, pair));
            (0..self.variants.len()).flat_map(of_variant).collect()
        };
        table::frame(vec![
            table::text("donor_model", rows().map(|_| &self.donor.name)),
            table::text("recipient_model", rows().map(|_| &self.recipient.name)),
            table::text("donor", donors().map(|prompt| &prompt.id)),
            table::text("recipient", recipients().map(|prompt| &prompt.id)),
            table::text("split", recipients().map(|prompt| &prompt.split)),
            table::text("category", recipients().map(|prompt| &prompt.category)),
            table::text("site", rows().map(|(variant, _)| variant.site.short_name())),
            table::integers(number, rows().map(|(variant, _)| variant.number)),
            table::numbers("score_donor", each(&|_, pair| effects.donor[pair])),
            table::numbers("score_recipient", each(&|_, pair| effects.recipient[pair])),
            table::numbers("score_patched", effects.patched.clone()),
            table::numbers("delta", each(&|variant, pair| effects.of(variant, pair).0)),
        ])
    }

    /// One row per variant and split of the recipients.
    pub(super) fn means(
        &self,
        effects: &Effects,
        number: &str,
        floor: f64,
    ) -> Result<DataFrame, StageError> {
        let split_of = |pair: &Pair| self.prompts.prompts[pair.recipient].split.as_str();
        let mut splits: Vec<&str> = Vec::new();
        for pair in &self.pairs {
            if !splits.contains(&split_of(pair)) {
                splits.push(split_of(pair));
            }
        }
        let mut rows: Vec<(&Variant, &str, Mean)> = Vec::new();
        for (index, variant) in self.variants.iter().enumerate() {
            for &split in &splits {
                let members =
                    (0..self.pairs.len()).filter(|&pair| split_of(&self.pairs[pair]) == split);
                let values: Vec<(f64, f64)> = members.map(|pair| effects.of(index, pair)).collect();
                rows.push((variant, split, Mean::of(&values, floor)?));
            }
        }
        let means = || rows.iter().map(|(_, _, mean)| mean);
        let end = |name: &str, of: fn(stats::Interval) -> f64| {
            let ends = means().map(|mean| mean.interval.map(of));
            table::optional_numbers(name, ends.collect())
        };
        table::frame(vec![
            table::text("site", rows.iter().map(|row| row.0.site.short_name())),
            table::integers(number, rows.iter().map(|row| row.0.number)),
            table::text("split", rows.iter().map(|row| row.1)),
            table::integers("n", means().map(|mean| mean.n)),
            table::numbers("mean_delta", means().map(|mean| mean.delta).collect()),
            end("delta_low", |interval| interval.low),
            end("delta_high", |interval| interval.high),
            table::optional_numbers("mean_recovery", means().map(|mean| mean.recovery).collect()),
            table::integers("n_recovery", means().map(|mean| mean.n_recovery)),
            table::integers("n_left_out", means().map(|mean| mean.n - mean.n_recovery)),
        ])
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
        let interval = stats::bootstrap_mean(&deltas, 0)
            .map_err(|error| StageError::Data(error.to_string()))?;
        Ok(Mean {
            n: values.len(),
            delta: mean(deltas.iter().sum(), values.len()),
            interval,
            recovery: (!ratios.is_empty()).then(|| mean(ratios.iter().sum(), ratios.len())),
            n_recovery: ratios.len(),
        })
    }
}

#[cfg(test)]
mod tests;
