//! Who built the directions: `members` and `selection`, and the same selection made again from the scores.

use polars::prelude::DataFrame;

use crate::stages::direction::{in_both_groups, members};
use crate::stages::table::{self, Rows};
use crate::stages::{Inputs, Output, StageError};
use crate::stats;

use super::Import;
use super::read::Builders;

/// Adds the two tables and their findings, where the files name the prompts.
pub(super) fn add(
    import: &Import,
    all: &[Builders],
    inputs: &Inputs,
    is_check: bool,
    output: &mut Output,
) -> Result<(), StageError> {
    let selection = import.direction_model.as_ref().zip(import.split.as_ref());
    if all.is_empty() {
        return match selection {
            Some(_) => Err(StageError::Data("`scores` is given to make the selection again, but no file says which prompts built the direction".to_string())),
            None => Ok(()),
        };
    }
    let mut all: Vec<Selected<'_>> = all.iter().map(|builders| (builders, None)).collect();
    if let (Some(scores), Some((model, split)), false) = (&import.scores, selection, is_check) {
        let table = inputs.stage(scores)?.table("")?;
        let ranked = Ranked::read(&table, &model.value, &split.value)?;
        for (builders, remade) in &mut all {
            *remade = Some(ranked.select(builders)?);
        }
        output.findings.extend(agreement(&all));
    }
    for (builders, _) in &all {
        output.findings.extend(overlap_finding(builders));
    }
    let groups = all.iter();
    let members = members(groups.map(|(b, _)| (b.seed, b.layer, [&b.top, &b.bottom])))?;
    output.tables.push(("members".to_string(), members));
    let selections = selections(&all)?;
    output.tables.push(("selection".to_string(), selections));
    Ok(())
}

fn overlap(builders: &Builders) -> Vec<&String> {
    let top = builders.top.iter();
    top.filter(|id| builders.bottom.contains(id)).collect()
}

fn overlap_finding(builders: &Builders) -> Option<String> {
    let both = overlap(builders);
    let seed = builders.seed.map(|seed| format!("seed {seed}"));
    let mut what = seed.unwrap_or("the direction".to_string());
    if let Some((train, _)) = builders.halves {
        let (top, bottom) = (builders.top.len(), builders.bottom.len());
        what += &format!(", {train} training prompts for {top} + {bottom}");
    }
    (!both.is_empty()).then(|| in_both_groups(&what, &both))
}

/// A published selection, and the same made again where there are scores.
type Selected<'a> = (&'a Builders, Option<Remade>);

/// A selection made again.
#[derive(Clone, Copy)]
struct Remade {
    /// Sizes of the training half and of the half held out.
    halves: (u64, u64),
    is_same: bool,
}

/// The prompts of the split with their scores, in the order of the table.
struct Ranked {
    ids: Vec<String>,
    scores: Vec<f64>,
}

impl Ranked {
    fn read(scores: &DataFrame, model: &str, split: &str) -> Result<Self, StageError> {
        let models = table::read_text(scores, "model")?;
        let splits = table::read_text(scores, "split")?;
        let ids = table::read_text(scores, "id")?;
        let values = table::read_numbers(scores, "score")?;
        let is_wanted = |row: &usize| models[*row] == model && splits[*row] == split;
        let rows: Vec<usize> = (0..ids.len()).filter(is_wanted).collect();
        if rows.is_empty() {
            return Err(StageError::Data(format!(
                "the scores have no prompt of split `{split}` for model `{model}`"
            )));
        }
        Ok(Ranked {
            ids: rows.iter().map(|&row| ids[row].clone()).collect(),
            scores: rows.iter().map(|&row| values[row]).collect(),
        })
    }

    /// As the holdout stage selects where there was a split, as the direction stage does where there was none.
    fn select(&self, published: &Builders) -> Result<Remade, StageError> {
        let n = published.top.len();
        let is_same = |ids: &[&str], found: &stats::Selection| {
            let are =
                |list: &[usize], said: &[String]| list.iter().map(|&index| ids[index]).eq(said);
            are(&found.top, &published.top) && are(&found.bottom, &published.bottom)
        };
        let all: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let (Some(seed), Some(fraction)) = (published.seed, published.fraction) else {
            let found = stats::top_bottom(&self.scores, n)?;
            let is_same = is_same(&all, &found);
            let halves = (all.len() as u64, 0);
            return Ok(Remade { halves, is_same });
        };
        let split = stats::holdout_split(seed, &all, fraction);
        let ids: Vec<&str> = split.train.iter().map(|&index| all[index]).collect();
        let scores: Vec<f64> = split.train.iter().map(|&i| self.scores[i]).collect();
        let found = stats::top_bottom_descending(&ids, &scores, n)?;
        let halves = (split.train.len() as u64, split.holdout.len() as u64);
        let are_same = published.halves.is_none_or(|said| said == halves);
        let is_same = are_same && is_same(&ids, &found);
        Ok(Remade { halves, is_same })
    }
}

/// Which selections follow from the scores.
fn agreement(all: &[Selected<'_>]) -> Vec<String> {
    let name = |(builders, _): &Selected<'_>| match builders.seed {
        Some(seed) => format!("seed {seed}"),
        None => "whole set".to_string(),
    };
    let said = |(wanted, verdict): (bool, &str)| {
        let is_wanted = |(_, remade): &&Selected<'_>| remade.is_some_and(|r| r.is_same == wanted);
        let names: Vec<String> = all.iter().filter(is_wanted).map(name).collect();
        let names = (!names.is_empty()).then(|| names.join(", "))?;
        Some(format!(
            "the published splits and selections {verdict}: {names}"
        ))
    };
    let verdicts = [
        (true, "follow from the scores, to the id"),
        (false, "do not follow from the scores"),
    ];
    verdicts.into_iter().filter_map(said).collect()
}

/// Columns: `seed, layer, n_top, n_bottom, overlap, train, holdout, follows_from_scores`; the last is `yes`, `no`, or empty without scores.
fn selections(all: &[Selected<'_>]) -> Result<DataFrame, StageError> {
    let integer = |value: Option<u64>| value.map(|value| value as i64);
    let halves = |(builders, remade): &Selected<'_>| builders.halves.or(remade.map(|r| r.halves));
    Rows::of(all)
        .integer("seed", |(b, _)| integer(b.seed))
        .integer("layer", |(b, _)| integer(b.layer))
        .integer("n_top", |(b, _)| b.top.len() as i64)
        .integer("n_bottom", |(b, _)| b.bottom.len() as i64)
        .integer("overlap", |(b, _)| overlap(b).len() as i64)
        .integer("train", |row| integer(halves(row).map(|(train, _)| train)))
        .integer("holdout", |row| {
            integer(halves(row).map(|(_, holdout)| holdout))
        })
        .text("follows_from_scores", |(_, remade)| match remade {
            None => "",
            Some(Remade { is_same: true, .. }) => "yes",
            Some(_) => "no",
        })
        .frame()
}
