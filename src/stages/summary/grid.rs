//! A sweep's rows as dense grids: prompts × α, for every seed, at one place.
//!
//! Every statistic of a summary walks such a grid, so what is missing or given twice is found once, here.

use std::collections::HashMap;

use polars::prelude::Column;

pub(super) use crate::stages::Splits;
use crate::stages::{StageError, table};

/// What a sweep is to the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The learned direction.
    Steer,
    /// Directions made from one half of the edge prompts.
    Holdout,
    /// Random directions.
    Random,
    /// XSTest prompts.
    XsTest,
}

impl Source {
    /// All, in the order of the tables.
    pub(super) const ALL: [Source; 4] = [
        Source::Steer,
        Source::Holdout,
        Source::Random,
        Source::XsTest,
    ];

    /// The name in study files and in the column `source`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Source::Steer => "steer",
            Source::Holdout => "holdout",
            Source::Random => "random",
            Source::XsTest => "xstest",
        }
    }

    /// Degrees of freedom taken off by the standard deviation of scores, as the published study did.
    pub(super) fn ddof(self) -> usize {
        usize::from(self == Source::XsTest)
    }

    /// The set whose refusals are unwanted: on a holdout sweep the half that did not build the direction.
    pub(super) fn edge_set(self, splits: &Splits) -> String {
        match self {
            Source::Holdout => format!("{}_holdout", splits.edge),
            _ => splits.edge.clone(),
        }
    }
}

/// One row of a sweep's table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(crate) model: &'a str,
    pub(crate) direction: &'a str,
    pub(crate) seed: Option<i64>,
    pub(crate) layer: i64,
    pub(crate) site: &'a str,
    pub(crate) alpha: f64,
    pub(crate) set: &'a str,
    pub(crate) id: &'a str,
    pub(crate) category: &'a str,
    pub(crate) score: f64,
    pub(crate) refused: bool,
    pub(crate) built: bool,
}

/// One source's rows of one model, layer and site.
#[derive(Clone, Debug)]
pub(super) struct Grid {
    pub(crate) source: Source,
    pub(crate) model: String,
    pub(crate) layer: i64,
    pub(crate) site: String,
    /// The direction's label.
    pub(crate) direction: String,
    /// Ascending, each once.
    pub(crate) alphas: Vec<f64>,
    /// One per seed, at least one.
    pub(crate) lines: Vec<Line>,
}

/// One direction.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(crate) seed: Option<i64>,
    pub(crate) sets: Vec<Set>,
}

/// One set: its prompts, or, where single prompts were not published, what is known of them together. One of the two is empty.
#[derive(Clone, Debug)]
pub(super) struct Set {
    pub(crate) name: String,
    pub(crate) prompts: Vec<Prompt>,
    /// One per α of the grid, in its order.
    pub(crate) totals: Vec<Total>,
}

/// All prompts of a set under one direction at one α.
#[derive(Clone, Copy, Debug)]
pub(super) struct Total {
    pub(crate) alpha: f64,
    /// How many prompts.
    pub(crate) n: u64,
    pub(crate) mean: f64,
    /// With ddof 0.
    pub(crate) std: f64,
    /// How many are refused.
    pub(crate) refused: u64,
}

/// One prompt under one direction.
#[derive(Clone, Debug)]
pub(super) struct Prompt {
    pub(crate) id: String,
    pub(crate) category: String,
    /// Whether the direction was made from it.
    pub(crate) built: bool,
    /// One per α of the grid, in its order.
    pub(crate) cells: Vec<Cell>,
}

/// One prompt under one direction at one α.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(crate) alpha: f64,
    pub(crate) score: f64,
    pub(crate) refused: bool,
}

/// A direction's refusal rates, `[alpha]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rates {
    pub(crate) edge: Vec<f64>,
    pub(crate) harmful: Vec<f64>,
}

impl Line {
    /// The set of that name.
    pub(super) fn set(&self, name: &str) -> Option<&Set> {
        self.sets.iter().find(|set| set.name == name)
    }
}

impl Set {
    /// Refusal rate at each α, `[alpha]`.
    fn rates(&self) -> Vec<f64> {
        if self.prompts.is_empty() {
            let totals = self.totals.iter();
            return totals.map(|t| t.refused as f64 / t.n as f64).collect();
        }
        let count = self.prompts.first().map_or(0, |prompt| prompt.cells.len());
        let refused = |k: usize| self.prompts.iter().filter(|p| p.cells[k].refused).count();
        (0..count)
            .map(|k| refused(k) as f64 / self.prompts.len() as f64)
            .collect()
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

    /// Refusal rates on that set, `[seed][alpha]`.
    ///
    /// # Errors
    /// As [`Grid::set`].
    pub(super) fn set_rates(&self, name: &str) -> Result<Vec<Vec<f64>>, StageError> {
        Ok(self.set(name)?.into_iter().map(Set::rates).collect())
    }

    /// Refusal rates on the two splits, `[seed]`.
    ///
    /// # Errors
    /// As [`Grid::set`].
    pub(super) fn rates(&self, splits: &Splits) -> Result<Vec<Rates>, StageError> {
        let edge = self.set_rates(&self.source.edge_set(splits))?;
        let harmful = self.set_rates(&splits.harmful)?;
        let pairs = edge.into_iter().zip(harmful);
        Ok(pairs
            .map(|(edge, harmful)| Rates { edge, harmful })
            .collect())
    }

    /// Whether both are of the same model, layer and site.
    pub(super) fn is_beside(&self, other: &Grid) -> bool {
        self.model == other.model && self.layer == other.layer && self.site == other.site
    }

    /// Where it is, in words.
    pub(super) fn place(&self) -> String {
        format!("model `{}`, layer {}", self.model, self.layer)
    }
}

/// The columns `model, layer, site` of rows that belong to these grids.
pub(super) fn place_columns<'a>(grids: impl Iterator<Item = &'a Grid> + Clone) -> Vec<Column> {
    vec![
        table::text("model", grids.clone().map(|grid| &grid.model)),
        table::integers(
            "layer",
            grids
                .clone()
                .map(|grid| usize::try_from(grid.layer).unwrap_or_default()),
        ),
        table::text("site", grids.map(|grid| &grid.site)),
    ]
}

/// Gathers rows, in any order, into one grid for each model, layer and site, in the order of first appearance.
///
/// # Errors
/// [`StageError::Data`] for two rows of the same prompt, α, seed and place, and for a prompt that was not tried at every α.
pub(super) fn collect<'a>(
    source: Source,
    rows: impl Iterator<Item = Row<'a>>,
) -> Result<Vec<Grid>, StageError> {
    let mut grids = Vec::new();
    let mut places = HashMap::new();
    let mut known = HashMap::new();
    for row in rows {
        let place = *places
            .entry((row.model, row.layer, row.site))
            .or_insert_with(|| {
                grids.push(empty_grid(source, &row));
                grids.len() - 1
            });
        let grid: &mut Grid = &mut grids[place];
        let (line, set, prompt) = *known
            .entry((place, row.seed, row.set, row.id))
            .or_insert_with(|| add_prompt(grid, &row));
        grid.lines[line].sets[set].prompts[prompt].cells.push(Cell {
            alpha: row.alpha,
            score: row.score,
            refused: row.refused,
        });
    }
    for grid in &mut grids {
        complete(grid)?;
    }
    Ok(grids)
}

fn empty_grid(source: Source, row: &Row<'_>) -> Grid {
    Grid {
        source,
        model: row.model.to_string(),
        layer: row.layer,
        site: row.site.to_string(),
        direction: row.direction.to_string(),
        alphas: Vec::new(),
        lines: Vec::new(),
    }
}

/// Makes room for the row's prompt; gives the indices of its line, set and prompt.
fn add_prompt(grid: &mut Grid, row: &Row<'_>) -> (usize, usize, usize) {
    let line = index_or_push(
        &mut grid.lines,
        |line| line.seed == row.seed,
        || Line {
            seed: row.seed,
            sets: Vec::new(),
        },
    );
    let sets = &mut grid.lines[line].sets;
    let set = index_or_push(
        sets,
        |set| set.name == row.set,
        || Set {
            name: row.set.to_string(),
            prompts: Vec::new(),
            totals: Vec::new(),
        },
    );
    let prompts = &mut sets[set].prompts;
    prompts.push(Prompt {
        id: row.id.to_string(),
        category: row.category.to_string(),
        built: row.built,
        cells: Vec::new(),
    });
    (line, set, prompts.len() - 1)
}

/// The index of the first item wanted, after adding it where there is none.
pub(super) fn index_or_push<T>(
    list: &mut Vec<T>,
    is_wanted: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> usize {
    list.iter().position(is_wanted).unwrap_or_else(|| {
        list.push(make());
        list.len() - 1
    })
}

/// Sorts by α, and checks that every prompt has every α once.
fn complete(grid: &mut Grid) -> Result<(), StageError> {
    let place = grid.place();
    let prompts = || {
        grid.lines
            .iter()
            .flat_map(|line| &line.sets)
            .flat_map(|set| &set.prompts)
    };
    let mut alphas: Vec<f64> = prompts()
        .flat_map(|prompt| &prompt.cells)
        .map(|cell| cell.alpha)
        .collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    let prompts = grid
        .lines
        .iter_mut()
        .flat_map(|line| &mut line.sets)
        .flat_map(|set| &mut set.prompts);
    for prompt in prompts {
        prompt.cells.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
        if let Some(pair) = prompt
            .cells
            .windows(2)
            .find(|pair| pair[0].alpha == pair[1].alpha)
        {
            return Err(StageError::Data(format!(
                "{place}: prompt `{}` has more than one score at α = {}, so several directions act at this place and cannot be told apart; summarise stages of one direction per layer",
                prompt.id, pair[0].alpha
            )));
        }
        let has = |alpha: &f64| prompt.cells.iter().any(|cell| cell.alpha == *alpha);
        if let Some(alpha) = alphas.iter().find(|alpha| !has(alpha)) {
            return Err(StageError::Data(format!(
                "{place}: prompt `{}` has no score at α = {alpha}, where others have one",
                prompt.id
            )));
        }
    }
    grid.alphas = alphas;
    Ok(())
}
