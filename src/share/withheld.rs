//! Prompt sets that a shared file does without: what it says of them, and whether a file is the one that was withheld.
//!
//! Of a set there stay the ids and scores in tables, its count, and a salted hash of its prompts. A plain hash would tell who guesses a prompt
//! that the guess is right, and so would the key of a cell, which is a hash of tokens. So would the salted one: it is slow, and its salt
//! makes tables that were computed before worthless, so that a guess costs [`ROUNDS`] hashes and is good for one file only. That is all it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::Key;
use crate::files;
use crate::json;
use crate::plan::{Lock, LockError, Study};
use crate::prompts::{Columns, PromptSet};
use crate::spec::{Problems, load_alone};

use super::layout;

/// The format that is written.
const FORMAT: u64 = 1;
/// How many hashes one guess costs: a quarter of a second of one core.
const ROUNDS: u32 = 1 << 22;
/// Most hashes that are made to check a file: whoever wrote the number is not to keep a machine busy for hours.
const MOST_ROUNDS: u32 = 1 << 26;
/// Stands for a hash that was left out.
pub(crate) const LEFT_OUT: &str = "withheld";

/// What a shared file does without.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Withheld {
    format: u64,
    /// By name.
    pub(crate) sets: BTreeMap<String, WithheldSet>,
    /// Stages that rest on these sets: their tables are there without texts, their cells and records are not.
    pub(crate) stages: BTreeSet<String>,
    /// Files that stages import and that hold texts, by their place: they are left out, too.
    pub(crate) files: BTreeSet<String>,
}

/// A prompt set whose texts are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WithheldSet {
    /// Where its file goes in the folder.
    pub(crate) file: String,
    /// What the file calls the fields of a prompt.
    #[serde(default, skip_serializing_if = "Columns::is_empty")]
    columns: Columns,
    /// How many prompts are in the file.
    pub(crate) count: u64,
    salt: Key,
    rounds: u32,
    /// Of all that is in the file: ids, texts, splits, categories and other fields, and their order.
    hash: Key,
}

impl Withheld {
    pub(super) fn of(sets: BTreeMap<String, WithheldSet>) -> Self {
        Withheld {
            format: FORMAT,
            sets,
            stages: BTreeSet::new(),
            files: BTreeSet::new(),
        }
    }

    /// What the shared file that was unpacked into `folder` does without; none where nothing was withheld.
    ///
    /// # Errors
    /// A `withheld.json` that cannot be read, or leads out of the folder.
    pub(crate) fn in_folder(folder: &Path) -> Result<Option<Self>, String> {
        let told = |error: String| format!("`{}`: {error}", layout::WITHHELD);
        let path = folder.join(layout::WITHHELD);
        if !path.is_file() {
            return Ok(None);
        }
        let text = files::read_text(&path, files::SETTINGS_BYTES);
        let text = text.map_err(|error| told(error.to_string()))?;
        Self::read(&text).map(Some).map_err(told)
    }

    fn read(text: &str) -> Result<Self, String> {
        let withheld: Withheld = json::read(text)?;
        if withheld.format != FORMAT {
            return Err(format!(
                "it has format {}, and this dial reads format {FORMAT}",
                withheld.format
            ));
        }
        for (name, set) in &withheld.sets {
            let below = set.file.strip_prefix(layout::PROMPTS);
            let file = below.and_then(|below| below.strip_prefix('/'));
            if !file.is_some_and(files::is_plain_name) {
                return Err(format!(
                    "the file of prompt set `{name}` is to be `{}`, which is no file in `{}/`",
                    set.file,
                    layout::PROMPTS
                ));
            }
            if !(1..=MOST_ROUNDS).contains(&set.rounds) {
                return Err(format!(
                    "the hash of prompt set `{name}` takes {} rounds; expected {MOST_ROUNDS} at most",
                    set.rounds
                ));
            }
        }
        Ok(withheld)
    }
}

impl WithheldSet {
    /// Of a set's whole file.
    pub(super) fn of(set: &PromptSet, file: &str, columns: Columns, salt: Key) -> Self {
        WithheldSet {
            file: file.to_string(),
            columns,
            count: set.prompts.len() as u64,
            hash: slow_hash(set, &salt, ROUNDS),
            salt,
            rounds: ROUNDS,
        }
    }
}

/// Checks that a file is the one that was withheld, prompt by prompt; how it is laid out makes no difference.
///
/// # Errors
/// Why it is not: a fragment.
pub(crate) fn matches(content: &[u8], withheld: &WithheldSet) -> Result<(), String> {
    let set = PromptSet::read_as(Path::new(&withheld.file), content, &withheld.columns);
    let set = set.map_err(|errors| format!("it cannot be read in its place: {errors}"))?;
    let count = set.prompts.len() as u64;
    if count != withheld.count {
        return Err(format!(
            "it has {count} prompts, and the one that was withheld has {}",
            withheld.count
        ));
    }
    match slow_hash(&set, &withheld.salt, withheld.rounds) == withheld.hash {
        true => Ok(()),
        false => Err(
            "it has as many prompts as the one that was withheld, and is another: an id, a text, a split, a category, another field or the order differs"
                .to_string(),
        ),
    }
}

/// Puts files of withheld prompt sets in their place in a folder that a shared file was unpacked into, and their hashes into its lock. Gives what
/// is withheld in all.
///
/// # Errors
/// A set that is not withheld, a file that is another, one that cannot be read or written.
pub(super) fn supply(
    folder: &Path,
    prompts: &BTreeMap<String, PathBuf>,
) -> Result<Option<Withheld>, String> {
    let withheld = Withheld::in_folder(folder)?;
    let sets = withheld.iter().flat_map(|withheld| &withheld.sets);
    let sets: BTreeMap<&str, &WithheldSet> = sets.map(|(name, set)| (name.as_str(), set)).collect();
    let mut found = BTreeMap::new();
    for (name, path) in prompts {
        let shown = path.display();
        let set = sets
            .get(name.as_str())
            .ok_or_else(|| match sets.is_empty() {
                true => format!(
                    "no prompts are withheld in it, so that `--prompts {name}={shown}` has no place"
                ),
                false => {
                    let known: Vec<&str> = sets.keys().copied().collect();
                    format!(
                        "it withholds no prompt set `{name}`; those that it does are `{}`",
                        known.join("`, `")
                    )
                }
            })?;
        let content = files::read(path, files::DATA_BYTES);
        let content = content.map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
        matches(&content, set)
            .map_err(|why| format!("`{shown}` is not prompt set `{name}` as it was run: {why}"))?;
        let place = folder.join(&set.file);
        let written = place.parent().map_or(Ok(()), fs::create_dir_all);
        let written = written.and_then(|()| File::create_new(&place)?.write_all(&content));
        written.map_err(|error| format!("`{}` cannot be written: {error}", set.file))?;
        found.insert(name.as_str(), place);
    }
    complete_lock(folder, &found)?;
    Ok(withheld)
}

/// Puts what the lock of a shared file left out where prompts were withheld: the hashes of these, which are here now.
fn complete_lock(folder: &Path, found: &BTreeMap<&str, PathBuf>) -> Result<(), String> {
    let path = folder.join(layout::LOCK);
    if found.is_empty() || !path.is_file() {
        return Ok(());
    }
    let told = |error: &dyn fmt::Display| format!("`{}`: {error}", layout::LOCK);
    let lock = Lock::read(&path).map_err(|error| match error {
        LockError::Damaged(diagnostics) => told(&diagnostics),
        LockError::Unreadable(message) => message,
    })?;
    let Some(mut lock) = lock else {
        return Ok(());
    };
    let document = load_alone(&folder.join(layout::STUDY)).map_err(|error| told(&error))?;
    let study = Study::read(document, "study", &mut Problems::default());
    for (name, place) in found {
        let spec = study.as_ref().and_then(|study| study.prompts.get(*name));
        let columns = spec.map(|spec| spec.columns.clone()).unwrap_or_default();
        let set = PromptSet::load_as(place, &columns).map_err(|error| told(&error))?;
        let set = match spec.and_then(|spec| spec.draw.as_ref()) {
            Some(draw) => set.drawn(place, draw).map_err(|error| told(&error))?,
            None => set,
        };
        if let Some(locked) = lock.prompts.get_mut(*name) {
            locked.content = set.content_hash().to_hex().to_string();
        }
    }
    let text = lock.to_text()?;
    fs::write(&path, text).map_err(|error| told(&error))
}

fn slow_hash(set: &PromptSet, salt: &Key, rounds: u32) -> Key {
    let salt = salt.as_bytes();
    let mut hash = blake3::keyed_hash(salt, set.content_hash().as_bytes());
    for _ in 1..rounds {
        hash = blake3::keyed_hash(salt, hash.as_bytes());
    }
    hash.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "{\"id\": 1, \"prompt\": \"Is it late?\"}\n{\"id\": 2, \"prompt\": \"Is it far?\"}\n";

    fn withheld(salt: &[u8]) -> WithheldSet {
        let set = PromptSet::read(Path::new("p.jsonl"), FILE.as_bytes()).unwrap();
        WithheldSet::of(
            &set,
            "prompts/main.jsonl",
            Columns::default(),
            Key::of(salt),
        )
    }

    #[test]
    fn a_file_is_the_one_that_was_withheld_however_it_is_laid_out() {
        let set = withheld(b"salt");
        let why = |content: &str| matches(content.as_bytes(), &set).unwrap_err();
        assert_eq!(matches(FILE.as_bytes(), &set), Ok(()));
        assert_eq!(matches(FILE.replace(": ", ":").as_bytes(), &set), Ok(()));
        assert!(why(&FILE.replace("late", "soon")).contains("is another"));
        assert!(why(FILE.lines().next().unwrap()).contains("has 1 prompts"));
        assert!(why("{").contains("cannot be read"));
        assert_ne!(set.hash, withheld(b"other").hash);
    }

    #[test]
    fn what_leads_elsewhere_or_would_take_hours_is_refused() {
        let text = |file: &str, rounds: u32| {
            let mut set = withheld(b"salt");
            (set.file, set.rounds) = (file.to_string(), rounds);
            let all = Withheld::of(BTreeMap::from([("main".to_string(), set)]));
            serde_json::to_string(&all).unwrap()
        };
        assert!(Withheld::read(&text("prompts/main.jsonl", 1)).is_ok());
        for file in [
            "../p.jsonl",
            "/etc/p.jsonl",
            "prompts/../p",
            "prompts/a/b",
            "prompts",
            "cache/VERSION",
        ] {
            let why = Withheld::read(&text(file, 1)).unwrap_err();
            assert!(why.contains("no file in `prompts/`"), "{why}");
        }
        for rounds in [0, u32::MAX] {
            let why = Withheld::read(&text("prompts/main.jsonl", rounds)).unwrap_err();
            assert!(why.contains("rounds"), "{why}");
        }
        assert!(
            Withheld::read("{\"format\": 1, \"format\": 1}")
                .unwrap_err()
                .contains("twice")
        );
    }
}
