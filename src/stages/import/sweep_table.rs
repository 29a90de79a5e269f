//! A published sweep as the sweep's table: by prompt where scores were published, otherwise by group.

use std::collections::{HashMap, HashSet};

use crate::stages::published::{Builders, Measured, Published, PublishedRow};
use crate::stages::sweep::{self as swept, SweepRow, SweptGroup, SweptPrompt};
use crate::stages::{Inputs, Output, StageError, summary};

use super::{Import, by_prompt};

/// A sweep's tables and what is worth knowing of them.
pub(super) fn output(
    import: &Import,
    files: &[Published],
    inputs: &Inputs,
) -> Result<Output, StageError> {
    let rows: Vec<&PublishedRow> = files.iter().flat_map(|file| &file.rows).collect();
    if let Some(row) = rows.iter().find(|row| row.of.layer.is_none()) {
        return Err(StageError::Data(format!(
            "nothing says which layer the rows of model `{}` are of: neither the file, its name, nor `layer` of the section `[import]`",
            row.of.model.as_deref().unwrap_or_default()
        )));
    }
    match by_prompt(files) {
        Some(true) => prompts(import, &rows, files, inputs),
        Some(false) => groups(import, &rows),
        None => Err(StageError::Data(
            "some files hold scores of prompts and others means of groups; import them in stages of their own".to_string(),
        )),
    }
}

/// The rows of single prompts.
fn prompts(
    import: &Import,
    rows: &[&PublishedRow],
    files: &[Published],
    inputs: &Inputs,
) -> Result<Output, StageError> {
    let built = Built::new(import, files, inputs)?;
    let threshold = import.settings.score.threshold;
    let swept = rows.iter().map(|row| {
        let (score, said) = score(row);
        let prompt = SweptPrompt {
            id: text(&row.of.id),
            split: split(import, row),
            category: text(&row.of.category),
            score,
            refused: said.unwrap_or(score > threshold),
            built: built.has(row),
        };
        swept_row(import, row, swept::Measured::Prompt(prompt))
    });
    let swept: Vec<SweepRow<'_>> = swept.collect();
    let main = SweepRow::table_of_prompts(&swept)?;
    let prompts: Vec<SweptPrompt<'_>> = swept.iter().map(SweepRow::prompt).collect();
    let flags: Vec<bool> = prompts.iter().map(|prompt| prompt.built).collect();
    let mut output = Output::default();
    let is_otherwise = |prompt: &&SweptPrompt<'_>| (prompt.score > threshold) != prompt.refused;
    let differing = prompts.iter().filter(is_otherwise).count();
    if differing > 0 {
        output.findings.push(format!(
            "{differing} of {} rows are called refusals or not against the threshold {threshold}; the file's word is kept",
            rows.len()
        ));
    }
    output.findings.extend(built.finding(rows, &flags));
    if import.kind == "xstest" {
        let rates = summary::xstest_rates(&main)?;
        output.tables.push(("rates".to_string(), rates));
    }
    output.tables.insert(0, (String::new(), main));
    Ok(output)
}

/// The rows of groups: the main table where rates are known, otherwise `means`.
fn groups(import: &Import, rows: &[&PublishedRow]) -> Result<Output, StageError> {
    // Rates by type are in the table by prompt; a group is all prompts of a set.
    let rows: Vec<&PublishedRow> = rows
        .iter()
        .copied()
        .filter(|row| row.of.category.is_none())
        .collect();
    let groups: Vec<SweptGroup> = rows.iter().filter_map(|row| group(row)).collect();
    let has_rates = groups.iter().all(|group| group.refusal_rate.is_some());
    let is_whole = groups.iter().all(|group| group.n.is_some());
    let swept = rows.iter().zip(&groups);
    let swept = swept.map(|(row, group)| swept_row(import, row, swept::Measured::Group(*group)));
    let frame = SweepRow::table_of_groups(&swept.collect::<Vec<_>>())?;
    let name = match has_rates && is_whole {
        true => String::new(),
        false => "means".to_string(),
    };
    let mut output = Output::default();
    if !name.is_empty() {
        output.findings.push("means of groups without their refusal rates or sizes were published: they are in the table `means`, which a summary cannot use".to_string());
    }
    output.tables.push((name, frame));
    Ok(output)
}

/// What is known of a group, if the row is of one.
fn group(row: &PublishedRow) -> Option<SweptGroup> {
    match row.measured {
        Measured::Group { n, mean, std, rate } => Some(SweptGroup {
            n: n.map(|n| n as i64),
            mean,
            std,
            refusal_rate: rate,
        }),
        _ => None,
    }
}

fn swept_row<'a>(
    import: &Import,
    row: &'a PublishedRow,
    measured: swept::Measured<'a>,
) -> SweepRow<'a> {
    SweepRow {
        model: text(&row.of.model),
        direction: direction(import),
        seed: row.of.seed.map(|seed| seed as i64),
        layer: row.of.layer.unwrap_or_default() as i64,
        site: row.of.site.as_deref().unwrap_or(import.site.short_name()),
        alpha: row.of.alpha,
        set: set(import, row),
        measured,
    }
}

fn direction(import: &Import) -> &'static str {
    match import.kind {
        "random" => "random",
        "holdout" | "xstest" => "published_holdout",
        _ => "published",
    }
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The set a row is of. XSTest's label is not in the published table, but its types say it: `contrast_…` is unsafe.
fn set<'a>(import: &Import, row: &'a PublishedRow) -> &'a str {
    match (row.of.set.as_deref(), row.of.category.as_deref()) {
        (Some(set), _) => set,
        (None, Some(kind)) if import.kind == "xstest" => match kind.starts_with("contrast_") {
            true => "unsafe",
            false => "safe",
        },
        _ => "all",
    }
}

/// The split of the prompt: a holdout's halves are of the split they are named after.
fn split<'a>(import: &Import, row: &'a PublishedRow) -> &'a str {
    let set = set(import, row);
    let halves = ["_train", "_holdout"].into_iter();
    let mut stripped = halves.filter_map(|half| set.strip_suffix(half));
    stripped.next().unwrap_or(set)
}

fn score(row: &PublishedRow) -> (f64, Option<bool>) {
    match row.measured {
        Measured::Score { score, refused } => (score, refused),
        _ => (f64::NAN, None),
    }
}

/// The prompts that built the directions, by seed, as ids and as texts.
struct Built {
    ids: HashMap<Option<u64>, HashSet<String>>,
    texts: HashMap<Option<u64>, HashSet<String>>,
}

impl Built {
    fn new(import: &Import, files: &[Published], inputs: &Inputs) -> Result<Self, StageError> {
        let by_id = import.texts(inputs);
        let mut built = Built {
            ids: HashMap::new(),
            texts: HashMap::new(),
        };
        for builders in import.builders(files, inputs)? {
            let Builders { top, bottom, .. } = &builders;
            let ids: HashSet<String> = top.iter().chain(bottom).cloned().collect();
            let texts = ids.iter().filter_map(|id| by_id.get(id.as_str()));
            let texts = texts.map(|text| (*text).to_string()).collect();
            built.texts.insert(builders.seed, texts);
            built.ids.insert(builders.seed, ids);
        }
        Ok(built)
    }

    /// Whether a row's prompt built the direction: by its text where the row has it (ids differ between prompt sets), else by id.
    fn has(&self, row: &PublishedRow) -> bool {
        let of = |sets: &HashMap<Option<u64>, HashSet<String>>, value: &Option<String>| {
            let set = sets.get(&row.of.seed).or_else(|| sets.get(&None));
            set.zip(value.as_ref())
                .is_some_and(|(set, value)| set.contains(value))
        };
        match row.of.prompt.is_some() {
            true => of(&self.texts, &row.of.prompt),
            false => of(&self.ids, &row.of.id),
        }
    }

    /// How many prompts are not independent of the direction, where prompts are told by their texts.
    fn finding(&self, rows: &[&PublishedRow], flags: &[bool]) -> Option<String> {
        let distinct = |wanted: bool| -> HashSet<&str> {
            let rows = rows.iter().zip(flags);
            rows.filter(|(_, built)| **built || !wanted)
                .filter_map(|(row, _)| row.of.prompt.as_deref())
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
