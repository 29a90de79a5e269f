//! A table of completions, classified as the generate stage does.

use crate::prompts::Prompt;
use crate::stages::generate::{Answer, Row, agreement, classified, main_table, rates};
use crate::stages::published::{Measured, Published, PublishedRow};
use crate::stages::{Inputs, Output, StageError, table};

use super::Import;

/// The texts with what classifiers call them; with `scores`, how far classifiers and scores agree.
pub(super) fn output(
    import: &Import,
    files: &[Published],
    inputs: &Inputs,
    is_check: bool,
) -> Result<Output, StageError> {
    let rows: Vec<&PublishedRow> = files.iter().flat_map(|file| &file.rows).collect();
    let Some(scores) = import.scores.as_ref().filter(|_| !is_check) else {
        return Ok(Output {
            tables: vec![(String::new(), unscored(&rows)?)],
            ..Output::default()
        });
    };
    let scored = &inputs.stage(scores)?.table("")?;
    let (models, ids) = (
        table::read_text(scored, "model")?,
        table::read_text(scored, "id")?,
    );
    let values = table::read_numbers(scored, "score")?;
    let prompts: Vec<Prompt> = rows.iter().map(|row| prompt(row)).collect();
    let (mut places, mut answers) = (Vec::new(), Vec::new());
    for (row, prompt) in rows.iter().zip(&prompts) {
        let model = row.of.model.as_deref().unwrap_or_default();
        let of_row = (0..ids.len()).find(|&i| models[i] == model && ids[i] == prompt.id);
        let score = of_row.map(|i| values[i]).ok_or_else(|| {
            StageError::Data(format!(
                "stage `{}` has no score of model `{model}` for prompt `{}`",
                scores.value, prompt.id
            ))
        })?;
        let (regex, xstest_prefix) = classified(text_of(row), true);
        places.push(Row {
            model,
            line: None,
            alpha: row.of.alpha.unwrap_or_default(),
            prompt,
        });
        answers.push(Answer {
            score,
            refused: score > import.study.threshold,
            text: text_of(row).to_string(),
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

fn unscored(rows: &[&PublishedRow]) -> Result<polars::prelude::DataFrame, StageError> {
    let name = |of: fn(&PublishedRow) -> &Option<String>| -> Vec<String> {
        rows.iter()
            .map(|row| of(row).clone().unwrap_or_default())
            .collect()
    };
    let verdicts: Vec<(bool, bool)> = rows.iter().map(|r| classified(text_of(r), true)).collect();
    table::frame(vec![
        table::text("model", name(|row| &row.of.model)),
        table::text("direction", rows.iter().map(|_| "none")),
        table::optional_integers("layer", rows.iter().map(|row| row.of.layer)),
        table::optional_numbers("alpha", rows.iter().map(|row| row.of.alpha).collect()),
        table::text("id", name(|row| &row.of.id)),
        table::text("split", name(|row| &row.of.set)),
        table::text("category", name(|row| &row.of.category)),
        table::text("text", rows.iter().map(|row| text_of(row))),
        table::flags("regex", verdicts.iter().map(|(regex, _)| *regex).collect()),
        table::flags("xstest_prefix", verdicts.iter().map(|(_, p)| *p).collect()),
    ])
}

fn text_of(row: &PublishedRow) -> &str {
    match &row.measured {
        Measured::Text(text) => text,
        _ => "",
    }
}

fn prompt(row: &PublishedRow) -> Prompt {
    Prompt {
        id: row.of.id.clone().unwrap_or_default(),
        text: row.of.prompt.clone().unwrap_or_default(),
        split: row.of.set.clone().unwrap_or_default(),
        category: row.of.category.clone().unwrap_or_default(),
        other: serde_json::Map::new(),
        line: row.line,
    }
}
