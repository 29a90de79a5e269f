//! How soon commands answer that compute nothing, on a study that is cached.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::Result;
use super::study::Files;

/// The shortest of so many counts.
const REPETITIONS: usize = 9;

/// A command and the wall time of its process.
pub struct Answer {
    /// What was asked.
    pub name: &'static str,
    /// From its start to its end.
    pub seconds: f64,
    /// The longest that it may take.
    pub bar_seconds: Option<f64>,
}

/// Times them all.
pub fn measure(files: &Files) -> Result<Vec<Answer>> {
    let (study, cache) = (
        files.study.display().to_string(),
        files.cache().display().to_string(),
    );
    let runs = files.folder.join("runs").display().to_string();
    let again = files.folder.join("again");
    let runs_again = again.display().to_string();
    let latest = format!("{runs}/study/latest");
    let commands: [(&'static str, Vec<&str>, Option<f64>); 6] = [
        ("--help", vec!["--help"], Some(0.015)),
        ("plan", vec!["plan", &study, "--cache", &cache], Some(0.08)),
        ("explain", vec!["explain", &study, "--cache", &cache], None),
        ("status", vec!["status", "--runs", &runs], None),
        ("show", vec!["show", &latest], None),
        (
            "run, all cached",
            vec!["run", &study, "--cache", &cache, "--runs", &runs_again],
            Some(0.08),
        ),
    ];
    let timed = commands.into_iter().map(|(name, arguments, bar_seconds)| {
        Ok(Answer {
            name,
            seconds: shortest(&arguments, &again)?,
            bar_seconds,
        })
    });
    timed.collect()
}

/// The shortest time of a command that may leave runs in the folder `again`. What the last one left is removed before: a run writes some 30 MB, and
/// a virtual machine that has to be given memory for them by its host takes seven times as long to write them as one that has it.
fn shortest(arguments: &[&str], again: &Path) -> Result<f64> {
    let mut shortest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        if again.exists() {
            std::fs::remove_dir_all(again)?;
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_dial"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let status = command.status()?;
        let seconds = started.elapsed().as_secs_f64();
        if !status.success() {
            return Err(format!("`dial {}` ended with {status}", arguments.join(" ")).into());
        }
        shortest = shortest.min(seconds);
    }
    Ok(shortest)
}
