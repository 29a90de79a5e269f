//! Figures as SVG, written here: a page of code does what figures of this kind need (small multiples with one legend, bands, cells), and
//! no text of a study can become markup. PNG comes from the same SVG. A text that is too wide for its place is cut; whoever points at it in an
//! SVG is told all of it.

mod canvas;
mod glyphs;
mod heatmap;
mod panel;
mod scale;

use std::sync::{Arc, LazyLock};

use resvg::{tiny_skia, usvg};

use super::{Figure, Mark, Panel, ReportError, Shape};
use canvas::{Anchor, Canvas, Fitted, INK, TextStyle, all_fitted, text_width, wrapped};
pub(super) use canvas::{escaped, fitted};

/// Width of every figure, in pixels; a text width at 300 dots per inch is about twice that.
const WIDTH: f64 = 960.0;
/// Pixels of a PNG for each of the SVG.
const PNG_SCALE: f32 = 2.0;
/// Free space around a figure.
const MARGIN: f64 = 14.0;

const TITLE: TextStyle = TextStyle::new(12.0, Anchor::Start, INK);
const NOTE: TextStyle = TextStyle::new(11.0, Anchor::Start, "#444444");

/// The figure as a file of its own.
pub(crate) fn svg(figure: &Figure) -> String {
    let columns = figure.columns.clamp(1, figure.panels.len().max(1));
    let width = match columns == 1 && !has_cells(figure) {
        true => 640.0,
        false => WIDTH,
    };
    let panel_width = (width - 2.0 * MARGIN) / columns as f64;
    let notes = wrapped(&figure.note, 11.0, width - 2.0 * MARGIN);
    let rows = figure.panels.chunks(columns);
    let heights: Vec<f64> = rows
        .map(|row| row.iter().map(|p| height(p, columns)).fold(0.0, f64::max))
        .collect();
    let legend = legend_rows(figure, width - 2.0 * MARGIN);
    let top = MARGIN + 30.0 + 22.0 * legend.len() as f64;
    let panels_end = top + heights.iter().sum::<f64>();
    let total = panels_end + 16.0 * notes.len() as f64 + MARGIN;
    let mut canvas = Canvas::new(width, total, &figure.title);
    canvas.heading(MARGIN, MARGIN + 14.0, &figure.title, width - 2.0 * MARGIN);
    for (row, entries) in legend.iter().enumerate() {
        draw_legend(&mut canvas, entries, MARGIN + 40.0 + 22.0 * row as f64);
    }
    let mut y = top;
    let mut titles = panel_titles(figure, panel_width).into_iter();
    for (row, height) in figure.panels.chunks(columns).zip(&heights) {
        for ((column, panel), title) in row.iter().enumerate().zip(titles.by_ref()) {
            let x = MARGIN + panel_width * column as f64;
            panel::draw(&mut canvas, panel, title, [x, y, panel_width, *height]);
        }
        y += height;
    }
    for (row, line) in notes.iter().enumerate() {
        let y = panels_end + 12.0 + 16.0 * row as f64;
        canvas.text(MARGIN, y, line, NOTE);
    }
    canvas.finish()
}

/// What sets panels apart, cut to their width so that it still does.
fn panel_titles(figure: &Figure, width: f64) -> Vec<Fitted<'_>> {
    let room = match has_cells(figure) {
        true => width * (1.0 - heatmap::ROW_NAME) - 120.0,
        false => width - 70.0,
    };
    let titles = figure.panels.iter().map(|panel| panel.title.as_str());
    all_fitted(titles, 12.0, room)
}

fn has_cells(figure: &Figure) -> bool {
    figure.panels.iter().any(|panel| panel.colours.is_some())
}

/// Height of a panel, in pixels.
pub(super) fn height(panel: &Panel, columns: usize) -> f64 {
    if panel.colours.is_some() {
        let longest = panel.x.categories.iter().map(|name| text_width(name, 10.0));
        let names = longest.fold(0.0, f64::max).min(heatmap::COLUMN_NAME);
        // A panel's columns share about 600 pixels of a figure's width.
        let room = 600.0 / columns as f64 / panel.x.categories.len().max(1) as f64;
        let turned = if names > room { names } else { 12.0 };
        return heatmap::ROW * panel.y.categories.len() as f64 + turned + 74.0;
    }
    match columns {
        1 => 420.0,
        2 => 320.0,
        3 => 260.0,
        _ => 190.0,
    }
}

/// Of the legend.
struct Entry<'a> {
    name: &'a str,
    shown: Fitted<'a>,
    marks: Vec<&'a Mark>,
    width: f64,
}

/// Entries of the legend in rows no wider than that; none where there is only one name or only cells.
fn legend_rows(figure: &Figure, width: f64) -> Vec<Vec<Entry<'_>>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let marks = figure.panels.iter().flat_map(|panel| &panel.marks);
    for mark in marks.filter(|mark| mark.shape != Shape::Cells) {
        match entries.iter_mut().find(|entry| entry.name == mark.name) {
            Some(entry) if entry.marks.iter().any(|m| m.shape == mark.shape) => {}
            Some(entry) => entry.marks.push(mark),
            None => {
                let shown = fitted(&mark.name, 12.0, width - 46.0);
                entries.push(Entry {
                    name: &mark.name,
                    width: 46.0 + text_width(&shown.shown, 12.0),
                    shown,
                    marks: vec![mark],
                });
            }
        }
    }
    let mut rows: Vec<Vec<Entry<'_>>> = Vec::new();
    let mut used = f64::INFINITY;
    for entry in entries {
        if used + entry.width > width {
            rows.push(Vec::new());
            used = 0.0;
        }
        used += entry.width;
        if let Some(row) = rows.last_mut() {
            row.push(entry);
        }
    }
    rows
}

fn draw_legend(canvas: &mut Canvas, entries: &[Entry<'_>], y: f64) {
    let mut x = MARGIN;
    for entry in entries {
        for mark in &entry.marks {
            panel::legend_sample(canvas, mark, x, y);
        }
        canvas.text(x + 30.0, y + 4.0, entry.shown.clone(), TITLE);
        x += entry.width;
    }
}

/// The figure as PNG, twice as many pixels each way, with the fonts that the program brings along.
///
/// # Errors
/// [`ReportError::Drawing`] where it is too large to draw.
pub(crate) fn png(figure: &Figure) -> Result<Vec<u8>, ReportError> {
    let svg = match glyphs::drawable(figure) {
        Some(figure) => svg(&figure),
        None => svg(figure),
    };
    let tree = usvg::Tree::from_str(&svg, &options()).map_err(undrawn)?;
    let size = tree.size().to_int_size().scale_by(PNG_SCALE);
    let pixmap = size.and_then(|size| tiny_skia::Pixmap::new(size.width(), size.height()));
    let mut pixmap = pixmap.ok_or_else(|| undrawn("the figure is too large"))?;
    let transform = tiny_skia::Transform::from_scale(PNG_SCALE, PNG_SCALE);
    resvg::render(&tree, transform, &mut pixmap.as_mut());
    pixmap.encode_png().map_err(undrawn)
}

fn undrawn(error: impl ToString) -> ReportError {
    ReportError::Drawing(error.to_string())
}

/// Text is drawn with the bundled fonts only, which are read once.
fn options() -> usvg::Options<'static> {
    static FONTS: LazyLock<Arc<usvg::fontdb::Database>> = LazyLock::new(|| {
        let mut fonts = usvg::fontdb::Database::new();
        fonts.load_font_data(include_bytes!("../../../assets/fonts/NotoSans-Regular.ttf").to_vec());
        fonts.load_font_data(include_bytes!("../../../assets/fonts/NotoSans-Bold.ttf").to_vec());
        Arc::new(fonts)
    });
    usvg::Options {
        fontdb: Arc::clone(&FONTS),
        font_family: "Noto Sans".to_string(),
        ..usvg::Options::default()
    }
}
