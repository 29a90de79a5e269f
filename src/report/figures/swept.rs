//! What a sweep says, gathered from tables: levels with intervals, and what random directions do at the same place.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

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

/// Where in a model, and on which prompts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::report) struct Place {
    pub(crate) model: String,
    pub(crate) layer: i64,
    pub(crate) site: String,
    pub(crate) set: String,
}

/// One α of a direction at a place.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::report) struct Point {
    pub(crate) place: Place,
    pub(crate) direction: String,
    pub(crate) alpha: f64,
    pub(crate) mean: Level,
    pub(crate) rate: Level,
}

/// A mean over prompts of one direction at one α. There may be many: names are shared.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(crate) place: Arc<Place>,
    pub(crate) category: Arc<str>,
    pub(crate) direction: Arc<str>,
    pub(crate) seed: Option<i64>,
    pub(crate) alpha: f64,
    pub(crate) mean: f64,
    pub(crate) rate: f64,
}

/// The points of a sweep: from a summary that describes it, with intervals; otherwise averaged over seeds here, without.
pub(in crate::report) fn points(run: &FinishedRun, stage: &FinishedStage) -> Vec<Point> {
    let described = run.described(&stage.name);
    match described.and_then(|(summary, source)| Some((summary.table("")?, source))) {
        Some((table, source)) => described_points(table, source),
        None => averaged_points(stage),
    }
}

fn described_points(table: &Table, source: &str) -> Vec<Point> {
    let text = |name: &str| table.texts(name);
    let number = |name: &str| table.numbers(name);
    let (sources, models, sites) = (text("source"), text("model"), text("site"));
    let (directions, sets) = (text("direction"), text("set"));
    let (layers, alphas) = (number("layer"), number("alpha"));
    let mean = ["mean", "mean_low", "mean_high"].map(number);
    let rate = ["refusal_rate", "rate_low", "rate_high"].map(number);
    let level = |columns: &[Vec<Option<f64>>; 3], row: usize| {
        Some(Level {
            value: columns[0][row]?,
            low: columns[1][row],
            high: columns[2][row],
        })
    };
    let point = |row: usize| {
        Some(Point {
            place: Place {
                model: models[row].clone(),
                layer: layers[row]? as i64,
                site: sites[row].clone(),
                set: sets[row].clone(),
            },
            direction: directions[row].clone(),
            alpha: alphas[row]?,
            mean: level(&mean, row)?,
            rate: level(&rate, row)?,
        })
    };
    let of_source = (0..table.height()).filter(|&row| sources[row] == source);
    of_source.filter_map(point).collect()
}

fn averaged_points(stage: &FinishedStage) -> Vec<Point> {
    let mut groups: Vec<(Point, f64)> = Vec::new();
    let mut index: HashMap<(Arc<Place>, Arc<str>, u64), usize> = HashMap::new();
    for sample in stage.table("").map(samples).unwrap_or_default() {
        let key = (
            Arc::clone(&sample.place),
            Arc::clone(&sample.direction),
            sample.alpha.to_bits(),
        );
        let at = *index.entry(key).or_insert_with(|| {
            let point = Point {
                place: Place::clone(&sample.place),
                direction: sample.direction.to_string(),
                alpha: sample.alpha,
                mean: Level::default(),
                rate: Level::default(),
            };
            groups.push((point, 0.0));
            groups.len() - 1
        });
        let (point, count) = &mut groups[at];
        point.mean.value += sample.mean;
        point.rate.value += sample.rate;
        *count += 1.0;
    }
    for (point, count) in &mut groups {
        point.mean.value /= *count;
        point.rate.value /= *count;
    }
    groups.into_iter().map(|(point, _)| point).collect()
}

/// Means over all prompts of a set, by direction and seed.
pub(super) fn samples(table: &Table) -> Vec<Sample> {
    gathered(table, false)
}

/// Means by category, too.
pub(super) fn samples_by_category(table: &Table) -> Vec<Sample> {
    gathered(table, true)
}

/// Means in the order of first appearance; rows without α (ablations) are left out.
fn gathered(table: &Table, by_category: bool) -> Vec<Sample> {
    let columns = ["model", "site", "set", "direction", "category"].map(|name| table.labels(name));
    let (layers, alphas) = (table.number_at("layer"), table.number_at("alpha"));
    // Of a published table of groups each row is a mean already.
    let [score, refused] = match table.has("score") {
        true => ["score", "refused"],
        false => ["mean", "refusal_rate"],
    };
    let (seeds, scores) = (table.number_at("seed"), table.number_at(score));
    let refused = table.number_at(refused);
    let (mut places, mut names) = (HashSet::new(), HashSet::new());
    let mut index: HashMap<([u32; 5], i64, Option<i64>, u64), usize> = HashMap::new();
    let mut sums: Vec<(Sample, f64)> = Vec::new();
    for row in 0..table.height() {
        let (Some(alpha), Some(layer), Some(score)) = (alphas(row), layers(row), scores(row))
        else {
            continue;
        };
        let (layer, seed) = (layer as i64, seeds(row).map(|seed| seed as i64));
        let mut codes = [0, 1, 2, 3, 4].map(|column: usize| columns[column].code(row));
        if !by_category {
            codes[4] = 0;
        }
        let at = *index
            .entry((codes, layer, seed, alpha.to_bits()))
            .or_insert_with(|| {
                let name = |column: usize| columns[column].name(row);
                let place = Place {
                    model: name(0).to_string(),
                    layer,
                    site: name(1).to_string(),
                    set: name(2).to_string(),
                };
                let category = if by_category { name(4) } else { "" };
                let sample = Sample {
                    place: shared(&mut places, Arc::new(place)),
                    category: shared(&mut names, Arc::from(category)),
                    direction: shared(&mut names, Arc::from(name(3))),
                    seed,
                    alpha,
                    mean: 0.0,
                    rate: 0.0,
                };
                sums.push((sample, 0.0));
                sums.len() - 1
            });
        let (sample, count) = &mut sums[at];
        sample.mean += score;
        sample.rate += refused(row).unwrap_or_default();
        *count += 1.0;
    }
    for (sample, count) in &mut sums {
        sample.mean /= *count;
        sample.rate /= *count;
    }
    sums.into_iter().map(|(sample, _)| sample).collect()
}

/// The one of the known that is equal, or else this, which is known from now on.
fn shared<T: Eq + Hash + ?Sized>(known: &mut HashSet<Arc<T>>, value: Arc<T>) -> Arc<T> {
    match known.get(&value) {
        Some(equal) => Arc::clone(equal),
        None => {
            known.insert(Arc::clone(&value));
            value
        }
    }
}

/// What random directions do: for every place and α, a value of every seed.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline {
    samples: Vec<Sample>,
}

/// The range of random directions at one α.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(crate) alpha: f64,
    pub(crate) low: f64,
    pub(crate) mean: f64,
    pub(crate) high: f64,
}

impl Baseline {
    /// Of all the run's random stages.
    pub(super) fn of(run: &FinishedRun, by_category: bool) -> Self {
        let tables = run
            .with(Product::RandomSweep)
            .filter_map(|stage| stage.table(""));
        Baseline {
            samples: tables
                .flat_map(|table| gathered(table, by_category))
                .collect(),
        }
    }

    /// The samples at places and of prompts that are asked for.
    pub(super) fn samples<'a>(
        &'a self,
        wanted: impl Fn(&Sample) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Sample> {
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
        wanted: impl Fn(&Sample) -> bool,
        value: impl Fn(&Sample) -> f64,
    ) -> Vec<Spread> {
        let wanted = self.samples.iter().filter(|sample| wanted(sample));
        spread(wanted.map(|sample| (sample.alpha, value(sample))))
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
