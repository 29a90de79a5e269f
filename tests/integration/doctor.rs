//! `dial doctor`: what it says of a sound machine, and of each thing that can be broken.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use insta::assert_snapshot;
use regex::Regex;
use serde_json::Value;

use crate::hold::{self, Place};
use crate::prompts::main_set;
use crate::screens::STUDY;
use crate::workbench::{Said, Workbench, files_below, long_study};

/// A hub that answers whatever it is asked with these headers.
struct Hub {
    endpoint: String,
    asked: Arc<AtomicUsize>,
}

impl Hub {
    fn answering(head: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        // The thread ends with the test process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let mut request = [0; 4096];
                let _ = stream.read(&mut request);
                let answer =
                    format!("HTTP/1.1 {head}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]");
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { endpoint, asked }
    }

    fn sound() -> Self {
        Self::answering("200 OK\r\ncontent-type: application/json")
    }
}

fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(12, 8));
    bench.write("study.toml", STUDY);
    bench
}

/// `dial doctor` with a hub and its folder.
fn command(bench: &Workbench, endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = bench.command(&[&["doctor"], arguments].concat());
    command
        .env("HF_ENDPOINT", endpoint)
        .env("HF_HUB_CACHE", bench.path("hub"))
        .env("HF_HOME", bench.path("home"));
    for name in [
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "TRANSFORMERS_OFFLINE",
        "http_proxy",
        "HTTP_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ] {
        command.env_remove(name);
    }
    command
}

fn said(bench: &Workbench, mut command: Command) -> Said {
    Said::of(command.output().unwrap(), &bench.path(""))
}

/// With a sound hub.
fn doctor(bench: &Workbench, arguments: &[&str]) -> Said {
    said(bench, command(bench, &Hub::sound().endpoint, arguments))
}

/// The line of one check, and what it says to do.
#[track_caller]
fn line<'s>(said: &'s Said, name: &str) -> &'s str {
    let at = Regex::new(&format!(r"(?m)^\w+ +{name}  .*\n( +to do: .*\n)?")).unwrap();
    let found = at.find(&said.stdout);
    found
        .unwrap_or_else(|| panic!("no `{name}`: {said:?}"))
        .as_str()
}

/// Without what differs between machines and moments.
fn redacted(text: &str) -> String {
    let mut text = text.to_string();
    for (pattern, name) in [
        (r"`[^`]*libtorch_cpu.so`", "`[path]/libtorch_cpu.so`"),
        (r"(CPU only|with CUDA)", "[parts]"),
        (
            r"(?m)^\w+ +devices .*(\n +to do: .*)?",
            "ok       devices     [devices]",
        ),
        (
            r"(?m)^\w+ +memory .*(\n +to do: .*)?",
            "ok       memory      [memory]",
        ),
        (
            r"\d+ unless (.*); \d+ processors",
            "[n] unless $1; [n] processors",
        ),
        (r"\d+ files", "[n] files"),
        (r"\d+\.\d+ [kKMGT]i?B", "[size]"),
        (r"127\.0\.0\.1:\d+", "127.0.0.1:[port]"),
    ] {
        let pattern = Regex::new(pattern).unwrap();
        text = pattern.replace_all(&text, name).into_owned();
    }
    text
}

#[test]
fn a_sound_machine_before_and_after_a_run() {
    let bench = bench();
    let before = doctor(&bench, &[]);
    assert_eq!((before.code, before.stderr.as_str()), (0, ""), "{before:?}");
    assert_snapshot!(redacted(&before.stdout), @"
    ok       libtorch    2.11.0, [parts], `[path]/libtorch_cpu.so`
    ok       devices     [devices]
    ok       threads     [n] unless `--threads` says otherwise (physical cores; [n] processors)
    ok       memory      [memory]
    ok       hub folder  `hub` is not there yet and can be made, [size] are free on its disk
    ok       hub         `http://127.0.0.1:[port]` answers
    ok       runs        `runs` is not there yet and can be made, [size] are free on its disk
    ok       cache disk  `cache` is not there yet and can be made, [size] are free on its disk
    ok       cache       there is none yet; the first run makes it
    ");
    assert!(!bench.path("cache").exists() && !bench.path("runs").exists());
    assert!(!bench.path("hub").exists() && !bench.path("home").exists());
    bench.run(STUDY).ok();
    let files = files_below(&bench.path("cache"));
    let after = doctor(&bench, &[]);
    assert_eq!(after.code, 0, "{after:?}");
    assert_snapshot!(redacted(line(&after, "cache")), @"ok       cache       [n] files, [size], of which records and headers were read");
    assert_snapshot!(redacted(line(&after, "cache disk")), @"ok       cache disk  `cache` can be written, [size] are free on its disk");
    assert_eq!(
        files_below(&bench.path("cache")),
        files,
        "it changes nothing"
    );
}

#[test]
fn a_program_gets_one_object() {
    let bench = bench();
    bench.write("taken", "");
    let said = doctor(&bench, &["--format", "json", "--runs", "taken"]);
    assert_eq!(said.code, 6, "{said:?}");
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json["problems"], 1);
    let checks = json["checks"].as_array().unwrap();
    let names: Vec<&str> = checks
        .iter()
        .map(|check| check["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "libtorch",
            "devices",
            "threads",
            "memory",
            "hub folder",
            "hub",
            "runs",
            "cache disk",
            "cache"
        ]
    );
    assert_eq!(checks[0]["state"], "ok");
    assert_eq!(checks[6]["state"], "problem");
}

#[test]
fn a_cache_that_no_run_could_use_is_a_problem() {
    let bench = bench();
    bench.write("taken", "");
    let file = doctor(&bench, &["--cache", "taken"]);
    assert_eq!(file.code, 6, "{file:?}");
    assert_snapshot!(line(&file, "cache disk"), @"
    problem  cache disk  `taken` cannot be written: not a directory
                         to do: check its owner, its mode and its file system, or choose another folder with `--cache`
    ");
    assert_snapshot!(line(&file, "cache"), @"problem  cache       cannot read `taken/VERSION`: a file stands where a folder is needed; choose another folder (`--cache`, `--runs`)");
    assert_snapshot!(file.stderr, @"error: 2 problems, which a run would fail on");
    bench.write("future/VERSION", "2\n");
    let future = doctor(&bench, &["--cache", "future"]);
    assert_eq!(future.code, 6, "{future:?}");
    assert_snapshot!(line(&future, "cache"), @"problem  cache       `future/VERSION` says version `2`, expected `1`: it was written by a newer `dial`; use that one, or choose another folder with `--cache`");
    // A folder where a file should be, as a bad copy leaves it.
    std::fs::create_dir_all(bench.path("odd/VERSION")).unwrap();
    bench.write("odd/v1/README", "");
    let odd = doctor(&bench, &["--cache", "odd"]);
    assert_eq!(odd.code, 6, "{odd:?}");
    assert!(line(&odd, "cache").starts_with("problem"), "{odd:?}");
}

/// File systems in a mount namespace of their own, as in `faults.rs`.
#[test]
fn a_disk_that_is_full_or_read_only_is_a_problem_and_the_rest_is_told_all_the_same() {
    let bench = bench();
    bench.run(STUDY).ok();
    let full = "mount -t tmpfs -o size=64k tmpfs cache && { cat /dev/zero > cache/filled 2> /dev/null || true; }";
    let read_only = "mount --bind cache cache && mount -o remount,ro,bind cache";
    for (mount, why) in [
        (full, "no storage space"),
        (read_only, "read-only filesystem or storage medium"),
    ] {
        let script = format!("{{ {mount}; }} || exit 99\nexec \"$0\" doctor");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
            .arg(env!("CARGO_BIN_EXE_dial"))
            .current_dir(bench.path(""))
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HUB_CACHE", bench.path("hub"));
        let said = said(&bench, unshare);
        assert_ne!(said.code, 99, "no file system can be mounted: {said:?}");
        assert_eq!(said.code, 6, "{said:?}");
        let disk = line(&said, "cache disk");
        assert!(
            disk.starts_with("problem") && disk.contains(why),
            "{said:?}"
        );
        assert!(line(&said, "cache").starts_with("ok"), "{said:?}");
        assert!(line(&said, "runs").starts_with("ok"), "{said:?}");
    }
}

#[test]
fn a_hub_that_gives_nothing_is_a_warning_and_one_that_never_can_a_problem() {
    let bench = bench();
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let asked = |endpoint: &str| said(&bench, command(&bench, endpoint, &[]));
    let silent = asked(&format!("http://{closed}"));
    assert_eq!(silent.code, 0, "{silent:?}");
    assert!(line(&silent, "hub").starts_with("warning"), "{silent:?}");
    assert!(
        line(&silent, "hub").contains("to do: check the network"),
        "{silent:?}"
    );
    for (head, expected) in [
        ("401 Unauthorized", "answers `401 Unauthorized`"),
        (
            "503 Service Unavailable",
            "the server answered `503 Service Unavailable`",
        ),
        (
            "200 OK\r\ncontent-type: text/html",
            "a page for a browser answers in its place",
        ),
    ] {
        let hub = Hub::answering(head);
        let said = asked(&hub.endpoint);
        assert_eq!(said.code, 0, "{said:?}");
        let line = line(&said, "hub");
        assert!(
            line.starts_with("warning") && line.contains(expected),
            "{line}"
        );
    }
    // A mirror that lists nothing.
    let mirror = asked(&Hub::answering("404 Not Found").endpoint);
    assert!(line(&mirror, "hub").starts_with("ok"), "{mirror:?}");
    let wrong = asked("hub.test/no-scheme");
    assert_eq!(wrong.code, 6, "{wrong:?}");
    assert_snapshot!(line(&wrong, "hub"), @"
    problem  hub         `HF_ENDPOINT`: it is not an address that begins with `https://`
                         to do: correct the variable, or unset it; `dial` uses the same as Python's `huggingface_hub`
    ");
}

#[test]
fn a_folder_without_a_cache_is_said_to_have_none() {
    let bench = bench();
    bench.write("other/notes.txt", "somebody's");
    let said = doctor(&bench, &["--cache", "other"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_snapshot!(line(&said, "cache"), @"ok       cache       there is none in it yet; the first run begins it");
}

#[test]
fn a_hub_is_not_asked_offline() {
    let bench = bench();
    let hub = Hub::sound();
    let mut command = command(&bench, &hub.endpoint, &[]);
    command.env("HF_HUB_OFFLINE", "1");
    let offline = said(&bench, command);
    assert_eq!(offline.code, 0, "{offline:?}");
    assert_snapshot!(line(&offline, "hub"), @"ok       hub         it is not asked, because `HF_HUB_OFFLINE` is set; nothing is fetched");
    assert_eq!(hub.asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_hub_folder_that_cannot_be_written_is_a_warning() {
    let bench = bench();
    bench.write("hub", "a file");
    let said = doctor(&bench, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_snapshot!(line(&said, "hub folder"), @"
    warning  hub folder  `hub` cannot be written: not a directory
                         to do: check its owner, its mode and its file system, or choose another folder with `HF_HUB_CACHE`
    ");
}

#[test]
fn damage_and_what_a_kill_leaves_are_told_and_left_as_they_are() {
    let bench = Workbench::new(&main_set(30, 20));
    bench.write("study.toml", long_study(40));
    let command = bench.command(&["run", "study.toml", "--threads", "1"]);
    assert!(
        hold::start(&bench, command, Place::Packs(2))
            .surely()
            .kill()
    );
    let said = doctor(&bench, &[]);
    let cache = line(&said, "cache");
    assert!(cache.starts_with("ok"), "{said:?}");
    assert!(
        cache.contains("; 1 lease of killed runs, which the next run removes"),
        "{cache}"
    );
    let record = bench.stage_records().remove(0);
    let bytes = std::fs::read(&record).unwrap();
    std::fs::write(&record, &bytes[..bytes.len() - 3]).unwrap();
    bench.write("cache/v1/damaged/old", "x");
    let said = doctor(&bench, &[]);
    assert_eq!(said.code, 0, "{said:?}");
    let cache = line(&said, "cache");
    assert!(cache.starts_with("warning"), "{cache}");
    for part in [
        "1 damaged file (`cache/v1/stages/",
        "1 file in `damaged`",
        "to do: `dial cache verify`",
    ] {
        assert!(cache.contains(part), "{part}: {cache}");
    }
    assert!(record.exists());
}

/// A run at work is no trouble.
#[test]
fn a_run_at_work_is_told() {
    let bench = Workbench::new(&main_set(30, 20));
    bench.write("study.toml", long_study(40));
    let command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let running = hold::start(&bench, command, Place::Packs(1)).surely();
    let said = doctor(&bench, &[]);
    assert!(running.kill());
    let cache = line(&said, "cache");
    assert!(
        cache.starts_with("ok") && cache.contains("; 1 run at work"),
        "{said:?}"
    );
}
