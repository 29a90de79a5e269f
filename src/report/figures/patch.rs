//! Patching: Δscore by site and layer, along the residual stream, and of the last K layers.

use crate::report::{Axis, ColourScale, Figure, FinishedStage, Mark, Panel, Shape, Table, colour};

use super::swept::distinct;

/// The label of an axis of effects.
const DELTA: &str = "Δscore (patched − recipient)";

/// One row of the table of means.
struct Effect {
    site: String,
    /// The layer, or K.
    number: i64,
    split: String,
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

fn effects(table: &Table, number: &str) -> Vec<Effect> {
    let (sites, splits) = (table.texts("site"), table.texts("split"));
    let numbers = table.numbers(number);
    let (deltas, recoveries) = (table.numbers("mean_delta"), table.numbers("mean_recovery"));
    let effect = |row: usize| {
        Some(Effect {
            site: sites[row].clone(),
            number: numbers[row]? as i64,
            split: splits[row].clone(),
            delta: deltas[row]?,
            recovery: recoveries[row],
        })
    };
    (0..table.height()).filter_map(effect).collect()
}

fn heatmap(stage: &FinishedStage, effects: &[Effect]) -> Option<Figure> {
    let sites = distinct(effects.iter().map(|effect| effect.site.clone()));
    let layers = distinct(effects.iter().map(|effect| effect.number));
    if layers.len() < 2 {
        return None;
    }
    let values: Vec<Option<f64>> = effects.iter().map(|effect| Some(effect.delta)).collect();
    let panel = |split: &str| {
        let of_split = effects.iter().filter(|effect| effect.split == split);
        let cells = of_split.filter_map(|effect| {
            let x = layers.iter().position(|layer| *layer == effect.number)?;
            let y = sites.iter().position(|site| *site == effect.site)?;
            Some((x, y, Some(effect.delta)))
        });
        Panel {
            title: split.to_string(),
            x: Axis::named("layer", layers.iter().map(i64::to_string).collect()),
            y: Axis::named("site", sites.clone()),
            marks: vec![Mark::cells("mean Δscore", cells)],
            colours: Some(ColourScale::diverging(DELTA, &values)),
        }
    };
    let splits = distinct(effects.iter().map(|effect| effect.split.as_str()));
    Some(Figure {
        name: format!("{}.heatmap", stage.name),
        stage: stage.name.clone(),
        title: "Where the score is carried: Δscore by site and layer".to_string(),
        note: "Mean over pairs of the change in score when the recipient's vector at one site and layer is the donor's.".to_string(),
        panels: splits.into_iter().map(panel).collect(),
        columns: 1,
    })
}

/// Effects along the layers: of the residual stream where it was patched, otherwise of every site.
fn curves(stage: &FinishedStage, effects: &[Effect]) -> Option<Figure> {
    let is_stream = |site: &str| site == "resid_pre" || site == "resid_post";
    let has_stream = effects.iter().any(|effect| is_stream(&effect.site));
    let kept: Vec<&Effect> = effects
        .iter()
        .filter(|effect| !has_stream || is_stream(&effect.site))
        .collect();
    let layers = distinct(kept.iter().map(|effect| effect.number));
    if layers.len() < 2 {
        return None;
    }
    let series = distinct(kept.iter().map(|e| (e.site.as_str(), e.split.as_str())));
    let marks = |value: &dyn Fn(&Effect) -> Option<f64>| -> Vec<Mark> {
        let mark = |(index, (site, split)): (usize, &(&str, &str))| {
            let of_series = kept.iter().filter(|e| e.site == *site && e.split == *split);
            let points = of_series.filter_map(|e| Some((e.number as f64, value(e)?)));
            Mark::new(
                format!("{site}, {split}"),
                colour(index),
                Shape::Line,
                points,
            )
        };
        series.iter().enumerate().map(mark).collect()
    };
    let panel = |title: &str, label: &str, marks: Vec<Mark>| Panel {
        title: title.to_string(),
        x: Axis::of("layer"),
        y: Axis::of(label),
        marks,
        colours: None,
    };
    Some(Figure {
        name: format!("{}.layers", stage.name),
        stage: stage.name.clone(),
        title: if has_stream { "The residual stream over layers" } else { "Effects over layers" }.to_string(),
        note: "Recovery is Δ / (donor − recipient), 1 where the patch alone gives the donor's score; the mean leaves out pairs that hardly differ (column `n_left_out`).".to_string(),
        panels: vec![
            panel("effect", DELTA, marks(&|e| Some(e.delta))),
            panel("normalised", "mean recovery (fraction)", marks(&|e| e.recovery)),
        ],
        columns: 2,
    })
}

/// Patching the last K layers at once, and what the K-th adds.
fn last_k(stage: &FinishedStage, effects: &[Effect]) -> Option<Figure> {
    let n_layers = effects.iter().map(|effect| effect.number).max()?;
    let series = distinct(effects.iter().map(|e| (e.site.as_str(), e.split.as_str())));
    let curve = |site: &str, split: &str| {
        let of_series = effects
            .iter()
            .filter(|e| e.site == site && e.split == split);
        let mut curve: Vec<(f64, f64)> = of_series.map(|e| (e.number as f64, e.delta)).collect();
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        curve
    };
    let name = |site: &str, split: &str| format!("{site}, {split}");
    let mut total = Vec::new();
    let mut added = Vec::new();
    for (index, (site, split)) in series.into_iter().enumerate() {
        let curve = curve(site, split);
        let before = std::iter::once(0.0).chain(curve.iter().map(|(_, delta)| *delta));
        // With K layers patched, the one that the K-th adds is n − K.
        let each = curve
            .iter()
            .zip(before)
            .map(|((k, delta), before)| (n_layers as f64 - k, delta - before));
        added.push(Mark::new(
            name(site, split),
            colour(index),
            Shape::Line,
            each,
        ));
        total.push(Mark::new(
            name(site, split),
            colour(index),
            Shape::Line,
            curve.clone(),
        ));
    }
    let stream = effects
        .iter()
        .all(|effect| effect.site.starts_with("resid"));
    let constant = if stream {
        " For the residual stream the last layer's patch overwrites the others, so that the curve is constant by construction."
    } else {
        ""
    };
    Some(Figure {
        name: format!("{}.last_k", stage.name),
        stage: stage.name.clone(),
        title: "Patching the last K layers at once".to_string(),
        note: format!("Right: what each layer adds when it joins those above it.{constant}"),
        panels: vec![
            Panel {
                title: "last K layers".to_string(),
                x: Axis::of("K (layers patched)"),
                y: Axis::of(DELTA),
                marks: total,
                colours: None,
            },
            Panel {
                title: "marginal contribution".to_string(),
                x: Axis::of("layer that joins"),
                y: Axis::of("added Δscore"),
                marks: added,
                colours: None,
            },
        ],
        columns: 2,
    })
}
