//! `dial init`: a commented study file to start from, and beside it the schema that lets an editor complete and check it.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Failure, schema, shown, tell};
use crate::files;

/// The study that is written; its first line names [`SCHEMA`].
const STARTER: &str = include_str!("starter.toml");
/// The file of the schema, in the folder of the study.
const SCHEMA: &str = "dial.schema.json";

#[derive(Args)]
pub(super) struct InitArguments {
    /// The file to write; an existing one is left alone. The schema that editors read goes beside it, as `dial.schema.json`.
    #[arg(default_value = "study.toml")]
    file: PathBuf,
}

pub(super) fn init(arguments: &InitArguments) -> Result<(), Failure> {
    let file = &arguments.file;
    let name = shown(file);
    if file.extension().is_none_or(|ending| ending != "toml") {
        return Err(Failure::Usage(format!(
            "`{name}` does not end in `.toml`, as what is written does; name such a file"
        )));
    }
    write_new(file, STARTER).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Usage(format!(
            "`{name}` exists already; name another file, or remove it"
        )),
        _ => Failure::Failed(format!("`{name}` cannot be written: {error}")),
    })?;
    let beside = file.with_file_name(SCHEMA);
    let schema_name = shown(&beside);
    let text = schema::text();
    let written = match write_new(&beside, &text) {
        Ok(()) => format!("wrote {name} and, for editors, {schema_name}"),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            if files::read_text(&beside, files::SETTINGS_BYTES).is_ok_and(|found| found == text) {
                format!("wrote {name}; {schema_name}, which editors read, was there")
            } else {
                format!(
                    "wrote {name}; {schema_name} was there, is not the schema of this `dial`, and is left as it is (`dial schema > {schema_name}` replaces it)"
                )
            }
        }
        Err(error) => {
            return Err(Failure::Failed(format!(
                "wrote {name}, but `{schema_name}` cannot be written: {error}; write it with `dial schema`, or remove the first line of {name}"
            )));
        }
    };
    tell(&format!(
        "{written}\nedit its models and prompts, then: dial plan {name}"
    ));
    Ok(())
}

/// Writes a file whole, and only where there is none.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::Builder::new()
        .prefix(".tmp-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(parent.unwrap_or(Path::new(".")))
        // Without the path of a file that was never there, which the library appends.
        .map_err(|error| std::io::Error::from(error.kind()))?;
    file.write_all(text.as_bytes())?;
    file.persist_noclobber(path)?;
    Ok(())
}
