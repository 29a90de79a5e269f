//! `dial help`: a command, a kind of stage, or all that a study file may hold.

use clap::{Args, CommandFactory};

use super::{Arguments, Failure, print_raw};
use crate::plan::reference;
use crate::stages::{KINDS, kind_named};

#[derive(Args)]
pub(super) struct HelpArguments {
    /// A command; `stage`, for the kinds of stages there are, and behind it one of them; `study`, for the sections of a study file; or
    /// `reference`, for all of it in Markdown.
    topic: Vec<String>,
}

pub(super) fn help(arguments: &HelpArguments) -> Result<(), Failure> {
    let topic: Vec<&str> = arguments.topic.iter().map(String::as_str).collect();
    match topic.as_slice() {
        ["stage"] => print_raw(&kinds()),
        ["stage", name] => {
            let kind = kind_named(name).ok_or_else(|| no_kind(name))?;
            print_raw(&reference::of_kind(kind))
        }
        ["study"] => print_raw(&reference::of_sections()),
        ["reference"] => print_raw(&reference::reference()),
        path => of_command(path),
    }
}

/// A line for each kind.
fn kinds() -> String {
    let lines = KINDS
        .iter()
        .map(|kind| format!("{:<13}{}\n", kind.name, kind.about));
    let lines: String = lines.collect();
    format!("{lines}\nmore of each: dial help stage KIND\n")
}

fn no_kind(name: &str) -> Failure {
    let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
    Failure::Usage(format!(
        "there is no kind of stage `{name}`; there are `{}`",
        names.join("`, `")
    ))
}

/// What `--help` prints of a command.
fn of_command(path: &[&str]) -> Result<(), Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut at = &mut command;
    for name in path {
        at = at.find_subcommand_mut(name).ok_or_else(|| {
            Failure::Usage(format!(
                "there is no command `{}` to explain; `dial help` lists them, and `dial help stage` the kinds of stages",
                path.join(" ")
            ))
        })?;
    }
    print_raw(&at.render_long_help().to_string())
}
