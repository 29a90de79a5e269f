//! On which prompts an edit is made: those whose unedited run is like a direction, or is not (CAST: Lee et al., arXiv:2409.05907).
//!
//! The condition is one number of a prompt, known before anything is edited, so that each value of a conditioned run is one of two: that of the
//! edited run, or that of the unedited one. Both are asked for, whatever the threshold is, and no threshold asks for another.

use std::sync::Arc;

use crate::model::{Cell, HookPoint, ModelHandle, Readout, Site, Tokens, Vector};
use crate::spec::{Choice, Fields, Problems, Spanned};
use crate::stages::declare::{Together, declared, parameters};
use crate::stages::direction::Direction;
use crate::stages::field_types::{Given, choices};
use crate::stages::forecast::check_directions;
use crate::stages::parameters::{Alphas, ConditionStage, DirectionStage};
use crate::stages::{Inputs, Name, Settings, StageError, table};
use crate::stats;

choices! {
    /// What of a prompt's unedited run is held against a direction.
    pub(crate) enum Over {
        /// the mean over all tokens of the prompt, those of the template among them
        Mean = "mean",
        /// its last token
        Last = "last",
    }
}

choices! {
    /// How like it is.
    pub(crate) enum Similarity {
        /// cos(h, c)
        Cosine = "cosine",
        /// cos(h, tanh((h·c)c / c·c)), as CAST has it: from 0 to 1, blind to the sign
        Cast = "cast",
    }
}

choices! {
    /// On which side of the threshold.
    pub(crate) enum Side {
        /// where it is greater than the threshold
        Above = "above",
        /// where it is less
        Below = "below",
    }
}

impl Side {
    /// Whether a number is on that side. One that is equal to the threshold is on neither.
    pub(crate) fn holds(self, number: f64, threshold: f64) -> bool {
        match self {
            Side::Above => number > threshold,
            Side::Below => number < threshold,
        }
    }

    fn sign(self) -> char {
        match self {
            Side::Above => '>',
            Side::Below => '<',
        }
    }
}

/// How like a direction a prompt is: a number that its unedited run gives.
#[derive(Clone, Debug)]
pub(crate) struct Likeness {
    pub(crate) vector: Arc<Vector>,
    pub(crate) layer: usize,
    pub(crate) site: Site,
    pub(crate) over: Over,
    pub(crate) similarity: Similarity,
}

impl Likeness {
    /// To a direction, at its own layer and site.
    pub(crate) fn to(direction: &Direction, over: Over, similarity: Similarity) -> Self {
        Likeness {
            vector: Arc::clone(&direction.vector),
            layer: direction.layer,
            site: direction.site,
            over,
            similarity,
        }
    }

    /// The cell whose value [`Likeness::of`] takes.
    pub(crate) fn cell(&self, model: &ModelHandle, tokens: &Arc<Tokens>) -> Cell {
        let hook = HookPoint::block(self.layer, self.site);
        let readout = match self.over {
            Over::Mean => Readout::Mean { hook },
            Over::Last => Readout::Activation {
                hook,
                position: tokens.len().saturating_sub(1),
            },
        };
        let n_layers = model.config().n_layers;
        Cell::new(
            model.fingerprint,
            Arc::clone(tokens),
            vec![],
            readout,
            n_layers,
        )
    }

    /// How like the direction an activation `[d_model]` is, in float64; 0 for one without length.
    ///
    /// # Errors
    /// An activation of another width.
    pub(crate) fn of(&self, activation: &[f32]) -> Result<f64, StageError> {
        let (h, c) = (stats::wide(activation), stats::wide(self.vector.values()));
        let other = match self.similarity {
            Similarity::Cosine => c,
            Similarity::Cast => {
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                let along = dot(&h, &c) / dot(&c, &c);
                c.iter().map(|x| (along * x).tanh()).collect()
            }
        };
        Ok(stats::cosine(&h, &other)?.unwrap_or(0.0))
    }
}

/// A threshold of a [`Likeness`], and on which side of it an edit is made.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) likeness: Arc<Likeness>,
    pub(crate) side: Side,
    pub(crate) threshold: f64,
    /// What is behind the name of a direction that acts on this condition.
    pub(super) label: String,
}

impl Gate {
    /// Whether a prompt that is so like the direction is edited.
    pub(crate) fn is_open(&self, likeness: f64) -> bool {
        self.side.holds(likeness, self.threshold)
    }
}

parameters! {
    /// On which prompts an edit is made.
    #[derive(Clone, Debug)]
    pub(crate) group When {
        /// A stage of kind `condition`, which found all the rest.
        condition: Option<Given<ConditionStage>>,
        /// Or the stage of the direction that a prompt is held against.
        direction: Option<Given<DirectionStage>>,
        /// The layer at which, of those where the stage has a direction; needed where there are several.
        layer: Option<Spanned<usize>>,
        /// Edited are prompts that are more like it than this; of several thresholds each is tried.
        above: Option<Alphas>,
        /// Edited are prompts that are less like it than this.
        below: Option<Alphas>,
        /// What of a prompt is held against the direction.
        over: Over = "mean",
        /// How like they are.
        similarity: Similarity = "cosine",
    }
}

impl Together for When {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        if fields.node("condition").is_some() {
            let condition = fields.required("condition")?;
            return Some(When {
                condition: Some(condition),
                direction: None,
                layer: None,
                above: None,
                below: None,
                over: Over::Mean,
                similarity: Similarity::Cosine,
            });
        }
        let direction = fields.required("direction");
        let layer = fields.optional("layer");
        let (above, below) = (fields.optional("above"), fields.optional("below"));
        let over = fields.optional("over").unwrap_or(Over::Mean);
        let similarity = fields.optional("similarity").unwrap_or(Similarity::Cosine);
        if above.is_some() == below.is_some() {
            let message = "a condition has a threshold on one side: `above` or `below`";
            let at = fields.at.clone();
            fields.problems.error_at(&at, message).help(
                "`above = 0.1` edits prompts that are more like the direction than 0.1; or name a stage that finds one: `condition = \"…\"`",
            );
            return None;
        }
        Some(When {
            condition: None,
            direction: Some(direction?),
            layer,
            above,
            below,
            over,
            similarity,
        })
    }
}

impl When {
    pub(super) fn check(&self, models: &[Name], inputs: &Inputs, problems: &mut Problems) {
        let Some(stage) = &self.direction else { return };
        check_directions(stage, false, models, inputs, problems);
        let expected = inputs.expected_directions(stage);
        let layers: Vec<usize> = expected.iter().map(|direction| direction.layer).collect();
        let label = || format!("it makes directions at {layers:?}");
        match &self.layer {
            Some(layer) if !layers.is_empty() && !layers.contains(&layer.value) => {
                let (stage, layer_number) = (&stage.value, layer.value);
                let message = format!(
                    "stage `{stage}` makes no direction at layer {layer_number} to hold prompts against"
                );
                problems.error_at(&layer.at, message).label(label());
            }
            None if layers.iter().any(|layer| *layer != layers[0]) => {
                let message = format!(
                    "stage `{}` makes directions at several layers, and prompts are held against one",
                    stage.value
                );
                problems
                    .error_at(&stage.at, message)
                    .label(label())
                    .help("say which with `layer`");
            }
            _ => {}
        }
    }

    /// A gate for each threshold.
    ///
    /// # Errors
    /// A stage without the one direction that is asked for.
    pub(super) fn gates(&self, inputs: &Inputs) -> Result<Vec<Arc<Gate>>, StageError> {
        if let Some(condition) = &self.condition {
            return Ok(vec![Arc::new(chosen_gate(condition, inputs)?)]);
        }
        let stage = self
            .direction
            .as_ref()
            .ok_or_else(|| StageError::Internal("a condition without a direction".to_string()))?;
        let all = &inputs.stage(stage)?.directions;
        let layer = self.layer.as_ref().map(|layer| layer.value);
        let there = all
            .iter()
            .filter(|d| layer.is_none_or(|layer| d.layer == layer));
        let there: Vec<&Direction> = there.collect();
        let [direction] = there[..] else {
            let at = layer.map_or(String::new(), |layer| format!(" at layer {layer}"));
            return Err(StageError::Data(format!(
                "stage `{}` has {} directions{at}, and prompts are held against one",
                stage.value,
                there.len()
            )));
        };
        let likeness = Arc::new(Likeness::to(direction, self.over, self.similarity));
        let of_side = |side: Side, thresholds: &Option<Alphas>| {
            let values: Vec<f64> = thresholds
                .iter()
                .flat_map(|t| t.values().copied())
                .collect();
            let (likeness, name) = (Arc::clone(&likeness), direction.label.clone());
            values
                .into_iter()
                .map(move |threshold| Arc::new(gate(&name, &likeness, side, threshold)))
        };
        let above = of_side(Side::Above, &self.above);
        Ok(above.chain(of_side(Side::Below, &self.below)).collect())
    }
}

fn gate(direction: &str, likeness: &Arc<Likeness>, side: Side, threshold: f64) -> Gate {
    let (layer, sign) = (likeness.layer, side.sign());
    Gate {
        likeness: Arc::clone(likeness),
        side,
        threshold,
        label: format!("+if({direction}@{layer}{sign}{threshold})"),
    }
}

/// The gate that a stage has chosen.
fn chosen_gate(stage: &Name, inputs: &Inputs) -> Result<Gate, StageError> {
    let left = inputs.stage(stage)?;
    let wrong = |what: &str| StageError::Data(format!("stage `{stage}` names no {what}"));
    let [direction] = &left.directions[..] else {
        return Err(wrong("direction of its choice"));
    };
    let chosen = left.table("chosen")?;
    let word = |column: &str| {
        let cell = table::cell(chosen.column(column).ok()?, 0);
        table::text_of(&cell).map(str::to_string)
    };
    let over = word("over").and_then(|word| choice::<Over>(&word));
    let similarity = word("similarity").and_then(|word| choice::<Similarity>(&word));
    let side = word("when").and_then(|word| choice::<Side>(&word));
    let threshold = table::read_numbers(&chosen, "threshold")?;
    let threshold = threshold.first().copied();
    let likeness = Likeness::to(
        direction,
        over.ok_or_else(|| wrong("`over`"))?,
        similarity.ok_or_else(|| wrong("`similarity`"))?,
    );
    let (side, threshold) = side.zip(threshold).ok_or_else(|| wrong("threshold"))?;
    Ok(gate(&direction.label, &Arc::new(likeness), side, threshold))
}

fn choice<T: Choice>(word: &str) -> Option<T> {
    let found = T::CHOICES.iter().find(|(name, ..)| *name == word);
    found.map(|(_, choice, _)| *choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn likeness(similarity: Similarity) -> Likeness {
        Likeness {
            vector: Arc::new(Vector::new(vec![0.6, 0.8, 0.0])),
            layer: 0,
            site: Site::ResidPre,
            over: Over::Last,
            similarity,
        }
    }

    #[test]
    fn the_cosine_has_a_sign_and_casts_has_none() {
        let of = |similarity, h: [f32; 3]| likeness(similarity).of(&h).unwrap();
        assert!((of(Similarity::Cosine, [1.2, 1.6, 0.0]) - 1.0).abs() < 1e-7);
        assert!((of(Similarity::Cosine, [-3.0, 0.0, 4.0]) + 0.36).abs() < 1e-7);
        assert_eq!(of(Similarity::Cosine, [0.0; 3]), 0.0);
        // numpy: h = [-3, 0, 4], c = [.6, .8, 0], t = tanh((h @ c) * c); h @ t / norm(h) / norm(t) = 0.39828
        let unsigned = of(Similarity::Cast, [-3.0, 0.0, 4.0]);
        assert!((unsigned - 0.39828).abs() < 1e-5, "{unsigned}");
        assert_eq!(unsigned, of(Similarity::Cast, [3.0, 0.0, -4.0]));
    }

    #[test]
    fn a_tie_is_on_neither_side() {
        assert!(!Side::Above.holds(0.1, 0.1) && !Side::Below.holds(0.1, 0.1));
        assert!(Side::Above.holds(0.2, 0.1) && Side::Below.holds(0.0, 0.1));
    }
}
