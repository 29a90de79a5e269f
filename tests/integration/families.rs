//! A study on a tiny model of every family in `tests/families`: each is opened, scored, steered and continued by the program itself.

use std::path::{Path, PathBuf};

use insta::assert_snapshot;

use crate::prompts::Prompt;
use crate::workbench::Workbench;

/// The folders of the models, by name.
pub fn folders() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/families");
    let entries = std::fs::read_dir(root).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let models = paths.filter(|path| path.join("config.json").exists());
    let named = models.map(|path| {
        (
            path.file_name().unwrap().to_str().unwrap().to_string(),
            path,
        )
    });
    let mut folders: Vec<_> = named.collect();
    folders.sort();
    folders
}

/// Prompts in the words of their tokenizer.
pub fn prompts() -> Vec<Prompt> {
    let prompt = |number: usize| {
        let words = (0..4 + number % 3).map(|place| format!("w{}", (7 * number + 3 * place) % 39));
        Prompt {
            id: format!("p{number}"),
            text: words.collect::<Vec<_>>().join(" "),
            split: ["edge", "harmful"][number % 2].to_string(),
            category: "none".to_string(),
        }
    };
    (0..8).map(prompt).collect()
}

/// A folder with these prompts and models, each with a chat template.
pub fn bench(prompts: &[Prompt], folders: &[(String, PathBuf)]) -> Workbench {
    let bench = Workbench::new(prompts);
    for (name, folder) in folders {
        for file in ["config.json", "model.safetensors", "tokenizer.json"] {
            let content = std::fs::read(folder.join(file)).unwrap();
            bench.write(&format!("tiny/{name}/{file}"), content);
        }
        let template = "{% for message in messages %}w1 {{ message.content }} w2 {% endfor %}w3";
        bench.write(&format!("tiny/{name}/chat_template.jinja"), template);
    }
    bench
}

/// Their tables in a study, and the list of their names.
pub fn models(folders: &[(String, PathBuf)]) -> (String, String) {
    let tables = folders
        .iter()
        .map(|(name, _)| format!("[models.{name}]\nsource = \"tiny/{name}\"\n"));
    let names: Vec<String> = folders
        .iter()
        .map(|(name, _)| format!("\"{name}\""))
        .collect();
    (tables.collect(), format!("[{}]", names.join(", ")))
}

/// A chat, a score and the prompts for them.
pub const SETTINGS: &str = r#"
[chat]
system = false
[score]
refuse = ["w4", "w5"]
comply = ["w6", "w7"]
[prompts.main]
path = "main.jsonl"
"#;

#[test]
fn a_study_runs_on_every_family() {
    let folders = folders();
    assert!(folders.len() >= 20);
    let bench = bench(&prompts(), &folders);
    let (tables, names) = models(&folders);
    let study = format!(
        r#"{tables}{SETTINGS}
[stages.score]
model = {names}
prompts = "main"
[stages.random]
model = {names}
prompts = "main"
seed = 0
layer = "all"
site = "attn_out"
alpha = [-2, 2]
[stages.direction]
model = "gpt2"
prompts = "main"
scores = "score"
split = "edge"
n = 1
layer = 1
[stages.generate]
model = {names}
prompts = "main"
direction = "direction"
alpha = 2
limit = 1
max_new_tokens = 4
"#
    );
    bench.write("study.toml", study);
    let run = bench.dial(&["run", "study.toml"]);
    assert_eq!(run.code, 0, "{run:?}");
    let plan = bench.dial(&["plan", "study.toml"]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
}

#[test]
fn a_site_that_a_parallel_block_has_not() {
    let mut folders = folders();
    folders.retain(|(name, _)| name == "gpt_neox_parallel");
    let bench = bench(&prompts(), &folders);
    let (tables, names) = models(&folders);
    let study = format!(
        "{tables}{SETTINGS}
[stages.random]
model = {names}
prompts = \"main\"
seed = 0
layer = 1
site = \"resid_mid\"
alpha = 2
"
    );
    bench.write("study.toml", study);
    let said = bench.dial(&["plan", "study.toml"]);
    assert_snapshot!(said.stderr, @r"
    error: stage `random` names the site `resid_mid`, which model `gpt_neox_parallel` has not
      --> study.toml:12:1
       |
    12 | [stages.random]
       | ^^^^^^^^^^^^^^^
       |
       = help: name a site that it has
       = note: blocks of a `gpt_neox` have `resid_pre`, `z`, `attn_out`, `mlp_post`, `mlp_out`, `resid_post`
    ");
}

/// A text of more than 16 tokens is turned by another list of factors, from its first position on. The template adds 3 tokens to each prompt, so
/// that one stays short, two grow long with the eight tokens that follow (the second with the first of them), and two are long. Expected is
/// what transformers' `generate` says to each alone.
#[test]
fn texts_of_phi3_on_both_sides_of_the_border() {
    let expected = [
        (5, "w35 w5 w16 w16 w32 w32 w32 w32"),
        (9, "w36 w11 w11 w11 w38 w3 w36 w36"),
        (13, "w23 w11 w10 w12 w2 w36 w11 w38"),
        (14, "w35 w5 w5 w5 w5 w9 w35 w35"),
        (20, "w36 w36 w11 w38 w33 w35 w24 w4"),
    ];
    let prompts = expected.iter().enumerate().map(|(number, (length, _))| {
        let words = (0..*length).map(|at| format!("w{}", (7 * number + 3 * at + at * at) % 39));
        Prompt {
            id: format!("p{number}"),
            text: words.collect::<Vec<_>>().join(" "),
            split: "edge".to_string(),
            category: "none".to_string(),
        }
    });
    let mut folders = folders();
    folders.retain(|(name, _)| name == "phi3_longrope");
    let bench = bench(&prompts.collect::<Vec<_>>(), &folders);
    let (tables, names) = models(&folders);
    let study = format!(
        "{tables}{SETTINGS}
[stages.generate]
model = {names}
prompts = \"main\"
max_new_tokens = 8
"
    );
    let run = bench.run(&study).ok();
    let table = run.table(&bench, "generate");
    let texts: Vec<&str> = table.0.iter().map(|row| row.text("text")).collect();
    assert_eq!(texts, expected.map(|(_, text)| text));
    // The longest text that the file allows for is still the longest.
    let refused = bench.refusal(&study.replace("= 8", "= 64"));
    assert_snapshot!(refused.stderr, @r"
    error: `max_new_tokens = 64` leaves no room for a prompt
      --> study.toml:15:18
       |
    15 | max_new_tokens = 64
       |                  ^^ model `phi3_longrope` reads at most 64 tokens
    ");
}
