use std::fs;
use std::io::Cursor;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::json;

use crate::cache::Batch;
use crate::manifest::Manifest;
use crate::prompts::PromptSet;
use crate::stages::{Rows, write_csv, write_parquet};

use super::super::withheld::WithheldSet;
use super::super::write::Archive;
use super::*;

const STUDY: &str = "[study]\nname = \"s\"\n[prompts.main]\npath = \"prompts/main.jsonl\"\nshare = false\n\
    [import]\nfolder = \"files\"\n[stages.told]\nkind = \"import\"\nas = \"score\"\nfile = \"a.csv\"\n";
const PROMPTS: &str = "{\"id\": \"a\", \"prompt\": \"Is it late?\"}\n";

/// The files of a shared file of every kind that is read while it is unpacked.
fn files() -> BTreeMap<String, Vec<u8>> {
    static FILES: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(made);
    FILES.clone()
}

fn made() -> BTreeMap<String, Vec<u8>> {
    let rows = [("a", 1.5), ("b", -0.5)];
    let table = Rows::of(&rows)
        .text("id", |row| row.0)
        .number("score", |row| row.1);
    let table = table.frame().unwrap();
    let (mut csv, mut parquet) = (Vec::new(), Vec::new());
    write_csv(&table, &mut csv).unwrap();
    write_parquet(&table, &mut parquet).unwrap();
    let parts = json!({ "kind": "import" });
    let record = json!({
        "key": key_of(&parts),
        "record": {
            "tables": [{ "name": "", "rows": 2, "csv": Key::of(&csv), "parquet": Key::of(&parquet) }],
            "directions": [], "findings": [], "key_parts": parts, "seconds": 0.0, "cells": 2,
        },
    });
    let mut cells = Batch::default();
    cells.push(Key::of(b"one"), b"value");
    cells.push(Key::of(b"two"), b"longer value");
    let manifest = Manifest {
        format: 2,
        study: "s".to_string(),
        ..Manifest::default()
    };
    let set = PromptSet::read(Path::new("p.jsonl"), PROMPTS.as_bytes()).unwrap();
    let set = WithheldSet::of(
        &set,
        "prompts/main.jsonl",
        crate::prompts::Columns::default(),
        Key::of(b"salt"),
    );
    let withheld = Withheld::of(BTreeMap::from([("main".to_string(), set)]));
    let text = |text: &str| text.as_bytes().to_vec();
    let files = [
        (layout::STUDY, text(STUDY)),
        (layout::MANIFEST, serde_json::to_vec(&manifest).unwrap()),
        (layout::WITHHELD, serde_json::to_vec(&withheld).unwrap()),
        ("cells/told.pack", cells.to_pack(b"{}")),
        ("files/a.csv", text("id,score\na,1.5\nb,-0.5\n")),
        ("records/told.json", text(&record.to_string())),
        ("tables/told.csv", csv),
        ("tables/told.parquet", parquet),
    ];
    files
        .map(|(name, content)| (name.to_string(), content))
        .into()
}

/// Unpacks files into a folder of a folder, in which nothing else may appear.
fn unpacked(files: &BTreeMap<String, Vec<u8>>) -> Result<usize, String> {
    let mut archive = Archive::new(Cursor::new(Vec::new()), "s-01234567");
    for (name, content) in files {
        archive.add(name, content).unwrap();
    }
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("s.zip");
    fs::write(&path, archive.finish().unwrap().into_inner()).unwrap();
    let done = unpack(&path, &room.path().join("sent"), &BTreeMap::new());
    let left = fs::read_dir(room.path()).unwrap().count();
    assert_eq!(left, 1 + usize::from(done.is_ok()), "something is left");
    if done.is_ok() {
        let known =
            |path: &Path| files.contains_key(path.to_str().unwrap()) || path.starts_with(CACHE);
        let mut folders = vec![room.path().join("sent")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.symlink_metadata().unwrap().is_dir() {
                    true => folders.push(path),
                    false => assert!(
                        known(path.strip_prefix(room.path().join("sent")).unwrap()),
                        "{path:?}"
                    ),
                }
            }
        }
    }
    done.map(|done| done.stages)
        .map_err(|error| error.to_string())
}

#[test]
fn what_belongs_together_is_unpacked() {
    assert_eq!(unpacked(&files()), Ok(1));
}

/// A change of some file.
#[derive(Clone, Debug)]
enum Change {
    Overwrite(Index, Vec<u8>),
    Insert(Index, Vec<u8>),
    Cut(Index),
    Repeat(Index),
}

fn change() -> impl Strategy<Value = Change> {
    // Beside any bytes, those that mean something to a reader of numbers, of text or of JSON.
    let words = prop::sample::select(vec![
        &b"\"../x\""[..],
        b"/etc",
        b"[[[[",
        b"{",
        b"\"",
        b"-1",
        b"1e999",
        b"\0",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\n",
    ]);
    let words = words.prop_map(<[u8]>::to_vec);
    let bytes = || prop_oneof![prop::collection::vec(any::<u8>(), 1..9), words.clone()];
    prop_oneof![
        (any::<Index>(), bytes()).prop_map(|(place, bytes)| Change::Overwrite(place, bytes)),
        (any::<Index>(), bytes()).prop_map(|(place, bytes)| Change::Insert(place, bytes)),
        any::<Index>().prop_map(Change::Cut),
        any::<Index>().prop_map(Change::Repeat),
    ]
}

fn changed(mut content: Vec<u8>, change: &Change) -> Vec<u8> {
    let end = content.len();
    match change {
        Change::Overwrite(place, bytes) => {
            let place = place.index(end + 1);
            let most = (place + bytes.len()).min(end);
            content.splice(place..most, bytes.iter().copied());
        }
        Change::Insert(place, bytes) => {
            let place = place.index(end + 1);
            content.splice(place..place, bytes.iter().copied());
        }
        Change::Cut(place) => content.truncate(place.index(end + 1)),
        Change::Repeat(place) => content.extend_from_within(place.index(end + 1)..),
    }
    content
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 384, failure_persistence: None, ..Default::default() })]

    /// Whatever its files hold, an archive is refused and leaves nothing, or becomes a folder and nothing beside it. Nothing panics.
    #[test]
    fn files_of_any_content_do_no_harm(changes in prop::collection::vec((any::<Index>(), change()), 1..4)) {
        let mut files = files();
        let names: Vec<String> = files.keys().cloned().collect();
        for (file, change) in changes {
            let name = file.get(&names);
            let content = files[name].clone();
            files.insert(name.clone(), changed(content, &change));
        }
        let _ = unpacked(&files);
    }
}
