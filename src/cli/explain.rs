//! `dial explain`: which stages are cached, and what exactly keeps the others from being.

use clap::Args;
use serde_json::json;

use crate::plan::{self, Explanation, Fetch, Nearest};

use super::tables::grid;
use super::{Failure, Format, StudyArguments, open, print};

/// Differences of a stage that are shown when all stages are; a stage of its own shows [`ALL_LISTED`].
const LISTED: usize = 4;
/// Differences that are shown of one stage.
const ALL_LISTED: usize = 20;
/// Longest value among all stages, in characters; a stage of its own has room for [`LONGEST_ALONE`].
const LONGEST: usize = 28;
/// Longest value of one stage, in characters.
const LONGEST_ALONE: usize = 60;

#[derive(Args)]
pub(super) struct ExplainArguments {
    #[command(flatten)]
    study: StudyArguments,
    /// Only this stage, with every difference.
    stage: Option<String>,
}

pub(super) fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let (opened, _) = open(&arguments.study, Fetch::Never)?;
    let explanations = plan::explain(&opened.study, &opened.inputs, &opened.cache);
    let mut explanations = explanations.map_err(|error| Failure::Failed(error.to_string()))?;
    if let Some(stage) = &arguments.stage {
        if let Some(hint) = opened.study.unknown_stage(stage) {
            return Err(Failure::Usage(format!(
                "the study has no stage `{stage}` to explain; {hint}"
            )));
        }
        explanations.retain(|explanation| explanation.stage == *stage);
    }
    print(&match arguments.study.format {
        Format::Json => format!("{}\n", json!({ "stages": stages(&explanations) })),
        Format::Text => as_text(&explanations, arguments.stage.is_some()),
    })
}

fn stages(explanations: &[Explanation]) -> Vec<serde_json::Value> {
    let one = |explanation: &Explanation| {
        json!({
            "name": explanation.stage,
            "kind": explanation.kind,
            "status": status(explanation),
            "waits_for": explanation.waits_for,
            "unfetched": explanation.unfetched,
            "created": explanation.created,
            "nearest": explanation.nearest,
        })
    };
    explanations.iter().map(one).collect()
}

fn status(explanation: &Explanation) -> &'static str {
    match explanation {
        Explanation { cached: true, .. } => "cached",
        Explanation { unfetched, .. } if !unfetched.is_empty() => "unfetched",
        Explanation { waits_for, .. } if !waits_for.is_empty() => "waits",
        _ => "run",
    }
}

fn as_text(explanations: &[Explanation], alone: bool) -> String {
    let (listed, longest) = match alone {
        true => (ALL_LISTED, LONGEST_ALONE),
        false => (LISTED, LONGEST),
    };
    let mut rows = Vec::new();
    for explanation in explanations {
        let mut lines = differences(explanation, listed, longest);
        let mut first = vec![explanation.stage.clone(), in_words(explanation)];
        match lines.is_empty() {
            true => first.push(remark(explanation)),
            false => first.append(&mut lines.remove(0)),
        }
        rows.push(first);
        for line in lines {
            let mut row = vec![String::new(), String::new()];
            row.extend(line);
            rows.push(row);
        }
    }
    for row in &mut rows {
        row.resize(4, String::new());
    }
    grid(&["stage", "would", "what differs", "old → new"], rows)
}

fn in_words(explanation: &Explanation) -> String {
    match status(explanation) {
        "waits" => format!("waits for {}", explanation.waits_for.join(", ")),
        "unfetched" => format!("run, once fetched: {}", explanation.unfetched.join(", ")),
        status => status.to_string(),
    }
}

/// What is to be said of a stage without differences.
fn remark(explanation: &Explanation) -> String {
    match &explanation.nearest {
        None if explanation.cached => match explanation.created.is_empty() {
            true => String::new(),
            false => format!("made {}", day_and_time(&explanation.created)),
        },
        None => "not run before".to_string(),
        Some(_) if !explanation.waits_for.is_empty() => {
            "nothing else; cached if that gives what it gave before".to_string()
        }
        Some(_) => "nothing; an artifact of it is gone from the cache".to_string(),
    }
}

/// Lines of what differs and old → new, with a line for those that are not listed, and one for what they were compared with.
fn differences(explanation: &Explanation, listed: usize, longest: usize) -> Vec<Vec<String>> {
    let Some(nearest) = &explanation.nearest else {
        return Vec::new();
    };
    let line = |difference: &plan::Difference| {
        let (old, new) = difference.values(longest);
        vec![difference.subject(), format!("{old} → {new}")]
    };
    let differences = &nearest.differences;
    let mut lines: Vec<Vec<String>> = differences.iter().take(listed).map(line).collect();
    if differences.len() > listed {
        lines.push(vec![format!("and {} more", differences.len() - listed)]);
    }
    if let (Some(last), Some(since)) = (lines.last_mut(), since(explanation, nearest)) {
        last.resize(2, String::new());
        if let Some(cell) = last.last_mut() {
            *cell = format!("{cell}  {since}").trim_start().to_string();
        }
    }
    lines
}

/// The earlier run that was compared.
fn since(explanation: &Explanation, nearest: &Nearest) -> Option<String> {
    if nearest.created.is_empty() {
        return None;
    }
    let time = day_and_time(&nearest.created);
    Some(match nearest.stage == explanation.stage {
        true => format!("(since {time})"),
        false => format!("(since `{}`, {time})", nearest.stage),
    })
}

/// A time as people say it, in UTC to the minute.
fn day_and_time(created: &str) -> String {
    let time: Result<jiff::Timestamp, _> = created.parse();
    time.map_or_else(
        |_| created.to_string(),
        |time| time.strftime("%Y-%m-%d %H:%M").to_string(),
    )
}
