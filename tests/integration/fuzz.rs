//! Odd and hostile inputs to every reader: none panics, aborts, takes more than 4 GiB or more time than it may, or writes outside its
//! folder.
//!
//! Each reader (`target`) has seeds, those of faults that were there once among them: files under `fuzz/seeds/<target>/`, and longer ones
//! made by the code. The suite reads every seed and a fixed number of inputs made of them (`mutate`), always the same. Inputs are read in
//! processes of their own (`worker`), which may die of them; who watches (`watch`) then knows the input, keeps it under
//! `target/fuzz-failures/`, and goes on behind it.
//!
//! By hand: `make fuzz` reads other inputs, `FUZZ_SECONDS=600` for so long for each reader, `FUZZ_TARGET=gguf` of one reader only,
//! `FUZZ_TARGET=gguf FUZZ_INPUT=<file>` an input that was kept.

mod bad;
pub mod gguf;
mod hub;
mod models;
mod mutate;
mod store;
mod target;
mod templates;
mod texts;
mod tokenizers;
mod watch;
mod worker;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use target::{Series, Target};
use watch::{Outcome, watch};

/// Processor time that a case may take, in seconds: hundreds of times what any should, in a program that is not optimised, too.
const CPU_SECONDS: u64 = 10;
/// Where the inputs of the suite start.
const START: u64 = 1;

/// Reads inputs of a target, as many as the environment asks for.
#[track_caller]
fn fuzz(name: &str) {
    let target = target::target(name);
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let outcome = match (set("DIAL_FUZZ_INPUT"), set("DIAL_FUZZ_SECONDS")) {
        (Some(path), _) => kept(target, &path),
        (None, Some(seconds)) => for_so_long(target, seconds.parse().unwrap()),
        (None, None) => watch(target, &series(target, START), CPU_SECONDS),
    };
    let failures: Vec<String> = outcome.failures.iter().map(|f| f.to_string()).collect();
    assert!(
        failures.is_empty(),
        "{name}: {} of {} inputs were read badly:\n  {}\n",
        failures.len(),
        outcome.cases,
        failures.join("\n  ")
    );
}

fn series(target: &Target, start: u64) -> Series {
    Series {
        start,
        cases: 0..target.cases.max(target.seeds().len() as u64),
        kept: None,
    }
}

/// An input that was kept.
fn kept(target: &'static Target, path: &str) -> Outcome {
    let series = Series {
        start: START,
        cases: 0..1,
        // Workers are at home elsewhere.
        kept: Some(std::fs::canonicalize(path).unwrap()),
    };
    watch(target, &series, CPU_SECONDS)
}

/// Inputs that nobody has read yet, until the time is over or a few were read badly.
fn for_so_long(target: &'static Target, seconds: u64) -> Outcome {
    let (began, end) = (Instant::now(), Duration::from_secs(seconds));
    let first = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let mut outcome = Outcome::default();
    for start in first.as_millis() as u64.. {
        let more = watch(target, &series(target, start), CPU_SECONDS);
        outcome.cases += more.cases;
        outcome.failures.extend(more.failures);
        if began.elapsed() > end || !outcome.failures.is_empty() {
            eprintln!(
                "{}: {} inputs from start {} to {start}",
                target.name,
                outcome.cases,
                first.as_millis()
            );
            break;
        }
    }
    outcome
}

/// A test for each target, so that each is told by itself.
macro_rules! read {
    ($($target:ident),+ $(,)?) => {
        mod read {
            $(#[test] fn $target() { super::fuzz(stringify!($target)); })+

            #[test]
            fn every_target_has_a_test() {
                let tested = [$(stringify!($target)),+];
                for target in super::target::targets() {
                    let name = target.name;
                    assert!(tested.contains(&name) || name.starts_with("bad_"), "`{name}` has no test");
                }
            }
        }
    };
}

read! {
    gguf, safetensors, weights_index, config, tokenizer, tokenizer_config, template, without_weights,
    toml, yaml, jsonl, csv, table,
    pack, record, manifest, parquet, published,
    hub,
}
