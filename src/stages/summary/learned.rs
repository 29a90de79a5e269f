//! `learned_vs_random`: is the learned direction's effect one that any direction would have?
//!
//! Two statistics of a direction, each taken in the same way for every random one: the least-squares slope of mean score on α, on
//! one set, and the largest gap between harmful and edge rates over the α grid, also as its change from the gap at α = 0. The learned direction is that of the steer sweep;
//! where there is none at a place, the holdout directions, whose statistic is the mean over seeds of each direction's own. So is the
//! holdout column. Only α that every sweep at the place has count.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats::{self, EmpiricalP};

use super::grid::{Grid, Prompt, Rates, Set, Source, Splits, with_place};
use super::pool::{self, Estimate, Observation};

/// The largest p that passes.
pub(super) const LEVEL: f64 = 0.05;

#[derive(Clone, Debug)]
pub(super) struct Comparison<'a> {
    /// The learned direction's sweep.
    pub(crate) learned_grid: &'a Grid,
    pub(crate) holdout_grid: Option<&'a Grid>,
    /// A split, or `gap`.
    pub(crate) set: &'a str,
    /// `slope`, `max_gap` or `max_gap_change`.
    pub(crate) statistic: &'static str,
    /// The α that the sweeps share.
    pub(crate) alphas: Vec<f64>,
    /// Whether a sweep has an α that another lacks.
    pub(crate) is_cut: bool,
    pub(crate) learned: Option<Estimate>,
    pub(crate) holdout: Option<Estimate>,
    /// Mean over random directions.
    pub(crate) random_mean: Option<f64>,
    /// Deviation over random directions, ddof 1.
    pub(crate) random_std: Option<f64>,
    pub(crate) n_random: usize,
    pub(crate) z: Option<f64>,
    pub(crate) p: Option<EmpiricalP>,
}

struct Place<'a> {
    learned: &'a Grid,
    holdout: Option<&'a Grid>,
    random: Option<&'a Grid>,
    /// The α that all have.
    alphas: Vec<f64>,
}

impl<'a> Place<'a> {
    fn new(learned: &'a Grid, grids: &'a [Grid]) -> Self {
        let beside = |source: Source| {
            let mut of_source = grids.iter().filter(|grid| grid.source == source);
            of_source.find(|grid| grid.is_beside(learned))
        };
        let (holdout, random) = (beside(Source::Holdout), beside(Source::Random));
        let is_shared = |alpha: &f64| {
            let mut others = holdout.iter().chain(&random);
            others.all(|grid| grid.alphas.contains(alpha))
        };
        Place {
            learned,
            holdout,
            random,
            alphas: learned.alphas.iter().copied().filter(is_shared).collect(),
        }
    }

    fn is_cut(&self) -> bool {
        let present = [Some(self.learned), self.holdout, self.random];
        let mut present = present.into_iter().flatten();
        present.any(|grid| grid.alphas.len() > self.alphas.len())
    }

    fn compare(&self, set: &'a str, seed: u64) -> Result<Comparison<'a>, StageError> {
        let estimate = |grid: &Grid| slope(grid, &grid.set_of(set), &self.alphas, seed);
        let random = match self.random {
            Some(grid) => line_slopes(grid, set, &self.alphas)?,
            None => Vec::new(),
        };
        let holdout = self.holdout.map(estimate).transpose()?.flatten();
        self.comparison(set, "slope", estimate(self.learned)?, holdout, &random)
    }

    fn compare_gaps(
        &self,
        splits: &Splits,
        statistic: &'static str,
        of_line: fn(&[(f64, f64)]) -> Option<f64>,
    ) -> Result<Comparison<'a>, StageError> {
        let gaps = |grid: &Grid| of_gaps(grid, splits, &self.alphas, of_line);
        let random = self.random.map(gaps).transpose()?.unwrap_or_default();
        let mean = |grid: &Grid| -> Result<Option<Estimate>, StageError> {
            Ok(stats::mean(&gaps(grid)?)?.map(Estimate::without_interval))
        };
        let holdout = self.holdout.map(mean).transpose()?.flatten();
        self.comparison("gap", statistic, mean(self.learned)?, holdout, &random)
    }

    fn comparison(
        &self,
        set: &'a str,
        statistic: &'static str,
        learned: Option<Estimate>,
        holdout: Option<Estimate>,
        random: &[f64],
    ) -> Result<Comparison<'a>, StageError> {
        let against = learned.filter(|_| !random.is_empty());
        let p = against.map(|learned| stats::empirical_p(learned.value, random));
        let p = p.transpose()?;
        let z = against.map(|learned| stats::z_score(learned.value, random));
        Ok(Comparison {
            learned_grid: self.learned,
            holdout_grid: self.holdout,
            set,
            statistic,
            alphas: self.alphas.clone(),
            is_cut: self.is_cut(),
            learned,
            holdout,
            random_mean: stats::mean(random)?,
            random_std: stats::std(random, 1)?,
            n_random: random.len(),
            z: z.transpose()?.flatten(),
            p,
        })
    }
}

/// Four rows (edge, harmful, gap, change of the gap) for each place that has a learned direction.
pub(super) fn compare<'a>(
    grids: &'a [Grid],
    splits: &'a Splits,
    seed: u64,
) -> Result<Vec<Comparison<'a>>, StageError> {
    let of = |source: Source| grids.iter().filter(move |grid| grid.source == source);
    let is_steered = |grid: &&Grid| of(Source::Steer).any(|steer| steer.is_beside(grid));
    let learned = of(Source::Steer).chain(of(Source::Holdout).filter(|grid| !is_steered(grid)));
    let mut rows = Vec::new();
    for grid in learned {
        let place = Place::new(grid, grids);
        rows.push(place.compare(&splits.edge, seed)?);
        rows.push(place.compare(&splits.harmful, seed)?);
        rows.push(place.compare_gaps(splits, "max_gap", largest)?);
        rows.push(place.compare_gaps(splits, "max_gap_change", largest_change)?);
    }
    Ok(rows)
}

/// The learned direction's sweep of every place that is compared.
pub(super) fn places<'a>(rows: &[Comparison<'a>]) -> Vec<&'a Grid> {
    let places = rows.chunk_by(|a, b| std::ptr::eq(a.learned_grid, b.learned_grid));
    places.map(|of_place| of_place[0].learned_grid).collect()
}

/// Ids and slopes of a line's prompts.
type PromptSlopes<'a> = Vec<(&'a str, f64)>;

/// For each line, every prompt's id and slope on these α; `None` with fewer than two α.
fn prompt_slopes<'a>(
    grid: &'a Grid,
    set: &str,
    alphas: &[f64],
) -> Result<Option<Vec<PromptSlopes<'a>>>, StageError> {
    let is_used: Vec<bool> = grid.alphas.iter().map(|a| alphas.contains(a)).collect();
    let sets = grid.set(set)?;
    let of_set = |set: &&'a Set| -> Result<Option<PromptSlopes<'a>>, StageError> {
        let used = |prompt: &Prompt| {
            let cells = prompt.cells.iter().zip(&is_used).filter(|(_, used)| **used);
            cells.map(|(cell, _)| cell.score).collect()
        };
        let scores: Vec<Vec<f64>> = set.prompts.iter().map(used).collect();
        let slopes = stats::per_prompt_slopes(alphas, &scores)?;
        let ids = set.prompts.iter().map(|prompt| prompt.id.as_deref());
        let ids = ids.map(Option::unwrap_or_default);
        Ok(slopes.map(|slopes| ids.zip(slopes).collect()))
    };
    sets.iter().map(of_set).collect()
}

/// The mean over lines of each one's slope of mean score on α, its interval over prompts.
fn slope<'a>(
    grid: &'a Grid,
    set: &str,
    alphas: &[f64],
    seed: u64,
) -> Result<Option<Estimate>, StageError> {
    if grid.set(set)?.iter().any(|set| !set.is_by_prompt()) {
        let value = stats::mean(&line_slopes(grid, set, alphas)?)?;
        return Ok(value.map(Estimate::without_interval));
    }
    let Some(lines) = prompt_slopes(grid, set, alphas)? else {
        return Ok(None);
    };
    // Lines count alike, however many prompts each has.
    let of_line = |line: PromptSlopes<'a>| {
        let weight = 1.0 / line.len() as f64;
        line.into_iter().map(move |(prompt, value)| Observation {
            prompt,
            value,
            weight,
        })
    };
    let observations: Vec<_> = lines.into_iter().flat_map(of_line).collect();
    Ok(pool::mean(&observations, seed)?)
}

/// Each line's slope of mean score on α: the mean of its prompts' slopes, or the slope of its published means, which is the same. Empty with
/// fewer than two α.
pub(super) fn line_slopes(grid: &Grid, set: &str, alphas: &[f64]) -> Result<Vec<f64>, StageError> {
    let lines = prompt_slopes(grid, set, alphas)?.unwrap_or_default();
    let mean = |line: &PromptSlopes<'_>| {
        line.iter().map(|(_, slope)| slope).sum::<f64>() / line.len() as f64
    };
    Ok(lines.iter().map(mean).collect())
}

/// A statistic of each line's gaps, which are given with their α. Empty where it is undefined.
fn of_gaps(
    grid: &Grid,
    splits: &Splits,
    alphas: &[f64],
    of_line: fn(&[(f64, f64)]) -> Option<f64>,
) -> Result<Vec<f64>, StageError> {
    let rates = grid.rates(splits)?;
    let statistic = |rates: Rates| {
        let used = (0..grid.alphas.len()).filter(|&k| alphas.contains(&grid.alphas[k]));
        let gaps = used.map(|k| (grid.alphas[k], rates.harmful[k] - rates.edge[k]));
        of_line(&gaps.collect::<Vec<_>>())
    };
    Ok(rates.into_iter().filter_map(statistic).collect())
}

fn largest(gaps: &[(f64, f64)]) -> Option<f64> {
    let gaps = gaps.iter().map(|(_, gap)| *gap);
    gaps.max_by(f64::total_cmp)
}

/// The largest change from the gap at α = 0; none where that was not measured.
fn largest_change(gaps: &[(f64, f64)]) -> Option<f64> {
    let (_, at_zero) = gaps.iter().find(|(alpha, _)| *alpha == 0.0)?;
    largest(gaps).map(|largest| largest - at_zero)
}

/// Columns: `model, layer, site, learned_from, set, statistic, n_alpha, learned, learned_low, learned_high, holdout, holdout_low, holdout_high,
/// random_mean, random_std, n_random, z, p_one_sided, p_two_sided`.
pub(super) fn table(rows: &[Comparison<'_>]) -> Result<DataFrame, StageError> {
    with_place(Rows::of(rows), |row| row.learned_grid)
        .text("learned_from", |row| row.learned_grid.source.name())
        .text("set", |row| row.set)
        .text("statistic", |row| row.statistic)
        .integer("n_alpha", |row| row.alphas.len() as i64)
        .number("learned", |row| Some(row.learned?.value))
        .ends(["learned_low", "learned_high"], |row| row.learned?.interval)
        .number("holdout", |row| Some(row.holdout?.value))
        .ends(["holdout_low", "holdout_high"], |row| row.holdout?.interval)
        .number("random_mean", |row| row.random_mean)
        .number("random_std", |row| row.random_std)
        .integer("n_random", |row| row.n_random as i64)
        .number("z", |row| row.z)
        .number("p_one_sided", |row| row.p.map(|p| p.one_sided))
        .number("p_two_sided", |row| row.p.map(|p| p.two_sided))
        .frame()
}

/// What keeps directions from being compared, beside what the verdict says of it.
pub(super) fn findings(rows: &[Comparison<'_>], grids: &[Grid]) -> Vec<String> {
    let mut findings = Vec::new();
    for of_place in rows.chunk_by(|a, b| std::ptr::eq(a.learned_grid, b.learned_grid)) {
        let first = &of_place[0];
        let place = first.learned_grid.place();
        for source in [Source::Holdout, Source::Random] {
            let learned = first.learned_grid;
            let of_source: Vec<&Grid> = grids.iter().filter(|g| g.source == source).collect();
            if of_source.is_empty() || of_source.iter().any(|grid| grid.is_beside(learned)) {
                continue;
            }
            let (name, site) = (source.name(), &learned.site);
            findings.push(match of_source.iter().any(|grid| grid.is_at(learned)) {
                false => format!("{place}: the {name} sweep has nothing at site `{site}` of this layer"),
                true => format!(
                    "{place}: the {name} sweep does something else there (another `mode`, `position`, `layer` or `with`), and is not compared"
                ),
            });
        }
        if first.is_cut {
            findings.push(format!(
                "{place}: the sweeps have different α; learned and random directions are compared on the {} they share",
                first.alphas.len()
            ));
        }
    }
    findings
}
