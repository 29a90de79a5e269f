//! `xstest`: refusal rates by label and type, with and without the prompts that built the direction.

use std::collections::HashSet;

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};

use super::data;
use super::grid::{Grid, Prompt, Source, place_columns};
use super::pool::{self, Tally};

/// The column `type` of a row about a whole label.
const ALL_TYPES: &str = "all";

/// One row.
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
    let rows: Vec<TypeRate<'_>> = of_xstest(grids).flat_map(type_rates).collect();
    let all = || rows.iter();
    let mut columns = place_columns(all().map(|row| row.grid));
    columns.extend([
        table::numbers("alpha", all().map(|row| row.alpha).collect()),
        table::text("label", all().map(|row| row.label)),
        table::text("type", all().map(|row| row.kind)),
    ]);
    let selections: [(&str, Vec<Tally>); 2] = [
        ("", all().map(|row| row.with).collect()),
        ("_without", all().map(|row| row.without).collect()),
    ];
    for (suffix, tallies) in selections {
        let rates = tallies
            .iter()
            .map(|tally| tally.rate())
            .collect::<Result<Vec<_>, _>>()
            .map_err(data)?;
        let (low, high) = pool::ends(&rates);
        columns.extend([
            table::integers(
                &format!("n{suffix}"),
                tallies.iter().map(|tally| tally.rows as usize),
            ),
            table::integers(
                &format!("prompts{suffix}"),
                tallies.iter().map(|tally| tally.prompts as usize),
            ),
            table::optional_numbers(&format!("refusal_rate{suffix}"), pool::values(&rates)),
            table::optional_numbers(&format!("rate_low{suffix}"), low),
            table::optional_numbers(&format!("rate_high{suffix}"), high),
        ]);
    }
    table::frame(columns)
}

fn of_xstest(grids: &[Grid]) -> impl Iterator<Item = &Grid> {
    grids.iter().filter(|grid| grid.source == Source::XsTest)
}

/// Every α, label and type, α ascending, labels and types in the order of first appearance.
pub(super) fn type_rates(grid: &Grid) -> Vec<TypeRate<'_>> {
    let mut groups: Vec<(&str, &str, Vec<&Prompt>)> = Vec::new();
    let sets = grid.lines.iter().flat_map(|line| &line.sets);
    for (label, prompt) in
        sets.flat_map(|set| set.prompts.iter().map(|prompt| (set.name.as_str(), prompt)))
    {
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
        tally.refused += u64::from(prompt.cells[k].refused);
        ids.insert(&prompt.id);
    }
    tally.prompts = ids.len() as u64;
    tally
}

/// How many prompts are not independent of the directions, if any.
pub(super) fn finding(grids: &[Grid]) -> Option<String> {
    let lines = || of_xstest(grids).flat_map(|grid| &grid.lines);
    let prompts = || {
        lines()
            .flat_map(|line| &line.sets)
            .flat_map(|set| &set.prompts)
    };
    let ids: HashSet<&str> = prompts().map(|prompt| prompt.id.as_str()).collect();
    let built: HashSet<&str> = prompts()
        .filter(|p| p.built)
        .map(|prompt| prompt.id.as_str())
        .collect();
    (!built.is_empty()).then(|| {
        format!(
            "{} of the {} XSTest prompts helped to build a direction they are tried with; the columns `…_without` leave them out",
            built.len(),
            ids.len()
        )
    })
}
