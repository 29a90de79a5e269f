//! Which names a file may have that goes onto somebody's disk.

use std::collections::{HashMap, HashSet};

use super::{Entry, ReadError, refused};
use crate::share::write::folded;

/// Most folders within each other.
const MOST_PARTS: usize = 16;

/// The one folder of all entries, and the entries with their places below it.
///
/// # Errors
/// A name that leads elsewhere, or that is another's where neither case nor the form of a character counts.
pub(super) fn checked(entries: Vec<Entry>) -> Result<(String, Vec<Entry>), ReadError> {
    let first = entries.first().and_then(|entry| entry.name.split_once('/'));
    let Some((top, _)) = first else {
        return refused("it is no file of `dial export`: it holds no folder");
    };
    let top = top.to_string();
    let mut files = HashMap::new();
    let mut folders = HashSet::new();
    let mut found = Vec::with_capacity(entries.len());
    for mut entry in entries {
        check(&entry.name)?;
        let below = entry.name.strip_prefix(&top);
        let Some(name) = below.and_then(|name| name.strip_prefix('/')) else {
            return refused(format!("`{}` is not in the one folder `{top}`", entry.name));
        };
        let plain = folded(name);
        let ends = plain.match_indices('/').map(|(end, _)| end);
        let parents = ends.filter_map(|end| plain.get(..end)).map(str::to_string);
        folders.extend(parents);
        if let Some(other) = files.insert(plain, name.to_string()) {
            return refused(format!(
                "`{other}` and `{name}` are one file where neither case nor the form of a character counts"
            ));
        }
        entry.name = name.to_string();
        found.push(entry);
    }
    match folders.iter().find_map(|folder| files.get(folder)) {
        Some(both) => refused(format!("`{both}` is a file and a folder")),
        None => Ok((top, found)),
    }
}

fn check(name: &str) -> Result<(), ReadError> {
    let parts: Vec<&str> = name.split('/').collect();
    let why = if name.contains(char::is_control) {
        "has a control character in it"
    } else if name.contains('\\') {
        "has a backslash in it"
    } else if name.starts_with('/') {
        "is an absolute name"
    } else if parts.iter().any(|part| [".", "..", ""].contains(part)) {
        "leads elsewhere, or nowhere"
    } else if parts.iter().any(|part| has_drive(part)) {
        "names a drive"
    } else if parts.iter().any(|part| part.len() > 255) || parts.len() > MOST_PARTS {
        "is too long or too deep for a name"
    } else {
        return Ok(());
    };
    refused(format!("`{}` {why}", name.escape_debug()))
}

fn has_drive(part: &str) -> bool {
    let mut letters = part.chars();
    letters
        .next()
        .is_some_and(|letter| letter.is_ascii_alphabetic())
        && letters.next() == Some(':')
}
