//! How cost grows: the same small sweep with 1×, 2× and 4× the prompts, the α and the random directions, each from an empty cache.

use std::fs;
use std::path::Path;

use super::Result;
use super::study::{Data, Files, Size};

/// Prompts, α and random directions of the sweep that is multiplied.
const BASE: (usize, usize, u64) = (50, 10, 5);
const FACTORS: [usize; 3] = [1, 2, 4];

/// One sweep.
pub struct Point {
    /// How many times the base.
    pub factor: usize,
    /// Number of prompts.
    pub prompts: usize,
    /// Wall time of the stage that prefills them, the model's reading included.
    pub score_seconds: f64,
    /// Number of steered scores.
    pub cells: u64,
    /// Wall time of the stage that computes them.
    pub sweep_seconds: f64,
}

/// The sweeps in which one number grows.
pub struct Axis {
    /// What grows.
    pub name: &'static str,
    /// In the order of growth.
    pub points: Vec<Point>,
}

/// Runs them all.
pub fn measure(root: &Path, folder: &Path, data: &Data, threads: usize) -> Result<Vec<Axis>> {
    let (prompts, alphas, seeds) = BASE;
    let grown = |axis: &str, factor: usize| match axis {
        "prompts" => Size::sweep(prompts * factor, alphas, seeds),
        "alpha" => Size::sweep(prompts, alphas * factor, seeds),
        _ => Size::sweep(prompts, alphas, seeds * factor as u64),
    };
    let mut axes = Vec::new();
    for name in ["prompts", "alpha", "seeds"] {
        let mut points = Vec::new();
        for factor in FACTORS {
            let size = grown(name, factor);
            let files = Files::write_sweep(root, folder.to_path_buf(), data, &size)?;
            let report = files.run(Some(threads))?.report;
            let (score, random) = (report.stage("score")?, report.stage("random")?);
            points.push(Point {
                factor,
                prompts: size.prompts(),
                score_seconds: score.seconds,
                cells: random.cells_computed,
                sweep_seconds: random.seconds,
            });
            fs::remove_dir_all(folder)?;
        }
        axes.push(Axis { name, points });
    }
    Ok(axes)
}
