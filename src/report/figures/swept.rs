//! What a sweep says, gathered from tables: levels with intervals, and what random directions do at the same place.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::report::{FinishedRun, FinishedStage, Table};
use crate::stages::{Product, Splits};

/// The two splits that are compared: those of the run's first summary, or the default.
pub(super) fn splits_of(run: &FinishedRun) -> Splits {
    let said = run
        .stages
        .iter()
        .find_map(|stage| stage.node.splits.as_ref());
    said.cloned().unwrap_or_default()
}

/// A value with its 95 % interval, where one is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::report) struct Level {
    pub(crate) value: f64,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

/// Where in a model, on which prompts, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::report) struct Place<'a> {
    pub(crate) model: &'a str,
    pub(crate) layer: i64,
    pub(crate) site: &'a str,
    pub(crate) set: &'a str,
    pub(crate) direction: &'a str,
}

/// One α of a direction at a place.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::report) struct Point<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) alpha: f64,
    pub(crate) mean: Level,
    pub(crate) rate: Level,
}

/// A mean over prompts of one direction at one α.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample<'a> {
    pub(crate) place: Place<'a>,
    /// Empty where all prompts are taken together.
    pub(crate) category: &'a str,
    pub(crate) seed: Option<i64>,
    pub(crate) alpha: f64,
    pub(crate) mean: f64,
    pub(crate) rate: f64,
}

/// The points of a sweep: from a summary that describes it, with intervals; otherwise averaged over seeds here, without.
pub(in crate::report) fn points<'a>(
    run: &'a FinishedRun,
    stage: &'a FinishedStage,
) -> Vec<Point<'a>> {
    let described = run.described(&stage.name);
    match described.and_then(|(summary, source)| Some((summary.table("")?, source))) {
        Some((table, source)) => described_points(table, source),
        None => averaged_points(stage),
    }
}

/// Values with their intervals, from the columns of that and of the two ends.
pub(super) fn levels(table: &Table, names: [&str; 3]) -> Vec<Option<Level>> {
    let [values, lows, highs] = names.map(|name| table.numbers(name));
    let ends = lows.into_iter().zip(highs);
    let level = |(value, (low, high)): (Option<f64>, _)| {
        let value = value?;
        Some(Level { value, low, high })
    };
    values.into_iter().zip(ends).map(level).collect()
}

/// The rows of a summary's main table that are of a source.
fn described_points<'a>(table: &'a Table, source: &str) -> Vec<Point<'a>> {
    let text = |name: &str| table.text_at(name);
    let (sources, models, sites) = (text("source"), text("model"), text("site"));
    let (sets, directions) = (text("set"), text("direction"));
    let (layers, alphas) = (table.numbers("layer"), table.numbers("alpha"));
    let means = levels(table, ["mean", "mean_low", "mean_high"]);
    let rates = levels(table, ["refusal_rate", "rate_low", "rate_high"]);
    let point = |row: usize| {
        Some(Point {
            place: Place {
                model: models(row),
                layer: layers[row]? as i64,
                site: sites(row),
                set: sets(row),
                direction: directions(row),
            },
            alpha: alphas[row]?,
            mean: means[row]?,
            rate: rates[row]?,
        })
    };
    let of_source = (0..table.height()).filter(|&row| sources(row) == source);
    of_source.filter_map(point).collect()
}

fn averaged_points(stage: &FinishedStage) -> Vec<Point<'_>> {
    let mut points: Vec<(Point<'_>, f64)> = Vec::new();
    let mut index: HashMap<(Place<'_>, u64), usize> = HashMap::new();
    for sample in samples(stage, false) {
        let key = (sample.place, sample.alpha.to_bits());
        let at = *index.entry(key).or_insert_with(|| {
            let point = Point {
                place: sample.place,
                alpha: sample.alpha,
                mean: Level::default(),
                rate: Level::default(),
            };
            points.push((point, 0.0));
            points.len() - 1
        });
        let (point, count) = &mut points[at];
        point.mean.value += sample.mean;
        point.rate.value += sample.rate;
        *count += 1.0;
    }
    for (point, count) in &mut points {
        point.mean.value /= *count;
        point.rate.value /= *count;
    }
    points.into_iter().map(|(point, _)| point).collect()
}

/// Means over the prompts of a set by direction and seed, and if asked for by category, in the order of first appearance; rows without α
/// (ablations) are left out.
pub(super) fn samples(stage: &FinishedStage, by_category: bool) -> Vec<Sample<'_>> {
    let Some(sweep) = stage.sweep() else {
        return Vec::new();
    };
    let mut by = vec![
        "model",
        "site",
        "set",
        "direction",
        "layer",
        "seed",
        "alpha",
    ];
    if by_category && sweep.is_by_prompt() {
        by.push("category");
    }
    let sample = |rows: Vec<usize>| {
        let first = sweep.row(*rows.first()?);
        let (mut mean, mut rate, mut count) = (0.0, 0.0, 0.0);
        for row in rows {
            if let Some(score) = sweep.mean(row) {
                mean += score;
                rate += sweep.refusal_rate(row).unwrap_or_default();
                count += 1.0;
            }
        }
        Some(Sample {
            place: Place {
                model: first.model,
                layer: first.layer,
                site: first.site,
                set: first.set,
                direction: first.direction,
            },
            category: match by_category {
                true => first.prompt().category,
                false => "",
            },
            seed: first.seed,
            alpha: first.alpha?,
            mean: mean / count,
            rate: rate / count,
        })
        .filter(|_| count > 0.0)
    };
    let groups = sweep.groups(&by).unwrap_or_default();
    groups.into_iter().filter_map(sample).collect()
}

/// What random directions do: for every place and α, a value of every seed.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline<'a> {
    samples: Vec<Sample<'a>>,
}

/// The range of random directions at one α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(crate) alpha: f64,
    pub(crate) low: f64,
    pub(crate) mean: f64,
    pub(crate) high: f64,
}

impl<'a> Baseline<'a> {
    /// Of all the run's random stages.
    pub(super) fn of(run: &'a FinishedRun, by_category: bool) -> Self {
        let stages = run.with(Product::RandomSweep);
        Baseline {
            samples: stages
                .flat_map(|stage| samples(stage, by_category))
                .collect(),
        }
    }

    /// The samples at places and of prompts that are asked for.
    pub(super) fn samples(
        &self,
        wanted: impl Fn(&Sample<'a>) -> bool,
    ) -> impl Iterator<Item = &Sample<'a>> {
        self.samples.iter().filter(move |sample| wanted(sample))
    }

    /// The distinct random seeds.
    pub(super) fn count(&self) -> usize {
        let seeds: BTreeSet<Option<i64>> = self.samples.iter().map(|s| s.seed).collect();
        seeds.len()
    }

    /// Lowest, mean and highest of a value over directions, by α.
    pub(super) fn spread(
        &self,
        wanted: impl Fn(&Sample<'a>) -> bool,
        value: impl Fn(&Sample<'a>) -> f64,
    ) -> Vec<Spread> {
        spread(
            self.samples(wanted)
                .map(|sample| (sample.alpha, value(sample))),
        )
    }
}

/// Lowest, mean and highest of values by α, α ascending.
pub(super) fn spread(values: impl IntoIterator<Item = (f64, f64)>) -> Vec<Spread> {
    let mut by_alpha: BTreeMap<i64, (f64, Vec<f64>)> = BTreeMap::new();
    for (alpha, value) in values {
        // α are settings that people write; a millionth apart they are the same.
        let key = (alpha * 1e6).round() as i64;
        by_alpha
            .entry(key)
            .or_insert((alpha, Vec::new()))
            .1
            .push(value);
    }
    let of = |(alpha, values): (f64, Vec<f64>)| Spread {
        alpha,
        low: values.iter().copied().fold(f64::INFINITY, f64::min),
        mean: values.iter().sum::<f64>() / values.len() as f64,
        high: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    };
    by_alpha.into_values().map(of).collect()
}

/// The distinct values in the order of first appearance.
pub(in crate::report) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}
