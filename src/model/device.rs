//! Where the arithmetic runs, and what is recorded about it.

use std::fmt;
use std::str::FromStr;

use tch::{Cuda, Device};

use super::error::{ModelError, Result};
use super::libtorch;
use crate::machine;

/// A device as a person names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    #[default]
    Cpu,
    Cuda(usize),
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match text {
            "cpu" => return Ok(DeviceName::Cpu),
            "cuda" => Some(0),
            _ => text.strip_prefix("cuda:").and_then(|n| n.parse().ok()),
        };
        number
            .map(DeviceName::Cuda)
            .ok_or_else(|| format!("unknown device `{text}`: expected `cpu` or `cuda:N`"))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceName::Cpu => f.write_str("cpu"),
            DeviceName::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl DeviceName {
    /// The device, ready to use. A binary built against the CPU libtorch loads `libtorch_cuda.so` here.
    ///
    /// # Errors
    /// No CUDA libraries on the library path, no such device.
    pub(crate) fn open(self) -> Result<Device> {
        let DeviceName::Cuda(number) = self else {
            return Ok(Device::Cpu);
        };
        let count = cuda_devices()?;
        if number as i64 >= count {
            return Err(ModelError::Internal(format!(
                "device `{self}` does not exist: libtorch sees {count} CUDA devices; check `nvidia-smi` and `CUDA_VISIBLE_DEVICES`, or use `--device cpu`"
            )));
        }
        Ok(Device::Cuda(number))
    }
}

/// Number of CUDA devices that libtorch sees.
///
/// # Errors
/// No CUDA libraries on the library path.
pub(super) fn cuda_devices() -> Result<i64> {
    use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
    // Before libtorch is first asked about its CUDA backend (it remembers the answer), that is made known.
    // SAFETY: loading a library runs its initialisers; this one registers the backend, which is what is wanted.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| {
        ModelError::Internal(format!(
            "no CUDA: `libtorch_cuda.so` could not be loaded ({error}); put the `lib` folder of a PyTorch 2.11 installation with CUDA first in `LD_LIBRARY_PATH` (`python3 -c 'import torch; print(torch.__path__[0] + \"/lib\")'` prints it), or use `--device cpu`"
        ))
    })?;
    // Its registrations must outlive every tensor.
    std::mem::forget(library);
    Ok(Cuda::device_count())
}

/// Sets the number of threads: of tiles evaluated side by side, each of which libtorch works off on one thread, and of everything else.
pub fn set_threads(count: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(count)
        .start_handler(|_| machine::work_in_batches())
        .build_global()
        .map_err(|error| ModelError::Internal(format!("threads: {error}")))
}

/// What is recorded with every pack of cells: it is in no key, but a reader may want to know.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Provenance {
    pub(crate) dial: String,
    /// The pair of bindings and library this was built for.
    pub(crate) libtorch: String,
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// The processor's name, where the system tells it.
    pub(crate) cpu: Option<String>,
}

impl Provenance {
    /// Of this process.
    pub(crate) fn here(device: DeviceName) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = info.lines().find_map(|line| {
            line.strip_prefix("model name")?
                .split_once(':')
                .map(|(_, name)| name.trim().to_string())
        });
        Provenance {
            dial: env!("CARGO_PKG_VERSION").to_string(),
            libtorch: libtorch::MADE_FOR.to_string(),
            device: device.to_string(),
            threads: rayon::current_num_threads(),
            cpu,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, device) in [("cpu", DeviceName::Cpu), ("cuda:3", DeviceName::Cuda(3))] {
            assert_eq!(text.parse(), Ok(device));
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert!(
            "gpu"
                .parse::<DeviceName>()
                .is_err_and(|m| m.contains("`gpu`") && m.contains("cuda:N"))
        );
    }

    #[test]
    fn cuda_without_its_library_says_what_to_do() {
        if std::process::Command::new("nvidia-smi").output().is_ok() {
            eprintln!("skipped: this machine has a GPU");
            return;
        }
        let message = DeviceName::Cuda(0).open().map_err(|e| e.to_string());
        assert!(
            message.is_err_and(|m| m.contains("libtorch_cuda.so") && m.contains("LD_LIBRARY_PATH"))
        );
    }
}
