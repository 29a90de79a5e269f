//! What this machine has: processors, memory, room on a disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Memory that this process may have, where the system tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What can be taken without swapping, and within the limits that a container or Slurm sets.
    pub(crate) available_bytes: usize,
    pub(crate) total_bytes: usize,
}

impl Memory {
    fn within(self, (limit, used): (usize, usize)) -> Self {
        Memory {
            available_bytes: self.available_bytes.min(limit.saturating_sub(used)),
            total_bytes: self.total_bytes.min(limit),
        }
    }
}

pub(crate) fn memory() -> Option<Memory> {
    let machine = memory_of(&std::fs::read_to_string("/proc/meminfo").ok()?)?;
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut limits = group_limits(&group, Path::new("/sys/fs/cgroup"));
    // Slurm need not enforce by groups what it grants.
    let granted = std::env::var("SLURM_MEM_PER_NODE").ok();
    let granted = granted.and_then(|mebibytes| mebibytes.parse::<usize>().ok());
    limits.extend(granted.map(|mebibytes| (mebibytes.saturating_mul(1 << 20), 0)));
    Some(limits.into_iter().fold(machine, Memory::within))
}

/// Memory of the machine, of a `/proc/meminfo`.
fn memory_of(meminfo: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        let kibibytes: usize = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        kibibytes.checked_mul(1024)
    };
    Some(Memory {
        available_bytes: bytes("MemAvailable:")?,
        total_bytes: bytes("MemTotal:")?,
    })
}

/// The limits in bytes of the control groups of a `/proc/self/cgroup`, from the innermost outwards, each with what its processes have taken
/// that cannot be given back. Both versions of the interface; see the kernel's `admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst`.
fn group_limits(groups: &str, mounted: &Path) -> Vec<(usize, usize)> {
    let path = |line: &str| -> Option<(PathBuf, String, [&str; 3])> {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.trim_start_matches('/').to_string();
        match controllers {
            "" => Some((
                mounted.to_path_buf(),
                path,
                ["memory.max", "memory.current", "inactive_file"],
            )),
            _ if controllers.split(',').any(|name| name == "memory") => Some((
                mounted.join("memory"),
                path,
                [
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                ],
            )),
            _ => None,
        }
    };
    let mut limits = Vec::new();
    for (root, path, [limit, used, reclaimable]) in groups.lines().filter_map(path) {
        // In a container the path may be that of the host: then only the root is there.
        for folder in Path::new(&path).ancestors().map(|path| root.join(path)) {
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
            let number = |file: &str| read(file)?.trim().parse::<usize>().ok();
            let (Some(limit), Some(used)) = (number(limit), number(used)) else {
                continue;
            };
            let statistics = read("memory.stat").unwrap_or_default();
            let cached = statistics
                .lines()
                .find_map(|line| line.strip_prefix(reclaimable)?.trim().parse::<usize>().ok());
            limits.push((limit, used.saturating_sub(cached.unwrap_or(0))));
        }
    }
    limits
}

/// The number of physical cores that this process may use, as far as the system tells; hyper-threads do not help matrix products. What an
/// affinity (`taskset`), a control group (a container) or Slurm leaves of the machine counts.
pub(crate) fn physical_cores() -> usize {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let slurm = std::env::var("SLURM_CPUS_PER_TASK").ok();
    let slurm = slurm
        .and_then(|count| count.parse().ok())
        .unwrap_or(usize::MAX);
    cores_of(&information, allowed_processors())
        .unwrap_or(usize::MAX)
        .min(logical_processors())
        .min(slurm)
        .max(1)
}

/// The number of cores among some processors, of a `/proc/cpuinfo`; none where that does not tell cores.
fn cores_of(cpuinfo: &str, is_allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let mut cores = HashSet::new();
    let (mut processor, mut socket) = (0, "");
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        match key.trim() {
            "processor" => processor = value.trim().parse().ok()?,
            "physical id" => socket = value,
            "core id" if is_allowed(processor) => drop(cores.insert((socket, value))),
            _ => {}
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

/// Says of processors whether this process may run on them; of all, where the system does not tell.
fn allowed_processors() -> impl Fn(usize) -> bool {
    // SAFETY: a set of processors is a field of bits, of which no bit is a value; the call fills it and keeps nothing.
    let allowed = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let told = libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) == 0;
        told.then_some(set)
    };
    move |processor| match &allowed {
        // SAFETY: the processor is within the set.
        Some(set) if processor < libc::CPU_SETSIZE as usize => unsafe {
            libc::CPU_ISSET(processor, set)
        },
        _ => true,
    }
}

/// The processors that this process may use, by affinity and by the quota of its control group.
pub(crate) fn logical_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Tells the system that the calling thread computes for long at a time: it interrupts no other when it wakes up, and is interrupted less, so
/// that threads which share a core do not empty each other's caches. Its share of the processor is the same.
pub(crate) fn work_in_batches() {
    // SAFETY: of the parameters only the priority is read, which is 0 for this policy. Where it is refused, threads run as they did.
    unsafe {
        let parameters: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &parameters);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_among_the_processors_that_are_allowed() {
        let of = |processor: usize, socket: usize, core: usize| {
            format!("processor\t: {processor}\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n")
        };
        // Two sockets of two cores of two hyper-threads.
        let machine: String = (0..8).map(|n| of(n, n / 2 % 2, n % 2)).collect();
        assert_eq!(cores_of(&machine, |_| true), Some(4));
        assert_eq!(cores_of(&machine, |n| n == 1 || n == 5), Some(1));
        assert_eq!(cores_of(&machine, |n| n < 3), Some(3));
        assert_eq!(
            cores_of("processor\t: 0\nBogoMIPS\t: 50.0\n", |_| true),
            None
        );
    }

    #[test]
    fn a_control_group_bounds_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("job/memory.max", "max\n");
        write("job/memory.current", "5000\n");
        write("job/step/memory.max", "4000\n");
        write("job/step/memory.current", "3000\n");
        write("job/step/memory.stat", "anon 100\ninactive_file 1500\n");
        let limits = group_limits("0::/job/step\n", folder.path());
        assert_eq!(limits, [(4000, 1500)]);
        let machine = Memory {
            available_bytes: 9000,
            total_bytes: 10000,
        };
        let inside = Memory {
            available_bytes: 2500,
            total_bytes: 4000,
        };
        assert_eq!(limits.into_iter().fold(machine, Memory::within), inside);

        write("memory/memory.limit_in_bytes", "700\n");
        write("memory/memory.usage_in_bytes", "800\n");
        let of_the_host = "9:memory:/docker/0123\n8:cpu,cpuacct:/docker/0123\n";
        let limits = group_limits(of_the_host, folder.path());
        assert_eq!(limits, [(700, 800)]);
        let inside = Memory {
            available_bytes: 0,
            total_bytes: 700,
        };
        assert_eq!(limits.into_iter().fold(machine, Memory::within), inside);
    }

    #[test]
    fn this_machine_has_a_processor_and_memory() {
        assert!(physical_cores() >= 1);
        let memory = memory().unwrap();
        assert!(memory.available_bytes <= memory.total_bytes, "{memory:?}");
    }
}
