//! `dial export`: one file of a run, the same bytes for the same run, in which nothing of the machine is left.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::hold::{self, Place};
use crate::prompts::main_set;
use crate::terminal::terminal;
use crate::workbench::{Said, Workbench, copy_folder, files_below};

/// One stage of nearly every kind, files in other folders, a path of the machine, a file that is extended and a value that is set.
const STUDY: &str = r#"
# Kept in ~/studies by its author, and in {HERE}/old.toml before.
extends = "shared/models.toml"
[study]
question = "Is it one?"
[prompts.main]
path = "{HERE}/main.jsonl"
[prompts.unused]
path = "xstest.csv"
[stages.score]
model = ["base", "inst"]
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
n = 2
layer = 2
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-3, 0]
[stages.generate]
model = "inst"
prompts = "main"
limit = 2
direction = "direction"
alpha = [0, 3]
max_new_tokens = 3
[stages.random]
model = "inst"
prompts = "main"
seed = "0..2"
layer = 2
alpha = [-3, 3]
[stages.told]
kind = "import"
as = "score"
file = "told/scores.csv"
"#;

const MODELS: &str = r#"
[models.inst]
source = "../models/inst"
[models.base]
source = "../models/base"
[models.unused]
source = "../models/nowhere"
"#;

const TOLD: &str = "id,split,category,model,score\na,edge,c,m,1.5\nb,edge,c,m,-0.5\n";

/// A workbench with a finished run.
fn finished() -> Workbench {
    let bench = Workbench::new(&main_set(8, 5));
    bench.write("shared/models.toml", MODELS);
    bench.write("told/scores.csv", TOLD);
    let here = bench.path("");
    let here = here.to_str().unwrap().trim_end_matches('/');
    let study = STUDY.replace("{HERE}", here);
    bench
        .run_with(&study, &["--set", "stages.steer.alpha=[-3, 0, 3]"])
        .ok();
    bench
}

/// The same for all tests that only read it, and its export.
fn shared() -> &'static (Workbench, Vec<u8>) {
    static SHARED: OnceLock<(Workbench, Vec<u8>)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let bench = finished();
        let bytes = exported(&bench, &["runs/study/latest"]);
        (bench, bytes)
    })
}

#[track_caller]
fn ok(said: &Said) {
    assert_eq!(said.code, 0, "{said:?}");
}

/// The bytes of an export with these arguments.
#[track_caller]
fn exported(bench: &Workbench, arguments: &[&str]) -> Vec<u8> {
    let mut all = vec!["export", "-o", "out/run.zip", "--format", "json"];
    all.extend(arguments);
    let said = bench.dial(&all);
    ok(&said);
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    let bytes = std::fs::read(bench.path("out/run.zip")).unwrap();
    assert_eq!(json["bytes"], bytes.len());
    assert_eq!(files_below(&bench.path("out")).len(), 1);
    std::fs::remove_dir_all(bench.path("out")).unwrap();
    bytes
}

/// The files of an archive by their place in its one folder, in the order of the archive.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    let count = archive.len();
    let read = |number| {
        let mut entry = archive.by_index(number).unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let (top, name) = entry.name().split_once('/').unwrap();
        assert!(top.starts_with("study-") && top.len() == 14, "{top}");
        (name.to_string(), content)
    };
    (0..count).map(read).collect()
}

pub fn by_name(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    entries(bytes).into_iter().collect()
}

#[test]
fn two_exports_are_the_same_bytes_and_their_names_are_sorted() {
    let (bench, bytes) = shared();
    assert!(exported(bench, &["runs/study/latest"]) == *bytes);
    let names: Vec<String> = entries(bytes).into_iter().map(|(name, _)| name).collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn it_holds_the_run() {
    let (bench, bytes) = shared();
    let files = by_name(bytes);
    let latest = bench.path("runs/study/latest");
    for folder in ["tables", "directions"] {
        for path in files_below(&latest.join(folder)) {
            let name = format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap());
            assert!(files[&name] == std::fs::read(path).unwrap(), "{name}");
        }
    }
    for name in [
        "README.md",
        "study.toml",
        "as-given/study.toml",
        "as-given/extends/models.toml",
        "study.lock",
        "run.json",
        "report.html",
        "figures/steer.score.svg",
        "prompts/main.jsonl",
        "prompts/unused.csv",
        "files/told/scores.csv",
        "cells/score.pack",
        "models/inst/model.json",
        "models/base/tokenizer.json",
        "cells/generate.pack",
        "records/told.json",
    ] {
        assert!(files.contains_key(name), "no {name} in {:?}", files.keys());
    }
    assert_eq!(
        files["prompts/main.jsonl"],
        std::fs::read(bench.path("main.jsonl")).unwrap()
    );
    // Activations that a direction is made of are values like any; of those that were put into other runs there are hashes. No model, no cells.
    assert!(files.contains_key("cells/direction.pack"));
    let folders = [
        "hashes/patch.bin",
        "hashes/direction.bin",
        "cells/told.pack",
    ];
    assert_eq!(
        folders.map(|name| files.contains_key(name)),
        [true, false, false]
    );
}

/// Every cell once, in the order of the keys; of an activation that is only put into other runs the hash.
#[test]
fn its_cells_are_those_of_the_cache() {
    let (bench, bytes) = shared();
    let cached = crate::workbench::packs(&bench.path("cache"));
    let cached = cached.into_iter().flat_map(|pack| pack.cells);
    let mut expected: BTreeMap<[u8; 32], Vec<u8>> = cached.collect();
    let all = expected.clone();
    let hashes = by_name(bytes)["hashes/patch.bin"].clone();
    assert!(!hashes.is_empty());
    for pair in hashes.chunks(64) {
        let key: [u8; 32] = pair[..32].try_into().unwrap();
        // Behind the tag of an activation.
        let value = &all[&key];
        assert_eq!(
            (value[0], blake3::hash(&value[1..]).as_bytes()),
            (2, &pair[32..].try_into().unwrap())
        );
        expected.remove(&key);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut found = BTreeMap::new();
    for (name, content) in entries(bytes) {
        if let Some(stage) = name.strip_prefix("cells/") {
            let path = folder.path().join("v1/packs").join(stage);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
    for pack in crate::workbench::packs(folder.path()) {
        assert_eq!(pack.provenance, serde_json::json!({}));
        assert!(pack.cells.is_sorted_by_key(|(key, _)| *key));
        for (key, value) in pack.cells {
            assert!(found.insert(key, value).is_none(), "a cell stands twice");
        }
    }
    // What another stage needs the values of, is there.
    found.retain(|key, value| expected.contains_key(key) || all[key] != *value);
    assert!(found == expected);
}

#[test]
fn no_path_of_the_machine_is_in_it() {
    let (bench, bytes) = shared();
    let here = bench.path("").canonicalize().unwrap();
    let home = std::env::home_dir().unwrap();
    let texts = [
        here.as_path(),
        &bench.path(""),
        &home,
        &std::env::temp_dir(),
        Path::new("~/studies"),
    ];
    for (name, content) in entries(bytes) {
        for path in texts {
            let text = path.to_str().unwrap().trim_end_matches('/');
            let below = format!("{text}/");
            let found = content
                .windows(below.len())
                .position(|part| part == below.as_bytes());
            let around = found.map(|at| {
                let end = content.len().min(at + 80);
                String::from_utf8_lossy(&content[at.saturating_sub(80)..end]).into_owned()
            });
            assert_eq!(around, None, "{name} names {below}");
        }
    }
    let given = String::from_utf8(by_name(bytes).remove("as-given/study.toml").unwrap()).unwrap();
    assert!(
        given.contains("# Kept in …/studies by its author, and in …/old.toml before."),
        "{given}"
    );
    assert!(given.contains("path = \"…/main.jsonl\""), "{given}");
}

#[test]
fn its_study_has_everything_applied_and_names_what_is_beside_it() {
    let (_, bytes) = shared();
    let files = by_name(bytes);
    let text = String::from_utf8(files["study.toml"].clone()).unwrap();
    let study: toml::Table = text.parse().unwrap();
    assert_eq!(study["study"]["name"].as_str(), Some("study"));
    assert_eq!(
        study["models"]["inst"]["source"].as_str(),
        Some("models/inst")
    );
    assert_eq!(
        study["prompts"]["main"]["path"].as_str(),
        Some("prompts/main.jsonl")
    );
    assert_eq!(study["import"]["folder"].as_str(), Some("files"));
    assert_eq!(
        study["stages"]["steer"]["alpha"].as_array().unwrap().len(),
        3
    );
    assert!(!study.contains_key("extends"));
    assert_eq!(study["models"].as_table().unwrap().len(), 2);
    assert_eq!(study["prompts"].as_table().unwrap().len(), 2);
}

#[test]
fn its_page_is_drawn_again_to_the_bit_in_its_folder() {
    let (bench, bytes) = shared();
    let folder = tempfile::tempdir().unwrap();
    let files = entries(bytes);
    for (name, content) in &files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name != "report.html" && !name.starts_with("figures/") {
            std::fs::write(path, content).unwrap();
        }
    }
    ok(&bench.dial(&["report", folder.path().to_str().unwrap()]));
    let drawn = files
        .iter()
        .filter(|(name, _)| name == "report.html" || name.starts_with("figures/"));
    let mut count = 0;
    for (name, content) in drawn {
        assert!(
            std::fs::read(folder.path().join(name)).unwrap() == *content,
            "{name}"
        );
        count += 1;
    }
    assert!(count > 5, "{count}");
}

#[test]
fn a_run_folder_that_has_been_moved_or_copied_is_exported_all_the_same() {
    let (bench, bytes) = shared();
    let latest = bench.path("runs/study/latest").canonicalize().unwrap();
    let moved = tempfile::tempdir().unwrap();
    copy_folder(&latest, &moved.path().join("elsewhere/run"));
    let run = moved.path().join("elsewhere/run");
    let again = exported(bench, &[run.to_str().unwrap()]);
    let different: Vec<String> = by_name(&again)
        .into_iter()
        .filter(|(name, content)| by_name(bytes)[name] != *content)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(different, Vec::<String>::new());
    assert!(again == *bytes);
}

#[test]
fn what_is_no_complete_run_is_refused_with_what_to_do() {
    let bench = finished();
    let refused = |run: &str| bench.dial(&["export", run, "-o", "run.zip"]);
    assert!(
        refused("nowhere")
            .message(2)
            .contains("is not a run's folder")
    );
    bench.dial(&["run", "study.toml", "--only", "score", "--threads", "1"]);
    let message = refused("runs/study/latest").message(2).to_string();
    assert!(
        message.contains("is a run of some stages only"),
        "{message}"
    );
    assert!(message.contains("`direction`"), "{message}");
    let latest = bench.path("runs/study/latest/run.json");
    let text = std::fs::read_to_string(&latest).unwrap();
    std::fs::write(&latest, text.replace("\"complete\"", "\"interrupted\"")).unwrap();
    let message = refused("runs/study/latest").message(2).to_string();
    assert!(
        message.contains("resume it as `dial status` says"),
        "{message}"
    );
    assert!(!bench.path("run.zip").exists());
}

#[test]
fn what_has_gone_or_changed_since_the_run_is_named() {
    let bench = finished();
    let run = bench.path("runs/study/latest").canonicalize().unwrap();
    let run = run.to_str().unwrap();
    let refused = || {
        bench
            .dial(&["export", run, "-o", "run.zip"])
            .message(1)
            .to_string()
    };
    let table = Path::new(run).join("tables/score.csv");
    let text = std::fs::read_to_string(&table).unwrap();
    std::fs::write(&table, text.replacen('1', "2", 1)).unwrap();
    let message = refused();
    assert!(
        message.contains("tables/score.csv` has been changed since the run ended"),
        "{message}"
    );
    std::fs::write(&table, &text).unwrap();
    std::fs::rename(bench.path("cache"), bench.path("kept")).unwrap();
    assert!(refused().contains("say where it is now with `--cache`"));
    assert!(!bench.path("cache").exists());
    ok(&bench.dial(&["export", run, "-o", "run.zip", "--cache", "kept"]));
    std::fs::remove_file(bench.path("run.zip")).unwrap();
    std::fs::rename(bench.path("kept"), bench.path("cache")).unwrap();
    // Prompts that are others make another study.
    let prompts = std::fs::read_to_string(bench.path("main.jsonl")).unwrap();
    bench.write("main.jsonl", prompts.replacen("kind-0", "kind-9", 1));
    let message = refused();
    assert!(
        message.contains("stage `score` is not any more what the run has"),
        "{message}"
    );
    bench.write("main.jsonl", &prompts);
    for pack in files_below(&bench.path("cache/v1/packs")) {
        std::fs::remove_file(pack).unwrap();
    }
    let message = refused();
    assert!(
        message.contains("a cell of stage `score` is gone"),
        "{message}"
    );
    assert!(
        message.contains("run the study again with `--force score`"),
        "{message}"
    );
    assert!(!bench.path("run.zip").exists());
}

#[test]
fn an_export_that_is_killed_leaves_nothing() {
    let (bench, _) = shared();
    std::fs::create_dir_all(bench.path("killed")).unwrap();
    let command = bench.command(&["export", "runs/study/latest", "-o", "killed/run.zip"]);
    // The archive is written, and about to get its name.
    let mut held = hold::start(bench, command, Place::Writes(1)).surely();
    held.child.kill().unwrap();
    held.child.wait().unwrap();
    assert_eq!(files_below(&bench.path("killed")), Vec::<PathBuf>::new());
}

#[test]
fn a_terminal_shows_how_far_it_is() {
    let (bench, _) = shared();
    let (mut ours, theirs) = terminal();
    let mut dial = bench
        .command(&["export", "runs/study/latest", "-o", "shown.zip"])
        .stderr(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    // A terminal whose other end is closed gives an error at the end.
    let _ = ours.read_to_end(&mut shown);
    assert!(dial.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    // Seven stages, and the drawing.
    assert!(shown.contains("0/8 score"), "{shown:?}");
    let said = bench.dial(&["export", "runs/study/latest", "-o", "shown.zip"]);
    assert!(!said.stderr.contains("score"), "{said:?}");
}

/// Unpacks an archive into a folder, and gives its one folder.
fn unpacked(bytes: &[u8], folder: &Path) -> PathBuf {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).unwrap();
    archive.extract(folder).unwrap();
    let top = archive.by_index(0).unwrap().name().to_string();
    folder.join(top.split('/').next().unwrap())
}

#[test]
fn its_crate_lists_every_file_with_size_and_hash() {
    let (_, bytes) = shared();
    let mut files = by_name(bytes);
    let listed = files.remove("ro-crate-metadata.json").unwrap();
    let listed: Value = serde_json::from_slice(&listed).unwrap();
    let graph = listed["@graph"].as_array().unwrap();
    let is_file = |entity: &&Value| {
        entity["@type"] == "File" || entity["@type"].as_array().is_some_and(|t| t[0] == "File")
    };
    let entities: Vec<&Value> = graph.iter().filter(is_file).collect();
    assert_eq!(entities.len(), files.len());
    for entity in entities {
        // Of these names none is written otherwise in an id.
        let content = &files[entity["@id"].as_str().unwrap()];
        assert_eq!(entity["contentSize"], content.len().to_string());
        let hash: String = Sha256::digest(content)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(entity["sha256"], hash);
    }
}

#[test]
fn what_a_study_declares_is_in_its_crate_and_the_rest_is_told() {
    let (bench, _) = shared();
    let with = |overrides: &[&str]| {
        let mut arguments = vec!["export", "runs/study/latest", "-o", "told.zip"];
        arguments.extend(overrides.iter().flat_map(|value| ["--set", value]));
        let said = bench.dial(&arguments);
        ok(&said);
        let files = by_name(&std::fs::read(bench.path("told.zip")).unwrap());
        let listed: Value = serde_json::from_slice(&files["ro-crate-metadata.json"]).unwrap();
        let entity = |id: &str| {
            let graph = listed["@graph"].as_array().unwrap();
            graph
                .iter()
                .find(|entity| entity["@id"] == id)
                .cloned()
                .unwrap_or_default()
        };
        (
            said.stderr,
            entity("./"),
            entity("prompts/main.jsonl"),
            entity("https://orcid.org/0"),
        )
    };
    let (told, root, ..) = with(&[]);
    assert!(
        told.contains("does not declare `title`, `description`, `authors`, `licence`"),
        "{told}"
    );
    assert!(
        told.contains("no `licence` is declared for `prompts.main`, `prompts.unused`, `models.base`, `models.inst`"),
        "{told}"
    );
    assert_eq!(
        (root["name"].as_str(), root["description"].as_str()),
        (Some("study"), Some("Is it one?"))
    );
    let (told, root, prompts, ada) = with(&[
        "study.title=A title",
        "study.description=About it",
        "study.authors=[\"Ada <https://orcid.org/0>\", \"Bo\"]",
        "study.licence=CC-BY-4.0",
        "prompts.main.licence=CC0-1.0",
        "prompts.unused.licence=CC0-1.0",
        "models.inst.licence=Apache-2.0",
        "models.base.licence=Apache-2.0",
    ]);
    assert!(!told.contains("note:"), "{told}");
    assert_eq!(
        (root["name"].as_str(), root["description"].as_str()),
        (Some("A title"), Some("About it"))
    );
    assert_eq!(
        root["license"]["@id"],
        "https://spdx.org/licenses/CC-BY-4.0"
    );
    assert_eq!(
        prompts["license"]["@id"],
        "https://spdx.org/licenses/CC0-1.0"
    );
    assert_eq!(ada["name"], "Ada");
}

/// A licence that is declared when the run is done goes into all that tells of the prompts, and the file agrees with itself.
#[test]
fn a_licence_is_in_the_manifest_the_page_and_the_readme() {
    let (bench, _) = shared();
    let licence = "CC-BY-NC-4.0";
    let set = format!("prompts.main.licence={licence}");
    ok(&bench.dial(&["export", "runs/study/latest", "-o", "nc.zip", "--set", &set]));
    let files = by_name(&std::fs::read(bench.path("nc.zip")).unwrap());
    let manifest: Value = serde_json::from_slice(&files["run.json"]).unwrap();
    assert_eq!(manifest["prompts"]["main"]["licence"], licence);
    assert_eq!(manifest["prompts"]["unused"]["licence"], Value::Null);
    let text = |name: &str| String::from_utf8_lossy(&files[name]).into_owned();
    let told = format!("prompt set `main`: licence {licence}, which allows no commercial use");
    assert!(text("README.md").contains(&told), "{}", text("README.md"));
    assert!(text("report.html").contains("allows no commercial use"));
    let said = bench.dial(&[
        "verify", "nc.zip", "--format", "json", "--sample", "0", "-o", "found",
    ]);
    let found: Value = serde_json::from_str(&said.stdout).unwrap();
    for level in &found["levels"].as_array().unwrap()[..2] {
        assert_eq!(level["problems"], serde_json::json!([]), "{found}");
    }
}

/// Without the author's prompts, files and models, on the cells that the author's cache has.
#[test]
fn its_study_is_cached_in_its_folder_and_goes_on_with_the_models() {
    let (bench, bytes) = shared();
    let other = bench.copy();
    let folder = unpacked(bytes, &other.path("got"));
    for model in ["inst", "base"] {
        let files = files_below(&folder.join("models").join(model));
        assert_eq!(files.len(), 3, "{files:?}");
    }
    let study = folder.join("study.toml");
    let study = study.to_str().unwrap();
    let said = other.dial(&["plan", study, "--format", "json"]);
    ok(&said);
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    let stages = plan["stages"].as_array().unwrap();
    assert_eq!(stages.len(), 7);
    assert!(
        stages.iter().all(|stage| stage["status"] == "cached"),
        "{plan}"
    );
    let more = ["--set", "stages.steer.alpha=[-3, 0, 1.5, 3]"];
    let run = ["run", study, "--threads", "1", "--format", "json"];
    let said = other.dial(&[&run[..], &more].concat());
    assert!(
        said.last_line(1).contains("without its weights"),
        "{said:?}"
    );
    let models = [
        "--set",
        "models.inst.source=models/inst",
        "--set",
        "models.base.source=models/base",
    ];
    let said = other.dial(&[&run[..], &more, &models].concat());
    ok(&said);
    let ran: Value = serde_json::from_str(&said.stdout).unwrap();
    for stage in ran["stages"].as_array().unwrap() {
        // 13 prompts at the one α that is new.
        let expected = if stage["name"] == "steer" { 13 } else { 0 };
        assert_eq!(stage["cells_computed"], expected, "{stage}");
    }
}

/// roc-validator, which `make test` does without.
mod validator {
    use super::*;

    #[test]
    fn the_crate_has_all_that_the_workflow_run_profile_requires() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let roc = here.join("third_party/validators/roc");
        assert!(
            roc.is_dir(),
            "`{}` is missing: run `scripts/setup.sh validators`",
            roc.display()
        );
        let (bench, bytes) = shared();
        let folder = tempfile::tempdir().unwrap();
        let validate = |folder: &Path| {
            let output = Command::new("python3")
                .args(["-B", "-S"])
                .arg(here.join("tests/integration/export/validate.py"))
                .arg(folder)
                .env("PYTHONPATH", &roc)
                .output()
                .expect("`python3` is needed for this test");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (
                output.status.code(),
                said + &String::from_utf8_lossy(&output.stderr),
            )
        };
        let unpacked = unpacked(bytes, folder.path());
        let (code, said) = validate(&unpacked);
        assert_eq!(code, Some(0), "{said}");
        let without = exported(bench, &["runs/study/latest", "--without-prompts"]);
        let (code, told) = validate(&super::unpacked(&without, &folder.path().join("without")));
        assert_eq!(code, Some(0), "{told}");
        let count = said.lines().find_map(|line| line.strip_suffix(" checks"));
        assert!(count.unwrap().parse::<u32>().unwrap() > 60, "{said}");
        // A file that is listed and gone is seen.
        std::fs::remove_file(unpacked.join("study.toml")).unwrap();
        assert_eq!(validate(&unpacked).0, Some(1));
    }
}
