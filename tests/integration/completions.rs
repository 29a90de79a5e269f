//! Scripts for shells: each is there, names the commands, and is one that its shell can read.

use std::process::Command;

use crate::prompts::main_set;
use crate::workbench::Workbench;

const COMMANDS: [&str; 5] = ["run", "plan", "explain", "completions", "doctor"];

/// The script for a shell, which has to name every command and some options.
fn script(bench: &Workbench, shell: &str) -> String {
    let said = bench.dial(&["completions", shell]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{shell}");
    // Fish writes options without their dashes.
    for word in COMMANDS.into_iter().chain(["keep-going", "older-than"]) {
        assert!(said.stdout.contains(word), "{shell} lacks {word}");
    }
    said.stdout
}

/// Whether a shell finds no fault with a script that it reads and does not run; true where there is no such shell.
fn is_readable(bench: &Workbench, shell: &str, arguments: &[&str], script: &str) -> bool {
    let file = format!("dial.{shell}");
    bench.write(&file, script);
    let mut command = Command::new(shell);
    command.args(arguments).arg(bench.path(&file));
    match command.output() {
        Ok(output) => output.status.success() && output.stderr.is_empty(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[test]
fn every_shell_gets_a_script_that_names_the_commands() {
    let bench = Workbench::new(&main_set(1, 1));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = script(&bench, shell);
        assert!(
            !matches!(shell, "bash" | "zsh" | "fish")
                || is_readable(&bench, shell, &["-n"], &script)
        );
    }
    let said = bench.dial(&["completions", "ksh"]);
    assert!(
        said.message(2)
            .contains("[possible values: bash, elvish, fish, powershell, zsh]")
    );
}

/// What a person sees who types `dial ca` and the tabulator.
#[test]
fn bash_completes_a_command_and_its_options() {
    let bench = Workbench::new(&main_set(1, 1));
    bench.write("dial.bash", script(&bench, "bash"));
    let complete = |words: &str| {
        let program = format!(
            "source ./dial.bash; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _dial dial \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo ${{COMPREPLY[@]}}"
        );
        let mut bash = Command::new("bash");
        let output = bash.args(["-c", &program]).current_dir(bench.path(""));
        let output = output.output().expect("`bash` is needed for this test");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("dial ca"), "cache\n");
    assert_eq!(complete("dial run --ke"), "--keep-going\n");
    assert_eq!(complete("dial plan --format j"), "json\n");
}
