//! `dial doctor`: whether this machine, the hub and the cache are such that a study can run, and what to do where they are not.

mod machine;
mod storage;

use serde::Serialize;
use serde_json::{Value, json};

use super::cache::Place;
use super::waiting::Waiting;
use super::{Exit, Failure, Format, print, print_json};
use crate::{harmless, model};

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

/// What a look at one thing found.
#[derive(Debug, Serialize)]
struct Check {
    state: State,
    found: String,
    /// What to do; none where nothing need be done, or `found` says it.
    advice: Option<String>,
}

impl Check {
    fn ok(found: impl Into<String>) -> Self {
        Check {
            state: State::Ok,
            found: found.into(),
            advice: None,
        }
    }

    fn warning(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            state: State::Warning,
            advice: Some(advice.into()),
            ..Check::ok(found)
        }
    }

    fn problem(found: impl Into<String>, advice: impl Into<String>) -> Self {
        Check {
            state: State::Problem,
            ..Check::warning(found, advice)
        }
    }

    /// A problem whose message ends with what to do.
    fn failed(message: impl ToString) -> Self {
        Check {
            state: State::Problem,
            ..Check::ok(message.to_string())
        }
    }

    fn as_text(&self, name: &str) -> String {
        let word = json!(self.state);
        let state = word.as_str().unwrap_or_default();
        let found = harmless::line(&self.found);
        let mut text = format!("{state:7}  {name:10}  {found}\n");
        if let Some(advice) = &self.advice {
            text += &format!("{:21}to do: {}\n", "", harmless::line(advice));
        }
        text
    }

    fn as_json(&self, name: &str) -> Value {
        let mut check = json!(self);
        check["name"] = json!(name);
        check
    }
}

/// A check, after the name of what was looked at.
type Named = (&'static str, Check);

pub(super) fn doctor(arguments: &Place) -> Result<(), Failure> {
    model::check_linked().map_err(|_| Failure::NeedsLibtorch)?;
    let waiting = Waiting::for_("looking at the machine, the hub and the cache");
    let mut checks: Vec<Named> = vec![
        ("libtorch", machine::libtorch()),
        ("devices", machine::devices()),
        ("threads", machine::threads()),
        ("memory", machine::memory()),
    ];
    checks.extend(storage::hub());
    checks.push(("runs", storage::folder(&arguments.runs, "`--runs`")));
    checks.extend(storage::cache(&arguments.cache));
    drop(waiting);
    let count = |state: State| checks.iter().filter(|(_, c)| c.state == state).count();
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    let checks = checks.iter();
    match arguments.format {
        Format::Json => {
            let checks: Vec<Value> = checks.map(|(name, c)| c.as_json(name)).collect();
            print_json(&json!({ "checks": checks, "problems": problems, "warnings": warnings }))?
        }
        Format::Text => print(&checks.map(|(name, c)| c.as_text(name)).collect::<String>())?,
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
