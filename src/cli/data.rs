//! `dial data fetch`: public prompt sets from their public homes, with a pinned checksum. Nothing of others is bundled.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::cache::write_atomically;
use crate::fetch::{Address, Client, FetchError, Patience, Progress, sha256};
use crate::files;

use super::{Failure, shown, tell};

/// Where the files of XSTest v2 are served: `{HOST}/{PLACE}`.
const HOST: &str = "https://raw.githubusercontent.com";
/// Repository, commit and file.
const PLACE: &str =
    "paul-rottger/xstest/475f10bf0a3d6a9dfb174b6de1a38afbfdff98a5/xstest_prompts.csv";
const FILE: &str = "xstest_prompts.csv";
/// Lower-case hexadecimal.
const SHA256: &str = "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a";
/// Who made it, under which licence.
const NOTICE: &str = "XSTest v2: 450 prompts. Röttger, Kirk, Vidgen, Attanasio, Bianchi, Hovy: \"XSTest: A Test Suite for Identifying Exaggerated Safety\nBehaviours in Large Language Models\", NAACL 2024. https://github.com/paul-rottger/xstest\nLicence: Creative Commons Attribution 4.0 International (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/\n";

/// Larger answers are not the file.
const LARGEST: u64 = 16 << 20;

#[derive(Args)]
pub(super) struct DataArguments {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// Fetch a public prompt set; its checksum is checked, and its licence put beside it.
    Fetch(FetchArguments),
}

#[derive(Args)]
struct FetchArguments {
    /// The set.
    #[arg(value_enum)]
    set: SetName,
    /// The folder to put it in [default: data/<set>].
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum SetName {
    /// XSTest v2: 450 prompts, CC BY 4.0.
    Xstest,
}

pub(super) fn data(arguments: &DataArguments) -> Result<(), Failure> {
    let DataCommand::Fetch(FetchArguments {
        set: SetName::Xstest,
        to,
    }) = &arguments.command;
    let folder = to.as_deref().unwrap_or(Path::new("data/xstest"));
    let path = folder.join(FILE);
    let is_there = files::read(&path, LARGEST).is_ok_and(|bytes| sha256(&bytes) == SHA256);
    if is_there {
        tell(&format!(
            "{} is there already, and is the file it should be",
            shown(&path)
        ));
        return Ok(());
    }
    let address = address();
    let bytes = fetch_bytes(&address).map_err(|why| {
        Failure::Failed(format!(
            "`xstest` was not fetched: {why}\n\
             get {address}\n\
             from a machine with a network and put it at {}; its sha256 is {SHA256}",
            shown(&path)
        ))
    })?;
    let notice = folder.join("LICENCE.txt");
    for (path, bytes) in [(&notice, NOTICE.as_bytes()), (&path, &bytes[..])] {
        write_atomically(path, bytes)?;
    }
    tell(NOTICE.trim_end());
    tell(&format!(
        "wrote {}; name it in a study as the `path` of a prompt set",
        shown(&path)
    ));
    Ok(())
}

/// The file's address; `DIAL_DATA_HOST` names a mirror that serves the same paths.
fn address() -> String {
    let mirror = std::env::var("DIAL_DATA_HOST").ok();
    let host = mirror.filter(|host| !host.is_empty());
    let host = host.as_deref().unwrap_or(HOST).trim_end_matches('/');
    format!("{host}/{PLACE}")
}

/// The file at the address, once it has the checksum that it should have.
fn fetch_bytes(address: &str) -> Result<Vec<u8>, String> {
    let parsed = Address::parse(address)?;
    let client = Client::new(Patience::default(), None);
    let mut progress = Progress::new(address, None);
    let fetched = client.patiently(|| {
        let bytes = client.bytes(&parsed, LARGEST, &mut progress)?;
        match sha256(&bytes) {
            found if found == SHA256 => Ok(bytes),
            found => Err(FetchError::Wrong(format!("it has the checksum {found}"))),
        }
    });
    fetched.map_err(|error| error.to_string())
}
