//! `dial run`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use crate::files;
use crate::plan::{Fetch, Opened, Selection};
use crate::run::{self, Event, Options, RunReport, StageStatus};
use crate::stages::StageError;

use super::console::Console;
use super::lock::{Strictness, hold_against};
use super::logging::Log;
use super::sizes::bytes;
use super::{
    Exit, Failure, Format, StudyArguments, command_line, open, print, print_json, shown, tables,
    tell, tell_diagnostics,
};

#[derive(Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    study: StudyArguments,
    /// Run one stage and what it needs.
    #[arg(long, value_name = "STAGE", conflicts_with = "from")]
    only: Option<String>,
    /// Run one stage, everything that builds on it, and what those need.
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// Compute this stage again although it is cached, and check that it gives the same bits; may be repeated.
    #[arg(long, value_name = "STAGE")]
    force: Vec<String>,
    /// Refuse to run, with exit code 7, where models, prompts, files or versions are not those of the study's lock; `strict` also where only
    /// the environment (dial, libtorch, device, processor) is another, which is a warning otherwise.
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "study")]
    locked: Option<Strictness>,
    /// After a failure go on with the stages that do not build on what failed.
    #[arg(long)]
    keep_going: bool,
    /// Memory for prefilled prompts, e.g. `4GB` or `512MiB`; what does not fit is computed again [default: half of what is free].
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    memory: Option<usize>,
    /// The folder that gets a folder per study and run.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    runs: PathBuf,
}

pub(super) fn run(arguments: &RunArguments, log: &Log) -> Result<(), Failure> {
    let selection = match (&arguments.only, &arguments.from) {
        (Some(stage), _) => Selection::Only(stage.clone()),
        (None, Some(stage)) => Selection::From(stage.clone()),
        (None, None) => Selection::All,
    };
    let (opened, _) = open(&arguments.study, Fetch::AsNeeded, &selection)?;
    let held = arguments.locked.map(|strictness| {
        let opened = (&opened, &selection);
        hold_against(&arguments.study, opened, strictness)
    });
    let of_lock = held.transpose()?.flatten();
    let stop = stop_on_interrupt();
    let options = Options {
        runs: arguments.runs.clone(),
        device: arguments.study.device,
        prefix_bytes: arguments.memory,
        force: arguments.force.clone(),
        keep_going: arguments.keep_going,
        command: super::arguments(),
    };
    let widths = opened.study.stages.iter().map(|s| s.name.len());
    let mut console = Console::new(widths.max().unwrap_or(0));
    let mut on_event = |event: Event<'_>| {
        if let Event::Started { run_dir, .. } = &event {
            tell_warnings(&opened, &selection);
            if let Some(warning) = &of_lock {
                tell(warning);
            }
            if let Err(error) = log.write_to(run_dir) {
                tell(&format!("warning: no log.jsonl is written: {error}"));
            }
        }
        console.show(&event);
    };
    let report = run::run(&opened, &options, &stop, &mut on_event);
    let report = report.map_err(|error| match error {
        run::RunError::UnknownStage(message) => Failure::Usage(message),
        run::RunError::NeedsLibtorch => Failure::NeedsLibtorch,
        run::RunError::Cache(error) => error.into(),
    })?;
    let drawn = crate::report::write_with(&report.run_dir, &opened.cache);
    match arguments.study.format {
        Format::Json => print_json(&as_json(&report, &opened))?,
        Format::Text => print(&tables::of_run(&report).to_string())?,
    }
    ending(&report, drawn.is_ok())?;
    // The numbers are there all the same, and have been printed.
    drawn.map(drop).map_err(|error| {
        Failure::Failed(format!(
            "the study is complete, but its report could not be written: {error}; once that is mended, write it with `dial report {}`",
            shown(&report.run_dir)
        ))
    })
}

/// Tells what is wrong with the rest of the study.
fn tell_warnings(opened: &Opened, selection: &Selection) {
    if opened.warnings.list.is_empty() {
        return;
    }
    tell_diagnostics(&opened.warnings);
    if let Some((option, stage)) = selection.option() {
        tell(&format!("\nnote: `{option} {stage}` needs none of this\n"));
    }
}

/// Signals that come so soon after another are the same request: a terminal that goes away tells the shell, too, which passes it on.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Set once the person, the terminal or the machine asks to stop (SIGINT, SIGHUP, SIGTERM). Asking again ends the process at once.
fn stop_on_interrupt() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let mut asked: Option<Instant> = None;
    let outlives_terminal = hangup_is_ignored();
    let handler = ctrlc::set_handler(move || match asked {
        None => {
            asked = Some(Instant::now());
            seen.store(true, Ordering::Relaxed);
            tell(
                "\nstopping: the work in hand is being committed (interrupt again to stop at once)",
            );
        }
        Some(asked) if asked.elapsed() > SAME_REQUEST => {
            std::process::exit(Exit::Interrupted as i32);
        }
        Some(_) => {}
    });
    if let Err(error) = handler {
        tracing::warn!("an interrupt will not be caught: {error}");
    }
    if outlives_terminal {
        // SAFETY: this sets no handler.
        unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
    }
    stop
}

/// Whether this was started with `nohup`.
fn hangup_is_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks for the present action only; all zeros are a value of its type.
    let action = unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction == libc::SIG_IGN
}

fn as_json(report: &RunReport, opened: &Opened) -> serde_json::Value {
    json!({
        "run_dir": files::text_of(&report.run_dir),
        "findings": opened.inputs.findings,
        "score": opened.inputs.measures,
        "stages": report.stages,
        "failures": report.failures.iter().map(|(stage, error)| json!({
            "stage": stage,
            "error": error.to_string(),
        })).collect::<Vec<_>>(),
        "equivalent_forward_passes": report.equivalent_forward_passes,
        "seconds": report.seconds,
    })
}

fn ending(report: &RunReport, has_page: bool) -> Result<(), Failure> {
    let Some((stage, last)) = report.failures.last() else {
        let computed: u64 = report.stages.iter().map(|s| s.cells_computed).sum();
        tell(&format!(
            "done in {}: {computed} cells computed, standing for {} forward passes of a script",
            super::console::duration(report.seconds),
            report.equivalent_forward_passes
        ));
        if has_page {
            let page = report.run_dir.join("report.html");
            tell(&format!("report in {}", shown(&page)));
        }
        return Ok(());
    };
    let of_stage = |(stage, error): &(String, StageError)| format!("stage `{stage}`: {error}");
    if let StageError::Interrupted = last {
        for failed in &report.failures[..report.failures.len() - 1] {
            tell(&format!("error: {}", of_stage(failed)));
        }
        tell(&format!(
            "interrupted in stage `{stage}`; all that was computed is kept"
        ));
        tell(&format!(
            "to resume, run the same command again:\n    {}",
            command_line(&super::arguments())
        ));
        return Err(Failure::Interrupted);
    }
    let mut message = report
        .failures
        .iter()
        .map(of_stage)
        .collect::<Vec<_>>()
        .join("\nerror: ");
    let blocked = report
        .stages
        .iter()
        .filter(|s| s.status == StageStatus::Blocked);
    let blocked: Vec<&str> = blocked.map(|s| s.name.as_str()).collect();
    if !blocked.is_empty() {
        message += &format!(
            "\nnot run, because they need what failed: `{}`",
            blocked.join("`, `")
        );
    }
    let other_bits =
        |(_, error): &(String, StageError)| matches!(error, StageError::NotReproduced(_));
    match report.failures.iter().all(other_bits) {
        true => Err(Failure::Other(Exit::NotReproduced, message)),
        false => Err(Failure::Failed(message)),
    }
}
