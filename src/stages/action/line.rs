//! One direction at one place, and the edits that are made of it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::model::{Edit, HookPoint, Intervention, ModelConfig, Positions, Site, Vector};
use crate::stages::direction::{Affine, Direction};
use crate::stages::{Inputs, Name, StageError};

use super::{Action, AlphaUnit, Also, Mode};

/// A named group of prompts, by index into the prompt set.
pub(crate) type Set = (String, Vec<usize>);

/// What is done at one layer and site; all parts of a line share its α.
#[derive(Clone, Debug)]
struct Part {
    layer: usize,
    site: Site,
    act: Act,
}

/// An edit before its α is known.
#[derive(Clone, Debug)]
enum Act {
    Add {
        vector: Arc<Vector>,
        unit_length: f64,
    },
    Ablate(Arc<Vector>),
    /// At the input of every block and at what attention and MLP add.
    AblateEverywhere(Arc<Vector>),
    AblateSpan(Arc<[Arc<Vector>]>),
    /// To the level `base + α · unit`.
    SetLevel {
        read: Arc<Vector>,
        write: Arc<Vector>,
        base: f64,
        unit: f64,
    },
    Rotate {
        first: Arc<Vector>,
        second: Arc<Vector>,
    },
}

/// One direction at one place, or several at once, with the prompts it is tried on.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What the direction is, e.g. `top_bottom_30` or `random`, and what is done with it.
    pub(crate) direction: String,
    /// The seed behind it, if there is one.
    pub(crate) seed: Option<u64>,
    /// Where it acts; of several layers at once the first.
    pub(crate) layer: usize,
    pub(crate) site: Site,
    /// Whether what is done is done more or less.
    pub(crate) has_alpha: bool,
    /// All layers at which it acts at once, where they are several.
    pub(crate) layers: Option<String>,
    parts: Arc<[Part]>,
    /// What else is done in the same run.
    also: Arc<[Line]>,
    /// α of each of these; none of an ablation.
    pub(crate) also_alphas: Arc<[Option<f64>]>,
    /// Named groups of prompts; lines share them.
    pub(crate) sets: Arc<[Set]>,
    /// Texts of the prompts the direction was made from.
    pub(crate) builders: Arc<HashSet<String>>,
}

impl Line {
    /// The edits at α and these positions: first its own, then those of what else is done, at the positions of each.
    pub(crate) fn edits(
        &self,
        alpha: f64,
        positions: &[Positions],
        config: &ModelConfig,
    ) -> Vec<Intervention> {
        let others = self.also.iter().zip(self.also_alphas.iter());
        let others = others.map(|(line, alpha)| (line, alpha.unwrap_or(0.0)));
        let lines = [(self, alpha)].into_iter().chain(others).zip(positions);
        let each = lines.flat_map(|((line, alpha), positions)| {
            let parts = line.parts.iter();
            parts.flat_map(move |part| part.edits(alpha, positions, config))
        });
        each.collect()
    }

    /// A direction that is added at one place.
    #[cfg(test)]
    pub(crate) fn adding(
        (direction, seed): (&str, Option<u64>),
        (layer, site): (usize, Site),
        unit_length: f64,
    ) -> Self {
        let vector = Arc::new(Vector::new(vec![1.0]));
        let act = Act::Add {
            vector,
            unit_length,
        };
        Line {
            direction: direction.to_string(),
            seed,
            layer,
            site,
            has_alpha: true,
            layers: None,
            parts: [Part { layer, site, act }].into(),
            also: Arc::from([]),
            also_alphas: Arc::from([]),
            sets: Arc::from([]),
            builders: Arc::default(),
        }
    }

    /// The same line with prompts to try it on.
    pub(crate) fn on(self, sets: Arc<[Set]>) -> Self {
        Line { sets, ..self }
    }
}

impl Part {
    fn edits(&self, alpha: f64, positions: &Positions, config: &ModelConfig) -> Vec<Intervention> {
        let at = |layer: usize, site: Site, edit: Edit| Intervention {
            hook: HookPoint::block(layer, site),
            positions: positions.clone(),
            edit,
        };
        let edit = match &self.act {
            Act::AblateEverywhere(vector) => {
                let sites = [Site::ResidPre, Site::AttnOut, Site::MlpOut];
                let places = (0..config.n_layers).flat_map(|l| sites.map(|site| (l, site)));
                let there = places.filter(|(l, site)| HookPoint::block(*l, *site).is_in(config));
                return there
                    .map(|(l, site)| at(l, site, Edit::Ablate(Arc::clone(vector))))
                    .collect();
            }
            Act::Add {
                vector,
                unit_length,
            } => Edit::Add {
                vector: Arc::clone(vector),
                scale: alpha * unit_length,
            },
            Act::Ablate(vector) => Edit::Ablate(Arc::clone(vector)),
            Act::AblateSpan(span) => Edit::AblateSpan(Arc::clone(span)),
            Act::SetLevel {
                read,
                write,
                base,
                unit,
            } => Edit::SetLevel {
                read: Arc::clone(read),
                write: Arc::clone(write),
                level: base + alpha * unit,
            },
            Act::Rotate { first, second } => Edit::Rotate {
                first: Arc::clone(first),
                second: Arc::clone(second),
                degrees: alpha,
            },
        };
        vec![at(self.layer, self.site, edit)]
    }
}

/// An action with the directions of the stages that it names.
#[derive(Clone)]
pub(in crate::stages) struct Acting<'a> {
    mode: Mode,
    unit: AlphaUnit,
    plane: Option<(&'a Name, &'a [Direction])>,
    with: Vec<(&'a Also, &'a [Direction], Acting<'a>)>,
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
        })
    }

    /// A learned direction at its own place.
    fn line(&self, direction: &Direction) -> Result<Line, StageError> {
        self.line_of(&self.taken(direction))
    }

    fn taken<'d>(&self, direction: &'d Direction) -> Taken<'d> {
        Taken {
            label: direction.label.clone(),
            seed: direction.seed,
            layer: direction.layer,
            site: direction.site,
            vector: Arc::clone(&direction.vector),
            unit_length: self.unit.length(direction.pre_norm, direction.resid_norm),
            affine: direction.affine.as_deref(),
            pre_norm: direction.pre_norm,
            is_learned: true,
            builders: Arc::clone(&direction.builders),
        }
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

impl Line {
    /// At another layer, and perhaps another site. Away from home a direction says where it came from, so that its rows can be told from those of
    /// a direction that is at home there.
    pub(in crate::stages) fn at(self, layer: usize, site: Option<Site>) -> Self {
        let is_span = |part: &Part| matches!(&part.act, Act::AblateSpan(span) if span.len() > 1);
        let direction = match layer == self.layer || self.parts.iter().any(is_span) {
            true => self.direction.clone(),
            false => format!("{}_from_layer_{}", self.direction, self.layer),
        };
        let site = site.unwrap_or(self.site);
        let parts = self.parts.iter().map(|part| Part {
            layer,
            site,
            act: part.act.clone(),
        });
        Line {
            direction,
            layer,
            site,
            parts: parts.collect(),
            ..self
        }
    }

    /// At its own layers, and perhaps another site.
    pub(in crate::stages) fn to(self, site: Option<Site>) -> Self {
        match site {
            None => self,
            Some(_) => {
                let layer = self.layer;
                self.at(layer, site)
            }
        }
    }

    /// At every one of these layers at once.
    pub(in crate::stages) fn at_each_of(self, layers: impl Iterator<Item = usize>) -> Self {
        let parts = layers.flat_map(|layer| {
            let parts = self.parts.iter();
            parts.map(move |part| Part {
                layer,
                ..part.clone()
            })
        });
        Line {
            parts: parts.collect(),
            ..self
        }
    }
}

/// Several lines as one, whose parts share its α: all directions of a seed, each at its own place, or one direction at several layers.
pub(in crate::stages) fn together(lines: Vec<Line>) -> Vec<Line> {
    let mut by_seed: BTreeMap<Option<u64>, Vec<Line>> = BTreeMap::new();
    for line in lines {
        by_seed.entry(line.seed).or_default().push(line);
    }
    let joined = by_seed.into_values().filter_map(|lines| {
        let numbers: Vec<String> = lines.iter().map(|line| line.layer.to_string()).collect();
        let parts = lines.iter().flat_map(|line| line.parts.iter().cloned());
        let parts = parts.collect();
        let first = lines.into_iter().next()?;
        Some(Line {
            layers: Some(numbers.join("+")),
            parts,
            ..first
        })
    });
    joined.collect()
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
        acting.line_of_span(&acting.taken(directions[0]), span)
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
        self.varied(lines.collect())
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

/// x·y in float64.
fn dot(x: &Vector, y: &Vector) -> f64 {
    let pairs = x.values().iter().zip(y.values());
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Less of a vector than this share of its length is rounding, and adds no dimension.
const LEAST: f64 = 1e-6;

/// An orthonormal basis of the span of unit vectors: Gram–Schmidt in float64, twice over, as QR has it. The first is itself.
pub(in crate::stages) fn orthonormal<'v>(
    vectors: impl IntoIterator<Item = &'v Vector>,
) -> Vec<Arc<Vector>> {
    let mut basis: Vec<Vec<f64>> = Vec::new();
    let mut found = Vec::new();
    for vector in vectors {
        let mut left: Vec<f64> = vector.values().iter().map(|&x| f64::from(x)).collect();
        let length = norm(&left);
        for _ in 0..2 {
            for q in &basis {
                let along: f64 = left.iter().zip(q).map(|(x, q)| x * q).sum();
                left.iter_mut().zip(q).for_each(|(x, q)| *x -= along * q);
            }
        }
        let remaining = norm(&left);
        if remaining.is_nan() || remaining <= LEAST * length {
            continue;
        }
        left.iter_mut().for_each(|x| *x /= remaining);
        found.push(match basis.is_empty() {
            true => Arc::new(Vector::new(vector.values().to_vec())),
            false => Arc::new(Vector::new(left.iter().map(|&x| x as f32).collect())),
        });
        basis.push(left);
    }
    found
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Vector {
        Vector::new(values.to_vec())
    }

    #[test]
    fn a_span_has_as_many_vectors_as_dimensions() {
        let (x, y) = (vector(&[1.0, 0.0, 0.0]), vector(&[0.6, 0.8, 0.0]));
        let basis = orthonormal([&x, &x, &y, &vector(&[0.0, 1.0, 0.0])]);
        assert_eq!(basis.len(), 2);
        assert_eq!(basis[0].values(), x.values());
        assert!((dot(&basis[0], &basis[1])).abs() < 1e-7);
        assert!((basis[1].values()[1] - 1.0).abs() < 1e-7);
    }
}
