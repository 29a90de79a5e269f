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
    // What can be resumed is shown, however old.
    let mut place = 0;
    newest.retain(|run| {
        place += 1;
        place <= ROWS || resume(run).is_some()
    });
    let older = runs.len() - newest.len();
    let rows = newest.iter().map(|run| {
        let stages = format!("{} of {}", run.stages_done, run.stages_planned);
        vec![
            shown(&run.run_dir),
            state(run),
            stages,
            in_hand(run),
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
    let lacks_page = |run: &&&RunSummary| {
        run.state == RunState::Complete && !run.run_dir.join("report.html").exists()
    };
    let lacking = newest.iter().filter(lacks_page);
    let lacking: Vec<String> = lacking
        .map(|run| command_line(&["report".to_string(), shown(&run.run_dir)]))
        .collect();
    if !lacking.is_empty() {
        text += &format!(
            "\nto draw the report that is missing:\n    {}\n",
            lacking.join("\n    ")
        );
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

/// The stages that it stopped in, and how far the one was that it was computing.
fn in_hand(run: &RunSummary) -> String {
    let stages = run.stages_in_hand.join(", ");
    match run.cells_in_hand {
        Some((done, total)) => format!("{stages}, {done} of {total} cells"),
        None => stages,
    }
}

/// The command that resumes a run; none for one that is complete, alive, or done by a later one, nor for one that failed and whose study was
/// edited since, to mend it. Another whose study was edited resumes from its own copy of it.
fn resume(run: &RunSummary) -> Option<String> {
    let is_open = matches!(
        run.state,
        RunState::Failed | RunState::Interrupted | RunState::Killed
    );
    let is_mended = run.state == RunState::Failed && !run.edited.is_empty();
    if !is_open || is_mended || run.done_since || run.command.is_empty() {
        return None;
    }
    let here = std::env::current_dir().ok();
    let elsewhere = run.directory.as_ref().filter(|d| Some(*d) != here.as_ref());
    let mut command = match run.edited.as_slice() {
        [] => command_line(&run.command),
        _ => command_line(&with_the_copy(run, elsewhere.is_some())),
    };
    if let Some(directory) = elsewhere {
        let directory = quoted(&directory.display().to_string());
        command = format!("cd {directory} && {command}");
    }
    if !run.edited.is_empty() {
        let edited: Vec<String> = run.edited.iter().map(|file| shown(file)).collect();
        command += &format!("    # as it was: edited since: {}", edited.join(", "));
    }
    Some(command)
}

/// The arguments of a run with its copy of the study in place of the file, and no overrides, which the copy has.
fn with_the_copy(run: &RunSummary, is_elsewhere: bool) -> Vec<String> {
    let copy = run.run_dir.join("resolved.yaml");
    let copy = match is_elsewhere {
        true => std::path::absolute(&copy).unwrap_or(copy),
        false => copy,
    };
    let directory = run.directory.clone().unwrap_or_default();
    let is_file = |argument: &String| {
        let path = std::path::absolute(directory.join(argument)).ok();
        path.is_some() && path == run.file
    };
    let mut arguments = Vec::new();
    let mut given = run.command.iter();
    while let Some(argument) = given.next() {
        if argument == "--set" {
            given.next();
        } else if is_file(argument) {
            arguments.push(copy.display().to_string());
        } else if !argument.starts_with("--set=") {
            arguments.push(argument.clone());
        }
    }
    arguments
}
