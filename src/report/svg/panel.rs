//! One panel: grid, axes, marks.

use crate::report::{Axis, ColourScale, Mark, Panel, Shape};

use super::canvas::{Anchor, Canvas, Fitted, all_fitted, fitted, text_width};
use super::scale::{Scale, cell_colour, is_dark, number, range, ticks};

/// Dark enough to read, light enough to stay behind the data.
const AXIS: &str = "#444444";
const GRID: &str = "#E6E6E6";
const ZERO: &str = "#B0B0B0";
/// Share of a heatmap's width that the names of its rows may take.
pub(super) const ROW_NAME: f64 = 0.35;
/// Pixels that the name of a heatmap's column may take.
pub(super) const COLUMN_NAME: f64 = 150.0;

/// Draws a panel into the box `[x, y, width, height]`.
pub(super) fn draw(
    canvas: &mut Canvas,
    panel: &Panel,
    title: Fitted<'_>,
    [x, y, width, height]: [f64; 4],
) {
    if let Some(colours) = &panel.colours {
        return draw_cells(canvas, (panel, title), colours, [x, y, width, height]);
    }
    let (low, high) = extent(&panel.y, panel.marks.iter().flat_map(vertical), 0.06);
    let y_ticks = ticks(low, high, ((height / 45.0) as usize).max(3));
    let widest = y_ticks.iter().map(|t| text_width(&number(*t), 10.0));
    let left = x + 30.0 + widest.fold(0.0, f64::max);
    let area = [left, y + 26.0, x + width - 14.0 - left, height - 74.0];
    let (x_low, x_high) = extent(
        &panel.x,
        panel.marks.iter().flat_map(|m| m.x.iter().copied()),
        0.03,
    );
    let scales = (
        Scale {
            low: x_low,
            high: x_high,
            from: area[0],
            to: area[0] + area[2],
        },
        Scale {
            low,
            high,
            from: area[1] + area[3],
            to: area[1],
        },
    );
    canvas.text(area[0], y + 17.0, title, 12.0, Anchor::Start, "#222222");
    let x_ticks = ticks(x_low, x_high, ((area[2] / 40.0) as usize).max(2));
    axes(canvas, panel, area, scales, (&x_ticks, &y_ticks));
    // Points on the edge of the area stay whole.
    let around = [area[0] - 5.0, area[1] - 5.0, area[2] + 10.0, area[3] + 10.0];
    canvas.clipped(around, |canvas| {
        for mark in &panel.marks {
            draw_mark(canvas, mark, scales);
        }
    });
}

/// The values that decide how high a panel reaches.
fn vertical(mark: &Mark) -> impl Iterator<Item = f64> {
    let bars = matches!(mark.shape, Shape::Bars).then_some(0.0);
    mark.y
        .iter()
        .chain(&mark.low)
        .chain(&mark.high)
        .copied()
        .chain(bars)
}

/// The axis' own ends, or the data's with a little room.
fn extent(axis: &Axis, values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (low, high) = range(values);
    let room = (high - low) * room;
    let (low, high) = (
        axis.low.unwrap_or(low - room),
        axis.high.unwrap_or(high + room),
    );
    if high > low {
        (low, high)
    } else {
        (low, low + 1.0)
    }
}

fn axes(
    canvas: &mut Canvas,
    panel: &Panel,
    [left, top, width, height]: [f64; 4],
    (x, y): (Scale, Scale),
    (x_ticks, y_ticks): (&[f64], &[f64]),
) {
    let (right, bottom) = (left + width, top + height);
    for tick in y_ticks {
        let at = y.at(*tick);
        let colour = if *tick == 0.0 { ZERO } else { GRID };
        canvas.line((left, at), (right, at), colour, 1.0);
        canvas.text(
            left - 6.0,
            at + 3.5,
            &number(*tick),
            10.0,
            Anchor::End,
            AXIS,
        );
    }
    for tick in x_ticks {
        let at = x.at(*tick);
        let colour = if *tick == 0.0 { ZERO } else { GRID };
        canvas.line((at, top), (at, bottom), colour, 1.0);
        canvas.text(
            at,
            bottom + 15.0,
            &number(*tick),
            10.0,
            Anchor::Middle,
            AXIS,
        );
    }
    canvas.line((left, bottom), (right, bottom), AXIS, 1.0);
    canvas.line((left, top), (left, bottom), AXIS, 1.0);
    let middle = left + width / 2.0;
    canvas.text(
        middle,
        bottom + 33.0,
        fitted(&panel.x.label, 11.0, width + 24.0),
        11.0,
        Anchor::Middle,
        "#222222",
    );
    let widest = y_ticks
        .iter()
        .map(|t| text_width(&number(*t), 10.0))
        .fold(0.0, f64::max);
    let at = left - widest - 14.0;
    canvas.turned_text(
        at,
        top + height / 2.0,
        fitted(&panel.y.label, 11.0, height + 24.0),
        (11.0, -90.0),
        Anchor::Middle,
        "#222222",
    );
}

fn draw_mark(canvas: &mut Canvas, mark: &Mark, (x, y): (Scale, Scale)) {
    let points: Vec<(f64, f64)> = mark
        .x
        .iter()
        .zip(&mark.y)
        .map(|(a, b)| (x.at(*a), y.at(*b)))
        .collect();
    match mark.shape {
        Shape::Line => {
            canvas.path(&points, &mark.colour, 1.8, false);
            for point in &points {
                canvas.point(*point, &mark.colour, 2.6);
            }
        }
        Shape::Dashed => canvas.path(&points, &mark.colour, 1.4, true),
        Shape::Band => {
            let lower = mark
                .x
                .iter()
                .zip(&mark.low)
                .map(|(a, b)| (x.at(*a), y.at(*b)));
            let upper = mark
                .x
                .iter()
                .zip(&mark.high)
                .map(|(a, b)| (x.at(*a), y.at(*b)));
            let outline: Vec<(f64, f64)> = upper.chain(lower.rev()).collect();
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
                    canvas.label(*point, &label, 9.5, [x.from, y.to]);
                }
            }
        }
        Shape::Bars => {
            let step = mark
                .x
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .fold(f64::INFINITY, f64::min);
            let width = if step.is_finite() {
                x.at(step) - x.at(0.0)
            } else {
                10.0
            };
            for (at, top) in points {
                let floor = y.at(0.0);
                canvas.rectangle(
                    [at - width / 2.0, top.min(floor), width, (floor - top).abs()],
                    &mark.colour,
                    0.55,
                );
            }
        }
        Shape::Cells => {}
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

/// A heatmap, its values written in the cells where they fit, and the scale to its right.
fn draw_cells(
    canvas: &mut Canvas,
    (panel, title): (&Panel, Fitted<'_>),
    colours: &ColourScale,
    [x, y, width, height]: [f64; 4],
) {
    let rows = all_fitted(
        panel.y.categories.iter().map(String::as_str),
        10.0,
        ROW_NAME * width,
    );
    let names = widest(&rows);
    let left = x + 34.0 + names;
    let high = 24.0 * rows.len().max(1) as f64;
    let area = [left, y + 26.0, x + width - 86.0 - left, high];
    let cell = (area[2] / panel.x.categories.len().max(1) as f64, 24.0);
    canvas.text(area[0], y + 17.0, title, 12.0, Anchor::Start, "#222222");
    for (row, name) in rows.into_iter().enumerate() {
        let at = area[1] + cell.1 * (row as f64 + 0.5) + 3.5;
        canvas.text(area[0] - 6.0, at, name, 10.0, Anchor::End, AXIS);
    }
    let label = column_names(canvas, panel, area, cell.0);
    canvas.text(
        area[0] + area[2] / 2.0,
        label,
        fitted(&panel.x.label, 11.0, area[2]),
        11.0,
        Anchor::Middle,
        "#222222",
    );
    canvas.turned_text(
        area[0] - names - 16.0,
        area[1] + area[3] / 2.0,
        fitted(&panel.y.label, 11.0, area[3].max(60.0)),
        (11.0, -90.0),
        Anchor::Middle,
        "#222222",
    );
    for mark in &panel.marks {
        cells(canvas, mark, colours, area, cell);
    }
    // Where all colours are one it is a table, and has no scale.
    if colours.colours.first() == colours.colours.last() {
        return;
    }
    colour_bar(
        canvas,
        colours,
        [
            area[0] + area[2] + 16.0,
            area[1],
            12.0,
            area[3].max(60.0).min(height - 40.0),
        ],
    );
}

fn widest(names: &[Fitted<'_>]) -> f64 {
    let widths = names.iter().map(|name| text_width(&name.shown, 10.0));
    widths.fold(0.0, f64::max)
}

/// The names of a heatmap's columns, turned where they would meet, and only some of them where even so they would. Returns where the
/// axis' label stands.
fn column_names(canvas: &mut Canvas, panel: &Panel, area: [f64; 4], cell: f64) -> f64 {
    let minus = |name: &String| match name.strip_prefix('-') {
        Some(size) => format!("−{size}"),
        None => name.clone(),
    };
    let names: Vec<String> = panel.x.categories.iter().map(minus).collect();
    let names = all_fitted(names.iter().map(String::as_str), 10.0, COLUMN_NAME);
    let (bottom, widest) = (area[1] + area[3], widest(&names));
    let turned = widest > cell - 2.0 && widest > 24.0;
    let room = match turned {
        true => 11.0,
        false => widest + 4.0,
    };
    let step = (room / cell).ceil().max(1.0) as usize;
    for (column, name) in names.into_iter().enumerate().step_by(step) {
        let at = area[0] + cell * (column as f64 + 0.5);
        match turned {
            true => {
                let turn = (10.0, -90.0);
                canvas.turned_text(at + 3.0, bottom + 8.0, name, turn, Anchor::End, AXIS);
            }
            false => canvas.text(at, bottom + 14.0, name, 10.0, Anchor::Middle, AXIS),
        }
    }
    match turned {
        true => bottom + widest + 20.0,
        false => bottom + 32.0,
    }
}

fn cells(
    canvas: &mut Canvas,
    mark: &Mark,
    colours: &ColourScale,
    area: [f64; 4],
    cell: (f64, f64),
) {
    let written = |value: f64| match value.abs() < 0.005 {
        true => "0".to_string(),
        false => number((value * 100.0).round() / 100.0),
    };
    let texts = mark.values.iter().flatten().map(|value| written(*value));
    let widest = texts.map(|text| text_width(&text, 1.0)).fold(0.0, f64::max);
    // All of them or none: a number in some cells only would look like a distinction.
    let size = [9.0, 8.0, 7.0]
        .into_iter()
        .find(|size| widest * size < cell.0 - 2.0);
    for ((column, row), value) in mark.x.iter().zip(&mark.y).zip(&mark.values) {
        let at = (area[0] + column * cell.0, area[1] + row * cell.1);
        let Some(value) = value else { continue };
        let (r, g, b) = cell_colour(colours, *value);
        canvas.rectangle(
            [at.0, at.1, cell.0 - 0.6, cell.1 - 0.6],
            &format!("#{r:02X}{g:02X}{b:02X}"),
            1.0,
        );
        if let Some(size) = size {
            let ink = if is_dark((r, g, b)) {
                "#FFFFFF"
            } else {
                "#222222"
            };
            canvas.text(
                at.0 + cell.0 / 2.0,
                at.1 + 15.5,
                &written(*value),
                size,
                Anchor::Middle,
                ink,
            );
        }
    }
}

fn colour_bar(canvas: &mut Canvas, colours: &ColourScale, [x, y, width, height]: [f64; 4]) {
    let steps = 40;
    let each = height / f64::from(steps);
    for step in 0..steps {
        let share = (f64::from(step) + 0.5) / f64::from(steps);
        let (r, g, b) = cell_colour(colours, colours.high - share * (colours.high - colours.low));
        canvas.rectangle(
            [x, y + each * f64::from(step), width, each + 0.4],
            &format!("#{r:02X}{g:02X}{b:02X}"),
            1.0,
        );
    }
    let middle = (colours.low + colours.high) / 2.0;
    for (at, value) in [(0.0, colours.high), (0.5, middle), (1.0, colours.low)] {
        let value = match value.abs() < 0.005 {
            true => value,
            false => (value * 100.0).round() / 100.0,
        };
        canvas.text(
            x + width + 4.0,
            y + height * at + 3.5,
            &number(value),
            10.0,
            Anchor::Start,
            AXIS,
        );
    }
    canvas.turned_text(
        x + width + 42.0,
        y + height / 2.0,
        fitted(&colours.label, 10.0, height.max(60.0)),
        (10.0, -90.0),
        Anchor::Middle,
        "#222222",
    );
}
