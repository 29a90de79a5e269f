//! Where files come from and go: the hub, its folder, the cache, the runs.

use std::io::ErrorKind;
use std::path::Path;

use indicatif::DecimalBytes;

use super::{Check, Named, State, counted};
use crate::cache::{Cache, Health, existing_part, try_writing};
use crate::cli::shown;
use crate::machine::free_bytes;
use crate::model::{HubAnswer, HubHealth};

/// Less room than this is soon used up, by weights or by cells.
const LITTLE_ROOM: u64 = 2_000_000_000;

/// Whether there is a folder, or could be, into which files can be written, and room for them. `option` names what chooses another.
pub(super) fn folder(folder: &Path, option: &str) -> Check {
    if let Err(error) = try_writing(folder) {
        let advice = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space",
            _ => "check its owner, its mode and its file system",
        };
        return Check::problem(
            format!(
                "`{}` cannot be written: {error}",
                shown(existing_part(folder))
            ),
            format!("{advice}, or choose another folder with {option}"),
        );
    }
    let place = match folder.exists() {
        true => format!("`{}` can be written", shown(folder)),
        false => format!("`{}` is not there yet and can be made", shown(folder)),
    };
    let Some(free) = free_bytes(existing_part(folder)) else {
        return Check::ok(place);
    };
    let found = format!("{place}, {} are free on its disk", DecimalBytes(free));
    match free < LITTLE_ROOM {
        false => Check::ok(found),
        true => Check::warning(
            found,
            format!("free some space, or choose a folder on another disk with {option}"),
        ),
    }
}

/// The hub's folder on this machine, and whether the hub answers.
pub(super) fn hub() -> Vec<Named> {
    match HubHealth::look() {
        Ok(hub) => {
            let mut folder = folder(&hub.folder, "`HF_HUB_CACHE`");
            // Models that are there can be read all the same.
            if folder.state == State::Problem {
                folder.state = State::Warning;
            }
            vec![("hub folder", folder), ("hub", answer(&hub))]
        }
        Err(problem) => vec![("hub folder", Check::failed(problem))],
    }
}

fn answer(hub: &HubHealth) -> Check {
    let endpoint = &hub.endpoint;
    let fetched = "what is in the hub folder can be used all the same";
    match &hub.answer {
        HubAnswer::Answered => Check::ok(format!("`{endpoint}` answers")),
        HubAnswer::Offline => {
            Check::ok("it is not asked, because `HF_HUB_OFFLINE` is set; nothing is fetched")
        }
        HubAnswer::Unusable(problem) => Check::problem(
            problem.as_str(),
            "correct the variable, or unset it; `dial` uses the same as Python's `huggingface_hub`",
        ),
        HubAnswer::Refused(status) => Check::warning(
            format!("`{endpoint}` answers `{status}`"),
            format!("check `HF_TOKEN`, or the token's file; {fetched}"),
        ),
        HubAnswer::Silent(problem) => Check::warning(
            format!("`{endpoint}` gives nothing: {problem}"),
            format!(
                "check the network, the proxy and `HF_ENDPOINT`, or set `HF_HUB_OFFLINE=1`; {fetched}"
            ),
        ),
    }
}

/// The cache's folder, and the state of what is in it.
pub(super) fn cache(place: &Path) -> [Named; 2] {
    // Looked at before anything is written into it.
    let content = match std::fs::read_dir(place) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Check::ok("there is none yet; the first run makes it")
        }
        Ok(_) if !Cache::is_in(place) => {
            Check::ok("there is none in it yet; the first run begins it")
        }
        // What cannot be listed, the cache says itself, with what to do.
        _ => match Cache::open(place).and_then(|cache| cache.health()) {
            Ok(health) => content(&health),
            Err(error) => Check::failed(error),
        },
    };
    let disk = folder(place, "`--cache`");
    [("cache disk", disk), ("cache", content)]
}

fn content(health: &Health) -> Check {
    let mut parts = vec![format!(
        "{}, {}, of which records and headers were read",
        counted(health.files, "file"),
        DecimalBytes(health.bytes)
    )];
    let half_written = health.leftovers.half_written.len();
    let damaged_files = health.leftovers.damaged_files;
    for (count, what, more) in [
        (health.users.runs.len(), "run", "at work"),
        (health.users.collections, "`dial cache gc`", "at work"),
        (
            health.dead_leases,
            "lease",
            "of killed runs, which the next run removes",
        ),
        (
            half_written,
            "file",
            "half written, which `dial cache gc` removes after an hour",
        ),
    ] {
        if count > 0 {
            parts.push(format!("{} {more}", counted(count, what)));
        }
    }
    let mut advice = Vec::new();
    if let Some(path) = health.damaged.first() {
        let count = counted(health.damaged.len(), "damaged file");
        parts.push(format!("{count} (`{}`)", shown(path)));
        advice.push(
            "`dial cache verify` finds all of them; what they held is computed again".to_string(),
        );
    }
    if let Some(error) = health.unreadable.first() {
        let count = counted(health.unreadable.len(), "file");
        parts.push(format!("{count} that cannot be read"));
        advice.push(error.to_string());
    }
    if damaged_files > 0 {
        parts.push(format!("{} in `damaged`", counted(damaged_files, "file")));
        advice.push("look at what is in `damaged` and delete it; damage that comes back is a sign of a failing disk".to_string());
    }
    let found = parts.join("; ");
    match advice.is_empty() {
        true => Check::ok(found),
        false => Check::warning(found, advice.join("; ")),
    }
}
