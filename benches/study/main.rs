//! The benchmark: the standard study on the quickstart's model, timed beside what a person would run instead.
//!
//! `make bench` prints every figure with its bar and writes `target/bench/study.json`. In one invocation on one machine:
//!
//! 1. `study`, `program`: `dial run` on the whole study from an empty cache: wall time, peak memory; then again, with nothing to compute
//! 2. `start`: how soon commands answer that compute nothing; `beside`: several runs that share the cores
//! 3. `linear`: small sweeps with 1×, 2× and 4× the prompts, α and seeds
//! 4. `peers`: the Python scripts that do the same work, where they are installed (`scripts/bench-peers.sh`); `select`: a selection beside transformers
//! 5. `inside`: prefill and one more α, through the library; `positions`: edits and readouts that do not stop at the last token
//! 6. `kernels`, `arithmetic`: the rate of matrix products at the study's shapes, and the least arithmetic that the study needs
//!
//! A bar that is missed is said, and is no failure: the exit code tells whether everything could run. Close other programs before;
//! `cargo bench --profile release --bench study -- --quick` tries the benchmark itself out on a study of some seconds, and
//! `… -- positions` measures that part alone (three minutes) and writes `target/bench/positions.json`; `… -- cost` what steering costs (two minutes), into
//! `target/bench/cost.json`. `… -- select` times the selection alone (five minutes).

mod arithmetic;
mod beside;
mod inside;
mod kernels;
mod linear;
mod peers;
mod positions;
mod program;
mod report;
mod select;
mod start;
mod study;

use std::path::Path;
use std::process::ExitCode;

use inside::Finished;
use kernels::Rate;
use peers::Peers;
use positions::Part;
use report::Measured;
use study::{Data, Files, Size};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let named = |argument: &String| argument != "--bench" && argument != "--quick";
    let quick = std::env::args().any(|argument| argument == "--quick");
    let outcome = match std::env::args().skip(1).find(named).as_deref() {
        None => bench(quick),
        Some("positions") => bench_part(quick, Part::Positions),
        Some("cost") => bench_part(quick, Part::Cost),
        Some("select") => bench_select(quick),
        Some(other) => Err(format!(
            "there is no part `{other}`; name `positions`, `cost` or `select`, or nothing for the whole benchmark"
        )
        .into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(quick: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/bench");
    let (data, size) = (Data::find(root), Size::of(quick));
    let files = Files::write(root, folder.join("study"), &data, &size)?;
    let load_before = load_average();
    say(&format!("the study, with the prompts of {}", data.name));
    let cold = files.run(None)?;
    let threads = cold.report.threads()?;
    say("commands that compute nothing");
    let answers = start::measure(&files)?;
    say("runs beside one another");
    let beside = beside::measure(root, &folder.join("beside"), &data, threads)?;
    say("small sweeps that grow");
    let axes = linear::measure(root, &folder.join("sweep"), &data, threads)?;
    say("the peers");
    let (peers, advice) = peers(root, &files, &size, threads)?;
    say("a selection over positions and layers");
    let selection = select::measure(root, &folder.join("select"), &data, quick);
    say("prefill and one more α, inside this process");
    refusal_dial::link_libtorch();
    refusal_dial::inside::model::set_threads(threads)?;
    let finished = Finished::new(&files)?;
    let marginal = finished.marginal(&size)?;
    say("edits and readouts at more than the last token");
    let mut positions = positions::measure(&finished, &size, Part::Positions)?;
    say("what steering costs");
    positions.extend(positions::measure(&finished, &size, Part::Cost)?);
    say("matrix products");
    let measured = Measured {
        cold: &cold,
        answers: &answers,
        beside: &beside,
        marginal: &marginal,
        work: &finished.work()?,
        positions: &positions,
        rates: &rates(&finished, &size, threads)?,
        peers: peers.as_ref(),
        config: finished.config()?,
    };
    let figures = measured.figures()?;
    figures.write(&folder.join("study.json"))?;
    println!(
        "\n{threads} threads, prompts of {}; load average before: {load_before}\n",
        data.name
    );
    println!("{}\n", measured.stages());
    println!("{}\n", report::rates(measured.rates, measured.config));
    println!("{}\n", report::growth(&axes, marginal.load_seconds));
    println!("{}\n", measured.marginal());
    println!("{}\n", positions::costs(&figures.positions));
    println!("{}\n", report::beside(&beside));
    if let Some(peers) = &peers {
        println!("{}\n", peers.table());
    }
    println!("{}\n", figures.table());
    match selection {
        Ok(selection) => println!("{}\n", selection.told()),
        Err(why) => println!("selection: not timed: {why}\n"),
    }
    if let Some(advice) = advice {
        println!("{advice}");
    }
    println!("figures in target/bench/study.json");
    Ok(())
}

/// A selection alone, which is no part of the standard study.
fn bench_select(quick: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let load_before = load_average();
    say("a selection over positions and layers");
    let folder = root.join("target/bench/select");
    let selection = select::measure(root, &folder, &Data::find(root), quick)?;
    println!("\nload average before: {load_before}\n{}", selection.told());
    Ok(())
}

/// That part alone, which needs no study that has run.
fn bench_part(quick: bool, part: Part) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("target/bench");
    let (data, size) = (Data::find(root), Size::of(quick));
    let files = Files::write_sweep(root, folder.join(part.name()), &data, &size)?;
    let load_before = load_average();
    let threads = std::thread::available_parallelism()?.get();
    refusal_dial::link_libtorch();
    refusal_dial::inside::model::set_threads(threads)?;
    let finished = Finished::new(&files)?;
    say(match part {
        Part::Positions => "edits and readouts at more than the last token",
        Part::Cost => "what steering costs",
    });
    let measured = positions::measure(&finished, &size, part)?;
    say("matrix products");
    let rates = rates(&finished, &size, threads)?;
    let costs = report::costs(&measured, finished.config()?, &rates);
    let written = serde_json::to_string_pretty(&costs)? + "\n";
    std::fs::write(folder.join(format!("{}.json", part.name())), written)?;
    println!(
        "\n{threads} threads, prompts of {}; load average before: {load_before}\n",
        data.name
    );
    println!("{}\n", report::rates(&rates, finished.config()?));
    println!("{}\n", positions::costs(&costs));
    println!("figures in target/bench/{}.json", part.name());
    Ok(())
}

/// Rates of matrix products at the sizes of the study's deepest suffix.
fn rates(finished: &Finished, size: &Size, threads: usize) -> Result<Vec<Rate>> {
    let config = finished.config()?;
    kernels::rates(config, config.n_layers - size.layers[0], threads)
}

/// Processes that wanted to run during the last minute: what disturbs the figures.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_string()
}

fn say(what: &str) {
    eprintln!("bench: {what}");
}

/// The peers' figures, or what to do to have them.
fn peers(
    root: &Path,
    files: &Files,
    size: &Size,
    threads: usize,
) -> Result<(Option<Peers>, Option<String>)> {
    match peers::time(root, files, size, threads) {
        Ok(peers) => Ok((Some(peers), None)),
        Err(Ok(advice)) => Ok((None, Some(advice))),
        Err(Err(error)) => Err(error),
    }
}
