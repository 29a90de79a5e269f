//! XSTest: refusal rates by type and α as a heatmap, and by label against α.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Table, colour};

use super::sweep::level_marks;
use super::swept::{Level, distinct, grouped, levels};
use super::{ALPHA, Context, RATE, of_model};

/// The type of rows of all types.
const ALL: &str = "all";

/// One row of the table of rates.
struct Rate<'a> {
    model: &'a str,
    layer: i64,
    alpha: f64,
    label: &'a str,
    kind: &'a str,
    level: Level,
}

pub(in crate::report) fn figures(_context: &Context<'_>, stage: &FinishedStage) -> Vec<Figure> {
    let Some(table) = stage.table("rates") else {
        return Vec::new();
    };
    let rates = rates(table);
    let by_model = grouped(&rates, |rate| rate.model);
    let models: Vec<String> = by_model
        .iter()
        .map(|(model, _)| model.to_string())
        .collect();
    let figures = by_model.iter().flat_map(|(model, rates)| {
        let figure = |kind: &str, title: &str| of_model(&stage.name, &models, model, kind, title);
        let note = "No random directions were tried on these prompts.";
        [
            Figure {
                note: format!("Bands: Wilson 95 % intervals. Safe prompts should be answered, unsafe ones refused. {note}"),
                panels: panels_by_label(rates),
                columns: 3,
                ..figure("labels", "XSTest refusal rates against α")
            },
            Figure {
                note: format!("All prompts; the table has the rates without those that built the direction, too. {note}"),
                panels: heatmaps(rates),
                columns: 2,
                ..figure("types", "XSTest refusal rates by type and α")
            },
        ]
    });
    figures.collect()
}

fn rates(table: &Table) -> Vec<Rate<'_>> {
    let text = |name: &str| table.text_at(name);
    let (models, labels, kinds) = (text("model"), text("label"), text("type"));
    let (layers, alphas) = (table.numbers("layer"), table.numbers("alpha"));
    let rates = levels(table, ["refusal_rate", "rate_low", "rate_high"]);
    let of = |row: usize| {
        Some(Rate {
            model: models(row),
            layer: layers[row]? as i64,
            alpha: alphas[row]?,
            label: labels(row),
            kind: kinds(row),
            level: rates[row]?,
        })
    };
    (0..table.height()).filter_map(of).collect()
}

fn panels_by_label(rates: &[&Rate<'_>]) -> Vec<Panel> {
    let labels = distinct(rates.iter().map(|rate| rate.label));
    let panel = |(layer, rates): (i64, Vec<&&Rate<'_>>)| {
        let marks = labels.iter().enumerate().flat_map(|(index, label)| {
            let here = rates.iter().filter(|r| r.label == *label && r.kind == ALL);
            level_marks(label, colour(index), here.map(|r| (r.alpha, r.level)))
        });
        let (x, y) = (Axis::of(ALPHA), Axis::rate(RATE));
        Panel::new(format!("layer {layer}"), x, y, marks.collect())
    };
    let by_layer = grouped(rates, |rate| rate.layer);
    by_layer.into_iter().map(panel).collect()
}

fn heatmaps(rates: &[&Rate<'_>]) -> Vec<Panel> {
    let panel = |((layer, label), rates): ((i64, &str), Vec<&&Rate<'_>>)| {
        let mut alphas = distinct(rates.iter().map(|rate| rate.alpha));
        alphas.sort_by(f64::total_cmp);
        let kinds = distinct(rates.iter().map(|rate| rate.kind));
        let cells = rates.iter().filter_map(|rate| {
            let x = alphas.iter().position(|alpha| *alpha == rate.alpha)?;
            let y = kinds.iter().position(|kind| *kind == rate.kind)?;
            Some((x, y, Some(rate.level.value)))
        });
        let names = kinds.iter().map(|kind| kind.replace('_', " "));
        Panel {
            colours: Some(ColourScale::rates(RATE)),
            ..Panel::new(
                format!("layer {layer}, {label}"),
                Axis::named(ALPHA, alphas.iter().map(f64::to_string).collect()),
                Axis::named("type", names.collect()),
                vec![Mark::cells(RATE, cells)],
            )
        }
    };
    let typed = rates.iter().filter(|rate| rate.kind != ALL);
    let by_label = grouped(typed, |rate| (rate.layer, rate.label));
    by_label.into_iter().map(panel).collect()
}
