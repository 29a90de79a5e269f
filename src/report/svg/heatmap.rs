//! A panel of coloured cells: values written in them where they fit, and the scale to their right.

use crate::report::{ColourScale, Mark, Panel};

use super::canvas::{Anchor, Canvas, Fitted, INK, TextStyle, all_fitted, fitted, text_width};
use super::panel::{Area, LABEL, tick};
use super::scale::{cell_colour, hex, is_dark, number};

/// Share of the width that the names of the rows may take.
pub(super) const ROW_NAME: f64 = 0.35;
/// Pixels that the name of a column may take.
pub(super) const COLUMN_NAME: f64 = 150.0;
/// Height of a row, in pixels.
pub(super) const ROW: f64 = 24.0;

pub(super) struct Heatmap<'a> {
    panel: &'a Panel,
    colours: &'a ColourScale,
    pub(super) area: Area,
    row_names: Vec<Fitted<'a>>,
    /// Width of a column, in pixels.
    column: f64,
    /// Height of the panel, in pixels.
    height: f64,
}

impl<'a> Heatmap<'a> {
    /// For the box `[x, y, width, height]`.
    pub(super) fn new(
        panel: &'a Panel,
        colours: &'a ColourScale,
        [x, y, width, height]: [f64; 4],
    ) -> Self {
        let names = panel.y.categories.iter().map(String::as_str);
        let row_names = all_fitted(names, 10.0, ROW_NAME * width);
        let left = x + 34.0 + widest(&row_names);
        let area = Area {
            left,
            top: y + 26.0,
            width: x + width - 86.0 - left,
            height: ROW * row_names.len().max(1) as f64,
        };
        Heatmap {
            panel,
            colours,
            area,
            row_names,
            column: area.width / panel.x.categories.len().max(1) as f64,
            height,
        }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas) {
        let Area { left, top, .. } = self.area;
        let (width, height) = (self.area.width, self.area.height);
        for (row, name) in self.row_names.iter().enumerate() {
            let at = top + ROW * (row as f64 + 0.5) + 3.5;
            canvas.text(left - 6.0, at, name.clone(), tick(Anchor::End));
        }
        let y = self.column_names(canvas);
        let label = fitted(&self.panel.x.label, 11.0, width);
        canvas.text(left + width / 2.0, y, label, LABEL);
        let label = fitted(&self.panel.y.label, 11.0, height.max(60.0));
        let x = left - widest(&self.row_names) - 16.0;
        canvas.text(x, top + height / 2.0, label, LABEL.turned());
        for mark in &self.panel.marks {
            self.cells(canvas, mark);
        }
        // Where all colours are one it is a table, and has no scale.
        if self.colours.colours.first() != self.colours.colours.last() {
            self.colour_bar(canvas);
        }
    }

    /// The names of the columns, turned where they would meet, and only some of them where even so they would. Returns where the
    /// axis' label stands.
    fn column_names(&self, canvas: &mut Canvas) -> f64 {
        let minus = |name: &String| match name.strip_prefix('-') {
            Some(size) => format!("−{size}"),
            None => name.clone(),
        };
        let names: Vec<String> = self.panel.x.categories.iter().map(minus).collect();
        let names = all_fitted(names.iter().map(String::as_str), 10.0, COLUMN_NAME);
        let (bottom, widest) = (self.area.bottom(), widest(&names));
        let turned = widest > self.column - 2.0 && widest > 24.0;
        let room = match turned {
            true => 11.0,
            false => widest + 4.0,
        };
        let step = (room / self.column).ceil().max(1.0) as usize;
        for (column, name) in names.into_iter().enumerate().step_by(step) {
            let at = self.area.left + self.column * (column as f64 + 0.5);
            match turned {
                true => canvas.text(at + 3.0, bottom + 8.0, name, tick(Anchor::End).turned()),
                false => canvas.text(at, bottom + 14.0, name, tick(Anchor::Middle)),
            }
        }
        match turned {
            true => bottom + widest + 20.0,
            false => bottom + 32.0,
        }
    }

    fn cells(&self, canvas: &mut Canvas, mark: &Mark) {
        let written = |value: f64| match value.abs() < 0.005 {
            true => "0".to_string(),
            false => number((value * 100.0).round() / 100.0),
        };
        let texts = mark.values.iter().flatten().map(|value| written(*value));
        let widest = texts.map(|text| text_width(&text, 1.0)).fold(0.0, f64::max);
        // All of them or none: a number in some cells only would look like a distinction.
        let mut sizes = [9.0, 8.0, 7.0].into_iter();
        let size = sizes.find(|size| widest * size < self.column - 2.0);
        for ((column, row), value) in mark.x.iter().zip(&mark.y).zip(&mark.values) {
            let Some(value) = value else { continue };
            let x = self.area.left + column * self.column;
            let y = self.area.top + row * ROW;
            let colour = cell_colour(self.colours, *value);
            canvas.rectangle([x, y, self.column - 0.6, ROW - 0.6], &hex(colour), 1.0);
            if let Some(size) = size {
                let ink = if is_dark(colour) { "#FFFFFF" } else { INK };
                let style = TextStyle::new(size, Anchor::Middle, ink);
                canvas.text(x + self.column / 2.0, y + 15.5, &written(*value), style);
            }
        }
    }

    fn colour_bar(&self, canvas: &mut Canvas) {
        const STEPS: u32 = 40;
        let colours = self.colours;
        let (x, y, width) = (self.area.right() + 16.0, self.area.top, 12.0);
        let height = self.area.height.max(60.0).min(self.height - 40.0);
        let each = height / f64::from(STEPS);
        for step in 0..STEPS {
            let share = (f64::from(step) + 0.5) / f64::from(STEPS);
            let value = colours.high - share * (colours.high - colours.low);
            let bar = [x, y + each * f64::from(step), width, each + 0.4];
            canvas.rectangle(bar, &hex(cell_colour(colours, value)), 1.0);
        }
        let middle = (colours.low + colours.high) / 2.0;
        for (at, value) in [(0.0, colours.high), (0.5, middle), (1.0, colours.low)] {
            let value = match value.abs() < 0.005 {
                true => value,
                false => (value * 100.0).round() / 100.0,
            };
            let y = y + height * at + 3.5;
            canvas.text(x + width + 4.0, y, &number(value), tick(Anchor::Start));
        }
        let label = fitted(&colours.label, 10.0, height.max(60.0));
        let style = TextStyle::new(10.0, Anchor::Middle, INK).turned();
        canvas.text(x + width + 42.0, y + height / 2.0, label, style);
    }
}

fn widest(names: &[Fitted<'_>]) -> f64 {
    let widths = names.iter().map(|name| text_width(&name.shown, 10.0));
    widths.fold(0.0, f64::max)
}
