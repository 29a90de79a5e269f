//! What is gained against what is lost, and each of both against α.

use polars::prelude::DataFrame;

use crate::figure::{Axis, BASELINE, Figure, Mark, PALETTE, Panel, Shape, colour};
use crate::stages::place::{NONE, RANDOM};
use crate::stages::rules::{rule_of, score_in_words};
use crate::stages::{Artifacts, StageError, distinct, table};
use crate::stats;

/// A mean divergence of the next token of harmless prompts up to which an edit is commonly taken to leave a model as it is (the bound of
/// refusal_direction's choice).
const KEEPS: f64 = 0.1;

/// What is drawn against α: the column, both ends of its interval where it has one, and what the axis says.
const AGAINST_ALPHA: [(&str, [&str; 2], &str); 5] = [
    (
        "change",
        ["change_low", "change_high"],
        "change of the score",
    ),
    ("kl", ["kl_low", "kl_high"], "KL of the next token (nats)"),
    (
        "texts_change",
        ["texts_change_low", "texts_change_high"],
        "change of cross-entropy, texts",
    ),
    (
        "answers_change",
        ["answers_change_low", "answers_change_high"],
        "change of cross-entropy, own answers",
    ),
    ("accuracy", ["accuracy_low", "accuracy_high"], "accuracy"),
];

/// The runs of a table.
struct Runs<'t> {
    frame: &'t DataFrame,
    models: Vec<String>,
    directions: Vec<String>,
    layers: Vec<Option<i64>>,
    alphas: Vec<Option<f64>>,
}

/// A run with both of its numbers.
#[derive(Clone, Copy)]
struct Run {
    row: usize,
    cost: f64,
    gain: f64,
}

impl<'t> Runs<'t> {
    fn of(frame: &'t DataFrame) -> Result<Self, StageError> {
        Ok(Runs {
            frame,
            models: table::read_text(frame, "model")?,
            directions: table::read_text(frame, "direction")?,
            layers: table::read_integers(frame, "layer")?,
            alphas: frame.column("alpha")?.f64()?.iter().collect(),
        })
    }

    fn has(&self, column: &str) -> bool {
        self.frame.column(column).is_ok()
    }

    /// The numbers of a column; none of one that is not there.
    fn numbers(&self, column: &str) -> Vec<Option<f64>> {
        let column = self.frame.column(column).and_then(|column| column.f64());
        column.map_or(vec![None; self.models.len()], |column| {
            column.iter().collect()
        })
    }

    fn is_random(&self, row: usize) -> bool {
        self.directions[row].starts_with(RANDOM)
    }

    /// The runs of a model that are edited.
    fn edited(&self, model: &str) -> Vec<usize> {
        let rows = 0..self.models.len();
        rows.filter(|&row| self.models[row] == model && self.directions[row] != NONE)
            .collect()
    }

    /// What a learned direction is called, and where it is.
    fn name(&self, row: usize) -> String {
        match self.layers[row] {
            Some(layer) => format!("{}, layer {layer}", self.directions[row]),
            None => self.directions[row].clone(),
        }
    }

    /// What stands beside a point.
    fn label(&self, row: usize) -> String {
        self.alphas[row].map_or(String::new(), |alpha| alpha.to_string())
    }
}

pub(super) fn figures(stage: &str, left: &Artifacts) -> Result<Vec<Figure>, StageError> {
    let frame = left.table("")?;
    let runs = Runs::of(&frame)?;
    let models = distinct(runs.models.iter().cloned());
    let mut figures = Vec::new();
    for (index, model) in models.iter().enumerate() {
        let (suffix, of_model) = match models.len() {
            1 => (String::new(), String::new()),
            // A model may be called what a file may not.
            _ => (format!(".{index}"), format!(", model {model}")),
        };
        let drawn = [
            gain(stage, &runs, model)?,
            against_alpha(stage, &runs, model),
        ];
        for figure in drawn.into_iter().flatten() {
            figures.push(Figure {
                name: format!("{}{suffix}", figure.name),
                title: format!("{}{of_model}", figure.title),
                ..figure
            });
        }
    }
    Ok(figures)
}

/// What an edit does to the score against how far it moves the next token elsewhere; none where one of both is not measured.
fn gain(stage: &str, runs: &Runs<'_>, model: &str) -> Result<Option<Figure>, StageError> {
    if !runs.has("kl") || !runs.has("change") {
        return Ok(None);
    }
    let (costs, gains) = (runs.numbers("kl"), runs.numbers("change"));
    let run = |row: usize| {
        Some(Run {
            row,
            cost: costs[row]?,
            gain: gains[row]?,
        })
    };
    let all: Vec<Run> = runs.edited(model).into_iter().filter_map(run).collect();
    let (random, learned): (Vec<Run>, Vec<Run>) =
        all.iter().partition(|run| runs.is_random(run.row));
    let points = |of: &[Run]| -> Vec<(f64, f64)> { of.iter().map(|r| (r.cost, r.gain)).collect() };
    let labels = |of: &[Run]| -> Vec<String> { of.iter().map(|r| runs.label(r.row)).collect() };
    let mut marks = Vec::new();
    if !random.is_empty() {
        let cloud = Mark::new("random directions", BASELINE, Shape::Cloud, points(&random));
        marks.push(cloud.labelled(labels(&random)));
    }
    let names = distinct(learned.iter().map(|run| runs.name(run.row)));
    for side in [1.0, -1.0] {
        let front = front(&learned, side)?;
        marks.push(Mark::new(
            "Pareto front",
            PALETTE[6],
            Shape::Dashed,
            points(&front),
        ));
    }
    for (index, name) in names.iter().enumerate() {
        let of_name = learned.iter().copied();
        let mut of_name: Vec<Run> = of_name.filter(|run| runs.name(run.row) == *name).collect();
        let alpha = |run: &Run| runs.alphas[run.row].unwrap_or_default();
        of_name.sort_by(|a, b| alpha(a).total_cmp(&alpha(b)));
        let mark = Mark::new(name, colour(index), Shape::Points, points(&of_name));
        marks.push(mark.labelled(labels(&of_name)));
    }
    let score = score_in_words(rule_of(runs.frame));
    let cost = Axis {
        low: Some(0.0),
        ..Axis::of("KL of the next token, prompts that are to stay as they are (nats)")
    };
    Ok(Some(Figure {
        title: "What is gained and what it costs".to_string(),
        note: format!(
            "A point is an α (written beside it where there is room); further from the middle line does more, further left costs less. The broken line \
             joins those that no other beats at its cost, upwards and downwards. {}",
            sentence(runs, &learned, &random)
        ),
        panels: vec![Panel::new(
            "",
            cost,
            Axis::of(format!("change of the mean {score}")),
            marks,
        )],
        columns: 1,
        ..Figure::of(stage, "gain")
    }))
}

/// The runs that move the score to one side, and that none beats which costs no more; from where nothing is done.
fn front(learned: &[Run], side: f64) -> Result<Vec<Run>, StageError> {
    let there: Vec<Run> = learned
        .iter()
        .copied()
        .filter(|r| r.gain * side > 0.0)
        .collect();
    let points: Vec<(f64, f64)> = there.iter().map(|r| (r.cost, r.gain * side)).collect();
    let front = stats::pareto_front(&points)?;
    Ok(front.into_iter().map(|index| there[index]).collect())
}

/// What the most is that the score changes at little cost, beside random directions.
fn sentence(runs: &Runs<'_>, learned: &[Run], random: &[Run]) -> String {
    let most = |of: &[Run]| {
        let cheap = of.iter().copied().filter(|run| run.cost <= KEEPS);
        cheap.max_by(|a, b| a.gain.abs().total_cmp(&b.gain.abs()))
    };
    let Some(best) = most(learned).filter(|run| run.gain != 0.0) else {
        return format!("No edit that changes the score keeps the KL at or below {KEEPS}.");
    };
    let alpha = match runs.alphas[best.row] {
        Some(alpha) => format!(" with α = {alpha}"),
        None => String::new(),
    };
    let beside = match (random.is_empty(), most(random)) {
        (true, _) => String::new(),
        (false, Some(run)) => format!("; of random directions the most is {:+.2}", run.gain),
        (false, None) => "; no random direction keeps it there".to_string(),
    };
    format!(
        "With a KL of at most {KEEPS} the score changes most along {}{alpha}: by {:+.2}{beside}.",
        runs.name(best.row),
        best.gain
    )
}

/// Everything that is measured against α; none of what is done without.
fn against_alpha(stage: &str, runs: &Runs<'_>, model: &str) -> Option<Figure> {
    let rows = runs.edited(model);
    if rows.iter().all(|&row| runs.alphas[row].is_none()) {
        return None;
    }
    let (random, learned): (Vec<usize>, Vec<usize>) =
        rows.into_iter().partition(|&row| runs.is_random(row));
    let names = distinct(learned.iter().map(|&row| runs.name(row)));
    let panel = |(column, ends, axis): (&str, [&str; 2], &str)| {
        let (values, ends) = (runs.numbers(column), ends.map(|end| runs.numbers(end)));
        let mut marks = spread(runs, &random, &values);
        for (index, name) in names.iter().enumerate() {
            let mut of_name: Vec<usize> = learned.clone();
            of_name.retain(|&row| runs.name(row) == *name);
            of_name.sort_by(|&a, &b| {
                let alpha = |row: usize| runs.alphas[row].unwrap_or_default();
                alpha(a).total_cmp(&alpha(b))
            });
            let edges = of_name
                .iter()
                .filter_map(|&row| Some((runs.alphas[row]?, ends[0][row]?, ends[1][row]?)));
            marks.push(Mark::band(format!("{name}, 95 %"), colour(index), edges));
            let points = of_name
                .iter()
                .filter_map(|&row| Some((runs.alphas[row]?, values[row]?)));
            marks.push(Mark::new(name, colour(index), Shape::Line, points));
        }
        Panel::new("", Axis::of("α"), Axis::of(axis), marks)
    };
    let measured = AGAINST_ALPHA
        .into_iter()
        .filter(|(column, ..)| runs.has(column));
    Some(Figure {
        title: "What α does and what it costs".to_string(),
        note: "Coloured band: 95 % interval over prompts. Grey: from the lowest to the highest of the random directions, and their mean as a broken line."
            .to_string(),
        panels: measured.map(panel).collect(),
        columns: 2,
        ..Figure::of(stage, "over_alpha")
    })
}

/// Random directions at each α: from the lowest to the highest, and their mean.
fn spread(runs: &Runs<'_>, random: &[usize], values: &[Option<f64>]) -> Vec<Mark> {
    let mut alphas: Vec<f64> = random.iter().filter_map(|&row| runs.alphas[row]).collect();
    alphas.sort_by(f64::total_cmp);
    alphas.dedup();
    let (mut edges, mut means) = (Vec::new(), Vec::new());
    for alpha in alphas {
        let here = random
            .iter()
            .filter(|&&row| runs.alphas[row] == Some(alpha));
        let here: Vec<f64> = here.filter_map(|&row| values[row]).collect();
        if here.is_empty() {
            continue;
        }
        let (low, high) = crate::figure::ends(here.iter().copied());
        edges.push((alpha, low, high));
        means.push((alpha, here.iter().sum::<f64>() / here.len() as f64));
    }
    match edges.is_empty() {
        true => Vec::new(),
        false => vec![
            Mark::band("random directions", BASELINE, edges),
            Mark::new("their mean", BASELINE, Shape::Dashed, means),
        ],
    }
}
