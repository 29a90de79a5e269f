//! Sweeps of which only groups of prompts were published.

use polars::prelude::DataFrame;

use crate::stages::{StageError, table};

use super::grid::{self, Grid, GroupRow, Source, Total};

/// How far a published rate may lie from a whole number of prompts, as a share: the rounding of one division.
const ROUNDING: f64 = 1e-9;

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
    grid::collect_groups(source, &groups)
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
