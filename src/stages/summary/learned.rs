//! `learned_vs_random`: is the learned direction's effect one that any direction would have?
//!
//! Two statistics of a direction, each taken in the same way for every random one: the least-squares slope of mean score on α, on
//! one set, and the largest gap between harmful and edge rates over the α grid. The learned direction is that of the steer sweep;
//! where there is none at a place, the holdout directions, whose statistic is the mean over seeds of each direction's own. So is the
//! holdout column. Only α that every sweep at the place has count.

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::Rows;
use crate::stats::{self, EmpiricalP};

use super::grid::{Grid, Prompt, Rates, Set, Source, Splits, with_place};
use super::pool::{self, Estimate, Observation};

/// The largest p that passes.
const LEVEL: f64 = 0.05;
/// With fewer random directions than this, p cannot reach [`LEVEL`].
const FEWEST_RANDOM: usize = 19;

#[derive(Clone, Debug)]
pub(super) struct Comparison<'a> {
    /// The learned direction's sweep.
    pub(crate) learned_grid: &'a Grid,
    /// A split, or `gap`.
    pub(crate) set: &'a str,
    /// `slope` or `max_gap`.
    pub(crate) statistic: &'static str,
    /// How many α the sweeps share.
    pub(crate) n_alpha: usize,
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
    /// The holdout slope's interval excludes 0 and both p are at most 0.05; `None` where a part is missing, and for gaps.
    pub(crate) pass: Option<bool>,
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

    fn compare(
        &self,
        set: &'a str,
        splits: &Splits,
        seed: u64,
    ) -> Result<Comparison<'a>, StageError> {
        let estimate = |grid: &Grid| match set == splits.edge {
            true => slope(grid, &grid.source.edge_set(splits), &self.alphas, seed),
            false => slope(grid, set, &self.alphas, seed),
        };
        let random = match self.random {
            Some(grid) => line_slopes(grid, set, &self.alphas)?,
            None => Vec::new(),
        };
        let holdout = self.holdout.map(estimate).transpose()?.flatten();
        self.comparison(set, "slope", estimate(self.learned)?, holdout, &random)
    }

    fn compare_gaps(&self, splits: &Splits) -> Result<Comparison<'a>, StageError> {
        let gaps = |grid: &Grid| largest_gaps(grid, splits, &self.alphas);
        let random = self.random.map(gaps).transpose()?.unwrap_or_default();
        let mean = |grid: &Grid| -> Result<Option<Estimate>, StageError> {
            Ok(stats::mean(&gaps(grid)?)?.map(Estimate::without_interval))
        };
        let holdout = self.holdout.map(mean).transpose()?.flatten();
        self.comparison("gap", "max_gap", mean(self.learned)?, holdout, &random)
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
        let interval = holdout.and_then(|holdout| holdout.interval);
        Ok(Comparison {
            learned_grid: self.learned,
            set,
            statistic,
            n_alpha: self.alphas.len(),
            is_cut: self.is_cut(),
            learned,
            holdout,
            random_mean: stats::mean(random)?,
            random_std: stats::std(random, 1)?,
            n_random: random.len(),
            z: z.transpose()?.flatten(),
            p,
            pass: interval.zip(p).map(|(interval, p)| {
                interval.excludes(0.0) && p.one_sided <= LEVEL && p.two_sided <= LEVEL
            }),
        })
    }
}

/// Three rows (edge, harmful, gap) for each place that has a learned direction.
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
        rows.push(place.compare(&splits.edge, splits, seed)?);
        rows.push(place.compare(&splits.harmful, splits, seed)?);
        rows.push(place.compare_gaps(splits)?);
    }
    Ok(rows)
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
fn line_slopes(grid: &Grid, set: &str, alphas: &[f64]) -> Result<Vec<f64>, StageError> {
    let lines = prompt_slopes(grid, set, alphas)?.unwrap_or_default();
    let mean = |line: &PromptSlopes<'_>| {
        line.iter().map(|(_, slope)| slope).sum::<f64>() / line.len() as f64
    };
    Ok(lines.iter().map(mean).collect())
}

/// Each line's largest gap over these α. Empty without α.
fn largest_gaps(grid: &Grid, splits: &Splits, alphas: &[f64]) -> Result<Vec<f64>, StageError> {
    let rates = grid.rates(splits)?;
    let largest = |rates: Rates| {
        let used = (0..grid.alphas.len()).filter(|&k| alphas.contains(&grid.alphas[k]));
        used.map(|k| rates.harmful[k] - rates.edge[k])
            .max_by(f64::total_cmp)
    };
    Ok(rates.into_iter().filter_map(largest).collect())
}

/// Columns: `model, layer, site, learned_from, set, statistic, n_alpha, learned, learned_low, learned_high, holdout, holdout_low, holdout_high,
/// random_mean, random_std, n_random, z, p_one_sided, p_two_sided, controls_pass`.
pub(super) fn table(rows: &[Comparison<'_>]) -> Result<DataFrame, StageError> {
    with_place(Rows::of(rows), |row| row.learned_grid)
        .text("learned_from", |row| row.learned_grid.source.name())
        .text("set", |row| row.set)
        .text("statistic", |row| row.statistic)
        .integer("n_alpha", |row| row.n_alpha as i64)
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
        .flag("controls_pass", |row| row.pass)
        .frame()
}

/// Whether the controls pass at each place, and what keeps them from being judged.
pub(super) fn findings(rows: &[Comparison<'_>], grids: &[Grid]) -> Vec<String> {
    let mut findings = Vec::new();
    for of_place in rows.chunk_by(|a, b| std::ptr::eq(a.learned_grid, b.learned_grid)) {
        let first = &of_place[0];
        let place = first.learned_grid.place();
        findings.extend(verdict(of_place).map(|verdict| format!("{place}: {verdict}")));
        // A slope was held out, and only the interval is missing that would judge it.
        let lacks_interval = |row: &&Comparison<'_>| {
            let interval = row.holdout.map(|holdout| holdout.interval);
            row.statistic != "max_gap" && row.p.is_some() && interval == Some(None)
        };
        for row in of_place.iter().filter(lacks_interval) {
            findings.push(format!("{place}: `{}` has no interval over prompts (one prompt gives none), so its controls are not judged", row.set));
        }
        for source in [Source::Holdout, Source::Random] {
            let mut of_source = grids.iter().filter(|grid| grid.source == source).peekable();
            if of_source.peek().is_some()
                && !of_source.any(|grid| grid.is_beside(first.learned_grid))
            {
                findings.push(format!("{place}: the {} sweep has nothing at site `{}` of this layer, so the controls are not judged", source.name(), first.learned_grid.site));
            }
        }
        if first.is_cut {
            findings.push(format!("{place}: the sweeps have different α; learned and random directions are compared on the {} they share", first.n_alpha));
        }
    }
    let fewest = rows.iter().map(|row| row.n_random).filter(|&n| n > 0).min();
    if let Some(n) = fewest.filter(|&n| n < FEWEST_RANDOM) {
        let smallest = 1.0 / (1 + n) as f64;
        findings.push(format!("with {n} random directions the smallest possible p is {smallest:.3}, so the controls cannot pass; use at least {FEWEST_RANDOM}"));
    }
    findings
}

/// One sentence on the sets of a place that could be judged.
fn verdict(rows: &[Comparison<'_>]) -> Option<String> {
    let named = |wanted: bool| {
        let sets = rows.iter().filter(|row| row.pass == Some(wanted));
        let sets: Vec<String> = sets.map(|row| format!("`{}`", row.set)).collect();
        (!sets.is_empty()).then(|| sets.join(" and "))
    };
    Some(match (named(true), named(false)) {
        (None, None) => return None,
        (Some(passed), None) => format!("the controls pass on {passed}"),
        (None, Some(failed)) => format!("the controls do not pass on {failed}"),
        (Some(passed), Some(failed)) => {
            format!("the controls pass on {passed}, but not on {failed}")
        }
    })
}
