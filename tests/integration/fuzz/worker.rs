//! The worker: reads one input after the other in a process of its own, with less memory, time and disk than a machine has, and notes the
//! number of each before it is read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::target::{Case, Series, target};
use super::watch::Fault;

/// Bytes of address space that a worker may have.
pub const MEMORY_BYTES: u64 = 4 << 30;
/// Bytes that one file may have that is written while an input is read.
const FILE_BYTES: u64 = 128 << 20;
/// That of a program's main thread, where the program reads its inputs.
const STACK_BYTES: usize = 8 << 20;
/// Stands in inputs for the path of a file outside the folder of the case.
const OUTSIDE: &[u8] = b"@OUTSIDE@";

/// What a worker is to do.
#[derive(Serialize, Deserialize)]
pub struct Job {
    pub target: String,
    pub series: Series,
    /// Where it tells how far it is.
    pub folder: PathBuf,
    /// Processor time of one case.
    pub cpu_seconds: u64,
}

/// A case that went wrong and left the worker alive.
#[derive(Serialize, Deserialize)]
pub struct Survived {
    pub case: u64,
    pub fault: Fault,
    pub message: String,
}

impl Job {
    /// What no case may change, but for one folder in it.
    pub fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    /// The folder of the case in hand.
    pub fn case_folder(&self) -> PathBuf {
        self.tree().join("a/b/c/d/case")
    }

    /// Makes the tree, and nothing in it but a few files that a reader might hit.
    pub fn prepare(&self) {
        fs::remove_dir_all(self.tree()).ok();
        for folder in ["home", "tmp", "a/b/c/d/case"] {
            fs::create_dir_all(self.tree().join(folder)).unwrap();
        }
        for file in ["x", "home/x", "a/x", "a/b/x", "a/b/c/x", "a/b/c/d/x"] {
            fs::write(self.tree().join(file), "not to be touched").unwrap();
        }
    }

    /// Every file of the tree outside the folder of the case, with its content.
    fn outside(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let case = self.case_folder();
        let mut places = vec![self.tree()];
        let mut found = Vec::new();
        while let Some(folder) = places.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path == case {
                    continue;
                }
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                let content = match is_folder {
                    true => Vec::new(),
                    false => fs::read(&path).unwrap_or_default(),
                };
                if is_folder {
                    places.push(path.clone());
                }
                found.push((path, content));
            }
        }
        found.sort();
        found
    }
}

/// What the last panic said that nobody has caught yet.
static SAID: Mutex<String> = Mutex::new(String::new());

/// Started by the watcher, in a process of its own.
#[test]
#[ignore = "a part of the fuzzing tests, which start it themselves"]
fn worker() {
    let Ok(job) = std::env::var("DIAL_FUZZ_JOB") else {
        return;
    };
    let job: Job = serde_json::from_str(&job).unwrap();
    std::panic::set_hook(Box::new(|panic| {
        if let Ok(mut said) = SAID.lock() {
            *said = panic.to_string();
        }
    }));
    limit(libc::RLIMIT_CORE, 0);
    limit(libc::RLIMIT_FSIZE, FILE_BYTES);
    limit(libc::RLIMIT_AS, MEMORY_BYTES);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    let thread = thread.name("case".to_string()).spawn(move || work(&job));
    if thread.unwrap().join().is_err() {
        let said = SAID.lock().map(|said| said.clone()).unwrap_or_default();
        eprintln!("the worker itself panicked: {said}");
        std::process::exit(3);
    }
}

fn work(job: &Job) {
    let target = target(&job.target);
    let at = File::create(job.folder.join("at")).unwrap();
    let mut notes = File::create(job.folder.join("survived.jsonl")).unwrap();
    let mut told = HashSet::new();
    let folder = job.case_folder();
    let mut before = job.outside();
    for case in job.series.cases.clone() {
        let input = target.input(&job.series, case);
        let (is_plain, mut input) = (input.is_plain(), input.bytes);
        replace(&mut input, OUTSIDE, &job.tree().join("a/x"));
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).unwrap();
        std::env::set_current_dir(&folder).unwrap();
        at.write_all_at(&case.to_le_bytes(), 0).unwrap();
        limit(libc::RLIMIT_CPU, cpu_seconds() + 1 + job.cpu_seconds);
        let case_in_hand = Case {
            folder: &folder,
            input: &input,
        };
        let read = catch_unwind(AssertUnwindSafe(|| (target.read)(&case_in_hand)));
        let mut tell = |message: String, fault: Fault| {
            // Each fault once: by the place that panicked, which is the first line.
            let place = message.lines().next().unwrap_or_default().to_string();
            if told.insert((place, fault)) {
                let of = Survived {
                    case,
                    fault,
                    message,
                };
                let line = serde_json::to_string(&of).unwrap();
                writeln!(notes, "{line}").unwrap();
            }
        };
        match read {
            Err(_) => tell(SAID.lock().map(|said| said.clone()).unwrap(), Fault::Panic),
            Ok(false) if is_plain => tell(String::new(), Fault::Refused),
            Ok(_) => {}
        }
        let after = job.outside();
        if after != before {
            tell(difference(&before, &after), Fault::Outside);
            job.prepare();
            before = job.outside();
        }
    }
}

/// The first file of the tree that is not what it was.
fn difference(before: &[(PathBuf, Vec<u8>)], after: &[(PathBuf, Vec<u8>)]) -> String {
    let is_in = |all: &[(PathBuf, Vec<u8>)], one: &(PathBuf, Vec<u8>)| all.contains(one);
    let new = after.iter().find(|one| !is_in(before, one));
    let gone = before.iter().find(|one| !is_in(after, one));
    match new.or(gone) {
        Some((path, _)) => format!("`{}`", path.display()),
        None => String::new(),
    }
}

/// Puts a path in the place of a word.
fn replace(bytes: &mut Vec<u8>, word: &[u8], path: &Path) {
    let path = path.display().to_string();
    let find = |bytes: &[u8]| bytes.windows(word.len()).position(|window| window == word);
    // More than this only a mutant has.
    for _ in 0..16 {
        let Some(at) = find(bytes) else { return };
        bytes.splice(at..at + word.len(), path.bytes());
    }
}

/// Sets a limit of this process, its maximum left as it is.
fn limit(resource: libc::__rlimit_resource_t, value: u64) {
    let mut limits = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given a struct that outlives them.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &mut limits), 0);
        limits.rlim_cur = value.min(limits.rlim_max);
        assert_eq!(libc::setrlimit(resource, &limits), 0);
    }
}

/// Processor time that this process has used, in seconds, rounded down.
fn cpu_seconds() -> u64 {
    // SAFETY: a struct of integers, for which zeros are values, is given to a call that it outlives.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut usage), 0);
        usage
    };
    (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec).unsigned_abs()
}
