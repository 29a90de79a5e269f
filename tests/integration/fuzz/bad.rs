//! Readers that do each of the things that none may do: that the fuzzing sees them.

use std::hint::black_box;

use super::target::{Case, Seed, Series, Target, target};
use super::watch::{Fault, watch};

pub const TARGETS: &[Target] = &[
    bad("bad-panic", |_| panic!("a {} panic", "bad")),
    bad("bad-abort", |_| std::process::abort()),
    bad("bad-stack", |_| {
        black_box(deep(black_box(1)));
    }),
    bad("bad-loop", |_| {
        let mut turns = 0u64;
        while black_box(turns) != u64::MAX {
            turns += 1;
        }
    }),
    bad("bad-memory", |_| {
        let mut taken: Vec<Vec<u8>> = Vec::new();
        loop {
            taken.push(black_box(vec![0; 1 << 28]));
        }
    }),
    bad("bad-file", |case| {
        case.write("long", vec![0; 200 << 20]);
    }),
    bad("bad-outside", |case| {
        std::fs::write(case.folder.join("../../new"), "").unwrap();
    }),
    bad("bad-path", |case| {
        std::fs::write(std::str::from_utf8(case.input).unwrap(), "").unwrap();
    }),
];

const fn bad(name: &'static str, read: fn(&Case)) -> Target {
    Target {
        name,
        made: || vec![Seed::new("one", "1"), Seed::new("bad", "@OUTSIDE@"), Seed::new("three", "3")],
        read,
        ..Target::TEXT
    }
}

fn deep(depth: u64) -> u64 {
    let here = black_box([depth; 64]);
    match here[3] {
        0 => 0,
        _ => deep(depth + 1) + here[7],
    }
}

/// What is seen of a reader that does its bad thing to each of three inputs.
fn seen(name: &str) -> Vec<(Fault, String)> {
    let series = Series {
        start: 1,
        cases: 0..3,
        kept: None,
    };
    let outcome = watch(target(name), &series, 1);
    assert_eq!(outcome.cases, 3);
    let failures = outcome.failures.into_iter();
    failures
        .map(|failure| {
            let kept = std::fs::read(&failure.kept).unwrap();
            assert!(["1", "@OUTSIDE@", "3"].iter().any(|seed| kept == seed.as_bytes()));
            std::fs::remove_file(&failure.kept).ok();
            (failure.fault, failure.to_string())
        })
        .collect()
}

#[track_caller]
fn check(name: &str, fault: Fault, words: &str) {
    let seen = seen(name);
    assert!(!seen.is_empty(), "`{name}` was not seen");
    for (found, message) in &seen {
        assert_eq!(*found, fault, "{message}");
        assert!(message.contains(words), "{message}");
    }
    // What kills the worker is seen for each input; the same panic, or the same file, is told once.
    let once = matches!(fault, Fault::Panic | Fault::Outside);
    assert_eq!(seen.len(), if once { 1 } else { 3 });
    assert!(seen[0].1.starts_with("seed `one`"), "{}", seen[0].1);
}

#[test]
fn a_panic_is_seen() {
    check("bad-panic", Fault::Panic, "a bad panic");
}

#[test]
fn an_abort_is_seen() {
    check("bad-abort", Fault::Abort, "signal: 6");
}

#[test]
fn a_stack_that_overflows_is_seen() {
    check("bad-stack", Fault::StackOverflow, "overflowed its stack");
}

#[test]
fn a_loop_without_an_end_is_seen() {
    check("bad-loop", Fault::Time, "more than 1 s");
}

#[test]
fn memory_without_an_end_is_seen() {
    check("bad-memory", Fault::Memory, "memory allocation of 268435456 bytes");
}

#[test]
fn a_file_that_is_too_long_is_seen() {
    check("bad-file", Fault::LongFile, "signal: 25");
}

#[test]
fn what_is_written_outside_is_seen() {
    check("bad-outside", Fault::Outside, "tree/a/b/c/new`");
}

/// Only the input that names the file is to blame: the others name a file in the case's own folder.
#[test]
fn the_input_that_is_to_blame_is_named() {
    let seen = seen("bad-path");
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].0, Fault::Outside);
    assert!(seen[0].1.starts_with("seed `bad`"), "{}", seen[0].1);
    assert!(seen[0].1.contains("tree/a/x`"), "{}", seen[0].1);
}
