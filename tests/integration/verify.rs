//! `dial verify`: what it says of a file as it was exported, and of files that somebody changed, each at the level that can tell.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::OnceLock;

use insta::assert_snapshot;
use regex::Regex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use crate::export::by_name;
use crate::prompts::main_set;
use crate::workbench::{Pack, Workbench, packs};

const STUDY: &str = r#"
[study]
title = "<b>Is</b> it one?"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.patch]
pairing = "prompts"
model = "inst"
donors = "harmful"
recipients = "edge"
prompts = "main"
layer = [1, 2]
limit = 3
site = "resid_pre"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 3
layer = [1, 2]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-3, 0, 3]
[stages.random]
model = "inst"
prompts = "main"
seed = "0..3"
layer = [1, 2]
alpha = [-3, 3]
[stages.generate]
model = "inst"
prompts = "main"
limit = 2
direction = "direction"
alpha = [0, 3]
max_new_tokens = 3
[stages.summary]
steer = "steer"
random = "random"
"#;

type Files = BTreeMap<String, Vec<u8>>;

/// A workbench with an exported run of the study, as its files.
fn shared() -> &'static (Workbench, Files) {
    static SHARED: OnceLock<(Workbench, Files)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let bench = Workbench::new(&main_set(12, 6));
        bench.run(STUDY).ok();
        let files = exported(&bench, "runs/study/latest");
        (bench, files)
    })
}

fn exported(bench: &Workbench, run: &str) -> Files {
    let said = bench.dial(&["export", run, "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    by_name(&std::fs::read(bench.path("run.zip")).unwrap())
}

/// Files as an archive, which is written as an export writes it.
fn packed(files: &Files) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let run: Value = serde_json::from_slice(&files["run.json"]).unwrap();
    let top = format!("study-{}", &run["key"].as_str().unwrap()[..8]);
    for (name, content) in files {
        let options = SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .last_modified_time(zip::DateTime::DEFAULT)
            .system(zip::System::Unix)
            .unix_permissions(0o644);
        archive
            .start_file(format!("{top}/{name}"), options)
            .unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Makes the crate say of every file what it is by now, as one would who changed some.
fn reseal(files: &mut Files) {
    const CRATE: &str = "ro-crate-metadata.json";
    let mut all: Value = serde_json::from_slice(&files[CRATE]).unwrap();
    let graph = all["@graph"].as_array_mut().unwrap();
    graph.retain(|entity| {
        entity["sha256"].is_null() || files.contains_key(entity["@id"].as_str().unwrap())
    });
    let listed: Vec<String> = graph
        .iter()
        .filter_map(|entity| Some(entity["@id"].as_str()?.to_string()))
        .collect();
    let new = files
        .keys()
        .filter(|name| *name != CRATE && !listed.contains(name));
    graph.extend(new.map(|name| json!({ "@id": name, "@type": "File", "sha256": "" })));
    for entity in graph {
        let id = entity["@id"].as_str().unwrap().to_string();
        if let (Some(content), false) = (files.get(&id), entity["sha256"].is_null()) {
            let digest = Sha256::digest(content);
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            entity["sha256"] = json!(hex);
            entity["contentSize"] = json!(content.len().to_string());
        }
    }
    files.insert(CRATE.to_string(), serde_json::to_vec(&all).unwrap());
}

struct Checked {
    code: i32,
    json: Value,
    page: String,
}

impl Checked {
    fn outcome(&self, level: usize) -> &str {
        self.json["levels"][level]["outcome"].as_str().unwrap()
    }

    /// Where a level found something wrong.
    fn wrong(&self, level: usize) -> Vec<&str> {
        let problems = self.json["levels"][level]["problems"].as_array().unwrap();
        let places = problems.iter();
        places.map(|p| p["place"].as_str().unwrap()).collect()
    }
}

/// Checks files, in a folder of their own with nothing else in it.
fn check(files: &Files, arguments: &[&str]) -> Checked {
    check_bytes(&packed(files), arguments)
}

fn check_bytes(bytes: &[u8], arguments: &[&str]) -> Checked {
    let elsewhere = Workbench::new(&[]);
    elsewhere.write("sent.zip", bytes);
    let mut all = vec!["verify", "sent.zip", "--format", "json", "-o", "found"];
    all.extend(arguments);
    let said = elsewhere.dial(&all);
    let json: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    let read = |name: &str| std::fs::read_to_string(elsewhere.path(name)).unwrap();
    let written: Value = serde_json::from_str(&read("found/verify.json")).unwrap();
    assert_eq!(written, json);
    Checked {
        code: said.code,
        json,
        page: read("found/verify.html"),
    }
}

/// The option that names the model.
fn model(bench: &Workbench) -> String {
    format!("inst={}", bench.path("models/inst").display())
}

const NOTHING: &[&str] = &["--sample", "0"];

#[test]
fn a_file_as_it_was_exported_agrees_on_every_level_with_any_number_of_threads() {
    let (bench, files) = shared();
    let model = model(bench);
    let found = check(files, &["--full", "--model", &model, "--threads", "1"]);
    assert_eq!(found.code, 0, "{}", found.json);
    let recomputed = &found.json["recomputed"];
    assert_eq!(recomputed["compared"], recomputed["stored"]);
    assert_eq!(recomputed["at_most"], 0);
    assert_eq!(recomputed["donors"], recomputed["donors_same"]);
    assert!(recomputed["donors"].as_u64().unwrap() > 0);
    let stages = recomputed["strata"].as_array().unwrap().iter();
    let stages: Vec<&str> = stages.map(|s| s["stage"].as_str().unwrap()).collect();
    let expected = ["score", "patch", "direction", "steer", "random", "generate"];
    assert_eq!(stages, expected);
    // Text of the study is text on the page.
    assert!(found.page.contains("&lt;b&gt;Is") && !found.page.contains("<b>Is"));
    assert!(!found.page.contains("<script") && !found.page.contains("<img"));
}

/// The whole screen, but for what differs from machine to machine.
#[test]
fn the_screen_reads_well() {
    let (bench, files) = shared();
    bench.write("sent.zip", packed(files));
    let model = model(bench);
    let said = bench.dial(&[
        "verify", "sent.zip", "--sample", "60", "--seed", "5", "--model", &model, "-o", "found",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let bytes = Regex::new(r"\d+ bytes").unwrap();
    let screen = bytes.replace(&said.stdout, "N bytes");
    assert_snapshot!(screen, @r#"
    1. intact: agrees
       shows that the file is whole: each file in it has the size and the sha256 that it says, nothing is missing, nothing leads out of it
       and not who wrote it, or that it is true: whoever changes a file can change what is said of it, too
       checked: 100 files, N bytes: sizes and sha256 are those of `ro-crate-metadata.json`

    2. follows: agrees
       shows that every table, direction, statistic, figure and finding follows from the values stored in the file, the prompts and the study in it
       and not that the models gave these values; when and on what machine it was run is what the file says
       checked: 7 stages, 20 tables and 2 directions, each made again from stored values: compared bit by bit
       checked: prompt sets (1) and models (1), which are those that the stages' keys are made of
       checked: what `run.json` says of stages, models, prompts and findings
       checked: what `study.lock` says of models, prompts, files and versions
       checked: 35 figures, pages and texts, each drawn again: compared bit by bit

    3. recomputed: agrees
       shows that a random draw of the stored values, which nobody could foresee, is what the model named here gives on this machine
       and not anything of what is concluded from the values, or that the model is the one its name promises beyond its weights' hashes
       checked: 60 of 336 stored values, drawn by seed 5

    stage      model  stored  drawn  same bits  median  99 %  largest  texts apart  tolerance  differ  95 %: fewer than
    score      inst       18      3          3       0     0        0                       0       0  62 %
    patch      inst        6      2          2       0     0        0                       0       0  84 %
    direction  inst       12      2          2       0     0        0                       0       0  75 %
    steer      inst       72     11         11       0     0        0                       0       0  23 %
    random     inst      216     40         40       0     0        0                       0       0  7.0 %
    generate   inst       12      2          2       0     0        0                       0       0  75 %
    and 3 at layers that have no drawn value, not counted: 3 the same to the bit, 0 differ
    and 3 activations that are put into other runs: 3 have the hash that the file says

    what the run itself found:
       summary: model `inst`, layer 1: not tested: effect, specific, selective, valid, stable
       summary: model `inst`, layer 2: not tested: effect, specific, selective, valid, stable
       summary: model `inst`: at α = 0 the score refuses 100.0 % of `harmful` (6 of 6), so that its rate can hardly rise
       summary: model `inst`, layer 1: the sweeps have different α; learned and random directions are compared on the 2 they share
       summary: model `inst`, layer 2: the sweeps have different α; learned and random directions are compared on the 2 they share

    Intact: every file is what the list in it says.
    Follows: every table, direction, figure and finding was made again from the stored values, and is the same.
    Recomputed: of 336 stored values 60 were drawn at random (seed 5) and computed again; all are the same to the bit. With 95 % confidence fewer than 5.7 % of the stored values differ by more than the tolerance.
    This speaks of the stored values and of what follows from them, not of what is concluded from them; how far they carry a conclusion, the run's own findings say.
    The same draw again: dial verify sent.zip --sample 60 --seed 5 --model inst=models/inst
    "#);
}

#[test]
fn a_draw_is_repeated_by_its_seed_and_another_is_fresh() {
    let (bench, files) = shared();
    let model = model(bench);
    let drawn = |more: &[&str]| {
        let mut all = vec!["--sample", "40", "--model", &model];
        all.extend(more);
        let found = check(files, &all);
        assert_eq!(found.code, 0, "{}", found.json);
        found.json["recomputed"].clone()
    };
    let (one, other) = (drawn(&[]), drawn(&[]));
    assert_ne!(one["seed"], other["seed"]);
    let again = drawn(&["--seed", &one["seed"].to_string()]);
    assert_eq!(again, one);
    // A bound of a draw is neither nothing nor all.
    let (at_most, stored) = (one["at_most"].as_u64(), one["stored"].as_u64());
    assert!(at_most > Some(0) && at_most < stored, "{one}");
    let compared = one["compared"].as_u64().unwrap();
    assert!((40..60).contains(&compared), "{one}");
}

#[test]
fn without_the_model_two_levels_are_checked_and_it_says_so() {
    let (_, files) = shared();
    let found = check(files, &[]);
    assert_eq!(found.code, 9, "{}", found.json);
    assert_eq!(
        [0, 1, 2].map(|level| found.outcome(level).to_string()),
        ["agrees", "agrees", "unchecked"]
    );
    assert_eq!(check(files, NOTHING).code, 0);
    // Another model is not the study's.
    let (bench, _) = shared();
    let base = format!("inst={}", bench.path("models/base").display());
    let found = check(files, &["--model", &base]);
    assert_eq!(found.code, 9, "{}", found.json);
    let why = found.json["levels"][2]["unchecked"][0]["what"].to_string();
    assert!(why.contains("is another model"), "{why}");
}

/// Changes files, makes the crate agree, and checks the first two levels; the second must tell, at this place.
#[track_caller]
fn told_by_the_second(change: impl FnOnce(&mut Files), place: &str) {
    let mut files = shared().1.clone();
    change(&mut files);
    assert_ne!(&files, &shared().1, "nothing was changed");
    reseal(&mut files);
    let found = check(&files, NOTHING);
    assert_eq!(found.code, 8, "{}", found.json);
    assert_eq!(found.wrong(0), Vec::<&str>::new());
    assert!(
        found.wrong(1).contains(&place),
        "{}",
        found.json["levels"][1]
    );
}

fn replace(files: &mut Files, name: &str, from: &str, to: &str) {
    let text = String::from_utf8(files[name].clone()).unwrap();
    assert!(text.contains(from), "no {from} in {name}: {text}");
    files.insert(name.to_string(), text.replacen(from, to, 1).into_bytes());
}

/// Another digit in the last number of a table.
fn change_a_digit(files: &mut Files, name: &str) {
    let table = files.get_mut(name).unwrap();
    let digit = table.iter().rposition(u8::is_ascii_digit).unwrap();
    table[digit] = if table[digit] == b'1' { b'2' } else { b'1' };
}

#[test]
fn a_changed_file_is_told_by_its_hash() {
    let (_, files) = shared();
    let mut changed = files.clone();
    change_a_digit(&mut changed, "tables/steer.csv");
    let found = check(&changed, NOTHING);
    assert_eq!((found.code, found.wrong(0)), (8, vec!["tables/steer.csv"]));
    let mut fewer = files.clone();
    fewer.remove("figures/steer.score.svg");
    fewer.insert("tables/more.csv".to_string(), b"a\n1\n".to_vec());
    let found = check(&fewer, NOTHING);
    let wrong = ["tables/more.csv", "figures/steer.score.svg"];
    assert_eq!((found.code, found.wrong(0)), (8, wrong.to_vec()));
}

#[test]
fn a_digit_in_a_table_is_told() {
    told_by_the_second(
        |files| change_a_digit(files, "tables/summary.csv"),
        "tables/summary.csv",
    );
}

#[test]
fn a_swapped_direction_is_told() {
    told_by_the_second(
        |files| {
            let names: Vec<String> = files
                .keys()
                .filter(|name| name.starts_with("directions/") && name.ends_with(".safetensors"))
                .cloned()
                .collect();
            let (one, other) = (files[&names[0]].clone(), files[&names[1]].clone());
            files.insert(names[0].clone(), other);
            files.insert(names[1].clone(), one);
        },
        shared()
            .1
            .keys()
            .find(|name| name.ends_with(".safetensors"))
            .unwrap(),
    );
}

#[test]
fn a_swapped_fingerprint_is_told() {
    let fingerprint = |files: &Files| {
        let model: Value = serde_json::from_slice(&files["models/inst/model.json"]).unwrap();
        model["fingerprint"].as_str().unwrap().to_string()
    };
    let known = fingerprint(&shared().1);
    let other = format!("{}{}", &known[32..], &known[..32]);
    told_by_the_second(
        |files| replace(files, "models/inst/model.json", &known, &other),
        "study.toml",
    );
    told_by_the_second(
        |files| replace(files, "run.json", &known, &other),
        "run.json",
    );
}

#[test]
fn a_dropped_stage_is_told() {
    let drop_files = |files: &mut Files| {
        files.retain(|name, _| {
            let (folder, file) = name.split_once('/').unwrap_or(("", name));
            !(["tables", "records", "cells"].contains(&folder) && file.starts_with("random"))
        });
    };
    told_by_the_second(drop_files, "records/random.json");
    told_by_the_second(
        |files| {
            let text = String::from_utf8(files["study.toml"].clone()).unwrap();
            let (before, rest) = text.split_once("\n[stages.random]").unwrap();
            let rest = rest.split_once("\n[").map_or("", |(_, rest)| rest);
            let text = format!("{before}\n[{rest}").replace("random = \"random\"\n", "");
            files.insert("study.toml".to_string(), text.into_bytes());
            drop_files(files);
        },
        "run.json",
    );
}

#[test]
fn an_edited_prompt_is_told() {
    told_by_the_second(
        |files| {
            replace(
                files,
                "prompts/main.jsonl",
                "\"prompt\":\"",
                "\"prompt\":\"So ",
            )
        },
        "records/score.json",
    );
}

#[test]
fn an_edited_lock_or_manifest_or_report_is_told() {
    told_by_the_second(
        |files| {
            let lock: toml::Table =
                toml::from_str(std::str::from_utf8(&files["study.lock"]).unwrap()).unwrap();
            let hash = lock["models"]["inst"]["tokenizer"].as_str().unwrap();
            let other = format!("{}{}", &hash[32..], &hash[..32]);
            replace(files, "study.lock", hash, &other);
        },
        "study.lock",
    );
    told_by_the_second(
        |files| replace(files, "report.html", "</h1>", "!</h1>"),
        "report.html",
    );
    told_by_the_second(
        |files| {
            let mut run: Value = serde_json::from_slice(&files["run.json"]).unwrap();
            let stages = run["stages"].as_array_mut().unwrap();
            let summary = stages.iter_mut().find(|stage| stage["name"] == "summary");
            summary.unwrap()["findings"] = json!(["model `inst`: all is well"]);
            files.insert(
                "run.json".to_string(),
                serde_json::to_vec_pretty(&run).unwrap(),
            );
        },
        "run.json",
    );
    told_by_the_second(
        |files| replace(files, "README.md", "What to type", "What to think"),
        "README.md",
    );
}

/// Whoever goes on from the file would take such a value for computed.
#[test]
fn a_value_that_no_stage_asks_for_is_told() {
    told_by_the_second(
        |files| {
            let elsewhere = Workbench::new(&[]);
            elsewhere.write("sent/v1/packs/00/sent.pack", &files["cells/steer.pack"]);
            let mut pack = packs(&elsewhere.path("sent")).remove(0);
            let planted = pack.cells[0].1.clone();
            pack.cells.push(([0xff; 32], planted));
            let written = Pack::write(&elsewhere.path("more"), &pack.provenance, &pack.cells);
            let bytes = std::fs::read(written.path).unwrap();
            files.insert("cells/steer.pack".to_string(), bytes);
        },
        "cells",
    );
}

/// A hash may stand for an activation only where nothing comes of its values.
#[test]
fn hashes_of_activations_that_a_direction_is_made_of_are_told() {
    told_by_the_second(
        |files| {
            let elsewhere = Workbench::new(&[]);
            let pack = files.remove("cells/direction.pack").unwrap();
            elsewhere.write("sent/v1/packs/00/sent.pack", pack);
            let cells = packs(&elsewhere.path("sent")).remove(0).cells.into_iter();
            let hashes = cells.flat_map(|(key, value)| {
                // Behind the tag of an activation.
                [key, *blake3::hash(&value[1..]).as_bytes()]
            });
            let bytes = hashes.flatten().collect();
            files.insert("hashes/direction.bin".to_string(), bytes);
        },
        "hashes/direction.bin",
    );
}

#[test]
fn what_no_run_leaves_is_told() {
    told_by_the_second(
        |files| {
            let mut run: Value = serde_json::from_slice(&files["run.json"]).unwrap();
            run["files"]["as-given/REVIEW.html"] = Value::Null;
            files.insert(
                "run.json".to_string(),
                serde_json::to_vec_pretty(&run).unwrap(),
            );
            files.insert("as-given/REVIEW.html".to_string(), b"<p>good</p>".to_vec());
        },
        "as-given/REVIEW.html",
    );
    told_by_the_second(
        |files| {
            let mut run: Value = serde_json::from_slice(&files["run.json"]).unwrap();
            let stages = run["stages"].as_array_mut().unwrap();
            stages.push(json!({ "name": "more", "findings": ["all is well\nIntact: really"] }));
            files.insert(
                "run.json".to_string(),
                serde_json::to_vec_pretty(&run).unwrap(),
            );
        },
        "run.json",
    );
    told_by_the_second(
        |files| {
            replace(
                files,
                "records/steer.json",
                "\"seconds\":0.0",
                "\"seconds\":1.0",
            )
        },
        "records/steer.json",
    );
}

/// Another processor would widen what a value may differ by.
#[test]
fn another_machine_in_the_lock_than_in_the_run_is_told() {
    told_by_the_second(
        |files| replace(files, "study.lock", "libtorch = \"", "libtorch = \"0."),
        "study.lock",
    );
}

/// Whoever changes a score and makes everything anew from it has a file that agrees with itself: a model tells.
#[test]
fn a_changed_score_with_everything_made_anew_is_told_by_the_model() {
    let bench = Workbench::new(&main_set(12, 6));
    bench.run(STUDY).ok();
    for pack in packs(&bench.path("cache")) {
        let mut cells = pack.cells;
        if pack.provenance["stage"] == "score" {
            let value = &mut cells[3].1;
            let score = f64::from_le_bytes(value[1..].try_into().unwrap());
            value[1..].copy_from_slice(&(score + 0.5).to_le_bytes());
        }
        Pack::write(&bench.path("forged"), &pack.provenance, &cells);
    }
    let run = bench.run_with(STUDY, &["--cache", "forged"]).ok();
    assert_eq!(run.computed("score"), 0);
    let files = exported(&bench, "runs/study/latest");
    assert_ne!(files["tables/score.csv"], shared().1["tables/score.csv"]);
    let model = model(&bench);
    let found = check(&files, &["--full", "--model", &model]);
    assert_eq!(found.code, 8, "{}", found.json);
    assert_eq!([found.outcome(0), found.outcome(1)], ["agrees", "agrees"]);
    assert_eq!(found.wrong(2), ["stage `score`, model `inst`"]);
    assert_eq!(found.json["recomputed"]["differing"], 1);
}

#[test]
fn what_is_no_such_file_is_not_intact_and_what_is_not_there_is_an_error() {
    let (_, files) = shared();
    let bytes = packed(files);
    let found = check_bytes(&bytes[..bytes.len() / 2], NOTHING);
    assert_eq!((found.code, found.outcome(0)), (8, "disagrees"));
    assert_eq!(
        [found.outcome(1), found.outcome(2)],
        ["unchecked", "unchecked"]
    );
    let said = Workbench::new(&[]).dial(&["verify", "nowhere.zip"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stderr.contains("`nowhere.zip` is not checked"),
        "{said:?}"
    );
}

/// Prompts that are not in the file: without them the first level alone, with them all that does not rest on their values.
#[test]
fn without_prompts_it_says_what_cannot_be_checked() {
    let (bench, _) = shared();
    let said = bench.dial(&[
        "export",
        "runs/study/latest",
        "--without-prompts",
        "-o",
        "without.zip",
    ]);
    assert_eq!(said.code, 0, "{said:?}");
    let bytes = std::fs::read(bench.path("without.zip")).unwrap();
    let found = check_bytes(&bytes, NOTHING);
    assert_eq!(
        (found.code, found.outcome(0)),
        (9, "agrees"),
        "{}",
        found.json
    );
    let why = found.json["levels"][1]["unchecked"].to_string();
    assert!(why.contains("--prompts main=PATH"), "{why}");
    let prompts = format!("main={}", bench.path("main.jsonl").display());
    let found = check_bytes(&bytes, &["--sample", "0", "--prompts", &prompts]);
    assert_eq!((found.code, found.wrong(1)), (9, vec![]), "{}", found.json);
}
