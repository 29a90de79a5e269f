//! The arithmetic: activations of two groups of prompts, and the difference of their means.

use std::collections::HashSet;
use std::sync::Arc;

use crate::model::{Cell, Chat, HookPoint, ModelHandle, Readout, Site, Tokens, Vector};
use crate::prompts::{Prompt, PromptSet};
use crate::stages::position::{Layout, Selection};
use crate::stages::settings::Settings;
use crate::stages::sweep;
use crate::stages::{Evaluate, StageError};

use super::Scored;
use super::affine::Affine;
use super::method::How;

/// A position as it is told: the number, or the mean over the prompt's tokens.
pub(in crate::stages) fn place_told(position: Option<i64>) -> String {
    match position {
        Some(position) => format!("position {position}"),
        None => "over all tokens".to_string(),
    }
}

/// A direction in the residual stream and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Direction {
    /// How A and B were chosen, e.g. `top_bottom_30`.
    pub(crate) label: String,
    /// The holdout seed, if there is one.
    pub(crate) seed: Option<u64>,
    /// Name of the model in the study.
    pub(crate) model: String,
    /// Fingerprint of the model, hex.
    pub(crate) fingerprint: String,
    pub(crate) layer: usize,
    pub(crate) site: Site,
    /// Position of the activations, counted from the end of the prompt below 0, otherwise from its start; of none the mean over its tokens.
    pub(crate) position: Option<i64>,
    /// The token there, as the vocabulary spells it, where the stage names other places than the last token and all members have the same.
    pub(crate) token: Option<String>,
    /// Unit vector, `[d_model]`, float32.
    pub(crate) vector: Arc<Vector>,
    pub(crate) pre_norm: f64,
    /// What edits that move a mean need, where that was asked for.
    pub(crate) affine: Option<Arc<Affine>>,
    /// Mean norm of the activations of A and B; none of a direction that was made elsewhere.
    pub(crate) resid_norm: Option<f64>,
    /// Ids of A, in selection order.
    pub(crate) top: Vec<String>,
    /// Ids of B, in selection order.
    pub(crate) bottom: Vec<String>,
    /// Lowest and highest score in A; none where no score chose it.
    pub(crate) top_scores: Option<(f64, f64)>,
    /// The same of B.
    pub(crate) bottom_scores: Option<(f64, f64)>,
    /// Texts of A and B: they decide which prompts count as having built the direction.
    pub(crate) builders: Arc<HashSet<String>>,
}

impl Direction {
    /// Whether it is of another place than the last token, which need not be told.
    pub(in crate::stages) fn is_placed(&self) -> bool {
        self.token.is_some() || self.position.is_none()
    }
}

/// Two groups of prompts, by index into a prompt set.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::stages) struct Groups {
    /// A, the refusing side where scores choose it.
    pub(crate) top: Vec<usize>,
    /// B.
    pub(crate) bottom: Vec<usize>,
}

/// What a direction is made of.
pub(in crate::stages) struct Recipe<'a> {
    pub(crate) model: &'a Arc<ModelHandle>,
    /// The prompts the groups point into.
    pub(crate) prompts: &'a PromptSet,
    pub(crate) layers: &'a [usize],
    pub(crate) site: Site,
    pub(crate) places: &'a Places,
    pub(crate) how: How,
    pub(crate) with_affine: bool,
    pub(crate) label: String,
    /// Seed of the split, if there is one.
    pub(crate) seed: Option<u64>,
    pub(crate) settings: &'a Settings,
}

/// The single tokens at which a stage takes activations, or the mean over all of them.
pub(in crate::stages) struct Places {
    /// Counted from the end below 0; none is the mean.
    places: Vec<Option<i64>>,
    /// How each is resolved in a prompt; the mean has all tokens.
    selections: Vec<Selection>,
    /// Single tokens ask for nothing of it.
    layout: Layout,
    /// Whether there is nothing to tell of: the last token.
    is_last: bool,
}

impl Places {
    /// Of a selection on a model; none of one that does not name single tokens.
    pub(in crate::stages) fn of(
        selection: &Selection,
        model: &ModelHandle,
        chat: &Chat,
    ) -> Result<Option<Self>, StageError> {
        let layout = Layout::of(selection, model, chat)?;
        let places = selection
            .places(&layout)
            .filter(|places| !places.is_empty());
        Ok(places.map(|places| Places {
            is_last: selection.is_last(),
            ..Self::at(&places)
        }))
    }

    /// The last token alone.
    pub(in crate::stages) fn last() -> Self {
        Places {
            is_last: true,
            ..Self::at(&[-1])
        }
    }

    /// The mean over all tokens of a prompt.
    pub(in crate::stages) fn mean() -> Self {
        Places {
            places: vec![None],
            selections: vec![Selection::all()],
            layout: Layout::none(),
            is_last: false,
        }
    }

    /// These, counted from the end below 0.
    pub(in crate::stages) fn at(places: &[i64]) -> Self {
        Places {
            places: places.iter().copied().map(Some).collect(),
            selections: places
                .iter()
                .map(|place| Selection::index(*place))
                .collect(),
            layout: Layout::none(),
            is_last: false,
        }
    }

    /// The index of each in a prompt.
    ///
    /// # Errors
    /// A prompt that does not have it.
    pub(in crate::stages) fn in_prompt(
        &self,
        tokens: &Tokens,
        prompt: &Prompt,
    ) -> Result<Vec<usize>, StageError> {
        let each = self.selections.iter();
        each.map(|selection| Ok(selection.of(&self.layout, tokens, prompt)?.first()))
            .collect()
    }

    pub(in crate::stages) fn are_one(&self) -> bool {
        self.count() == 1
    }

    pub(in crate::stages) fn count(&self) -> usize {
        self.places.len()
    }
}

/// The layer and the position at which there is no direction.
pub(in crate::stages) type Without = (usize, Option<i64>);

/// Activations of A and B at one layer and place: `[prompt][d_model]`, float32.
pub(in crate::stages) struct Activations {
    pub(super) layer: usize,
    /// None of a mean over the prompt's tokens.
    pub(super) position: Option<i64>,
    pub(super) token: Option<String>,
    pub(super) top: Vec<Vec<f32>>,
    pub(super) bottom: Vec<Vec<f32>>,
}

impl Recipe<'_> {
    /// The activations of the groups' prompts, place by place, and in each layer by layer.
    pub(in crate::stages) fn activations(
        &self,
        groups: &Groups,
        evaluator: &mut dyn Evaluate,
    ) -> Result<Vec<Activations>, StageError> {
        let tokens = sweep::tokens_of(self.model, self.prompts, self.settings)?;
        let members: Vec<usize> = groups.top.iter().chain(&groups.bottom).copied().collect();
        let mut cells = Vec::new();
        let mut at = Vec::new();
        for (position, selection) in self.places.places.iter().zip(&self.places.selections) {
            let mut positions = Vec::with_capacity(members.len());
            for &index in &members {
                let prompt = &self.prompts.prompts[index];
                let found = selection.of(&self.places.layout, &tokens[index], prompt)?;
                positions.push(found.first());
            }
            let of_members = members.iter().map(|&index| &tokens[index]);
            let token = match position {
                Some(_) => self.token(of_members.zip(&positions)),
                None => None,
            };
            for &layer in self.layers {
                at.push((*position, token.clone(), layer));
                for (&index, &first) in members.iter().zip(&positions) {
                    let hook = HookPoint::block(layer, self.site);
                    let readout = match position {
                        Some(_) => Readout::Activation {
                            hook,
                            position: first,
                        },
                        None => Readout::Mean { hook },
                    };
                    let (model, n_layers) = (self.model.fingerprint, self.model.config().n_layers);
                    let tokens = Arc::clone(&tokens[index]);
                    cells.push(Cell::new(model, tokens, vec![], readout, n_layers));
                }
            }
        }
        let mut vectors = sweep::activations(evaluator.evaluate(&cells)?)?.into_iter();
        let at_place = |(position, token, layer)| Activations {
            layer,
            position,
            token,
            top: vectors.by_ref().take(groups.top.len()).collect(),
            bottom: vectors.by_ref().take(groups.bottom.len()).collect(),
        };
        Ok(at.into_iter().map(at_place).collect())
    }

    /// The token at a place of some prompts, where that is to be told and all have the same.
    fn token<'t>(
        &self,
        mut at: impl Iterator<Item = (&'t Arc<Tokens>, &'t usize)>,
    ) -> Option<String> {
        if self.places.is_last {
            return None;
        }
        let (tokens, position) = at.next()?;
        let id = *tokens.ids().get(*position)?;
        let are_same = at.all(|(tokens, position)| tokens.ids().get(*position) == Some(&id));
        Some(match are_same {
            true => self.model.spelling(id),
            false => String::new(),
        })
    }

    /// What the directions at a place are called: where there are several, by their place, too.
    fn label(&self, position: Option<i64>) -> String {
        match position.filter(|_| !self.places.are_one()) {
            None => self.label.clone(),
            Some(position) => format!("{}_at_{position}", self.label),
        }
    }

    /// The directions, one for each place and layer that has one, and the layers and positions at which the means of the two groups are the same. Fails where no
    /// layer has a direction.
    pub(in crate::stages) fn directions(
        &self,
        groups: &Groups,
        activations: &[Activations],
        scores: Option<&Scored<'_>>,
    ) -> Result<(Vec<Direction>, Vec<Without>), StageError> {
        let prompt = |&i: &usize| &self.prompts.prompts[i];
        let ids = |list: &[usize]| list.iter().map(|i| prompt(i).id.clone()).collect();
        let range = |list: &[usize]| {
            let scores = scores?;
            let values = list.iter().filter_map(|&i| scores.scores[i]);
            Some(
                values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), s| {
                    (low.min(s), high.max(s))
                }),
            )
        };
        let members = groups.top.iter().chain(&groups.bottom);
        let builders: HashSet<String> = members.map(|i| prompt(i).text.clone()).collect();
        let builders = Arc::new(builders);
        let (mut directions, mut without) = (Vec::new(), Vec::new());
        for at_layer in activations {
            let layer = at_layer.layer;
            let found = self.how.direction(&at_layer.top, &at_layer.bottom);
            let found = found.map_err(|problem| {
                StageError::Data(format!("the direction at layer {layer} {problem}"))
            })?;
            let Some((vector, pre_norm)) = found else {
                without.push((layer, at_layer.position));
                continue;
            };
            let all = at_layer.top.iter().chain(&at_layer.bottom);
            let norms: Vec<f64> = all.map(|v| norm(v.iter().map(|&x| f64::from(x)))).collect();
            directions.push(Direction {
                label: self.label(at_layer.position),
                seed: self.seed,
                model: self.model.name.clone(),
                fingerprint: self.model.fingerprint.to_hex().to_string(),
                layer,
                site: self.site,
                position: at_layer.position,
                token: at_layer.token.clone(),
                vector: Arc::new(Vector::new(vector)),
                pre_norm,
                affine: match self.with_affine {
                    true => Affine::of(&at_layer.top, &at_layer.bottom).map(Arc::new),
                    false => None,
                },
                resid_norm: Some(norms.iter().sum::<f64>() / norms.len() as f64),
                top: ids(&groups.top),
                bottom: ids(&groups.bottom),
                top_scores: range(&groups.top),
                bottom_scores: range(&groups.bottom),
                builders: Arc::clone(&builders),
            });
        }
        match (directions.is_empty(), without.first()) {
            (true, Some((layer, _))) => Err(StageError::Data(format!(
                "the direction at layer {layer} is zero or not finite (norm 0): the two groups do not differ"
            ))),
            _ => Ok((directions, without)),
        }
    }

    /// What to say of layers that have no direction, at each position.
    pub(in crate::stages) fn left_out(&self, without: &[Without]) -> Vec<String> {
        let by_position = without.chunk_by(|(_, a), (_, b)| a == b);
        let told = by_position.map(|layers| {
            let position = layers[0].1;
            let numbers: Vec<String> = layers.iter().map(|(layer, _)| layer.to_string()).collect();
            let (s, is) = match layers {
                [_] => ("", "is"),
                _ => ("s", "are"),
            };
            format!(
                "layer{s} {} {is} left out: at `{}`, {}, the mean activations of the two groups are the same there, so there is no \
                 direction (nothing tells prompts apart at a token that all of them have, before attention has read the others)",
                numbers.join(", "),
                self.site.short_name(),
                place_told(position),
            )
        });
        told.collect()
    }
}

/// mean(top) − mean(bottom) in float64 → the unit vector in float32 and the norm before; none where the means are the same.
pub(super) fn difference_of_means(
    top: &[Vec<f32>],
    bottom: &[Vec<f32>],
) -> Result<Option<(Vec<f32>, f64)>, String> {
    let (Some(first), false) = (top.first(), bottom.is_empty()) else {
        return Err("has an empty group: no prompt was selected on one side".to_string());
    };
    let mean = |rows: &[Vec<f32>], i: usize| {
        rows.iter().map(|r| f64::from(r[i])).sum::<f64>() / rows.len() as f64
    };
    let raw: Vec<f64> = (0..first.len())
        .map(|i| mean(top, i) - mean(bottom, i))
        .collect();
    let length = norm(raw.iter().copied());
    if !length.is_finite() {
        return Err(format!("is not finite (norm {length})"));
    }
    let unit = || raw.iter().map(|x| (x / length) as f32).collect();
    Ok((length > 0.0).then(|| (unit(), length)))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_of_means_is_normalised() {
        let top = [vec![1.0, 2.0], vec![3.0, 6.0]];
        let bottom = [vec![-1.0, 0.0], vec![-1.0, 0.0]];
        // means (2, 4) and (-1, 0): the difference is (3, 4), of norm 5
        assert_eq!(
            difference_of_means(&top, &bottom),
            Ok(Some((vec![0.6, 0.8], 5.0)))
        );
    }

    #[test]
    fn equal_means_have_no_direction_and_what_is_no_vector_is_refused() {
        let same = [vec![1.0, 2.0]];
        assert_eq!(difference_of_means(&same, &same), Ok(None));
        // Of groups of any size: means of equal values are exact.
        let value = vec![0.1_f32, 1e-38, 3e38];
        let (seven, three) = (vec![value.clone(); 7], vec![value; 3]);
        assert_eq!(difference_of_means(&seven, &three), Ok(None));
        let infinite = [vec![f32::INFINITY, 0.0]];
        assert!(difference_of_means(&infinite, &same).is_err_and(|m| m.contains("not finite")));
        assert!(difference_of_means(&same, &[]).is_err_and(|m| m.contains("empty group")));
    }
}
