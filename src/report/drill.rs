//! What the page needs to show one prompt at a time: its text, its score against α in every direction, and what was written.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::files;
use crate::manifest::Prompts;
use crate::prompts::{Prompt, PromptSet};
use crate::stages::sweep::{SweepFrame, SweepRow};
use crate::stages::{Product, groups};

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
        let (Some(name), Some(table)) = (stage.node.prompts.first(), table) else {
            continue;
        };
        if by_prompt == ByPrompt::Nothing {
            continue;
        }
        let at = match sets.iter().position(|set| set.name == *name) {
            Some(at) => at,
            None => {
                sets.push(DrilledSet::with_texts(run, name));
                sets.len() - 1
            }
        };
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
        for prompt in said.and_then(|said| prompts(run, said)).unwrap_or_default() {
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
        for rows in groups(table.frame(), &["id"]).unwrap_or_default() {
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

    fn add(&mut self, stage: &FinishedStage, by_prompt: ByPrompt, table: &Table) {
        let prompts = self.prompts_of(table);
        match by_prompt {
            ByPrompt::Nothing => {}
            ByPrompt::Scores => self.add_scores(table, &prompts),
            ByPrompt::Texts => self.add_texts(table, &prompts),
            ByPrompt::Sweep => {
                if let Some(sweep) = stage.sweep() {
                    self.add_sweep(stage, &sweep, &prompts);
                }
            }
        }
    }

    fn add_scores(&mut self, table: &Table, prompts: &[usize]) {
        let (models, scores) = (table.texts("model"), table.numbers("score"));
        // Another stage of scores may have had fewer prompts.
        for earlier in &mut self.scores {
            earlier.values.resize(self.prompts.len(), None);
        }
        for (row, &prompt) in prompts.iter().enumerate() {
            let at = match self.scores.iter().position(|s| s.model == models[row]) {
                Some(at) => at,
                None => {
                    self.scores.push(Scores {
                        model: models[row].clone(),
                        values: vec![None; self.prompts.len()],
                    });
                    self.scores.len() - 1
                }
            };
            self.scores[at].values[prompt] = scores[row];
        }
    }

    fn add_texts(&mut self, table: &Table, prompts: &[usize]) {
        let (models, layers) = (table.texts("model"), table.texts("layer"));
        let (directions, texts) = (table.texts("direction"), table.texts("text"));
        let alphas = table.numbers("alpha");
        let classifiers: Vec<(&str, Vec<Option<f64>>)> = table
            .columns()
            .iter()
            .filter(|column| column.dtype().is_bool())
            .map(|column| (column.name().as_str(), table.numbers(column.name())))
            .collect();
        let named = |name: &str| match name {
            "refused" => "score".to_string(),
            other => other.to_string(),
        };
        for (row, &prompt) in prompts.iter().enumerate() {
            let layer = match layers[row].as_str() {
                "" => String::new(),
                layer => format!(", layer {layer}"),
            };
            let verdicts = classifiers
                .iter()
                .filter_map(|(name, flags)| Some((named(name), flags[row]? == 1.0)));
            self.texts.push(Text {
                prompt,
                place: format!("{}, {}{layer}", models[row], directions[row]),
                alpha: alphas[row],
                text: texts[row].clone(),
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
            let mut gathered = Gathered::new(self.prompts.len() * grid.len());
            for row in rows {
                if let (Some(alpha), Some(score)) = (sweep.alpha(row), sweep.mean(row)) {
                    let of_alpha = grid.partition_point(|known| *known < alpha);
                    gathered.add(prompts[row] * grid.len() + of_alpha, score);
                }
            }
            if gathered.is_empty() {
                continue;
            }
            let (is_random, is_one) = (stage.is(Product::RandomSweep), gathered.is_one());
            let name = match (is_random, is_one) {
                (_, true) => format!("{} ({direction})", stage.name),
                (true, false) => "random directions (range and mean)".to_string(),
                (false, false) => format!("{} ({direction}, mean over seeds)", stage.name),
            };
            let has_range = is_random && !is_one;
            let ends = |of: fn(&Cell) -> f64| match has_range {
                true => gathered.each(of),
                false => Vec::new(),
            };
            self.sweeps.push(DrilledSweep {
                place: format!("{model}, layer {layer}, {site}"),
                name,
                random: is_random,
                alphas: grid.clone(),
                mean: gathered.each(|cell| cell.sum / f64::from(cell.count)),
                low: ends(|cell| cell.low),
                high: ends(|cell| cell.high),
            });
        }
    }
}

/// The prompts of a set, if its file is there and has the content that was run.
fn prompts(run: &FinishedRun, said: &Prompts) -> Option<Vec<Prompt>> {
    let from_run = said.path_from_run.as_deref();
    let from_run = from_run.map(|path| run.path.join(files::path_of(path)));
    let from_here = said.path.as_deref().map(files::path_of);
    let set = from_run.into_iter().chain(from_here).find_map(|path| {
        let set = PromptSet::load(&path).ok()?;
        (said.content == set.content_hash().to_hex().as_str()).then_some(set)
    });
    set.map(|set| set.prompts)
}

/// The scores of each prompt and α.
struct Gathered {
    cells: Vec<Cell>,
}

/// Sum, count and ends of some scores.
#[derive(Clone, Copy)]
struct Cell {
    sum: f64,
    count: u32,
    low: f64,
    high: f64,
}

impl Gathered {
    fn new(size: usize) -> Self {
        let empty = Cell {
            sum: 0.0,
            count: 0,
            low: f64::INFINITY,
            high: f64::NEG_INFINITY,
        };
        Gathered {
            cells: vec![empty; size],
        }
    }

    fn add(&mut self, at: usize, score: f64) {
        if let Some(cell) = self.cells.get_mut(at) {
            cell.sum += score;
            cell.count += 1;
            cell.low = cell.low.min(score);
            cell.high = cell.high.max(score);
        }
    }

    fn is_empty(&self) -> bool {
        self.cells.iter().all(|cell| cell.count == 0)
    }

    fn is_one(&self) -> bool {
        self.cells.iter().all(|cell| cell.count <= 1)
    }

    /// A value of every cell, none for those without scores; to thousandths, which are finer than a line on a screen.
    fn each(&self, of: impl Fn(&Cell) -> f64) -> Vec<Option<f64>> {
        let rounded = |value: f64| (value * 1e3).round() / 1e3;
        let cells = self.cells.iter();
        cells
            .map(|cell| (cell.count > 0).then(|| rounded(of(cell))))
            .collect()
    }
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
