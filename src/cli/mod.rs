//! The command line: one file per subcommand, the console, and what the exit codes mean.
//!
//! Data goes to stdout, everything else to stderr.
//! Exit codes: [`Exit`].

mod cache;
mod completions;
mod console;
mod dag;
mod data;
mod diff;
mod doctor;
mod engine;
mod exit;
mod explain;
mod export;
mod help;
mod init;
mod lock;
mod logging;
mod model;
mod plan;
mod report;
mod run;
mod schema;
mod show;
mod sizes;
mod status;
mod tables;
mod unpack;
mod vector;
mod verify;
mod waiting;

use std::io::{IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use exit::Exit;

use crate::cache::CacheError;
use crate::model::{DeviceName, ModelError};
use crate::plan::{Fetch, Lock, Opened, Pins, PlanError, Selection, open_selected};
use crate::spec;
use crate::stages::StageError;
use crate::{files, harmless, machine};

/// Run activation-steering studies of language models, described in one TOML file.
#[derive(Parser)]
#[command(name = "dial", version, max_term_width = 100, after_help = Exit::help(), disable_help_subcommand = true)]
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
    /// Write down what a study names, as it is found now, into a lock beside it; or compare it with that.
    Lock(lock::LockArguments),
    /// Say of each stage whether it is cached, and if not, exactly what has changed since when.
    Explain(explain::ExplainArguments),
    /// List the runs there are, how far each got, and the command that resumes it.
    Status(status::StatusArguments),
    /// Check the cache, show what it holds, delete from it.
    Cache(cache::CacheArguments),
    /// Draw a run again: its page `report.html` and its figures.
    Report(report::ReportArguments),
    /// Show a run's numbers as tables, with small charts.
    Show(show::ShowArguments),
    /// Compare two runs, or a run with published tables; exit code 1 where they differ.
    Diff(diff::DiffArguments),
    /// Print a study's pipeline for Mermaid or Graphviz.
    Dag(dag::DagArguments),
    /// Write a finished run into one file, for others to check and to go on from.
    Export(export::ExportArguments),
    /// Check such a file: whether it is whole, whether everything follows from its values, and whether the models give these.
    Verify(verify::VerifyArguments),
    /// Make a folder of such a file, in which its study is cached and goes on.
    Unpack(unpack::UnpackArguments),
    /// Write a direction of a run for other programs.
    Vector(vector::VectorArguments),
    /// Write a model without a direction of a run.
    Model(model::ModelArguments),
    /// List public prompt sets, and fetch them from their homes.
    Data(data::DataArguments),
    /// Look at libtorch, devices, disks, the hub and the cache: what would keep a run from working.
    Doctor(cache::Place),
    /// Write a commented study file to start from, prompts to begin with, and the schema by which editors complete and check it.
    Init(init::InitArguments),
    /// Print the JSON Schema of study files, by which editors complete and check them.
    Schema,
    /// Print a script that completes commands and options in a shell.
    Completions(completions::CompletionsArguments),
    /// Explain a command, a kind of stage (`dial help stage steer`), or all keys of a study file (`dial help study`).
    Help(help::HelpArguments),
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
    /// The command line is wrong.
    Usage(String),
    /// The study is wrong.
    Study(spec::Diagnostics),
    /// Something failed.
    Failed(String),
    /// It ended in another way that has an exit code of its own.
    Other(Exit, String),
    /// The person stopped it; the message was given.
    Interrupted,
    /// Nothing has been done yet, and what is to be done takes libtorch, which this program is not linked with.
    NeedsLibtorch,
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Study(diagnostics) => Failure::Study(diagnostics),
            PlanError::UnknownStage(message) => Failure::Usage(message),
            PlanError::Stage {
                error: StageError::Model(ModelError::NeedsLibtorch),
                ..
            } => Failure::NeedsLibtorch,
            other => Failure::Failed(other.to_string()),
        }
    }
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        Failure::Failed(error.to_string())
    }
}

/// Runs the program, and ends the process.
pub fn main() -> ! {
    let arguments = Arguments::try_parse().unwrap_or_else(|error| refuse(&error));
    // Warnings of every command are told; only a run keeps them.
    let log = logging::Log::start();
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments, &log),
        Command::Plan(arguments) => plan::plan(&arguments),
        Command::Lock(arguments) => lock::lock(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Cache(arguments) => cache::cache(&arguments),
        Command::Report(arguments) => report::report(&arguments),
        Command::Show(arguments) => show::show(&arguments),
        Command::Diff(arguments) => diff::diff(&arguments),
        Command::Dag(arguments) => dag::dag(&arguments),
        Command::Export(arguments) => export::export(&arguments),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Unpack(arguments) => unpack::unpack(&arguments),
        Command::Vector(arguments) => vector::vector(&arguments),
        Command::Model(arguments) => model::model(&arguments),
        Command::Data(arguments) => data::data(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Init(arguments) => init::init(&arguments),
        Command::Schema => schema::schema(),
        Command::Help(arguments) => help::help(&arguments),
        Command::Completions(arguments) => completions::completions(&arguments),
    };
    let code = match outcome {
        Ok(()) => Exit::Done,
        Err(Failure::Usage(message)) => complain(&message, Exit::Usage),
        Err(Failure::Study(diagnostics)) => {
            tell_diagnostics(&diagnostics);
            Exit::Usage
        }
        Err(Failure::Failed(message)) => complain(&message, Exit::Failed),
        Err(Failure::Other(exit, message)) => complain(&message, exit),
        Err(Failure::Interrupted) => Exit::Interrupted,
        Err(Failure::NeedsLibtorch) => complain(&engine::go_on(), Exit::Failed),
    };
    let _ = std::io::stdout().flush();
    // Every file is closed by now. Taking libtorch down piece by piece would cost more than a rerun that has nothing to do.
    // SAFETY: ends the process, and does nothing else.
    unsafe { libc::_exit(code as i32) }
}

/// Ends the program as the command line asks for: with help, or with what is wrong with it.
fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        // The program's own words.
        error.exit();
    }
    // Words of the command line may be names of files, which may be anybody's.
    tell(error.render().to_string().trim_end());
    std::process::exit(error.exit_code());
}

/// Writes a line to stderr, for people. A terminal that has gone, or a log on a full disk, ends no run.
fn tell(text: &str) {
    tell_raw(&harmless::text(text));
}

/// The same of what is known to be harmless.
fn tell_raw(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes what is wrong with a study to stderr.
fn tell_diagnostics(diagnostics: &spec::Diagnostics) {
    let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tell_raw(&harmless::coloured(&diagnostics.render(color)));
}

/// Writes text for people to stdout.
fn print(text: &str) -> Result<(), Failure> {
    print_raw(&harmless::text(text))
}

/// Writes a JSON value to stdout, on one line. What a terminal would act on is escaped as JSON has it.
fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print_raw(&format!("{}\n", harmless::json(&value.to_string())))
}

/// Writes CSV to stdout: to a file or a pipe byte by byte, to a terminal as text for people.
fn print_csv(text: &str) -> Result<(), Failure> {
    match std::io::stdout().is_terminal() {
        true => print(text),
        false => print_raw(text),
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
fn print_raw(text: &str) -> Result<(), Failure> {
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

fn complain(message: &str, exit: Exit) -> Exit {
    tell(&format!("error: {message}"));
    exit
}

/// Reads and checks the study, as far as the selected stages need it, and opens its inputs and the cache. Also the number of threads. Hub
/// sources without a revision are at the commits of the study's lock, where it has one.
fn open(
    arguments: &StudyArguments,
    fetch: Fetch,
    selection: &Selection,
) -> Result<(Opened, usize), Failure> {
    let lock = Lock::read(&Lock::path_for(&arguments.file))?;
    let pins = lock.map(|lock| lock.pins()).unwrap_or_default();
    open_pinned(arguments, fetch, selection, &pins)
}

/// The same at other commits.
fn open_pinned(
    arguments: &StudyArguments,
    fetch: Fetch,
    selection: &Selection,
    pins: &Pins,
) -> Result<(Opened, usize), Failure> {
    let threads = arguments
        .threads
        .map_or_else(machine::physical_cores, usize::from);
    crate::model::set_threads(threads).map_err(|error| Failure::Failed(error.to_string()))?;
    let _waiting = waiting::Waiting::for_("reading the study and what it names");
    let document = spec::load(&arguments.file, &arguments.overrides).map_err(Failure::Study)?;
    let name = arguments
        .file
        .file_stem()
        .map(|stem| stem.to_string_lossy());
    let name = name.as_deref().unwrap_or("study");
    let name = &name.replace(char::REPLACEMENT_CHARACTER, "_");
    let opened = open_selected(document, name, &arguments.cache, fetch, selection, pins)?;
    Ok((opened, threads))
}

/// The path as it is best shown: relative to the current directory where it is below it.
fn shown(path: &Path) -> String {
    from_here(path).display().to_string()
}

/// The path relative to the current directory where it is below it.
fn from_here(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_path_buf()
}

/// What the program was given, without its name, each as the text that [`files::path_of`] turns back.
fn arguments() -> Vec<String> {
    std::env::args_os().skip(1).map(files::text_of).collect()
}

/// The command line of such arguments as a person would type it.
fn command_line(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("dial {}", words.join(" "))
}

/// A word as a shell would need it; one that is not UTF-8 as bash, zsh and ksh read it.
fn quoted(word: &str) -> String {
    let given = files::path_of(word);
    let Some(word) = given.to_str() else {
        let byte = |&byte: &u8| match byte {
            b'\'' | b'\\' | 0..=0x1F | 0x7F.. => format!("\\x{byte:02x}"),
            _ => char::from(byte).to_string(),
        };
        let bytes = given.as_os_str().as_bytes().iter();
        return format!("$'{}'", bytes.map(byte).collect::<String>());
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use super::quoted;
    use crate::files::text_of;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("stages.steer.alpha=1"), "stages.steer.alpha=1");
        assert_eq!(quoted("a=[0, 1]"), "'a=[0, 1]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        let odd = OsStr::from_bytes(b"caf\xE9's 100%");
        assert_eq!(quoted(&text_of(odd)), r"$'caf\xe9\x27s 100%'");
    }
}
