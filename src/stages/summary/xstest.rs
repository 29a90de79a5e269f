//! `xstest`: refusal rates by label and type, with and without the prompts that built the direction.

use std::collections::HashSet;

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;

use super::data;
use super::grid::{Grid, Prompt, Source, with_place};
use super::pool::{self, Estimate, Tally};

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
    type Row<'a> = (TypeRate<'a>, [Option<Estimate>; 2]);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for row in of_xstest(grids).flat_map(type_rates) {
        let rate = |tally: Tally| tally.rate().map_err(data);
        let rates = [rate(row.with)?, rate(row.without)?];
        rows.push((row, rates));
    }
    let mut table = with_place(Rows::of(&rows), |(row, _)| row.grid)
        .number("alpha", |(row, _)| row.alpha)
        .text("label", |(row, _)| row.label)
        .text("type", |(row, _)| row.kind);
    type Of = fn(&Row<'_>) -> (Tally, Option<Estimate>);
    let selections: [(&str, Of); 2] = [
        ("", |(row, [rate, _])| (row.with, *rate)),
        ("_without", |(row, [_, rate])| (row.without, *rate)),
    ];
    for (suffix, of) in selections {
        let name = |column: &str| format!("{column}{suffix}");
        table = table
            .integer(&name("n"), |row| of(row).0.rows as i64)
            .integer(&name("prompts"), |row| of(row).0.prompts as i64);
        table = pool::with_values(table, &name("refusal_rate"), |row| of(row).1);
        table = pool::with_ends(table, [name("rate_low"), name("rate_high")], |row| {
            of(row).1
        });
    }
    table.frame()
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
            match groups
                .iter_mut()
                .find(|(l, k, _)| (*l, *k) == (label, kind))
            {
                Some((.., prompts)) => prompts.push(prompt),
                None => groups.push((label, kind, vec![prompt])),
            }
        }
    }
    let alphas = grid.alphas.iter().enumerate();
    alphas
        .flat_map(|(k, &alpha)| {
            groups.iter().map(move |(label, kind, prompts)| TypeRate {
                grid,
                alpha,
                label,
                kind,
                with: tally(prompts.iter().copied(), k),
                without: tally(prompts.iter().copied().filter(|prompt| !prompt.built), k),
            })
        })
        .collect()
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
