//! The command line: one file per subcommand, the console, and what the exit codes mean.
//!
//! Data goes to stdout, everything else to stderr.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | a stage failed, or a file could not be read or written |
//! | 2 | the command line or the study is wrong; nothing was run |
//! | 130 | interrupted; what was computed is kept |

mod console;
mod dag;
mod data;
mod diff;
mod explain;
mod init;
mod logging;
mod plan;
mod report;
mod run;
mod show;
mod tables;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::DeviceName;
use crate::plan::{Fetch, Opened, PlanError, Study, open_study};
use crate::spec;

/// Done.
pub const EXIT_OK: u8 = 0;
/// A stage failed, or a file could not be read or written.
pub const EXIT_FAILED: u8 = 1;
/// The command line or the study is wrong; nothing was run.
pub const EXIT_USAGE: u8 = 2;
/// Interrupted; what was computed is kept.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Run activation-steering studies of language models, described in one TOML file.
#[derive(Parser)]
#[command(name = "dial", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a study; only what changed since the last run is computed.
    Run(run::RunArguments),
    /// Show what a run would do, and why, without doing it.
    Plan(plan::PlanArguments),
    /// Say of each stage whether it is cached, and if not, exactly what has changed since when.
    Explain(explain::ExplainArguments),
    /// Draw a run again: its page `report.html` and its figures.
    Report(report::ReportArguments),
    /// Show a run's numbers as tables, with small charts.
    Show(show::ShowArguments),
    /// Compare two runs, or a run with published tables; exit code 1 where they differ.
    Diff(diff::DiffArguments),
    /// Print a study's pipeline for Mermaid or Graphviz.
    Dag(dag::DagArguments),
    /// Fetch public prompt sets from their homes.
    Data(data::DataArguments),
    /// Write a commented study file to start from.
    Init(init::InitArguments),
}

/// What `run`, `plan` and `explain` have in common.
#[derive(Args)]
struct StudyArguments {
    /// The study: a .toml or .yaml file.
    file: PathBuf,
    /// Set a value of the study, e.g. `stages.steer.alpha=[0,4]`; may be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// The folder of computed cells and artifacts.
    #[arg(long, value_name = "DIR", default_value = "cache")]
    cache: PathBuf,
    /// Threads of the CPU work [default: the physical cores].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Where models run: `cpu` or `cuda:N`.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceName,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The form of what is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Tables for people.
    Text,
    /// One JSON object.
    Json,
}

/// Why a command ended without its result.
enum Failure {
    /// The command line or the study is wrong.
    Usage(String),
    /// Something failed.
    Failed(String),
    /// The person stopped it; the message was given.
    Interrupted,
}

/// Runs the program, and ends the process.
pub fn main() -> ! {
    let arguments = Arguments::parse();
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Show(arguments) => show::show(&arguments),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Dag(arguments) => dag::dag(&arguments),
        Command::Data(arguments) => data::data(&arguments),
        Command::Init(arguments) => init::init(&arguments),
    };
    let code = match outcome {
        Ok(()) => EXIT_OK,
        Err(Failure::Usage(message)) => complain(&message, EXIT_USAGE),
        Err(Failure::Failed(message)) => complain(&message, EXIT_FAILED),
        Err(Failure::Interrupted) => EXIT_INTERRUPTED,
    };
    let _ = std::io::stdout().flush();
    // Every file is closed by now. Taking libtorch down piece by piece would cost more than a rerun that has nothing to do.
    // SAFETY: ends the process, and does nothing else.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::Failed(
            format!("the result cannot be written to stdout: {error}"),
        )),
        _ => Ok(()),
    }
}

fn complain(message: &str, code: u8) -> u8 {
    // Diagnostics begin with a word of their own.
    let prefix = if message.contains("error") && message.trim_start().starts_with("error") {
        ""
    } else {
        "error: "
    };
    eprintln!("{prefix}{message}");
    code
}

/// Reads and checks the study, and opens its inputs and the cache. Also the number of threads.
fn open(arguments: &StudyArguments, fetch: Fetch) -> Result<(Opened, usize), Failure> {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let render = |diagnostics: spec::Diagnostics| Failure::Usage(diagnostics.render(color));
    let threads = arguments.threads.map_or_else(physical_cores, usize::from);
    crate::model::set_threads(threads).map_err(|error| Failure::Failed(error.to_string()))?;
    let document = spec::load(&arguments.file, &arguments.overrides).map_err(render)?;
    let name = arguments.file.file_stem().and_then(|stem| stem.to_str());
    let name = name.unwrap_or("study");
    let opened = open_study(document, name, &arguments.cache, fetch);
    let opened = opened.map_err(|error| match error {
        PlanError::Study(diagnostics) => render(diagnostics),
        other => Failure::Failed(other.to_string()),
    })?;
    Ok((opened, threads))
}

/// Checks that the study has a stage of that name; `purpose` is what it is named for, as it reads after "no stage `x`".
fn check_stage(study: &Study, stage: &str, purpose: &str) -> Result<(), Failure> {
    let names = study.stages.iter().map(|s| s.name.as_str());
    if names.clone().any(|name| name == stage) {
        return Ok(());
    }
    let hint = match spec::suggest(stage, names.clone()) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!(
            "its stages are `{}`",
            names.collect::<Vec<_>>().join("`, `")
        ),
    };
    Err(Failure::Usage(format!(
        "the study has no stage `{stage}` {purpose}; {hint}"
    )))
}

/// The number of physical cores, as far as the system tells; hyper-threads do not help matrix products.
fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut cores = std::collections::HashSet::new();
    let mut socket = "";
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "physical id" => socket = value,
            "core id" => {
                cores.insert((socket, value));
            }
            _ => {}
        }
    }
    match cores.len() {
        0 => logical,
        physical => physical.min(logical),
    }
}

/// The path as it is best shown: relative to the current directory where it is below it.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here)
        .unwrap_or(path)
        .display()
        .to_string()
}
