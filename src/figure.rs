//! A figure as data: what is drawn, not how. The page and the SVG writer draw the same ones.

use serde::Serialize;

/// Colours that people with any kind of colour vision can tell apart (Okabe and Ito 2008), in the order in which series take them.
pub(crate) const PALETTE: [&str; 7] = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
];
/// The colour of random directions, wherever they are drawn.
pub(crate) const BASELINE: &str = "#8A8A8A";
/// The colours of a scale with a middle (negative, zero, positive), legible in grey as dark, light, dark.
const DIVERGING: [&str; 3] = ["#0072B2", "#F7F7F7", "#D55E00"];
/// The colours of a scale from nothing to much.
const SEQUENTIAL: [&str; 3] = ["#F7FBFF", "#6BAED6", "#08306B"];

/// Panels that belong together, under one legend.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Name of its files, unique in the run.
    pub(crate) name: String,
    /// The stage in whose section it stands.
    pub(crate) stage: String,
    pub(crate) title: String,
    /// How it is to be read: what bands are, what was left out.
    pub(crate) note: String,
    pub(crate) panels: Vec<Panel>,
    /// Panels in a row, where there is room.
    pub(crate) columns: usize,
}

/// One pair of axes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Panel {
    /// What sets it apart from its neighbours; may be empty.
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// Drawn in this order.
    pub(crate) marks: Vec<Mark>,
    /// The colours of cells, where there are any.
    pub(crate) colours: Option<ColourScale>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Axis {
    /// Quantity and unit.
    pub(crate) label: String,
    /// Names of the places 0, 1, 2, …; empty for an axis of numbers.
    pub(crate) categories: Vec<String>,
    /// The lowest number shown, where it is not the data's.
    pub(crate) low: Option<f64>,
    /// The highest number shown, where it is not the data's.
    pub(crate) high: Option<f64>,
}

/// Values that are drawn alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Mark {
    /// What the legend says; marks of one name are one entry.
    pub(crate) name: String,
    /// `#RRGGBB`.
    pub(crate) colour: String,
    pub(crate) shape: Shape,
    /// Horizontal places.
    pub(crate) x: Vec<f64>,
    /// Vertical places; for a band its middle.
    pub(crate) y: Vec<f64>,
    /// Lower edge of a band; empty for none.
    pub(crate) low: Vec<f64>,
    /// Upper edge of a band; empty for none.
    pub(crate) high: Vec<f64>,
    /// What is written beside each point, or the value of each cell is called; empty for none.
    pub(crate) labels: Vec<String>,
    /// The value of each cell; empty for other shapes.
    pub(crate) values: Vec<Option<f64>>,
}

/// How values are drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Points joined by a line.
    #[default]
    Line,
    /// A broken line without points.
    Dashed,
    /// The area between `low` and `high`.
    Band,
    /// Points, their labels beside them.
    Points,
    /// Points, too many to write beside; the page tells their labels.
    Cloud,
    /// Bars from zero to `y`, as wide as the distance of their places.
    Bars,
    /// Coloured cells at whole places.
    Cells,
}

/// How a value becomes a colour.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ColourScale {
    /// Quantity and unit.
    pub(crate) label: String,
    /// The value of the first colour.
    pub(crate) low: f64,
    /// The value of the last colour.
    pub(crate) high: f64,
    /// The colours, evenly spaced.
    pub(crate) colours: Vec<String>,
}

impl Figure {
    /// Without panels yet; `kind` tells it from the stage's others.
    pub(crate) fn of(stage: &str, kind: &str) -> Self {
        Figure {
            name: format!("{stage}.{kind}"),
            stage: stage.to_string(),
            ..Figure::default()
        }
    }

    /// Changes every text that is drawn.
    pub(crate) fn each_text(&mut self, change: &mut dyn FnMut(&mut String)) {
        let Figure { title, note, .. } = self;
        [title, note].into_iter().for_each(&mut *change);
        for panel in &mut self.panels {
            change(&mut panel.title);
            for axis in [&mut panel.x, &mut panel.y] {
                change(&mut axis.label);
                axis.categories.iter_mut().for_each(&mut *change);
            }
            for mark in &mut panel.marks {
                change(&mut mark.name);
                mark.labels.iter_mut().for_each(&mut *change);
            }
            let colours = panel.colours.iter_mut();
            colours.for_each(|colours| change(&mut colours.label));
        }
    }
}

impl Panel {
    /// A panel of numbers along both axes.
    pub(crate) fn new(title: impl Into<String>, x: Axis, y: Axis, marks: Vec<Mark>) -> Self {
        Panel {
            title: title.into(),
            x,
            y,
            marks,
            colours: None,
        }
    }
}

impl Axis {
    /// An axis of numbers.
    pub(crate) fn of(label: impl Into<String>) -> Self {
        Axis {
            label: label.into(),
            ..Axis::default()
        }
    }

    /// An axis of rates, from 0 to 1.
    pub(crate) fn rate(label: impl Into<String>) -> Self {
        Axis {
            low: Some(0.0),
            high: Some(1.0),
            ..Axis::of(label)
        }
    }

    /// An axis of named places.
    pub(crate) fn named(label: impl Into<String>, categories: Vec<String>) -> Self {
        Axis {
            categories,
            ..Axis::of(label)
        }
    }
}

impl Mark {
    pub(crate) fn new(
        name: impl Into<String>,
        colour: &str,
        shape: Shape,
        points: impl IntoIterator<Item = (f64, f64)>,
    ) -> Self {
        let (x, y) = points.into_iter().unzip();
        Mark {
            name: name.into(),
            colour: colour.to_string(),
            shape,
            x,
            y,
            ..Mark::default()
        }
    }

    /// The area between two edges, at places (x, low, high).
    pub(crate) fn band(
        name: impl Into<String>,
        colour: &str,
        edges: impl IntoIterator<Item = (f64, f64, f64)>,
    ) -> Self {
        let mut mark = Mark::new(name, colour, Shape::Band, []);
        for (x, low, high) in edges {
            mark.x.push(x);
            mark.y.push((low + high) / 2.0);
            mark.low.push(low);
            mark.high.push(high);
        }
        mark
    }

    /// Cells at (column, row) with a value, blank where there is none.
    pub(crate) fn cells(
        name: impl Into<String>,
        cells: impl IntoIterator<Item = (usize, usize, Option<f64>)>,
    ) -> Self {
        let mut mark = Mark::new(name, BASELINE, Shape::Cells, []);
        for (x, y, value) in cells {
            mark.x.push(x as f64);
            mark.y.push(y as f64);
            mark.values.push(value);
        }
        mark
    }

    /// The same with something written beside each point.
    pub(crate) fn labelled(mut self, labels: Vec<String>) -> Self {
        self.labels = labels;
        self
    }
}

impl ColourScale {
    fn new(label: impl Into<String>, [low, high]: [f64; 2], colours: [&str; 3]) -> Self {
        ColourScale {
            label: label.into(),
            low,
            high,
            colours: colours.map(str::to_string).to_vec(),
        }
    }

    /// Around zero, as far to either side as the largest value.
    pub(crate) fn diverging<'a>(
        label: impl Into<String>,
        values: impl IntoIterator<Item = &'a Option<f64>>,
    ) -> Self {
        let sizes = values.into_iter().flatten().map(|value| value.abs());
        let most = sizes.fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        Self::new(label, [-most, most], DIVERGING)
    }

    /// Of rates, 0 to 1.
    pub(crate) fn rates(label: impl Into<String>) -> Self {
        Self::new(label, [0.0, 1.0], SEQUENTIAL)
    }
}

/// The colour of the `index`-th series.
pub(crate) fn colour(index: usize) -> &'static str {
    PALETTE[index % PALETTE.len()]
}

/// The lowest and the highest of some numbers; infinite and the wrong way round where there are none.
pub(crate) fn ends(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let none = (f64::INFINITY, f64::NEG_INFINITY);
    let wider = |(low, high): (f64, f64), value: f64| (low.min(value), high.max(value));
    values.into_iter().fold(none, wider)
}
