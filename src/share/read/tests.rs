use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{DateTime, System, ZipWriter};

use super::*;
use crate::share::write::Archive;

const FILES: [(&str, &[u8]); 4] = [
    ("README.md", b"text text text text text"),
    ("a/b.csv", b"id,score\n1,2\n"),
    ("a/empty", b""),
    ("c.jsonl", b"{}\n"),
];

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Archive::new(Cursor::new(Vec::new()), "study-01234567");
    for (name, content) in files {
        archive.add(name, content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Where each entry's header and its part of the directory start.
fn places(bytes: &[u8], signature: &[u8]) -> Vec<usize> {
    let windows = bytes.windows(4).enumerate();
    windows
        .filter(|(_, window)| *window == signature)
        .map(|(place, _)| place)
        .collect()
}

const HEADER: &[u8] = b"PK\x03\x04";
const DIRECTORY: &[u8] = b"PK\x01\x02";

/// Replaces all of some bytes by others as long.
fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    for place in 0..bytes.len() - from.len() {
        if bytes[place..].starts_with(from.as_bytes()) {
            bytes[place..place + to.len()].copy_from_slice(to.as_bytes());
        }
    }
    bytes
}

/// Changes a field in the directory, and where there is one the same field in the header.
fn with_field(in_directory: usize, in_header: Option<usize>, value: &[u8]) -> Vec<u8> {
    let mut bytes = archive(&FILES);
    let header = places(&bytes, HEADER)[1];
    let directory = places(&bytes, DIRECTORY)[1];
    bytes[directory + in_directory..][..value.len()].copy_from_slice(value);
    if let Some(in_header) = in_header {
        bytes[header + in_header..][..value.len()].copy_from_slice(value);
    }
    bytes
}

/// Opens and extracts into a folder of a folder, in which nothing else may appear.
fn extracted(bytes: &[u8]) -> Result<Vec<(PathBuf, Vec<u8>)>, ReadError> {
    let room = tempfile::tempdir().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let target = room.path().join("target");
    let done = SharedFile::open(file.path())
        .and_then(|shared| whole_folder(&target, |new| shared.extract(new)));
    let left = fs::read_dir(room.path()).unwrap().count();
    assert_eq!(left, usize::from(done.is_ok()), "something is left");
    done?;
    let mut files = Vec::new();
    list(&target, &target, &mut files);
    files.sort();
    Ok(files)
}

fn list(folder: &Path, root: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => list(&path, root, into),
            false => into.push((
                path.strip_prefix(root).unwrap().to_path_buf(),
                fs::read(&path).unwrap(),
            )),
        }
    }
}

#[track_caller]
fn is_refused(bytes: &[u8], why: &str) {
    let error = extracted(bytes).unwrap_err().to_string();
    assert!(error.contains(why), "`{error}` does not say `{why}`");
}

#[test]
fn what_was_written_comes_back() {
    let files = extracted(&archive(&FILES)).unwrap();
    let expected = FILES.map(|(name, content)| (PathBuf::from(name), content.to_vec()));
    assert_eq!(files, expected);
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let good = archive(&FILES);
    for (to, why) in [
        ("../.csv", "leads elsewhere"),
        ("a//.csv", "leads elsewhere"),
        ("a/./csv", "leads elsewhere"),
        ("a\\b.csv", "backslash"),
        ("a/\x1b.csv", "control character"),
        ("C:b.csv", "names a drive"),
        ("a/empty", "are one file"),
        ("a/EMPTY", "are one file"),
        ("a/empTy", "are one file"),
    ] {
        let to = format!("study-01234567/{to}");
        is_refused(&replaced(&good, "study-01234567/a/b.csv", &to), why);
    }
    let outside = replaced(&good, "study-01234567/a/b.csv", "study-01234568/a/b.csv");
    is_refused(&outside, "is not in the one folder");
    let absolute = replaced(&good, "study-01234567/a/b.csv", "/tudy-01234567/a/b.csv");
    is_refused(&absolute, "absolute");
    let both = archive(&[("a", b""), ("b/c", b"")]);
    is_refused(
        &replaced(&both, "study-01234567/b/c", "study-01234567/a/c"),
        "a file and a folder",
    );
}

/// An archive of any names, which `Archive` would not write.
fn of_any_names(names: &[&str]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .last_modified_time(DateTime::DEFAULT)
        .system(System::Unix)
        .unix_permissions(0o644);
    for name in names {
        zip.start_file(format!("study-01234567/{name}"), options)
            .unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn names_that_are_one_on_some_system_are_refused() {
    assert!(extracted(&of_any_names(&["\u{e9}", "e", "\u{65e5}"])).is_ok());
    for [one, other] in [
        ["caf\u{e9}", "cafe\u{301}"],
        ["\u{212b}", "\u{c5}"],
        ["of\u{fb01}ce", "office"],
        ["\u{3a3}", "\u{3c3}"],
        ["a/\u{c9}", "A/e\u{301}"],
    ] {
        is_refused(&of_any_names(&[one, other]), "are one file where");
    }
    is_refused(&of_any_names(&["A", "a/b"]), "a file and a folder");
}

/// Each within its own limits, and together more than a disk should hold.
#[test]
fn many_entries_that_say_they_are_large_are_refused() {
    let names: Vec<String> = (0..1030).map(|number| number.to_string()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut bytes = of_any_names(&names);
    let large = u32::try_from(SMALL_BYTES).unwrap().to_le_bytes();
    for (signature, field) in [(HEADER, 22), (DIRECTORY, 24)] {
        for place in places(&bytes, signature) {
            bytes[place + field..][..4].copy_from_slice(&large);
            // Packed, so that it may become more than it is.
            bytes[place + field - 14..][..2].copy_from_slice(&[8, 0]);
        }
    }
    is_refused(&bytes, "bytes on the disk");
    let mut bytes = archive(&FILES);
    let end = bytes.len() - 22;
    for field in [8, 10] {
        bytes[end + field..][..2].copy_from_slice(&20_001_u16.to_le_bytes());
    }
    is_refused(&bytes, "at most 20000 are read");
}

#[test]
fn a_damaged_directory_is_refused() {
    let good = archive(&FILES);
    let entries = places(&good, DIRECTORY);
    let with = |place: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[place..][..value.len()].copy_from_slice(value);
        bytes
    };
    is_refused(
        &with(entries[2], b"PK\x07\x08"),
        "does not start as one does",
    );
    // The length of a name, of the last and of another.
    is_refused(&with(entries[3] + 28, &[0xff, 0]), "ends within an entry");
    is_refused(
        &with(entries[1] + 28, &[1, 0]),
        "is not what the directory says",
    );
    let end = good.len() - 22;
    is_refused(&with(end + 8, &[3, 0, 3, 0]), "its directory");
    is_refused(&with(end + 12, &[0xff; 4]), "zip64");
    is_refused(&with(end + 20, &[1, 0]), "comment");
}

#[test]
fn entries_of_other_kinds_are_refused() {
    let link = 0o120_777_u32 << 16;
    is_refused(&with_field(38, None, &link.to_le_bytes()), "a link");
    is_refused(&with_field(8, Some(6), &[1, 0]), "is encrypted");
    is_refused(&with_field(8, Some(6), &[8, 0]), "flags");
    is_refused(&with_field(10, Some(8), &[12, 0]), "method 12");
    is_refused(&with_field(20, Some(18), &[0xff; 4]), "zip64");
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for magic in [
        &b"PK\x03\x04"[..],
        b"PK\x05\x06",
        b"\x1f\x8b",
        b"7z\xbc\xaf\x27\x1c",
        b"Rar!\x1a\x07",
        b"\xfd7zXZ\0",
        b"\x28\xb5\x2f\xfd",
        b"BZh91AY&SY",
        &tar,
    ] {
        is_refused(&archive(&[("a", magic)]), "is an archive itself");
    }
}

#[test]
fn entries_that_are_not_what_they_say_are_refused() {
    is_refused(&with_field(16, Some(14), &[1, 2, 3, 4]), "checksum");
    is_refused(&with_field(24, Some(22), &[1, 0, 0, 0]), "is larger than");
    is_refused(&with_field(24, Some(22), &[99, 0, 0, 0]), "and not the 99");
    is_refused(&with_field(16, None, &[1, 2, 3, 4]), "what stands before");
    is_refused(&with_field(42, None, &[1, 0, 0, 0]), "over another");
    let zeros = vec![0; 8 << 20];
    is_refused(&archive(&[("a", &zeros)]), "one byte may become");
}

#[test]
fn bytes_that_belong_to_nothing_are_refused() {
    let good = archive(&FILES);
    is_refused(&[b"x", &good[..]].concat(), "where its end says");
    is_refused(&[&good[..], b"x"].concat(), "does not end");
    is_refused(&[&good[..], &good[..]].concat(), "where its end says");
    is_refused(&good[..good.len() - 1], "does not end");
    is_refused(b"PK", "too short");
    is_refused(b"", "too short");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..Default::default() })]

    /// Whatever is done to a file, it is refused, or what comes out is what was put in under plain names in the one folder.
    #[test]
    fn mutations_are_refused_or_change_nothing_that_matters(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = archive(&FILES);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(files) = extracted(&bytes) {
            let contents: Vec<&[u8]> = files.iter().map(|(_, content)| &content[..]).collect();
            prop_assert_eq!(contents.len(), FILES.len());
            for (_, content) in FILES {
                prop_assert!(contents.contains(&content));
            }
        }
    }
}
