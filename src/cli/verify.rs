//! `dial verify`: a shared file, checked.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::json;

use crate::cache::write_atomically;
use crate::model::DeviceName;
use crate::share::{
    Outcome, Problem, Recomputed, Verified, VerifyError, VerifyOptions, VerifyStep, Wanted,
    remove_what_is_left, share_of, verification_page, verify as check,
};
use crate::{harmless, machine};

use super::console::{bar, duration};
use super::tables::grid;
use super::{Exit, Failure, Format, print, print_json, shown, tell};

/// The files that are written.
const JSON: &str = "verify.json";
const PAGE: &str = "verify.html";

#[derive(Args)]
pub(super) struct VerifyArguments {
    /// A file that `dial export` wrote.
    file: PathBuf,
    /// Compute this many of the stored values again, drawn at random; 0 for none [default: as many as take about five minutes].
    #[arg(long, value_name = "N", conflicts_with = "full")]
    sample: Option<u64>,
    /// Compute every stored value again.
    #[arg(long)]
    full: bool,
    /// Where a model of the study is, e.g. `inst=hf:org/name`, or a path; may be repeated.
    #[arg(long = "model", value_name = "NAME=SOURCE", value_parser = name_and_place)]
    models: Vec<(String, String)>,
    /// The file of a prompt set that is not in the file, e.g. `main=prompts.jsonl`; may be repeated.
    #[arg(long = "prompts", value_name = "NAME=PATH", value_parser = name_and_place)]
    prompts: Vec<(String, String)>,
    /// Draw as an earlier check drew, which said its seed [default: fresh randomness of this machine].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Fetch models from the hub that are not on this machine; nothing is fetched otherwise.
    #[arg(long)]
    fetch: bool,
    /// The folder that `verify.json` and `verify.html` are written into.
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    output: PathBuf,
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

/// `NAME=PLACE`.
fn name_and_place(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, place)) if !name.is_empty() && !place.is_empty() => {
            Ok((name.to_string(), place.to_string()))
        }
        _ => Err("expected a name of the study, `=`, and where it is".to_string()),
    }
}

pub(super) fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let threads = arguments
        .threads
        .map_or_else(machine::physical_cores, usize::from);
    crate::model::set_threads(threads).map_err(|error| Failure::Failed(error.to_string()))?;
    let options = VerifyOptions {
        file: arguments.file.clone(),
        wanted: match (arguments.full, arguments.sample) {
            (true, _) => Wanted::All,
            (false, Some(count)) => Wanted::So(count),
            (false, None) => Wanted::FiveMinutes,
        },
        seed: arguments.seed,
        models: arguments.models.iter().cloned().collect::<BTreeMap<_, _>>(),
        prompts: arguments
            .prompts
            .iter()
            .map(|(name, path)| (name.clone(), PathBuf::from(path)))
            .collect(),
        fetch: arguments.fetch,
        device: arguments.device,
    };
    // Before minutes of work, and not after.
    std::fs::create_dir_all(&arguments.output).map_err(|error| unwritable(arguments, &error))?;
    // A second handler is refused, and the first does.
    let _ = ctrlc::set_handler(stop);
    let progress = bar("{msg} {bar:24} {pos}/{len}  {eta}");
    let verified = check(&options, &mut |step| match step {
        VerifyStep::At(what) => {
            progress.set_message(what.to_string());
            progress.tick();
        }
        VerifyStep::Drawn {
            drawn,
            stored,
            seed,
            expected,
        } => {
            let about = duration(expected.as_secs_f64());
            progress.suspend(|| {
                tell(&match drawn == stored {
                    true => format!("computing all {stored} stored values again"),
                    // Values of one prompt share work, of which a trial of a few shows little.
                    false => format!(
                        "computing {drawn} of {stored} stored values again, drawn by seed {seed}: about {about} at most"
                    ),
                });
            });
        }
        VerifyStep::Computing { done, all } => {
            progress.set_message("computing again");
            progress.set_length(all as u64);
            progress.set_position(done as u64);
        }
    });
    progress.finish_and_clear();
    // Its files may be gone already, and what it found of them is nothing.
    if STOPPED.load(Ordering::SeqCst) {
        return Err(Failure::Interrupted);
    }
    let verified = verified.map_err(|error| failure(error, arguments))?;
    match arguments.format {
        Format::Json => print_json(&json!(verified))?,
        Format::Text => print(&text(&verified))?,
    }
    write(&verified, arguments)?;
    tell(&format!(
        "written: `{}`, `{}`",
        shown(&arguments.output.join(JSON)),
        shown(&arguments.output.join(PAGE))
    ));
    ending(verified.outcome)
}

/// Whether the person stopped the check.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Ends the program on a signal, and leaves nothing of the check behind.
fn stop() {
    STOPPED.store(true, Ordering::SeqCst);
    remove_what_is_left();
    // SAFETY: ends the process, and does nothing else; libtorch's threads are at work, and are not to be taken down piece by piece.
    unsafe { libc::_exit(Exit::Interrupted as i32) }
}

fn failure(error: VerifyError, arguments: &VerifyArguments) -> Failure {
    match error {
        VerifyError::NeedsLibtorch => Failure::NeedsLibtorch,
        other => Failure::Failed(format!(
            "`{}` is not checked: {other}",
            arguments.file.display()
        )),
    }
}

fn write(verified: &Verified, arguments: &VerifyArguments) -> Result<(), Failure> {
    let folder = &arguments.output;
    let json =
        serde_json::to_string_pretty(verified).map_err(|error| unwritable(arguments, &error))?;
    write_atomically(&folder.join(JSON), (json + "\n").as_bytes())?;
    let page = verification_page(verified).map_err(|error| unwritable(arguments, &error))?;
    Ok(write_atomically(&folder.join(PAGE), page.as_bytes())?)
}

fn unwritable(arguments: &VerifyArguments, error: &dyn Display) -> Failure {
    let folder = arguments.output.display();
    Failure::Failed(format!("`{folder}` cannot be written: {error}"))
}

/// What a level tells of a place, on one line whatever names and texts are in it.
fn on_a_line(problem: &Problem) -> String {
    harmless::line(&format!("{}: {}", problem.place, problem.what)).into_owned()
}

fn ending(outcome: Outcome) -> Result<(), Failure> {
    let told = |exit, text: &str| Err(Failure::Other(exit, text.to_string()));
    match outcome {
        Outcome::Agrees => Ok(()),
        Outcome::Disagrees => told(
            Exit::Disagrees,
            "the file is not what it should be; what is wrong is listed above",
        ),
        Outcome::Unchecked => told(
            Exit::Unchecked,
            "what was checked agrees, and not everything could be checked; why is listed above",
        ),
    }
}

/// The whole check for a terminal.
fn text(verified: &Verified) -> String {
    let mut text = String::new();
    for (number, level) in (1..).zip(&verified.levels) {
        text += &format!(
            "{number}. {}: {}\n   shows that {}\n   and not {}\n",
            level.name,
            level.outcome.word(),
            level.proves,
            level.proves_not
        );
        for checked in &level.checked {
            text += &format!("   checked: {checked}\n");
        }
        for problem in &level.problems {
            text += &format!("   WRONG: {}\n", on_a_line(problem));
        }
        for unchecked in &level.unchecked {
            text += &format!("   not checked: {}\n", on_a_line(unchecked));
        }
        text += "\n";
    }
    if let Some(found) = &verified.recomputed {
        text += &drift(found);
    }
    if !verified.findings.is_empty() {
        text += "what the run itself found:\n";
        for finding in &verified.findings {
            text += &format!("   {}: {}\n", finding.stage, finding.text);
        }
        text += "\n";
    }
    for sentence in &verified.verdict {
        text += &format!("{sentence}\n");
    }
    if let Some(repeat) = &verified.repeat {
        text += &format!("The same draw again: {repeat}\n");
    }
    text
}

/// A row for each stage and model.
fn drift(found: &Recomputed) -> String {
    let number = |value: Option<f64>| match value {
        None => String::new(),
        Some(0.0) => "0".to_string(),
        Some(value) => format!("{value:.1e}"),
    };
    let rows = found.strata.iter().map(|stratum| {
        let drift = &stratum.drift;
        let texts = match drift.first_token {
            Some(token) => format!("{} from token {token}", drift.texts_apart),
            None => String::new(),
        };
        vec![
            stratum.stage.clone(),
            stratum.model.clone(),
            stratum.stored.to_string(),
            (drift.compared + stratum.failed).to_string(),
            drift.same.to_string(),
            number(drift.median),
            number(drift.most_of_all),
            number(drift.largest),
            texts,
            number(Some(stratum.tolerance.relative)),
            (drift.differing + stratum.failed).to_string(),
            share_of(stratum.at_most, stratum.stored),
        ]
    });
    let header = [
        "stage",
        "model",
        "stored",
        "drawn",
        "same bits",
        "median",
        "99 %",
        "largest",
        "texts apart",
        "tolerance",
        "differ",
        "95 %: fewer than",
    ];
    let mut text = grid(&header, rows.collect());
    let further = &found.further;
    if further.compared > 0 {
        text += &format!(
            "and {} at layers that have no drawn value, not counted: {} the same to the bit, {} differ\n",
            further.compared, further.same, further.differing
        );
    }
    if found.donors > 0 {
        text += &format!(
            "and {} activations that are put into other runs: {} have the hash that the file says\n",
            found.donors, found.donors_same
        );
    }
    text + "\n"
}
