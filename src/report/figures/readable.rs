//! What every figure goes through before it is drawn: no text of a study controls whatever shows it, and no figure is higher than a reader
//! scrolls through. What is left out is said, and is in the tables.

use crate::harmless;
use crate::report::svg::height;
use crate::report::{Figure, Mark, Panel, Shape};

/// Pixels that the panels of a figure may take, one row of them at least.
const MOST_HEIGHT: f64 = 2400.0;
/// Pixels that the name of a heatmap's row takes.
const ROW_HEIGHT: f64 = 24.0;
/// Rows that a heatmap has at most, and may have however many heatmaps there are.
const ROWS: (usize, usize) = (25, 90);
/// Columns that a heatmap has at most.
const COLUMNS: usize = 200;

/// Panels without anything that a sentence names; of more it says how many.
const NAMED: usize = 4;

/// The figure as a reader can take it.
pub(super) fn readable(mut figure: Figure) -> Figure {
    figure.each_text(&mut |text| *text = harmless::label(text).into_owned());
    let said = [
        leave_out_empty(&mut figure),
        cut_heatmaps(&mut figure),
        cut_panels(&mut figure),
    ];
    for sentence in said.into_iter().flatten() {
        figure.note = format!("{} {sentence}", figure.note).trim().to_string();
    }
    figure
}

/// Leaves out panels in which there is nothing: a sentence says more than empty axes. What to say of it.
fn leave_out_empty(figure: &mut Figure) -> Option<String> {
    let has_something = |panel: &Panel| panel.marks.iter().any(has_value);
    let empty = figure.panels.iter().filter(|panel| !has_something(panel));
    let empty: Vec<String> = empty.map(|panel| panel.title.clone()).collect();
    figure.panels.retain(has_something);
    match (empty.len(), figure.panels.len()) {
        (_, 0) => {
            // How to read it is of no use to anybody.
            figure.note.clear();
            Some("There is nothing to draw: the stage's tables have no value for it.".to_string())
        }
        (0, _) => None,
        (count, _) => {
            let named: Vec<String> = empty
                .into_iter()
                .filter(|title| !title.is_empty())
                .collect();
            Some(match named.len() {
                1..=NAMED if named.len() == count => {
                    format!("Nothing to draw: {}.", named.join("; "))
                }
                _ => format!("Nothing to draw in {count} more panels."),
            })
        }
    }
}

/// Whether anything of it is seen.
fn has_value(mark: &Mark) -> bool {
    match mark.shape {
        Shape::Cells => mark.values.iter().any(Option::is_some),
        _ => !mark.x.is_empty(),
    }
}

/// Leaves out rows and columns of heatmaps that are too many. What to say of it.
fn cut_heatmaps(figure: &mut Figure) -> Option<String> {
    let rows_of_panels = figure.panels.len().div_ceil(figure.columns.max(1));
    let share = MOST_HEIGHT / ROW_HEIGHT / rows_of_panels.max(1) as f64;
    let most = (share as usize).clamp(ROWS.0, ROWS.1);
    let mut cut: Option<[usize; 2]> = None;
    for panel in &mut figure.panels {
        let had = [panel.y.categories.len(), panel.x.categories.len()];
        // A square of the same names both ways stays one.
        let columns = match panel.x.categories == panel.y.categories {
            true => most,
            false => COLUMNS,
        };
        if had[0] > most || had[1] > columns {
            cut_cells(panel, most, columns);
            cut = Some(had);
        }
    }
    let [rows, columns] = cut?;
    let count = |n: usize, most: usize, what: &str| match n > most {
        true => format!("the first {most} of {n} {what}"),
        false => format!("{n} {what}"),
    };
    let panel = figure.panels.iter().find(|panel| panel.colours.is_some())?;
    Some(format!(
        "Drawn: {}, {}; the stage's tables have all.",
        count(rows, panel.y.categories.len(), "rows"),
        count(columns, panel.x.categories.len(), "columns")
    ))
}

fn cut_cells(panel: &mut Panel, rows: usize, columns: usize) {
    panel.y.categories.truncate(rows);
    panel.x.categories.truncate(columns);
    for mark in &mut panel.marks {
        let places = mark.x.iter().zip(&mark.y).zip(&mark.values);
        let cells = places.map(|((x, y), value)| (*x as usize, *y as usize, *value));
        *mark = Mark::cells(
            &mark.name,
            cells.filter(|(x, y, _)| *x < columns && *y < rows),
        );
    }
}

/// Leaves out panels that are too many. What to say of it.
fn cut_panels(figure: &mut Figure) -> Option<String> {
    let all = figure.panels.len();
    let columns = figure.columns.clamp(1, all.max(1));
    let (mut used, mut kept) = (0.0, 0);
    for row in figure.panels.chunks(columns) {
        let heights = row.iter().map(|panel| height(panel, columns));
        used += heights.fold(0.0, f64::max);
        if kept > 0 && used > MOST_HEIGHT {
            break;
        }
        kept += row.len();
    }
    figure.panels.truncate(kept);
    (kept < all)
        .then(|| format!("Drawn: the first {kept} of {all} panels; the stage's tables have all."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Axis, ColourScale};

    fn figure(panels: Vec<Panel>, columns: usize) -> Figure {
        Figure {
            name: "steer.categories".to_string(),
            stage: "steer".to_string(),
            title: "Refusal rate against α by category".to_string(),
            note: "Grey.".to_string(),
            panels,
            columns,
        }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|name| format!("n{name}")).collect()
    }

    #[test]
    fn hundreds_of_panels_are_cut_and_counted() {
        let panel = Panel {
            title: "category".to_string(),
            marks: vec![Mark::new("a", "#000000", Shape::Line, [(0.0, 1.0)])],
            ..Panel::default()
        };
        let cut = readable(figure(vec![panel.clone(); 300], 4));
        assert_eq!(cut.panels.len(), 48, "twelve rows of 190 pixels");
        let said = "Grey. Drawn: the first 48 of 300 panels; the stage's tables have all.";
        assert_eq!(cut.note, said);
        let few = figure(vec![panel; 48], 4);
        assert_eq!(readable(few.clone()), few);
    }

    #[test]
    fn a_heatmap_of_hundreds_of_rows_is_cut_with_its_cells() {
        let all = (0..300).flat_map(|y| (0..300).map(move |x| (x, y, Some(x as f64))));
        let panel = Panel {
            x: Axis::named("direction", names(300)),
            y: Axis::named("direction", names(300)),
            marks: vec![Mark::cells("cosine", all)],
            colours: Some(ColourScale::rates("cosine")),
            ..Panel::default()
        };
        let cut = readable(figure(vec![panel], 1));
        let panel = &cut.panels[0];
        assert_eq!(
            (panel.x.categories.len(), panel.y.categories.len()),
            (90, 90)
        );
        let cells = &panel.marks[0];
        assert_eq!(
            [cells.x.len(), cells.y.len(), cells.values.len()],
            [8100; 3]
        );
        assert_eq!(cells.values[91], Some(1.0));
        assert!(
            cut.note.ends_with("Drawn: the first 90 of 300 rows, the first 90 of 300 columns; the stage's tables have all."),
            "{}", cut.note
        );
    }

    #[test]
    fn a_figure_with_nothing_in_it_is_a_sentence() {
        let panel = |title: &str, marks| Panel {
            title: title.to_string(),
            marks,
            ..Panel::default()
        };
        let line = |points: &[(f64, f64)]| {
            vec![Mark::new(
                "a",
                "#000000",
                Shape::Line,
                points.iter().copied(),
            )]
        };
        let blank = panel("blank", vec![Mark::cells("value", [(0, 0, None)])]);
        let none = readable(figure(
            vec![blank.clone(), panel("no points", line(&[]))],
            2,
        ));
        assert!(none.panels.is_empty());
        assert_eq!(
            none.note,
            "There is nothing to draw: the stage's tables have no value for it."
        );
        let some = readable(figure(vec![blank, panel("b", line(&[(0.0, 1.0)]))], 2));
        assert_eq!(some.panels.len(), 1);
        assert_eq!(some.note, "Grey. Nothing to draw: blank.");
        let svg = crate::report::svg::svg(&none);
        assert!(svg.contains("There is nothing to draw"), "{svg}");
    }

    #[test]
    fn texts_turn_nothing_around() {
        let panel = Panel {
            title: "a\u{202e}b".to_string(),
            marks: vec![Mark::new("a", "#000000", Shape::Line, [(0.0, 1.0)])],
            ..Panel::default()
        };
        assert_eq!(
            readable(figure(vec![panel], 1)).panels[0].title,
            "a\\u{202e}b"
        );
    }
}
