//! Faults that are really there: a full disk, a read-only file system, flipped bits, a cache of the future. Each is told in one line with
//! what to do, and nothing damaged is served. (Files that vanish or are cut short: `resume.rs`.)
//!
//! File systems are mounted in a mount namespace of their own, which needs root or user namespaces; where a machine allows neither, these
//! tests fail and say so.

use std::path::Path;
use std::process::Command;

use crate::prompts::main_set;
use crate::workbench::{Run, Said, Workbench, committed_cells, copy_folder, files_below};

const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 6
layer = [1, 3]
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, -1, 0, 1, 2]
"#;

fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(30, 20));
    bench.write("study.toml", STUDY);
    bench
}

/// Runs the study in a mount namespace of its own, after `mount` and before `afterwards` (shell commands).
fn mounted(bench: &Workbench, mount: &str, afterwards: &str) -> Said {
    let script = format!(
        "mkdir -p cache && {{ {mount}; }} || exit 99\n\"$0\" run study.toml --threads 1\ncode=$?\n{afterwards}\nexit $code"
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(env!("CARGO_BIN_EXE_dial"))
        .current_dir(bench.path(""))
        .env("NO_COLOR", "1")
        .env_remove("RUST_BACKTRACE")
        .output()
        .expect("`unshare` (util-linux) is needed to mount a file system for this test");
    let said = Said::of(output, &bench.path(""));
    assert_ne!(
        said.code, 99,
        "a file system cannot be mounted, as root or in a user namespace: {said:?}"
    );
    said
}

fn assert_moved_aside(bench: &Workbench, said: &Said, count: usize) {
    let damaged = files_below(&bench.path("cache/v1/damaged"));
    assert_eq!(damaged.len(), count, "{said:?}");
    let told: Vec<&str> = said
        .stderr
        .lines()
        .filter(|line| line.contains("is damaged"))
        .collect();
    assert_eq!(told.len(), count, "{said:?}");
    for line in told {
        assert!(line.contains("moved to `cache/v1/damaged/"), "{line}");
        assert!(line.contains("is computed again"), "{line}");
    }
}

/// In place.
fn flip_a_bit(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = at % bytes.len();
    bytes[place] ^= 1 << (at % 8);
    std::fs::write(path, bytes).unwrap();
}

fn assert_same(run: &Run, bench: &Workbench, expected: &[(String, Vec<u8>)]) {
    assert!(run.tables(bench) == expected, "other tables");
}

#[test]
fn a_full_disk_is_told_and_what_was_committed_is_kept() {
    let whole = bench();
    let expected = whole.run(STUDY).ok().tables(&whole);
    // What is drawn in the end is larger than all that the stages leave.
    let is_drawn = |bytes: &[u8]| {
        bytes.starts_with(b"<svg") || bytes.starts_with(b"\x89PNG") || bytes[0] == b'{'
    };
    let bytes = |folder: &str| -> usize {
        let files = files_below(&whole.path(folder)).into_iter();
        let contents = files.map(|file| std::fs::read(file).unwrap());
        let of_stages = contents.filter(|content| !is_drawn(content));
        of_stages.map(|content| content.len()).sum()
    };
    // Room for some of the packs and not for all that comes after them.
    let room = (bytes("cache/v1/packs") + bytes("cache/v1/objects")) / 2;
    let bench = bench();
    let said = mounted(
        &bench,
        &format!("mount -t tmpfs -o size={room} tmpfs cache"),
        "cp -r cache kept; cat /dev/zero > cache/filled 2> /dev/null; \"$0\" cache gc --older-than 0d > collected 2>&1",
    );
    let line = said.last_line(1);
    // That is where a cache is to be made smaller.
    let collected = std::fs::read_to_string(bench.path("collected")).unwrap();
    assert!(collected.starts_with("deleted "), "{collected}");
    assert!(line.starts_with("error: stage `"), "{said:?}");
    assert!(
        line.contains("the disk is full; free some space"),
        "{said:?}"
    );
    copy_folder(&bench.path("kept"), &bench.path("cache"));
    let run = bench.run(STUDY).ok();
    assert_eq!(run.status("score"), "cached", "{said:?}");
    assert_eq!(files_below(&bench.path("cache/v1/damaged")).len(), 0);
    assert_same(&run, &bench, &expected);
}

#[test]
fn a_read_only_cache_serves_what_it_holds_and_refuses_the_rest() {
    let bench = bench();
    bench.run(STUDY).ok();
    let read_only = "mount --bind cache cache && mount -o remount,ro,bind cache";
    let said = mounted(&bench, read_only, "");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stderr.matches("cached").count(), 3, "{said:?}");
    bench.write(
        "study.toml",
        STUDY.replace("alpha = [-2, -1, 0, 1, 2]", "alpha = [3]"),
    );
    let said = mounted(&bench, read_only, "");
    let line = said.last_line(1);
    assert!(
        line.starts_with("error: stage `steer`: cannot "),
        "{said:?}"
    );
    assert!(
        line.contains("the file system is read-only; choose a folder"),
        "{said:?}"
    );
}

#[test]
fn flipped_bits_in_objects_are_found_and_mended() {
    let bench = bench();
    let expected = bench.run(STUDY).ok().tables(&bench);
    let objects = files_below(&bench.path("cache/v1/objects"));
    for (number, object) in objects.iter().enumerate() {
        flip_a_bit(object, 7919 * number + 13);
    }
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), []);
    assert_moved_aside(&bench, &run.said, objects.len());
    assert_same(&run, &bench, &expected);
}

#[test]
fn flipped_bits_in_packs_and_records_are_found_and_computed_again() {
    let bench = bench();
    let first = bench.run(STUDY).ok();
    let expected = first.tables(&bench);
    let mut files = files_below(&bench.path("cache/v1/packs"));
    files.extend(files_below(&bench.path("cache/v1/stages")));
    for (number, file) in files.iter().enumerate() {
        flip_a_bit(file, 104_729 * number + 31);
    }
    let run = bench.run(STUDY).ok();
    assert_eq!(run.all_computed(), first.all_computed());
    assert_moved_aside(&bench, &run.said, files.len());
    assert_same(&run, &bench, &expected);
}

#[test]
fn a_cache_of_the_future_is_refused_and_left_as_it_is() {
    let bench = bench();
    bench.run(STUDY).ok();
    bench.write("cache/VERSION", "2\n");
    let before = files_below(&bench.path("cache"));
    for command in ["run", "plan", "explain"] {
        let said = bench.dial(&[command, "study.toml"]);
        let message = said.message(1);
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains("written by a newer `dial`"), "{message}");
        assert!(
            message.contains("choose another folder with `--cache`"),
            "{message}"
        );
    }
    assert_eq!(files_below(&bench.path("cache")), before);
}

/// A NaN in the weights reaches every cell: none of them is kept, the error names the first, and with sound weights the same study runs.
#[test]
fn a_nan_in_the_weights_is_told_and_never_cached() {
    let bench = bench();
    let broken = bench.path("broken");
    copy_folder(&bench.path("models/inst").canonicalize().unwrap(), &broken);
    let path = broken.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let norm = &tensors["model.norm.weight"];
    let at = 8 + header + norm["data_offsets"][0].as_u64().unwrap() as usize;
    let end = 8 + header + norm["data_offsets"][1].as_u64().unwrap() as usize;
    // All bits set are a NaN in each of the formats.
    bytes[at..end].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    bench.write("study.toml", STUDY.replace("models/inst", "broken"));
    let said = bench.dial(&["run", "study.toml", "--threads", "1"]);
    let line = said.last_line(1);
    assert!(
        line.starts_with("error: stage `score`: prompt `"),
        "{said:?}"
    );
    assert!(
        line.contains("a value is not finite; look for NaN in the model's weights"),
        "{said:?}"
    );
    assert_eq!(files_below(&bench.path("cache/v1/packs")).len(), 0);
    assert_eq!(files_below(&bench.path("cache/v1/stages")).len(), 0);
    bench.run(STUDY).ok();
}

/// A plan finds damage as a run does: it says so, and moves it aside.
#[test]
fn a_plan_tells_damage_too() {
    let bench = bench();
    bench.run(STUDY).ok();
    let stages = bench.stage_records().len();
    for record in files_below(&bench.path("cache/v1/stages")) {
        let bytes = std::fs::read(&record).unwrap();
        std::fs::write(&record, &bytes[..bytes.len() - 3]).unwrap();
    }
    let said = bench.dial(&["plan", "study.toml"]);
    assert_eq!(said.code, 0, "{said:?}");
    // What the cells decide gives the key of every stage.
    assert_moved_aside(&bench, &said, stages);
}

/// Nobody reads the messages, or they cannot be written: the study is run all the same.
#[test]
fn a_stderr_that_cannot_be_written_ends_no_run() {
    let bench = bench();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = bench.command(&["run", "study.toml", "--threads", "1"]);
    let status = command
        .stdout(std::process::Stdio::null())
        .stderr(full)
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
    assert_eq!(bench.run(STUDY).ok().all_computed(), []);
}

/// One pack that cannot be read (here a folder in its place) keeps no study from running, and no check from going on.
#[test]
fn a_pack_that_cannot_be_read_is_passed_over_in_one_line() {
    let bench = bench();
    bench.run(STUDY).ok();
    let name = "ab".repeat(32);
    let place = bench.path(&format!("cache/v1/packs/ab/{name}.pack"));
    std::fs::create_dir_all(&place).unwrap();
    let run = bench
        .run_with(STUDY, &["--set", "stages.steer.alpha=[4]"])
        .ok();
    assert_eq!(run.all_computed(), [("steer", 100)]);
    let told = run.said.stderr.matches("cannot be read").count();
    assert_eq!(told, 1, "{}", run.said.stderr);
    let said = bench.dial(&["cache", "verify", "--format", "json"]);
    assert_eq!(said.code, 3, "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json["damaged"].as_array().unwrap().len(), 1);
    assert!(json["files"].as_u64() > Some(10), "{json}");
}

/// A study of its own copy of the weights, an hour old, and a way to flip a bit of these that leaves the file that old.
fn own_weights(bench: &Workbench) -> (String, impl Fn()) {
    let own = bench.path("own");
    copy_folder(&bench.path("models/inst").canonicalize().unwrap(), &own);
    let path = own.join("model.safetensors");
    let an_hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let set_time = move |path: &Path| {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.set_modified(an_hour_ago).unwrap();
    };
    set_time(&path);
    let at = std::fs::metadata(&path).unwrap().len() as usize - 9;
    let flip = move || {
        flip_a_bit(&path, at);
        set_time(&path);
    };
    (STUDY.replace("models/inst", "own"), flip)
}

#[test]
fn weights_that_are_written_into_are_other_weights_whatever_their_time_says() {
    let bench = bench();
    let (study, flip) = own_weights(&bench);
    bench.run(&study).ok();
    flip();
    let run = bench.run(&study).ok();
    assert_eq!(run.status("score"), "computed");
    flip();
    assert_eq!(bench.run(&study).ok().all_computed(), []);
}

/// A C library that, loaded before all others, hides when a file was last changed, as a disk does that loses a bit.
const HIDDEN_CHANGES: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>
int statx(int folder, const char *path, int flags, unsigned mask, struct statx *out) {
    int (*real)(int, const char *, int, unsigned, struct statx *) =
        (int (*)(int, const char *, int, unsigned, struct statx *))dlsym(RTLD_NEXT, "statx");
    int status = real(folder, path, flags, mask, out);
    if (status == 0) memset(&out->stx_ctime, 0, sizeof out->stx_ctime);
    return status;
}
"#;

/// Weights that change under a known size, time and inode: no run can see it. A check does, and all that was computed with them goes.
#[test]
fn what_was_computed_with_weights_that_changed_unseen_goes_when_a_check_finds_it() {
    let bench = bench();
    let (study, flip) = own_weights(&bench);
    bench.write("study.toml", &study);
    let library = bench.library("hidden_changes", HIDDEN_CHANGES);
    let dial = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        Said::of(
            command.env("LD_PRELOAD", &library).output().unwrap(),
            &bench.path(""),
        )
    };
    let expected = bench
        .run_with(&study, &["--cache", "another"])
        .ok()
        .tables(&bench);
    assert_eq!(dial(&["run", "study.toml", "--only", "score"]).code, 0);
    assert_eq!(dial(&["cache", "verify"]).code, 0);
    flip();
    // The bit is in the last weights, which the later stages read.
    assert_eq!(dial(&["run", "study.toml"]).code, 0);
    let said = dial(&["cache", "verify", "--format", "json"]);
    assert_eq!(said.code, 3, "{said:?}");
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    let damaged = json["damaged"].as_array().unwrap();
    let reason = damaged[0]["reason"].as_str().unwrap();
    assert!(reason.contains("own/model.safetensors"), "{reason}");
    assert!(
        reason.contains("is not what it was when it was hashed"),
        "{reason}"
    );
    // The note, every pack, and every stage's record.
    assert!(files_below(&bench.path("cache/v1/packs")).is_empty());
    assert!(bench.stage_records().is_empty());
    assert_eq!(
        files_below(&bench.path("cache/v1/damaged")).len(),
        damaged.len()
    );
    flip();
    assert_eq!(dial(&["cache", "verify"]).code, 0);
    let run = bench.run(&study).ok();
    assert_same(&run, &bench, &expected);
}

/// A C library that, loaded before all others, makes libtorch's allocator of tensors (`posix_memalign`, called from `libc10.so`) fail from some
/// call on. Calls are counted from the moment when the records of so many stages are on the disk: how many come before depends on how fast
/// prompts are prefilled, how many come after does not. It writes down how many there were.
const NO_MEMORY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static atomic_long calls;
static atomic_int records;
static int (*real)(void **, size_t, size_t);
static void note(long call) {
    const char *path = getenv("CALLS_FILE");
    FILE *file = path ? fopen(path, "w") : 0;
    if (file) { fprintf(file, "%ld", call + 1); fclose(file); }
}
int fsync(int file) {
    char link[64], path[4096];
    struct stat status;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
    if (strstr(path, "/stages/") && !fstat(file, &status) && S_ISREG(status.st_mode)) atomic_fetch_add(&records, 1);
    return result;
}
int posix_memalign(void **out, size_t align, size_t size) {
    if (!real) real = (int (*)(void **, size_t, size_t))dlsym(RTLD_NEXT, "posix_memalign");
    Dl_info caller;
    if (atomic_load(&records) < atoi(getenv("AFTER_RECORDS"))) return real(out, align, size);
    if (!dladdr(__builtin_return_address(0), &caller) || !caller.dli_fname || !strstr(caller.dli_fname, "libc10"))
        return real(out, align, size);
    long call = atomic_fetch_add(&calls, 1);
    const char *last = getenv("LAST_CALL");
    if (!last) note(call);
    return last && call >= atol(last) ? ENOMEM : real(out, align, size);
}
"#;

/// Memory runs out in the middle of a stage, for real: the error names prompt, layer and α, what was computed is kept and nothing else is, and
/// with memory the same command goes on to the same numbers.
#[test]
fn memory_that_runs_out_in_a_run_is_told_by_cell_and_the_rest_is_kept() {
    let alphas: Vec<String> = (-20..=20).map(|alpha| alpha.to_string()).collect();
    let study = STUDY.replace("[-2, -1, 0, 1, 2]", &format!("[{}]", alphas.join(", ")));
    let bench = bench();
    bench.write("study.toml", &study);
    let library = bench.library("no_memory", NO_MEMORY);
    let whole = self::bench();
    let whole_run = whole.run(&study).ok();
    let expected = whole_run.tables(&whole);
    let limited = |last: Option<u64>| {
        let mut command = bench.command(&["run", "study.toml", "--threads", "1"]);
        command
            .env("LD_PRELOAD", &library)
            .env("AFTER_RECORDS", "2")
            .env("CALLS_FILE", bench.path("calls"));
        if let Some(last) = last {
            command.env("LAST_CALL", last.to_string());
        }
        Said::of(command.output().unwrap(), &bench.path(""))
    };
    assert_eq!(limited(None).code, 0);
    let of_steer = std::fs::read_to_string(bench.path("calls")).unwrap();
    let of_steer: u64 = of_steer.parse().unwrap();
    std::fs::remove_dir_all(bench.path("cache")).unwrap();
    let said = limited(Some(of_steer / 2));
    let line = said.last_line(1);
    assert!(
        line.starts_with("error: stage `steer`: out of memory: prompt `"),
        "{line}"
    );
    for part in [", layer ", ", α = ", " more cells: ", "`--memory`"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let kept = committed_cells(&bench.path("cache")).len() as u64;
    let before_steer = whole_run.computed("score") + whole_run.computed("direction");
    assert!(kept > before_steer, "nothing of `steer` is kept: {kept}");
    let run = bench.run(&study).ok();
    assert_eq!(
        (run.status("score"), run.status("direction")),
        ("cached", "cached")
    );
    let computed: u64 = run.all_computed().iter().map(|(_, count)| count).sum();
    assert_eq!(
        kept + computed,
        committed_cells(&bench.path("cache")).len() as u64
    );
    assert!(computed > 0);
    assert_same(&run, &bench, &expected);
}
