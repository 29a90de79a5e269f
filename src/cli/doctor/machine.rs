//! What the arithmetic runs on.

use indicatif::{BinaryBytes, DecimalBytes};

use super::Check;
use crate::machine;
use crate::model::libtorch::{Libtorch, MADE_FOR, has_cuda_driver};
use crate::model::{DeviceName, Provenance, cuda_devices};

/// A small model with the prefixes of its prompts takes about that much memory.
const LITTLE_MEMORY: usize = 1 << 30;

pub(super) fn libtorch() -> Check {
    let other = format!(
        "`dial` is made for {MADE_FOR}: run `scripts/setup.sh libtorch`, or put the `lib` folder of that version first in `LD_LIBRARY_PATH`"
    );
    let Some(libtorch) = Libtorch::loaded() else {
        return Check::warning("it does not say which version it is", other);
    };
    let parts = match libtorch.has_cuda() {
        true => "with CUDA",
        false => "CPU only",
    };
    let found = format!(
        "{}, {parts}, `{}`",
        libtorch.version,
        libtorch.path.display()
    );
    match libtorch.version == MADE_FOR {
        true => Check::ok(found),
        false => Check::warning(found, other),
    }
}

pub(super) fn devices() -> Check {
    let cpu = match Provenance::here(DeviceName::Cpu).cpu {
        Some(name) => format!("cpu ({name})"),
        None => "cpu".to_string(),
    };
    if !has_cuda_driver() {
        return Check::ok(format!("{cpu}; no NVIDIA driver"));
    }
    match cuda_devices() {
        Ok(0) => Check::warning(
            format!("{cpu}; an NVIDIA driver is there, but libtorch sees no CUDA device"),
            "check `nvidia-smi` and `CUDA_VISIBLE_DEVICES`, or compute with `--device cpu`",
        ),
        Ok(count) => {
            let names = (0..count).map(|number| format!(", cuda:{number}"));
            Check::ok(cpu + &names.collect::<String>())
        }
        Err(error) => Check::warning(
            format!("{cpu}; an NVIDIA driver is there, and cannot be used"),
            error.to_string(),
        ),
    }
}

pub(super) fn threads() -> Check {
    let (cores, processors) = (machine::physical_cores(), machine::logical_processors());
    Check::ok(format!(
        "{cores} unless `--threads` says otherwise (physical cores; {processors} processors)"
    ))
}

pub(super) fn memory() -> Check {
    let Some(memory) = machine::memory() else {
        return Check::ok("the system does not tell how much there is");
    };
    let shown = |bytes: usize| BinaryBytes(bytes as u64).to_string();
    let found = format!(
        "{} of {} are free",
        shown(memory.available_bytes),
        shown(memory.total_bytes)
    );
    match memory.available_bytes < LITTLE_MEMORY {
        false => Check::ok(found),
        true => Check::warning(
            found,
            format!(
                "end other programs, take a smaller model, or bound what is kept of prompts with `--memory`: a small model takes {}",
                DecimalBytes(LITTLE_MEMORY as u64)
            ),
        ),
    }
}
