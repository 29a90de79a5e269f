//! What is tried: directions, and the prompts of which one half chooses.

use crate::prompts::PromptSet;
use crate::stages::forecast::check_directions;
use crate::stages::parameters::{self, Count, DirectionStage, Fraction, Model, Names, PromptsName};
use crate::stages::position::Selection;
use crate::stages::prelude::*;
use crate::stages::sweep;
use crate::stats;

use super::alike::{Alike, compared_layers, makers};
use super::choice::Method;
use super::measure::{Lab, Sides};

parameters! {
    /// Directions to try, and on what.
    pub(super) struct Trials {
        /// The model that is asked.
        model: Model,
        /// The prompts.
        prompts: PromptsName,
        /// The directions to choose from, each at its own layer and site.
        direction: DirectionStage,
        /// Splits of prompts from which refusal is to go.
        harmful: Names,
        /// Splits of prompts to which it is to come.
        harmless: Names,
        /// How many prompts of each split at most.
        limit: Option<Count>,
        /// Whether only those prompts are asked that the unedited model takes as their side says: harmful ones whose score is above the rule's
        /// threshold, and harmless ones whose score is below it. As the method's authors do where left out: with `refusal_direction`, and not
        /// with `cosmic`.
        filter: Option<bool>,
        /// The share of the prompts that does not choose.
        fraction: Fraction = 0.5,
        /// Which they are.
        seed: u64 = 0,
        /// How many random directions are tried in the place of the choice.
        random: usize = 5,
        settings: ReadsOne,
    }
}

impl Trials {
    pub(super) fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        let models = std::slice::from_ref(&*self.model);
        check_directions(&self.direction, true, models, inputs, problems);
        for split in self.harmful.0.iter().chain(&self.harmless.0) {
            inputs.check_split(split, &self.prompts, problems);
        }
        for split in &self.harmful.0 {
            let mut others = self.harmless.0.iter();
            if let Some(also) = others.find(|other| other.value == split.value) {
                problems
                    .error_at(&also.at, format!("split `{split}` is harmful and harmless"))
                    .label("named in `harmful`, too")
                    .help("name it on one side");
            }
        }
        self.settings.check_answers(&self.prompts, inputs, problems);
    }

    pub(super) fn cost(&self, method: Method, inputs: &Inputs) -> Cost {
        let Some(prompts) = inputs.prompts.get(&self.prompts.value) else {
            return Cost::default();
        };
        let [harmful, harmless] =
            [&self.harmful, &self.harmless].map(|side| self.of(side, prompts));
        let (both, harmless) = (harmful.len() + harmless.len(), harmless.len());
        let n_layers = inputs.n_layers(&self.model.value);
        let trials = inputs.expected_directions(&self.direction).len() + 1 + self.random;
        let models = std::slice::from_ref(&*self.model);
        let read = |rows: u64| self.settings.cost(rows, models, inputs);
        let edited = match method {
            Method::RefusalDirection => read(product(&[trials, both])),
            Method::Cosmic => Cost::of_cells(product(&[trials, both, compared_layers(n_layers)])),
        };
        let unedited = match method {
            Method::RefusalDirection => Cost::default(),
            Method::Cosmic => {
                let compared = Cost::of_cells(product(&[compared_layers(n_layers), both]));
                compared.and(Cost::of_cells(product(&[
                    n_layers,
                    self.makers_at_most(inputs),
                ])))
            }
        };
        // The unedited scores are asked for where they filter, and where they are compared with.
        edited
            .and(Cost::of_cells(product(&[trials, harmless])))
            .over(Selection::all().expected_tokens())
            .and(unedited)
            .and(read(both as u64))
    }

    /// The first prompts of some splits, by index.
    fn of(&self, splits: &Names, prompts: &PromptSet) -> Vec<usize> {
        let splits: Vec<&str> = splits.values().map(String::as_str).collect();
        let limit = self.limit.as_ref().map_or(usize::MAX, |limit| limit.value);
        parameters::first_indices(prompts, &splits, limit)
    }

    /// How many prompts made the directions, at most.
    fn makers_at_most(&self, inputs: &Inputs) -> usize {
        // Those that choose stand in for them where they are not known.
        let sets = self.set_of_makers(inputs).into_iter();
        let sets = sets.chain([&self.prompts.value]);
        let sets = sets.filter_map(|name| inputs.prompts.get(name));
        sets.map(|set| set.prompts.len()).max().unwrap_or(0)
    }

    /// The prompt set that the stage of the directions is about.
    fn set_of_makers<'i>(&self, inputs: &'i Inputs) -> Option<&'i String> {
        inputs.forecast(&self.direction)?.prompts.as_ref()
    }

    /// How alike the sides of the prompts that made the directions are at each layer, and what to say where that cannot be known; then of those that
    /// choose.
    ///
    /// # Errors
    /// Those of the evaluator.
    pub(super) fn alike(
        &self,
        lab: &Lab<'_>,
        choosing: &Sides,
        inputs: &Inputs,
        evaluator: &mut dyn Evaluate,
    ) -> Result<(Vec<Alike>, Option<String>), StageError> {
        let directions = &inputs.stage(&self.direction)?.directions;
        let sets = self.set_of_makers(inputs).into_iter();
        let sets = sets.chain([&self.prompts.value]);
        let mut sets = sets.filter_map(|name| inputs.prompts.get(name));
        let Some((prompts, sides)) = sets.find_map(|set| Some((set, makers(directions, set)?)))
        else {
            let told = format!(
                "the prompts that made the directions of stage `{}` are not known here; the layers at which activations are compared are those at \
                 which the prompts that choose are least alike",
                *self.direction
            );
            return Ok((lab.alike(choosing, evaluator)?, Some(told)));
        };
        let of_makers = Lab {
            prompts,
            tokens: &sweep::tokens_of(lab.model, prompts, &self.settings)?,
            readings: self.settings.on(lab.model)?,
            compared_at: Vec::new(),
            ..*lab
        };
        Ok((of_makers.alike(&sides, evaluator)?, None))
    }

    /// The prompts that choose, and those that do not.
    ///
    /// # Errors
    /// A side of a half without a prompt.
    pub(super) fn halves(
        &self,
        lab: &Lab<'_>,
        evaluator: &mut dyn Evaluate,
    ) -> Result<[Sides; 2], StageError> {
        let mut sides = Sides {
            harmful: self.of(&self.harmful, lab.prompts),
            harmless: self.of(&self.harmless, lab.prompts),
        };
        let asked = [&sides.harmful, &sides.harmless].map(Vec::len);
        let is_filtered = self
            .filter
            .unwrap_or(lab.method == Method::RefusalDirection);
        if is_filtered {
            let threshold = self.settings.main().threshold;
            let mut kept = |prompts: &[usize], is_kept: fn(&f64, &f64) -> bool| {
                let scores = lab.scores(prompts, evaluator)?;
                let of_side = prompts.iter().zip(scores);
                let kept = of_side.filter(|(_, score)| is_kept(score, &threshold));
                Ok::<_, StageError>(kept.map(|(prompt, _)| *prompt).collect())
            };
            sides = Sides {
                harmful: kept(&sides.harmful, f64::gt)?,
                harmless: kept(&sides.harmless, f64::lt)?,
            };
        }
        let of_half = |prompts: &[usize], is_held_out: bool| -> Vec<usize> {
            let id = |prompt: usize| &lab.prompts.prompts[prompt].id;
            let is_of_half = |prompt: &usize| {
                stats::is_holdout(self.seed, id(*prompt), self.fraction.value) == is_held_out
            };
            prompts.iter().copied().filter(is_of_half).collect()
        };
        let halves = [false, true].map(|is_held_out| Sides {
            harmful: of_half(&sides.harmful, is_held_out),
            harmless: of_half(&sides.harmless, is_held_out),
        });
        for (half, name) in halves.iter().zip(["that chooses", "that is held out"]) {
            for (side, word) in [(&half.harmful, "harmful"), (&half.harmless, "harmless")] {
                if side.is_empty() {
                    let left = match is_filtered {
                        true => format!(
                            ", which `filter` left of {} and {} (see `filter`, and the score rule that `read` names)",
                            asked[0], asked[1]
                        ),
                        false => String::new(),
                    };
                    return Err(StageError::Data(format!(
                        "the half {name} has no {word} prompt: there are {} harmful and {} harmless ones in both{left}, with `fraction = {}` and \
                         `seed = {}`",
                        sides.harmful.len(),
                        sides.harmless.len(),
                        self.fraction.value,
                        self.seed
                    )));
                }
            }
        }
        Ok(halves)
    }
}
