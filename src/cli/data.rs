//! `dial data`: public prompt sets from their public homes, each known by its content. Nothing of others is bundled.

mod fetch;
mod list;

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};

use crate::files;
use crate::prompts::{PublicFile, PublicSet, SETS, is_noncommercial};

use super::{Failure, Format};

#[derive(Args)]
pub(super) struct DataArguments {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// List the public prompt sets that are known: how large each is, under which licence, where it is from, and whether it is here.
    List(ListArguments),
    /// Fetch a public prompt set: its checksum and its number of prompts are checked, its licence is put beside it, and what to write into a
    /// study goes to stdout.
    Fetch(FetchArguments),
}

#[derive(Args)]
struct ListArguments {
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Args)]
struct FetchArguments {
    /// The set, as `dial data list` names it.
    #[arg(value_parser = PossibleValuesParser::new(SETS.iter().map(|set| set.name)), hide_possible_values = true)]
    set: String,
    /// The folder to put it in [default: data/<set>].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

pub(super) fn data(arguments: &DataArguments) -> Result<(), Failure> {
    match &arguments.command {
        DataCommand::List(arguments) => list::list(arguments.format),
        DataCommand::Fetch(arguments) => fetch::fetch(&arguments.set, arguments.to.as_deref()),
    }
}

/// The folder that a set is put in where none is said.
fn usual_folder(set: &PublicSet) -> PathBuf {
    Path::new("data").join(set.name)
}

/// Whether a folder has a file, whole.
fn is_there(folder: &Path, file: &PublicFile) -> bool {
    let content = files::read(&folder.join(file.name()), file.size.most_bytes());
    content.is_ok_and(|content| file.is_of(&content))
}

/// The licence of a set, with what to know of it.
fn licence(set: &PublicSet) -> String {
    let name = set.licence.name.unwrap_or("not stated");
    match set.licence.name.is_some_and(is_noncommercial) {
        true => format!("{name}, non-commercial"),
        false => name.to_string(),
    }
}
