//! `dial unpack`: a shared file as a folder in which its study goes on.

use std::collections::BTreeMap;
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
    /// The file of a prompt set that was withheld, which is checked to be the same; may be repeated.
    #[arg(long, value_name = "NAME=PATH", value_parser = named)]
    prompts: Vec<(String, PathBuf)>,
    /// How the result is written to stdout.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let named = text
        .split_once('=')
        .filter(|(name, path)| !name.is_empty() && !path.is_empty());
    let (name, path) = named.ok_or("expected NAME=PATH, such as `main=prompts.jsonl`")?;
    Ok((name.to_string(), PathBuf::from(path)))
}

pub(super) fn unpack(arguments: &UnpackArguments) -> Result<(), Failure> {
    let prompts: BTreeMap<String, PathBuf> = arguments.prompts.iter().cloned().collect();
    let unpacked = take_apart(&arguments.file, &arguments.folder, &prompts).map_err(|error| {
        let file = arguments.file.display();
        Failure::Failed(format!("`{file}` is not unpacked: {error}"))
    })?;
    let Unpacked {
        folder,
        files: count,
        stages,
        withheld,
        left_out,
    } = unpacked;
    match arguments.format {
        Format::Json => print_json(&json!({
            "folder": files::text_of(&folder), "files": count, "stages": stages,
            "withheld": withheld.iter().map(|(name, _)| name).collect::<Vec<_>>(), "left_out": left_out,
        }))?,
        Format::Text => print(&format!("{}\n", shown(&folder)))?,
    }
    tell(&format!(
        "{count} files, {stages} stages as their author computed them; nothing of it has been checked. Go on in the folder with `dial plan study.toml`"
    ));
    for (name, count) in withheld {
        tell(&format!(
            "note: the {count} prompts of `{name}` are withheld, and nothing of the study can be planned or run without them; ask its authors for the \
             file, and unpack again with `--prompts {name}=PATH`, which checks it"
        ));
    }
    for file in left_out {
        tell(&format!(
            "note: `{file}` is left out, as it holds texts; ask for it, and put it there"
        ));
    }
    Ok(())
}
