//! `dial cache`: checking what is there, saying whose it is, deleting some of it.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use insta::assert_snapshot;

use crate::hold::{self, Place};
use crate::screens::{STUDY, bench, redacted};
use crate::workbench::{Said, Workbench, committed_cells, files_below};

/// Sizes of Parquet files and of hashes in JSON are not what these tests are about.
fn without_sizes(text: &str) -> String {
    let text = redacted(text);
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut shown: Vec<String> = Vec::new();
        for word in words {
            match (word.trim_end_matches([';', ':']), shown.last_mut()) {
                ("B" | "kB" | "MB", Some(number)) if number.parse::<f64>().is_ok() => {
                    *number =
                        "[size]".to_string() + &word[word.trim_end_matches([';', ':']).len()..];
                }
                _ => shown.push(word.to_string()),
            }
        }
        shown.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn cache(bench: &Workbench, arguments: &[&str]) -> Said {
    bench.dial(&[&["cache"], arguments].concat())
}

fn gc(bench: &Workbench, arguments: &[&str]) -> serde_json::Value {
    let said = cache(bench, &[&["gc", "--format", "json"], arguments].concat());
    assert_eq!(said.code, 0, "{said:?}");
    serde_json::from_str(&said.stdout).unwrap()
}

#[test]
fn a_sound_cache_is_said_to_be_sound() {
    let bench = bench();
    bench.run(STUDY).ok();
    let said = cache(&bench, &["verify"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_snapshot!(without_sizes(&said.stdout), @"65 files checked, [size]: all sound");
}

#[test]
fn damage_is_moved_aside_and_told() {
    let bench = bench();
    let first = bench.run(STUDY).ok();
    let expected = first.tables(&bench);
    let object = files_below(&bench.path("cache/v1/objects")).swap_remove(0);
    std::fs::remove_file(object).unwrap();
    let pack = files_below(&bench.path("cache/v1/packs")).swap_remove(0);
    let mut bytes = std::fs::read(&pack).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(&pack, bytes).unwrap();
    let said = cache(&bench, &["verify", "--format", "json"]);
    assert_eq!(said.code, 3, "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let reasons: Vec<&str> = json["damaged"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["reason"].as_str().unwrap())
        .collect();
    assert_eq!(
        reasons,
        [
            "its content does not match its name",
            "it names an artifact that is not in the cache"
        ]
    );
    assert_eq!(said.stderr.matches("is damaged").count(), 2, "{said:?}");
    assert_eq!(files_below(&bench.path("cache/v1/damaged")).len(), 2);
    // Now it is whole again, and the study makes anew what is gone.
    assert_eq!(cache(&bench, &["verify"]).code, 0);
    let run = bench.run(STUDY).ok();
    assert!(run.tables(&bench) == expected);
}

#[test]
fn what_the_cache_holds_and_for_whom() {
    let bench = bench();
    bench.run(STUDY).ok();
    bench.run_with(STUDY, &["--only", "score"]).ok();
    let said = cache(&bench, &["stats"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_snapshot!(without_sizes(&said.stdout), @r"
    kind stages cached outputs cells computed their size
    direction 1 [size] 12 [size]
    random 1 [size] 120 [size]
    score 1 [size] 20 [size]
    steer 1 [size] 40 [size]
    summary 1 [size] 0 [size]

    run refers to alone
    runs/study/[time]-[key] [size] [size]
    runs/study/[time]-[key] [size] [size]

    [size] in all, [size] of it used by no run (`dial cache gc --unreferenced`)
    [size] of it drawn for reports
    ");
    let json = cache(&bench, &["stats", "--format", "json"]).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let bytes = |file: &std::path::PathBuf| file.metadata().unwrap().len();
    let on_disk: u64 = ["objects", "packs", "stages", "weights", "tokenizers"]
        .iter()
        .flat_map(|kind| files_below(&bench.path(&format!("cache/v1/{kind}"))))
        .map(|file| bytes(&file))
        .sum();
    assert_eq!(json["bytes"], on_disk);
    assert_eq!(json["unreferenced_bytes"], 0);
    let cells: u64 = json["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind["cells"].as_u64().unwrap())
        .sum();
    assert_eq!(cells, committed_cells(&bench.path("cache")).len() as u64);
    assert_eq!(json["reports"]["reports"], 2);
    // The second run refers to nothing that the first does not.
    assert_eq!(json["runs"][1]["own_bytes"], 0);
    assert!(json["runs"][0]["bytes"].as_u64() > json["runs"][1]["bytes"].as_u64());
}

#[test]
fn what_no_run_refers_to_is_deleted() {
    let bench = bench();
    let kept = bench.run(STUDY).ok();
    let expected = kept.tables(&bench);
    assert_eq!(gc(&bench, &["--unreferenced"])["bytes"], 0);
    let other = bench
        .run_with(STUDY, &["--set", "stages.steer.alpha=[-3, 3]"])
        .ok();
    std::fs::remove_dir_all(other.file(&bench, "run.json").parent().unwrap()).unwrap();
    let cells = committed_cells(&bench.path("cache")).len();
    let would = gc(&bench, &["--unreferenced", "--dry-run"]);
    assert_eq!(committed_cells(&bench.path("cache")).len(), cells);
    let said = cache(&bench, &["gc", "--unreferenced"]);
    assert_snapshot!(without_sizes(&said.stdout), @"deleted [size]: 2 stage outputs, 1 reports, 27 artifacts and 1 packs of 40 cells; [size] are left");
    assert_eq!(would["cells"], 40);
    assert_eq!(committed_cells(&bench.path("cache")).len(), cells - 40);
    assert_eq!(cache(&bench, &["verify"]).code, 0);
    let again = bench.run(STUDY).ok();
    assert_eq!(again.all_computed(), []);
    assert_eq!(again.status("summary"), "cached");
    assert!(again.tables(&bench) == expected);
}

#[test]
fn down_to_a_size_and_by_age_and_everything_comes_out_the_same_again() {
    let bench = bench();
    let expected = bench.run(STUDY).ok().tables(&bench);
    assert_eq!(gc(&bench, &["--older-than", "1h"])["bytes"], 0);
    let all = gc(&bench, &["--keep-size", "1GB", "--dry-run"])["kept_bytes"]
        .as_u64()
        .unwrap();
    let half = (all / 2).to_string();
    let collected = gc(&bench, &["--keep-size", &half]);
    assert!(
        collected["kept_bytes"].as_u64().unwrap() <= all / 2,
        "{collected}"
    );
    assert_eq!(cache(&bench, &["verify"]).code, 0);
    assert!(bench.run(STUDY).ok().tables(&bench) == expected);
    let collected = gc(&bench, &["--older-than", "0d"]);
    assert_eq!(
        committed_cells(&bench.path("cache")).len(),
        0,
        "{collected}"
    );
    assert_eq!(files_below(&bench.path("cache/v1/objects")).len(), 0);
    assert!(bench.run(STUDY).ok().tables(&bench) == expected);
}

#[test]
fn nothing_is_deleted_while_a_run_is_alive() {
    let bench = bench();
    let long = STUDY.replacen("seed = \"0..3\"", "seed = \"0..2000\"", 1);
    assert_ne!(long, STUDY);
    bench.write("study.toml", long);
    let command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let running = hold::start(&bench, command, Place::Packs(1)).surely();
    let said = cache(&bench, &["gc", "--older-than", "0d"]);
    assert!(running.kill());
    let message = said.message(5);
    assert!(
        message.starts_with(
            "error: nothing was deleted, because a run is alive on the cache: `runs/study/"
        ),
        "{message}"
    );
    // The cells of the run that was killed are what resumes it; once its folder is gone nothing refers to them.
    assert_eq!(gc(&bench, &["--unreferenced"])["packs"], 0);
    std::fs::remove_dir_all(bench.path("runs/study")).unwrap();
    assert!(gc(&bench, &["--unreferenced"])["packs"].as_u64() > Some(0));
}

/// A C library that, loaded before all others, kills the process when it is about to delete from a cache for the n-th time.
const KILLED_DELETING: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
int unlink(const char *path) {
    static int left = -1;
    if (left < 0) left = atoi(getenv("KILLED_AT"));
    int is_of_cache = strstr(path, "/stages/") || strstr(path, "/objects/") || strstr(path, "/packs/");
    if (is_of_cache && --left == 0) raise(SIGKILL);
    return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
}
"#;

/// A C library that, loaded before all others, stops the process when it deletes from a cache for the second time.
const STOPPED_DELETING: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <string.h>
int unlink(const char *path) {
    static int calls = 0;
    int is_of_cache = strstr(path, "/stages/") || strstr(path, "/objects/") || strstr(path, "/packs/");
    if (is_of_cache && ++calls == 2) raise(SIGSTOP);
    return ((int (*)(const char *))dlsym(RTLD_NEXT, "unlink"))(path);
}
"#;

/// One that was suspended, and is waited for no more, does not go on behind the back of whoever runs now.
#[test]
fn a_collection_that_was_suspended_deletes_nothing_further() {
    let bench = bench();
    bench.run(STUDY).ok();
    let library = bench.library("stopped_deleting", STOPPED_DELETING);
    let mut command = bench.command(&["cache", "gc", "--older-than", "0d"]);
    command.env("LD_PRELOAD", &library);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let collecting = command.spawn().unwrap();
    let state = || {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", collecting.id())).unwrap();
        text.rsplit(')').next().unwrap().trim().chars().next()
    };
    while state() != Some('T') {
        std::thread::sleep(Duration::from_millis(20));
    }
    // The run waits until the lease is 10 s old, and makes anew what was deleted by then.
    let run = bench.run(STUDY).ok();
    let files = |kind: &str| files_below(&bench.path(&format!("cache/v1/{kind}"))).len();
    let there = || ["objects", "packs", "stages"].map(files);
    let before = there();
    let id = collecting.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-CONT", &id])
            .status()
            .unwrap()
            .success()
    );
    let said = Said::of(collecting.wait_with_output().unwrap(), &bench.path(""));
    assert!(
        said.last_line(1).starts_with("error: only 2 of "),
        "{said:?}"
    );
    // The call that it was stopped in went through.
    let after = there();
    assert!(
        before.iter().sum::<usize>() - after.iter().sum::<usize>() <= 1,
        "{before:?} {after:?}"
    );
    assert!(bench.run(STUDY).ok().tables(&bench) == run.tables(&bench));
}

#[test]
fn a_collection_that_is_killed_leaves_a_sound_cache() {
    let whole = bench();
    let expected = whole.run(STUDY).ok().tables(&whole);
    let would = gc(&whole, &["--older-than", "0d", "--dry-run"]);
    let count = |what: &str| would[what].as_u64().unwrap();
    let records = count("stages") + count("reports");
    let objects = count("objects");
    let deleted = records + objects + count("packs");
    let library = whole.library("killed_deleting", KILLED_DELETING);
    // With the first file, among the records, behind them, among the artifacts, behind them, and with the last.
    for killed_at in [
        1,
        records / 2,
        records + 1,
        records + objects / 2,
        records + objects + 1,
        deleted,
    ] {
        let bench = whole.copy();
        let mut command = bench.command(&["cache", "gc", "--older-than", "0d"]);
        command
            .env("LD_PRELOAD", &library)
            .env("KILLED_AT", killed_at.to_string());
        let output = command.output().unwrap();
        assert_eq!(
            output.status.signal(),
            Some(9),
            "{killed_at} of {deleted}: {output:?}"
        );
        let left = gc(&bench, &["--older-than", "0d", "--dry-run"]);
        let left =
            ["stages", "reports", "objects", "packs"].map(|what| left[what].as_u64().unwrap());
        assert_eq!(
            left.iter().sum::<u64>(),
            deleted - killed_at + 1,
            "{left:?}"
        );
        assert_eq!(
            cache(&bench, &["verify"]).code,
            0,
            "{killed_at} of {deleted}"
        );
        assert!(
            bench.run(STUDY).ok().tables(&bench) == expected,
            "{killed_at} of {deleted}"
        );
    }
}

/// What a run refers to is not known where its `run.json` cannot be read, or where there are no runs at all: then nothing is deleted.
#[test]
fn nothing_is_deleted_where_it_is_not_known_what_is_used() {
    let bench = bench();
    let run = bench.run(STUDY).ok();
    let manifest = run.file(&bench, "run.json");
    let text = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    let said = cache(&bench, &["gc", "--unreferenced"]);
    let message = said.message(1);
    assert!(
        message.starts_with("error: nothing was deleted: `runs/study/"),
        "{message}"
    );
    assert!(
        message.ends_with("; mend or remove its folder"),
        "{message}"
    );
    let said = cache(&bench, &["stats"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr
            .contains("what that run refers to is not counted"),
        "{said:?}"
    );
    assert!(!committed_cells(&bench.path("cache")).is_empty());
    let said = bench.dial(&["status"]);
    assert!(said.stdout.contains("unreadable"), "{said:?}");
    let why = "`: its `run.json` cannot be read: EOF while parsing";
    assert!(said.stdout.contains(why), "{said:?}");
    let said = cache(&bench, &["gc", "--unreferenced", "--runs", "rums"]);
    assert_snapshot!(said.message(2), @"error: there is no folder of runs `rums`, and so nothing that refers to the cache; name it with `--runs`");
}

#[test]
fn a_slip_is_refused() {
    let bench = bench();
    let said = cache(&bench, &["verify", "--cache", "cahce"]);
    assert_snapshot!(said.message(2), @"error: there is no cache in `cahce`; name its folder with `--cache`");
    assert!(!bench.path("cahce").exists());
    assert_eq!(cache(&bench, &["gc"]).code, 2);
    assert_eq!(cache(&bench, &["gc", "--older-than", "soon"]).code, 2);
}
