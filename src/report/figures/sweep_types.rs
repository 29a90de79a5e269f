//! XSTest: rates by type and α as a heatmap, and by label against α.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Table, colour};
use crate::stages::rules::{REFUSED, rate_column, rate_in_words, rule_of};

use super::sweep::level_marks;
use super::swept::{Level, distinct, grouped, levels};
use super::{ALPHA, Context, of_model};

/// The table of the first score rule's rates.
const RATES: &str = "rates";
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
    let tables = stage.tables.iter();
    let tables = tables.filter(|(name, _)| name == RATES || name.ends_with("_rates"));
    let figures = tables.flat_map(|(name, table)| figures_of(stage, name, table));
    figures.collect()
}

/// The figures of the rates by one score rule. Those of a further rule are called after it, too.
fn figures_of(stage: &FinishedStage, name: &str, table: &Table) -> Vec<Figure> {
    let rule = rule_of(&table.frame);
    let (rate, suffix) = match name {
        RATES => (rate_in_words(rule), String::new()),
        _ => (rate_in_words(rule), format!(".{rule}")),
    };
    let (asked, title) = match rule {
        REFUSED => (
            "Safe prompts should be answered, unsafe ones refused. ",
            "XSTest refusal rates".to_string(),
        ),
        _ => ("", format!("XSTest: {rate}s")),
    };
    let rates = rates(table, rule);
    let by_model = grouped(&rates, |rate| rate.model);
    let models: Vec<String> = by_model
        .iter()
        .map(|(model, _)| model.to_string())
        .collect();
    let figures = by_model.iter().flat_map(|(model, rates)| {
        let figure = |kind: &str, against: &str| {
            let kind = format!("{kind}{suffix}");
            of_model(&stage.name, &models, model, &kind, &format!("{title} {against}"))
        };
        let note = "No random directions were tried on these prompts.";
        [
            Figure {
                note: format!("Bands: Wilson 95 % intervals. {asked}{note}"),
                panels: panels_by_label(rates, &rate),
                columns: 3,
                ..figure("labels", "against α")
            },
            Figure {
                note: format!("All prompts; the table has the rates without those that built the direction, too. {note}"),
                panels: heatmaps(rates, &rate),
                columns: 2,
                ..figure("types", "by type and α")
            },
        ]
    });
    figures.collect()
}

fn rates<'a>(table: &'a Table, rule: &str) -> Vec<Rate<'a>> {
    let text = |name: &str| table.text_at(name);
    let (models, labels, kinds) = (text("model"), text("label"), text("type"));
    let (layers, alphas) = (table.numbers("layer"), table.numbers("alpha"));
    let rates = levels(table, [&rate_column(rule), "rate_low", "rate_high"]);
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

fn panels_by_label(rates: &[&Rate<'_>], words: &str) -> Vec<Panel> {
    let labels = distinct(rates.iter().map(|rate| rate.label));
    let panel = |(layer, rates): (i64, Vec<&&Rate<'_>>)| {
        let marks = labels.iter().enumerate().flat_map(|(index, label)| {
            let here = rates.iter().filter(|r| r.label == *label && r.kind == ALL);
            level_marks(label, colour(index), here.map(|r| (r.alpha, r.level)))
        });
        let (x, y) = (Axis::of(ALPHA), Axis::rate(words));
        Panel::new(format!("layer {layer}"), x, y, marks.collect())
    };
    let by_layer = grouped(rates, |rate| rate.layer);
    by_layer.into_iter().map(panel).collect()
}

fn heatmaps(rates: &[&Rate<'_>], words: &str) -> Vec<Panel> {
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
            colours: Some(ColourScale::rates(words)),
            ..Panel::new(
                format!("layer {layer}, {label}"),
                Axis::named(ALPHA, alphas.iter().map(f64::to_string).collect()),
                Axis::named("type", names.collect()),
                vec![Mark::cells(words, cells)],
            )
        }
    };
    let typed = rates.iter().filter(|rate| rate.kind != ALL);
    let by_label = grouped(typed, |rate| (rate.layer, rate.label));
    by_label.into_iter().map(panel).collect()
}
