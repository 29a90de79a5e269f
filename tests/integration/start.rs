//! What `dial` does without libtorch, and that it goes on as `dial-engine` where it takes it.

use std::path::PathBuf;
use std::process::Command;

use crate::prompts::main_set;
use crate::workbench::{SCORES, Said, Workbench, files_below};

const DIAL: &str = env!("CARGO_BIN_EXE_dial");
const ENGINE: &str = env!("CARGO_BIN_EXE_dial-engine");

/// The libraries that are loaded with a program, as the system's loader says when it is asked instead of running it.
fn libraries(program: &str) -> String {
    let mut command = Command::new(program);
    let output = command.env("LD_TRACE_LOADED_OBJECTS", "1").output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn libtorch_is_loaded_with_the_engine_alone() {
    let (of_dial, of_engine) = (libraries(DIAL), libraries(ENGINE));
    assert!(of_dial.contains("libc.so"), "{of_dial}");
    assert!(!of_dial.contains("libtorch"), "{of_dial}");
    assert!(of_engine.contains("libtorch"), "{of_engine}");
}

/// `dial` alone in a folder: whatever it does there, it does without libtorch.
fn alone(bench: &Workbench, arguments: &[&str]) -> Said {
    let program = bench.path("alone/dial");
    if !program.exists() {
        std::fs::create_dir_all(bench.path("alone")).unwrap();
        std::fs::copy(DIAL, &program).unwrap();
    }
    let output = bench.command_of(&program, arguments).output();
    Said::of(output.unwrap(), &bench.path(""))
}

/// The runs there are, each with a folder of its own.
fn runs(bench: &Workbench) -> usize {
    let paths = files_below(&bench.path("runs")).into_iter();
    let is_run = |path: &PathBuf| path.ends_with("run.json") && !path.ends_with("latest/run.json");
    paths.filter(is_run).count()
}

#[test]
fn what_is_cached_takes_no_libtorch() {
    let bench = Workbench::new(&main_set(3, 2));
    bench.run(SCORES);
    let plan = alone(&bench, &["plan", "study.toml"]);
    assert!(
        plan.code == 0 && plan.stdout.contains("nothing to compute"),
        "{plan:?}"
    );
    let explain = alone(&bench, &["explain", "study.toml"]);
    assert_eq!(explain.code, 0, "{explain:?}");
    let run = alone(&bench, &["run", "study.toml", "--threads", "1"]);
    assert!(
        run.code == 0 && run.stderr.contains("0 cells computed"),
        "{run:?}"
    );
    for command in [
        &["status"][..],
        &["show", "runs/study/latest"],
        &["cache", "stats"],
    ] {
        let said = alone(&bench, command);
        assert_eq!(said.code, 0, "{said:?}");
    }
}

#[test]
fn what_must_be_computed_takes_the_engine() {
    let bench = Workbench::new(&main_set(3, 2));
    bench.write("study.toml", SCORES);
    for command in [&["run", "study.toml"][..], &["doctor"]] {
        let said = alone(&bench, command);
        assert_eq!(said.code, 1, "{said:?}");
        let message = "error: cannot start `alone/dial-engine`: No such file or directory (os error 2); it computes with libtorch and belongs \
                       beside `dial`: build both with `cargo build --release`, and copy both";
        assert_eq!(said.stderr.trim(), message);
    }
    assert_eq!(runs(&bench), 0);
    std::os::unix::fs::symlink(ENGINE, bench.path("alone/dial-engine")).unwrap();
    let said = alone(&bench, &["run", "study.toml", "--threads", "1"]);
    assert!(
        said.code == 0 && said.stderr.contains("5 cells computed"),
        "{said:?}"
    );
    assert_eq!(runs(&bench), 1);
}

/// What the cache said it had turns out to be damaged when it is read, and its cells are gone: the run begins anew with the engine, and leaves
/// one folder.
#[test]
fn a_run_that_meets_damage_goes_on_as_the_engine() {
    let bench = Workbench::new(&main_set(3, 2));
    bench.run(SCORES);
    for object in files_below(&bench.path("cache/v1/objects")) {
        let mut bytes = std::fs::read(&object).unwrap();
        bytes[0] ^= 1;
        std::fs::write(&object, bytes).unwrap();
    }
    std::fs::remove_dir_all(bench.path("cache/v1/packs")).unwrap();
    let before = runs(&bench);
    let said = bench.dial(&["run", "study.toml", "--threads", "1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("is damaged"), "{said:?}");
    assert!(said.stderr.contains("5 cells computed"), "{said:?}");
    assert_eq!(runs(&bench), before + 1);
}
