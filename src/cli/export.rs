//! `dial export`: a finished run as one file, for whoever is to check it or go on from it.

use std::path::PathBuf;

use clap::Args;
use indicatif::DecimalBytes;
use serde_json::json;

use crate::files;
use crate::share::{ExportError, ExportOptions, Exported, Step, export as write};

use super::console::bar;
use super::{Failure, Format, print, print_json, report, shown, tell};

#[derive(Args)]
pub(super) struct ExportArguments {
    /// A run's folder, such as `runs/quickstart/latest`.
    run: PathBuf,
    /// The file to write [default: <study>-<key>.zip].
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The folder of the cache that the run used [default: the one that the run wrote down].
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Say where a model or a prompt set lies now, e.g. `models.inst.source=/models/inst`; may be repeated.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    overrides: Vec<String>,
    /// Leave out the texts of all prompt sets and what models wrote after them, as `share = false` does for one set.
    #[arg(long)]
    without_prompts: bool,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn export(arguments: &ExportArguments) -> Result<(), Failure> {
    let options = ExportOptions {
        run: arguments.run.clone(),
        to: arguments.output.clone(),
        cache: arguments.cache.clone(),
        overrides: arguments.overrides.clone(),
        without_prompts: arguments.without_prompts,
    };
    let progress = bar("{bar:24} {pos}/{len} {msg}");
    let exported = write(&options, &mut |Step { what, done, total }| {
        progress.set_length(total as u64);
        progress.set_position(done as u64);
        progress.set_message(what.to_string());
        progress.tick();
    });
    progress.finish_and_clear();
    told(&exported.map_err(failure)?, arguments.format)
}

fn told(exported: &Exported, format: Format) -> Result<(), Failure> {
    let Exported {
        path,
        bytes,
        files: count,
        cells,
        left_out,
        withheld,
        notes,
    } = exported;
    match format {
        Format::Json => print_json(&json!({
            "file": files::text_of(path), "bytes": bytes, "files": count, "cells": cells, "activations_left_out": left_out, "withheld": withheld, "notes": notes,
        }))?,
        Format::Text => print(&format!("{}\n", shown(path)))?,
    }
    tell(&format!(
        "{}: {count} files, {cells} cells ({left_out} activations are left out)",
        DecimalBytes(*bytes)
    ));
    for note in notes {
        tell(&format!("note: {note}"));
    }
    Ok(())
}

fn failure(error: ExportError) -> Failure {
    match error {
        ExportError::NotComplete(message) => Failure::Usage(message),
        ExportError::Report(error) => report::failure(error),
        ExportError::Study(error) => error.into(),
        ExportError::Damaged(diagnostics) => Failure::Study(diagnostics),
        ExportError::NeedsLibtorch => Failure::NeedsLibtorch,
        ExportError::Failed(message) => Failure::Failed(message),
    }
}
