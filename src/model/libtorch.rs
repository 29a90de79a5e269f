//! Which libtorch this process has loaded, and what CUDA devices it sees.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libloading::os::unix::Library;

/// The version that the bindings are made for.
pub(crate) const MADE_FOR: &str = "2.11.0";

/// The libtorch of this process.
#[derive(Clone, Debug)]
pub(crate) struct Libtorch {
    /// `major.minor.patch`, as the library itself says.
    pub(crate) version: String,
    /// The file that was loaded.
    pub(crate) path: PathBuf,
}

impl Libtorch {
    /// The one that is loaded; none where it does not tell, as those before 2.10 do not.
    pub(crate) fn loaded() -> Option<Self> {
        type AbiVersion = unsafe extern "C" fn() -> u64;
        let process = Library::this();
        // SAFETY: the type is that of the header `torch/csrc/inductor/aoti_torch/c/shim.h`.
        let function = unsafe { process.get::<AbiVersion>(b"aoti_torch_abi_version\0") }.ok()?;
        // SAFETY: it takes nothing and returns a constant.
        let version = unsafe { function() };
        // The system lists what is mapped into this process, a line each, with the file's path at its end.
        let mapped = std::fs::read("/proc/self/maps").ok()?;
        let mut lines = mapped.split(|byte| *byte == b'\n');
        let line = lines.find(|line| line.ends_with(b"/libtorch_cpu.so"))?;
        let start = line.iter().position(|byte| *byte == b'/')?;
        Some(Self {
            version: shown(version),
            path: OsStr::from_bytes(&line[start..]).into(),
        })
    }

    /// Whether the part for CUDA lies beside it.
    pub(crate) fn has_cuda(&self) -> bool {
        self.path.with_file_name("libtorch_cuda.so").exists()
    }
}

/// Whether the system has a driver for NVIDIA's devices.
pub(crate) fn has_cuda_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

/// A version as `torch/headeronly/version.h` packs it: a byte each for major, minor and patch, from the highest.
fn shown(version: u64) -> String {
    let [major, minor, patch, ..] = version.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loaded_library_says_what_it_is() {
        let loaded = Libtorch::loaded().unwrap();
        assert_eq!(loaded.version, MADE_FOR);
        assert!(loaded.path.is_file(), "{loaded:?}");
        let name = loaded.path.file_name().unwrap().to_string_lossy();
        assert!(name.starts_with("libtorch"), "{loaded:?}");
    }

    #[test]
    fn versions_are_read_from_their_bytes() {
        assert_eq!(shown(0x020b_0100_0000_0007), "2.11.1");
    }
}
