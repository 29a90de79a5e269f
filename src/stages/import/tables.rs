//! The tables that the stage stood for would have left, out of rows.

use std::collections::{HashMap, HashSet};

use crate::prompts::Prompt;
use crate::stages::generate::{self, Answer, classified};
use crate::stages::rules::Rule;
use crate::stages::sweep::{Further, Measured, SweepRow, SweptGroup, SweptPrompt};
use crate::stages::table::{self, Rows};
use crate::stages::{Inputs, Name, Output, StageError, distinct, score, summary};

use super::read::Builders;
use super::rows::{Row, text};
use super::{Import, shapes};

/// What the score stage would have left.
pub(super) fn scores(rows: &[Row], rule: &Rule) -> Result<Output, StageError> {
    // A wide table has the models side by side; a score stage has one below the other.
    let models = distinct(rows.iter().map(|row| &row.model)).into_iter();
    let sorted = models.flat_map(|model| rows.iter().filter(move |row| row.model == *model));
    let scored = sorted.filter_map(|row| {
        Some(score::Scored {
            model: text(&row.model),
            id: text(&row.id),
            split: text(&row.set),
            category: text(&row.category),
            score: row.score?,
        })
    });
    let scored: Vec<score::Scored<'_>> = scored.collect();
    Ok(Output::of(score::tables(&scored, rule)?))
}

/// What the patch stage would have left of its means.
pub(super) fn patches(mut rows: Vec<Row>) -> Result<Output, StageError> {
    rows.retain(|row| row.mean_delta.is_some());
    let is_last_k = rows.iter().any(|row| row.k.is_some());
    let (name, number): (_, fn(&Row) -> Option<u64>) = match is_last_k {
        true => ("k", |row| row.k),
        false => ("layer", |row| row.layer),
    };
    let means = Rows::of(&rows)
        .text("site", |row| text(&row.site))
        .integer(name, |row| number(row).map(|number| number as i64))
        .text("split", |row| text(&row.set))
        .integer("n", |row| row.n.unwrap_or(0) as i64)
        .number("mean_delta", |row| row.mean_delta)
        .number("mean_recovery", |_| None::<f64>);
    Ok(Output {
        findings: constant(&rows).into_iter().collect(),
        tables: vec![("mean".to_string(), means.frame()?)],
        ..Output::default()
    })
}

/// Of a last-K curve of a residual site: the last layer's patch overwrites the others, so that K cannot matter.
fn constant(rows: &[Row]) -> Option<String> {
    let is_residual = |row: &Row| text(&row.site).starts_with("resid");
    if !rows.iter().any(|row| row.k.is_some()) || !rows.iter().all(is_residual) {
        return None;
    }
    let values = rows.iter().map(|row| (text(&row.set), row.mean_delta));
    let values = distinct(values);
    let splits = distinct(values.iter().map(|(split, _)| split));
    if splits.len() < values.len() {
        return Some("the last-K curve of a residual site varies with K, although the last layer's patch overwrites the others: it was not made as described".to_string());
    }
    let count = rows.len() / values.len().max(1);
    let values = values
        .iter()
        .filter_map(|(split, delta)| Some(format!("{:.5} {split}", (*delta)?)));
    let values = values.collect::<Vec<_>>().join(", ");
    Some(format!(
        "the last-K curve of a residual site is one number for all {count} K ({values}) by construction: the last layer's patch overwrites the others"
    ))
}

/// The texts with what classifiers call them.
pub(super) fn texts(rows: &[Row]) -> Result<Output, StageError> {
    let verdicts = rows.iter().map(|row| classified(text(&row.text), true));
    let all: Vec<(&Row, (bool, bool))> = rows.iter().zip(verdicts).collect();
    let main = Rows::of(&all)
        .text("model", |(row, _)| text(&row.model))
        .text("direction", |_| "none")
        .integer("layer", |(row, _)| row.layer.map(|layer| layer as i64))
        .number("alpha", |(row, _)| row.alpha)
        .text("id", |(row, _)| text(&row.id))
        .text("split", |(row, _)| text(&row.set))
        .text("category", |(row, _)| text(&row.category))
        .text("text", |(row, _)| text(&row.text))
        .flag("regex", |(_, (regex, _))| *regex)
        .flag("xstest_prefix", |(_, (_, xstest_prefix))| *xstest_prefix);
    Ok(Output::of(vec![(String::new(), main.frame()?)]))
}

/// The texts as the generate stage leaves them, and how far classifiers and scores agree.
pub(super) fn scored_texts(
    rows: &[Row],
    scores: &Name,
    rule: &Rule,
    inputs: &Inputs,
) -> Result<Output, StageError> {
    let scored = &inputs.stage(scores)?.table("")?;
    let [models, ids] = ["model", "id"].map(|name| table::read_text(scored, name));
    let (models, ids) = (models?, ids?);
    let values = table::read_numbers(scored, "score")?;
    let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
    let mut answered = Vec::new();
    for (row, prompt) in rows.iter().zip(&prompts) {
        let model = text(&row.model);
        let of_row = (0..ids.len()).find(|&i| models[i] == model && ids[i] == prompt.id);
        let score = of_row.map(|i| values[i]).ok_or_else(|| {
            let id = &prompt.id;
            StageError::Data(format!(
                "stage `{scores}` has no score of model `{model}` for prompt `{id}`"
            ))
        })?;
        let (regex, xstest_prefix) = classified(text(&row.text), true);
        let place = generate::Row {
            model,
            line: None,
            position: None,
            alpha: row.alpha.unwrap_or_default(),
            condition: None,
            prompt,
        };
        let answer = Answer {
            score,
            refused: rule.counts(score),
            text: text(&row.text).to_string(),
            regex,
            xstest_prefix,
        };
        answered.push((place, answer));
    }
    Ok(Output::of(generate::tables(&answered, rule)?))
}

fn prompt(row: &Row) -> Prompt {
    Prompt {
        id: text(&row.id).to_string(),
        text: text(&row.prompt).to_string(),
        split: text(&row.set).to_string(),
        category: text(&row.category).to_string(),
        other: serde_json::Map::new(),
        line: row.line,
    }
}

/// What a stage that sweeps α would have left: a row a prompt where scores were published, otherwise a row a group.
pub(super) fn sweep(
    import: &Import,
    mut rows: Vec<Row>,
    builders: &[Builders],
    inputs: &Inputs,
) -> Result<Output, StageError> {
    for row in &mut rows {
        let site = || import.site.short_name().to_string();
        row.site.get_or_insert_with(site);
        let label = row.category.as_deref().map(shapes::xstest_label);
        let label = label.filter(|_| import.r#as.kind == "xstest");
        let set = || label.unwrap_or("all").to_string();
        row.set.get_or_insert_with(set);
        row.layer = row.layer.or(import.study.layer);
        if row.layer.is_none() {
            return Err(StageError::Data(format!(
                "nothing says which layer the rows of model `{}` are of: neither the file, its name, nor `layer` of the section `[import]`",
                text(&row.model)
            )));
        }
    }
    let scored = rows.iter().filter(|row| row.score.is_some()).count();
    match scored {
        0 => groups(import, &rows),
        all if all == rows.len() => prompts(import, rows, builders, inputs),
        _ => Err(StageError::Data(
            "some files hold scores of prompts and others means of groups; import them in stages of their own".to_string(),
        )),
    }
}

/// The rows of single prompts.
fn prompts(
    import: &Import,
    mut rows: Vec<Row>,
    builders: &[Builders],
    inputs: &Inputs,
) -> Result<Output, StageError> {
    let mut output = Output::default();
    let (mut differing, rule) = (0, &import.study.rule);
    let threshold = rule.threshold;
    for row in &mut rows {
        let is_above = row.score.is_some_and(|score| rule.counts(score));
        // What a file says of refusals is no other rule's verdict.
        row.refused = row.refused.filter(|_| rule.is_default());
        let refused = *row.refused.get_or_insert(is_above);
        differing += usize::from(refused != is_above);
    }
    if differing > 0 {
        output.findings.push(format!(
            "{differing} of {} rows are called refusals or not against the threshold {threshold}; the file's word is kept",
            rows.len()
        ));
    }
    let built = Built::new(import, builders, inputs);
    output.findings.extend(built.finding(&rows));
    let swept = rows.iter().map(|row| {
        let prompt = SweptPrompt {
            id: text(&row.id),
            split: split(text(&row.set)),
            category: text(&row.category),
            score: row.score.unwrap_or(f64::NAN),
            refused: row.refused == Some(true),
            built: built.has(row),
        };
        swept_row(import, row, Measured::Prompt(prompt))
    });
    let main = SweepRow::table_of_prompts(&swept.collect::<Vec<_>>(), &rule.name)?;
    let rates = (import.r#as.kind == "xstest").then(|| summary::xstest_rates(&main));
    output.tables.push((String::new(), main));
    if let Some(rates) = rates.transpose()? {
        output.tables.push(("rates".to_string(), rates));
    }
    Ok(output)
}

/// The rows of groups: the main table where rates are known, otherwise `means`.
fn groups(import: &Import, rows: &[Row]) -> Result<Output, StageError> {
    let swept = rows.iter().map(|row| {
        let group = SweptGroup {
            n: row.n.map(|n| n as i64),
            mean: row.mean,
            std: row.std,
            refusal_rate: row.refusal_rate,
        };
        swept_row(import, row, Measured::Group(group))
    });
    let main = SweepRow::table_of_groups(&swept.collect::<Vec<_>>())?;
    let is_whole = |row: &Row| row.refusal_rate.is_some() && row.n.is_some();
    let (name, findings) = match rows.iter().all(is_whole) {
        true => ("", vec![]),
        false => ("means", vec!["means of groups without their refusal rates or sizes were published: they are in the table `means`, which a summary cannot use".to_string()]),
    };
    Ok(Output {
        tables: vec![(name.to_string(), main)],
        findings,
        ..Output::default()
    })
}

fn swept_row<'a>(import: &Import, row: &'a Row, measured: Measured<'a>) -> SweepRow<'a> {
    SweepRow {
        model: text(&row.model),
        direction: match import.r#as.kind {
            "random" => "random",
            "holdout" | "xstest" => "published_holdout",
            _ => "published",
        },
        seed: row.seed.map(|seed| seed as i64),
        layer: row.layer.unwrap_or_default() as i64,
        site: text(&row.site),
        alpha: row.alpha,
        further: Further::default(),
        set: text(&row.set),
        measured,
    }
}

/// The split that a set is of: a holdout's halves are of the split they are named after.
fn split(set: &str) -> &str {
    let mut halves = ["_train", "_holdout"].into_iter();
    let split = halves.find_map(|half| set.strip_suffix(half));
    split.unwrap_or(set)
}

/// The prompts that built the directions, by seed, as ids and as texts.
struct Built<'a>(HashMap<Option<u64>, [HashSet<&'a str>; 2]>);

impl<'a> Built<'a> {
    fn new(import: &Import, builders: &'a [Builders], inputs: &'a Inputs) -> Self {
        let set = import.prompts.as_ref();
        let set = set.and_then(|name| inputs.prompts.get(&name.value));
        let prompts = set.into_iter().flat_map(|set| &set.prompts);
        let by_id: HashMap<&str, &str> =
            prompts.map(|p| (p.id.as_str(), p.text.as_str())).collect();
        let of_seed = |of: &'a Builders| {
            let ids = of.top.iter().chain(&of.bottom).map(String::as_str);
            let texts = ids
                .clone()
                .filter_map(|id| by_id.get(id).copied())
                .collect();
            (of.seed, [ids.collect(), texts])
        };
        Built(builders.iter().map(of_seed).collect())
    }

    /// Whether a row's prompt built the direction: by its text where the row has it (ids differ between prompt sets), else by id.
    fn has(&self, row: &Row) -> bool {
        let of_seed = self.0.get(&row.seed).or_else(|| self.0.get(&None));
        of_seed.is_some_and(|[ids, texts]| match &row.prompt {
            Some(prompt) => texts.contains(prompt.as_str()),
            None => row.id.as_ref().is_some_and(|id| ids.contains(id.as_str())),
        })
    }

    /// How many prompts are not independent of the direction, where prompts are told by their texts.
    fn finding(&self, rows: &[Row]) -> Option<String> {
        let count = |only_built: bool| {
            let rows = rows.iter().filter(|row| !only_built || self.has(row));
            let texts = rows.filter_map(|row| row.prompt.as_deref());
            texts.collect::<HashSet<_>>().len()
        };
        let (found, all) = (count(true), count(false));
        let builders = self.0.values().flat_map(|[_, texts]| texts);
        let builders = builders.collect::<HashSet<_>>().len();
        let how_many = match found == builders {
            true => format!("every one of the {found} prompts that built the direction is also"),
            false => format!("{found} of the {builders} prompts that built the direction are also"),
        };
        (found > 0).then(|| {
            format!("{how_many} among the {all} that it is tried on; rates are given with and without them")
        })
    }
}
