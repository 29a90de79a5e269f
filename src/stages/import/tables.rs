//! The tables that the stage stood for would have left, out of rows.

use std::collections::{HashMap, HashSet};

use polars::prelude::DataFrame;

use crate::prompts::Prompt;
use crate::stages::generate::{self, Answer, agreement, classified, main_table, rates};
use crate::stages::{Inputs, Name, Output, StageError, score, summary, table};

use super::read::Builders;
use super::rows::{Row, frame};
use super::{Import, shapes};

/// What the score stage would have left.
pub(super) fn scores(rows: &[Row], threshold: f64) -> Result<Output, StageError> {
    let mut models: Vec<&Option<String>> = Vec::new();
    for row in rows {
        if !models.contains(&&row.model) {
            models.push(&row.model);
        }
    }
    // A wide table has the models side by side; a score stage has one below the other.
    let sorted = models.iter().flat_map(|model| {
        let of_model = move |row: &&Row| row.model == **model;
        rows.iter().filter(of_model)
    });
    let scored: Vec<score::Scored> = sorted
        .filter_map(|row| {
            Some(score::Scored {
                model: row.model.clone().unwrap_or_default(),
                id: row.id.clone().unwrap_or_default(),
                split: row.set.clone().unwrap_or_default(),
                category: row.category.clone().unwrap_or_default(),
                score: row.score?,
            })
        })
        .collect();
    Ok(Output {
        tables: score::tables(&scored, threshold)?,
        ..Output::default()
    })
}

/// What the patch stage would have left of its means.
pub(super) fn patches(mut rows: Vec<Row>) -> Result<Output, StageError> {
    rows.retain(|row| row.mean_delta.is_some());
    for row in &mut rows {
        row.n = row.n.or(Some(0));
    }
    let number = match rows.iter().any(|row| row.k.is_some()) {
        true => "k",
        false => "layer",
    };
    let mut means = frame(&rows)?.select(["site", number, "set", "n", "mean_delta"])?;
    means.rename("set", "split".into())?;
    means.with_column(table::optional_numbers(
        "mean_recovery",
        vec![None; rows.len()],
    ))?;
    Ok(Output {
        findings: constant(&rows).into_iter().collect(),
        tables: vec![("mean".to_string(), means)],
        ..Output::default()
    })
}

/// Of a last-K curve of a residual site: the last layer's patch overwrites the others, so that K cannot matter.
fn constant(rows: &[Row]) -> Option<String> {
    let is_residual = |row: &Row| {
        row.site
            .as_ref()
            .is_some_and(|site| site.starts_with("resid"))
    };
    if !rows.iter().any(|row| row.k.is_some()) || !rows.iter().all(is_residual) {
        return None;
    }
    let mut values: Vec<(&str, f64)> = Vec::new();
    for row in rows {
        let (split, delta) = (row.set.as_deref().unwrap_or_default(), row.mean_delta?);
        match values.iter().find(|(known, _)| *known == split) {
            Some((_, known)) if *known == delta => {}
            Some(_) => {
                return Some("the last-K curve of a residual site varies with K, although the last layer's patch overwrites the others: it was not made as described".to_string());
            }
            None => values.push((split, delta)),
        }
    }
    let count = rows.len() / values.len().max(1);
    let values = values
        .iter()
        .map(|(split, delta)| format!("{delta:.5} {split}"));
    let values = values.collect::<Vec<_>>().join(", ");
    Some(format!(
        "the last-K curve of a residual site is one number for all {count} K ({values}) by construction: the last layer's patch overwrites the others"
    ))
}

/// The texts with what classifiers call them.
pub(super) fn texts(rows: &[Row]) -> Result<Output, StageError> {
    let verdicts: Vec<(bool, bool)> = rows
        .iter()
        .map(|row| classified(text(&row.text), true))
        .collect();
    let columns = ["model", "layer", "alpha", "id", "set", "category", "text"];
    let mut main = frame(rows)?.select(columns)?;
    main.rename("set", "split".into())?;
    main.insert_column(1, table::text("direction", rows.iter().map(|_| "none")))?;
    main.with_column(table::flags(
        "regex",
        verdicts.iter().map(|(regex, _)| *regex).collect(),
    ))?;
    main.with_column(table::flags(
        "xstest_prefix",
        verdicts.iter().map(|(_, p)| *p).collect(),
    ))?;
    Ok(Output {
        tables: vec![(String::new(), main)],
        ..Output::default()
    })
}

/// The texts as the generate stage leaves them, and how far classifiers and scores agree.
pub(super) fn scored_texts(
    rows: &[Row],
    scores: &Name,
    threshold: f64,
    inputs: &Inputs,
) -> Result<Output, StageError> {
    let scored = &inputs.stage(scores)?.table("")?;
    let (models, ids) = (
        table::read_text(scored, "model")?,
        table::read_text(scored, "id")?,
    );
    let values = table::read_numbers(scored, "score")?;
    let prompts: Vec<Prompt> = rows.iter().map(prompt).collect();
    let (mut places, mut answers) = (Vec::new(), Vec::new());
    for (row, prompt) in rows.iter().zip(&prompts) {
        let model = text(&row.model);
        let of_row = (0..ids.len()).find(|&i| models[i] == model && ids[i] == prompt.id);
        let score = of_row.map(|i| values[i]).ok_or_else(|| {
            StageError::Data(format!(
                "stage `{}` has no score of model `{model}` for prompt `{}`",
                scores.value, prompt.id
            ))
        })?;
        let (regex, xstest_prefix) = classified(text(&row.text), true);
        places.push(generate::Row {
            model,
            line: None,
            alpha: row.alpha.unwrap_or_default(),
            prompt,
        });
        answers.push(Answer {
            score,
            refused: score > threshold,
            text: text(&row.text).to_string(),
            regex,
            xstest_prefix,
        });
    }
    Ok(Output {
        tables: vec![
            (String::new(), main_table(&places, &answers)?),
            ("agreement".to_string(), agreement(&places, &answers)?),
            ("rates".to_string(), rates(&places, &answers)?),
        ],
        ..Output::default()
    })
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
        let set = label
            .filter(|_| import.r#as.kind == "xstest")
            .unwrap_or("all");
        row.set.get_or_insert_with(|| set.to_string());
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
    let (mut differing, threshold) = (0, import.study.threshold);
    for row in &mut rows {
        let is_above = row.score.is_some_and(|score| score > threshold);
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
    let flags: Vec<bool> = rows.iter().map(|row| built.has(row)).collect();
    output.findings.extend(built.finding(&rows, &flags));
    let of_prompt = ["id", "category", "score", "refused"];
    let mut main = swept(import, &rows, &of_prompt)?;
    // A holdout's halves are of the split they are named after.
    let split = |row: &Row| {
        let set = text(&row.set);
        let mut halves = ["_train", "_holdout"].into_iter();
        let split = halves.find_map(|half| set.strip_suffix(half));
        split.unwrap_or(set).to_string()
    };
    main.insert_column(8, table::text("split", rows.iter().map(split)))?;
    main.with_column(table::flags("built_direction", flags))?;
    if import.r#as.kind == "xstest" {
        let rates = summary::xstest_rates(&main)?;
        output.tables.push(("rates".to_string(), rates));
    }
    output.tables.insert(0, (String::new(), main));
    Ok(output)
}

/// The rows of groups: the main table where rates are known, otherwise `means`.
fn groups(import: &Import, rows: &[Row]) -> Result<Output, StageError> {
    let main = swept(import, rows, &["n", "mean", "std", "refusal_rate"])?;
    let is_whole = |row: &Row| row.refusal_rate.is_some() && row.n.is_some();
    let mut output = Output::default();
    if rows.iter().all(is_whole) {
        output.tables.push((String::new(), main));
    } else {
        output.findings.push("means of groups without their refusal rates or sizes were published: they are in the table `means`, which a summary cannot use".to_string());
        output.tables.push(("means".to_string(), main));
    }
    Ok(output)
}

/// A sweep's first columns and those of its rows.
fn swept(import: &Import, rows: &[Row], measured: &[&str]) -> Result<DataFrame, StageError> {
    let place = ["model", "seed", "layer", "site", "alpha", "set"];
    let mut table = frame(rows)?.select(place.iter().chain(measured))?;
    let direction = match import.r#as.kind {
        "random" => "random",
        "holdout" | "xstest" => "published_holdout",
        _ => "published",
    };
    table.insert_column(1, table::text("direction", rows.iter().map(|_| direction)))?;
    Ok(table)
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The prompts that built the directions, by seed, as ids and as texts.
struct Built {
    ids: HashMap<Option<u64>, HashSet<String>>,
    texts: HashMap<Option<u64>, HashSet<String>>,
}

impl Built {
    fn new(import: &Import, builders: &[Builders], inputs: &Inputs) -> Self {
        let set = import.prompts.as_ref();
        let set = set.and_then(|name| inputs.prompts.get(&name.value));
        let prompts = set.into_iter().flat_map(|set| &set.prompts);
        let by_id: HashMap<&str, &String> = prompts.map(|p| (p.id.as_str(), &p.text)).collect();
        let mut built = Built {
            ids: HashMap::new(),
            texts: HashMap::new(),
        };
        for Builders {
            seed, top, bottom, ..
        } in builders
        {
            let ids: HashSet<String> = top.iter().chain(bottom).cloned().collect();
            let texts = ids.iter().filter_map(|id| by_id.get(id.as_str()));
            built
                .texts
                .insert(*seed, texts.map(|text| (*text).clone()).collect());
            built.ids.insert(*seed, ids);
        }
        built
    }

    /// Whether a row's prompt built the direction: by its text where the row has it (ids differ between prompt sets), else by id.
    fn has(&self, row: &Row) -> bool {
        let (sets, value) = match row.prompt.is_some() {
            true => (&self.texts, &row.prompt),
            false => (&self.ids, &row.id),
        };
        let set = sets.get(&row.seed).or_else(|| sets.get(&None));
        let both = set.zip(value.as_ref());
        both.is_some_and(|(set, value)| set.contains(value))
    }

    /// How many prompts are not independent of the direction, where prompts are told by their texts.
    fn finding(&self, rows: &[Row], flags: &[bool]) -> Option<String> {
        let distinct = |wanted: bool| -> HashSet<&str> {
            let rows = rows.iter().zip(flags);
            rows.filter(|(_, built)| **built || !wanted)
                .filter_map(|(row, _)| row.prompt.as_deref())
                .collect()
        };
        let (found, all) = (distinct(true).len(), distinct(false).len());
        let builders: HashSet<&String> = self.texts.values().flatten().collect();
        if found == 0 {
            return None;
        }
        let how_many = match found == builders.len() {
            true => format!("every one of the {found} prompts that built the direction is also"),
            false => format!(
                "{found} of the {} prompts that built the direction are also",
                builders.len()
            ),
        };
        Some(format!(
            "{how_many} among the {all} that it is tried on; rates are given with and without them"
        ))
    }
}
