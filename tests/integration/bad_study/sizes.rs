//! Studies that hold too much, and names that files cannot have.

use insta::assert_snapshot;

use super::{STUDY, refusal_of};

#[test]
fn of_many_problems_twenty_are_shown() {
    let fields: String = (0..500).map(|n| format!("k{n} = {n}\n")).collect();
    let message = refusal_of("many.toml", &format!("{fields}{STUDY}"), &[]);
    assert_eq!(message.matches("unknown field").count(), 40, "{message}");
    assert!(message.ends_with("… and 480 more errors"), "{message}");
}

#[test]
fn names_that_files_cannot_have() {
    let long = "s".repeat(151);
    let text = STUDY.replace(
        "[stages.steer]",
        &format!("[stages.{long}]\nkind = \"steer\""),
    );
    let message = refusal_of("long.toml", &text, &[]);
    assert!(
        message.starts_with("error: a stage's name of 151 bytes cannot name files\n"),
        "{message}"
    );
    assert!(message.contains("expected 150 bytes at most"), "{message}");
    let text = format!("[study]\nname = \"{}\"\n{STUDY}", "n".repeat(201));
    let message = refusal_of("long.toml", &text, &[]);
    assert!(message.contains("cannot name a folder"), "{message}");
}

#[test]
fn lists_that_multiply_beyond_what_can_be_computed() {
    let text = format!(
        "{STUDY}\n[stages.random]\nmodel = \"inst\"\nprompts = \"main\"\nseed = \"0..1000000\"\nlayer = \"all\"\nalpha = [{}]\n",
        (0..100)
            .map(|n| n.to_string())
            .collect::<Vec<_>>()
            .join(", ")
    );
    assert_snapshot!(refusal_of("wide.toml", &text, &[]), @r"
    error: stage `random` asks for 8000000000 cells
      --> wide.toml:21:1
       |
    21 | [stages.random]
       | ^^^^^^^^^^^^^^^ expected 1000000000 at most
       |
       = help: shorten a list, or make it several stages
       = note: models × prompts × directions × layers × α, each as long as its list
    ");
}
