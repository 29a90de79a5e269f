//! How well a direction tells A from B on prompts that did not make it.
//!
//! A direction of n prompts in many more dimensions tells these n apart whatever they are: what it is worth, others say. The layer and position to
//! look at are chosen among the prompts that make the direction, of each half of which one is made and tried on the other; the held-out prompts are
//! looked at once that is done.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Shape};
use crate::spec::Choice;
use crate::stages::table::{self, Rows};
use crate::stages::{Name, StageError};
use crate::stats::{self, Interval};

use super::extract::{Activations, Direction};
use super::method::How;

/// Directions, the prompts that made them, and those that did not.
pub(super) struct Detection<'a> {
    pub(super) how: How,
    pub(super) seed: u64,
    pub(super) directions: &'a [Direction],
    pub(super) activations: &'a [Activations],
    pub(super) unseen: &'a [Activations],
    /// What belongs together, A before B.
    pub(super) units: &'a [String],
    pub(super) unseen_units: &'a [String],
}

struct Row<'a> {
    direction: &'a Direction,
    n_train: usize,
    n_top: usize,
    n_bottom: usize,
    train: Option<f64>,
    auroc: Option<f64>,
    interval: Option<Interval>,
}

impl Detection<'_> {
    /// A row for each direction.
    pub(super) fn table(&self) -> Result<DataFrame, StageError> {
        let rows = self.directions.iter().map(|direction| self.row(direction));
        let rows: Vec<Row> = rows
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect();
        let rank = |row: &Row| {
            let share = row
                .direction
                .resid_norm
                .map_or(0.0, |norm| row.direction.pre_norm / norm);
            (row.train.unwrap_or(0.0), share)
        };
        let mut chosen = 0;
        for (index, row) in rows.iter().enumerate() {
            if rank(row) > rank(&rows[chosen]) {
                chosen = index;
            }
        }
        let rows: Vec<(usize, Row)> = rows.into_iter().enumerate().collect();
        let mut table = Rows::of(&rows)
            .text("model", |(_, row)| &row.direction.model)
            .text("direction", |(_, row)| &row.direction.label)
            .text("method", |_| self.how.method.name())
            .integer("layer", |(_, row)| row.direction.layer as i64);
        if self.directions.iter().any(Direction::is_placed) {
            table = table
                .integer("position", |(_, row)| row.direction.position)
                .text("token", |(_, row)| {
                    row.direction.token.as_deref().unwrap_or_default()
                });
        }
        table
            .integer("n_train", |(_, row)| row.n_train as i64)
            .integer("n_top", |(_, row)| row.n_top as i64)
            .integer("n_bottom", |(_, row)| row.n_bottom as i64)
            .number("auroc_train", |(_, row)| row.train)
            .number("auroc", |(_, row)| row.auroc)
            .ends(["auroc_low", "auroc_high"], |(_, row)| row.interval)
            .flag("chosen", |(index, _)| *index == chosen)
            .frame()
    }

    fn row<'d>(&'d self, direction: &'d Direction) -> Result<Option<Row<'d>>, StageError> {
        let at = |all: &'d [Activations]| {
            let mut all = all.iter();
            all.find(|at| at.layer == direction.layer && at.position == direction.position)
        };
        let (Some(made_of), Some(unseen)) = (at(self.activations), at(self.unseen)) else {
            return Ok(None);
        };
        let vector: &[f32] = direction.vector.values();
        let cases = cases(vector, &unseen.top, &unseen.bottom);
        let mut units: BTreeMap<&String, Vec<(f64, bool)>> = BTreeMap::new();
        for (unit, case) in self.unseen_units.iter().zip(&cases) {
            units.entry(unit).or_default().push(*case);
        }
        let units: Vec<Vec<(f64, bool)>> = units.into_values().collect();
        Ok(Some(Row {
            direction,
            n_train: self.units.len(),
            n_top: unseen.top.len(),
            n_bottom: unseen.bottom.len(),
            train: self.within(made_of)?,
            auroc: stats::auroc(&cases)?,
            interval: stats::auroc_interval(&units, self.seed)?,
        }))
    }

    /// Of each half of the prompts that make a direction, one is made and tried on the other half: the mean of both.
    fn within(&self, of: &Activations) -> Result<Option<f64>, StageError> {
        let is_second =
            |unit: &String| stats::is_holdout(self.seed, &format!("train::{unit}"), 0.5);
        let (top_units, bottom_units) = self.units.split_at(of.top.len());
        let side = |rows: &[Vec<f32>], units: &[String], second: bool| -> Vec<Vec<f32>> {
            let rows = rows.iter().zip(units);
            rows.filter(|(_, unit)| is_second(unit) == second)
                .map(|(row, _)| row.clone())
                .collect()
        };
        let halves = [false, true].map(|second| {
            (
                side(&of.top, top_units, second),
                side(&of.bottom, bottom_units, second),
            )
        });
        if halves
            .iter()
            .any(|(top, bottom)| top.is_empty() || bottom.is_empty())
        {
            return Ok(None);
        }
        let mut found = Vec::new();
        for (make, (top, bottom)) in [(&halves[0], &halves[1]), (&halves[1], &halves[0])] {
            // A half that has no direction says nothing.
            if let Ok(Some((vector, _))) = self.how.direction(&make.0, &make.1) {
                found.extend(stats::auroc(&cases(&vector, top, bottom))?);
            }
        }
        Ok((!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64))
    }
}

/// h·v of each prompt, and whether it is of A.
pub(super) fn cases(vector: &[f32], top: &[Vec<f32>], bottom: &[Vec<f32>]) -> Vec<(f64, bool)> {
    let along = |row: &Vec<f32>| {
        row.iter()
            .zip(vector)
            .map(|(x, v)| f64::from(*x) * f64::from(*v))
            .sum::<f64>()
    };
    let top = top.iter().map(|row| (along(row), true));
    top.chain(bottom.iter().map(|row| (along(row), false)))
        .collect()
}

/// What to say where the groups are the model's own doing.
pub(super) fn of_own_score(model: &Name) -> String {
    format!(
        "A and B were chosen by the score of `{model}` itself: `detection` says how well a direction tells what the model does, not what prompts are"
    )
}

/// AUROC of each direction, on the prompts that made it and on the others.
pub(super) fn figure(stage: &str, table: &DataFrame) -> Result<Figure, StageError> {
    let layers: Vec<f64> = table::read_integers(table, "layer")?
        .into_iter()
        .map(|layer| layer.unwrap_or_default() as f64)
        .collect();
    let values = |column: &str| -> Result<Vec<Option<f64>>, StageError> {
        Ok(table.column(column)?.f64()?.iter().collect())
    };
    let points = |column: &str| -> Result<Vec<(f64, f64)>, StageError> {
        let values = values(column)?;
        Ok(layers
            .iter()
            .zip(values)
            .filter_map(|(layer, value)| Some((*layer, value?)))
            .collect())
    };
    let is_one_place = table.column("position").is_err();
    let ends = layers
        .iter()
        .zip(values("auroc_low")?)
        .zip(values("auroc_high")?);
    let band = ends.filter_map(|((layer, low), high)| Some((*layer, low?, high?)));
    let band = Mark::band("95 % interval", PALETTE[0], band.filter(|_| is_one_place));
    let chance = [layers.first(), layers.last()]
        .into_iter()
        .flatten()
        .map(|layer| (*layer, 0.5));
    Ok(Figure {
        title: "How well h·v tells A from B".to_string(),
        note: "AUROC on the prompts that were held out; of those that make the directions, one half tried on a direction of the other, which chooses the layer."
            .to_string(),
        panels: vec![Panel::new(
            "",
            Axis::of("layer"),
            Axis::rate("AUROC"),
            vec![
                band,
                Mark::new("within the prompts that make it", PALETTE[5], Shape::Dashed, points("auroc_train")?),
                Mark::new("held-out prompts", PALETTE[0], Shape::Points, points("auroc")?),
                Mark::new("chance", PALETTE[6], Shape::Dashed, chance),
            ],
        )],
        columns: 1,
        ..Figure::of(stage, "detection")
    })
}
