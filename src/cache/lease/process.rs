//! Which process holds a lease, so that a reader on the same machine need not wait to know that it is gone.

use serde::{Deserialize, Serialize};

/// A process as its own machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// The running kernel and the namespace in which `id` is counted; none where the system does not tell.
    #[serde(rename = "here")]
    machine: Option<String>,
    pub(super) id: u32,
    /// When it started, in the kernel's count: an id may be given again.
    started: Option<String>,
}

impl Process {
    pub(super) fn this() -> Self {
        let id = std::process::id();
        Process {
            machine: this_machine(),
            id,
            started: started(id),
        }
    }

    /// Whether it runs where the reader runs, so that [`Process::is_gone`] can tell.
    pub(super) fn is_here(&self) -> bool {
        self.machine.is_some() && self.started.is_some() && self.machine == this_machine()
    }

    /// Whether it is known to have ended. Of a process elsewhere nothing is known, nor of one that the system does not show to this user.
    pub(super) fn is_gone(&self) -> bool {
        if !self.is_here() {
            return false;
        }
        match started(self.id) {
            None => !exists(self.id),
            now => now != self.started,
        }
    }
}

/// Whether there is a process of that id, or one that has ended and was not waited for; of any user.
fn exists(id: u32) -> bool {
    let Ok(id) = libc::pid_t::try_from(id) else {
        return false;
    };
    // SAFETY: signal 0 is sent to nobody; the call only says whether it could be.
    let answer = unsafe { libc::kill(id, 0) };
    answer == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// The machine, its boot and the namespace of process ids. Machines that were copied while they ran share their boot, but not their name.
fn this_machine() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!(
        "{} {} {}",
        boot.trim(),
        name.trim(),
        namespace.display()
    ))
}

/// When a process started; none for one that is not to be seen. One that has ended and was not yet waited for never started.
fn started(id: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state is the first field behind it, the start the twentieth.
    let fields = &text[text.rfind(')')? + 1..];
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return Some(String::new());
    }
    fields.nth(18).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_gone_once_it_has_ended() {
        assert!(!Process::this().is_gone());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let process = Process {
            id: child.id(),
            started: started(child.id()),
            ..Process::this()
        };
        assert!(!process.is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.is_gone());
    }

    #[test]
    fn a_process_exists_until_it_is_waited_for() {
        assert!(exists(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id();
        child.wait().unwrap();
        assert!(!exists(id));
        // That of another user, where the tests do not run as root.
        assert!(exists(1));
    }

    #[test]
    fn of_a_process_elsewhere_nothing_is_known() {
        let elsewhere = Process {
            machine: Some("another boot".to_string()),
            id: u32::MAX,
            started: Some("1".to_string()),
        };
        assert!(!elsewhere.is_here());
        assert!(!elsewhere.is_gone());
    }
}
