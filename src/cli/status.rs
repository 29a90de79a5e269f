//! `dial status`: the runs there are, how far each got, and the command that resumes it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::files;
use crate::run::{RunState, RunSummary, run_summaries};

use super::console::duration;
use super::tables::grid;
use super::{Failure, Format, command_line, from_here, print, print_json, quoted, shown};

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
    let runs = run_summaries(&arguments.runs)?;
    match arguments.format {
        Format::Json => print_json(&as_json(&runs)),
        Format::Text => print(&as_text(&runs, arguments)),
    }
}

/// The runs, each with the command that resumes it.
fn as_json(runs: &[RunSummary]) -> serde_json::Value {
    let listed = runs.iter().map(|run| {
        let mut listed = json!(run);
        listed["resume"] = json!(resume(run).map(|resume| resume.command));
        listed
    });
    json!({ "runs": listed.collect::<Vec<_>>() })
}

fn as_text(runs: &[RunSummary], arguments: &StatusArguments) -> String {
    if runs.is_empty() {
        return format!("no runs in `{}`\n", arguments.runs.display());
    }
    let mut newest: Vec<(&RunSummary, Option<Resume>)> =
        runs.iter().map(|run| (run, resume(run))).collect();
    newest.sort_by(|(a, _), (b, _)| b.started.cmp(&a.started));
    // What can be resumed is shown, however old.
    let mut place = 0;
    newest.retain(|(_, resume)| {
        place += 1;
        place <= ROWS || resume.is_some()
    });
    let (listed, resumes): (Vec<&RunSummary>, Vec<_>) = newest.into_iter().unzip();
    let mut text = overview(&listed);
    match runs.len() - listed.len() {
        0 => {}
        older => text += &format!("… and {older} older; `--format json` has all\n"),
    }
    text + &why_unreadable(&listed)
        + &to_resume(resumes.into_iter().flatten().collect())
        + &to_draw(&listed)
}

/// A line for every run.
fn overview(runs: &[&RunSummary]) -> String {
    let rows = runs.iter().map(|run| {
        vec![
            shown(&run.run_dir),
            state(run),
            format!("{} of {}", run.stages_done, run.stages_planned),
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
    grid(&header, rows.collect())
}

/// A line for every run of which nothing else is known.
fn why_unreadable(runs: &[&RunSummary]) -> String {
    let unreadable = runs.iter().filter(|run| run.state == RunState::Unreadable);
    let lines = unreadable.filter_map(|run| {
        let why = run.error.as_ref()?;
        Some(format!("\n`{}`: {why}\n", shown(&run.run_dir)))
    });
    lines.collect()
}

/// The commands that resume runs, under what is to be said of them. One resumes every run that was started with it, and is told once.
fn to_resume(resumes: Vec<Resume>) -> String {
    let mut by_remark: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for Resume { remark, command } in resumes {
        let commands = by_remark.entry(remark).or_default();
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    let parts = by_remark.into_iter().map(|(remark, commands)| {
        let heading = match remark {
            None => "to resume".to_string(),
            Some(remark) => format!("to resume as it was ({remark})"),
        };
        format!("\n{heading}:\n    {}\n", commands.join("\n    "))
    });
    parts.collect()
}

/// The commands that draw reports of runs that were stopped when all else was done.
fn to_draw(runs: &[&RunSummary]) -> String {
    let lacks_page = |run: &&&RunSummary| {
        run.state == RunState::Complete && !run.run_dir.join("report.html").exists()
    };
    let commands = runs.iter().filter(lacks_page);
    let commands: Vec<String> = commands
        .map(|run| command_line(&["report".into(), files::text_of(from_here(&run.run_dir))]))
        .collect();
    match commands.is_empty() {
        true => String::new(),
        false => format!(
            "\nto draw the report that is missing:\n    {}\n",
            commands.join("\n    ")
        ),
    }
}

fn state(run: &RunSummary) -> String {
    let word = json!(run.state);
    let state = word.as_str().unwrap_or_default();
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

/// How a run is resumed.
struct Resume {
    /// What happened to the study since, where it is not what it was.
    remark: Option<String>,
    command: String,
}

/// None for a run that is complete, alive, or done by a later one, nor for one that failed and whose study was edited since, to mend it. Another whose study is not what it was resumes from its own copy.
fn resume(run: &RunSummary) -> Option<Resume> {
    let is_open = matches!(
        run.state,
        RunState::Failed | RunState::Interrupted | RunState::Killed
    );
    let is_edited = run.edited.iter().any(|file| file.exists());
    let is_mended = run.state == RunState::Failed && is_edited;
    if !is_open || is_mended || run.done_since || run.command.is_empty() {
        return None;
    }
    let here = std::env::current_dir().ok();
    // The project may lie elsewhere by now.
    let directory = run
        .directory
        .as_ref()
        .filter(|directory| directory.is_dir());
    let elsewhere = directory.filter(|directory| Some(*directory) != here.as_ref());
    let arguments = match run.edited.as_slice() {
        [] => run.command.clone(),
        _ => with_the_copy(run, elsewhere.is_some())?,
    };
    let command = match elsewhere {
        None => command_line(&arguments),
        Some(directory) => {
            let directory = quoted(&files::text_of(directory));
            format!("cd {directory} && {}", command_line(&arguments))
        }
    };
    let files: Vec<String> = run.edited.iter().map(|file| shown(file)).collect();
    let what = if is_edited { "edited" } else { "gone" };
    let remark = (!files.is_empty()).then(|| format!("{what} since: `{}`", files.join("`, `")));
    Some(Resume { remark, command })
}

/// The arguments of a run with its copy of the study in place of the file, and no overrides, which the copy has; none where the file is
/// not among them.
fn with_the_copy(run: &RunSummary, is_elsewhere: bool) -> Option<Vec<String>> {
    let copy = run.run_dir.join("resolved.yaml");
    let copy = match is_elsewhere {
        true => std::path::absolute(&copy).unwrap_or(copy),
        false => copy,
    };
    let directory = run.directory.clone().unwrap_or_default();
    let is_file = |argument: &String| {
        let path = std::path::absolute(directory.join(files::path_of(argument))).ok();
        path.is_some() && path == run.file
    };
    let mut arguments = Vec::new();
    let mut is_in_place = false;
    let mut given = run.command.iter();
    while let Some(argument) = given.next() {
        if argument == "--set" {
            given.next();
        } else if is_file(argument) {
            arguments.push(files::text_of(&copy));
            is_in_place = true;
        } else if !argument.starts_with("--set=") {
            arguments.push(argument.clone());
        }
    }
    is_in_place.then_some(arguments)
}
