//! `dial data list`: the public prompt sets that are known.

use indicatif::DecimalBytes;
use serde_json::{Value as Json, json};

use crate::prompts::{Home, PublicFile, PublicSet, SETS, Size, is_noncommercial};

use super::super::tables::grid;
use super::super::{Failure, Format, print, print_json};
use super::{is_there, licence, usual_folder};

/// Digits of a SHA-256.
const DIGITS: usize = 64;

pub(super) fn list(format: Format) -> Result<(), Failure> {
    match format {
        Format::Text => print(&as_text()),
        Format::Json => {
            print_json(&json!({ "sets": SETS.iter().map(as_json).collect::<Vec<_>>() }))
        }
    }
}

fn as_text() -> String {
    let row = |set: &PublicSet| {
        let rows: Vec<String> = set.files.iter().map(|file| file.rows.to_string()).collect();
        let from = match set.home {
            Home::GitHub(repository) => format!("GitHub {repository}"),
            Home::Hub(repository) => format!("hub {repository}"),
        };
        let cells = [
            rows.join(" + "),
            size(set.files.iter()),
            licence(set),
            from,
            state(set),
        ];
        [vec![set.name.to_string()], cells.to_vec()].concat()
    };
    let header = ["set", "prompts", "size", "licence", "from", "state"];
    let table = grid(&header, SETS.iter().map(row).collect());
    let in_part = |set: &&PublicSet| {
        set.files
            .iter()
            .any(|file| (1..DIGITS).contains(&file.sha256.len()))
    };
    let in_part: Vec<&str> = SETS.iter().filter(in_part).map(|set| set.name).collect();
    format!(
        "{table}\n`dial data fetch SET` puts one into `data/SET`, once its sha256, its size where that is known and the number of its prompts are right.\n\
         Of `{}` the first digits of the sha256 are known, and the size. Of a set that is gated or got by hand it says how to get it.\n",
        in_part.join("`, `")
    )
}

/// The bytes of all files together, as far as they are known.
pub(super) fn size<'f>(files: impl Iterator<Item = &'f PublicFile>) -> String {
    let mut is_exact = true;
    let bytes = files.map(|file| {
        is_exact &= matches!(file.size, Size::Exactly(_));
        match file.size {
            Size::Exactly(bytes) | Size::About(bytes) => Some(bytes),
            Size::Unknown => None,
        }
    });
    match (bytes.sum::<Option<u64>>(), is_exact) {
        (None, _) => "unknown".to_string(),
        (Some(bytes), true) => DecimalBytes(bytes).to_string(),
        (Some(bytes), false) => format!("about {}", DecimalBytes(bytes)),
    }
}

fn state(set: &PublicSet) -> String {
    let folder = usual_folder(set);
    match &set.obstacle {
        Some(obstacle) if obstacle.is_gated => "gated".to_string(),
        Some(_) => "by hand".to_string(),
        None if set.files.iter().all(|file| is_there(&folder, file)) => {
            format!("in {}", folder.display())
        }
        None => "can be fetched".to_string(),
    }
}

fn as_json(set: &PublicSet) -> Json {
    let folder = usual_folder(set);
    let file = |file: &PublicFile| {
        let (bytes, is_exact) = match file.size {
            Size::Exactly(bytes) => (Some(bytes), true),
            Size::About(bytes) => (Some(bytes), false),
            Size::Unknown => (None, false),
        };
        json!({
            "name": file.name(), "path": file.path, "prompts": file.rows, "bytes": bytes, "bytes_are_exact": is_exact,
            "sha256": file.sha256, "columns": file.columns(), "is_here": is_there(&folder, file),
        })
    };
    let obstacle = set.obstacle.as_ref();
    json!({
        "name": set.name, "title": set.title, "credit": set.credit, "page": set.page(), "commit": set.commit,
        "licence": set.licence.name, "licence_note": set.licence.note,
        "is_noncommercial": set.licence.name.is_some_and(is_noncommercial),
        "can_be_fetched": obstacle.is_none(), "is_gated": obstacle.is_some_and(|obstacle| obstacle.is_gated),
        "obstacle": obstacle.map(|obstacle| obstacle.told), "hint": set.hint, "folder": folder,
        "files": set.files.iter().map(file).collect::<Vec<_>>(),
    })
}
