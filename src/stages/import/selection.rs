//! Who built the directions: `members` and `selection`, and the same selection made again from the scores.

use polars::prelude::DataFrame;

use crate::stages::{Inputs, Output, StageError, table};
use crate::stats::{self, StatsError};

use super::read::Builders;
use super::{Import, Selection};

/// Adds the two tables and their findings, where the files name the prompts.
pub(super) fn add(
    import: &Import,
    all: &[Builders],
    inputs: &Inputs,
    is_check: bool,
    output: &mut Output,
) -> Result<(), StageError> {
    if all.is_empty() {
        return match import.selection() {
            Some(_) => Err(StageError::Data("`scores` is given to make the selection again, but no file says which prompts built the direction".to_string())),
            None => Ok(()),
        };
    }
    let mut remade: Vec<Option<Remade>> = vec![None; all.len()];
    if let (Some(scores), Some(selection), false) = (&import.scores, import.selection(), is_check) {
        let table = inputs.stage(scores)?.table("")?;
        let ranked = Ranked::read(&table, &selection)?;
        for (builders, remade) in all.iter().zip(&mut remade) {
            *remade = Some(ranked.select(builders)?);
        }
        output.findings.extend(agreement(all, &remade));
    }
    for builders in all {
        output.findings.extend(overlap_finding(builders));
    }
    output.tables.push(("members".to_string(), members(all)?));
    output
        .tables
        .push(("selection".to_string(), selections(all, &remade)?));
    Ok(())
}

fn overlap(builders: &Builders) -> Vec<&str> {
    let top = builders
        .top
        .iter()
        .filter(|id| builders.bottom.contains(id));
    top.map(String::as_str).collect()
}

fn overlap_finding(builders: &Builders) -> Option<String> {
    let both = overlap(builders);
    let seed = builders
        .seed
        .map_or("the direction".to_string(), |seed| format!("seed {seed}"));
    let train = builders.halves.map_or(String::new(), |(train, _)| {
        let (top, bottom) = (builders.top.len(), builders.bottom.len());
        format!(", {train} training prompts for {top} + {bottom}")
    });
    (!both.is_empty()).then(|| {
        format!(
            "{seed}{train}: {} prompts are both among the highest and the lowest scores: `{}`",
            both.len(),
            both.join("`, `")
        )
    })
}

/// A selection made again.
#[derive(Clone, Debug)]
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
    fn read(scores: &DataFrame, selection: &Selection<'_>) -> Result<Self, StageError> {
        let models = table::read_text(scores, "model")?;
        let splits = table::read_text(scores, "split")?;
        let ids = table::read_text(scores, "id")?;
        let values = table::read_numbers(scores, "score")?;
        let is_wanted = |row: &usize| {
            models[*row] == selection.model.value && splits[*row] == selection.split.value
        };
        let rows: Vec<usize> = (0..ids.len()).filter(is_wanted).collect();
        if rows.is_empty() {
            return Err(StageError::Data(format!(
                "the scores have no prompt of split `{}` for model `{}`",
                selection.split.value, selection.model.value
            )));
        }
        Ok(Ranked {
            ids: rows.iter().map(|&row| ids[row].clone()).collect(),
            scores: rows.iter().map(|&row| values[row]).collect(),
        })
    }

    /// As the holdout stage selects where there was a split, as the direction stage does where there was none.
    fn select(&self, published: &Builders) -> Result<Remade, StageError> {
        let failed = |error: StatsError| StageError::Data(error.to_string());
        let n = published.top.len();
        let named = |ids: &[&str], list: &[usize]| -> Vec<String> {
            list.iter().map(|&index| ids[index].to_string()).collect()
        };
        let is_same = |ids: &[&str], found: &stats::Selection| {
            named(ids, &found.top) == published.top && named(ids, &found.bottom) == published.bottom
        };
        let all: Vec<&str> = self.ids.iter().map(String::as_str).collect();
        let (Some(seed), Some(fraction)) = (published.seed, published.fraction) else {
            let found = stats::top_bottom(&self.scores, n).map_err(failed)?;
            return Ok(Remade {
                halves: (all.len() as u64, 0),
                is_same: is_same(&all, &found),
            });
        };
        let split = stats::holdout_split(seed, &all, fraction);
        let ids: Vec<&str> = split.train.iter().map(|&index| all[index]).collect();
        let scores: Vec<f64> = split.train.iter().map(|&i| self.scores[i]).collect();
        let found = stats::top_bottom_descending(&ids, &scores, n).map_err(failed)?;
        let halves = (split.train.len() as u64, split.holdout.len() as u64);
        Ok(Remade {
            halves,
            is_same: is_same(&ids, &found) && published.halves.is_none_or(|said| said == halves),
        })
    }
}

/// Which selections follow from the scores.
fn agreement(all: &[Builders], remade: &[Option<Remade>]) -> Vec<String> {
    let named = |wanted: bool| -> Vec<String> {
        let pairs = all.iter().zip(remade);
        let pairs =
            pairs.filter(|(_, remade)| remade.as_ref().is_some_and(|r| r.is_same == wanted));
        let seed = |builders: &Builders| builders.seed.map(|seed| format!("seed {seed}"));
        pairs
            .map(|(b, _)| seed(b).unwrap_or("whole set".to_string()))
            .collect()
    };
    let verdicts = [
        (named(true), "follow from the scores, to the id"),
        (named(false), "do not follow from the scores"),
    ];
    let said = verdicts.into_iter().filter(|(names, _)| !names.is_empty());
    said.map(|(names, verdict)| {
        let names = names.join(", ");
        format!("the published splits and selections {verdict}: {names}")
    })
    .collect()
}

fn members(all: &[Builders]) -> Result<DataFrame, StageError> {
    let mut rows: Vec<(&Builders, &str, usize, &String)> = Vec::new();
    for builders in all {
        for (group, ids) in [("top", &builders.top), ("bottom", &builders.bottom)] {
            let ids = ids.iter().enumerate();
            rows.extend(ids.map(|(rank, id)| (builders, group, rank, id)));
        }
    }
    table::frame(vec![
        table::optional_integers("seed", rows.iter().map(|row| row.0.seed)),
        table::optional_integers("layer", rows.iter().map(|row| row.0.layer)),
        table::text("group", rows.iter().map(|row| row.1)),
        table::integers("rank", rows.iter().map(|row| row.2)),
        table::text("id", rows.iter().map(|row| row.3)),
    ])
}

/// Columns: `seed, layer, n_top, n_bottom, overlap, train, holdout, follows_from_scores`; the last is `yes`, `no`, or empty without scores.
fn selections(all: &[Builders], remade: &[Option<Remade>]) -> Result<DataFrame, StageError> {
    let pairs = all.iter().zip(remade);
    let halves = pairs.map(|(b, r)| b.halves.or(r.as_ref().map(|remade| remade.halves)));
    let halves: Vec<Option<(u64, u64)>> = halves.collect();
    let verdict = |remade: &Option<Remade>| match remade {
        None => "",
        Some(Remade { is_same: true, .. }) => "yes",
        Some(_) => "no",
    };
    table::frame(vec![
        table::optional_integers("seed", all.iter().map(|b| b.seed)),
        table::optional_integers("layer", all.iter().map(|b| b.layer)),
        table::integers("n_top", all.iter().map(|b| b.top.len())),
        table::integers("n_bottom", all.iter().map(|b| b.bottom.len())),
        table::integers("overlap", all.iter().map(|b| overlap(b).len())),
        table::optional_integers("train", halves.iter().map(|h| h.map(|h| h.0))),
        table::optional_integers("holdout", halves.iter().map(|h| h.map(|h| h.1))),
        table::text("follows_from_scores", remade.iter().map(verdict)),
    ])
}
