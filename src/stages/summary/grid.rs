//! A sweep's rows as dense grids: prompts × α, for every seed, at one place.
//!
//! Every statistic of a summary walks such a grid, so what is missing or given twice is found once, here. Of sweeps of which only groups of
//! prompts were published, a set has one row of cells instead of one for each prompt.

use polars::prelude::DataFrame;

use crate::spec::Choice;
use crate::stages::StageError;
use crate::stages::field_types::choices;
use crate::stages::sweep::{Measured, Setting, SweepFrame, SweepRow};
use crate::stages::table::Rows;

pub(super) use crate::stages::Splits;

/// How far a published rate may lie from a whole number of prompts, as a share: the rounding of one division.
const ROUNDING: f64 = 1e-9;

choices! {
    /// What a sweep is to the summary, in the order of the tables.
    pub(crate) enum Source {
        /// The sweep of the learned direction. At least one sweep is given.
        Steer = "steer",
        /// A sweep with directions made of one half of the prompts.
        Holdout = "holdout",
        /// A sweep with random directions.
        Random = "random",
        /// A sweep over prompts of XSTest's form.
        XsTest = "xstest",
    }
}

impl Source {
    /// The name in study files and in the column `source`.
    pub(crate) fn name(self) -> &'static str {
        Choice::name(self)
    }

    /// Degrees of freedom taken off by the standard deviation of scores, as the published study did.
    pub(super) fn ddof(self) -> usize {
        usize::from(self == Source::XsTest)
    }

    /// The set that stands for a split in a sweep that has these: on a holdout sweep the half that did not build the direction, where the
    /// split was divided.
    pub(super) fn set_of(self, split: &str, is_there: impl Fn(&str) -> bool) -> String {
        let held_out = Splits::held_out(split);
        match self == Source::Holdout && is_there(&held_out) {
            true => held_out,
            false => split.to_string(),
        }
    }
}

/// One source's rows of one model, layer, site and direction.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub(crate) source: Source,
    /// The score rule that its rows are by.
    pub(crate) rule: String,
    pub(crate) model: String,
    pub(crate) layer: i64,
    pub(crate) site: String,
    pub(crate) direction: String,
    /// Where its edits are beside layer and site, as a table tells it: position and layers, both empty where there is nothing to tell.
    pub(crate) edited_at: [String; 2],
    /// Whether other directions act at its place, so that its own tells them apart.
    pub(crate) is_named: bool,
    pub(crate) alphas: Vec<f64>,
    /// One per seed, at least one.
    pub(crate) lines: Vec<Line>,
}

#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(crate) seed: Option<i64>,
    pub(crate) sets: Vec<Set>,
}

/// One set, not empty.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(crate) name: String,
    pub(crate) prompts: Vec<Prompt>,
}

/// One prompt under one direction; or all of its set together, where single prompts were not published.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    /// None of a whole set.
    pub(crate) id: Option<String>,
    pub(crate) category: String,
    /// Whether the direction was made from it.
    pub(crate) built: bool,
    /// One per α of the grid, in its order.
    pub(crate) cells: Vec<Cell>,
}

/// One prompt, or a whole set, under one direction at one α.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(crate) alpha: f64,
    pub(crate) n: u64,
    pub(crate) score: f64,
    /// With ddof 0.
    pub(crate) std: f64,
    pub(crate) refused: u64,
}

/// A direction's refusal rates, `[alpha]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates {
    pub(crate) edge: Vec<f64>,
    pub(crate) harmful: Vec<f64>,
}

impl Line {
    pub(super) fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

impl Set {
    /// Whether its single prompts are known.
    pub(super) fn is_by_prompt(&self) -> bool {
        self.prompts.iter().all(|prompt| prompt.id.is_some())
    }

    /// Refusal rate at each α, `[alpha]`.
    fn rates(&self) -> Vec<f64> {
        let count = self.prompts.first().map_or(0, |prompt| prompt.cells.len());
        let sum = |k: usize, of: fn(&Cell) -> u64| {
            let cells = self.prompts.iter().map(|prompt| &prompt.cells[k]);
            cells.map(of).sum::<u64>() as f64
        };
        let rate = |k: usize| sum(k, |cell| cell.refused) / sum(k, |cell| cell.n);
        (0..count).map(rate).collect()
    }
}

impl Grid {
    /// The set of that name of every line.
    ///
    /// # Errors
    /// [`StageError::Data`] where a line has none.
    pub(super) fn set(&self, name: &str) -> Result<Vec<&Set>, StageError> {
        self.lines
            .iter()
            .map(|line| {
                line.set(name).ok_or_else(|| {
                    let names: Vec<&str> = line.sets.iter().map(|set| set.name.as_str()).collect();
                    let seed = line.seed.map_or(String::new(), |seed| format!(", seed {seed}"));
                    StageError::Data(format!(
                        "the {} sweep has no set `{name}` for {}{seed}; its sets are `{}`; name the two splits with `edge` and `harmful`",
                        self.source.name(),
                        self.place(),
                        names.join("`, `"),
                    ))
                })
            })
            .collect()
    }

    /// The set that stands for a split: see [`Source::set_of`].
    pub(super) fn set_of(&self, split: &str) -> String {
        let has = |name: &str| self.lines.iter().any(|line| line.set(name).is_some());
        self.source.set_of(split, has)
    }

    /// Refusal rates on that set, `[seed][alpha]`.
    pub(super) fn set_rates(&self, name: &str) -> Result<Vec<Vec<f64>>, StageError> {
        Ok(self.set(name)?.into_iter().map(Set::rates).collect())
    }

    /// Refusal rates on the two splits, `[seed]`.
    pub(super) fn rates(&self, splits: &Splits) -> Result<Vec<Rates>, StageError> {
        let edge = self.set_rates(&self.set_of(&splits.edge))?;
        let harmful = self.set_rates(&self.set_of(&splits.harmful))?;
        let rates = |(edge, harmful)| Rates { edge, harmful };
        Ok(edge.into_iter().zip(harmful).map(rates).collect())
    }

    /// Whether both do the same at the same place of the same model.
    pub(super) fn is_beside(&self, other: &Grid) -> bool {
        let done = |grid: &'_ Grid| {
            let Setting { done, with, .. } = Setting::of_direction(&grid.direction);
            (done, with.to_string())
        };
        self.is_at(other) && self.edited_at == other.edited_at && done(self) == done(other)
    }

    /// Whether both are of the same model, layer and site.
    pub(super) fn is_at(&self, other: &Grid) -> bool {
        self.model == other.model && self.layer == other.layer && self.site == other.site
    }

    /// Where it is, in words.
    pub(super) fn place(&self) -> String {
        let (model, layer) = (&self.model, self.layer);
        match self.is_named {
            false => format!("model `{model}`, layer {layer}"),
            true => format!("model `{model}`, layer {layer}, `{}`", self.direction),
        }
    }
}

/// A table of rows that belong to grids: the columns `source, model, layer, site`.
pub(super) fn of_sources<R>(rows: &[R], grid: impl Fn(&R) -> &Grid) -> Rows<'_, R> {
    let table = Rows::of(rows).text("source", |row| grid(row).source.name());
    with_place(table, grid)
}

/// The columns `model, layer, site` of rows that belong to grids, and `direction` where several act at one place.
pub(super) fn with_place<'a, R>(
    rows: Rows<'a, R>,
    grid: impl Fn(&'a R) -> &'a Grid,
) -> Rows<'a, R> {
    let is_named = rows.rows().iter().any(|row| grid(row).is_named);
    let rows = rows
        .text("model", |row| &grid(row).model)
        .integer("layer", |row| grid(row).layer)
        .text("site", |row| &grid(row).site);
    match is_named {
        true => rows.text("direction", |row| &grid(row).direction),
        false => rows,
    }
}

/// Gathers the rows of a sweep's table, in any order, into one grid for each model, layer, site and direction, in the order of first appearance.
///
/// # Errors
/// [`StageError::Data`] for two rows of the same prompt, α, seed, direction and place, and for a prompt that was not tried at every α; where there
/// are rows of sets only, the same of those.
pub(super) fn read(source: Source, table: &DataFrame) -> Result<Vec<Grid>, StageError> {
    let sweep = SweepFrame::read(table)?;
    let mut by = vec!["model", "layer", "site", "direction", "seed", "set"];
    if sweep.is_by_prompt() {
        by.push("id");
    }
    let mut grids: Vec<Grid> = Vec::new();
    let setting = sweep.setting();
    for rows in sweep.groups(&by)? {
        let first = sweep.row(rows[0]);
        let is_place = |grid: &Grid| {
            (grid.model.as_str(), grid.layer, grid.site.as_str())
                == (first.model, first.layer, first.site)
                && grid.direction == first.direction
        };
        let grid = find_or_push(&mut grids, is_place, || Grid {
            source,
            rule: sweep.rule.to_string(),
            model: first.model.to_string(),
            layer: first.layer,
            site: first.site.to_string(),
            direction: first.direction.to_string(),
            edited_at: [setting.position, setting.layers].map(String::from),
            is_named: false,
            alphas: Vec::new(),
            lines: Vec::new(),
        });
        let line = find_or_push(
            &mut grid.lines,
            |line| line.seed == first.seed,
            || Line {
                seed: first.seed,
                sets: Vec::new(),
            },
        );
        let set = find_or_push(
            &mut line.sets,
            |set| set.name == first.set,
            || Set {
                name: first.set.to_string(),
                prompts: Vec::new(),
            },
        );
        let cells = rows.iter().map(|&row| cell(source, &sweep.row(row)));
        let prompt = first.prompt();
        set.prompts.push(Prompt {
            id: sweep.is_by_prompt().then(|| prompt.id.to_string()),
            category: prompt.category.to_string(),
            built: prompt.built,
            cells: cells.collect::<Result<_, _>>()?,
        });
    }
    let places: Vec<(String, i64, String)> = grids
        .iter()
        .map(|grid| (grid.model.clone(), grid.layer, grid.site.clone()))
        .collect();
    for (grid, place) in grids.iter_mut().zip(&places) {
        grid.is_named = places.iter().filter(|other| *other == place).count() > 1;
    }
    grids.iter_mut().try_for_each(complete)?;
    Ok(grids)
}

/// The first item wanted, added where there is none.
fn find_or_push<T>(
    list: &mut Vec<T>,
    is_wanted: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> &mut T {
    let index = list.iter().position(is_wanted).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    });
    &mut list[index]
}

fn cell(source: Source, row: &SweepRow<'_>) -> Result<Cell, StageError> {
    let gap = |name: &str| StageError::Data(format!("column `{name}` has gaps"));
    let alpha = row.alpha.ok_or_else(|| gap("alpha"))?;
    match row.measured {
        Measured::Prompt(prompt) => Ok(Cell {
            alpha,
            n: 1,
            score: prompt.score,
            std: 0.0,
            refused: u64::from(prompt.refused),
        }),
        Measured::Group(group) => {
            let n = group.n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
            let rate = group.refusal_rate.ok_or_else(|| gap("refusal_rate"))?;
            Ok(Cell {
                alpha,
                n,
                score: group.mean.ok_or_else(|| gap("mean"))?,
                std: with_ddof_0(group.std.ok_or_else(|| gap("std"))?, n, source),
                refused: refused(rate, n, row.set)?,
            })
        }
    }
}

/// A deviation as it is with ddof 0, whatever the source's is.
fn with_ddof_0(std: f64, n: u64, source: Source) -> f64 {
    let count = n as f64;
    std * ((count - source.ddof() as f64) / count).sqrt()
}

/// The number of refusals behind a rate.
fn refused(rate: f64, n: u64, set: &str) -> Result<u64, StageError> {
    let scaled = rate * n as f64;
    let whole = scaled.round();
    let is_whole = (scaled - whole).abs() <= ROUNDING * n as f64;
    match n > 0 && (0.0..=1.0).contains(&rate) && is_whole {
        true => Ok(whole as u64),
        false => Err(StageError::Data(format!(
            "refusal rate `{rate}` of set `{set}` is not that of {n} prompts"
        ))),
    }
}

/// Sorts by α, and checks that every prompt has every α once.
fn complete(grid: &mut Grid) -> Result<(), StageError> {
    let place = grid.place();
    let sets = || grid.lines.iter().flat_map(|line| &line.sets);
    let cells = sets()
        .flat_map(|set| &set.prompts)
        .flat_map(|prompt| &prompt.cells);
    let mut alphas: Vec<f64> = cells.map(|cell| cell.alpha).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    for set in grid.lines.iter_mut().flat_map(|line| &mut line.sets) {
        for prompt in &mut set.prompts {
            prompt.cells.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
            let named = || match &prompt.id {
                Some(id) => format!("{place}: prompt `{id}`"),
                None => format!("{place}: set `{}`", set.name),
            };
            let mut pairs = prompt.cells.windows(2);
            if let Some(pair) = pairs.find(|pair| pair[0].alpha == pair[1].alpha) {
                return Err(StageError::Data(format!(
                    "{} has more than one score at α = {}, so several directions of one name act at this place and cannot be told apart",
                    named(),
                    pair[0].alpha
                )));
            }
            let has = |alpha: &f64| prompt.cells.iter().any(|cell| cell.alpha == *alpha);
            if let Some(alpha) = alphas.iter().find(|alpha| !has(alpha)) {
                return Err(StageError::Data(format!(
                    "{} has no score at α = {alpha}, where others have one",
                    named()
                )));
            }
        }
    }
    grid.alphas = alphas;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_whole_number_of_prompts() {
        assert_eq!(refused(0.225, 120, "edge").ok(), Some(27));
        assert_eq!(refused(27.0 / 63.0, 63, "edge_holdout").ok(), Some(27));
        for (rate, n) in [(0.226, 120), (1.5, 2), (0.0, 0), (f64::NAN, 4)] {
            assert!(refused(rate, n, "edge").is_err(), "{rate} of {n}");
        }
    }

    #[test]
    fn deviations_are_brought_to_one_ddof() {
        // 1, 2, 3: ddof 1 gives 1, ddof 0 the root of 2/3.
        assert!((with_ddof_0(1.0, 3, Source::XsTest) - (2.0_f64 / 3.0).sqrt()).abs() < 1e-15);
        assert_eq!(with_ddof_0(0.5, 3, Source::Random), 0.5);
    }
}
