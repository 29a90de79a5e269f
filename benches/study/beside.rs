//! Runs beside one another: how long several take that share the cores, against their fair share.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::Result;
use super::study::{Data, Files, Size};

/// Runs at once.
const COUNTS: [usize; 2] = [3, 6];

/// Runs of one study's scores that started together, each from an empty cache of its own.
pub struct Together {
    /// How many they were.
    pub count: usize,
    /// Wall time until the last had ended.
    pub seconds: f64,
    /// The processor time that as many take alone, divided by the cores.
    pub fair_seconds: f64,
    /// The processor time that each took ÷ that of one alone.
    pub processor_ratio: f64,
}

impl Together {
    /// 1 is a fair share of the cores, and no time lost.
    pub fn of_fair(&self) -> f64 {
        self.seconds / self.fair_seconds
    }
}

/// Runs them all. One alone is timed before and after the others, since a machine's speed drifts; the mean counts.
pub fn measure(root: &Path, folder: &Path, data: &Data, threads: usize) -> Result<Vec<Together>> {
    let size = Size::standard();
    let files = Files::write_sweep(root, folder.to_path_buf(), data, &size)?;
    let (_, before) = together(&files, 1, threads)?;
    let mut all = Vec::new();
    for count in COUNTS {
        all.push((count, together(&files, count, threads)?));
    }
    let (_, after) = together(&files, 1, threads)?;
    let alone = (before + after) / 2.0;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let figures = all
        .into_iter()
        .map(|(count, (seconds, processor))| Together {
            count,
            seconds,
            fair_seconds: count as f64 * alone / cores,
            processor_ratio: processor / count as f64 / alone,
        });
    Ok(figures.collect())
}

/// Wall time of so many runs at once, and their processor time together.
fn together(files: &Files, count: usize, threads: usize) -> Result<(f64, f64)> {
    let folders: Vec<PathBuf> = (0..count)
        .map(|number| files.folder.join(format!("run{number}")))
        .collect();
    let started = Instant::now();
    let children = folders.iter().map(|folder| start(files, folder, threads));
    let children = children.collect::<Result<Vec<Child>>>()?;
    let mut processor_seconds = 0.0;
    for child in &children {
        processor_seconds += wait(child)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    for folder in &folders {
        std::fs::remove_dir_all(folder)?;
    }
    Ok((seconds, processor_seconds))
}

fn start(files: &Files, folder: &Path, threads: usize) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dial"));
    command.arg("run").arg(&files.study);
    command.args(["--only", "score", "--threads", &threads.to_string()]);
    command.arg("--cache").arg(folder.join("cache"));
    command.arg("--runs").arg(folder.join("runs"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command.stderr(Stdio::null()).spawn()?)
}

/// Waits for a process; the processor time that it took, in seconds.
fn wait(child: &Child) -> Result<f64> {
    let (mut status, mut usage) = (0, std::mem::MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to values of the call's types, which it fills. Nobody else waits for the child.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) };
    if waited < 0 || status != 0 {
        return Err(format!("a run beside others ended with status {status}").into());
    }
    // SAFETY: zeros are a value of the type, and the call has filled it.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
