//! `dial explain`: which stages are cached, and what exactly keeps the others from being.

use clap::Args;
use serde_json::{Value as Json, json};

use crate::plan::{self, Explanation, Fetch, Nearest, Selection};

use super::tables::grid;
use super::{Failure, Format, StudyArguments, open, print, print_json};

/// Lines that all stages together may take, the heading among them.
const SCREEN: usize = 40;
/// Differences of a stage that are shown at most when all stages are; a stage of its own shows [`ALL_LISTED`].
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
    /// Only this stage, with more of its differences.
    stage: Option<String>,
}

pub(super) fn explain(arguments: &ExplainArguments) -> Result<(), Failure> {
    let (opened, _) = open(&arguments.study, Fetch::Never, &Selection::All)?;
    let mut explanations = plan::explain(&opened.study, &opened.inputs, &opened.cache)?;
    if let Some(stage) = &arguments.stage {
        if let Some(hint) = opened.study.unknown_stage(stage) {
            return Err(Failure::Usage(format!(
                "the study has no stage `{stage}` to explain; {hint}"
            )));
        }
        explanations.retain(|explanation| explanation.stage == *stage);
    }
    match arguments.study.format {
        Format::Json => {
            let stages: Json = explanations.iter().map(as_json).collect();
            print_json(&json!({ "stages": stages }))
        }
        Format::Text => print(&as_text(&explanations, arguments.stage.is_some())),
    }
}

fn as_json(explanation: &Explanation) -> Json {
    json!({
        "name": explanation.stage,
        "kind": explanation.kind,
        "status": status(explanation),
        "waits_for": explanation.waits_for,
        "unfetched": explanation.unfetched,
        "created": explanation.created,
        "nearest": explanation.nearest,
    })
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
    if alone {
        return table(explanations.iter(), ALL_LISTED, LONGEST_ALONE);
    }
    // As many differences of each stage as fit a screen, and at least one.
    let fits = |listed: &usize| {
        let lines = |e| differences(e, *listed, LONGEST).len().max(1);
        explanations.iter().map(lines).sum::<usize>() < SCREEN
    };
    if let Some(listed) = (1..=LISTED).rev().find(fits) {
        return table(explanations.iter(), listed, LONGEST);
    }
    let (cached, others): (Vec<&Explanation>, Vec<&Explanation>) =
        explanations.iter().partition(|e| e.cached);
    // Room for the heading and for what is left out.
    let shown = others.len().min(SCREEN - 3);
    let mut text = table(others[..shown].iter().copied(), 1, LONGEST);
    for (count, which) in [
        (others.len() - shown, "that are not cached"),
        (cached.len(), "that are cached"),
    ] {
        if count > 0 {
            text += &format!("… and {count} more {which}\n");
        }
    }
    text
}

/// A line for each stage and each further difference.
fn table<'a>(
    explanations: impl Iterator<Item = &'a Explanation>,
    listed: usize,
    longest: usize,
) -> String {
    let mut rows = Vec::new();
    for explanation in explanations {
        let mut lines = differences(explanation, listed, longest);
        if lines.is_empty() {
            lines.push([remark(explanation), String::new()]);
        }
        let mut stage = [explanation.stage.clone(), in_words(explanation)];
        for line in lines {
            // Only the first of its lines names the stage.
            rows.push([std::mem::take(&mut stage), line].concat());
        }
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
        None if !explanation.cached => "no earlier output".to_string(),
        None if explanation.created.is_empty() => String::new(),
        None => format!("made {}", day_and_time(&explanation.created)),
        Some(_) if !explanation.waits_for.is_empty() => {
            "nothing else; cached if that gives what it gave before".to_string()
        }
        Some(_) => "nothing; an artifact of it is gone from the cache".to_string(),
    }
}

/// Lines of what differs and old → new, with a line for those that are not listed, and one for what they were compared with.
fn differences(explanation: &Explanation, listed: usize, longest: usize) -> Vec<[String; 2]> {
    let Some(nearest) = &explanation.nearest else {
        return Vec::new();
    };
    let line = |difference: &plan::Difference| {
        let (old, new) = difference.values(longest);
        [difference.subject(), format!("{old} → {new}")]
    };
    let differences = &nearest.differences;
    // What is left out takes a line, too: where one is allowed, the first difference says that there are more.
    let shown = match differences.len() > listed {
        true => listed.saturating_sub(1).max(1),
        false => listed,
    };
    let mut lines: Vec<[String; 2]> = differences.iter().take(shown).map(line).collect();
    match differences.len().saturating_sub(shown) {
        0 => {}
        more if listed == 1 => lines[0][0] += &format!(" and {more} more"),
        more => lines.push([format!("and {more} more"), String::new()]),
    }
    if let (Some([_, values]), Some(since)) = (lines.last_mut(), since(explanation, nearest)) {
        *values = format!("{values}  {since}").trim_start().to_string();
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
    match created.parse::<jiff::Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        Err(_) => created.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::{Difference, Part};

    use super::*;

    fn explanation(number: usize, differences: usize) -> Explanation {
        let difference = |parameter: usize| Difference {
            of: None,
            part: Part::Parameter,
            name: format!("parameter-{parameter}"),
            old: json!(1),
            new: json!(2),
        };
        let nearest = Nearest {
            stage: format!("stage-{number}"),
            created: String::new(),
            differences: (0..differences).map(difference).collect(),
        };
        Explanation {
            stage: format!("stage-{number}"),
            kind: "steer",
            cached: differences == 0,
            waits_for: Vec::new(),
            unfetched: Vec::new(),
            created: String::new(),
            nearest: (differences > 0).then_some(nearest),
        }
    }

    fn height(explanations: &[Explanation]) -> usize {
        as_text(explanations, false).lines().count()
    }

    #[test]
    fn all_stages_together_fit_a_screen() {
        for stages in [1, 8, 9, 20, 39, 40, 60, 500] {
            for differences in [1, 4, 5, 30] {
                let all: Vec<_> = (0..stages).map(|n| explanation(n, differences)).collect();
                let height = height(&all);
                assert!(height <= SCREEN, "{stages} × {differences}: {height}");
            }
        }
        let few: Vec<_> = (0..3).map(|n| explanation(n, 6)).collect();
        assert_eq!(height(&few), 1 + 3 * LISTED);
        let one_line = as_text(
            &(0..30).map(|n| explanation(n, 6)).collect::<Vec<_>>(),
            false,
        );
        assert!(one_line.contains("parameter-0 and 5 more"), "{one_line}");
    }

    #[test]
    fn of_very_many_stages_those_that_are_cached_are_counted() {
        let all: Vec<_> = (0..60).map(|n| explanation(n, n % 2)).collect();
        let text = as_text(&all, false);
        assert!(text.ends_with("… and 30 more that are cached\n"), "{text}");
        assert_eq!(text.lines().count(), 32);
        let all: Vec<_> = (0..90).map(|n| explanation(n, n % 2)).collect();
        let text = as_text(&all, false);
        let end = "… and 8 more that are not cached\n… and 45 more that are cached\n";
        assert!(text.ends_with(end), "{text}");
    }
}
