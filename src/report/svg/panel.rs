//! One panel: grid, axes, marks.

use crate::report::{Axis, Mark, Panel, Shape};

use super::TITLE;
use super::canvas::{Anchor, Canvas, Fitted, INK, TextStyle, fitted, text_width};
use super::heatmap::Heatmap;
use super::scale::{Scale, number, range, ticks};

/// Dark enough to read, light enough to stay behind the data.
const AXIS: &str = "#444444";
const GRID: &str = "#E6E6E6";
const ZERO: &str = "#B0B0B0";

/// The label of an axis.
pub(super) const LABEL: TextStyle = TextStyle::new(11.0, Anchor::Middle, INK);
/// Numbers and names along an axis.
pub(super) const fn tick(anchor: Anchor) -> TextStyle {
    TextStyle::new(10.0, anchor, AXIS)
}

/// Where marks are drawn, in pixels.
#[derive(Clone, Copy)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Area {
    pub(super) fn right(self) -> f64 {
        self.left + self.width
    }

    pub(super) fn bottom(self) -> f64 {
        self.top + self.height
    }
}

/// Draws a panel into the box `[x, y, width, height]`.
pub(super) fn draw(canvas: &mut Canvas, panel: &Panel, title: Fitted<'_>, bounds: [f64; 4]) {
    let y = bounds[1] + 17.0;
    if let Some(colours) = &panel.colours {
        let heatmap = Heatmap::new(panel, colours, bounds);
        canvas.text(heatmap.area.left, y, title, TITLE);
        return heatmap.draw(canvas);
    }
    let plot = Plot::new(panel, bounds);
    canvas.text(plot.area.left, y, title, TITLE);
    plot.axes(canvas);
    // Points on the edge of the area stay whole.
    let Area { left, top, .. } = plot.area;
    let (width, height) = (plot.area.width + 10.0, plot.area.height + 10.0);
    let whole = [left - 5.0, top - 5.0, width, height];
    canvas.clipped(whole, |canvas| {
        for mark in &panel.marks {
            plot.mark(canvas, mark);
        }
    });
}

/// A panel with two axes of numbers.
struct Plot<'a> {
    panel: &'a Panel,
    area: Area,
    x: Scale,
    y: Scale,
    x_ticks: Vec<f64>,
    y_ticks: Vec<f64>,
    /// Of the numbers at `y_ticks`, in pixels.
    widest_tick: f64,
}

impl<'a> Plot<'a> {
    fn new(panel: &'a Panel, [x, y, width, height]: [f64; 4]) -> Self {
        let (low, high) = extent(&panel.y, panel.marks.iter().flat_map(vertical), 0.06);
        let y_ticks = ticks(low, high, ((height / 45.0) as usize).max(3));
        let widths = y_ticks.iter().map(|t| text_width(&number(*t), 10.0));
        let widest_tick = widths.fold(0.0, f64::max);
        let left = x + 30.0 + widest_tick;
        let area = Area {
            left,
            top: y + 26.0,
            width: x + width - 14.0 - left,
            height: height - 74.0,
        };
        let horizontal = panel.marks.iter().flat_map(|m| m.x.iter().copied());
        let (x_low, x_high) = extent(&panel.x, horizontal, 0.03);
        Plot {
            panel,
            area,
            x: Scale {
                low: x_low,
                high: x_high,
                from: area.left,
                to: area.right(),
            },
            y: Scale {
                low,
                high,
                from: area.bottom(),
                to: area.top,
            },
            x_ticks: ticks(x_low, x_high, ((area.width / 40.0) as usize).max(2)),
            y_ticks,
            widest_tick,
        }
    }

    fn axes(&self, canvas: &mut Canvas) {
        let Area { left, top, .. } = self.area;
        let (right, bottom) = (self.area.right(), self.area.bottom());
        let grid = |tick: f64| if tick == 0.0 { ZERO } else { GRID };
        for &value in &self.y_ticks {
            let at = self.y.at(value);
            canvas.line((left, at), (right, at), grid(value), 1.0);
            canvas.text(left - 6.0, at + 3.5, &number(value), tick(Anchor::End));
        }
        for &value in &self.x_ticks {
            let at = self.x.at(value);
            canvas.line((at, top), (at, bottom), grid(value), 1.0);
            canvas.text(at, bottom + 15.0, &number(value), tick(Anchor::Middle));
        }
        canvas.line((left, bottom), (right, bottom), AXIS, 1.0);
        canvas.line((left, top), (left, bottom), AXIS, 1.0);
        let (width, height) = (self.area.width, self.area.height);
        let label = fitted(&self.panel.x.label, 11.0, width + 24.0);
        canvas.text(left + width / 2.0, bottom + 33.0, label, LABEL);
        let label = fitted(&self.panel.y.label, 11.0, height + 24.0);
        let at = left - self.widest_tick - 14.0;
        canvas.text(at, top + height / 2.0, label, LABEL.turned());
    }

    fn mark(&self, canvas: &mut Canvas, mark: &Mark) {
        let along = |values: &[f64]| -> Vec<(f64, f64)> {
            let places = mark.x.iter().zip(values);
            places
                .map(|(x, y)| (self.x.at(*x), self.y.at(*y)))
                .collect()
        };
        let points = along(&mark.y);
        match mark.shape {
            Shape::Line => {
                canvas.path(&points, &mark.colour, 1.8, false);
                for point in &points {
                    canvas.point(*point, &mark.colour, 2.6);
                }
            }
            Shape::Dashed => canvas.path(&points, &mark.colour, 1.4, true),
            Shape::Band => {
                let mut outline = along(&mark.high);
                outline.extend(along(&mark.low).into_iter().rev());
                canvas.area(&outline, &mark.colour, 0.24);
            }
            Shape::Cloud => {
                for point in points {
                    canvas.point(point, &mark.colour, 2.6);
                }
            }
            Shape::Points => {
                for (index, point) in points.iter().enumerate() {
                    canvas.point(*point, &mark.colour, 3.2);
                    if let Some(label) = mark.labels.get(index) {
                        let label = label.replace('-', "−");
                        canvas.label(*point, &label, 9.5, [self.x.from, self.y.to]);
                    }
                }
            }
            Shape::Bars => self.bars(canvas, mark, &points),
            Shape::Cells => {}
        }
    }

    fn bars(&self, canvas: &mut Canvas, mark: &Mark, tops: &[(f64, f64)]) {
        let steps = mark.x.windows(2).map(|pair| pair[1] - pair[0]);
        let step = steps.fold(f64::INFINITY, f64::min);
        let width = match step.is_finite() {
            true => self.x.at(step) - self.x.at(0.0),
            false => 10.0,
        };
        let floor = self.y.at(0.0);
        for (at, top) in tops {
            let bar = [at - width / 2.0, top.min(floor), width, (floor - top).abs()];
            canvas.rectangle(bar, &mark.colour, 0.55);
        }
    }
}

/// The values that decide how high a panel reaches.
fn vertical(mark: &Mark) -> impl Iterator<Item = f64> {
    let bars = matches!(mark.shape, Shape::Bars).then_some(0.0);
    let values = mark.y.iter().chain(&mark.low).chain(&mark.high);
    values.copied().chain(bars)
}

/// The axis' own ends, or the data's with a little room.
fn extent(axis: &Axis, values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (low, high) = range(values);
    let room = (high - low) * room;
    let low = axis.low.unwrap_or(low - room);
    let high = axis.high.unwrap_or(high + room);
    match high > low {
        true => (low, high),
        false => (low, low + 1.0),
    }
}

/// What stands for a mark in the legend.
pub(super) fn legend_sample(canvas: &mut Canvas, mark: &Mark, x: f64, y: f64) {
    match mark.shape {
        Shape::Line => {
            canvas.path(&[(x, y), (x + 24.0, y)], &mark.colour, 1.8, false);
            canvas.point((x + 12.0, y), &mark.colour, 2.8);
        }
        Shape::Dashed => canvas.path(&[(x, y), (x + 24.0, y)], &mark.colour, 1.4, true),
        Shape::Band => canvas.rectangle([x, y - 6.0, 24.0, 12.0], &mark.colour, 0.24),
        Shape::Points | Shape::Cloud => canvas.point((x + 12.0, y), &mark.colour, 3.2),
        Shape::Bars => canvas.rectangle([x + 6.0, y - 6.0, 12.0, 12.0], &mark.colour, 0.55),
        Shape::Cells => {}
    }
}
