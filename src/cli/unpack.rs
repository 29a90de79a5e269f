//! `dial unpack`: a shared file as a folder in which its study goes on.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::files;
use crate::share::{Unpacked, unpack as take_apart};

use super::{Failure, Format, print, print_json, shown, tell};

#[derive(Args)]
pub(super) struct UnpackArguments {
    /// A file that `dial export` wrote.
    file: PathBuf,
    /// The folder to make of it, which is not there yet, or empty.
    folder: PathBuf,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn unpack(arguments: &UnpackArguments) -> Result<(), Failure> {
    let unpacked = take_apart(&arguments.file, &arguments.folder).map_err(|error| {
        let file = arguments.file.display();
        Failure::Failed(format!("`{file}` is not unpacked: {error}"))
    })?;
    let Unpacked {
        folder,
        files: count,
        stages,
    } = unpacked;
    match arguments.format {
        Format::Json => print_json(
            &json!({ "folder": files::text_of(&folder), "files": count, "stages": stages }),
        )?,
        Format::Text => print(&format!("{}\n", shown(&folder)))?,
    }
    tell(&format!(
        "{count} files, {stages} stages as their author computed them; nothing of it has been checked. Go on in the folder with `dial plan study.toml`"
    ));
    Ok(())
}
