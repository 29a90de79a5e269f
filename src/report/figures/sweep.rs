//! Sweeps: score and rate against α by each score rule, each layer with the random directions behind it; layers overlaid; rates by category.

use crate::report::{Axis, BASELINE, Figure, FinishedStage, Mark, Panel, Shape, colour};
use crate::stages::Product;
use crate::stages::rules::{by_rule, rate_in_words, score_in_words};
use crate::stages::sweep::SweepFrame;

use super::swept::{Baseline, Level, Point, Spread, distinct, grouped, points, samples, spread};
use super::{Context, alpha_of, of_model, sweep_gap};

/// A quantity that is drawn against α.
struct Quantity {
    key: &'static str,
    title: String,
    axis: Axis,
    of: fn(&Point<'_>) -> Level,
}

impl Quantity {
    fn mean(rule: &str) -> Self {
        Quantity {
            key: "score",
            title: format!("Mean score against α{}", by_rule(rule)),
            axis: Axis::of(format!("mean {}", score_in_words(rule))),
            of: |point| point.mean,
        }
    }

    fn rate(rule: &str) -> Self {
        Quantity {
            key: "refusals",
            title: format!("{} against α", at_the_start(&rate_in_words(rule))),
            axis: Axis::rate(rate_in_words(rule)),
            of: |point| point.rate,
        }
    }
}

/// Words as a sentence begins.
fn at_the_start(words: &str) -> String {
    let mut rest = words.chars();
    let first = rest.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + rest.as_str()
}

/// The figures of one sweep, rule by rule.
pub(in crate::report) fn figures(context: &Context<'_>, stage: &FinishedStage) -> Vec<Figure> {
    let sweeps = stage.sweeps().enumerate();
    let figures = sweeps.flat_map(|(at, sweep)| figures_by_rule(context, stage, &sweep, at > 0));
    figures.collect()
}

/// The figures by one score rule, model by model. Those of a further rule are called after it, too.
fn figures_by_rule(
    context: &Context<'_>,
    stage: &FinishedStage,
    frame: &SweepFrame<'_>,
    is_further: bool,
) -> Vec<Figure> {
    let none = Baseline::default();
    let mut baselines = context.baselines.iter();
    let compared = (frame.rule, frame.setting());
    let baseline = baselines.find(|(known, _)| *known == compared);
    let baseline = baseline.map_or(&none, |(_, baseline)| baseline);
    let points = points(context.run, stage, frame);
    let (mean, rate) = (Quantity::mean(frame.rule), Quantity::rate(frame.rule));
    let models = distinct(points.iter().map(|point| point.place.model.to_string()));
    let mut figures = Vec::new();
    for model in &models {
        let of_model = points.iter().filter(|point| point.place.model == model);
        let sweep = Sweep {
            context,
            stage,
            frame,
            baseline,
            suffix: match is_further {
                true => format!(".{}", frame.rule),
                false => String::new(),
            },
            model,
            models: &models,
            points: of_model.collect(),
        };
        figures.extend([sweep.by_layer(&mean), sweep.by_layer(&rate)]);
        if !stage.is(Product::RandomSweep) {
            figures.extend(sweep_gap::figures(&sweep));
            figures.extend(sweep.overlay(&mean));
            figures.extend(sweep.overlay(&rate));
            figures.extend(sweep.by_category());
        }
    }
    figures
}

/// A model's part of a sweep, by one score rule.
pub(super) struct Sweep<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) stage: &'a FinishedStage,
    pub(crate) frame: &'a SweepFrame<'a>,
    /// What random directions do, by the same rule.
    pub(crate) baseline: &'a Baseline<'a>,
    /// What names of figures have behind them.
    suffix: String,
    pub(crate) model: &'a str,
    pub(crate) models: &'a [String],
    pub(crate) points: Vec<&'a Point<'a>>,
}

impl Sweep<'_> {
    pub(super) fn layers(&self) -> Vec<i64> {
        distinct(self.points.iter().map(|point| point.place.layer))
    }

    fn sets(&self) -> Vec<&str> {
        distinct(self.points.iter().map(|point| point.place.set))
    }

    /// A figure without panels yet.
    pub(super) fn figure(&self, kind: &str, title: &str) -> Figure {
        let kind = format!("{kind}{}", self.suffix);
        of_model(&self.stage.name, self.models, self.model, &kind, title)
    }

    /// Where it edits, if not at the last token.
    fn place_note(&self) -> String {
        let told = self.frame.told_position();
        told.map_or(String::new(), |told| told + " ")
    }

    /// What to say of the grey band.
    pub(super) fn baseline_note(&self) -> String {
        match self.baseline.count() {
            0 => "The run has no random directions to compare with.".to_string(),
            1 => "Grey: one random direction of the same length, which alone has no range (broken line).".to_string(),
            n => format!(
                "Grey: the range of {n} random directions of the same length, and their mean (broken line)."
            ),
        }
    }

    /// What random directions do here on a set's split, at a layer or at all that this sweep has.
    fn random(&self, layer: Option<i64>, set: &str, quantity: &Quantity) -> Vec<Mark> {
        let baseline = self.baseline;
        let split = self.context.splits.split_of(set);
        let layers = layer.map_or_else(|| self.layers(), |layer| vec![layer]);
        let here = |sample: &Point<'_>| {
            let place = sample.place;
            place.model == self.model && place.set == split && layers.contains(&place.layer)
        };
        baseline_marks(baseline, &baseline.spread(here, quantity.of))
    }

    /// A panel per layer and set, one direction a line.
    fn by_layer(&self, quantity: &Quantity) -> Figure {
        let sets = self.sets();
        let layers = self.layers().into_iter();
        let places = layers.flat_map(|layer| sets.iter().map(move |set| (layer, *set)));
        let bands = match self.stage.is(Product::RandomSweep) {
            true => "",
            false => "Coloured bands: 95 % intervals over prompts (none of a single one). ",
        };
        Figure {
            note: format!("{}{bands}{}", self.place_note(), self.baseline_note()),
            panels: places
                .map(|(layer, set)| self.panel_of_layer(layer, set, quantity))
                .collect(),
            columns: sets.len().min(3),
            ..self.figure(quantity.key, &quantity.title)
        }
    }

    fn panel_of_layer(&self, layer: i64, set: &str, quantity: &Quantity) -> Panel {
        let mut marks = self.random(Some(layer), set, quantity);
        let is_random = self.stage.is(Product::RandomSweep);
        let points = self.points.iter().filter(|_| !is_random);
        let here = points.filter(|p| p.place.layer == layer && p.place.set == set);
        for (index, (place, points)) in grouped(here, |p| p.place).into_iter().enumerate() {
            let levels = points.iter().map(|p| (p.alpha, (quantity.of)(p)));
            let name = format!("{} ({})", self.stage.name, place.direction);
            marks.extend(level_marks(&name, colour(index), levels));
        }
        let title = format!("layer {layer}, {set}");
        let alpha = Axis::of(alpha_of(self.frame.setting()));
        Panel::new(title, alpha, quantity.axis.clone(), marks)
    }

    /// A panel per set, one layer a line.
    fn overlay(&self, quantity: &Quantity) -> Option<Figure> {
        let layers = self.layers();
        if layers.len() < 2 {
            return None;
        }
        let panel = |set: &&str| {
            let mut marks = self.random(None, set, quantity);
            for (index, layer) in layers.iter().enumerate() {
                let here = |p: &&&Point<'_>| p.place.layer == *layer && p.place.set == *set;
                let points = self.points.iter().filter(here);
                let points = points.map(|p| (p.alpha, (quantity.of)(p).value));
                let name = format!("layer {layer}");
                marks.push(Mark::new(name, colour(index), Shape::Line, points));
            }
            let alpha = Axis::of(alpha_of(self.frame.setting()));
            Panel::new(*set, alpha, quantity.axis.clone(), marks)
        };
        let sets = self.sets();
        Some(Figure {
            note: format!(
                "{} The range is over all these layers.",
                self.baseline_note()
            ),
            panels: sets.iter().map(panel).collect(),
            columns: sets.len().min(3),
            ..self.figure(
                &format!("layers_{}", quantity.key),
                &format!("{}, layers overlaid", quantity.title),
            )
        })
    }

    /// A small panel per category, one layer a line.
    fn by_category(&self) -> Option<Figure> {
        let mut mine = samples(self.frame, true);
        mine.retain(|sample| {
            sample.place.model == self.model && !sample.place.set.ends_with("_train")
        });
        let groups = grouped(&mine, |sample| (sample.place.set, sample.category));
        if groups.len() < 2 {
            return None;
        }
        let random = Baseline::beside(self.context.run, self.frame, true);
        let rate = rate_in_words(self.frame.rule);
        let panel = |((set, category), samples): &((&str, &str), Vec<&Point<'_>>)| {
            let of_category = groups.iter().filter(|((_, other), _)| other == category);
            let title = match of_category.count() > 1 {
                true => format!("{category}, {set}"),
                false => category.to_string(),
            };
            let split = self.context.splits.split_of(set);
            let here = |sample: &Point<'_>| {
                let at = (sample.place.model, sample.place.set, sample.category);
                at == (self.model, split, *category)
            };
            let mut marks = baseline_marks(&random, &random.spread(here, |sample| sample.rate));
            let by_layer = grouped(samples, |sample| sample.place.layer).into_iter();
            for (index, (layer, samples)) in by_layer.enumerate() {
                let rates = spread(samples.iter().map(|s| (s.alpha, s.rate.value)));
                let rates = rates.iter().map(|s| (s.alpha, s.mean));
                let name = format!("layer {layer}");
                marks.push(Mark::new(name, colour(index), Shape::Line, rates));
            }
            Panel::new(title, Axis::of("α"), Axis::rate(rate.as_str()), marks)
        };
        Some(Figure {
            note: format!(
                "{} The range is over all these layers; a category has few prompts, so single steps are coarse.",
                self.baseline_note()
            ),
            panels: groups.iter().map(panel).collect(),
            columns: 4,
            ..self.figure(
                "categories",
                &format!("{} against α by category", at_the_start(&rate)),
            )
        })
    }
}

/// A grey band from the lowest to the highest, where there are several directions, and the mean.
pub(super) fn baseline_marks(baseline: &Baseline<'_>, spread: &[Spread]) -> Vec<Mark> {
    if spread.is_empty() {
        return Vec::new();
    }
    let edges = spread.iter().map(|s| (s.alpha, s.low, s.high));
    let means = spread.iter().map(|s| (s.alpha, s.mean));
    let band = (baseline.count() > 1).then(|| Mark::band("random directions", BASELINE, edges));
    let mean = Mark::new("random directions", BASELINE, Shape::Dashed, means);
    band.into_iter().chain([mean]).collect()
}

/// A line with its interval's band, where it has intervals.
pub(super) fn level_marks(
    name: &str,
    colour: &str,
    levels: impl IntoIterator<Item = (f64, Level)>,
) -> Vec<Mark> {
    let mut levels: Vec<(f64, Level)> = levels.into_iter().collect();
    levels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let edges = |(alpha, level): &(f64, Level)| Some((*alpha, level.low?, level.high?));
    // A band ends where the next α has no interval.
    let runs = levels.chunk_by(|a, b| edges(a).is_some() == edges(b).is_some());
    let runs = runs.map(|run| run.iter().filter_map(edges).collect::<Vec<_>>());
    let bands = runs.filter(|run| run.len() > 1);
    let bands = bands.map(|run| Mark::band(name, colour, run));
    let points = levels.iter().map(|(alpha, level)| (*alpha, level.value));
    let line = Mark::new(name, colour, Shape::Line, points);
    bands.chain([line]).collect()
}
