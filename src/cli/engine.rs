//! Going on as `dial-engine`: the same program, linked with libtorch.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Beside the program itself.
const NAME: &str = "dial-engine";

/// Puts `dial-engine` in the place of this process, with the same arguments: it starts from the beginning, and finds what was fetched and
/// hashed. Where that cannot be done, says why.
pub(super) fn go_on() -> String {
    let here = match std::env::current_exe() {
        Ok(here) => here,
        Err(error) => return format!("the program does not find itself: {error}"),
    };
    let engine = here.with_file_name(NAME);
    let mut arguments = std::env::args_os();
    let error = Command::new(&engine)
        .arg0(arguments.next().unwrap_or_default())
        .args(arguments)
        .exec();
    format!(
        "cannot start `{}`: {error}; it computes with libtorch and belongs beside `dial`: build both with `cargo build --release`, and copy both",
        engine.display()
    )
}
