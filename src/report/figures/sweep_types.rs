//! XSTest: refusal rates by type and α as a heatmap, and by label against α.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Table, colour};

use super::sweep::level_marks;
use super::swept::{Level, distinct, levels};
use super::{ALPHA, Context, RATE, of_model, suffix};

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
    let models = distinct(rates.iter().map(|rate| rate.model.to_string()));
    let mut figures = Vec::new();
    for model in &models {
        let of_this: Vec<&Rate<'_>> = rates.iter().filter(|r| r.model == model).collect();
        let name = |figure: &str| format!("{}.{figure}{}", stage.name, suffix(&models, model));
        let title = |title: &str| format!("{title}{}", of_model(&models, model));
        let note = "No random directions were tried on these prompts.";
        figures.push(Figure {
            name: name("labels"),
            stage: stage.name.clone(),
            title: title("XSTest refusal rates against α"),
            note: format!("Bands: Wilson 95 % intervals. Safe prompts should be answered, unsafe ones refused. {note}"),
            panels: panels_by_label(&of_this),
            columns: 3,
        });
        figures.push(Figure {
            name: name("types"),
            stage: stage.name.clone(),
            title: title("XSTest refusal rates by type and α"),
            note: format!("All prompts; the table has the rates without those that built the direction, too. {note}"),
            panels: heatmaps(&of_this),
            columns: 2,
        });
    }
    figures
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
    let panel = |layer: i64| {
        let marks = labels.iter().enumerate().flat_map(|(index, label)| {
            let here = rates
                .iter()
                .filter(|r| r.layer == layer && r.label == *label && r.kind == "all");
            level_marks(label, colour(index), here.map(|r| (r.alpha, r.level)))
        });
        Panel {
            title: format!("layer {layer}"),
            x: Axis::of(ALPHA),
            y: Axis::rate(RATE),
            marks: marks.collect(),
            colours: None,
        }
    };
    distinct(rates.iter().map(|rate| rate.layer))
        .into_iter()
        .map(panel)
        .collect()
}

fn heatmaps(rates: &[&Rate<'_>]) -> Vec<Panel> {
    let typed: Vec<&&Rate<'_>> = rates.iter().filter(|rate| rate.kind != "all").collect();
    let panel = |(layer, label): (i64, &str)| {
        let here: Vec<&&&Rate<'_>> = typed
            .iter()
            .filter(|rate| rate.layer == layer && rate.label == label)
            .collect();
        let mut alphas = distinct(here.iter().map(|rate| rate.alpha));
        alphas.sort_by(f64::total_cmp);
        let kinds = distinct(here.iter().map(|rate| rate.kind));
        let cells = here.iter().filter_map(|rate| {
            let x = alphas.iter().position(|alpha| *alpha == rate.alpha)?;
            let y = kinds.iter().position(|kind| *kind == rate.kind)?;
            Some((x, y, Some(rate.level.value)))
        });
        Panel {
            title: format!("layer {layer}, {label}"),
            x: Axis::named(ALPHA, alphas.iter().map(f64::to_string).collect()),
            y: Axis::named(
                "type",
                kinds.iter().map(|kind| kind.replace('_', " ")).collect(),
            ),
            marks: vec![Mark::cells(RATE, cells)],
            colours: Some(ColourScale::rates(RATE)),
        }
    };
    distinct(typed.iter().map(|rate| (rate.layer, rate.label)))
        .into_iter()
        .map(panel)
        .collect()
}
