//! The table of a sweep, made part by part.

use std::ops::Range;
use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::prompts::PromptSet;
use crate::stages::StageError;
use crate::stages::table::{self, Parts};

use super::Mode;
use super::rows::{Row, Rows};

/// A sweep that has been run. Columns: `model, direction, seed, layer, site, alpha, set, id, split, category, score, refused,
/// built_direction`; an ablation has no α, and says in `direction` that it is one; the last column marks prompts that the direction was
/// made from.
#[derive(Debug)]
pub(crate) struct SweepTable {
    /// Names, in the order of the table.
    pub(super) models: Vec<String>,
    pub(super) prompts: Arc<PromptSet>,
    pub(super) mode: Mode,
    /// Scores above it are refusals.
    pub(super) threshold: f64,
    pub(super) rows: Rows,
    /// By row.
    pub(super) scores: Vec<f64>,
}

impl SweepTable {
    /// The α of a row; an ablation has none.
    fn alpha(&self, row: &Row<'_>) -> Option<f64> {
        (self.mode == Mode::Add).then_some(row.alpha)
    }
}

impl Parts for SweepTable {
    fn height(&self) -> usize {
        self.scores.len()
    }

    fn part(&self, rows: Range<usize>) -> Result<DataFrame, StageError> {
        let scores = self.scores[rows.clone()].to_vec();
        let rows = || rows.clone().map(|number| self.rows.row(number));
        let refused = scores.iter().map(|&s| s > self.threshold).collect();
        let built = rows().map(|r| {
            r.line
                .builders
                .contains(&self.prompts.prompts[r.prompt].text)
        });
        table::frame(vec![
            table::text("model", rows().map(|r| &self.models[r.model])),
            table::text(
                "direction",
                rows().map(|r| self.mode.label(&r.line.direction)),
            ),
            table::optional_integers("seed", rows().map(|r| r.line.seed)),
            table::integers("layer", rows().map(|r| r.line.layer)),
            table::text("site", rows().map(|r| r.line.site.short_name())),
            table::optional_numbers("alpha", rows().map(|r| self.alpha(&r)).collect()),
            table::text("set", rows().map(|r| r.set)),
            table::text("id", rows().map(|r| &self.prompts.prompts[r.prompt].id)),
            table::text(
                "split",
                rows().map(|r| &self.prompts.prompts[r.prompt].split),
            ),
            table::text(
                "category",
                rows().map(|r| &self.prompts.prompts[r.prompt].category),
            ),
            table::numbers("score", scores),
            table::flags("refused", refused),
            table::flags("built_direction", built.collect()),
        ])
    }
}

/// Sweeps of the same columns, one below the other.
impl Parts for Vec<SweepTable> {
    fn height(&self) -> usize {
        self.iter().map(Parts::height).sum()
    }

    fn part(&self, rows: Range<usize>) -> Result<DataFrame, StageError> {
        let mut start = 0;
        let parts = self.iter().filter_map(|sweep| {
            let (first, height) = (start, sweep.height());
            start += height;
            let inside = |row: usize| row.clamp(first, first + height) - first;
            let rows = inside(rows.start)..inside(rows.end);
            (!rows.is_empty() || height == 0).then(|| sweep.part(rows))
        });
        table::stacked(parts)
    }
}
