//! `dial status`: the runs there are, how far each got, and the command that resumes it.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::run::{RunState, RunSummary, run_summaries};

use super::console::duration;
use super::tables::grid;
use super::{Failure, Format, command_line, print, quoted, shown};

/// Runs that a terminal shows, the newest of all.
const ROWS: usize = 20;

#[derive(Args)]
pub(super) struct StatusArguments {
    /// The folder that has a folder per study and run.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn status(arguments: &StatusArguments) -> Result<(), Failure> {
    let runs = run_summaries(&arguments.runs).map_err(|e| Failure::Failed(e.to_string()))?;
    print(&match arguments.format {
        Format::Json => format!("{}\n", as_json(&runs)),
        Format::Text => as_text(&runs, arguments),
    })
}

fn as_json(runs: &[RunSummary]) -> serde_json::Value {
    let one = |run: &RunSummary| {
        let mut value = serde_json::to_value(run).unwrap_or_default();
        value["resume"] = json!(resume(run));
        value
    };
    json!({ "runs": runs.iter().map(one).collect::<Vec<_>>() })
}

fn as_text(runs: &[RunSummary], arguments: &StatusArguments) -> String {
    if runs.is_empty() {
        return format!("no runs in `{}`\n", arguments.runs.display());
    }
    let mut newest: Vec<&RunSummary> = runs.iter().collect();
    newest.sort_by(|a, b| b.started.cmp(&a.started));
    let older = newest.len().saturating_sub(ROWS);
    newest.truncate(ROWS);
    let rows = newest.iter().map(|run| {
        let stages = format!("{} of {}", run.stages_done, run.stages_planned);
        vec![
            shown(&run.run_dir),
            state(run),
            stages,
            run.stages_in_hand.join(", "),
            run.cells_computed.to_string(),
            run.seconds.map_or_else(String::new, duration),
        ]
    });
    let header = [
        "run",
        "state",
        "stages done",
        "stopped in",
        "cells computed",
        "took",
    ];
    let mut text = grid(&header, rows.collect());
    if older > 0 {
        text += &format!("… and {older} older; `--format json` has all\n");
    }
    // The same command resumes every run that was started with it: it is told once.
    let mut told = Vec::new();
    for command in newest.iter().filter_map(|run| resume(run)) {
        if !told.contains(&command) {
            told.push(command);
        }
    }
    if !told.is_empty() {
        text += &format!("\nto resume:\n    {}\n", told.join("\n    "));
    }
    text
}

fn state(run: &RunSummary) -> String {
    let state = match run.state {
        RunState::Running => "running",
        RunState::Complete => "complete",
        RunState::Failed => "failed",
        RunState::Interrupted => "interrupted",
        RunState::Killed => "killed",
        RunState::Unreadable => "unreadable",
    };
    match run.done_since {
        true => format!("{state}, done since"),
        false => state.to_string(),
    }
}

/// The command that resumes a run; none for one that is complete, alive, or done by a later one.
fn resume(run: &RunSummary) -> Option<String> {
    let is_open = matches!(
        run.state,
        RunState::Failed | RunState::Interrupted | RunState::Killed
    );
    if !is_open || run.done_since || run.command.is_empty() {
        return None;
    }
    let command = command_line(&run.command);
    let here = std::env::current_dir().ok();
    match &run.directory {
        Some(directory) if Some(directory) != here.as_ref() => {
            let directory = quoted(&directory.display().to_string());
            Some(format!("cd {directory} && {command}"))
        }
        _ => Some(command),
    }
}
