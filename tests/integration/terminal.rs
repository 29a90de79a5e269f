//! What comes from files is shown harmless: no message, table or log line obeys an escape sequence or turns around in a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::FromRawFd;
use std::process::Stdio;

use crate::prompts::main_set;
use crate::workbench::Workbench;

/// Sets a terminal's title, turns text around, hides, and begins a sequence in eight bits.
const EVIL: &str = "\u{1b}]0;title\u{7}\u{202e}\u{2067}\u{200b}\u{9b}2J\u{2028}\r";
/// The same as it is shown.
const SHOWN: &str = "\\u{1b}]0;title\\u{7}\\u{202e}\\u{2067}\\u{200b}\\u{9b}2J\\u{2028}\\r";

const STUDY: &str = r#"
[models."in\u001b]0;title\u0007st"]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "in\u001b]0;title\u0007st"
prompts = "main"
"#;

fn bench() -> Workbench {
    let mut prompts = main_set(12, 6);
    for prompt in &mut prompts[..2] {
        prompt.id += EVIL;
        prompt.category += EVIL;
        prompt.text += EVIL;
    }
    prompts[0].split += EVIL;
    Workbench::new(&prompts)
}

#[track_caller]
fn assert_harmless(text: &str) {
    let harmful = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{200b}' | '\u{2028}' | '\u{202e}' | '\u{2067}')
    };
    assert!(!text.contains(harmful), "{text:?}");
}

#[test]
fn tables_are_harmless_in_every_form_and_data_stays_what_it_is() {
    let bench = bench();
    bench.write("study.toml", STUDY);
    let said = bench.dial(&["run", "study.toml", "--threads", "1"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_harmless(&said.stderr);
    assert_harmless(&said.stdout);
    assert!(said.stdout.contains(SHOWN), "{}", said.stdout);
    let show = |format: &str| {
        let said = bench.dial(&["show", "runs/study/latest", "score", "--format", format]);
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout
    };
    for format in ["text", "md"] {
        let shown = show(format);
        assert_harmless(&shown);
        assert!(shown.contains(SHOWN), "{shown}");
    }
    let json = show("json");
    assert_harmless(&json);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["score"][0]["category"], format!("kind-0{EVIL}"));
    // Other programs get the bytes.
    assert!(show("csv").contains(EVIL));
    for command in [
        &["plan", "study.toml"][..],
        &["explain", "study.toml"],
        &["status"],
        &["diff", "runs/study/latest", "runs/study/latest"],
        &["plan", "study.toml", "--format", "json"],
    ] {
        let said = bench.dial(command);
        assert_harmless(&said.stdout);
        assert_harmless(&said.stderr);
    }
}

/// A terminal's two ends: where a test reads what is written into the other.
pub fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    let none = std::ptr::null_mut();
    // SAFETY: opens a terminal of its own; both numbers outlive the call.
    let opened = unsafe { libc::openpty(&mut ours, &mut theirs, none, none.cast(), none.cast()) };
    assert_eq!(opened, 0);
    // SAFETY: nothing else owns the two.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

#[test]
fn a_terminal_gets_csv_as_text() {
    let bench = bench();
    bench.write("study.toml", STUDY);
    assert_eq!(bench.dial(&["run", "study.toml", "--threads", "1"]).code, 0);
    let (mut ours, theirs) = terminal();
    let mut dial = bench
        .command(&[
            "show",
            "runs/study/latest",
            "score.means",
            "--format",
            "csv",
        ])
        .stdout(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let mut shown = Vec::new();
    // A terminal whose other end is closed gives an error at the end.
    let _ = ours.read_to_end(&mut shown);
    assert!(dial.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap().replace("\r\n", "\n");
    assert_harmless(&shown);
    assert!(shown.contains(SHOWN), "{shown:?}");
}

#[test]
fn complaints_are_harmless() {
    let bench = bench();
    let evil_key =
        format!("{STUDY}\n[stages.\"a\\u001b]0;title\\u0007\\u202e\"]\nkind = \"score\"\n");
    bench.write("evil.toml", &evil_key);
    bench.write(
        "raw.toml",
        format!("{STUDY}\n# {EVIL}\n[stages.x]\nkind = \"\u{202e}\u{200b}\u{9b}\"\n"),
    );
    let twice =
        serde_json::json!({ "id": EVIL, "prompt": "calm1", "split": "edge", "category": "k" });
    bench.write("main.jsonl", format!("{twice}\n{twice}\n"));
    bench.write("study.toml", STUDY);
    let missing = format!("no{EVIL}.toml");
    for command in [
        &["run", "evil.toml"][..],
        &["run", "raw.toml"],
        &["run", "study.toml"],
        &["run", &missing],
        &["show", &missing],
        &["diff", &missing, &missing],
        &["shw\u{1b}[31m\u{202e}"],
        &["run", "study.toml", "--thread\u{1b}]0;t\u{7}", "1"],
        &["run", "study.toml", "--set", "stages.score.\u{1b}[2J=1"],
    ] {
        let said = bench.dial(command);
        assert_ne!(said.code, 0, "{command:?}");
        assert_harmless(&said.stderr);
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
    // The texts are there, and shown.
    let said = bench.dial(&["run", "study.toml"]);
    assert!(said.stderr.contains(SHOWN), "{said:?}");
}

#[test]
fn log_lines_on_a_terminal_are_harmless() {
    let bench = bench();
    bench.write("study.toml", STUDY);
    let cache = format!("ca{EVIL}che");
    let run = || bench.dial(&["run", "study.toml", "--threads", "1", "--cache", &cache]);
    assert_eq!(run().code, 0);
    // A damaged record is told with its path.
    let folder = bench.path(&cache).join("v1/stages");
    for path in crate::workbench::files_below(&folder) {
        std::fs::write(path, "damaged").unwrap();
    }
    let said = run();
    assert_eq!(said.code, 0);
    assert!(said.stderr.contains("is damaged"), "{}", said.stderr);
    assert_harmless(&said.stderr);
}
