//! `dial vector export`: a direction of a run in a file of another program.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use crate::files;
use crate::model::Site;
use crate::share::{Form, OutError, VectorOptions, Which, WrittenVector, write_vector};
use crate::stages::Direction;

use super::{Failure, Format, print, print_json, report, shown, tell};

#[derive(Args)]
pub(super) struct VectorArguments {
    #[command(subcommand)]
    command: VectorCommand,
}

#[derive(Subcommand)]
enum VectorCommand {
    /// Write a direction of a run for other programs: safetensors, llama.cpp's control vector (GGUF), or an adapter for PEFT that ablates it.
    Export(ExportArguments),
}

#[derive(Args)]
struct ExportArguments {
    #[command(flatten)]
    which: WhichArguments,
    /// What to write; nothing may be there yet. A name that ends in `.safetensors` or `.gguf` says in which form.
    #[arg(long, short, value_name = "PATH")]
    output: PathBuf,
    /// In which form, where the name does not say it.
    #[arg(long = "as", value_enum, value_name = "FORM")]
    form: Option<FormName>,
    /// Of an adapter: where the model lies now, or another one (a folder, a GGUF file, `hf:org/name`) [default: the run's].
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Which direction is meant.
#[derive(Args)]
pub(super) struct WhichArguments {
    /// A run's folder, such as `runs/quickstart/latest`.
    run: PathBuf,
    /// The stage that made the direction.
    stage: String,
    /// Its layer, where the stage made several.
    #[arg(long, value_name = "N")]
    layer: Option<usize>,
    /// Its site, such as `resid_pre`, where the stage made several.
    #[arg(long, value_name = "SITE", value_parser = site)]
    site: Option<Site>,
    /// Its position, as its table has it, where the stage made several.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    position: Option<i64>,
    /// Its holdout seed, where the stage made several.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FormName {
    /// The unit vector and the length that it had, with what is known of both.
    Safetensors,
    /// A GGUF file for llama.cpp's `--control-vector`.
    ControlVector,
    /// A folder for PEFT: an adapter of rank 1 for each matrix that adds to the stream, which ablates the direction.
    Lora,
}

impl WhichArguments {
    pub(super) fn which(&self) -> Which {
        Which {
            run: self.run.clone(),
            stage: self.stage.clone(),
            layer: self.layer,
            site: self.site,
            position: self.position,
            seed: self.seed,
        }
    }
}

fn site(name: &str) -> Result<Site, String> {
    let known = Site::RESIDUAL.map(Site::short_name).join("`, `");
    let site = Site::from_name(name).filter(|site| Site::RESIDUAL.contains(site));
    site.ok_or_else(|| format!("expected one of `{known}`"))
}

pub(super) fn vector(arguments: &VectorArguments) -> Result<(), Failure> {
    let VectorCommand::Export(arguments) = &arguments.command;
    let form = form(arguments.form, &arguments.output)?;
    if arguments.model.is_some() && form != Form::Lora {
        return Err(Failure::Usage(
            "`--model` is given, and only an adapter (`--as lora`) asks for a model".to_string(),
        ));
    }
    let options = VectorOptions {
        which: arguments.which.which(),
        form,
        to: arguments.output.clone(),
        model: arguments.model.clone(),
    };
    let written = write_vector(&options).map_err(failure)?;
    told(&written, arguments)
}

/// The form that is asked for, or that the name says.
fn form(asked: Option<FormName>, output: &Path) -> Result<Form, Failure> {
    let ending = output.extension().unwrap_or_default().to_string_lossy();
    match (asked, ending.to_ascii_lowercase().as_str()) {
        (Some(FormName::Safetensors), _) | (None, "safetensors") => Ok(Form::Safetensors),
        (Some(FormName::ControlVector), _) | (None, "gguf") => Ok(Form::ControlVector),
        (Some(FormName::Lora), _) => Ok(Form::Lora),
        (None, _) => Err(Failure::Usage(format!(
            "`{}` does not say in which form; let it end in `.safetensors` or `.gguf`, or name a folder and add `--as lora`",
            shown(output)
        ))),
    }
}

fn told(written: &WrittenVector, arguments: &ExportArguments) -> Result<(), Failure> {
    let WrittenVector {
        direction,
        as_what,
        notes,
    } = written;
    let path = &arguments.output;
    match arguments.format {
        Format::Json => print_json(&json!({
            "path": files::text_of(path), "holds": as_what, "direction": described(direction), "notes": notes,
        }))?,
        Format::Text => print(&format!("{}\n", shown(path)))?,
    }
    tell(&format!("{}: {as_what}", named(direction)));
    for note in notes {
        tell(&format!("note: {note}"));
    }
    Ok(())
}

/// A direction in a line.
pub(super) fn named(direction: &Direction) -> String {
    let Direction {
        label,
        model,
        layer,
        position,
        ..
    } = direction;
    let site = direction.site.short_name();
    let place = match position {
        Some(position) => format!("position {position}"),
        None => "the mean of the prompt's tokens".to_string(),
    };
    format!("`{label}` of model `{model}`, layer {layer}, `{site}`, {place}")
}

/// A direction for a program.
pub(super) fn described(direction: &Direction) -> Json {
    json!({
        "label": direction.label, "model": direction.model, "model_fingerprint": direction.fingerprint, "layer": direction.layer,
        "site": direction.site.short_name(), "position": direction.position, "seed": direction.seed, "pre_norm": direction.pre_norm,
        "resid_norm": direction.resid_norm,
    })
}

pub(super) fn failure(error: OutError) -> Failure {
    match error {
        OutError::Asked(message) => Failure::Usage(message),
        OutError::Report(error) => report::failure(error),
        OutError::Damaged(diagnostics) => Failure::Study(diagnostics),
        OutError::Failed(message) => Failure::Failed(message),
    }
}
