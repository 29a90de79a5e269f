//! A run that waits at a place of its work, not of time, until a test lets it go: so that what is to meet it half-way surely does, however
//! busy the machine is.
//!
//! The place is a moment at which something of a study has just been put on the disk (a call of `fsync`), counted from the start.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::workbench::{Said, Workbench, files_below};

/// A C library that, loaded before all others, counts the calls of `fsync` (where `HOLD_ON` is given, those on packs that have no name yet,
/// or on the folders that have just got one), and waits in the `HOLD_AT`-th as long as the file `HOLD_FILE`, which it makes, is there. `HOLD_COUNT` names a file that gets a byte
/// a call.
const HOLD: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int fsync(int file) {
    static int calls = 0;
    int result = ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
    const char *on = getenv("HOLD_ON");
    if (on) {
        char link[64], path[4096];
        struct stat status;
        snprintf(link, sizeof link, "/proc/self/fd/%d", file);
        ssize_t length = readlink(link, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        if (!strstr(path, "/packs/") || fstat(file, &status)) return result;
        if (S_ISDIR(status.st_mode) != !strcmp(on, "folders")) return result;
    }
    int call = __atomic_add_fetch(&calls, 1, __ATOMIC_SEQ_CST);
    const char *count = getenv("HOLD_COUNT");
    if (count) {
        int told = open(count, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (write(told, ".", 1) < 1) abort();
        close(told);
    }
    if (call == atoi(getenv("HOLD_AT"))) {
        const char *held = getenv("HOLD_FILE");
        close(open(held, O_WRONLY | O_CREAT, 0600));
        while (access(held, F_OK) == 0) usleep(2000);
    }
    return result;
}
"#;

/// Where a run waits.
#[derive(Clone, Copy)]
pub enum Place {
    /// Before this pack of cells is committed, counted from 1: its cells are claimed, computed, and not there.
    BeforePack(usize),
    /// When so many packs are committed.
    Packs(usize),
    /// When so many files and folders of any kind are on the disk.
    Writes(usize),
}

/// A run that waits, or has been let go.
pub struct Held {
    pub child: Child,
    file: PathBuf,
    stderr: PathBuf,
}

/// Starts a command so that it will wait at that place. What it says on stderr goes to a file, so that it can be read while it waits.
pub fn start(bench: &Workbench, mut command: Command, at: Place) -> Held {
    let (on, call) = match at {
        Place::BeforePack(number) => (Some("packs"), number),
        Place::Packs(count) => (Some("folders"), count),
        Place::Writes(count) => (None, count),
    };
    command.envs(on.map(|on| ("HOLD_ON", on)));
    let number = files_below(&bench.path("holds")).len();
    let file = bench.path(&format!("held-{number}"));
    let stderr = bench.path(&format!("holds/{number}"));
    bench.write(&format!("holds/{number}"), "");
    let child = command
        .env("LD_PRELOAD", library(bench))
        .env("HOLD_AT", call.to_string())
        .env("HOLD_FILE", &file)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&stderr).unwrap());
    // Where the tests themselves run under `nohup`, they ignore it, and so would whatever they start.
    // SAFETY: between fork and exec only this is called, which may be.
    unsafe {
        child.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
    let child = child.spawn().unwrap();
    Held {
        child,
        file,
        stderr,
    }
}

/// How many files and folders a command puts on the disk.
pub fn writes(bench: &Workbench, mut command: Command) -> usize {
    let count = bench.path("writes");
    let output = command
        .env("LD_PRELOAD", library(bench))
        .env("HOLD_AT", "0")
        .env("HOLD_COUNT", &count)
        .output();
    let said = Said::of(output.unwrap(), &bench.path(""));
    assert_eq!(said.code, 0, "{said:?}");
    std::fs::read(count).unwrap().len()
}

fn library(bench: &Workbench) -> PathBuf {
    let made = bench.path("hold.so");
    match made.exists() {
        true => made,
        false => bench.library("hold", HOLD),
    }
}

impl Held {
    /// Waits until it waits. Whether it does: it may have come to its end before.
    pub fn wait(&mut self) -> bool {
        loop {
            if self.file.exists() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until it waits, which it must.
    #[track_caller]
    pub fn surely(mut self) -> Self {
        assert!(self.wait(), "it ended early: {}", self.said());
        self
    }

    /// What it has said on stderr so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    /// Sends it a signal (`-INT`).
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([name, &id]).status().unwrap();
        assert!(sent.success());
    }

    /// Asks it to end and waits until it has heard that.
    pub fn ask_to_end(&mut self, signal: &str) {
        self.signal(signal);
        while !self.said().contains("stopping: ") {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Lets it go on.
    pub fn let_go(&self) {
        let _ = std::fs::remove_file(&self.file);
    }

    /// Kills it where it is, and whether it was alive.
    pub fn kill(mut self) -> bool {
        use std::os::unix::process::ExitStatusExt;
        self.child.kill().unwrap();
        self.child.wait().unwrap().signal() == Some(9)
    }

    /// Lets it go on to its end.
    pub fn end(self, bench: &Workbench) -> Said {
        self.let_go();
        let stderr = self.stderr;
        let mut output = self.child.wait_with_output().unwrap();
        output.stderr = std::fs::read(stderr).unwrap();
        Said::of(output, &bench.path(""))
    }
}
