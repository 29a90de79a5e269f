//! `dial model orthogonalize`: a model's weights without a direction.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::DecimalBytes;
use serde_json::json;

use crate::files;
use crate::share::{WeightsOptions, WrittenWeights, write_weights};

use super::vector::{WhichArguments, described, failure, named};
use super::waiting::Waiting;
use super::{Failure, Format, print, print_json, shown, tell};

#[derive(Args)]
pub(super) struct ModelArguments {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Write the weights of a model without a direction of a run, as a Hugging Face folder: what `mode = "ablate_everywhere"` does, for good.
    Orthogonalize(OrthogonalizeArguments),
}

#[derive(Args)]
struct OrthogonalizeArguments {
    #[command(flatten)]
    which: WhichArguments,
    /// The folder to write, which is not there yet, or empty.
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// Where the model lies now, or another one (a folder or `hf:org/name`) [default: the run's].
    #[arg(long, value_name = "SOURCE")]
    model: Option<String>,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn model(arguments: &ModelArguments) -> Result<(), Failure> {
    let ModelCommand::Orthogonalize(arguments) = &arguments.command;
    let options = WeightsOptions {
        which: arguments.which.which(),
        to: arguments.output.clone(),
        model: arguments.model.clone(),
    };
    let waiting = Waiting::for_("reading and writing the weights");
    let written = write_weights(&options);
    drop(waiting);
    let WrittenWeights {
        direction,
        folder,
        notes,
    } = written.map_err(failure)?;
    let path = &arguments.output;
    match arguments.format {
        Format::Json => print_json(&json!({
            "folder": files::text_of(path), "bytes": folder.bytes, "tensors": folder.tensors, "ablated": folder.ablated,
            "untied": folder.untied, "direction": described(&direction), "notes": notes,
        }))?,
        Format::Text => print(&format!("{}\n", shown(path)))?,
    }
    tell(&format!(
        "{}: taken out of {} of {} tensors, {}",
        named(&direction),
        folder.ablated,
        folder.tensors,
        DecimalBytes(folder.bytes)
    ));
    for note in notes {
        tell(&format!("note: {note}"));
    }
    Ok(())
}
