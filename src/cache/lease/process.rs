//! Which process holds a lease, so that a reader on the same machine need not wait to know that it is gone.

use serde::{Deserialize, Serialize};

/// A process as its own machine knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    /// The running kernel and the namespace in which `id` is counted; none where the system does not tell.
    here: Option<String>,
    pub(super) id: u32,
    /// When it started, in the kernel's count: an id may be given again.
    started: Option<String>,
}

impl Process {
    /// The process that asks.
    pub(super) fn this() -> Self {
        let id = std::process::id();
        Process {
            here: here(),
            id,
            started: started(id),
        }
    }

    /// Whether it runs where the reader runs, so that [`Process::is_gone`] can tell.
    pub(super) fn is_here(&self) -> bool {
        self.here.is_some() && self.started.is_some() && self.here == here()
    }

    /// Whether it is known to have ended. Of a process elsewhere nothing is known.
    pub(super) fn is_gone(&self) -> bool {
        self.is_here() && self.started != started(self.id)
    }
}

/// The boot and the namespace of process ids.
fn here() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

/// When a process started; none for one that is not there, or has ended and was not yet waited for.
fn started(id: u32) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the state is the first field behind it, the start the twentieth.
    let fields = &text[text.rfind(')')? + 1..];
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
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
    fn of_a_process_elsewhere_nothing_is_known() {
        let elsewhere = Process {
            here: Some("another boot".to_string()),
            id: u32::MAX,
            started: Some("1".to_string()),
        };
        assert!(!elsewhere.is_here());
        assert!(!elsewhere.is_gone());
    }
}
