//! Writes the folder of the libtorch libraries into every binary, so that the finished `dial` and the
//! tests start with no environment variables.
//!
//! The folder goes into RUNPATH rather than RPATH: the loader reads `LD_LIBRARY_PATH` before it, which lets
//! one binary run against another installation of the same version, say a PyTorch with CUDA. RUNPATH does not
//! reach the libraries that libtorch_cpu.so itself needs; those it finds beside itself, by its own `$ORIGIN`.
//! Nothing here forces libtorch_cuda.so to be linked: the program opens it when a CUDA device is asked for. And `dial` is kept from being linked
//! with libtorch at all, so that it starts at once; `dial-engine` is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const FETCHED_LIBRARIES: &str = "third_party/libtorch/lib";

/// Prints where the package `torch` is installed, without the seconds that importing it takes.
const PRINT_TORCH_FOLDER: &str = "import importlib.util as util; \
    print(util.find_spec('torch').submodule_search_locations[0])";

/// What the initialisers of the bindings' C++ part use of libtorch.
const USED_BY_INITIALISERS: [&str; 7] = [
    "_ZN3c1019UndefinedTensorImpl10_singletonE",
    "_ZN3c106detail23torchInternalAssertFailEPKcS2_jS2_RKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE",
    "_ZN3c106detail23torchInternalAssertFailEPKcS2_jS2_S2_",
    "_ZN5torch3jit6tracer12TracingStateD1Ev",
    "_ZNK3c1010TensorImpl15decref_pyobjectEv",
    "_ZNK3c1010TensorImpl15incref_pyobjectEv",
    "_ZNK3c106IValue12isTensorListEv",
];

/// Leaves those initialisers out of the program.
const LEAVES_OUT_INITIALISERS: &str = "\
SECTIONS
{
  /DISCARD/ : { *torch_api*(.init_array) }
}
INSERT AFTER .text;
";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match linked_libraries() {
        Ok(folder) => {
            println!("cargo::rerun-if-changed={}", folder.display());
            emit_link_arguments(&folder);
            if let Err(error) = keep_libtorch_out_of_dial() {
                println!("cargo::error=cannot write the linker's script: {error}");
            }
        }
        Err(message) => println!("cargo::error={message}"),
    }
}

/// Emits the RUNPATH of binaries: first the libraries linked against, if they are not the fetched ones; then the
/// fetched ones relative to the binary (in `target/release`, or `target/release/deps` for tests), which survives
/// moving the project; then their absolute path, for a target folder that lies elsewhere.
fn emit_link_arguments(linked: &Path) {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join(FETCHED_LIBRARIES);
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg=-Wl,--enable-new-dtags");
    }
    if linked != fetched {
        emit_runpath(&linked.display().to_string());
    }
    emit_runpath(&format!("$ORIGIN/../../{FETCHED_LIBRARIES}"));
    emit_runpath(&format!("$ORIGIN/../../../{FETCHED_LIBRARIES}"));
    emit_runpath(&fetched.display().to_string());
}

/// `dial` reaches nothing of libtorch (`src/model/linked.rs`), and the linker leaves out what is not reached, and libraries of which nothing is
/// left. But it takes every initialiser of an object file for reached, and the bindings' C++ part has two, for globals that only its functions
/// use. They are left out here, and what they alone use becomes the address of `main`, which nobody calls. Where a linker does otherwise, or
/// another version uses other symbols, libtorch is loaded when `dial` starts: slower, and as right, since the program shows it none of its own
/// symbols. A test holds that it is not loaded.
fn keep_libtorch_out_of_dial() -> std::io::Result<()> {
    if !env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        return Ok(());
    }
    let folder = env::var_os("OUT_DIR").unwrap_or_default();
    let script = Path::new(&folder).join("leave-out-initialisers.ld");
    std::fs::write(&script, LEAVES_OUT_INITIALISERS)?;
    let shown = Path::new(&folder).join("shows-nothing.map");
    std::fs::write(&shown, "{ local: *; };\n")?;
    println!("cargo::rustc-link-arg-bin=dial=-Wl,-T,{}", script.display());
    println!("cargo::rustc-link-arg-bin=dial=-Wl,--version-script={}", shown.display());
    for symbol in USED_BY_INITIALISERS {
        println!("cargo::rustc-link-arg-bin=dial=-Wl,--defsym={symbol}=main");
    }
    Ok(())
}

fn emit_runpath(folder: &str) {
    println!("cargo::rustc-link-arg=-Wl,-rpath,{folder}");
}

/// The folder of the libraries that torch-sys links, found by the same variables in the same order.
///
/// # Errors
/// A sentence for a person, when there is no such folder.
fn linked_libraries() -> Result<PathBuf, String> {
    let folder = linked_by_variables()?;
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(format!(
        "no libtorch in `{}`: run `scripts/setup.sh libtorch`, or set LIBTORCH to an unpacked libtorch 2.11.0",
        folder.display()
    ))
}

fn linked_by_variables() -> Result<PathBuf, String> {
    if tracked_variable("LIBTORCH_USE_PYTORCH").is_some() {
        return Ok(python_torch_folder()?.join("lib"));
    }
    let given = tracked_variable("LIBTORCH_LIB").or_else(|| tracked_variable("LIBTORCH"));
    // `.cargo/config.toml` sets LIBTORCH wherever the person has not.
    given.map(|folder| folder.join("lib")).ok_or_else(|| {
        "LIBTORCH is not set: build from within the project, whose `.cargo/config.toml` sets it"
            .to_owned()
    })
}

fn tracked_variable(name: &str) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={name}");
    env::var_os(name).map(PathBuf::from)
}

fn python_torch_folder() -> Result<PathBuf, String> {
    let in_environment = tracked_variable("VIRTUAL_ENV").is_some();
    let python = if in_environment { "python" } else { "python3" };
    let output = Command::new(python)
        .args(["-c", PRINT_TORCH_FOLDER])
        .output()
        .map_err(|error| {
            format!("LIBTORCH_USE_PYTORCH is set, but `{python}` does not start: {error}")
        })?;
    if !output.status.success() {
        return Err(format!(
            "LIBTORCH_USE_PYTORCH is set, but `{python}` finds no package `torch`: install it"
        ));
    }
    Ok(PathBuf::from(
        String::from_utf8_lossy(&output.stdout).trim(),
    ))
}
