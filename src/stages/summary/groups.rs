//! Sweeps of which only groups of prompts were published.

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};

use super::grid::{Grid, Line, Set, Source, Total, index_or_push};

/// How far a published rate may lie from a whole number of prompts, as a share: the rounding of one division.
const ROUNDING: f64 = 1e-9;

/// One row of a table of groups.
struct GroupRow<'a> {
    model: &'a str,
    direction: &'a str,
    seed: Option<i64>,
    layer: i64,
    site: &'a str,
    set: &'a str,
    total: Total,
}

/// A table of groups as grids.
pub(super) fn read(source: Source, rows: &DataFrame) -> Result<Vec<Grid>, StageError> {
    let text = |name| table::read_text(rows, name);
    let (models, directions) = (text("model")?, text("direction")?);
    let (sites, sets) = (text("site")?, text("set")?);
    let integers = |name| table::read_integers(rows, name);
    let (seeds, layers, counts) = (integers("seed")?, integers("layer")?, integers("n")?);
    let numbers = |name| table::read_numbers(rows, name);
    let (alphas, means) = (numbers("alpha")?, numbers("mean")?);
    let (stds, rates) = (numbers("std")?, numbers("refusal_rate")?);
    let mut groups = Vec::new();
    for i in 0..rows.height() {
        let n = counts[i].and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        groups.push(GroupRow {
            model: &models[i],
            direction: &directions[i],
            seed: seeds[i],
            layer: layers[i].unwrap_or_default(),
            site: &sites[i],
            set: &sets[i],
            total: Total {
                alpha: alphas[i],
                n,
                mean: means[i],
                std: with_ddof_0(stds[i], n, source),
                refused: refused(rates[i], n, &sets[i])?,
            },
        });
    }
    collect(source, &groups)
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

/// Gathers rows, in any order, into one grid for each model, layer and site, in the order of first appearance. It is an error to have two rows of the same set, α, seed and place, or a set that was not tried at every α.
fn collect(source: Source, rows: &[GroupRow<'_>]) -> Result<Vec<Grid>, StageError> {
    let mut grids: Vec<Grid> = Vec::new();
    for row in rows {
        let is_place = |grid: &Grid| {
            (grid.model.as_str(), grid.layer, grid.site.as_str())
                == (row.model, row.layer, row.site)
        };
        let grid = index_or_push(&mut grids, is_place, || Grid {
            source,
            model: row.model.to_string(),
            layer: row.layer,
            site: row.site.to_string(),
            direction: row.direction.to_string(),
            alphas: Vec::new(),
            lines: Vec::new(),
        });
        let lines = &mut grids[grid].lines;
        let line = index_or_push(
            lines,
            |line| line.seed == row.seed,
            || Line {
                seed: row.seed,
                sets: Vec::new(),
            },
        );
        let sets = &mut lines[line].sets;
        let set = index_or_push(
            sets,
            |set| set.name == row.set,
            || Set {
                name: row.set.to_string(),
                prompts: Vec::new(),
                totals: Vec::new(),
            },
        );
        sets[set].totals.push(row.total);
    }
    for grid in &mut grids {
        complete(grid)?;
    }
    Ok(grids)
}

/// Sorts by α, and checks that every set has every α once.
fn complete(grid: &mut Grid) -> Result<(), StageError> {
    let place = grid.place();
    let sets = || grid.lines.iter().flat_map(|line| &line.sets);
    let totals = sets().flat_map(|set| &set.totals);
    let mut alphas: Vec<f64> = totals.map(|total| total.alpha).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    for set in grid.lines.iter_mut().flat_map(|line| &mut line.sets) {
        set.totals.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
        let own: Vec<f64> = set.totals.iter().map(|total| total.alpha).collect();
        if own != alphas {
            return Err(StageError::Data(format!(
                "{place}: set `{}` has α = {own:?}, where all together are {alphas:?}; each set needs every α once",
                set.name
            )));
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
