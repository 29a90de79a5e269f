//! Sweeps: score and refusal rate against α, each layer with the random directions behind it; layers overlaid; rates by category.

use crate::report::{Axis, BASELINE, Figure, FinishedStage, Mark, Panel, Shape, colour};
use crate::stages::Product;

use super::swept::{Baseline, Level, Point, Sample, Spread, distinct, points, samples, spread};
use super::{ALPHA, Context, RATE, SCORE, of_model, suffix, sweep_gap};

/// A quantity that is drawn against α.
#[derive(Clone, Copy)]
pub(super) struct Quantity {
    key: &'static str,
    title: &'static str,
    axis: fn(&str) -> Axis,
    label: &'static str,
    of_point: fn(&Point<'_>) -> Level,
    of_sample: fn(&Sample<'_>) -> f64,
}

const MEAN: Quantity = Quantity {
    key: "score",
    title: "Mean score against α",
    axis: |label| Axis::of(label),
    label: SCORE,
    of_point: |point| point.mean,
    of_sample: |sample| sample.mean,
};
const REFUSALS: Quantity = Quantity {
    key: "refusals",
    title: "Refusal rate against α",
    axis: |label| Axis::rate(label),
    label: RATE,
    of_point: |point| point.rate,
    of_sample: |sample| sample.rate,
};

/// The figures of one sweep, model by model.
pub(in crate::report) fn figures(context: &Context<'_>, stage: &FinishedStage) -> Vec<Figure> {
    let points = points(context.run, stage);
    let models = distinct(points.iter().map(|point| point.place.model.to_string()));
    let mut figures = Vec::new();
    for model in &models {
        let of_model = points.iter().filter(|point| point.place.model == model);
        let sweep = Sweep {
            context,
            stage,
            model,
            models: &models,
            points: of_model.collect(),
        };
        figures.extend([sweep.by_layer(MEAN), sweep.by_layer(REFUSALS)]);
        if !stage.is(Product::RandomSweep) {
            figures.extend(sweep_gap::figures(&sweep));
            figures.extend(sweep.overlay(MEAN));
            figures.extend(sweep.overlay(REFUSALS));
            figures.extend(sweep.by_category());
        }
    }
    figures
}

/// A model's part of a sweep.
pub(super) struct Sweep<'a> {
    pub(crate) context: &'a Context<'a>,
    pub(crate) stage: &'a FinishedStage,
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

    pub(super) fn name(&self, figure: &str) -> String {
        format!(
            "{}.{figure}{}",
            self.stage.name,
            suffix(self.models, self.model)
        )
    }

    pub(super) fn titled(&self, title: &str) -> String {
        format!("{title}{}", of_model(self.models, self.model))
    }

    /// What to say of the grey band.
    pub(super) fn baseline_note(&self) -> String {
        match self.context.baseline.count() {
            0 => "The run has no random directions to compare with.".to_string(),
            1 => "Grey: one random direction of the same length, which alone has no range (broken line).".to_string(),
            n => format!(
                "Grey: the range of {n} random directions of the same length, and their mean (broken line)."
            ),
        }
    }

    /// What random directions do here, at a layer (or at all that this sweep has), on a set's split.
    pub(super) fn spread(
        &self,
        layer: Option<i64>,
        set: &str,
        value: impl Fn(&Sample<'_>) -> f64,
    ) -> Vec<Spread> {
        let split = self.context.splits.split_of(set);
        let layers = self.layers();
        let here = |sample: &Sample<'_>| {
            sample.place.model == self.model
                && sample.place.set == split
                && layer.map_or(layers.contains(&sample.place.layer), |l| {
                    sample.place.layer == l
                })
        };
        self.context.baseline.spread(here, value)
    }

    /// A panel per layer and set, one direction a line.
    fn by_layer(&self, quantity: Quantity) -> Figure {
        let sets = self.sets();
        let mut panels = Vec::new();
        for layer in self.layers() {
            for set in &sets {
                panels.push(self.panel_of_layer(layer, set, quantity));
            }
        }
        let bands = match self.stage.is(Product::RandomSweep) {
            true => String::new(),
            false => {
                "Coloured bands: 95 % intervals over prompts (none of a single one). ".to_string()
            }
        };
        Figure {
            name: self.name(quantity.key),
            stage: self.stage.name.clone(),
            title: self.titled(quantity.title),
            note: bands + &self.baseline_note(),
            panels,
            columns: sets.len().min(3),
        }
    }

    fn panel_of_layer(&self, layer: i64, set: &str, quantity: Quantity) -> Panel {
        let spread = self.spread(Some(layer), set, quantity.of_sample);
        let mut marks = baseline_marks(&self.context.baseline, &spread);
        let points = self.points.iter().copied();
        let here = points.filter(|p| p.place.layer == layer && p.place.set == set);
        let here: Vec<&Point<'_>> = here.collect();
        if !self.stage.is(Product::RandomSweep) {
            for (index, place) in distinct(here.iter().map(|p| p.place)).iter().enumerate() {
                let of_direction = here.iter().filter(|p| p.place == *place);
                let levels = of_direction.map(|p| (p.alpha, (quantity.of_point)(p)));
                let name = format!("{} ({})", self.stage.name, place.direction);
                marks.extend(level_marks(&name, colour(index), levels));
            }
        }
        Panel {
            title: format!("layer {layer}, {set}"),
            x: Axis::of(ALPHA),
            y: (quantity.axis)(quantity.label),
            marks,
            colours: None,
        }
    }

    /// A panel per set, one layer a line.
    fn overlay(&self, quantity: Quantity) -> Option<Figure> {
        let layers = self.layers();
        if layers.len() < 2 {
            return None;
        }
        let panel = |set: &&str| {
            let spread = self.spread(None, set, quantity.of_sample);
            let mut marks = baseline_marks(&self.context.baseline, &spread);
            for (index, layer) in layers.iter().enumerate() {
                let here = |p: &&&Point<'_>| p.place.layer == *layer && p.place.set == *set;
                let levels = self.points.iter().filter(here);
                let levels = levels.map(|p| (p.alpha, (quantity.of_point)(p).value));
                marks.push(Mark::new(
                    format!("layer {layer}"),
                    colour(index),
                    Shape::Line,
                    levels,
                ));
            }
            Panel {
                title: (*set).to_string(),
                x: Axis::of(ALPHA),
                y: (quantity.axis)(quantity.label),
                marks,
                colours: None,
            }
        };
        let sets = self.sets();
        Some(Figure {
            name: self.name(&format!("layers_{}", quantity.key)),
            stage: self.stage.name.clone(),
            title: self.titled(&format!("{}, layers overlaid", quantity.title)),
            note: format!(
                "{} The range is over all these layers.",
                self.baseline_note()
            ),
            panels: sets.iter().map(panel).collect(),
            columns: sets.len().min(3),
        })
    }

    /// A small panel per category, one layer a line.
    fn by_category(&self) -> Option<Figure> {
        let mut mine = samples(self.stage, true);
        mine.retain(|sample| {
            sample.place.model == self.model && !sample.place.set.ends_with("_train")
        });
        let keys = distinct(
            mine.iter()
                .map(|sample| (sample.place.set, sample.category)),
        );
        if keys.len() < 2 {
            return None;
        }
        let random = Baseline::of(self.context.run, true);
        let is_in_two = |category: &str| keys.iter().filter(|(_, c)| *c == category).count() > 1;
        let title = |set: &str, category: &str| match is_in_two(category) {
            true => format!("{category}, {set}"),
            false => category.to_string(),
        };
        let panels = keys.iter().map(|&(set, category)| {
            let here = |s: &&Sample<'_>| s.place.set == set && s.category == category;
            let of_panel: Vec<&Sample<'_>> = mine.iter().filter(here).collect();
            self.category_panel(title(set, category), (set, category), &of_panel, &random)
        });
        Some(Figure {
            name: self.name("categories"),
            stage: self.stage.name.clone(),
            title: self.titled("Refusal rate against α by category"),
            note: format!(
                "{} The range is over all these layers; a category has few prompts, so single steps are coarse.",
                self.baseline_note()
            ),
            panels: panels.collect(),
            columns: 4,
        })
    }

    fn category_panel(
        &self,
        title: String,
        (set, category): (&str, &str),
        samples: &[&Sample<'_>],
        random: &Baseline<'_>,
    ) -> Panel {
        let split = self.context.splits.split_of(set);
        let here = |sample: &Sample<'_>| {
            sample.place.model == self.model
                && sample.place.set == split
                && sample.category == category
        };
        let mut marks = baseline_marks(random, &random.spread(here, |sample| sample.rate));
        let layers = distinct(samples.iter().map(|sample| sample.place.layer));
        for (index, layer) in layers.into_iter().enumerate() {
            let of_layer = samples.iter().filter(|sample| sample.place.layer == layer);
            let rates = spread(of_layer.map(|sample| (sample.alpha, sample.rate)));
            marks.push(Mark::new(
                format!("layer {layer}"),
                colour(index),
                Shape::Line,
                rates.iter().map(|s| (s.alpha, s.mean)),
            ));
        }
        Panel {
            title,
            x: Axis::of("α"),
            y: Axis::rate(RATE),
            marks,
            colours: None,
        }
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

/// A line with its interval's band, where there is one.
pub(super) fn level_marks(
    name: &str,
    colour: &str,
    levels: impl IntoIterator<Item = (f64, Level)>,
) -> Vec<Mark> {
    let mut levels: Vec<(f64, Level)> = levels.into_iter().collect();
    levels.sort_by(|a, b| a.0.total_cmp(&b.0));
    let edges: Option<Vec<(f64, f64, f64)>> = levels
        .iter()
        .map(|(alpha, level)| Some((*alpha, level.low?, level.high?)))
        .collect();
    let line = Mark::new(
        name,
        colour,
        Shape::Line,
        levels.iter().map(|(alpha, level)| (*alpha, level.value)),
    );
    let band = edges.map(|edges| Mark::band(name, colour, edges));
    band.into_iter().chain([line]).collect()
}
