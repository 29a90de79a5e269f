//! Prompts that are withheld: no text, no hash and no key of theirs is in a shared file, and whoever has them goes on all the same.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::OnceLock;

use polars::prelude::{CsvWriter, ParquetReader, SerReader, SerWriter};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::export::by_name;
use crate::prompts::{Prompt, jsonl, main_set, sentence};
use crate::workbench::{Said, Workbench, files_below, packs};

/// Stages that rest on `main`.
const OF_MAIN: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
share = false
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 2
layer = 2
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-3, 0, 3]
[stages.generate]
model = "inst"
prompts = "main"
limit = 4
direction = "direction"
alpha = [0, 3]
max_new_tokens = 12
[stages.summary]
steer = "steer"
"#;

/// Stages that do not.
const OF_OTHER: &str = r#"
[prompts.other]
path = "other.jsonl"
[stages.scored]
kind = "score"
model = "inst"
prompts = "other"
[stages.written]
kind = "generate"
model = "inst"
prompts = "other"
max_new_tokens = 12
"#;

const RUN: &str = "runs/study/latest";

fn other_set() -> Vec<Prompt> {
    let prompt = |i: usize| Prompt {
        id: format!("other-{i}"),
        text: sentence(5000 + i, i),
        split: "edge".to_string(),
        category: "kind".to_string(),
    };
    (0..4).map(prompt).collect()
}

fn finished(study: &str) -> Workbench {
    let bench = Workbench::new(&main_set(8, 5));
    bench.write("other.jsonl", jsonl(&other_set()));
    bench.run(study).ok();
    bench
}

#[track_caller]
fn ok(said: &Said) {
    assert_eq!(said.code, 0, "{said:?}");
}

fn exported(bench: &Workbench, arguments: &[&str]) -> (Vec<u8>, Said) {
    let said = bench.dial(&[&["export", RUN, "-o", "run.zip"], arguments].concat());
    ok(&said);
    (std::fs::read(bench.path("run.zip")).unwrap(), said)
}

/// A run of both, which tests only read, and its export.
fn shared() -> &'static (Workbench, Vec<u8>, Said) {
    static SHARED: OnceLock<(Workbench, Vec<u8>, Said)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let bench = finished(&format!("{OF_MAIN}{OF_OTHER}"));
        let before = content_of(&bench.path(RUN));
        let (bytes, said) = exported(&bench, &[]);
        assert!(
            before == content_of(&bench.path(RUN)),
            "the run's folder has changed"
        );
        (bench, bytes, said)
    })
}

fn content_of(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let read = |path: std::path::PathBuf| (path.clone(), std::fs::read(path).unwrap());
    files_below(&folder.canonicalize().unwrap())
        .into_iter()
        .map(read)
        .collect()
}

/// The texts of a stage's table.
fn texts(bench: &Workbench, table: &str) -> Vec<String> {
    let bytes = std::fs::read(bench.path(RUN).join("tables").join(table)).unwrap();
    let frame = ParquetReader::new(Cursor::new(bytes)).finish().unwrap();
    let column = frame.column("text").unwrap().str().unwrap().clone();
    column.iter().flatten().map(str::to_string).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The plain hashes that somebody could hold a guess against.
fn plain_hashes(bytes: &[u8]) -> [String; 2] {
    [blake3::hash(bytes).to_string(), hex(&Sha256::digest(bytes))]
}

/// Everything in an archive, tables as text, too.
fn unfolded(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = by_name(bytes);
    let tables: Vec<String> = files
        .keys()
        .filter(|name| name.ends_with(".parquet"))
        .cloned()
        .collect();
    assert!(!tables.is_empty());
    for name in tables {
        let mut frame = ParquetReader::new(Cursor::new(files[&name].clone()))
            .finish()
            .unwrap();
        let mut csv = Vec::new();
        CsvWriter::new(&mut csv).finish(&mut frame).unwrap();
        files.insert(format!("{name} as text"), csv);
    }
    files
}

/// What may not be in the file: texts and keys that are in one with the prompts, and hashes that could be made of a guess.
fn sought(bench: &Workbench) -> [Vec<Vec<u8>>; 2] {
    let (mut there, mut guessed): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let written = texts(bench, "written.parquet").join("\n");
    for text in texts(bench, "generate.parquet") {
        let middle: String = text.chars().skip(4).take(24).collect();
        assert!(middle.len() > 10, "`{text}` is too short to be sought");
        let own = [text, middle]
            .into_iter()
            .filter(|text| !written.contains(text));
        there.extend(own.map(String::into_bytes));
    }
    assert!(there.len() > 4, "{}", there.len());
    for Prompt { text, .. } in main_set(8, 5) {
        let words: Vec<&str> = text.split(' ').collect();
        there.extend([text.clone(), words[3..9].join(" ")].map(String::into_bytes));
        guessed.extend(plain_hashes(text.as_bytes()).map(String::into_bytes));
    }
    let manifest = std::fs::read(bench.path(RUN).join("run.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let mut keys = vec![&manifest["key"], &manifest["prompts"]["main"]["content"]];
    let stages = manifest["stages"].as_array().unwrap().iter();
    let of_main = stages.filter(|stage| stage["name"] != "scored" && stage["name"] != "written");
    keys.extend(of_main.map(|stage| &stage["key"]));
    assert_eq!(keys.len(), 7);
    there.extend(
        keys.iter()
            .map(|key| key.as_str().unwrap().as_bytes().to_vec()),
    );
    there.push(manifest["key"].as_str().unwrap().as_bytes()[..8].to_vec());
    let file = std::fs::read(bench.path("main.jsonl")).unwrap();
    let [blake3, sha256] = plain_hashes(&file).map(String::into_bytes);
    there.push(sha256);
    guessed.push(blake3);
    // The keys of what was asked, from a run of the same that shares its cache with nothing.
    let alone = finished(OF_MAIN);
    let packs = packs(&alone.path("cache")).into_iter();
    let cells: Vec<[u8; 32]> = packs
        .flat_map(|pack| pack.cells)
        .map(|(key, _)| key)
        .collect();
    assert!(cells.len() > 50, "{}", cells.len());
    guessed.extend(cells.iter().map(|key| hex(key).into_bytes()));
    there.extend(cells.iter().map(|key| key.to_vec()));
    [there, guessed]
}

#[test]
fn nothing_of_withheld_prompts_is_in_the_file() {
    let (bench, bytes, _) = shared();
    let [there, guessed] = sought(bench);
    for (name, content) in unfolded(bytes) {
        for part in there.iter().chain(&guessed) {
            assert!(
                !holds(&content, part),
                "{name} holds `{}`",
                String::from_utf8_lossy(part)
            );
        }
    }
    // All of it is there where the set may be shared, so that it would have been found.
    let said = bench.dial(&[
        "export",
        RUN,
        "-o",
        "open.zip",
        "--set",
        "prompts.main.share=true",
    ]);
    ok(&said);
    let open = unfolded(&std::fs::read(bench.path("open.zip")).unwrap());
    for part in there {
        assert!(
            open.values().any(|content| holds(content, &part)),
            "`{}`",
            String::from_utf8_lossy(&part)
        );
    }
}

#[test]
fn what_is_not_withheld_is_there_and_tables_keep_ids_and_scores() {
    let (bench, bytes, said) = shared();
    let files = by_name(bytes);
    for name in [
        "cells/scored.pack",
        "cells/written.pack",
        "records/written.json",
        "prompts/other.jsonl",
        "withheld.json",
        "tables/generate.csv",
    ] {
        assert!(files.contains_key(name), "no {name}");
    }
    for name in [
        "prompts/main.jsonl",
        "cells/score.pack",
        "records/score.json",
        "records/summary.json",
        "hashes/steer.bin",
    ] {
        assert!(!files.contains_key(name), "{name}");
    }
    for same in ["score.csv", "steer.parquet", "written.csv"] {
        let table = std::fs::read(bench.path(RUN).join("tables").join(same)).unwrap();
        assert!(files[&format!("tables/{same}")] == table, "{same}");
    }
    let header = |name: &str| {
        String::from_utf8_lossy(&files[name])
            .lines()
            .next()
            .unwrap()
            .to_string()
    };
    assert!(header("tables/written.csv").contains(",text,"));
    let columns = header("tables/generate.csv");
    assert!(
        !columns.contains("text") && columns.contains(",id,") && columns.contains("score"),
        "{columns}"
    );
    let withheld: Value = serde_json::from_slice(&files["withheld.json"]).unwrap();
    assert_eq!(withheld["sets"]["main"]["count"], 13);
    assert_eq!(withheld["stages"].as_array().unwrap().len(), 5);
    let readme = String::from_utf8_lossy(&files["README.md"]).into_owned();
    assert!(
        readme.contains("## What is withheld") && readme.contains("--prompts main=PATH"),
        "{readme}"
    );
    assert!(
        said.stderr.contains("prompts of `main` are withheld"),
        "{said:?}"
    );
    assert!(
        said.stderr.contains("not that they follow from cells"),
        "{said:?}"
    );
}

#[test]
fn the_same_run_gives_the_same_file() {
    let (bench, bytes, _) = shared();
    let said = bench.dial(&["export", RUN, "-o", "again.zip"]);
    ok(&said);
    assert!(std::fs::read(bench.path("again.zip")).unwrap() == *bytes);
    // Another cache has another salt.
    let other = finished(&format!("{OF_MAIN}{OF_OTHER}"));
    let hash = |bytes: &[u8]| {
        let withheld: Value = serde_json::from_slice(&by_name(bytes)["withheld.json"]).unwrap();
        withheld["sets"]["main"]["hash"]
            .as_str()
            .unwrap()
            .to_string()
    };
    assert_ne!(hash(&exported(&other, &[]).0), hash(bytes));
}

/// What the page shows is drawn of what is in the folder.
#[test]
fn the_page_is_what_the_folder_gives() {
    let (_, bytes, _) = shared();
    let folder = tempfile::tempdir().unwrap();
    let files = by_name(bytes);
    for (name, content) in &files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let bench = Workbench::new(&main_set(1, 1));
    ok(&bench.dial(&["report", folder.path().to_str().unwrap()]));
    assert!(std::fs::read(folder.path().join("report.html")).unwrap() == files["report.html"]);
}

/// A bench of its own with the shared file and no cache.
fn reviewer() -> Workbench {
    let (_, bytes, _) = shared();
    let bench = Workbench::new(&main_set(8, 5));
    bench.write("run.zip", bytes);
    bench
}

#[test]
fn without_the_prompts_a_plan_says_which_are_missing_and_what_to_do() {
    let bench = reviewer();
    let said = bench.dial(&["unpack", "run.zip", "sent"]);
    ok(&said);
    assert!(
        said.stderr
            .contains("the 13 prompts of `main` are withheld"),
        "{said:?}"
    );
    assert!(said.stderr.contains("--prompts main=PATH"), "{said:?}");
    let message = bench.dial(&["plan", "sent/study.toml", "--cache", "sent/cache"]);
    let message = message.message(2);
    assert!(
        message.contains("prompt set `main` is withheld, and its file is not here"),
        "{message}"
    );
    assert!(message.contains("`--prompts main=PATH`"), "{message}");
    assert!(!message.contains("`other`"), "{message}");
    ok(&bench.dial(&["show", "sent"]));
}

#[test]
fn with_the_prompts_the_rest_is_computed_again_and_is_the_same() {
    let bench = reviewer();
    // The same prompts, laid out otherwise.
    let laid_out = jsonl(&main_set(8, 5)).replace("\":", "\" : ");
    bench.write("mine/prompts.jsonl", laid_out);
    ok(&bench.dial(&[
        "unpack",
        "run.zip",
        "sent",
        "--prompts",
        "main=mine/prompts.jsonl",
    ]));
    let study = ["sent/study.toml", "--cache", "sent/cache"];
    let model = format!("models.inst.source={}", bench.path("models/inst").display());
    let plan = bench.dial(
        &[
            &["plan"],
            &study[..],
            &["--set", &model, "--format", "json"],
        ]
        .concat(),
    );
    ok(&plan);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    for stage in plan["stages"].as_array().unwrap() {
        let is_there = ["scored", "written"].contains(&stage["name"].as_str().unwrap());
        assert_eq!(stage["status"] == "cached", is_there, "{stage}");
    }
    let run = bench.dial(
        &[
            &["run"],
            &study[..],
            &["--set", &model, "--threads", "1", "--locked"],
        ]
        .concat(),
    );
    ok(&run);
    let (author, _, _) = shared();
    let tables = |folder: &Path| -> BTreeMap<String, Vec<u8>> {
        let files = files_below(&folder.join("tables")).into_iter();
        files
            .map(|path| {
                (
                    path.file_name().unwrap().to_str().unwrap().to_string(),
                    std::fs::read(path).unwrap(),
                )
            })
            .collect()
    };
    assert!(tables(&author.path(RUN)) == tables(&bench.path(RUN)));
}

#[test]
fn a_file_that_is_another_is_refused_and_leaves_nothing() {
    let bench = reviewer();
    let right = jsonl(&main_set(8, 5));
    bench.write("edited.jsonl", right.replacen("calm", "cold", 1));
    bench.write("short.jsonl", right.lines().next().unwrap());
    let refused = |prompts: &[&str], why: &str| {
        let mut all = vec!["unpack", "run.zip", "sent"];
        all.extend(prompts.iter().flat_map(|prompts| ["--prompts", prompts]));
        let said = bench.dial(&all);
        let message = said.message(1);
        assert!(message.contains(why), "{message}");
        assert!(!bench.path("sent").exists());
    };
    refused(
        &["main=edited.jsonl"],
        "is not prompt set `main` as it was run: it has as many prompts",
    );
    refused(
        &["main=short.jsonl"],
        "it has 1 prompts, and the one that was withheld has 13",
    );
    refused(&["main=nowhere.jsonl"], "`nowhere.jsonl` cannot be read");
    refused(
        &["other=main.jsonl"],
        "withholds no prompt set `other`; those that it does are `main`",
    );
    let said = bench.dial(&["unpack", "run.zip", "sent", "--prompts", "main"]);
    assert!(said.message(2).contains("expected NAME=PATH"), "{said:?}");
}

/// All sets, one of them drawn out of another file by a third.
#[test]
fn all_prompts_can_be_withheld() {
    let bench = Workbench::new(&main_set(8, 5));
    bench.write("other.jsonl", jsonl(&other_set()));
    let line = |id: usize| {
        format!(
            "{{\"id\": \"d{id}\", \"prompt\": \"as it was published\", \"split\": \"edge\", \"xstest_id\": \"v2-{id}\"}}\n"
        )
    };
    bench.write("chosen.jsonl", [line(1), line(2)].concat());
    let drawn = "[prompts.drawn]\npath = \"xstest.csv\"\ndraw = { selection = \"chosen.jsonl\" }\n[stages.of_drawn]\nkind = \"score\"\nmodel = \"inst\"\nprompts = \"drawn\"\n";
    let study = format!("{OF_MAIN}{OF_OTHER}{drawn}").replace("share = false\n", "");
    bench.run(&study).ok();
    let (bytes, said) = exported(&bench, &["--without-prompts", "--format", "json"]);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        json["withheld"],
        serde_json::json!(["drawn", "main", "other"])
    );
    assert_eq!(
        (&json["cells"], &json["activations_left_out"]),
        (&0.into(), &0.into())
    );
    let files = by_name(&bytes);
    let is_of_prompts = |name: &&String| {
        ["cells/", "records/", "hashes/"]
            .iter()
            .any(|folder| name.starts_with(folder))
    };
    assert_eq!(files.keys().filter(is_of_prompts).count(), 0);
    let prompts: Vec<&String> = files
        .keys()
        .filter(|name| name.starts_with("prompts/"))
        .collect();
    assert_eq!(prompts, ["prompts/drawn.selection.jsonl"]);
    let every = unfolded(&bytes);
    for text in texts(&bench, "written.parquet")
        .into_iter()
        .chain(["as it was published".to_string()])
        .chain(other_set().into_iter().map(|p| p.text))
    {
        for (name, content) in &every {
            assert!(!holds(content, text.as_bytes()), "{name} holds `{text}`");
        }
    }
    // What was said on the command line is in the file: whoever exports a run of it withholds them, too.
    let study = String::from_utf8_lossy(&files["study.toml"]).into_owned();
    assert_eq!(study.matches("share = false").count(), 3, "{study}");
    let given = ["main=main.jsonl", "other=other.jsonl", "drawn=xstest.csv"];
    let mut all = vec!["unpack", "run.zip", "sent"];
    all.extend(given.iter().flat_map(|given| ["--prompts", given]));
    ok(&bench.dial(&all));
    ok(&bench.dial(&[
        "lock",
        "--check",
        "sent/study.toml",
        "--cache",
        "sent/cache",
    ]));
    let plan = bench.dial(&["plan", "sent/study.toml", "--cache", "cache"]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
}

/// A file with names of its own goes to whoever checks it with what the study calls them, and another layout of it is the same set.
#[test]
fn a_set_with_columns_is_withheld_and_supplied_in_another_layout() {
    let prompts = main_set(4, 3);
    let bench = Workbench::new(&prompts);
    let separated = |by: &str| {
        let row = |p: &Prompt| {
            [&p.id, &p.text, &p.split, &p.category]
                .map(String::as_str)
                .join(by)
        };
        let rows: Vec<String> = prompts.iter().map(row).collect();
        format!(
            "{}\n{}\n",
            ["Name", "goal", "label", "Kind"].join(by),
            rows.join("\n")
        )
    };
    bench.write("main.csv", separated(";"));
    bench.write("mine.csv", separated(","));
    let columns =
        "columns = { id = \"Name\", prompt = \"goal\", split = \"label\", category = \"Kind\" }";
    let study = format!(
        "[models.inst]\nsource = \"models/inst\"\n[prompts.main]\npath = \"main.csv\"\n{columns}\nlicence = \"CC-BY-NC-4.0\"\nshare = false\n[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n"
    );
    let run = bench.run(&study).ok();
    let (bytes, _) = exported(&bench, &[]);
    let files = by_name(&bytes);
    let withheld: Value = serde_json::from_slice(&files["withheld.json"]).unwrap();
    assert_eq!(withheld["sets"]["main"]["columns"]["prompt"], "goal");
    for (name, content) in unfolded(&bytes) {
        let holds_any = prompts.iter().any(|p| holds(&content, p.text.as_bytes()));
        assert!(!holds_any, "{name} holds a prompt");
    }
    let supplied = ["--prompts", "main=mine.csv"];
    let model = format!("inst={}", bench.path("models/inst").display());
    let verified = [
        "verify", "run.zip", "--format", "json", "--sample", "0", "-o", "found",
    ];
    let said = bench.dial(&[&verified[..], &supplied].concat());
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    for level in &found["levels"].as_array().unwrap()[..2] {
        assert_eq!(level["problems"], serde_json::json!([]), "{found}");
    }
    ok(&bench.dial(&[&["unpack", "run.zip", "sent"][..], &supplied].concat()));
    let again = bench.dial(&[
        "run",
        "sent/study.toml",
        "--cache",
        "sent/cache",
        "--runs",
        "sent/runs",
        "--set",
        &format!("models.{}", model.replacen('=', ".source=", 1)),
        "--threads",
        "1",
        "--locked",
    ]);
    ok(&again);
    let score = |folder: &Path| std::fs::read(folder.join("tables/score.csv")).unwrap();
    let sent = bench.path("sent/runs/study/latest");
    assert!(score(&run.file(&bench, "")) == score(&sent));
}

#[test]
fn a_text_that_stands_elsewhere_is_found() {
    let bench = Workbench::new(&main_set(8, 5));
    let text = &main_set(8, 5)[3].text;
    bench.write(
        "other.jsonl",
        jsonl(&[Prompt {
            id: "same".into(),
            ..main_set(8, 5)[3].clone()
        }]),
    );
    let study = format!("{OF_MAIN}{OF_OTHER}");
    bench.run(&format!("# Such as: {text}\n{study}")).ok();
    let message = bench.dial(&["export", RUN, "-o", "run.zip"]);
    let message = message.message(1);
    assert!(
        message.contains(
            "a text of prompt set `main` is withheld, and `prompts/other.jsonl` would hold it"
        ),
        "{message}"
    );
    assert!(!bench.path("run.zip").exists());
    let (bytes, said) = exported(&bench, &["--set", "prompts.other.share=false"]);
    assert!(
        said.stderr
            .contains("`as-given/study.toml` is left out, as a text of theirs is in it"),
        "{said:?}"
    );
    assert!(!by_name(&bytes).contains_key("as-given/study.toml"));
}

/// A published table of texts does not say whose prompts they are after.
#[test]
fn an_imported_file_with_texts_is_left_out_with_them() {
    let bench = Workbench::new(&main_set(8, 5));
    bench.write("other.jsonl", jsonl(&other_set()));
    let said = "what a model wrote elsewhere";
    bench.write(
        "texts.csv",
        format!("id,split,category,model,alpha,layer,text\na,edge,c,m,1.5,2,{said}\n"),
    );
    bench.write(
        "scores.csv",
        "id,split,category,model,score\na,edge,c,m,1.5\n",
    );
    let imports = "[stages.told]\nkind = \"import\"\nas = \"generate\"\nfile = \"texts.csv\"\n[stages.known]\nkind = \"import\"\nas = \"score\"\nfile = \"scores.csv\"\n";
    bench.run(&format!("{OF_MAIN}{OF_OTHER}{imports}")).ok();
    let (bytes, told) = exported(&bench, &[]);
    assert!(told.stderr.contains("imported files that hold texts are left out, too, and a reviewer puts them in their place: `files/texts.csv`"), "{told:?}");
    let files = unfolded(&bytes);
    assert!(files.contains_key("files/scores.csv") && files.contains_key("records/known.json"));
    for (name, content) in files {
        assert!(!holds(&content, said.as_bytes()), "{name}");
    }
}
