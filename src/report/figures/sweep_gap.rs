//! Selectivity: the gap between harmful and edge refusal rates against α, and the one against the other.

use std::collections::HashMap;

use crate::report::{Axis, BASELINE, Figure, Mark, Panel, Shape, colour};
use crate::stages::rules::{REFUSED, by_rule, rate_in_words};
use crate::stages::{Product, Splits};
use crate::stats;

use super::alpha_of;
use super::sweep::{Sweep, baseline_marks, level_marks};
use super::swept::{Level, Place, Point, spread};

/// Rates of the two splits at one α.
#[derive(Clone, Copy, Debug)]
struct Pair {
    alpha: f64,
    edge: Level,
    harmful: Level,
}

impl Pair {
    /// Edge rate across, harmful rate upwards.
    fn point(&self) -> (f64, f64) {
        (self.edge.value, self.harmful.value)
    }

    /// Harmful minus edge, with Newcombe's interval for a difference of two rates.
    fn gap(&self) -> Level {
        let interval = |level: &Level| {
            Some(stats::Interval {
                low: level.low?,
                high: level.high?,
            })
        };
        let intervals = interval(&self.harmful).zip(interval(&self.edge));
        let ends =
            intervals.map(|(h, e)| stats::newcombe((self.harmful.value, h), (self.edge.value, e)));
        Level {
            value: self.harmful.value - self.edge.value,
            low: ends.map(|ends| ends.low),
            high: ends.map(|ends| ends.high),
        }
    }
}

/// What is drawn at a layer.
struct AtLayer {
    layer: i64,
    /// By α.
    learned: Vec<Pair>,
    /// Of every random direction at every α.
    random: Vec<Pair>,
}

/// Gap and Pareto figures; none where the sweep has not both splits.
pub(super) fn figures(sweep: &Sweep<'_>) -> Vec<Figure> {
    let splits = &sweep.context.splits;
    // Of a holdout sweep the half that was held out, where the split was divided.
    let [edge, harmful] = [&splits.edge, &splits.harmful].map(|split| {
        let held_out = Splits::held_out(split);
        let mut points = sweep.points.iter();
        let is_divided = points.any(|point| point.place.set == held_out);
        match sweep.stage.is(Product::HeldOutSweep) && is_divided {
            true => held_out,
            false => split.clone(),
        }
    });
    let at_layer = |layer: i64| {
        let here =
            |point: &&Point<'_>| (point.place.model, point.place.layer) == (sweep.model, layer);
        let learned: Vec<_> = sweep.points.iter().copied().filter(here).collect();
        let random: Vec<_> = sweep.baseline.samples.iter().filter(here).collect();
        AtLayer {
            layer,
            learned: pairs(&learned, &edge, &harmful),
            random: pairs(&random, &splits.edge, &splits.harmful),
        }
    };
    let layers: Vec<AtLayer> = sweep.layers().into_iter().map(at_layer).collect();
    if layers.iter().all(|at| at.learned.is_empty()) {
        return Vec::new();
    }
    vec![gap(sweep, &layers), pareto(sweep, &layers)]
}

/// The rates of each direction on two sets, by α.
fn pairs<'a>(points: &[&'a Point<'a>], edge: &str, harmful: &'a str) -> Vec<Pair> {
    let key = |point: &Point<'a>| {
        let place = Place {
            set: harmful,
            ..point.place
        };
        (place, point.seed, point.alpha.to_bits())
    };
    // Of equal ones the first counts.
    let of_harmful = points
        .iter()
        .rev()
        .filter(|point| point.place.set == harmful);
    let rates: HashMap<_, Level> = of_harmful.map(|point| (key(point), point.rate)).collect();
    let of_edge = points.iter().filter(|point| point.place.set == edge);
    let pair = |edge: &&Point<'a>| {
        Some(Pair {
            alpha: edge.alpha,
            edge: edge.rate,
            harmful: *rates.get(&key(edge))?,
        })
    };
    let mut pairs: Vec<Pair> = of_edge.filter_map(pair).collect();
    pairs.sort_by(|a, b| a.alpha.total_cmp(&b.alpha));
    pairs
}

fn gap(sweep: &Sweep<'_>, layers: &[AtLayer]) -> Figure {
    let rate = rate_in_words(sweep.frame.rule);
    let panel = |at: &AtLayer| {
        let random = at.random.iter();
        let gaps = spread(random.map(|pair| (pair.alpha, pair.harmful.value - pair.edge.value)));
        let mut marks = baseline_marks(sweep.baseline, &gaps);
        let learned = at.learned.iter().map(|pair| (pair.alpha, pair.gap()));
        marks.extend(level_marks(&sweep.stage.name, colour(0), learned));
        let y = Axis::of(format!("gap (harmful − edge {rate})"));
        let alpha = Axis::of(alpha_of(sweep.frame.setting()));
        Panel::new(format!("layer {}", at.layer), alpha, y, marks)
    };
    Figure {
        note: format!(
            "Coloured band: 95 % interval of the difference of two rates (Newcombe's). {}",
            sweep.baseline_note()
        ),
        panels: layers.iter().map(panel).collect(),
        columns: layers.len().min(3),
        ..sweep.figure(
            "gap",
            &format!(
                "Selectivity: the gap against α{}",
                by_rule(sweep.frame.rule)
            ),
        )
    }
}

fn pareto(sweep: &Sweep<'_>, layers: &[AtLayer]) -> Figure {
    let rate = rate_in_words(sweep.frame.rule);
    let title = match sweep.frame.rule {
        REFUSED => "Pareto front: few edge refusals, many harmful ones".to_string(),
        _ => format!("Pareto front: low edge {rate}, high harmful one"),
    };
    let panel = |at: &AtLayer| {
        let points: Vec<(f64, f64)> = at.learned.iter().map(Pair::point).collect();
        let labels = at.learned.iter().map(|pair| pair.alpha.to_string());
        let front = stats::pareto_front(&points).unwrap_or_default();
        let front: Vec<(f64, f64)> = front.into_iter().map(|index| points[index]).collect();
        let equal = [(0.0, 0.0), (1.0, 1.0)];
        let mut marks = random_region(&at.random);
        marks.extend([
            Mark::new("equal rates", "#666666", Shape::Dashed, equal),
            Mark::new(&sweep.stage.name, colour(0), Shape::Points, points)
                .labelled(labels.collect()),
            Mark::new("Pareto front", colour(1), Shape::Line, front),
        ]);
        Panel::new(
            format!("layer {}", at.layer),
            Axis::rate(format!("edge {rate}")),
            Axis::rate(format!("harmful {rate}")),
            marks,
        )
    };
    Figure {
        note: "A point is an α (written beside it where there is room); up and to the left is better. Grey: the convex hull of all random directions at all α.".to_string(),
        panels: layers.iter().map(panel).collect(),
        columns: layers.len().min(2),
        ..sweep.figure("pareto", &title)
    }
}

/// The smallest convex area that holds every random direction at every α.
fn random_region(random: &[Pair]) -> Vec<Mark> {
    let mut points: Vec<(f64, f64)> = random.iter().map(Pair::point).collect();
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
        let pair = |(edge, harmful)| Pair {
            alpha: 0.0,
            edge: Level::of(edge),
            harmful: Level::of(harmful),
        };
        let random = points.map(pair);
        let region = &random_region(&random)[0];
        assert_eq!(region.x, [0.0, 0.5, 1.0]);
        assert_eq!(region.low, [0.0, 0.0, 0.0], "the inner point is no corner");
        assert_eq!(region.high, [1.0, 1.5, 1.0]);
    }
}
