//! Selectivity: the gap between harmful and edge refusal rates against α, and the one against the other.

use crate::report::{Axis, BASELINE, Figure, Mark, Panel, Shape, colour};
use crate::stages::Product;
use crate::stats;

use super::ALPHA;
use super::sweep::{Sweep, baseline_marks, level_marks};
use super::swept::{Level, Place, Point, Sample, spread};

/// Rates of the two splits at one α.
#[derive(Clone, Copy, Debug)]
struct Pair {
    alpha: f64,
    edge: Level,
    harmful: Level,
}

impl Pair {
    /// Harmful minus edge, with Newcombe's interval for a difference of two rates.
    fn gap(&self) -> Level {
        let interval = |level: &Level| {
            Some(stats::Interval {
                low: level.low?,
                high: level.high?,
            })
        };
        let ends = interval(&self.harmful)
            .zip(interval(&self.edge))
            .map(|(h, e)| stats::newcombe((self.harmful.value, h), (self.edge.value, e)));
        Level {
            value: self.harmful.value - self.edge.value,
            low: ends.map(|ends| ends.low),
            high: ends.map(|ends| ends.high),
        }
    }
}

/// Gap and Pareto figures; none where the sweep has not both splits.
pub(super) fn figures(sweep: &Sweep<'_>) -> Vec<Figure> {
    let layers = sweep.layers();
    let pairs: Vec<(i64, Vec<Pair>)> = layers
        .into_iter()
        .map(|layer| (layer, pairs(sweep, layer)))
        .collect();
    if pairs.iter().all(|(_, pairs)| pairs.is_empty()) {
        return Vec::new();
    }
    vec![gap(sweep, &pairs), pareto(sweep, &pairs)]
}

/// The sets that are compared: of a holdout sweep the half that was held out.
fn is_edge(sweep: &Sweep<'_>, set: &str) -> bool {
    let edge = &sweep.context.splits.edge;
    match sweep.stage.is(Product::HeldOutSweep) {
        true => set.strip_prefix(edge) == Some("_holdout"),
        false => set == edge,
    }
}

fn pairs(sweep: &Sweep<'_>, layer: i64) -> Vec<Pair> {
    let of_layer = || sweep.points.iter().filter(move |p| p.place.layer == layer);
    let edge = of_layer().filter(|p| is_edge(sweep, p.place.set));
    let pair = |edge: &&Point<'_>| {
        let place = Place {
            set: &sweep.context.splits.harmful,
            ..edge.place
        };
        let harmful = of_layer().find(|p| p.place == place && p.alpha == edge.alpha)?;
        Some(Pair {
            alpha: edge.alpha,
            edge: edge.rate,
            harmful: harmful.rate,
        })
    };
    let mut pairs: Vec<Pair> = edge.filter_map(pair).collect();
    pairs.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
    pairs
}

/// (seed, α, edge rate, harmful rate) of every random direction at a layer.
fn random(sweep: &Sweep<'_>, layer: i64) -> Vec<(Option<i64>, f64, f64, f64)> {
    let splits = &sweep.context.splits;
    let here = |set: &str| {
        let samples = sweep.context.baseline.samples(|sample| {
            (sample.place.model, sample.place.layer, sample.place.set) == (sweep.model, layer, set)
        });
        samples.collect::<Vec<_>>()
    };
    let (edge, harmful) = (here(&splits.edge), here(&splits.harmful));
    let pair = |edge: &&Sample<'_>| {
        let same = |h: &&&Sample<'_>| h.seed == edge.seed && h.alpha == edge.alpha;
        let harmful = harmful.iter().find(same)?;
        Some((edge.seed, edge.alpha, edge.rate, harmful.rate))
    };
    edge.iter().filter_map(pair).collect()
}

fn gap(sweep: &Sweep<'_>, pairs: &[(i64, Vec<Pair>)]) -> Figure {
    let panel = |(layer, pairs): &(i64, Vec<Pair>)| {
        let gaps = random(sweep, *layer)
            .into_iter()
            .map(|(_, alpha, edge, harmful)| (alpha, harmful - edge));
        let mut marks = baseline_marks(&sweep.context.baseline, &spread(gaps));
        let learned = pairs.iter().map(|pair| (pair.alpha, pair.gap()));
        marks.extend(level_marks(&sweep.stage.name, colour(0), learned));
        Panel {
            title: format!("layer {layer}"),
            x: Axis::of(ALPHA),
            y: Axis::of("gap (harmful − edge refusal rate)"),
            marks,
            colours: None,
        }
    };
    Figure {
        name: sweep.name("gap"),
        stage: sweep.stage.name.clone(),
        title: sweep.titled("Selectivity: the gap against α"),
        note: format!(
            "Coloured band: 95 % interval of the difference of two rates (Newcombe's). {}",
            sweep.baseline_note()
        ),
        panels: pairs.iter().map(panel).collect(),
        columns: pairs.len().min(3),
    }
}

fn pareto(sweep: &Sweep<'_>, pairs: &[(i64, Vec<Pair>)]) -> Figure {
    let panel = |(layer, pairs): &(i64, Vec<Pair>)| {
        let mut marks = random_region(&random(sweep, *layer));
        let points: Vec<(f64, f64)> = pairs
            .iter()
            .map(|pair| (pair.edge.value, pair.harmful.value))
            .collect();
        let labels = pairs.iter().map(|pair| format!("{}", pair.alpha)).collect();
        marks.push(Mark::new(
            "equal rates",
            "#666666",
            Shape::Dashed,
            [(0.0, 0.0), (1.0, 1.0)],
        ));
        marks.push(
            Mark::new(&sweep.stage.name, colour(0), Shape::Points, points.clone()).labelled(labels),
        );
        let front = stats::pareto_front(&points).unwrap_or_default();
        let front = front
            .into_iter()
            .filter_map(|index| points.get(index).copied());
        marks.push(Mark::new("Pareto front", colour(1), Shape::Line, front));
        Panel {
            title: format!("layer {layer}"),
            x: Axis::rate("edge refusal rate"),
            y: Axis::rate("harmful refusal rate"),
            marks,
            colours: None,
        }
    };
    Figure {
        name: sweep.name("pareto"),
        stage: sweep.stage.name.clone(),
        title: sweep.titled("Pareto front: few edge refusals, many harmful ones"),
        note: "A point is an α (written beside it where there is room); up and to the left is better. Grey: the convex hull of all random directions at all α.".to_string(),
        panels: pairs.iter().map(panel).collect(),
        columns: pairs.len().min(2),
    }
}

/// The smallest convex area that holds every random direction at every α.
fn random_region(random: &[(Option<i64>, f64, f64, f64)]) -> Vec<Mark> {
    let mut points: Vec<(f64, f64)> = random.iter().map(|r| (r.2, r.3)).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    points.dedup();
    let lower = chain(points.iter().copied());
    let mut upper = chain(points.iter().rev().copied());
    upper.reverse();
    if lower.len() < 2 || upper.len() < 2 {
        return Vec::new();
    }
    let mut corners: Vec<f64> = lower.iter().chain(&upper).map(|point| point.0).collect();
    corners.sort_by(f64::total_cmp);
    corners.dedup();
    let edges = corners
        .into_iter()
        .map(|x| (x, height_at(&lower, x), height_at(&upper, x)));
    vec![Mark::band("random directions", BASELINE, edges)]
}

/// One side of the convex hull of points in order (Andrew's monotone chain).
fn chain(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut chain: Vec<(f64, f64)> = Vec::new();
    for point in points {
        while let [.., a, b] = chain.as_slice() {
            let turn = (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0);
            if turn > 0.0 {
                break;
            }
            chain.pop();
        }
        chain.push(point);
    }
    chain
}

/// The height of a line of points, left to right, at a place between its ends.
fn height_at(line: &[(f64, f64)], x: f64) -> f64 {
    for pair in line.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        if x <= b.0 && b.0 > a.0 {
            return a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0);
        }
    }
    line.last().map_or(0.0, |point| point.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_is_the_hull_of_its_points() {
        let points = [
            (0.0, 0.0),
            (1.0, 0.0),
            (0.5, 0.2),
            (0.0, 1.0),
            (1.0, 1.0),
            (0.5, 1.5),
        ];
        let random: Vec<_> = points.iter().map(|(x, y)| (None, 0.0, *x, *y)).collect();
        let region = &random_region(&random)[0];
        assert_eq!(region.x, [0.0, 0.5, 1.0]);
        assert_eq!(region.low, [0.0, 0.0, 0.0], "the inner point is no corner");
        assert_eq!(region.high, [1.0, 1.5, 1.0]);
    }
}
