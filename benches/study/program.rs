//! Running the program as a person does, with a clock and an eye on its memory.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Result;
use super::study::Files;

/// How often the memory of the process is looked at.
const MEMORY_EVERY: Duration = Duration::from_millis(10);

/// What the program says of a run, as far as it is needed here.
#[derive(Deserialize)]
pub struct Report {
    /// The run's folder.
    pub run_dir: PathBuf,
    /// Its stages, in the order of running.
    pub stages: Vec<StageReport>,
    /// Full forward passes of a script for the same tables.
    pub equivalent_forward_passes: u64,
}

/// What the program says of a stage.
#[derive(Deserialize)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// Distinct cells that it computed.
    pub cells_computed: u64,
    /// Distinct cells that it found.
    pub cells_cached: u64,
    /// Wall time.
    pub seconds: f64,
}

/// One run.
pub struct Run {
    /// Wall time of the process, from its start to its end.
    pub seconds: f64,
    /// The largest resident set seen; files that are mapped count.
    pub peak_rss_bytes: u64,
    /// What the program said.
    pub report: Report,
}

impl Report {
    /// The stage of that name.
    pub fn stage(&self, name: &str) -> Result<&StageReport> {
        let stage = self.stages.iter().find(|stage| stage.name == name);
        stage.ok_or_else(|| format!("the run has no stage `{name}`").into())
    }

    /// The number of threads that the run says it used.
    pub fn threads(&self) -> Result<usize> {
        let text = fs::read_to_string(self.run_dir.join("run.json"))?;
        let manifest: serde_json::Value = serde_json::from_str(&text)?;
        let threads = manifest["provenance"]["threads"].as_u64();
        let threads = threads.ok_or("run.json does not say how many threads were used")?;
        Ok(usize::try_from(threads)?)
    }
}

impl Files {
    /// The cache of this study.
    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// `dial run` on this study; the first time, nothing is cached.
    pub fn run(&self, threads: Option<usize>) -> Result<Run> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dial"));
        command.arg("run").arg(&self.study);
        command.args(["--format", "json"]);
        command.arg("--cache").arg(self.cache());
        command.arg("--runs").arg(self.folder.join("runs"));
        if let Some(threads) = threads {
            command.args(["--threads", &threads.to_string()]);
        }
        run(command, &self.folder.join("stderr.txt"))
    }
}

fn run(mut command: Command, stderr: &Path) -> Result<Run> {
    command
        .stdout(Stdio::piped())
        .stderr(File::create(stderr)?)
        .stdin(Stdio::null());
    let started = Instant::now();
    let child = command.spawn()?;
    let (process, ended) = (child.id(), AtomicBool::new(false));
    let (output, seconds, peak_rss_bytes) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_memory(process, &ended));
        let output = child.wait_with_output();
        let seconds = started.elapsed().as_secs_f64();
        ended.store(true, Ordering::Relaxed);
        (output, seconds, watch.join().unwrap_or(0))
    });
    let output = output?;
    if !output.status.success() {
        let said = fs::read_to_string(stderr).unwrap_or_default();
        return Err(format!("`dial` ended with {}:\n{said}", output.status).into());
    }
    Ok(Run {
        seconds,
        peak_rss_bytes,
        report: serde_json::from_slice(&output.stdout)?,
    })
}

/// The peak of a process's resident set in bytes, read until it ends. The system keeps the peak, so only what grows between the last
/// look and the end is missed. 0 where the system does not tell.
fn watch_memory(process: u32, ended: &AtomicBool) -> u64 {
    let mut peak = 0;
    while !ended.load(Ordering::Relaxed) {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        peak = peak_resident_bytes(&status).unwrap_or(peak).max(peak);
        std::thread::sleep(MEMORY_EVERY);
    }
    peak
}

/// `VmHWM` of a `/proc/<process>/status`.
fn peak_resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
