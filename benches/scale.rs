//! The benchmark of scale: a study of 400,000 cells on a tiny model, planned, run again, and run with 1,000 cells missing.
//!
//! `make bench-scale` prints wall times (the shortest of five) and peak resident memory, at 40,000 and at 400,000 cells, and the number of
//! entries of the largest folder. The model and the prompts are those of the tests. The bars: plan and no-op run within 1 s, finding 1,000
//! missing cells within 3 s, no folder with more than a few thousand entries, memory that stays flat.

#[path = "../tests/integration/checkpoint.rs"]
#[allow(dead_code)]
mod checkpoint;
#[path = "../tests/integration/prompts.rs"]
#[allow(dead_code)]
mod prompts;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// 50 prompts × 4 layers × 5 α.
const CELLS_PER_SEED: usize = 1000;
const REPETITIONS: usize = 5;

fn main() -> ExitCode {
    match [40, 400].into_iter().try_for_each(measure) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the figures of a study with that many random directions.
fn measure(seeds: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let study = |seeds: usize| -> Result<PathBuf> {
        let path = folder.path().join(format!("study{seeds}.toml"));
        let model = checkpoint::planted_models().join("inst");
        std::fs::write(&path, text(&model, seeds))?;
        Ok(path)
    };
    let set = prompts::main_set(30, 20);
    std::fs::write(folder.path().join("main.jsonl"), prompts::jsonl(&set))?;
    let (less, whole) = (study(seeds - 1)?, study(seeds)?);
    println!("\n{} cells", seeds * CELLS_PER_SEED);
    let cold = run(folder.path(), "run", &less)?;
    println!("computing all but {CELLS_PER_SEED}: {cold}");
    // With cells missing, a plan looks up every one.
    println!(
        "finding the {CELLS_PER_SEED} that are missing: {}",
        best(folder.path(), "plan", &whole)?
    );
    println!("computing them: {}", run(folder.path(), "run", &whole)?);
    println!("plan: {}", best(folder.path(), "plan", &whole)?);
    println!(
        "run with nothing to do: {}",
        best(folder.path(), "run", &whole)?
    );
    let (entries, largest) = largest_folder(folder.path())?;
    let largest = largest.strip_prefix(folder.path())?.display().to_string();
    println!("largest folder: `{largest}`, {entries} entries");
    Ok(())
}

fn text(model: &Path, seeds: usize) -> String {
    format!(
        r#"[models.tiny]
source = "{}"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "tiny"
prompts = "main"
[stages.random]
model = "tiny"
prompts = "main"
seed = "0..{seeds}"
layer = "all"
alpha = [-4, -2, 1, 2, 4]
"#,
        model.display()
    )
}

/// What a command took.
struct Cost {
    seconds: f64,
    peak_rss_bytes: u64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.2} s, {} MB",
            self.seconds,
            self.peak_rss_bytes / 1_000_000
        )
    }
}

fn best(folder: &Path, command: &str, study: &Path) -> Result<Cost> {
    let mut best = run(folder, command, study)?;
    for _ in 1..REPETITIONS {
        let cost = run(folder, command, study)?;
        if cost.seconds < best.seconds {
            best = cost;
        }
    }
    Ok(best)
}

fn run(folder: &Path, command: &str, study: &Path) -> Result<Cost> {
    let started = Instant::now();
    let mut process = Command::new(env!("CARGO_BIN_EXE_dial"));
    process
        .current_dir(folder)
        .arg(command)
        .arg(study)
        .args(["--format", "json"]);
    let child = process
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: waits for the child that was just started; both pointers are to values of their types, which all zeros are.
    let usage = unsafe {
        libc::wait4(
            child.id() as libc::pid_t,
            &mut status,
            0,
            usage.as_mut_ptr(),
        );
        usage.assume_init()
    };
    if status != 0 {
        return Err(format!("`dial {command}` ended with status {status}").into());
    }
    Ok(Cost {
        seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: usage.ru_maxrss as u64 * 1024,
    })
}

/// The folder with the most entries, among all in it.
fn largest_folder(folder: &Path) -> Result<(usize, PathBuf)> {
    let (mut count, mut largest) = (0, (0, folder.to_path_buf()));
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        count += 1;
        if path.is_dir() && !path.is_symlink() {
            let below = largest_folder(&path)?;
            if below.0 > largest.0 {
                largest = below;
            }
        }
    }
    Ok(if count > largest.0 {
        (count, folder.to_path_buf())
    } else {
        largest
    })
}
