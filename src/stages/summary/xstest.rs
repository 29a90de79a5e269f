//! `xstest`: refusal rates by label and type, with and without the prompts that built the direction.

use std::collections::HashSet;

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::rules::{REFUSED, rate_column};
use crate::stages::table::Rows;

use super::grid::{Grid, Prompt, Source, with_place};
use super::pool::Tally;

/// The column `type` of a row about a whole label.
const ALL_TYPES: &str = "all";

#[derive(Clone, Debug)]
pub(super) struct TypeRate<'a> {
    pub(crate) grid: &'a Grid,
    pub(crate) alpha: f64,
    /// XSTest's label, `safe` or `unsafe`.
    pub(crate) label: &'a str,
    /// XSTest's type, or `all`.
    pub(crate) kind: &'a str,
    pub(crate) with: Tally,
    /// Without the prompts that built the direction of their row.
    pub(crate) without: Tally,
}

/// Columns: `model, layer, site, alpha, label, type, n` (rows), `prompts` (distinct), `refusal_rate, rate_low, rate_high`, and the same with
/// `_without`. Rows of all seeds are pooled; type `all` is the whole label.
pub(super) fn table(grids: &[Grid]) -> Result<DataFrame, StageError> {
    let mut rows = Vec::new();
    for row in of_xstest(grids).flat_map(type_rates) {
        let rates = [row.with.rate()?, row.without.rate()?];
        rows.push((row, rates));
    }
    let rule = grids.first().map_or(REFUSED, |grid| &grid.rule);
    let rate = rate_column(rule);
    with_place(Rows::of(&rows), |(row, _)| row.grid)
        .number("alpha", |(row, _)| row.alpha)
        .text("label", |(row, _)| row.label)
        .text("type", |(row, _)| row.kind)
        .integer("n", |(row, _)| row.with.rows as i64)
        .integer("prompts", |(row, _)| row.with.prompts as i64)
        .number(&rate, |(_, [with, _])| Some((*with)?.value))
        .ends(["rate_low", "rate_high"], |(_, [with, _])| {
            (*with)?.interval
        })
        .integer("n_without", |(row, _)| row.without.rows as i64)
        .integer("prompts_without", |(row, _)| row.without.prompts as i64)
        .number(&format!("{rate}_without"), |(_, [_, without])| {
            Some((*without)?.value)
        })
        .ends(
            ["rate_low_without", "rate_high_without"],
            |(_, [_, without])| (*without)?.interval,
        )
        .frame()
}

fn of_xstest(grids: &[Grid]) -> impl Iterator<Item = &Grid> {
    grids.iter().filter(|grid| grid.source == Source::XsTest)
}

/// The single prompts of every seed, each with its label.
fn prompts(grid: &Grid) -> impl Iterator<Item = (&str, &Prompt)> {
    let sets = grid.lines.iter().flat_map(|line| &line.sets);
    let known = sets.filter(|set| set.is_by_prompt());
    known.flat_map(|set| set.prompts.iter().map(|prompt| (set.name.as_str(), prompt)))
}

/// Every α, label and type, α ascending, labels and types in the order of first appearance.
pub(super) fn type_rates(grid: &Grid) -> Vec<TypeRate<'_>> {
    let mut groups: Vec<(&str, &str, Vec<&Prompt>)> = Vec::new();
    for (label, prompt) in prompts(grid) {
        for kind in [ALL_TYPES, &prompt.category] {
            let mut known = groups.iter_mut();
            match known.find(|(l, k, _)| (*l, *k) == (label, kind)) {
                Some((.., prompts)) => prompts.push(prompt),
                None => groups.push((label, kind, vec![prompt])),
            }
        }
    }
    let of_alpha = |(k, &alpha)| {
        groups.iter().map(move |(label, kind, prompts)| TypeRate {
            grid,
            alpha,
            label,
            kind,
            with: tally(prompts.iter().copied(), k),
            without: tally(prompts.iter().copied().filter(|prompt| !prompt.built), k),
        })
    };
    grid.alphas.iter().enumerate().flat_map(of_alpha).collect()
}

/// Counts at the grid's k-th α.
fn tally<'a>(prompts: impl Iterator<Item = &'a Prompt>, k: usize) -> Tally {
    let mut tally = Tally::default();
    let mut ids = HashSet::new();
    for prompt in prompts {
        tally.rows += 1;
        tally.refused += prompt.cells[k].refused;
        ids.insert(&prompt.id);
    }
    tally.prompts = ids.len() as u64;
    tally
}

/// How many prompts are not independent of the directions, if any.
pub(super) fn finding(grids: &[Grid]) -> Option<String> {
    let prompts = || of_xstest(grids).flat_map(prompts).map(|(_, prompt)| prompt);
    let ids: HashSet<_> = prompts().map(|prompt| &prompt.id).collect();
    let built = prompts().filter(|prompt| prompt.built);
    let built: HashSet<_> = built.map(|prompt| &prompt.id).collect();
    (!built.is_empty()).then(|| {
        format!(
            "{} of the {} XSTest prompts helped to build a direction they are tried with; the columns `…_without` leave them out",
            built.len(),
            ids.len()
        )
    })
}
