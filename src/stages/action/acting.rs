//! An action with the directions that it takes: the lines that come of them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::model::{Site, Vector};
use crate::stages::direction::{Affine, Direction};
use crate::stages::{Inputs, Name, StageError};

use super::line::{Act, Line, Part, Set};
use super::span::{dot, orthonormal};
use super::when::Gate;
use super::{Action, AlphaUnit, Also, Mode};

/// An action with the directions of the stages that it names.
#[derive(Clone)]
pub(in crate::stages) struct Acting<'a> {
    mode: Mode,
    unit: AlphaUnit,
    plane: Option<(&'a Name, &'a [Direction])>,
    with: Vec<(&'a Also, &'a [Direction], Acting<'a>)>,
    /// One for each threshold of its condition; none where it has no condition.
    gates: Vec<Arc<Gate>>,
}

/// A direction as an action takes it: a learned one, or a vector in its place.
pub(in crate::stages) struct Taken<'d> {
    pub(in crate::stages) label: String,
    pub(in crate::stages) seed: Option<u64>,
    pub(in crate::stages) layer: usize,
    pub(in crate::stages) site: Site,
    pub(in crate::stages) vector: Arc<Vector>,
    pub(in crate::stages) unit_length: f64,
    /// What edits that move a mean need to know of a learned direction; of one that is not, another's.
    pub(in crate::stages) affine: Option<&'d Affine>,
    /// The norm of the difference of means.
    pub(in crate::stages) pre_norm: f64,
    /// Whether `affine` is of the vector itself.
    pub(in crate::stages) is_learned: bool,
    pub(in crate::stages) builders: Arc<HashSet<String>>,
}

impl<'a> Acting<'a> {
    pub(super) fn of(action: &'a Action, inputs: &'a Inputs) -> Result<Self, StageError> {
        let directions = |name: &'a Name| -> Result<&'a [Direction], StageError> {
            Ok(&inputs.stage(name)?.directions[..])
        };
        let plane = action.plane.as_ref();
        let plane = plane.map(|name| Ok::<_, StageError>((&name.0, directions(name)?)));
        let with = action.with.iter().map(|also| {
            let acting = Acting::of(&also.action.0, inputs)?;
            Ok((also, directions(&also.direction)?, acting))
        });
        Ok(Acting {
            mode: action.mode,
            unit: action.alpha_unit,
            plane: plane.transpose()?,
            with: with.collect::<Result<_, StageError>>()?,
            gates: match &action.when {
                Some(when) => when.0.gates(inputs)?,
                None => Vec::new(),
            },
        })
    }

    /// A learned direction at its own place.
    fn line(&self, direction: &Direction) -> Result<Line, StageError> {
        self.line_of(&self.taken(direction)?)
    }

    fn taken<'d>(&self, direction: &'d Direction) -> Result<Taken<'d>, StageError> {
        Ok(Taken {
            label: direction.label.clone(),
            seed: direction.seed,
            layer: direction.layer,
            site: direction.site,
            vector: Arc::clone(&direction.vector),
            unit_length: self.unit.length(direction)?,
            affine: direction.affine.as_deref(),
            pre_norm: direction.pre_norm,
            is_learned: true,
            builders: Arc::clone(&direction.builders),
        })
    }

    /// A direction at a place, with what else is done there.
    ///
    /// # Errors
    /// A direction that was made without what the action needs.
    pub(in crate::stages) fn line_of(&self, taken: &Taken<'_>) -> Result<Line, StageError> {
        let part = Part {
            layer: taken.layer,
            site: taken.site,
            act: self.act(taken)?,
        };
        self.line_of_parts(taken, vec![part])
    }

    fn line_of_parts(&self, taken: &Taken<'_>, parts: Vec<Part>) -> Result<Line, StageError> {
        let also = self.with.iter().map(|(also, directions, acting)| {
            let line = acting.line(chosen(&also.direction, directions, taken)?)?;
            Ok(match also.layer {
                Some(layer) => line.at(layer, None),
                None => line,
            })
        });
        Ok(Line {
            direction: self.mode.label(&taken.label),
            seed: taken.seed,
            layer: taken.layer,
            site: taken.site,
            has_alpha: self.mode.has_alpha(),
            layers: None,
            parts: parts.into(),
            also: also.collect::<Result<_, StageError>>()?,
            also_alphas: Arc::from([]),
            gate: None,
            sets: Arc::from([]),
            builders: Arc::clone(&taken.builders),
        })
    }

    fn act(&self, taken: &Taken<'_>) -> Result<Act, StageError> {
        let vector = || Arc::clone(&taken.vector);
        Ok(match self.mode {
            Mode::Add => Act::Add {
                vector: vector(),
                unit_length: taken.unit_length,
            },
            Mode::Ablate | Mode::AblateAll => Act::Ablate(vector()),
            Mode::AblateEverywhere => Act::AblateEverywhere(vector()),
            Mode::AblateSpan => Act::AblateSpan([vector()].into()),
            Mode::Ace => {
                let affine = needed(taken)?;
                Act::SetLevel {
                    read: vector(),
                    write: vector(),
                    base: dot(&affine.mean_b, &taken.vector),
                    unit: taken.pre_norm,
                }
            }
            Mode::Leace => {
                let affine = needed(taken)?;
                // A vector that was not made of the groups is taken out about their mean.
                let read = match taken.is_learned {
                    true => Arc::clone(&affine.eraser),
                    false => vector(),
                };
                let level = affine.level_of_mean(&read);
                Act::SetLevel {
                    read,
                    write: vector(),
                    base: level,
                    unit: 0.0,
                }
            }
            Mode::Rotate => {
                let (name, directions) = self.plane.ok_or_else(|| {
                    StageError::Internal("a rotation without a plane".to_string())
                })?;
                let other = chosen(name, directions, taken)?;
                let span = orthonormal([&*taken.vector, &*other.vector]);
                let Ok([first, second]) = <[Arc<Vector>; 2]>::try_from(span) else {
                    return Err(StageError::Data(format!(
                        "direction `{}` at layer {} and that of stage `{name}` are one line, and span no plane to rotate in",
                        taken.label, taken.layer
                    )));
                };
                Act::Rotate { first, second }
            }
        })
    }
}

/// For each seed the line that takes the span of all directions out, or of those at each layer.
fn span_lines(
    acting: &Acting<'_>,
    directions: &[Direction],
    of_all_layers: bool,
) -> Result<Vec<Line>, StageError> {
    let mut by_place: BTreeMap<(Option<u64>, usize), Vec<&Direction>> = BTreeMap::new();
    for direction in directions {
        let layer = if of_all_layers { 0 } else { direction.layer };
        let place = (direction.seed, layer);
        by_place.entry(place).or_default().push(direction);
    }
    let lines = by_place.into_values().map(|directions| {
        let span = orthonormal(directions.iter().map(|d| &*d.vector));
        acting.line_of_span(&acting.taken(directions[0])?, span)
    });
    lines.collect()
}

impl Acting<'_> {
    /// The line that takes a span out, at the place of one of its directions.
    pub(in crate::stages) fn line_of_span(
        &self,
        taken: &Taken<'_>,
        span: Vec<Arc<Vector>>,
    ) -> Result<Line, StageError> {
        let part = Part {
            layer: taken.layer,
            site: taken.site,
            act: Act::AblateSpan(span.into()),
        };
        self.line_of_parts(taken, vec![part])
    }

    /// Learned directions, each at its own place, or the span of all at a layer; of all there are, where the study says at which layers it acts.
    pub(in crate::stages) fn lines(
        &self,
        directions: &[Direction],
        are_layers_named: bool,
    ) -> Result<Vec<Line>, StageError> {
        match self.mode {
            Mode::AblateSpan => span_lines(self, directions, are_layers_named),
            _ => directions
                .iter()
                .map(|direction| self.line(direction))
                .collect(),
        }
    }

    /// Lines that know where they act, in a model of so many layers: with the prompts they are tried on and every α of what else is done.
    pub(in crate::stages) fn finished(
        &self,
        lines: Vec<Line>,
        n_layers: usize,
        sets: &Arc<[Set]>,
    ) -> Vec<Line> {
        let lines = lines.into_iter().map(|line| {
            let line = match self.mode {
                Mode::AblateAll => line.at_each_of(0..n_layers),
                _ => line,
            };
            match line.sets.is_empty() {
                true => line.on(Arc::clone(sets)),
                false => line,
            }
        });
        self.gated(self.varied(lines.collect()))
    }

    /// Each line with every threshold of the condition. A line is called by its condition, too.
    fn gated(&self, lines: Vec<Line>) -> Vec<Line> {
        if self.gates.is_empty() {
            return lines;
        }
        let gated = |line: Line| {
            let gates = self.gates.iter();
            let each = gates.map(move |gate| Line {
                direction: format!("{}{}", line.direction, gate.label),
                gate: Some(Arc::clone(gate)),
                ..line.clone()
            });
            each.collect::<Vec<_>>()
        };
        lines.into_iter().flat_map(gated).collect()
    }

    /// Each line with every combination of α of what else is done, the last changing fastest. A line is called by all that it does.
    fn varied(&self, lines: Vec<Line>) -> Vec<Line> {
        let mut combinations: Vec<Vec<Option<f64>>> = vec![Vec::new()];
        for (also, ..) in &self.with {
            let Action { mode, alpha, .. } = &also.action.0;
            let values = alpha
                .values()
                .map(|alpha| mode.has_alpha().then_some(*alpha));
            let values: Vec<Option<f64>> = values.collect();
            let longer = |so_far: Vec<Option<f64>>| {
                let values = values.iter();
                values
                    .map(move |alpha| [so_far.clone(), vec![*alpha]].concat())
                    .collect::<Vec<_>>()
            };
            combinations = combinations.into_iter().flat_map(longer).collect();
        }
        let with = |line: &Line, alphas: &[Option<f64>]| {
            let others = line
                .also
                .iter()
                .zip(alphas)
                .map(|(other, alpha)| match alpha {
                    Some(alpha) => format!("+{}({alpha})", other.direction),
                    None => format!("+{}", other.direction),
                });
            Line {
                direction: format!("{}{}", line.direction, others.collect::<String>()),
                also_alphas: alphas.into(),
                ..line.clone()
            }
        };
        let each = |line: Line| {
            let combinations = combinations.iter();
            combinations
                .map(|alphas| with(&line, alphas))
                .collect::<Vec<_>>()
        };
        lines.into_iter().flat_map(each).collect()
    }
}

/// The direction of a stage that goes with another: the only one, or the one of its layer and seed, or of its layer.
fn chosen<'d>(
    stage: &Name,
    directions: &'d [Direction],
    with: &Taken<'_>,
) -> Result<&'d Direction, StageError> {
    if let [only] = directions {
        return Ok(only);
    }
    let mut at_layer = directions.iter().filter(|d| d.layer == with.layer);
    let of_seed = at_layer.clone().find(|d| d.seed == with.seed);
    let found = of_seed.or_else(|| at_layer.next().filter(|_| at_layer.next().is_none()));
    found.ok_or_else(|| {
        StageError::Data(format!(
            "stage `{stage}` has {} directions, and not just one at layer {} to go with `{}`",
            directions.len(),
            with.layer,
            with.label
        ))
    })
}

fn needed<'d>(taken: &Taken<'d>) -> Result<&'d Affine, StageError> {
    taken.affine.ok_or_else(|| {
        StageError::Data(format!(
            "direction `{}` at layer {} was made without the means of its groups; set `affine = true` in the stage that makes it",
            taken.label, taken.layer
        ))
    })
}
