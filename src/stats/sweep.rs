//! Statistics of refusal rates over a sweep of alpha.
//!
//! Rates are ratios of small counts, or means of a few such ratios. Two that are equal may differ in the last bit (the mean of
//! three times 0.1 is above 0.1), so rates are compared after rounding to steps of 10^-12, far finer than any real difference.

use super::describe::{finite_mean, std};
use super::{StatsError, require_finite, require_length};

/// Steps per unit at which rates are compared.
const RATE_STEPS: f64 = 1e12;

/// A rate on the comparison grid.
fn step(rate: f64) -> i64 {
    (rate * RATE_STEPS).round() as i64
}

/// Refusal rates (0 to 1) at one alpha.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RatePoint {
    /// Steering strength, in the units of the sweep.
    pub(crate) alpha: f64,
    pub(crate) edge_rate: f64,
    pub(crate) harmful_rate: f64,
}

impl RatePoint {
    /// Harmful rate minus edge rate.
    pub(crate) fn gap(&self) -> f64 {
        self.harmful_rate - self.edge_rate
    }
}

/// The Pareto front of `(edge rate, harmful rate)` points, fewer edge and more harmful refusals being better: sorted by edge
/// ascending, keeping those whose harmful rate is strictly above all before. Returns indices in ascending order of edge.
///
/// Points of equal edge rate are taken with the highest harmful rate first, so that no point kept is dominated; the
/// published tables list every alpha and do not show what the study did there. Of equal points the first given is kept.
pub(crate) fn pareto_front(points: &[(f64, f64)]) -> Result<Vec<usize>, StatsError> {
    let (edge, harmful): (Vec<f64>, Vec<f64>) = points.iter().copied().unzip();
    require_finite("the edge rates", &edge)?;
    require_finite("the harmful rates", &harmful)?;
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&index| (step(edge[index]), std::cmp::Reverse(step(harmful[index]))));
    let mut best = i64::MIN;
    order.retain(|&index| {
        let better = step(harmful[index]) > best;
        best = best.max(step(harmful[index]));
        better
    });
    Ok(order)
}

/// The alphas a reader asks for first, as indices into the points of the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperatingPoints {
    /// Smallest |alpha| with an edge rate at or below its target; `None` when no alpha has one.
    pub(crate) edge: Option<usize>,
    /// Smallest |alpha| with a harmful rate at or below its target; `None` when no alpha has one.
    pub(crate) harmful: Option<usize>,
    /// Largest gap (harmful rate minus edge rate); `None` for an empty sweep.
    pub(crate) largest_gap: Option<usize>,
}

/// Refusal rates to stay at or below, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Targets {
    /// On edge prompts.
    pub(crate) edge: f64,
    /// On harmful prompts.
    pub(crate) harmful: f64,
}

impl Default for Targets {
    /// The published study's: calibrated on edge prompts, and mostly compliant on harmful ones.
    fn default() -> Self {
        Targets {
            edge: 0.10,
            harmful: 0.50,
        }
    }
}

/// Finds the operating points of a sweep, given in any order. Between alphas that serve equally well (the same size with
/// opposite signs, or the same gap) the smaller one is taken: -1 before 1.
pub(crate) fn operating_points(
    points: &[RatePoint],
    targets: Targets,
) -> Result<OperatingPoints, StatsError> {
    let column = |read: fn(&RatePoint) -> f64| points.iter().map(read).collect::<Vec<f64>>();
    require_finite("the alphas", &column(|point| point.alpha))?;
    require_finite("the edge rates", &column(|point| point.edge_rate))?;
    require_finite("the harmful rates", &column(|point| point.harmful_rate))?;
    let indexed = || points.iter().enumerate();
    let nearest_to_zero = |rate: fn(&RatePoint) -> f64, target: f64| {
        indexed()
            .filter(|(_, point)| step(rate(point)) <= step(target))
            .min_by(|(_, a), (_, b)| {
                let size = a.alpha.abs().total_cmp(&b.alpha.abs());
                size.then(a.alpha.total_cmp(&b.alpha))
            })
            .map(|(index, _)| index)
    };
    let largest_gap = indexed()
        .min_by(|(_, a), (_, b)| {
            let larger_first = step(b.gap()).cmp(&step(a.gap()));
            larger_first.then(a.alpha.total_cmp(&b.alpha))
        })
        .map(|(index, _)| index);
    Ok(OperatingPoints {
        edge: nearest_to_zero(|point| point.edge_rate, targets.edge),
        harmful: nearest_to_zero(|point| point.harmful_rate, targets.harmful),
        largest_gap,
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MeanStd {
    pub(crate) mean: f64,
    /// Standard deviation over seeds with ddof 1; `None` for one seed.
    pub(crate) std: Option<f64>,
}

/// One alpha of the control table, over seeds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct ControlRow {
    pub(crate) edge: MeanStd,
    pub(crate) harmful: MeanStd,
    /// The gap (harmful minus edge) of each seed.
    pub(crate) gap: MeanStd,
}

/// The control table's row for one (model, alpha) from the rates of each seed, `edge_rates[seed]` and `harmful_rates[seed]`.
/// `None` without seeds.
pub(crate) fn control_row(
    edge_rates: &[f64],
    harmful_rates: &[f64],
) -> Result<Option<ControlRow>, StatsError> {
    require_length(
        "the list of harmful rates",
        harmful_rates.len(),
        edge_rates.len(),
    )?;
    require_finite("the edge rates", edge_rates)?;
    require_finite("the harmful rates", harmful_rates)?;
    let pairs = edge_rates.iter().zip(harmful_rates);
    let gaps: Vec<f64> = pairs.map(|(edge, harmful)| harmful - edge).collect();
    let (Some(edge), Some(harmful), Some(gap)) = (
        mean_std(edge_rates)?,
        mean_std(harmful_rates)?,
        mean_std(&gaps)?,
    ) else {
        return Ok(None);
    };
    Ok(Some(ControlRow { edge, harmful, gap }))
}

fn mean_std(values: &[f64]) -> Result<Option<MeanStd>, StatsError> {
    let std = std(values, 1)?;
    Ok(finite_mean(values).map(|mean| MeanStd { mean, std }))
}

/// How far refusal rates on held-out prompts lie from those on the prompts that built the direction, over alphas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GeneralisationGap {
    pub(crate) mean: f64,
    pub(crate) max: f64,
}

/// Mean and maximum over alpha of |seed-mean holdout rate - seed-mean train rate|, both given as `[seed][alpha]` on one
/// alpha grid. `None` without seeds or alphas.
pub(crate) fn generalisation_gap(
    train: &[Vec<f64>],
    holdout: &[Vec<f64>],
) -> Result<Option<GeneralisationGap>, StatsError> {
    require_length("the holdout table", holdout.len(), train.len())?;
    let Some(alpha_count) = train.first().map(Vec::len) else {
        return Ok(None);
    };
    let train = mean_over_seeds("the list of train rates", train, alpha_count)?;
    let holdout = mean_over_seeds("the list of holdout rates", holdout, alpha_count)?;
    let pairs = train.iter().zip(&holdout);
    let distances: Vec<f64> = pairs
        .map(|(train, holdout)| (holdout - train).abs())
        .collect();
    Ok(finite_mean(&distances).map(|mean| GeneralisationGap {
        mean,
        max: distances.iter().copied().fold(0.0, f64::max),
    }))
}

/// The mean of each column of `[seed][alpha]`; at least one seed.
fn mean_over_seeds(
    what: &str,
    rates: &[Vec<f64>],
    alpha_count: usize,
) -> Result<Vec<f64>, StatsError> {
    let mut sums = vec![0.0; alpha_count];
    for (index, seed) in rates.iter().enumerate() {
        require_length(what, seed.len(), alpha_count)
            .and_then(|()| require_finite(what, seed))
            .map_err(|error| error.in_row("seed", index))?;
        for (sum, rate) in sums.iter_mut().zip(seed) {
            *sum += rate;
        }
    }
    Ok(sums.iter().map(|sum| sum / rates.len() as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of three times 0.1 in floating point.
    const NOISY_TENTH: f64 = (0.1 + 0.1 + 0.1) / 3.0;

    fn sweep(rows: &[(f64, f64, f64)]) -> Vec<RatePoint> {
        rows.iter()
            .map(|&(alpha, edge_rate, harmful_rate)| RatePoint {
                alpha,
                edge_rate,
                harmful_rate,
            })
            .collect()
    }

    #[test]
    fn the_front_keeps_strictly_increasing_harmful() {
        let points = [
            (0.5, 0.9),
            (0.1, 0.2),
            (0.3, 0.6),
            (0.2, 0.2),
            (0.4, 0.5),
            (0.6, 0.9),
        ];
        assert_eq!(pareto_front(&points), Ok(vec![1, 2, 0]));
        assert_eq!(pareto_front(&[]), Ok(vec![]));
    }

    #[test]
    fn equal_edge_rates_leave_only_the_best() {
        assert_eq!(
            pareto_front(&[(0.1, 0.2), (0.1, 0.4), (0.1, 0.4)]),
            Ok(vec![1])
        );
        const { assert!(NOISY_TENTH > 0.1) };
        assert_eq!(pareto_front(&[(0.1, 0.2), (NOISY_TENTH, 0.4)]), Ok(vec![1]));
    }

    #[test]
    fn operating_points_are_nearest_to_zero_with_ties_to_the_smaller_alpha() {
        let points = sweep(&[
            (2.0, 0.10, 0.9),
            (-2.0, 0.05, 0.8),
            (1.0, 0.5, 0.5),
            (-1.0, 0.6, 0.4),
            (0.0, 0.7, 0.9),
        ]);
        let found = operating_points(&points, Targets::default()).unwrap();
        assert_eq!((found.edge, found.harmful), (Some(1), Some(3)));
        assert_eq!(found.largest_gap, Some(0));
    }

    #[test]
    fn targets_are_met_by_equality_also_when_rounding_is_in_the_way() {
        let found =
            operating_points(&sweep(&[(3.0, NOISY_TENTH, 0.5)]), Targets::default()).unwrap();
        assert_eq!((found.edge, found.harmful), (Some(0), Some(0)));
        let missed =
            operating_points(&sweep(&[(3.0, 0.1001, 0.5001)]), Targets::default()).unwrap();
        assert_eq!((missed.edge, missed.harmful), (None, None));
        let empty = operating_points(&[], Targets::default()).unwrap();
        assert_eq!(empty.largest_gap, None);
    }

    #[test]
    fn equal_gaps_go_to_the_smaller_alpha() {
        // 0.3 - 0.1 is one bit below 0.2, 0.4 - 0.2 is 0.2.
        let points = sweep(&[(4.0, 0.2, 0.4), (-4.0, 0.1, 0.3), (0.0, 0.5, 0.6)]);
        assert!(points[0].gap() > points[1].gap());
        assert_eq!(
            operating_points(&points, Targets::default())
                .unwrap()
                .largest_gap,
            Some(1)
        );
    }

    #[test]
    fn the_control_row_uses_the_gap_of_each_seed() {
        let row = control_row(&[0.1, 0.2, 0.3], &[0.5, 0.9, 0.7])
            .unwrap()
            .unwrap();
        // Gaps 0.4, 0.7, 0.4: mean 0.5, ddof-1 variance (0.01 + 0.04 + 0.01) / 2 = 0.03.
        assert!((row.gap.mean - 0.5).abs() < 1e-15);
        assert!((row.gap.std.unwrap() - 0.03_f64.sqrt()).abs() < 1e-15);
        assert!((row.edge.mean - 0.2).abs() < 1e-15);
        assert!((row.harmful.std.unwrap() - 0.2).abs() < 1e-15);
        let single = control_row(&[0.1], &[0.5]).unwrap().unwrap();
        assert_eq!(single.edge.std, None);
        assert_eq!(control_row(&[], &[]), Ok(None));
    }

    #[test]
    fn the_generalisation_gap_averages_seeds_before_taking_distances() {
        let train = [vec![0.2, 0.8], vec![0.4, 0.6]];
        let holdout = [vec![0.4, 0.5], vec![0.2, 0.5]];
        let gap = generalisation_gap(&train, &holdout).unwrap().unwrap();
        // Seed means 0.3, 0.7 against 0.3, 0.5: distances 0 and 0.2.
        assert!((gap.mean - 0.1).abs() < 1e-15);
        assert!((gap.max - 0.2).abs() < 1e-15);
        assert_eq!(generalisation_gap(&[], &[]), Ok(None));
        assert_eq!(generalisation_gap(&[vec![]], &[vec![]]), Ok(None));
    }

    #[test]
    fn bad_input_is_an_error() {
        assert!(pareto_front(&[(0.1, 0.2), (0.1, f64::NAN)]).is_err());
        let points = sweep(&[(0.0, 0.1, 0.1), (1.0, f64::NAN, 0.1)]);
        let found = operating_points(&points, Targets::default());
        assert!(found.is_err_and(|error| error.0.contains("`NaN` at index 1 of")));
        assert!(control_row(&[0.1], &[]).is_err());
        assert!(control_row(&[f64::NAN], &[0.1]).is_err());
        assert!(generalisation_gap(&[vec![0.1]], &[]).is_err());
        assert!(generalisation_gap(&[vec![0.1]], &[vec![0.1, 0.2]]).is_err());
        assert!(generalisation_gap(&[vec![0.1]], &[vec![f64::NAN]]).is_err());
    }
}
