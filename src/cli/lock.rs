//! `dial lock`, and what `dial run --locked` has in common with it.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cache::write_atomically;
use crate::files;
use crate::plan::{Change, Concern, Fetch, Lock, LockError, Opened, Pins, Selection};

use super::{
    Exit, Failure, Format, StudyArguments, open, open_pinned, print, print_json, shown, tell,
};

#[derive(Args)]
pub(super) struct LockArguments {
    #[command(flatten)]
    study: StudyArguments,
    /// Write nothing: compare the study with its lock, and end with exit code 7 where what identifies it differs; `strict` also where only
    /// the environment differs.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "study")]
    check: Option<Strictness>,
}

/// What a difference between a study and its lock leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Strictness {
    /// Models, prompts, files and versions must be the same; another dial, libtorch, device or processor is a warning.
    Study,
    /// The environment must be the same, too.
    Strict,
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Damaged(diagnostics) => Failure::Study(diagnostics),
            LockError::Unreadable(message) => Failure::Failed(message),
        }
    }
}

pub(super) fn lock(arguments: &LockArguments) -> Result<(), Failure> {
    match arguments.check {
        Some(strictness) => check(&arguments.study, strictness),
        None => write(&arguments.study),
    }
}

/// Resolves every source anew, whatever an earlier lock says, and writes what it finds.
fn write(arguments: &StudyArguments) -> Result<(), Failure> {
    let path = Lock::path_for(&arguments.file);
    let none = Pins::default();
    let (opened, _) = open_pinned(arguments, Fetch::AsNeeded, &Selection::All, &none)?;
    let lock = of(&opened, arguments)?;
    // One that cannot be read is what this command mends.
    let earlier = Lock::read(&path).ok().flatten();
    let changes = earlier.map_or(Vec::new(), |earlier| earlier.changes_to(&lock));
    let text = lock.to_text().map_err(Failure::Failed)?;
    write_atomically(&path, text.as_bytes())?;
    match arguments.format {
        Format::Json => print_json(&json!({ "lock": files::text_of(&path), "changes": changes }))?,
        Format::Text => print(&listed(&changes))?,
    }
    tell(&format!("wrote {}", shown(&path)));
    Ok(())
}

fn check(arguments: &StudyArguments, strictness: Strictness) -> Result<(), Failure> {
    let earlier = needed(arguments)?;
    let (opened, _) = open(arguments, Fetch::AsNeeded, &Selection::All)?;
    let changes = earlier.changes_to(&of(&opened, arguments)?);
    if arguments.format == Format::Json {
        print_json(&json!({ "changes": changes }))?;
    }
    let warning = judge(arguments, changes, strictness)?;
    if let Some(warning) = warning {
        tell(&warning);
    }
    let path = Lock::path_for(&arguments.file);
    tell(&format!("the study is what {} says", shown(&path)));
    Ok(())
}

/// Holds what was opened against the study's lock, before anything is computed. What to warn of is returned, to be told once the run begins.
///
/// # Errors
/// No lock, and [`Exit::Differs`].
pub(super) fn hold_against(
    arguments: &StudyArguments,
    (opened, selection): (&Opened, &Selection),
    strictness: Strictness,
) -> Result<Option<String>, Failure> {
    let now = of(opened, arguments)?;
    let earlier = match selection {
        Selection::All => needed(arguments)?,
        _ => needed(arguments)?.narrowed_to(&now),
    };
    judge(arguments, earlier.changes_to(&now), strictness)
}

fn judge(
    arguments: &StudyArguments,
    changes: Vec<Change>,
    strictness: Strictness,
) -> Result<Option<String>, Failure> {
    let path = shown(&Lock::path_for(&arguments.file));
    let of_study = |change: &Change| change.concerns == Concern::Study;
    let (study, environment): (Vec<Change>, Vec<Change>) = changes.into_iter().partition(of_study);
    let refused = match (study.is_empty(), strictness) {
        (false, Strictness::Study) => study,
        (_, Strictness::Strict) => study.into_iter().chain(environment.clone()).collect(),
        (true, Strictness::Study) => Vec::new(),
    };
    if !refused.is_empty() {
        let file = shown(&arguments.file);
        let message = format!(
            "the study is not what `{path}` says, and nothing was computed\n{}where that is meant, write the lock again with `dial lock {file}`",
            listed(&refused)
        );
        return Err(Failure::Other(Exit::Differs, message));
    }
    let warning = format!(
        "warning: the environment is not what `{path}` says\n{}",
        listed(&environment)
    );
    Ok((!environment.is_empty()).then(|| warning.trim_end().to_string()))
}

/// A line for each.
fn listed(changes: &[Change]) -> String {
    let lines = changes.iter().map(|change| format!("  {change}\n"));
    lines.collect()
}

/// The study's lock.
fn needed(arguments: &StudyArguments) -> Result<Lock, Failure> {
    let path = Lock::path_for(&arguments.file);
    Lock::read(&path)?.ok_or_else(|| {
        Failure::Usage(format!(
            "`{}` does not exist; write it with `dial lock {}`",
            shown(&path),
            shown(&arguments.file)
        ))
    })
}

fn of(opened: &Opened, arguments: &StudyArguments) -> Result<Lock, Failure> {
    let lock = Lock::of(&opened.study, &opened.inputs, arguments.device);
    lock.map_err(|error| Failure::Failed(error.to_string()))
}
