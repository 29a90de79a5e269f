//! The table of a sweep, made part by part.

use std::ops::Range;
use std::sync::Arc;

use polars::prelude::DataFrame;

use crate::prompts::PromptSet;
use crate::stages::StageError;
use crate::stages::rules::Rule;
use crate::stages::table::{self, Parts};

use super::Told;
use super::gated::Gated;
use super::row::{Further, Measured, SweepRow, SweptPrompt};
use super::rows::Rows;

/// Rows that are made before they become columns, which take less memory.
const ROWS_AT_ONCE: usize = 1 << 12;

/// A sweep that has been run, by one score rule. An ablation has no α.
#[derive(Debug)]
pub(crate) struct SweepTable {
    /// Names, in the order of the table.
    pub(super) models: Vec<String>,
    pub(super) prompts: Arc<PromptSet>,
    /// Whether its rows differ in α.
    pub(super) has_alpha: bool,
    /// Where the edits are, by model.
    pub(super) told: Arc<[Option<Told>]>,
    /// Which rows meet the condition; none where there is no condition.
    pub(super) gated: Option<Gated>,
    pub(super) rule: Arc<Rule>,
    pub(super) rows: Arc<Rows>,
    pub(super) scores: Vec<f64>,
}

impl SweepTable {
    fn row(&self, number: usize) -> SweepRow<'_> {
        let row = self.rows.row(number);
        let (prompt, score) = (&self.prompts.prompts[row.prompt], self.scores[number]);
        let told = self.told[row.model].as_ref();
        SweepRow {
            model: &self.models[row.model],
            direction: &row.line.direction,
            seed: row.line.seed.map(|seed| seed as i64),
            layer: row.line.layer as i64,
            site: row.line.site.short_name(),
            alpha: self.has_alpha.then_some(row.alpha),
            further: Further {
                layers: row.line.layers.as_deref(),
                position: told.map(|told| told.position.as_str()),
                token: told.map(|told| told.tokens[row.prompt].as_str()),
                with: &row.line.also_alphas,
                condition: self.gated.as_ref().and_then(|gated| gated.of_row(&row)),
            },
            set: row.set,
            measured: Measured::Prompt(SweptPrompt {
                id: &prompt.id,
                split: &prompt.split,
                category: &prompt.category,
                score,
                refused: self.rule.counts(score),
                built: row.line.builders.contains(&prompt.text),
            }),
        }
    }
}

impl Parts for SweepTable {
    fn height(&self) -> usize {
        self.scores.len()
    }

    fn part(&self, rows: Range<usize>) -> Result<DataFrame, StageError> {
        let starts = (rows.start..rows.end.max(rows.start + 1)).step_by(ROWS_AT_ONCE);
        let pieces = starts.map(|start| {
            let numbers = start..(start + ROWS_AT_ONCE).min(rows.end);
            let rows: Vec<SweepRow<'_>> = numbers.map(|number| self.row(number)).collect();
            SweepRow::table_of_prompts(&rows, &self.rule.name)
        });
        let mut table = table::stacked(pieces)?;
        // In one piece, as it is written.
        table.rechunk_mut();
        Ok(table)
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
