//! Readers that do each of the things that none may do: that the fuzzing sees them.

use std::hint::black_box;

use super::target::{Case, Seed, Series, Target, target};
use super::watch::{Fault, watch};

pub const TARGETS: &[Target] = &[
    bad("bad_panic", |case| {
        if is_bad(case) {
            panic!("a {} panic", "bad");
        }
        true
    }),
    bad("bad_abort", |case| {
        if is_bad(case) {
            std::process::abort();
        }
        true
    }),
    bad("bad_stack", |case| {
        if is_bad(case) {
            black_box(deep(black_box(1)));
        }
        true
    }),
    bad("bad_loop", |case| {
        while black_box(is_bad(case)) {}
        true
    }),
    bad("bad_memory", |case| {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        while is_bad(case) {
            taken.push(black_box(vec![0; 1 << 28]));
        }
        true
    }),
    bad("bad_file", |case| {
        if is_bad(case) {
            case.write("long", vec![0; 200 << 20]);
        }
        true
    }),
    bad("bad_outside", |case| {
        if is_bad(case) {
            std::fs::write(case.folder.join("../../new"), "").unwrap();
        }
        true
    }),
    bad("bad_refused", |_| false),
    // In the folder of the case, but for the bad one.
    bad("bad_path", |case| {
        std::fs::write(std::str::from_utf8(case.input).unwrap(), "").unwrap();
        true
    }),
];

const fn bad(name: &'static str, read: fn(&Case) -> bool) -> Target {
    Target {
        name,
        made: || {
            let named = [("one", "1"), ("plain", "@OUTSIDE@"), ("three", "3")];
            named.map(|(name, text)| Seed::new(name, text)).into()
        },
        read,
        ..Target::TEXT
    }
}

/// Whether it is the second: what stands for a file outside became the path of one.
fn is_bad(case: &Case) -> bool {
    case.input.contains(&b'/')
}

fn deep(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    match here[3] {
        0 => 0,
        _ => deep(depth + 1) + here[7],
    }
}

/// Three inputs are read, and the second alone is told, with what went wrong; it is kept.
#[track_caller]
fn check(name: &str, fault: Fault, words: &str) {
    let series = Series {
        start: 1,
        cases: 0..3,
        kept: None,
    };
    let outcome = watch(target(name), &series, 1);
    assert_eq!(outcome.cases, 3);
    let told: Vec<String> = outcome.failures.iter().map(|f| f.to_string()).collect();
    let [failure] = outcome.failures.as_slice() else {
        panic!("expected one failure of `{name}`: {told:?}");
    };
    assert_eq!(failure.fault, fault, "{told:?}");
    assert!(told[0].starts_with("seed `plain` "), "{told:?}");
    assert!(told[0].contains(words), "{told:?}");
    assert_eq!(std::fs::read(&failure.kept).unwrap(), b"@OUTSIDE@");
    std::fs::remove_file(&failure.kept).ok();
}

#[test]
fn a_panic_is_seen() {
    check("bad_panic", Fault::Panic, "a bad panic");
}

#[test]
fn an_abort_is_seen() {
    check("bad_abort", Fault::Abort, "signal: 6");
}

#[test]
fn a_stack_that_overflows_is_seen() {
    check("bad_stack", Fault::StackOverflow, "overflowed its stack");
}

#[test]
fn a_loop_without_an_end_is_seen() {
    check("bad_loop", Fault::Time, "more than 1 s");
}

#[test]
fn memory_without_an_end_is_seen() {
    check(
        "bad_memory",
        Fault::Memory,
        "memory allocation of 268435456 bytes",
    );
}

#[test]
fn a_file_that_is_too_long_is_seen() {
    check("bad_file", Fault::LongFile, "signal: 25");
}

#[test]
fn what_is_written_outside_is_seen() {
    check("bad_outside", Fault::Outside, "tree/a/b/c/new`");
}

#[test]
fn a_sound_input_that_is_refused_is_seen() {
    check(
        "bad_refused",
        Fault::Refused,
        "is refused although it is sound",
    );
}

#[test]
fn a_file_that_an_input_names_is_seen() {
    check("bad_path", Fault::Outside, "tree/a/x`");
}

/// What a person is told to do with an input that was kept.
#[test]
fn a_kept_input_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kept");
    std::fs::write(&path, "@OUTSIDE@").unwrap();
    let series = Series {
        start: 1,
        cases: 0..1,
        kept: Some(path),
    };
    let outcome = watch(target("bad_panic"), &series, 1);
    assert_eq!(outcome.failures.len(), 1);
}
