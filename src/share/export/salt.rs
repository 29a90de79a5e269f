//! The salt of withheld prompts: drawn once and kept beside the cells, so that the same run gives the same file.

use std::fs::File;
use std::io::Read;

use crate::cache::{Cache, Key, write_atomically};
use crate::files;

use super::ExportError;

/// The file in the folder of a cache that salts are made from.
const FILE: &str = "share.salt";

/// The salt of a prompt set of a run. Another run has another, so that what was computed to guess the one is worth nothing for the other.
///
/// # Errors
/// A cache without one that cannot be written.
pub(super) fn of(cache: &Cache, run_key: &str, set: &str) -> Result<Key, ExportError> {
    let path = cache.folder.join(FILE);
    let read = || -> Option<Key> {
        let text = files::read_text(&path, files::SETTINGS_BYTES).ok()?;
        text.trim().parse().ok()
    };
    let shown = path.display();
    let failed = |why: String| {
        ExportError::Failed(format!(
            "`{shown}`, which withheld prompts are hashed with: {why}"
        ))
    };
    if !path.exists() {
        let mut bytes = [0; 32];
        let drawn = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
        drawn.map_err(|error| failed(error.to_string()))?;
        write_atomically(&path, format!("{}\n", Key::from(bytes)).as_bytes())?;
    }
    // Of two that were written at once, the one that is there.
    let drawn =
        read().ok_or_else(|| failed("it is damaged; delete it, and another is drawn".into()))?;
    Ok(blake3::keyed_hash(drawn.as_bytes(), format!("{run_key} {set}").as_bytes()).into())
}
