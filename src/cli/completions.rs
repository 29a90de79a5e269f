//! `dial completions`: a script that lets a shell complete the commands and their options.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, Failure, print_raw};

#[derive(Args)]
pub(super) struct CompletionsArguments {
    /// The shell to write it for.
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn completions(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let mut command = Arguments::command();
    let name = command.get_name().to_string();
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    print_raw(&String::from_utf8_lossy(&script))
}
