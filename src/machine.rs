//! What this machine has: processors, memory, room on a disk.

use std::collections::HashSet;
use std::path::Path;

/// Memory of the machine, where the system tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// What can be taken without swapping.
    pub(crate) available_bytes: usize,
    pub(crate) total_bytes: usize,
}

pub(crate) fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        available_bytes: bytes("MemAvailable:")?,
        total_bytes: bytes("MemTotal:")?,
    })
}

/// The number of physical cores, as far as the system tells; hyper-threads do not help matrix products.
pub(crate) fn physical_cores() -> usize {
    let logical = logical_processors();
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut cores = HashSet::new();
    let mut socket = "";
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else {
            continue;
        };
        match key.trim() {
            "physical id" => socket = value,
            "core id" => {
                cores.insert((socket, value));
            }
            _ => {}
        }
    }
    match cores.len() {
        0 => logical,
        physical => physical.min(logical),
    }
}

/// The processors that this process may use.
pub(crate) fn logical_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Bytes that this user may still write on the disk of a folder, where the system tells.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let path = std::ffi::CString::new(folder.as_os_str().as_encoded_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte and outlives the call, which fills `found` where it returns 0.
    let found = unsafe {
        match libc::statvfs(path.as_ptr(), found.as_mut_ptr()) {
            0 => found.assume_init(),
            _ => return None,
        }
    };
    // Their types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    let (free, unit) = (found.f_bavail as u64, found.f_frsize as u64);
    Some(free.saturating_mul(unit))
}
