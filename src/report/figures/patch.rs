//! Patching: Δscore by site and layer, along the residual stream, and of the last K layers.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Shape, Table, colour};

use super::swept::{distinct, grouped};

/// The label of an axis of effects.
const DELTA: &str = "Δscore (patched − recipient)";

/// One row of the table of means.
struct Effect<'a> {
    site: &'a str,
    /// The layer, or K.
    number: i64,
    split: &'a str,
    delta: f64,
    recovery: Option<f64>,
}

pub(in crate::report) fn figures(stage: &FinishedStage) -> Vec<Figure> {
    let Some(table) = stage.table("mean") else {
        return Vec::new();
    };
    if table.has("k") {
        return last_k(stage, &effects(table, "k")).into_iter().collect();
    }
    let effects = effects(table, "layer");
    let mut figures: Vec<Figure> = heatmap(stage, &effects).into_iter().collect();
    figures.extend(curves(stage, &effects));
    figures
}

fn effects<'a>(table: &'a Table, number: &str) -> Vec<Effect<'a>> {
    let (sites, splits) = (table.text_at("site"), table.text_at("split"));
    let columns = [number, "mean_delta", "mean_recovery"];
    let [numbers, deltas, recoveries] = columns.map(|name| table.numbers(name));
    let effect = |row: usize| {
        Some(Effect {
            site: sites(row),
            number: numbers[row]? as i64,
            split: splits(row),
            delta: deltas[row]?,
            recovery: recoveries[row],
        })
    };
    (0..table.height()).filter_map(effect).collect()
}

fn heatmap(stage: &FinishedStage, effects: &[Effect<'_>]) -> Option<Figure> {
    let sites = distinct(effects.iter().map(|effect| effect.site));
    let layers = distinct(effects.iter().map(|effect| effect.number));
    if layers.len() < 2 {
        return None;
    }
    let values: Vec<Option<f64>> = effects.iter().map(|effect| Some(effect.delta)).collect();
    let panel = |(split, effects): (&str, Vec<&Effect<'_>>)| {
        let cells = effects.iter().filter_map(|effect| {
            let x = layers.iter().position(|layer| *layer == effect.number)?;
            let y = sites.iter().position(|site| *site == effect.site)?;
            Some((x, y, Some(effect.delta)))
        });
        Panel {
            colours: Some(ColourScale::diverging(DELTA, &values)),
            ..Panel::new(
                split,
                Axis::named("layer", layers.iter().map(i64::to_string).collect()),
                Axis::named("site", sites.iter().map(ToString::to_string).collect()),
                vec![Mark::cells("mean Δscore", cells)],
            )
        }
    };
    let splits = grouped(effects, |effect| effect.split);
    Some(Figure {
        title: "Where the score is carried: Δscore by site and layer".to_string(),
        note: "Mean over pairs of the change in score when the recipient's vector at one site and layer is the donor's.".to_string(),
        panels: splits.into_iter().map(panel).collect(),
        columns: 1,
        ..Figure::of(&stage.name, "heatmap")
    })
}

/// Effects along the layers: of the residual stream where it was patched, otherwise of every site.
fn curves(stage: &FinishedStage, effects: &[Effect<'_>]) -> Option<Figure> {
    let is_stream = |effect: &&Effect<'_>| ["resid_pre", "resid_post"].contains(&effect.site);
    let has_stream = effects.iter().any(|effect| is_stream(&effect));
    let kept = effects
        .iter()
        .filter(|effect| !has_stream || is_stream(effect));
    let kept: Vec<&Effect<'_>> = kept.collect();
    if distinct(kept.iter().map(|effect| effect.number)).len() < 2 {
        return None;
    }
    let along = |value: fn(&Effect<'_>) -> Option<f64>| {
        lines(&kept, |series| {
            let points = series.iter().map(|e| Some((e.number as f64, value(e)?)));
            points.flatten().collect()
        })
    };
    let title = match has_stream {
        true => "The residual stream over layers",
        false => "Effects over layers",
    };
    Some(Figure {
        title: title.to_string(),
        note: "Recovery is Δ / (donor − recipient), 1 where the patch alone gives the donor's score; the mean leaves out pairs that hardly differ (column `n_left_out`).".to_string(),
        panels: vec![
            panel("effect", "layer", DELTA, along(|e| Some(e.delta))),
            panel("normalised", "layer", "mean recovery (fraction)", along(|e| e.recovery)),
        ],
        columns: 2,
        ..Figure::of(&stage.name, "layers")
    })
}

/// Patching the last K layers at once, and what the K-th adds.
fn last_k(stage: &FinishedStage, effects: &[Effect<'_>]) -> Option<Figure> {
    let n_layers = effects.iter().map(|effect| effect.number).max()?;
    let all: Vec<&Effect<'_>> = effects.iter().collect();
    let curve = |series: &[&Effect<'_>]| {
        let points = series.iter().map(|e| (e.number as f64, e.delta));
        let mut curve: Vec<(f64, f64)> = points.collect();
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        curve
    };
    let added = |series: &[&Effect<'_>]| {
        let curve = curve(series);
        let before = std::iter::once(0.0).chain(curve.iter().map(|(_, delta)| *delta));
        // With K layers patched, the one that the K-th adds is n − K.
        let each = curve.iter().zip(before);
        each.map(|((k, delta), before)| (n_layers as f64 - k, delta - before))
            .collect()
    };
    let is_stream = effects.iter().all(|e| e.site.starts_with("resid"));
    let constant = match is_stream {
        true => {
            " For the residual stream the last layer's patch overwrites the others, so that the curve is constant by construction."
        }
        false => "",
    };
    Some(Figure {
        title: "Patching the last K layers at once".to_string(),
        note: format!("Right: what each layer adds when it joins those above it.{constant}"),
        panels: vec![
            panel(
                "last K layers",
                "K (layers patched)",
                DELTA,
                lines(&all, curve),
            ),
            panel(
                "marginal contribution",
                "layer that joins",
                "added Δscore",
                lines(&all, added),
            ),
        ],
        columns: 2,
        ..Figure::of(&stage.name, "last_k")
    })
}

/// A line for every site and split.
fn lines(effects: &[&Effect<'_>], points: impl Fn(&[&Effect<'_>]) -> Vec<(f64, f64)>) -> Vec<Mark> {
    let series = grouped(effects.iter().copied(), |effect| {
        (effect.site, effect.split)
    });
    let line = |(index, ((site, split), series)): (usize, (_, Vec<&Effect<'_>>))| {
        let name = format!("{site}, {split}");
        Mark::new(name, colour(index), Shape::Line, points(&series))
    };
    series.into_iter().enumerate().map(line).collect()
}

fn panel(title: &str, x: &str, y: &str, marks: Vec<Mark>) -> Panel {
    Panel::new(title, Axis::of(x), Axis::of(y), marks)
}
