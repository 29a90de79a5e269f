//! How the two groups and the direction lie to each other, layer by layer.

use polars::prelude::DataFrame;

use crate::figure::{Axis, Figure, Mark, PALETTE, Panel, Shape};
use crate::stages::StageError;
use crate::stages::table::{self, Rows};
use crate::stats;

use super::affine;
use super::detection;
use super::extract::{Activations, Direction};
use super::sample::Sample;

struct Row<'a> {
    direction: &'a Direction,
    /// Of μ_A and μ_B, μ_A and v, μ_B and v.
    cosines: [Option<f64>; 3],
    norm_a: f64,
    norm_b: f64,
    silhouette: Option<f64>,
    auroc: Option<f64>,
}

/// A row for each direction, of the prompts that made it.
pub(super) fn table(
    directions: &[Direction],
    activations: &[Activations],
) -> Result<DataFrame, StageError> {
    let at = |d: &Direction| {
        let mut all = activations.iter();
        all.find(|at| at.layer == d.layer && at.position == d.position)
    };
    let found = directions.iter().filter_map(|d| Some((d, at(d)?)));
    let rows = found.map(|(direction, at)| row(direction, at));
    let rows: Vec<Row> = rows.collect::<Result<_, _>>()?;
    let mut table = Rows::of(&rows)
        .text("model", |row| &row.direction.model)
        .text("direction", |row| &row.direction.label)
        .integer("layer", |row| row.direction.layer as i64)
        .text("site", |row| row.direction.site.short_name());
    if directions.iter().any(Direction::is_placed) {
        table = table
            .integer("position", |row| row.direction.position)
            .text("token", |row| {
                row.direction.token.as_deref().unwrap_or_default()
            });
    }
    table
        .number("cosine_a_b", |row| row.cosines[0])
        .number("cosine_a_v", |row| row.cosines[1])
        .number("cosine_b_v", |row| row.cosines[2])
        .number("norm_a", |row| row.norm_a)
        .number("norm_b", |row| row.norm_b)
        .number("pre_norm", |row| row.direction.pre_norm)
        .number("resid_norm", |row| row.direction.resid_norm)
        .number("silhouette", |row| row.silhouette)
        .number("auroc", |row| row.auroc)
        .frame()
}

fn row<'d>(direction: &'d Direction, at: &Activations) -> Result<Row<'d>, StageError> {
    let mean = |rows: &[Vec<f32>]| affine::mean(rows).unwrap_or_default();
    let (a, b) = (mean(&at.top), mean(&at.bottom));
    let v: Vec<f64> = direction
        .vector
        .values()
        .iter()
        .map(|x| f64::from(*x))
        .collect();
    let sample = Sample::of(&at.top, &at.bottom).map_err(StageError::Data)?;
    let cases = detection::cases(direction.vector.values(), &at.top, &at.bottom);
    Ok(Row {
        direction,
        cosines: [
            stats::cosine(&a, &b)?,
            stats::cosine(&a, &v)?,
            stats::cosine(&b, &v)?,
        ],
        norm_a: affine::dot(&a, &a).sqrt(),
        norm_b: affine::dot(&b, &b).sqrt(),
        silhouette: silhouette(sample.products(), at.top.len()),
        auroc: stats::auroc(&cases)?,
    })
}

/// The mean over all of (other − own) / the larger, own and other the mean distances to the rest of one's own group and to the other group (Rousseeuw
/// 1987); 0 of one that is alone. None where a group is empty.
fn silhouette(products: &[Vec<f64>], n_top: usize) -> Option<f64> {
    let n = products.len();
    if n_top == 0 || n_top == n {
        return None;
    }
    let distance = |i: usize, j: usize| {
        let square = products[i][i] + products[j][j] - 2.0 * products[i][j];
        square.max(0.0).sqrt()
    };
    let of = |i: usize| {
        let sum = |is_top: bool| {
            let group = if is_top { 0..n_top } else { n_top..n };
            group.map(|j| distance(i, j)).sum::<f64>()
        };
        let is_top = i < n_top;
        let (own, other) = if is_top {
            (n_top, n - n_top)
        } else {
            (n - n_top, n_top)
        };
        if own == 1 {
            return 0.0;
        }
        let (own, other) = (sum(is_top) / (own - 1) as f64, sum(!is_top) / other as f64);
        match own.max(other) {
            0.0 => 0.0,
            larger => (other - own) / larger,
        }
    };
    Some((0..n).map(of).sum::<f64>() / n as f64)
}

/// Cosines and separability by layer.
pub(super) fn figure(stage: &str, table: &DataFrame) -> Result<Figure, StageError> {
    let layers: Vec<f64> = table::read_integers(table, "layer")?
        .into_iter()
        .map(|layer| layer.unwrap_or_default() as f64)
        .collect();
    let shape = match table.column("position") {
        Ok(_) => Shape::Points,
        Err(_) => Shape::Line,
    };
    let mark = |name: &str, colour: usize, column: &str| -> Result<Mark, StageError> {
        let values = table.column(column)?.f64()?;
        let points = layers
            .iter()
            .zip(values.iter())
            .filter_map(|(layer, value)| Some((*layer, value?)));
        Ok(Mark::new(name, PALETTE[colour], shape, points))
    };
    let panel = |title: &str, label: &str, marks: Vec<Mark>| {
        Panel::new(title, Axis::of("layer"), Axis::of(label), marks)
    };
    Ok(Figure {
        title: "How the groups and the direction lie to each other".to_string(),
        note: "μ_A and μ_B are the means of the activations as they are, v the direction. AUROC is that of the prompts that made the direction, and so too good."
            .to_string(),
        panels: vec![
            panel(
                "",
                "cosine",
                vec![
                    mark("μ_A and μ_B", 0, "cosine_a_b")?,
                    mark("μ_A and v", 1, "cosine_a_v")?,
                    mark("μ_B and v", 2, "cosine_b_v")?,
                ],
            ),
            panel(
                "",
                "norm",
                vec![
                    mark("μ_A", 1, "norm_a")?,
                    mark("μ_B", 2, "norm_b")?,
                    mark("pre_norm", 0, "pre_norm")?,
                ],
            ),
            panel(
                "",
                "separability",
                vec![mark("AUROC of h·v", 0, "auroc")?, mark("silhouette", 3, "silhouette")?],
            ),
        ],
        columns: 3,
        ..Figure::of(stage, "geometry")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silhouette_is_the_textbooks() {
        let top = vec![vec![0.0f32, 0.0], vec![0.0, 1.0]];
        let bottom = vec![vec![3.0f32, 0.0], vec![3.0, 1.0]];
        let sample = Sample::of(&top, &bottom).unwrap();
        let found = silhouette(sample.products(), 2).unwrap();
        let other = (3.0 + 10f64.sqrt()) / 2.0;
        assert!((found - (other - 1.0) / other).abs() < 1e-9, "{found}");
        assert_eq!(silhouette(sample.products(), 4), None);
        let mixed = Sample::of(&top[..1], &bottom).unwrap();
        assert!(silhouette(mixed.products(), 1).unwrap() < 0.7);
    }
}
