//! Parse the arguments, do what they ask, end with the code that says how it went.

use std::process::ExitCode;

fn main() -> ExitCode {
    refusal_dial::cli::main()
}
