//! What a sweep says, gathered from tables: levels with intervals, and what random directions do at the same place.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

use crate::report::{FinishedRun, FinishedStage, Table, ends};
use crate::stages::Product;
use crate::stages::rules::rate_column;
use crate::stages::sweep::SweepFrame;

/// A value with its 95 % interval, where one is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Level {
    pub(crate) value: f64,
    pub(crate) low: Option<f64>,
    pub(crate) high: Option<f64>,
}

impl Level {
    /// Without an interval.
    pub(crate) fn of(value: f64) -> Self {
        Level {
            value,
            ..Level::default()
        }
    }
}

/// Where in a model, on which prompts, and in which direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place<'a> {
    pub(crate) model: &'a str,
    pub(crate) layer: i64,
    pub(crate) site: &'a str,
    pub(crate) set: &'a str,
    pub(crate) direction: &'a str,
}

/// What a direction does at a place at one α, over prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point<'a> {
    pub(crate) place: Place<'a>,
    /// Of the prompts; empty where all are taken together.
    pub(crate) category: &'a str,
    /// None where seeds are taken together.
    pub(crate) seed: Option<i64>,
    pub(crate) alpha: f64,
    pub(crate) mean: Level,
    pub(crate) rate: Level,
}

/// The points of a sweep by a score rule: from a summary that describes it, with intervals; otherwise averaged over seeds here, without.
pub(crate) fn points<'a>(
    run: &'a FinishedRun,
    stage: &FinishedStage,
    sweep: &SweepFrame<'a>,
) -> Vec<Point<'a>> {
    let described = run.described(&stage.name, sweep.rule);
    match described.and_then(|(summary, source)| Some((summary.table("")?, source))) {
        Some((table, source)) => described_points(table, source, sweep.rule),
        None => averaged_points(sweep),
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
fn described_points<'a>(table: &'a Table, source: &str, rule: &str) -> Vec<Point<'a>> {
    let text = |name: &str| table.text_at(name);
    let (sources, models, sites) = (text("source"), text("model"), text("site"));
    let (sets, directions) = (text("set"), text("direction"));
    let (layers, alphas) = (table.numbers("layer"), table.numbers("alpha"));
    let means = levels(table, ["mean", "mean_low", "mean_high"]);
    let rates = levels(table, [&rate_column(rule), "rate_low", "rate_high"]);
    let point = |row: usize| {
        Some(Point {
            place: Place {
                model: models(row),
                layer: layers[row]? as i64,
                site: sites(row),
                set: sets(row),
                direction: directions(row),
            },
            category: "",
            seed: None,
            alpha: alphas[row]?,
            mean: means[row]?,
            rate: rates[row]?,
        })
    };
    let of_source = (0..table.height()).filter(|&row| sources(row) == source);
    of_source.filter_map(point).collect()
}

fn averaged_points<'a>(sweep: &SweepFrame<'a>) -> Vec<Point<'a>> {
    let of_seeds = grouped(samples(sweep, false), |point| {
        (point.place, point.alpha.to_bits())
    });
    let mut points: Vec<Point<'_>> = Vec::new();
    for (_, of_seeds) in of_seeds {
        let mean = |of: fn(&Point<'_>) -> Level| {
            let values = of_seeds.iter().map(|point| of(point).value);
            Level::of(values.sum::<f64>() / of_seeds.len() as f64)
        };
        points.push(Point {
            seed: None,
            mean: mean(|point| point.mean),
            rate: mean(|point| point.rate),
            ..of_seeds[0]
        });
    }
    points
}

/// Means over the prompts of a set by direction and seed, and if asked for by category, in the order of first appearance; rows without α
/// (ablations) are left out.
pub(super) fn samples<'a>(sweep: &SweepFrame<'a>, by_category: bool) -> Vec<Point<'a>> {
    let place = ["model", "site", "set", "direction", "layer"];
    let mut by = [&place[..], &["seed", "alpha"]].concat();
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
        let point = Point {
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
            mean: Level::of(mean / count),
            rate: Level::of(rate / count),
        };
        (count > 0.0).then_some(point)
    };
    let groups = sweep.groups(&by).unwrap_or_default();
    groups.into_iter().filter_map(sample).collect()
}

/// What random directions do: a point for every place, α and seed.
#[derive(Default)]
pub(super) struct Baseline<'a> {
    pub(super) samples: Vec<Point<'a>>,
}

impl<'a> Baseline<'a> {
    /// Of those of the run's random stages that do the same as a sweep in the same place, by its score rule.
    pub(super) fn beside(run: &'a FinishedRun, swept: &SweepFrame<'_>, by_category: bool) -> Self {
        let sweeps = run
            .with(Product::RandomSweep)
            .flat_map(FinishedStage::sweeps);
        let sweeps = sweeps.filter(|sweep| sweep.rule == swept.rule);
        let sweeps = sweeps.filter(|sweep| sweep.setting() == swept.setting());
        Baseline {
            samples: sweeps
                .flat_map(|sweep| samples(&sweep, by_category))
                .collect(),
        }
    }

    /// The distinct random seeds.
    pub(super) fn count(&self) -> usize {
        let seeds: BTreeSet<Option<i64>> = self.samples.iter().map(|s| s.seed).collect();
        seeds.len()
    }

    /// The range over directions of a value, by α, of the samples that are wanted.
    pub(super) fn spread(
        &self,
        wanted: impl Fn(&Point<'a>) -> bool,
        value: fn(&Point<'_>) -> Level,
    ) -> Vec<Spread> {
        let wanted = self.samples.iter().filter(|sample| wanted(sample));
        spread(wanted.map(|sample| (sample.alpha, value(sample).value)))
    }
}

/// The range of values at one α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) alpha: f64,
    pub(crate) low: f64,
    pub(crate) mean: f64,
    pub(crate) high: f64,
}

impl Spread {
    pub(crate) fn of(alpha: f64, values: &[f64]) -> Self {
        let (low, high) = ends(values.iter().copied());
        Spread {
            alpha,
            low,
            mean: values.iter().sum::<f64>() / values.len() as f64,
            high,
        }
    }
}

/// The ranges of values by α, α ascending.
pub(super) fn spread(values: impl IntoIterator<Item = (f64, f64)>) -> Vec<Spread> {
    // α are settings that people write; a millionth apart they are the same.
    let mut groups = grouped(values, |(alpha, _)| (alpha * 1e6).round() as i64);
    groups.sort_by_key(|(alpha, _)| *alpha);
    let of = |(_, values): (i64, Vec<(f64, f64)>)| {
        let (alphas, values): (Vec<f64>, Vec<f64>) = values.into_iter().unzip();
        Spread::of(alphas[0], &values)
    };
    groups.into_iter().map(of).collect()
}

/// Items by what they have in common: groups in the order of their first items, the items of each in theirs.
pub(crate) fn grouped<T, K: Copy + Eq + Hash>(
    items: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<(K, Vec<T>)> {
    let mut groups: Vec<(K, Vec<T>)> = Vec::new();
    let mut places: HashMap<K, usize> = HashMap::new();
    for item in items {
        let key = key(&item);
        let place = *places.entry(key).or_insert(groups.len());
        if place == groups.len() {
            groups.push((key, Vec::new()));
        }
        groups[place].1.push(item);
    }
    groups
}

/// The distinct values in the order of first appearance.
pub(crate) fn distinct<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}
