//! `dial init`: a commented study file to start from.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::Failure;

/// The file that is written.
const STARTER: &str = include_str!("starter.toml");

#[derive(Args)]
pub(super) struct InitArguments {
    /// The file to write; an existing one is left alone.
    #[arg(default_value = "study.toml")]
    file: PathBuf,
}

pub(super) fn init(arguments: &InitArguments) -> Result<(), Failure> {
    let shown = arguments.file.display();
    let created = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&arguments.file);
    let written = created.and_then(|mut file| file.write_all(STARTER.as_bytes()));
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Failure::Usage(format!(
            "`{shown}` exists already; name another file, or remove it"
        )),
        _ => Failure::Failed(format!("`{shown}` cannot be written: {error}")),
    })?;
    super::tell(&format!(
        "wrote {shown}; edit its models and prompts, then: dial plan {shown}"
    ));
    Ok(())
}
