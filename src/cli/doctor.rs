//! `dial doctor`: whether this machine, the hub and the cache are such that a study can run, and what to do where they are not.

mod machine;
mod storage;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::waiting::Waiting;
use super::{Exit, Failure, Format, print, print_json};
use crate::{harmless, model};

#[derive(Args)]
pub(super) struct DoctorArguments {
    /// The folder of computed cells and artifacts.
    #[arg(long, value_name = "DIR", default_value = "cache")]
    cache: PathBuf,
    /// The folder that has a folder per study and run.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// How bad what a check found is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    /// Runs work, or most of them do.
    Warning,
    /// A run would fail.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    /// What was looked at.
    name: &'static str,
    state: State,
    found: String,
    /// What to do; none where nothing need be done, or `found` says it.
    advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Check {
            name,
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            state: State::Warning,
            advice: Some(advice.into()),
            ..Check::ok(name, found)
        }
    }

    fn problem(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            state: State::Problem,
            ..Check::warning(name, found, advice)
        }
    }

    /// A problem whose message ends with what to do.
    fn failed(name: &'static str, message: impl ToString) -> Self {
        Check {
            state: State::Problem,
            ..Check::ok(name, message.to_string())
        }
    }

    fn as_text(&self) -> String {
        let state = match self.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        let found = harmless::line(&self.found);
        let mut text = format!("{state:7}  {:10}  {found}\n", self.name);
        if let Some(advice) = &self.advice {
            text += &format!("{:21}to do: {}\n", "", harmless::line(advice));
        }
        text
    }
}

pub(super) fn doctor(arguments: &DoctorArguments) -> Result<(), Failure> {
    model::check_linked().map_err(|_| Failure::NeedsLibtorch)?;
    let waiting = Waiting::for_("looking at the machine, the hub and the cache");
    let mut checks = vec![
        machine::libtorch(),
        machine::devices(),
        machine::threads(),
        machine::memory(),
    ];
    checks.extend(storage::hub());
    checks.push(storage::folder("runs", &arguments.runs, "`--runs`"));
    checks.extend(storage::cache(&arguments.cache));
    drop(waiting);
    let count = |state: State| checks.iter().filter(|check| check.state == state).count();
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    match arguments.format {
        Format::Json => {
            print_json(&json!({ "checks": checks, "problems": problems, "warnings": warnings }))?
        }
        Format::Text => print(&checks.iter().map(Check::as_text).collect::<String>())?,
    }
    match problems {
        0 => Ok(()),
        _ => Err(Failure::Other(
            Exit::Unfit,
            format!(
                "{}, which a run would fail on",
                counted(problems, "problem")
            ),
        )),
    }
}

/// `1 file`, `2 files`
fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
