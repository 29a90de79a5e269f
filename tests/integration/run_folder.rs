//! What becomes of a run whose folder, or a file in it, goes while it runs: it fails and says so, and what was computed is kept.

use std::path::PathBuf;

use serde_json::Value;

use crate::hold::{self, Held, Place};
use crate::prompts::main_set;
use crate::workbench::{Said, Workbench, committed_cells, long_study};

/// A run that waits in the middle of a stage.
struct Running {
    bench: Workbench,
    held: Held,
    folder: PathBuf,
}

impl Running {
    fn start() -> Self {
        let bench = Workbench::new(&main_set(30, 20));
        bench.write("study.toml", long_study(200));
        let command = bench.command(&["run", "study.toml", "--threads", "1"]);
        // The second stage has committed cells.
        let held = hold::start(&bench, command, Place::Packs(2)).surely();
        let folder = bench.path("runs/study/latest").canonicalize().unwrap();
        Running {
            bench,
            held,
            folder,
        }
    }

    fn ended(self) -> (Workbench, Said) {
        let said = self.held.end(&self.bench);
        (self.bench, said)
    }
}

/// The run fails soon, leaves nothing in the place that was cleared, and what it has computed is used by the next.
fn assert_fails_and_keeps(running: Running) -> Workbench {
    let (bench, said) = running.ended();
    let line = said.last_line(1);
    assert!(
        line.starts_with("error: the run's folder `runs/study/"),
        "{said:?}"
    );
    assert!(
        line.contains(
            "was deleted, moved or replaced while the study ran; run the same command again"
        ),
        "{said:?}"
    );
    let kept = committed_cells(&bench.path("cache")).len();
    assert!(kept > 50, "{kept}");
    let again = bench.run_with(&long_study(1), &["--runs", "other"]).ok();
    assert_eq!(again.status("score"), "cached");
    bench
}

#[test]
fn a_run_whose_folder_is_deleted_fails() {
    let running = Running::start();
    std::fs::remove_dir_all(&running.folder).unwrap();
    let folder = running.folder.clone();
    assert_fails_and_keeps(running);
    assert!(!folder.exists(), "it was made again");
}

#[test]
fn a_run_whose_folder_of_runs_is_deleted_fails() {
    let running = Running::start();
    let runs = running.bench.path("runs");
    std::fs::remove_dir_all(&runs).unwrap();
    assert_fails_and_keeps(running);
}

#[test]
fn a_run_whose_folder_is_replaced_fails_and_leaves_the_other_alone() {
    let running = Running::start();
    let folder = running.folder.clone();
    std::fs::rename(&folder, running.bench.path("moved")).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let _bench = assert_fails_and_keeps(running);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

/// A table, a copy of the study, the log: what is not there in the end was promised to whoever reads the run.
#[test]
fn a_run_that_has_lost_files_says_which_and_has_failed() {
    let mut running = Running::start();
    for file in ["tables/score.csv", "tables/score.parquet", "log.jsonl"] {
        std::fs::remove_file(running.folder.join(file)).unwrap();
    }
    // One that is written again and again is whole in the end.
    std::fs::remove_file(running.folder.join("run.json")).unwrap();
    running.held.ask_to_end("-INT");
    let folder = running.folder.clone();
    let (_bench, said) = running.ended();
    let line = said.last_line(1);
    assert!(
        line.contains("/log.jsonl` and 2 more files of the run were deleted while the study ran"),
        "{said:?}"
    );
    let text = std::fs::read_to_string(folder.join("run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["status"], "failed");
    assert!(
        manifest["error"].as_str().unwrap().contains("log.jsonl"),
        "{manifest}"
    );
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure_that_says_what_to_do() {
    let bench = Workbench::new(&main_set(6, 4));
    let study = long_study(1);
    let library = bench.library("no_page", NO_PAGE);
    bench.write("study.toml", &study);
    let mut command = bench.command(&["run", "study.toml", "--only", "score", "--threads", "1"]);
    let output = command.env("LD_PRELOAD", library).output().unwrap();
    let said = Said::of(output, &bench.path(""));
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.stdout.contains("score"),
        "its tables are printed: {said:?}"
    );
    let last = said.stderr.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("error: the study is complete, but its report could not be written: "),
        "{said:?}"
    );
    let run = last
        .split("`dial report ")
        .nth(1)
        .unwrap()
        .trim_end_matches('`');
    assert_eq!(bench.dial(&["report", run]).code, 0);
    assert!(bench.path(run).join("report.html").is_file());
}

/// A C library that, loaded before all others, refuses to make a folder for figures.
const NO_PAGE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
int mkdir(const char *path, mode_t mode) {
    if (strstr(path, "figures")) { errno = ENOSPC; return -1; }
    int (*real)(const char *, mode_t) = (int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "mkdir");
    return real(path, mode);
}
"#;
