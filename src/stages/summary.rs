//! `summary`: the statistics of sweeps, with intervals and controls.
//!
//! Any of `steer`, `holdout`, `random` and `xstest` may be given; each is the name of a stage that sweeps. Two splits are compared:
//! `edge` prompts, which should be answered, and `harmful` ones, which should be refused; gap = harmful rate − edge rate. On a holdout
//! sweep edge is the held-out half. The main table describes every (source, model, layer, α, set). The others, each left out
//! where its source is not given:
//!
//! | table | what it holds | file |
//! |---|---|---|
//! | `controls` | rates and gap over the seeds of holdout and random | `summary/controls.rs` |
//! | `generalisation` | how far held-out rates lie from training rates | `summary/controls.rs` |
//! | `pareto` | α with the fewest edge and the most harmful refusals | `summary/operating.rs` |
//! | `operating_points` | the α that a reader asks for first | `summary/operating.rs` |
//! | `learned_vs_random` | slope and largest gap against random directions | `summary/learned.rs` |
//! | `xstest` | rates by label and type, with and without builders | `summary/xstest.rs` |
//! | `direction_cosines` | how much the holdout directions of different seeds and layers have in common | `summary/stability.rs` |
//! | `agreement` | generated texts against the score (κ), of the stage that `generate` names | `generate/tables.rs` |
//!
//! An imported sweep may have a row for each group of prompts instead of one for each prompt (`summary/grid.rs`): the same tables, but
//! means and slopes have no intervals over prompts.
//!
//! A sweep over many seeds has many rows of one prompt, which are not independent. Means and rates are over all rows, and intervals
//! are over prompts: see `summary/pool.rs`.

use polars::prelude::DataFrame;
use serde_json::{Value as Json, json};

use crate::spec::{Fields, Location, Problems, Spanned};
use crate::stats::{self, StatsError, Targets};

use super::parameters::Settings;
use super::{
    Cost, Evaluate, Forecast, Inputs, Kind, Name, Needs, Output, Product, Stage, StageError,
};

mod controls;
mod describe;
mod grid;
mod learned;
mod operating;
mod pool;
mod stability;
mod xstest;

use grid::{Source, Splits};

pub(super) static KIND: Kind = Kind {
    name: "summary",
    version: 4,
    product: Product::Summary,
    about: "rates with intervals, operating points, and controls",
    decode,
};

struct Summary {
    /// At least one, in the order of [`Source::ALL`].
    sources: Vec<(Source, Name)>,
    splits: Splits,
    places: Places,
    targets: Targets,
    /// Seed of the bootstrap.
    seed: u64,
    /// A stage of texts, whose agreement with the score is told.
    generate: Option<Name>,
}

/// Where the splits' names were written, if they were.
struct Places {
    edge: Option<Location>,
    harmful: Option<Location>,
}

fn decode(fields: &mut Fields<'_, '_>, _settings: &Settings) -> Option<Box<dyn Stage>> {
    let sources: Vec<(Source, Name)> = Source::ALL
        .into_iter()
        .filter_map(|source| Some((source, fields.optional(source.name())?)))
        .collect();
    if Source::ALL
        .iter()
        .all(|source| fields.node(source.name()).is_none())
    {
        let at = fields.at();
        fields
            .problems()
            .error_at(at, "a summary needs at least one sweep")
            .label("expected `steer`, `holdout`, `random` or `xstest`, with the name of a stage");
    }
    let edge = fields.optional::<Name>("edge");
    let harmful = fields.optional::<Name>("harmful");
    let edge_target = target(fields, "edge_target", Targets::default().edge);
    let harmful_target = target(fields, "harmful_target", Targets::default().harmful);
    let seed = fields.or("seed", 0);
    let generate = fields.optional("generate");
    Some(Box::new(Summary {
        sources: (!sources.is_empty()).then_some(sources)?,
        places: Places {
            edge: edge.as_ref().map(|name| name.at.clone()),
            harmful: harmful.as_ref().map(|name| name.at.clone()),
        },
        splits: Splits {
            edge: edge.map_or("edge".to_string(), |name| name.value),
            harmful: harmful.map_or("harmful".to_string(), |name| name.value),
        },
        targets: Targets {
            edge: edge_target?,
            harmful: harmful_target?,
        },
        seed,
        generate,
    }))
}

/// A refusal rate to stay at or below, 0 to 1.
fn target(fields: &mut Fields<'_, '_>, name: &'static str, default: f64) -> Option<f64> {
    let Some(target) = fields.optional::<Spanned<f64>>(name) else {
        return Some(default);
    };
    if (0.0..=1.0).contains(&target.value) {
        return Some(target.value);
    }
    fields
        .problems()
        .error_at(
            &target.at,
            format!("{name} `{}` is not a rate", target.value),
        )
        .label("expected a number from 0 to 1");
    None
}

impl Stage for Summary {
    fn needs(&self) -> Needs {
        let sources = self.sources.iter();
        let texts = self.generate.iter();
        let texts = texts.map(|name| (name.clone(), Product::Texts));
        Needs {
            stages: sources
                .map(|(_, name)| (name.clone(), Product::Sweep))
                .chain(texts)
                .collect(),
            ..Needs::default()
        }
    }

    fn parameters(&self) -> Json {
        json!({
            // Which input is which; their content is in the key already.
            "sources": self.sources.iter().map(|(source, _)| source.name()).collect::<Vec<_>>(),
            "edge": self.splits.edge,
            "harmful": self.splits.harmful,
            "edge_target": self.targets.edge,
            "harmful_target": self.targets.harmful,
            "resamples": stats::BOOTSTRAP_RESAMPLES,
            "seed": self.seed,
            "generate": self.generate.is_some(),
        })
    }

    fn forecast(&self, _inputs: &Inputs) -> Forecast {
        Forecast::default()
    }

    fn check(&self, inputs: &Inputs, problems: &mut Problems) {
        for (source, name) in &self.sources {
            let Some(forecast) = inputs.forecast(name) else {
                continue;
            };
            if !forecast.has_alpha && !forecast.sets.is_empty() {
                problems
                    .error_at(
                        &name.at,
                        format!("stage `{}` has no α to summarise", name.value),
                    )
                    .label("an ablation is one setting, not a sweep");
            }
            if *source != Source::XsTest {
                self.check_sets(*source, name, &forecast.sets, problems);
            }
        }
    }

    fn cost(&self, _inputs: &Inputs) -> Cost {
        Cost::default()
    }

    fn run(&self, inputs: &Inputs, _evaluator: &mut dyn Evaluate) -> Result<Output, StageError> {
        let mut grids = Vec::new();
        for (source, name) in &self.sources {
            let swept = inputs.stage(name)?;
            if !swept.has_table("") {
                return Err(StageError::Data(format!(
                    "stage `{}` has no scores of prompts and no rates of groups to summarise",
                    name.value
                )));
            }
            let found = grid::read(*source, &swept.table("")?).map_err(|problem| {
                StageError::Data(format!("stage `{}`: {problem}", name.value))
            })?;
            grids.extend(found);
        }
        let mut cosines = None;
        let mut agreement = None;
        for (source, name) in &self.sources {
            // An imported holdout has no directions, and so no cosines.
            let swept = inputs.stage(name)?;
            if *source == Source::Holdout && swept.has_table("cosine") {
                cosines = Some(stability::table(&swept.table("cosine")?)?);
            }
        }
        if let Some(name) = &self.generate {
            let texts = inputs.stage(name)?;
            if texts.has_table("agreement") {
                agreement = Some(texts.table("agreement")?);
            }
        }
        let comparisons = learned::compare(&grids, &self.splits, self.seed)?;
        let candidates = [
            ("", describe::table(&grids, self.seed)?),
            ("controls", controls::table(&grids, &self.splits)?),
            (
                "generalisation",
                controls::generalisation(&grids, &self.splits)?,
            ),
            ("pareto", operating::pareto(&grids, &self.splits)?),
            (
                "operating_points",
                operating::table(&grids, &self.splits, self.targets)?,
            ),
            ("learned_vs_random", learned::table(&comparisons)?),
        ];
        let others = [("direction_cosines", cosines), ("agreement", agreement)];
        let others = others.into_iter();
        let kept = candidates
            .into_iter()
            .chain(others.filter_map(|(name, table)| Some((name, table?))))
            .filter(|(_, table)| table.height() > 0);
        let mut findings = self.missing();
        findings.extend(learned::findings(&comparisons, &grids));
        findings.extend(xstest::finding(&grids));
        Ok(Output {
            tables: kept
                .map(|(name, table)| (name.to_string(), table))
                .collect(),
            findings,
            ..Output::default()
        })
    }
}

impl Summary {
    /// Checks that a sweep has the two sets that are compared.
    fn check_sets(&self, source: Source, sweep: &Name, sets: &[String], problems: &mut Problems) {
        let wanted = [
            (source.edge_set(&self.splits), self.places.edge.as_ref()),
            (self.splits.harmful.clone(), self.places.harmful.as_ref()),
        ];
        for (set, at) in wanted {
            if !sets.is_empty() && !sets.contains(&set) {
                let message = format!("stage `{}` has no prompts called `{set}`", sweep.value);
                problems
                    .error_at(at.unwrap_or(&sweep.at), message)
                    .label(format!("it has `{}`", sets.join("`, `")))
                    .help("say which splits are compared with `edge` and `harmful`");
            }
        }
    }

    /// What a reader has to do without because a source is not given.
    fn missing(&self) -> Vec<String> {
        let has = |wanted: Source| self.sources.iter().any(|(source, _)| *source == wanted);
        let mut findings = Vec::new();
        if !has(Source::Steer) && !has(Source::Holdout) {
            return findings;
        }
        if !has(Source::Holdout) {
            findings.push("no holdout sweep is given: whether the direction carries over to prompts it was not made from is not known, and the controls are not judged".to_string());
        }
        if !has(Source::Random) {
            findings.push("no random sweep is given: the learned direction is not compared with random ones, and the controls are not judged".to_string());
        }
        findings
    }
}

/// Refusal rates of an XSTest sweep by label and type: the `rates` of the xstest stage.
pub(super) fn xstest_rates(rows: &DataFrame) -> Result<DataFrame, StageError> {
    xstest::table(&grid::read(Source::XsTest, rows)?)
}

/// A statistic that could not be computed is the data's fault.
fn data(error: StatsError) -> StageError {
    StageError::Data(error.to_string())
}

#[cfg(test)]
mod tests;
