//! The watcher: has a worker read inputs, and says of each that was read badly how, so that one input is to blame.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::target::{Input, Series, Target};
use super::worker::{Job, MEMORY_BYTES, Survived};

/// Where changed inputs kill more workers than this, the rest is left. Every seed is read.
const MOST_DEATHS: usize = 4;
/// Bytes that must be free in memory for the cases' files to be there: several workers at work, each with a few files of the longest kind.
const ROOM_BYTES: u64 = 2 << 30;
/// A case that uses no processor and does not end is waiting for something; far above what any client waits.
const LONGEST_SILENCE: Duration = Duration::from_secs(180);

/// How an input was read badly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The reader survived.
    Panic,
    /// The process aborted, or was ended by a signal that nothing below stands for.
    Abort,
    /// The reader called itself too often.
    StackOverflow,
    /// The reader wanted more memory than a process may have.
    Memory,
    /// It took more processor time than a case may.
    Time,
    /// It waited, and did not end.
    Waiting,
    /// It wrote a file longer than any that it should write.
    LongFile,
    /// It changed what lies outside its folder.
    Outside,
    /// A sound input was not accepted.
    Refused,
}

/// An input that was read badly.
pub struct Failure {
    pub fault: Fault,
    /// Which input: a seed by its name, or what was made of which.
    pub input: String,
    /// What the process said.
    pub message: String,
    /// Where the input was kept.
    pub kept: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            Fault::Panic => "panics",
            Fault::Abort => "aborts",
            Fault::StackOverflow => "overflows the stack",
            Fault::Memory => "takes more than 4 GiB of memory",
            Fault::Time => "takes too much processor time",
            Fault::Waiting => "waits without an end",
            Fault::LongFile => "writes too long a file",
            Fault::Outside => "writes outside its folder",
            Fault::Refused => "is refused although it is sound",
        };
        let kept = self.kept.display();
        write!(
            f,
            "{} {what}: {}\n    kept as {kept}",
            self.input, self.message
        )
    }
}

/// What became of a series.
#[derive(Default)]
pub struct Outcome {
    /// Cases that were read, well or badly.
    pub cases: u64,
    pub failures: Vec<Failure>,
}

impl Outcome {
    fn has(&self, fault: Fault, message: &str) -> bool {
        let mut known = self.failures.iter();
        known.any(|known| known.fault == fault && known.message == message)
    }
}

/// Has every case of a series read, by as many workers at a time as the target wants.
pub fn watch(target: &'static Target, series: &Series, cpu_seconds: u64) -> Outcome {
    let Range { start, end } = series.cases;
    let share = (end - start).div_ceil(target.workers).max(1);
    let shares = (start..end).step_by(share as usize).map(|first| Series {
        cases: first..(first + share).min(end),
        ..series.clone()
    });
    let mut outcome = Outcome::default();
    std::thread::scope(|scope| {
        let started: Vec<_> = shares
            .map(|share| scope.spawn(move || watch_share(target, &share, cpu_seconds)))
            .collect();
        for share in started {
            let share = share.join().unwrap();
            outcome.cases += share.cases;
            for failure in share.failures {
                let may_be_the_same = failure.fault == Fault::Panic;
                if !may_be_the_same || !outcome.has(failure.fault, &failure.message) {
                    outcome.failures.push(failure);
                }
            }
        }
    });
    outcome
}

/// The same, one after the other.
fn watch_share(target: &'static Target, series: &Series, cpu_seconds: u64) -> Outcome {
    let folder = scratch();
    let mut outcome = Outcome::default();
    let mut job = Job {
        target: target.name.to_string(),
        series: series.clone(),
        folder: folder.path().to_path_buf(),
        cpu_seconds,
    };
    let seeds = target.seeds().len() as u64;
    let mut deaths = 0;
    while !job.series.cases.is_empty() {
        let (status, waited) = work(&job);
        let at = job.case_in_hand();
        for survived in job.survived() {
            let fault = survived.fault;
            let message = survived.message.replace('\n', " ");
            // A worker tells each fault once, but one that follows another knows nothing of it.
            if !outcome.has(fault, &message) {
                let failure = failure(target, series, survived.case, fault, &message);
                outcome.failures.push(failure);
            }
        }
        if status.success() {
            assert_eq!(
                at.map(|at| at + 1),
                Some(job.series.cases.end),
                "cases were left out"
            );
            outcome.cases += job.series.cases.end - job.series.cases.start;
            break;
        }
        let said = job.said();
        let at = at.unwrap_or_else(|| panic!("the worker did not begin: {status}: {said}"));
        let (fault, message) = blame(status, waited, &said, cpu_seconds);
        let failure = failure(target, series, at, fault, &message);
        outcome.failures.push(failure);
        outcome.cases += at + 1 - job.series.cases.start;
        deaths += usize::from(at >= seeds);
        if deaths == MOST_DEATHS {
            break;
        }
        job.series.cases.start = at + 1;
    }
    outcome
}

/// A folder in memory where the machine has room there: files are made and removed by the ten thousand.
fn scratch() -> tempfile::TempDir {
    let shared = c"/dev/shm";
    // SAFETY: a struct of integers, for which zeros are values, is given to a call that it outlives.
    let room = unsafe {
        let mut room: libc::statvfs = std::mem::zeroed();
        match libc::statvfs(shared.as_ptr(), &mut room) {
            0 => room.f_bavail.saturating_mul(room.f_frsize),
            _ => 0,
        }
    };
    let folder = match room > ROOM_BYTES {
        true => tempfile::tempdir_in("/dev/shm").ok(),
        false => None,
    };
    folder.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// Runs one worker to its end; whether it was ended because it waited.
fn work(job: &Job) -> (ExitStatus, bool) {
    let said = File::create(job.folder.join("stderr")).unwrap();
    job.prepare();
    std::fs::remove_file(job.folder.join("at")).ok();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "fuzz::worker::worker", "--ignored"])
        .args(["--nocapture", "--test-threads", "1"])
        .current_dir(job.case_folder())
        .env("DIAL_FUZZ_JOB", serde_json::to_string(job).unwrap())
        .env("HOME", job.tree().join("home"))
        .env("TMPDIR", job.tree().join("tmp"))
        .env("HF_HOME", job.case_folder().join("hf"))
        .env_remove("RUST_BACKTRACE")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said);
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    let mut worker = command.spawn().unwrap();
    let (mut last, mut since) = (None, Instant::now());
    loop {
        if let Some(status) = worker.try_wait().unwrap() {
            return (status, false);
        }
        let at = job.case_in_hand();
        if at != last {
            (last, since) = (at, Instant::now());
        }
        if since.elapsed() > LONGEST_SILENCE {
            worker.kill().unwrap();
            return (worker.wait().unwrap(), true);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Why a worker died.
fn blame(status: ExitStatus, waited: bool, said: &str, cpu_seconds: u64) -> (Fault, String) {
    let fault = match status.signal() {
        _ if waited => Fault::Waiting,
        Some(libc::SIGXCPU) => Fault::Time,
        Some(libc::SIGXFSZ) => Fault::LongFile,
        _ if said.contains("has overflowed its stack") => Fault::StackOverflow,
        _ if ["memory allocation of", "bad_alloc", "Cannot allocate"]
            .iter()
            .any(|words| said.contains(words)) =>
        {
            Fault::Memory
        }
        _ => Fault::Abort,
    };
    let message = match fault {
        Fault::Time => format!("more than {cpu_seconds} s"),
        Fault::Waiting => format!("more than {} s", LONGEST_SILENCE.as_secs()),
        _ => format!("{status}; {}", end_of(said)),
    };
    (fault, message)
}

fn end_of(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
    let end = lines[lines.len().saturating_sub(3)..].join(" | ");
    end.chars().take(400).collect()
}

/// The failure of a case, its input kept where it can be read again.
fn failure(target: &Target, series: &Series, case: u64, fault: Fault, message: &str) -> Failure {
    let Input { name, bytes } = target.input(series, case);
    let folder = failures_folder();
    std::fs::create_dir_all(&folder).unwrap();
    let file: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let kept = folder.join(format!("{}--{file}", target.name));
    std::fs::write(&kept, bytes).unwrap();
    Failure {
        fault,
        input: name,
        message: message.to_string(),
        kept,
    }
}

/// Where inputs are kept that were read badly.
fn failures_folder() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    target.parent().unwrap_or(target).join("fuzz-failures")
}

impl Job {
    /// The case that the worker has begun last.
    fn case_in_hand(&self) -> Option<u64> {
        let text = std::fs::read(self.folder.join("at")).ok()?;
        Some(u64::from_le_bytes(text.try_into().ok()?))
    }

    /// The cases that went wrong and ended no worker.
    fn survived(&self) -> Vec<Survived> {
        let path = self.folder.join("survived.jsonl");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::remove_file(path).ok();
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn said(&self) -> String {
        let text = std::fs::read(self.folder.join("stderr")).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(4000)..];
        String::from_utf8_lossy(tail).into_owned()
    }
}

const _: () = assert!(MEMORY_BYTES == 4 << 30, "as the message says");
