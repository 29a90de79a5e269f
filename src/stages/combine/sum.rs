//! The arithmetic: partners at one place, their sum, and what is left of it.

use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::model::{Site, Vector};
use crate::spec::Layers;
use crate::stages::action::orthonormal;
use crate::stages::direction::{Direction, place_told};
use crate::stages::table::Rows;
use crate::stages::vector::Length;
use crate::stages::{StageError, distinct};
use crate::stats::wide;

use super::{Combine, Term};

/// The directions of a stage.
pub(super) struct Source {
    pub(super) stage: String,
    pub(super) directions: Vec<Direction>,
}

/// A combined direction and what it is made of.
pub(super) struct Made {
    pub(super) direction: Direction,
    left: Option<f64>,
    parts: Vec<Part>,
}

struct Part {
    role: &'static str,
    stage: String,
    direction: String,
    model: String,
    weight: Option<f64>,
    length: Option<f64>,
    cosine: f64,
}

/// Terms that leave less than this share of their lengths cancel out: what is left is rounding of float32.
const LEAST_LEFT: f64 = 1e-6;

impl Combine {
    pub(super) fn is_taken(&self, layer: usize) -> bool {
        match &self.layer {
            Some(Layers::List(list)) => list.iter().any(|taken| taken.value == layer),
            _ => true,
        }
    }

    /// What the sum of a few is called.
    fn label(&self) -> String {
        let mut label = String::new();
        for Term { direction, weight } in &self.of.0 {
            let joint = match (label.is_empty(), *weight < 0.0) {
                (true, false) => "",
                (true, true) => "minus_",
                (false, false) => "_plus_",
                (false, true) => "_minus_",
            };
            let times = match weight.abs() {
                1.0 => String::new(),
                times => format!("{times}_"),
            };
            label += &format!("{joint}{times}{}", direction.value);
        }
        let without = self.without.iter().flat_map(|names| names.0.values());
        let without: String = without.map(|name| format!("_without_{name}")).collect();
        label + &without
    }

    /// The sum at the place of a direction of the first stage.
    pub(super) fn made(
        &self,
        at: &Direction,
        of: &[Source],
        without: &[Source],
    ) -> Result<Made, StageError> {
        let partners = |sources: &[Source]| -> Result<Vec<Direction>, StageError> {
            sources
                .iter()
                .map(|source| source.partner(at).cloned())
                .collect()
        };
        let (terms, removed) = (partners(of)?, partners(without)?);
        let mut sum = vec![0.0; at.vector.values().len()];
        let mut lengths = 0.0;
        for (direction, Term { weight, .. }) in terms.iter().zip(&self.of.0) {
            let length = self.length_of(direction);
            lengths += weight.abs() * length;
            let values = direction.vector.values().iter();
            sum.iter_mut()
                .zip(values)
                .for_each(|(s, x)| *s += weight * length * f64::from(*x));
        }
        let whole = norm(&sum);
        let basis = orthonormal(removed.iter().map(|d| &*d.vector));
        // Twice, as Gram–Schmidt has it: the second time takes out what rounding left.
        for q in basis.iter().chain(&basis) {
            let q = wide(q.values());
            let along = dot(&sum, &q);
            sum.iter_mut().zip(&q).for_each(|(s, q)| *s -= along * q);
        }
        let length = norm(&sum);
        if !length.is_finite() || length <= LEAST_LEFT * lengths {
            return Err(StageError::Data(format!(
                "nothing is left of `{}` at layer {}: what it is made of cancels out (norm {length:e}, of terms that are {lengths:e} long)",
                self.label(),
                at.layer
            )));
        }
        let unit: Vec<f64> = sum.iter().map(|x| x / length).collect();
        let part = |(source, direction): (&Source, &Direction), weight: Option<f64>| {
            let values: Vec<f64> = direction
                .vector
                .values()
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            Part {
                role: if weight.is_some() { "term" } else { "without" },
                stage: source.stage.clone(),
                direction: direction.label.clone(),
                model: direction.fingerprint.clone(),
                length: weight.map(|_| self.length_of(direction)),
                weight,
                cosine: (dot(&values, &unit) / norm(&values)).clamp(-1.0, 1.0),
            }
        };
        let added = of.iter().zip(&terms).zip(&self.of.0);
        let mut parts: Vec<Part> = added
            .map(|(pair, term)| part(pair, Some(term.weight)))
            .collect();
        parts.extend(without.iter().zip(&removed).map(|pair| part(pair, None)));
        let builders = terms
            .iter()
            .chain(&removed)
            .flat_map(|d| d.builders.iter().cloned());
        Ok(Made {
            left: self.without.is_some().then(|| length / whole),
            direction: Direction {
                label: self.label(),
                vector: Arc::new(Vector::new(unit.iter().map(|x| *x as f32).collect())),
                pre_norm: length,
                affine: None,
                top: Vec::new(),
                bottom: Vec::new(),
                top_scores: None,
                bottom_scores: None,
                builders: Arc::new(builders.collect()),
                ..at.clone()
            },
            parts,
        })
    }

    fn length_of(&self, direction: &Direction) -> f64 {
        match self.length {
            Length::Keep => direction.pre_norm,
            Length::Unit => 1.0,
        }
    }
}

impl Source {
    /// The direction at the place of another: of its seed where it has one, or the only one.
    fn partner(&self, with: &Direction) -> Result<&Direction, StageError> {
        let here = self.directions.iter().filter(|d| place(d) == place(with));
        let here: Vec<&Direction> = here.collect();
        let of_seed = here.iter().find(|d| d.seed == with.seed);
        let found = match here.as_slice() {
            [only] => Some(*only),
            _ => of_seed.copied(),
        };
        let wanted = format!(
            "layer {}, `{}`, {}",
            with.layer,
            with.site.short_name(),
            place_told(with.position)
        );
        let Some(found) = found else {
            let there = self.directions.iter().map(|d| {
                format!(
                    "layer {}, `{}`, {}",
                    d.layer,
                    d.site.short_name(),
                    place_told(d.position)
                )
            });
            let there = distinct(there).join("; ");
            let seed = with
                .seed
                .map_or(String::new(), |seed| format!(", seed {seed}"));
            return Err(StageError::Data(format!(
                "stage `{}` has no direction to go with that of {wanted}{seed}; it has {there}",
                self.stage
            )));
        };
        let (own, other) = (with.vector.values().len(), found.vector.values().len());
        match own == other {
            true => Ok(found),
            false => Err(StageError::Data(format!(
                "the direction of stage `{}` at {wanted} has {other} numbers, and that which it goes with {own}",
                self.stage
            ))),
        }
    }
}

/// Where a direction is: what a block gives is what the next one is given.
fn place(direction: &Direction) -> (usize, Site, Option<i64>) {
    match direction.site {
        Site::ResidPost => (direction.layer + 1, Site::ResidPre, direction.position),
        site => (direction.layer, site, direction.position),
    }
}

/// What to say of sums of directions of several models.
pub(super) fn between_models(made: &[Made]) -> Option<String> {
    let parts = made.iter().flat_map(|made| &made.parts);
    let models = distinct(parts.map(|part| &part.model));
    (models.len() > 1).then(|| {
        "the directions are of several models: what an axis of the stream stands for in one need not be what it stands for in another".to_string()
    })
}

pub(super) fn table(made: &[Made]) -> Result<DataFrame, StageError> {
    Rows::of(made)
        .text("model", |m| &m.direction.model)
        .text("direction", |m| &m.direction.label)
        .integer("seed", |m| m.direction.seed.map(|seed| seed as i64))
        .integer("layer", |m| m.direction.layer as i64)
        .text("site", |m| m.direction.site.short_name())
        .integer("position", |m| m.direction.position)
        .number("pre_norm", |m| m.direction.pre_norm)
        .number("resid_norm", |m| m.direction.resid_norm)
        .number("left", |m| m.left)
        .frame()
}

pub(super) fn terms(made: &[Made]) -> Result<DataFrame, StageError> {
    let rows = made
        .iter()
        .flat_map(|made| made.parts.iter().map(|part| (&made.direction, part)));
    let rows: Vec<(&Direction, &Part)> = rows.collect();
    Rows::of(&rows)
        .integer("seed", |(d, _)| d.seed.map(|seed| seed as i64))
        .integer("layer", |(d, _)| d.layer as i64)
        .text("role", |(_, part)| part.role)
        .text("stage", |(_, part)| &part.stage)
        .text("direction", |(_, part)| &part.direction)
        .number("weight", |(_, part)| part.weight)
        .number("length", |(_, part)| part.length)
        .number("cosine", |(_, part)| part.cosine)
        .frame()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(a, b)| a * b).sum()
}

fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}
