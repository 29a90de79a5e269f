//! What the page needs to show one prompt at a time: its text, its score against α in every direction, and what was written.

use std::collections::{BTreeMap, HashMap};

use polars::prelude::Column;
use serde::Serialize;

use crate::files;
use crate::manifest::Prompts;
use crate::prompts::{Prompt, PromptSet};
use crate::stages::rules::{by_rule, rule_of, score_in_words};
use crate::stages::sweep::{SweepFrame, SweepRow};
use crate::stages::{Product, groups};

use super::figures::{Spread, grouped};
use super::views::ByPrompt;
use super::{FinishedRun, FinishedStage, Table};

/// Bytes of generated text that a page carries: it stays small enough to send. All texts are in the run's tables.
const TEXT_BYTES: usize = 1_500_000;

/// A prompt set with all that was measured on it.
#[derive(Debug, Default, Serialize)]
pub(super) struct DrilledSet {
    name: String,
    prompts: Vec<DrilledPrompt>,
    scores: Vec<Scores>,
    sweeps: Vec<DrilledSweep>,
    texts: Vec<Text>,
    /// Prompts whose texts are left out, because the page would be too large.
    without_texts: usize,
    #[serde(skip)]
    index: HashMap<String, usize>,
}

#[derive(Debug, Serialize)]
struct DrilledPrompt {
    id: String,
    split: String,
    category: String,
    /// None where the prompt file is gone or has changed.
    text: Option<String>,
}

/// Scores without steering, by prompt.
#[derive(Debug, Serialize)]
struct Scores {
    model: String,
    values: Vec<Option<f64>>,
}

/// Scores in one direction, by prompt and then α.
#[derive(Debug, Serialize)]
struct DrilledSweep {
    /// The panel that it is drawn in.
    place: String,
    /// What its values are.
    axis: &'static str,
    name: String,
    /// Whether it is what others are compared with.
    random: bool,
    alphas: Vec<f64>,
    mean: Vec<Option<f64>>,
    /// Lowest and highest over directions; empty where there is one.
    low: Vec<Option<f64>>,
    high: Vec<Option<f64>>,
}

#[derive(Debug, Serialize)]
struct Text {
    prompt: usize,
    place: String,
    alpha: Option<f64>,
    text: String,
    /// By classifier, whether it calls the text a refusal.
    verdicts: BTreeMap<String, bool>,
}

/// Every prompt set of which the run has a table by prompt.
pub(super) fn drilled(run: &FinishedRun) -> Vec<DrilledSet> {
    let mut sets: Vec<DrilledSet> = Vec::new();
    for stage in &run.stages {
        let by_prompt = stage.view().by_prompt;
        let table = stage.table("").filter(|table| table.has("id"));
        let name = stage.node.prompts.first();
        let (Some(by_prompt), Some(table), Some(name)) = (by_prompt, table, name) else {
            continue;
        };
        let known = sets.iter().position(|set| set.name == *name);
        let at = known.unwrap_or_else(|| {
            sets.push(DrilledSet::with_texts(run, name));
            sets.len() - 1
        });
        sets[at].add(stage, by_prompt, table);
    }
    let mut free_bytes = TEXT_BYTES;
    sets.iter_mut()
        .for_each(|set| set.keep_texts(&mut free_bytes));
    sets
}

impl DrilledSet {
    /// The prompts of the set's file, if that is the file that was run.
    fn with_texts(run: &FinishedRun, name: &str) -> Self {
        let mut set = DrilledSet {
            name: name.to_string(),
            ..DrilledSet::default()
        };
        let said = run.manifest.prompts.get(name);
        let prompts = said.and_then(|said| prompts(run, name, said));
        for prompt in prompts.unwrap_or_default() {
            set.index.insert(prompt.id.clone(), set.prompts.len());
            set.prompts.push(DrilledPrompt {
                id: prompt.id,
                split: prompt.split,
                category: prompt.category,
                text: Some(prompt.text),
            });
        }
        set
    }

    /// Keeps the texts of the first prompts, as many as fit the bytes that are left.
    fn keep_texts(&mut self, left: &mut usize) {
        let mut bytes: BTreeMap<usize, usize> = BTreeMap::new();
        for text in &self.texts {
            *bytes.entry(text.prompt).or_default() += text.text.len();
        }
        let end = bytes.iter().find(|(_, bytes)| {
            let fits = **bytes <= *left;
            *left = if fits { *left - **bytes } else { 0 };
            !fits
        });
        let Some(end) = end.map(|(prompt, _)| *prompt) else {
            return;
        };
        self.without_texts = bytes.range(end..).count();
        self.texts.retain(|text| text.prompt < end);
    }

    /// The prompt of every row; prompts that are not known yet are added.
    fn prompts_of(&mut self, table: &Table) -> Vec<usize> {
        let columns = ["id", "split", "category"].map(|name| table.text_at(name));
        let mut prompts = vec![0; table.height()];
        for rows in groups(&table.frame, &["id"]).unwrap_or_default() {
            let [id, split, category] = columns.each_ref().map(|text| text(rows[0]).to_string());
            let prompt = *self.index.entry(id.clone()).or_insert_with(|| {
                self.prompts.push(DrilledPrompt {
                    id,
                    split,
                    category,
                    text: None,
                });
                self.prompts.len() - 1
            });
            rows.into_iter().for_each(|row| prompts[row] = prompt);
        }
        prompts
    }

    /// Adds what a stage has, of which the main table is given; those of further score rules have the same rows.
    fn add(&mut self, stage: &FinishedStage, by_prompt: ByPrompt, table: &Table) {
        let prompts = self.prompts_of(table);
        match by_prompt {
            ByPrompt::Scores => {
                for (_, table) in stage.tables_by_rule() {
                    self.add_scores(table, &prompts);
                }
            }
            ByPrompt::Texts => self.add_texts(table, &prompts),
            ByPrompt::Sweep => {
                for sweep in stage.sweeps() {
                    self.add_sweep(stage, &sweep, &prompts);
                }
            }
        }
    }

    fn add_scores(&mut self, table: &Table, prompts: &[usize]) {
        let (models, scores) = (table.text_at("model"), table.numbers("score"));
        // Another stage of scores may have had fewer prompts.
        for earlier in &mut self.scores {
            earlier.values.resize(self.prompts.len(), None);
        }
        let by = by_rule(rule_of(&table.frame));
        for (model, rows) in grouped(0..table.height(), |&row| models(row)) {
            let model = format!("{model}{by}");
            let known = self.scores.iter().position(|scores| scores.model == model);
            let at = known.unwrap_or_else(|| {
                self.scores.push(Scores {
                    model,
                    values: vec![None; self.prompts.len()],
                });
                self.scores.len() - 1
            });
            for row in rows {
                self.scores[at].values[prompts[row]] = scores[row];
            }
        }
    }

    fn add_texts(&mut self, table: &Table, prompts: &[usize]) {
        let [models, directions, texts] =
            ["model", "direction", "text"].map(|name| table.text_at(name));
        let (layers, alphas) = (table.texts("layer"), table.numbers("alpha"));
        let rule = rule_of(&table.frame);
        let flags = table
            .columns()
            .iter()
            .filter(|column| column.dtype().is_bool());
        let classifier = |column: &Column| {
            let name = match column.name().as_str() {
                name if name == rule => "score",
                other => other,
            };
            (name.to_string(), table.numbers(column.name()))
        };
        let classifiers: Vec<(String, Vec<Option<f64>>)> = flags.map(classifier).collect();
        for (row, &prompt) in prompts.iter().enumerate() {
            let layer = match layers[row].as_str() {
                "" => String::new(),
                layer => format!(", layer {layer}"),
            };
            let verdicts = classifiers.iter();
            let verdicts =
                verdicts.filter_map(|(name, flags)| Some((name.clone(), flags[row]? == 1.0)));
            self.texts.push(Text {
                prompt,
                place: format!("{}, {}{layer}", models(row), directions(row)),
                alpha: alphas[row],
                text: texts(row).to_string(),
                verdicts: verdicts.collect(),
            });
        }
    }

    /// A line for every direction; the seeds of a random or holdout stage together.
    fn add_sweep(&mut self, stage: &FinishedStage, sweep: &SweepFrame<'_>, prompts: &[usize]) {
        let by_alpha = sweep.groups(&["alpha"]).unwrap_or_default();
        let alphas = by_alpha.iter().filter_map(|rows| sweep.row(rows[0]).alpha);
        let mut grid: Vec<f64> = alphas.collect();
        grid.sort_by(f64::total_cmp);
        let by = ["model", "layer", "site", "direction"];
        for rows in sweep.groups(&by).unwrap_or_default() {
            let SweepRow {
                model,
                layer,
                site,
                direction,
                ..
            } = sweep.row(rows[0]);
            let mut scores: Vec<Vec<f64>> = vec![Vec::new(); self.prompts.len() * grid.len()];
            for row in rows {
                if let (Some(alpha), Some(score)) = (sweep.alpha(row), sweep.mean(row)) {
                    let of_alpha = grid.partition_point(|known| *known < alpha);
                    if let Some(cell) = scores.get_mut(prompts[row] * grid.len() + of_alpha) {
                        cell.push(score);
                    }
                }
            }
            if scores.iter().all(Vec::is_empty) {
                continue;
            }
            let is_one = scores.iter().all(|scores| scores.len() <= 1);
            let ranges = grid.iter().cycle().zip(&scores);
            let ranges: Vec<Option<Spread>> = ranges
                .map(|(alpha, scores)| (!scores.is_empty()).then(|| Spread::of(*alpha, scores)))
                .collect();
            // Thousandths are finer than a line on a screen.
            let rounded = |value: f64| (value * 1e3).round() / 1e3;
            let each = |of: fn(&Spread) -> f64| -> Vec<Option<f64>> {
                let values = ranges.iter().map(|range| range.as_ref().map(of));
                values.map(|value| value.map(rounded)).collect()
            };
            let is_random = stage.is(Product::RandomSweep);
            let name = match (is_random, is_one) {
                (_, true) => format!("{} ({direction})", stage.name),
                (true, false) => "random directions (range and mean)".to_string(),
                (false, false) => format!("{} ({direction}, mean over seeds)", stage.name),
            };
            let [low, high] = match is_random && !is_one {
                true => [each(|range| range.low), each(|range| range.high)],
                false => [Vec::new(), Vec::new()],
            };
            self.sweeps.push(DrilledSweep {
                place: format!("{model}, layer {layer}, {site}{}", by_rule(sweep.rule)),
                axis: score_in_words(sweep.rule),
                name,
                random: is_random,
                alphas: grid.clone(),
                mean: each(|range| range.mean),
                low,
                high,
            });
        }
    }
}

/// The prompts of a set, if its file is there and has the content that was run.
fn prompts(run: &FinishedRun, name: &str, said: &Prompts) -> Option<Vec<Prompt>> {
    let known = run.prompt_files.get(name).cloned();
    let from_run = said.path_from_run.as_deref();
    let from_run = from_run.map(|path| run.path.join(files::path_of(path)));
    let from_here = said.path.as_deref().map(files::path_of);
    let paths = known.into_iter().chain(from_run).chain(from_here);
    let set = paths.into_iter().find_map(|path| {
        let set = PromptSet::load_as(&path, &said.columns).ok()?;
        (said.content == set.content_hash().to_hex().as_str()).then_some(set)
    });
    set.map(|set| set.prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_for_the_first_prompts_and_the_others_counted() {
        let text = |prompt| Text {
            prompt,
            place: String::new(),
            alpha: None,
            text: "x".repeat(40),
            verdicts: BTreeMap::new(),
        };
        let mut set = DrilledSet {
            texts: [0, 1, 2, 3, 0, 1, 2, 3].map(text).into(),
            ..DrilledSet::default()
        };
        let mut free_bytes = 170;
        set.keep_texts(&mut free_bytes);
        let kept: Vec<usize> = set.texts.iter().map(|text| text.prompt).collect();
        assert_eq!(
            (kept, set.without_texts, free_bytes),
            (vec![0, 1, 0, 1], 2, 0)
        );
        let mut small = DrilledSet {
            texts: vec![text(0)],
            ..DrilledSet::default()
        };
        small.keep_texts(&mut 40);
        assert_eq!((small.texts.len(), small.without_texts), (1, 0));
    }

    #[test]
    fn a_second_stage_of_scores_may_have_further_prompts() {
        let table = |text: &str| Table::from_csv(text, "scores.csv").unwrap();
        let few = table("model,id,split,category,score\nm,a,s,c,1\n");
        let more = table("model,id,split,category,score\nm,b,s,c,2\nm,a,s,c,3\n");
        let mut set = DrilledSet::default();
        for scores in [&few, &more] {
            let prompts = set.prompts_of(scores);
            set.add_scores(scores, &prompts);
        }
        assert_eq!(set.scores[0].values, [Some(3.0), Some(2.0)]);
    }
}
