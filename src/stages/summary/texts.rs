//! `texts`: how much the score refuses beside how much the texts do, at α = 0 and over all α, and how far they agree.

use std::collections::BTreeMap;

use polars::prelude::DataFrame;

use crate::stages::StageError;
use crate::stages::table::{self, Rows};
use crate::stats::{self, Interval};

use super::grid::{Grid, with_place};
use super::pool::{Estimate, Tally};

/// The classifiers of texts, by the names of their columns.
const CLASSIFIERS: [&str; 2] = ["regex", "xstest_prefix"];
/// The columns without which nothing can be compared.
const NEEDED: [&str; 4] = ["score", "refused", "alpha", "site"];

/// The score against one classifier's reading of the texts at a place.
#[derive(Clone, Debug)]
pub(super) struct Compared<'a> {
    /// The learned direction's sweep.
    pub(super) grid: &'a Grid,
    pub(super) classifier: &'static str,
    /// Whether only texts of α = 0 count.
    pub(super) is_plain: bool,
    pub(super) n: usize,
    pub(super) prompts: usize,
    /// Share of refusals by the score, its interval over prompts.
    pub(super) by_score: Option<Estimate>,
    /// The same by the classifier.
    pub(super) by_text: Option<Estimate>,
    /// Share of texts of which both say the same.
    pub(super) agreement: f64,
    pub(super) kappa: Option<f64>,
    /// Of κ, over prompts.
    pub(super) interval: Option<Interval>,
    /// How well the score tells the texts apart, whatever the threshold.
    pub(super) auroc: Option<f64>,
}

/// One text.
#[derive(Clone, Copy)]
struct Case<'a> {
    prompt: &'a str,
    score: f64,
    by_score: bool,
    by_text: bool,
}

/// For each place and classifier the texts of α = 0, where there are others, too, and all of them. Empty for a table without scores.
pub(super) fn compare<'a>(
    places: impl IntoIterator<Item = &'a Grid>,
    texts: &DataFrame,
    seed: u64,
) -> Result<Vec<Compared<'a>>, StageError> {
    let mut needed = NEEDED.iter().chain(&CLASSIFIERS);
    if !needed.all(|name| texts.column(name).is_ok()) {
        return Ok(Vec::new());
    }
    let ids = table::read_text(texts, "id")?;
    let alphas = table::read_numbers(texts, "alpha")?;
    let scores = table::read_numbers(texts, "score")?;
    let by_score = texts.column("refused")?.bool()?;
    let mut compared = Vec::new();
    for grid in places {
        let here = rows_at(texts, grid)?;
        let plain: Vec<usize> = here.iter().copied().filter(|r| alphas[*r] == 0.0).collect();
        let is_all_plain = plain.len() == here.len();
        for classifier in CLASSIFIERS {
            let by_text = texts.column(classifier)?.bool()?;
            let case = |row: &usize| Case {
                prompt: &ids[*row],
                score: scores[*row],
                by_score: by_score.get(*row).unwrap_or_default(),
                by_text: by_text.get(*row).unwrap_or_default(),
            };
            for (rows, is_plain) in [(&plain, true), (&here, false)] {
                let cases: Vec<Case<'_>> = rows.iter().map(case).collect();
                if !cases.is_empty() && (is_plain || !is_all_plain) {
                    compared.push(compared_at(grid, (classifier, is_plain), &cases, seed)?);
                }
            }
        }
    }
    Ok(compared)
}

/// The texts that were written along the directions at one place, or without any.
fn rows_at(texts: &DataFrame, grid: &Grid) -> Result<Vec<usize>, StageError> {
    let (models, sites) = (
        table::read_text(texts, "model")?,
        table::read_text(texts, "site")?,
    );
    let layers = table::read_integers(texts, "layer")?;
    let is_here = |row: &usize| {
        let is_unedited = sites[*row] == "none";
        let is_edited_here = layers[*row] == Some(grid.layer) && sites[*row] == grid.site;
        models[*row] == grid.model && (is_unedited || is_edited_here)
    };
    Ok((0..texts.height()).filter(is_here).collect())
}

fn compared_at<'a>(
    grid: &'a Grid,
    (classifier, is_plain): (&'static str, bool),
    cases: &[Case<'_>],
    seed: u64,
) -> Result<Compared<'a>, StageError> {
    let mut of_prompts: BTreeMap<&str, [[u64; 2]; 2]> = BTreeMap::new();
    for case in cases {
        let counts = of_prompts.entry(case.prompt).or_default();
        counts[usize::from(!case.by_score)][usize::from(!case.by_text)] += 1;
    }
    let of_prompts: Vec<[[u64; 2]; 2]> = of_prompts.into_values().collect();
    let together = stats::together(&of_prompts);
    let [[both, score_only], [text_only, neither]] = together;
    let rate = |refused: u64| {
        let tally = Tally {
            rows: cases.len() as u64,
            refused,
            prompts: of_prompts.len() as u64,
        };
        tally.rate()
    };
    let scored: Vec<(f64, bool)> = cases.iter().map(|c| (c.score, c.by_text)).collect();
    Ok(Compared {
        grid,
        classifier,
        is_plain,
        n: cases.len(),
        prompts: of_prompts.len(),
        by_score: rate(both + score_only)?,
        by_text: rate(both + text_only)?,
        agreement: (both + neither) as f64 / cases.len() as f64,
        kappa: stats::cohens_kappa(together),
        interval: stats::kappa_interval(&of_prompts, seed),
        auroc: stats::auroc(&scored)?,
    })
}

impl Compared<'_> {
    /// How much score and texts refuse, in words.
    pub(super) fn rates(&self) -> String {
        let percent = |rate: Option<Estimate>| 100.0 * rate.map_or(0.0, |rate| rate.value);
        format!(
            "the score refuses {:.1} %, the texts {:.1} % of {}",
            percent(self.by_score),
            percent(self.by_text),
            self.n
        )
    }
}

/// Columns: `model, layer, site, classifier, over, n, prompts, score_rate, score_rate_low, score_rate_high, text_rate, text_rate_low,
/// text_rate_high, agreement, kappa, kappa_low, kappa_high, auroc`.
pub(super) fn table(compared: &[Compared<'_>]) -> Result<DataFrame, StageError> {
    with_place(Rows::of(compared), |row| row.grid)
        .text("classifier", |row| row.classifier)
        .text("over", |row| match row.is_plain {
            true => "α = 0",
            false => "all α",
        })
        .integer("n", |row| row.n as i64)
        .integer("prompts", |row| row.prompts as i64)
        .number("score_rate", |row| Some(row.by_score?.value))
        .ends(["score_rate_low", "score_rate_high"], |row| {
            row.by_score?.interval
        })
        .number("text_rate", |row| Some(row.by_text?.value))
        .ends(["text_rate_low", "text_rate_high"], |row| {
            row.by_text?.interval
        })
        .number("agreement", |row| row.agreement)
        .number("kappa", |row| row.kappa)
        .ends(["kappa_low", "kappa_high"], |row| row.interval)
        .number("auroc", |row| row.auroc)
        .frame()
}
