//! `dial cache verify`, `stats` and `gc`: whether the cache is sound, what it holds for whom, and deleting some of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use indicatif::DecimalBytes;
use serde_json::json;

use crate::cache::{Cache, Users};
use crate::run::{self, Criteria, Usage};

use super::console;
use super::sizes::{age, bytes};
use super::tables::grid;
use super::{Exit, Failure, Format, print, print_json, shown, tell};

#[derive(Args)]
pub(super) struct CacheArguments {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Subcommand)]
enum CacheCommand {
    /// Read every file and check its content; what is damaged is moved aside and will be computed again.
    Verify(Place),
    /// Show how much the cache holds, by kind of stage and by run.
    Stats(Place),
    /// Delete what is old, too much, or used by no run; never while a run is alive on the cache.
    Gc(GcArguments),
}

#[derive(Args)]
pub(super) struct Place {
    /// The folder of computed cells and artifacts.
    #[arg(long, value_name = "DIR", default_value = "cache")]
    pub(super) cache: PathBuf,
    /// The folder that has a folder per study and run.
    #[arg(long, value_name = "DIR", default_value = "runs")]
    pub(super) runs: PathBuf,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

#[derive(Args)]
#[group(id = "criteria", required = true, multiple = true, args = ["older_than", "keep_size", "unreferenced"])]
struct GcArguments {
    #[command(flatten)]
    place: Place,
    /// Delete what was made longer ago than this, e.g. `30d`.
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<Duration>,
    /// Delete down to this size, e.g. `10GB`; first what is cheapest to compute again per byte.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    keep_size: Option<usize>,
    /// Delete what no run in the folder of runs refers to.
    #[arg(long)]
    unreferenced: bool,
    /// Say what would be deleted, and delete nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn cache(arguments: &CacheArguments) -> Result<(), Failure> {
    match &arguments.command {
        CacheCommand::Verify(place) => verify(place),
        CacheCommand::Stats(place) => stats(place),
        CacheCommand::Gc(arguments) => gc(arguments),
    }
}

impl Place {
    /// The cache, which must be there: a slip in its name is not to make an empty one.
    fn open(&self) -> Result<Cache, Failure> {
        if !Cache::is_in(&self.cache) {
            return Err(Failure::Usage(format!(
                "there is no cache in `{}`; name its folder with `--cache`",
                self.cache.display()
            )));
        }
        let cache = Cache::open(&self.cache)?;
        if let Some(from) = cache.received() {
            tell(&format!(
                "note: this cache came with `{from}`, and was computed by its author"
            ));
        }
        Ok(cache)
    }
}

fn busy(users: Users) -> Failure {
    let runs: Vec<String> = users.runs.iter().map(|run| shown(run)).collect();
    let why = match runs.is_empty() {
        true => "another `dial cache gc` is deleting from the cache; wait for it".to_string(),
        false => format!(
            "a run is alive on the cache: `{}`; wait for it, or stop it",
            runs.join("`, `")
        ),
    };
    Failure::Other(Exit::Busy, format!("nothing was deleted, because {why}"))
}

fn size(bytes: u64) -> String {
    DecimalBytes(bytes).to_string()
}

fn verify(place: &Place) -> Result<(), Failure> {
    let cache = place.open()?;
    let bar = console::bar(
        "checking  {bar:24} {decimal_bytes}/{decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left",
    );
    let verified = run::verify(&cache, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let verified = verified?;
    let damaged = verified.damaged.len();
    match place.format {
        Format::Json => print_json(&json!(verified))?,
        Format::Text => print(&format!(
            "{} files checked, {}: {}\n",
            verified.files,
            size(verified.bytes),
            match damaged {
                0 => "all sound".to_string(),
                count => format!("{count} damaged"),
            }
        ))?,
    }
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::Other(
            Exit::Damaged,
            "the cache was damaged; what was moved aside is computed again when a run asks for it. Damage that comes back is a sign of a \
             failing disk"
                .to_string(),
        )),
    }
}

fn stats(place: &Place) -> Result<(), Failure> {
    let cache = place.open()?;
    let usage = run::usage(&cache, &place.runs)?;
    match place.format {
        Format::Json => print_json(&json!(usage)),
        Format::Text => print(&as_text(&usage)),
    }
}

fn as_text(usage: &Usage) -> String {
    let kinds = usage.kinds.iter().map(|kind| {
        vec![
            kind.kind.clone(),
            kind.stages.to_string(),
            size(kind.output_bytes),
            kind.cells.to_string(),
            size(kind.cell_bytes),
        ]
    });
    let header = [
        "kind",
        "stages cached",
        "outputs",
        "cells computed",
        "their size",
    ];
    let mut text = grid(&header, kinds.collect());
    if !usage.runs.is_empty() {
        let runs = usage
            .runs
            .iter()
            .map(|run| vec![shown(&run.run_dir), size(run.bytes), size(run.own_bytes)]);
        text += "\n";
        text += &grid(&["run", "refers to", "alone"], runs.collect());
    }
    text += &format!(
        "\n{} in all, {} of it used by no run (`dial cache gc --unreferenced`)\n",
        size(usage.bytes),
        size(usage.unreferenced_bytes)
    );
    if usage.reports.reports > 0 {
        let bytes = size(usage.reports.bytes);
        text += &format!("{bytes} of it drawn for reports\n");
    }
    if usage.damaged_files > 0 {
        text += &format!(
            "{} damaged files in `damaged`, {}; look at them and delete them\n",
            usage.damaged_files,
            size(usage.damaged_bytes)
        );
    }
    text
}

fn gc(arguments: &GcArguments) -> Result<(), Failure> {
    let place = &arguments.place;
    let cache = place.open()?;
    if arguments.unreferenced && !place.runs.is_dir() {
        return Err(Failure::Usage(format!(
            "there is no folder of runs `{}`, and so nothing that refers to the cache; name it with `--runs`",
            place.runs.display()
        )));
    }
    // Held until all is deleted.
    let lease = match arguments.dry_run {
        true => None,
        false => Some(cache.lease_to_collect()?.map_err(busy)?),
    };
    let criteria = Criteria {
        older_than: arguments.older_than,
        keep_bytes: arguments.keep_size.map(|bytes| bytes as u64),
        unreferenced: arguments.unreferenced,
    };
    let collected = run::collect(&cache, &place.runs, &criteria, lease.as_ref())?;
    let (deleted, left) = match arguments.dry_run {
        true => ("would delete", "would be left"),
        false => ("deleted", "are left"),
    };
    match place.format {
        Format::Json => print_json(&json!(collected)),
        Format::Text => print(&format!(
            "{deleted} {}: {} stage outputs, {} reports, {} artifacts and {} packs of {} cells; {} {left}\n",
            size(collected.bytes),
            collected.stages,
            collected.reports,
            collected.objects,
            collected.packs,
            collected.cells,
            size(collected.kept_bytes),
        )),
    }?;
    match collected.not_deleted {
        0 => Ok(()),
        count => Err(Failure::Failed(format!(
            "{count} of these files could not be deleted"
        ))),
    }
}
