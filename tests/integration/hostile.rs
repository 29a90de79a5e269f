//! Shared files that somebody made to do harm: what their study, manifest, records and packs say is refused, or leads nowhere.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::sync::OnceLock;

use serde_json::Value;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use crate::export::by_name;
use crate::prompts::main_set;
use crate::workbench::{SCORES, Workbench, files_below};

const IMPORT: &str =
    "[stages.told]\nkind = \"import\"\nas = \"score\"\nfile = \"told/scores.csv\"\n";
const TOLD: &str = "id,split,category,model,score\na,edge,c,m,1.5\n";

type Files = BTreeMap<String, Vec<u8>>;

/// A bench, and the files of the export of its run.
fn exported() -> &'static (Workbench, Files) {
    static EXPORTED: OnceLock<(Workbench, Files)> = OnceLock::new();
    EXPORTED.get_or_init(|| {
        let bench = Workbench::new(&main_set(4, 4));
        bench.write("told/scores.csv", TOLD);
        bench.run(&format!("{SCORES}{IMPORT}")).ok();
        let said = bench.dial(&["export", "runs/study/latest", "-o", "run.zip"]);
        assert_eq!(said.code, 0, "{said:?}");
        let files = by_name(&std::fs::read(bench.path("run.zip")).unwrap());
        (bench, files)
    })
}

/// An archive of these files, as `dial export` writes one.
fn archive(files: &Files) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::DEFAULT)
            .system(System::Unix)
            .unix_permissions(0o644);
        zip.start_file(format!("study-01234567/{name}"), options)
            .unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// What is said of the export after a change of a file; nothing may be left of it, nor anything outside.
#[track_caller]
fn refused(name: &str, change: impl Fn(String) -> String) -> String {
    let (bench, files) = exported();
    let mut files = files.clone();
    let old = files.remove(name).unwrap_or_default();
    let old = String::from_utf8(old).unwrap();
    let new = change(old.clone());
    assert_ne!(new, old, "nothing was changed");
    files.insert(name.to_string(), new.into_bytes());
    refused_of(bench, &archive(&files))
}

#[track_caller]
fn refused_of(bench: &Workbench, archive: &[u8]) -> String {
    let room = tempfile::tempdir_in(bench.path("")).unwrap();
    let file = room.path().join("bad.zip");
    std::fs::write(&file, archive).unwrap();
    let target = room.path().join("sent");
    let said = bench.dial(&["unpack", file.to_str().unwrap(), target.to_str().unwrap()]);
    let message = said.message(1).to_string();
    assert_eq!(files_below(room.path()), [file], "something is left");
    message
}

#[test]
fn an_archive_that_was_packed_again_is_sound() {
    let (bench, files) = exported();
    bench.write("same.zip", archive(files));
    let said = bench.dial(&["unpack", "same.zip", "same"]);
    assert_eq!(said.code, 0, "{said:?}");
    let plan = bench.dial(&["plan", "same/study.toml", "--cache", "same/cache"]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
}

/// A study names paths in these fields alone.
#[test]
fn a_study_that_names_paths_outside_is_refused_with_file_and_field() {
    let (prompts, model, folder, file) = (
        "path = \"prompts/main.jsonl\"",
        "source = \"models/inst\"",
        "folder = \"files\"",
        "file = \"told/scores.csv\"",
    );
    for (from, to, why) in [
        (
            prompts,
            "path = \"/etc/hosts.jsonl\"",
            "`study.toml`: `prompts.main.path` leads to `/etc/hosts.jsonl`",
        ),
        (
            prompts,
            "path = \"../../main.jsonl\"",
            "`study.toml`: `prompts.main.path` leads to `../../main.jsonl`",
        ),
        (
            prompts,
            "path = \"prompts/../../main.jsonl\"",
            "`prompts.main.path` leads to",
        ),
        (
            prompts,
            "path = \"prompts/main.jsonl\"\ndraw = { selection = \"../chosen.jsonl\" }",
            "`prompts.main.draw.selection` leads to `../chosen.jsonl`",
        ),
        (
            model,
            "source = \"/models/inst\"",
            "`models.inst.source` leads to `/models/inst`",
        ),
        (
            model,
            "source = \"../models/inst\"",
            "`models.inst.source` leads to `../models/inst`",
        ),
        (
            model,
            "source = \"hf:org/name\"",
            "`models.inst.source` is `hf:org/name`",
        ),
        (
            folder,
            "folder = \"/etc\"",
            "`import.folder` leads to `/etc`",
        ),
        (folder, "folder = \"..\"", "`import.folder` leads to `..`"),
        (
            file,
            "file = \"/etc/passwd.csv\"",
            "which is not in its folder",
        ),
        (
            file,
            "file = \"../../scores.csv\"",
            "which is not in its folder",
        ),
    ] {
        let message = refused("study.toml", |text| text.replace(from, to));
        assert!(message.contains(why), "`{message}` does not say `{why}`");
    }
    let extends = |value: &str| format!("extends = {value}\n");
    for value in [
        "\"/etc/passwd\"",
        "\"../other.toml\"",
        "[\"as-given/study.toml\"]",
    ] {
        let message = refused("study.toml", |text| extends(value) + &text);
        assert!(message.contains("it extends other files"), "{message}");
        assert!(message.contains("study.toml:1"), "{message}");
    }
}

#[test]
fn a_study_that_is_none_is_refused() {
    let deep = |_| format!("a = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    for message in [
        refused("study.toml", |text| format!("{text}\n[odd]\n")),
        refused("study.toml", deep),
        refused("study.toml", |_| format!("{}b = 1", "a.".repeat(100_000))),
    ] {
        assert!(message.contains("`study.toml` is no study"), "{message}");
    }
    let (bench, files) = exported();
    let mut files = files.clone();
    files.remove("study.toml");
    assert!(refused_of(bench, &archive(&files)).contains("it has no `study.toml`"));
}

#[test]
fn a_manifest_that_names_folders_is_refused() {
    let with = |field: &str, value: Value| {
        let pointer = format!("/{field}");
        refused("run.json", |text| {
            let mut manifest: Value = serde_json::from_str(&text).unwrap();
            *manifest.pointer_mut(&pointer).unwrap() = value.clone();
            manifest.to_string()
        })
    };
    for (field, value, why) in [
        (
            "cache",
            "/home/ada/cache".into(),
            "`cache` is `/home/ada/cache`",
        ),
        ("directory", "..".into(), "`directory` is `..`"),
        (
            "files",
            serde_json::json!({ "a": "/etc/passwd" }),
            "`files.a` is `/etc/passwd`",
        ),
        (
            "prompts/main/path",
            "/etc/passwd".into(),
            "`prompts.main.path` leads to `/etc/passwd`",
        ),
        (
            "prompts/main/path_from_run",
            "../../main.jsonl".into(),
            "`prompts.main.path_from_run` leads to",
        ),
    ] {
        let message = with(field, value);
        assert!(message.contains(&format!("`run.json`: {why}")), "{message}");
    }
}

#[test]
fn json_that_is_deep_or_long_or_ambiguous_is_refused() {
    let deep = |_| format!("{}{}", "[".repeat(1 << 20), "]".repeat(1 << 20));
    for name in ["records/score.json", "run.json", "withheld.json"] {
        let message = refused(name, deep);
        assert!(message.contains(&format!("`{name}`")), "{message}");
    }
    // What compresses so well is refused before it is read; so is what does not.
    let mut noise = vec![0; 17 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let digits: String = noise
        .iter()
        .map(|byte| char::from(b'0' + byte % 10))
        .collect();
    for (name, most) in [
        ("records/score.json", 16 << 20),
        ("run.json", 16 << 20),
        ("withheld.json", 16 << 20),
        ("ro-crate-metadata.json", 16 << 20),
        ("study.toml", 1 << 20),
        ("study.lock", 1 << 20),
    ] {
        let message = refused(name, |_| digits.clone());
        let why = format!("`{name}` has 17825792 bytes, and what lies there may have {most}");
        assert!(message.contains(&why), "{message}");
    }
    let twice = |text: String| text.replacen("{\"key\":", "{\"key\":\"0\",\"key\":", 1);
    let message = refused("records/score.json", twice);
    assert!(message.contains("key `key` is given twice"), "{message}");
    let message = refused("records/score.json", |text| {
        text.replacen("\"key\":\"", "\"key\":\"00", 1)
    });
    assert!(
        message.contains("`records/score.json` is no record of a stage"),
        "{message}"
    );
}

/// A pack that says that it has more than its bytes, a value that is no value, a table that is none.
#[test]
fn packs_and_tables_that_are_none_are_refused() {
    let (bench, files) = exported();
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = files.clone();
        change(files.get_mut(name).unwrap());
        refused_of(bench, &archive(&files))
    };
    for place in [8, 16, 24, 32, 60] {
        let message = with("cells/score.pack", &|bytes| {
            bytes[place..place + 8].fill(0xff)
        });
        assert!(message.contains("is no sound pack"), "{message}");
    }
    let message = with("cells/score.pack", &|bytes| {
        // What does not compress.
        let mut value = vec![0; (16 << 20) + 1];
        let mut noise = blake3::Hasher::new().finalize_xof();
        noise.fill(&mut value);
        let cells: Vec<([u8; 32], Vec<u8>)> = vec![([1; 32], value)];
        let folder = tempfile::tempdir().unwrap();
        let pack = crate::workbench::Pack::write(folder.path(), &serde_json::json!({}), &cells);
        *bytes = std::fs::read(pack.path).unwrap();
    });
    assert!(message.contains("too long for one"), "{message}");
    let message = with("tables/score.parquet", &|bytes| bytes.truncate(100));
    assert!(message.contains("`score.parquet` is no table"), "{message}");
    let message = with("records/told.json", &|bytes| {
        *bytes = String::from_utf8(bytes.clone())
            .unwrap()
            .replace("\"kind\":\"import\"", "\"kind\":\"impart\"")
            .into_bytes();
    });
    assert!(message.contains("under another key"), "{message}");
}

/// Names and texts are data wherever they are shown.
#[test]
fn markup_and_control_characters_in_names_do_nothing() {
    let (bench, files) = exported();
    let mut marked = files.clone();
    marked.insert(
        "figures/<script>alert(1)</script>.svg".to_string(),
        b"<svg/>".to_vec(),
    );
    bench.write("marked.zip", archive(&marked));
    assert_eq!(bench.dial(&["unpack", "marked.zip", "marked"]).code, 0);
    let mut odd = files.clone();
    odd.insert("figures/\u{1b}]0;owned\u{7}.svg".to_string(), Vec::new());
    let message = refused_of(bench, &archive(&odd));
    assert!(
        message.contains("control character") && !message.contains('\u{1b}'),
        "{message:?}"
    );
    let message = refused("run.json", |text| {
        text.replacen(
            "\"study\": \"study\"",
            "\"study\": \"\\u001b[2J\", \"format\": 9",
            1,
        )
    });
    assert!(!message.contains('\u{1b}'), "{message:?}");
    // A link of that name: said before names are looked at.
    let mut bytes = archive(&odd);
    let place = bytes
        .windows(4)
        .position(|part| part == b"PK\x01\x02")
        .unwrap();
    let named = bytes[place..]
        .windows(7)
        .position(|part| part == b"\x1b]0;own")
        .unwrap()
        + place;
    let entry = bytes[..named]
        .windows(4)
        .rposition(|part| part == b"PK\x01\x02")
        .unwrap();
    bytes[entry + 38..entry + 42].copy_from_slice(&(0o120_777_u32 << 16).to_le_bytes());
    let message = refused_of(bench, &bytes);
    assert!(
        message.contains("a link") && !message.contains('\u{1b}'),
        "{message:?}"
    );
}

#[test]
fn what_was_unpacked_is_no_run_to_export() {
    let (bench, files) = exported();
    bench.write("again.zip", archive(files));
    assert_eq!(bench.dial(&["unpack", "again.zip", "again"]).code, 0);
    let said = bench.dial(&["export", "again", "-o", "twice.zip"]);
    let message = said.message(2);
    assert!(
        message.contains("`again` is a shared file that was unpacked, and no run of yours"),
        "{message}"
    );
    assert!(
        message.contains("send the file itself on, or run its `study.toml` and export that run"),
        "{message}"
    );
    // A run of it is exported as any other.
    let run = [
        "run",
        "again/study.toml",
        "--cache",
        "again/cache",
        "--runs",
        "others",
        "--threads",
        "1",
    ];
    assert_eq!(bench.dial(&run).code, 0);
    let said = bench.dial(&["export", "others/study/latest", "-o", "twice.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    let twice = by_name(&std::fs::read(bench.path("twice.zip")).unwrap());
    assert!(twice["cells/score.pack"] == files["cells/score.pack"]);
}
