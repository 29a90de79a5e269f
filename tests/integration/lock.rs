//! The lock of a study: what it has, what it refuses, what it warns of.

use insta::assert_snapshot;

use crate::checkpoint::{copied, planted_models};
use crate::prompts::{jsonl, main_set};
use crate::workbench::{SCORES, Said, Workbench};

/// A bench with the study, the model in a folder of its own, and the lock.
fn locked() -> Workbench {
    let bench = Workbench::new(&main_set(4, 4));
    copied(&planted_models().join("inst"), bench.path("mine"));
    bench.write("study.toml", SCORES.replace("models/inst", "mine"));
    let said = bench.dial(&["lock", "study.toml"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stderr.trim_end(), "wrote study.lock");
    bench
}

fn text(bench: &Workbench) -> String {
    std::fs::read_to_string(bench.path("study.lock")).unwrap()
}

fn edit(bench: &Workbench, from: &str, to: &str) {
    let text = text(bench);
    assert!(text.contains(from), "{text}");
    bench.write("study.lock", text.replace(from, to));
}

fn run(bench: &Workbench, option: &str) -> Said {
    bench.dial(&["run", "study.toml", "--threads", "1", option])
}

/// What `run --locked` and `lock --check` say, which is the same, and that nothing was computed.
fn refused(bench: &Workbench) -> String {
    let checked = bench.dial(&["lock", "study.toml", "--check"]);
    let said = run(bench, "--locked");
    assert_eq!(said.message(7), checked.message(7));
    assert!(!bench.path("runs").exists());
    said.stderr
}

/// Digits in backticks that begin a hash, or a whole value, are made `…`.
fn without_hashes(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(index, part)| {
        let digits = part.split(' ').next().unwrap_or_default();
        let is_hash = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        match index % 2 == 1 && is_hash {
            true => "…".to_string(),
            false => part.to_string(),
        }
    });
    parts.collect::<Vec<_>>().join("`")
}

#[test]
fn the_same_study_has_the_same_lock_wherever_it_lies_and_a_run_keeps_it() {
    let bench = locked();
    let first = text(&bench);
    for line in [
        "format = 1",
        "[environment]",
        "[models.inst]",
        "source = \"mine\"",
        "[models.inst.files.\"config.json\"]",
        "[models.inst.files.\"model.safetensors\"]",
        "[models.inst.files.\"tokenizer.json\"]",
        "[prompts.main]",
        "path = \"main.jsonl\"",
        "[stages]",
    ] {
        assert!(first.lines().any(|found| found == line), "{line}\n{first}");
    }
    let again = bench.dial(&["lock", "study.toml"]);
    assert_eq!((again.code, again.stdout.as_str()), (0, ""), "{again:?}");
    assert_eq!(text(&bench), first);
    assert_eq!(text(&locked()), first);
    let checked = bench.dial(&["lock", "study.toml", "--check=strict"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let said = run(&bench, "--locked=strict");
    assert_eq!(said.code, 0, "{said:?}");
    let kept = std::fs::read_to_string(bench.path("runs/study/latest/study.lock"));
    assert_eq!(kept.unwrap(), first);
}

#[test]
fn a_study_that_was_never_locked_is_refused() {
    let bench = Workbench::new(&main_set(4, 4));
    bench.write("study.toml", SCORES);
    let said = run(&bench, "--locked");
    assert_snapshot!(said.message(2), @"error: `study.lock` does not exist; write it with `dial lock study.toml`");
}

#[test]
fn edited_prompts_are_refused() {
    let bench = locked();
    bench.write("main.jsonl", jsonl(&main_set(4, 5)));
    assert_snapshot!(without_hashes(&refused(&bench)), @r"
    error: the study is not what `study.lock` says, and nothing was computed
      prompt set `main`, content: `…` → `…`
      prompt set `main`, prompts: `8` → `9`
    where that is meant, write the lock again with `dial lock study.toml`
    ");
    // Locked again, it says what has changed, and runs.
    let said = bench.dial(&["lock", "study.toml"]);
    assert!(said.stdout.contains("prompts: `8` → `9`"), "{said:?}");
    assert_eq!(run(&bench, "--locked").code, 0);
}

#[test]
fn other_weights_and_another_template_are_refused() {
    let bench = locked();
    let weights = bench.path("mine/model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    bench.write("mine/model.safetensors", bytes);
    let said = refused(&bench);
    assert!(
        said.contains("model `inst`, file `model.safetensors`: `"),
        "{said}"
    );
    assert!(said.contains("model `inst`, fingerprint: `"), "{said}");
    assert!(!said.contains("chat template"), "{said}");

    let bench = locked();
    bench.write(
        "mine/chat_template.jinja",
        "{% for message in messages %}{{ message.content }}{% endfor %}",
    );
    let said = refused(&bench);
    assert!(said.contains("model `inst`, chat template: `"), "{said}");
    assert!(
        said.contains("file `chat_template.jinja`: nothing → `"),
        "{said}"
    );
}

#[test]
fn another_version_of_a_stage_kind_is_refused() {
    let bench = locked();
    let version = text(&bench);
    let version = version.lines().find(|line| line.starts_with("score = "));
    let version = version.unwrap().trim_start_matches("score = ");
    edit(&bench, &format!("score = {version}"), "score = 77");
    let expected = format!("stage kind `score`, version: `77` → `{version}`");
    let said = refused(&bench);
    assert!(said.contains(&expected), "{said}");
}

#[test]
fn another_environment_is_a_warning_and_strictly_a_refusal() {
    let bench = locked();
    edit(&bench, "device = \"cpu\"", "device = \"cuda:3\"");
    let strict = run(&bench, "--locked=strict");
    assert_snapshot!(strict.message(7), @r"
    error: the study is not what `study.lock` says, and nothing was computed
      device: `cuda:3` → `cpu`
    where that is meant, write the lock again with `dial lock study.toml`
    ");
    assert_eq!(
        bench.dial(&["lock", "study.toml", "--check=strict"]).code,
        7
    );
    let checked = bench.dial(&["lock", "study.toml", "--check"]);
    assert_eq!(checked.code, 0, "{checked:?}");
    assert_snapshot!(checked.stderr.trim_end(), @r"
    warning: the environment is not what `study.lock` says
      device: `cuda:3` → `cpu`
    the study is what study.lock says
    ");
    let said = run(&bench, "--locked");
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stderr.matches("device: `cuda:3` → `cpu`").count(), 1);
}

#[test]
fn a_damaged_lock_and_a_later_one_are_told() {
    let bench = locked();
    edit(&bench, "bytes = ", "bytes = -");
    let said = run(&bench, "--locked");
    assert_eq!(said.code, 2, "{said:?}");
    assert!(
        said.stderr.starts_with("error: the lock is damaged: "),
        "{said:?}"
    );
    assert!(said.stderr.contains("--> study.lock:"), "{said:?}");
    bench.write("study.lock", "format = 2\n");
    let said = run(&bench, "--locked");
    assert!(
        said.message(1)
            .starts_with("error: `study.lock` has format `2`, and this dial, "),
        "{said:?}"
    );
    // It is mended by writing it again.
    assert_eq!(bench.dial(&["lock", "study.toml"]).code, 0);
    assert_eq!(run(&bench, "--locked").code, 0);
}
