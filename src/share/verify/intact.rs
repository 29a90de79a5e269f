//! The first level: whether every file is what the crate says, and no file is missing.

use std::collections::BTreeMap;
use std::path::Path;

use percent_encoding::percent_decode_str;
use serde_json::Value as Json;

use crate::fetch::sha256_of;
use crate::{files, json};

use super::super::layout;
use super::super::read::SharedFile;
use super::outcome::Level;

/// Holds the files of an archive, which are in `folder` by now, against its crate.
pub(super) fn check(shared: &SharedFile, folder: &Path, level: &mut Level) {
    let Some(listed) = listed(folder, level) else {
        return;
    };
    let mut bytes = 0;
    for entry in &shared.entries {
        if entry.name == layout::CRATE {
            continue;
        }
        bytes += entry.bytes;
        let Some(said) = listed.get(&entry.name) else {
            level.problem(
                &entry.name,
                format!("is in the file, and `{}` does not list it", layout::CRATE),
            );
            continue;
        };
        if said.bytes.as_deref() != Some(&entry.bytes.to_string()) {
            let said = said.bytes.as_deref().unwrap_or("no number of");
            level.problem(
                &entry.name,
                format!("has {} bytes, and is said to have {said}", entry.bytes),
            );
        }
        match files::open(&folder.join(&entry.name)).and_then(sha256_of) {
            Ok(sha256) if said.sha256.as_deref() == Some(&sha256) => {}
            Ok(sha256) => {
                let said = said.sha256.as_deref().unwrap_or("none");
                level.problem(
                    &entry.name,
                    format!("has the sha256 `{sha256}`, and is said to have `{said}`"),
                );
            }
            Err(error) => level.problem(&entry.name, format!("cannot be read: {error}")),
        }
    }
    let here = |name: &String| shared.entries.iter().any(|entry| entry.name == *name);
    for name in listed.keys().filter(|name| !here(name)) {
        level.problem(
            name,
            format!("is listed in `{}`, and is not in the file", layout::CRATE),
        );
    }
    let count = shared.entries.len().saturating_sub(1);
    level.checked.push(format!(
        "{count} files, {bytes} bytes: sizes and sha256 are those of `{}`",
        layout::CRATE
    ));
}

/// What the crate says of a file.
struct Said {
    bytes: Option<String>,
    sha256: Option<String>,
}

/// What the crate lists, by place; none where there is no sound crate.
fn listed(folder: &Path, level: &mut Level) -> Option<BTreeMap<String, Said>> {
    let text = files::read_text(&folder.join(layout::CRATE), files::SETTINGS_BYTES);
    let text = text
        .map_err(|error| level.problem(layout::CRATE, format!("cannot be read: {error}")))
        .ok()?;
    let all: Json = json::read(&text)
        .map_err(|error| level.problem(layout::CRATE, error))
        .ok()?;
    let empty = Vec::new();
    let entities = all["@graph"].as_array().unwrap_or(&empty);
    let mut listed = BTreeMap::new();
    for entity in entities.iter().filter(|entity| is_file(entity)) {
        let id = entity["@id"].as_str().unwrap_or_default();
        let name = percent_decode_str(id).decode_utf8_lossy().into_owned();
        let is_inside = name.split('/').all(files::is_plain_name) && layout::id_of(&name) == id;
        if !is_inside {
            level.problem(
                layout::CRATE,
                format!("lists `{id}`, which is no place in the file"),
            );
            continue;
        }
        let text = |field: &str| entity[field].as_str().map(str::to_string);
        let said = Said {
            bytes: text("contentSize"),
            sha256: text("sha256"),
        };
        if listed.insert(name, said).is_some() {
            level.problem(layout::CRATE, format!("lists `{id}` twice"));
        }
    }
    Some(listed)
}

fn is_file(entity: &Json) -> bool {
    let is = |kind: &Json| kind == "File";
    is(&entity["@type"])
        || entity["@type"]
            .as_array()
            .is_some_and(|all| all.iter().any(is))
}
