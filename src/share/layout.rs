//! The names of what is in a shared file, below its one folder. Parts are separated by `/`.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::manifest;

/// What it is, for people.
pub(crate) const README: &str = "README.md";
/// What it is, for programs: every file with its size and hash.
pub(crate) const CRATE: &str = "ro-crate-metadata.json";
/// The study, to be run in the folder.
pub(crate) const STUDY: &str = "study.toml";
/// What the study names, as the run found it.
pub(crate) const LOCK: &str = "study.lock";
/// The run's manifest.
pub(crate) const MANIFEST: &str = manifest::FILE;
/// What was withheld, where something was.
pub(crate) const WITHHELD: &str = "withheld.json";
/// The page.
pub(crate) const REPORT: &str = "report.html";

/// The study's files as they were given.
pub(crate) const AS_GIVEN: &str = "as-given";
pub(crate) const TABLES: &str = "tables";
pub(crate) const DIRECTIONS: &str = "directions";
/// Arrays that stages leave for other programs.
pub(crate) const TENSORS: &str = "tensors";
pub(crate) const FIGURES: &str = "figures";
pub(crate) const PROMPTS: &str = "prompts";
/// Files that stages import.
pub(crate) const FILES: &str = "files";
pub(crate) const MODELS: &str = "models";
pub(crate) const CELLS: &str = "cells";
pub(crate) const HASHES: &str = "hashes";
pub(crate) const RECORDS: &str = "records";

/// Digits of the run's key in the name of the folder.
const KEY_DIGITS: usize = 8;

/// The one folder that everything is in.
pub(crate) fn top(study: &str, run_key: &str) -> String {
    let digits: String = run_key.chars().take(KEY_DIGITS).collect();
    format!("{study}-{digits}")
}

/// A file of the study as it was given, by the name of its copy in the run's folder.
pub(crate) fn given(copy: &str) -> String {
    format!("{AS_GIVEN}/{copy}")
}

/// A table of a stage; the main table's name is empty.
pub(crate) fn table(stage: &str, table: &str, extension: &str) -> String {
    let stem = manifest::file_stem(stage, table);
    format!("{TABLES}/{stem}.{extension}")
}

/// A file of a direction of a stage, by the name that its record has for it.
pub(crate) fn direction(stage: &str, file: &str) -> String {
    format!("{DIRECTIONS}/{stage}.{file}")
}

/// A file of arrays of a stage, by the name that its record has for it.
pub(crate) fn tensors(stage: &str, file: &str) -> String {
    format!("{TENSORS}/{stage}.{file}")
}

/// The cells of a stage.
pub(crate) fn cells_of(stage: &str) -> String {
    format!("{CELLS}/{stage}.pack")
}

/// The hashes of a stage's activations that are left out.
pub(crate) fn hashes_of(stage: &str) -> String {
    format!("{HASHES}/{stage}.bin")
}

/// The record of a stage.
pub(crate) fn record_of(stage: &str) -> String {
    format!("{RECORDS}/{stage}.json")
}

/// The files of a folder in the order of their names; none where there is no such folder.
pub(crate) fn files_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The id of a file in the crate: its place, percent-encoded as in an address.
pub(crate) fn id_of(place: &str) -> String {
    let parts = place
        .split('/')
        .map(|part| utf8_percent_encode(part, ENCODED));
    parts
        .map(|part| part.to_string())
        .collect::<Vec<_>>()
        .join("/")
}

/// What a name may be made of to name a file everywhere.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// A name of a file or a folder for each of some names, which may be any text: plain, and different even where case makes no difference.
pub(crate) fn file_names<'n>(names: impl IntoIterator<Item = &'n str>) -> BTreeMap<String, String> {
    let mut taken = HashSet::new();
    let named = names.into_iter().map(|name| {
        let plain = utf8_percent_encode(name, ENCODED).to_string();
        let plain = match plain.starts_with('.') || plain.is_empty() {
            true => format!("_{plain}"),
            false => plain,
        };
        let mut candidates = (1..).map(|number: u32| match number {
            1 => plain.clone(),
            number => format!("{number}-{plain}"),
        });
        let file = candidates.find(|file| taken.insert(file.to_ascii_lowercase()));
        let file = file.unwrap_or_default();
        (name.to_string(), file)
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_differ_even_where_case_makes_no_difference() {
        let names = ["inst", "Inst", "org/model", "..", "", "qwen2.5", "ä"];
        let files = file_names(names);
        let file = |name: &str| files[name].as_str();
        assert_eq!(file("inst"), "inst");
        assert_eq!(file("Inst"), "2-Inst");
        assert_eq!(file("org/model"), "org%2Fmodel");
        assert_eq!(file("qwen2.5"), "qwen2.5");
        assert_eq!(file("ä"), "%C3%A4");
        assert_eq!((file(".."), file("")), ("_..", "_"));
        assert!(files.values().all(|file| crate::files::is_plain_name(file)));
    }

    #[test]
    fn ids_are_places_percent_encoded() {
        for (place, id) in [
            ("tables/steer.csv", "tables/steer.csv"),
            ("prompts/org%2Fa b.jsonl", "prompts/org%252Fa%20b.jsonl"),
            ("tables/ä.csv", "tables/%C3%A4.csv"),
        ] {
            assert_eq!(id_of(place), id);
        }
    }

    #[test]
    fn the_folder_is_named_by_study_and_key() {
        assert_eq!(top("a b", "0123456789"), "a b-01234567");
    }
}
