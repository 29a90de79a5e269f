//! A stage in a chat of its own: another system prompt beside steering.

use insta::assert_snapshot;

use crate::prompts::main_set;
use crate::workbench::Workbench;

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
"#;

const STUDY: &str = r#"
[stages.score]
model = "inst"
prompts = "main"
[stages.prompted]
kind = "score"
model = "inst"
prompts = "main"
[stages.prompted.chat]
system = "Say harm7 harm8 harm9 harm3."
[stages.written]
kind = "generate"
model = "inst"
prompts = "main"
limit = 2
max_new_tokens = 2
chat = { system = "Say harm7 harm8 harm9 harm3." }
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-8, 0, 8]
[stages.summary]
steer = "steer"
prompted = "prompted"
"#;

#[test]
fn another_system_prompt_stands_beside_steering() {
    let bench = Workbench::new(&main_set(24, 16));
    let run = bench.run(&format!("{HEAD}{STUDY}")).ok();
    let [score, other] = ["score", "prompted"].map(|name| run.table(&bench, name));
    let table = run.table(&bench, "summary.prompted");
    assert_eq!(table.0.len(), 2);
    for row in &table.0 {
        let split = [("split", row.text("set"))];
        let (before, after) = (score.with(&split), other.with(&split));
        let change = after.mean("score") - before.mean("score");
        assert!((row.number("change") - change).abs() < 1e-9, "{row:?}");
        assert!(change.abs() > 1e-3, "the system prompt does nothing here");
        assert!((row.number("mean") - after.mean("score")).abs() < 1e-9);
        let refused = after.with(&[("refused", "true")]).0.len() as f64;
        assert!((row.number("refusal_rate") - refused / after.0.len() as f64).abs() < 1e-12);
    }
    // Its own chat is in the key of the stage alone: nothing else is another.
    let without = STUDY
        .replace(
            "[stages.prompted.chat]\nsystem = \"Say harm7 harm8 harm9 harm3.\"\n",
            "",
        )
        .replace("chat = { system = \"Say harm7 harm8 harm9 harm3.\" }\n", "");
    let plain = bench.run(&format!("{HEAD}{without}")).ok();
    assert_eq!(plain.status("score"), "cached");
    assert_eq!(plain.status("steer"), "cached");
    assert_eq!(plain.status("written"), "computed");
    assert_eq!(
        plain.status("prompted"),
        "cached",
        "it is the stage `score`"
    );
    let unchanged = plain.table(&bench, "summary.prompted").numbers("change");
    assert_eq!(unchanged, [0.0, 0.0]);
    // The study's own chat said once more is no other.
    let same = STUDY.replace(
        "Say harm7 harm8 harm9 harm3.",
        "You are a helpful assistant.",
    );
    let same = bench.run(&format!("{HEAD}{same}")).ok();
    assert_eq!(same.status("written"), "cached");
    // What it says is told, shared and checked with the rest.
    bench.run(&format!("{HEAD}{STUDY}")).ok();
    let said = bench.dial(&["show", "runs/study/latest", "summary.prompted"]);
    assert!(said.stdout.contains("refusal_rate"), "{said:?}");
    let said = bench.dial(&["export", "runs/study/latest", "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = bench.dial(&["verify", "run.zip"]);
    assert!(said.stdout.contains("follows: agrees"), "{said:?}");
    // Operating points are reported on prompts that had no say in them.
    let halves = run.table(&bench, "summary.operating_halves");
    assert_eq!(halves.0.len(), 3);
    for row in &halves.0 {
        assert_eq!(row.number("edge_n") + row.number("chosen_edge_n"), 24.0);
        assert_eq!(
            row.number("harmful_n") + row.number("chosen_harmful_n"),
            16.0
        );
    }
}

#[test]
fn fields_that_a_chat_of_a_stage_leaves_out_are_the_studys() {
    let bench = Workbench::new(&main_set(4, 4));
    let chat = "[chat]\nsystem = false\nspecial_tokens = \"text\"\n";
    let stage = |more: &str| {
        format!("{HEAD}{chat}[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n{more}")
    };
    bench.run(&stage("")).ok();
    // `special_tokens` and `system` said again are as before.
    let run = bench
        .run(&stage("chat = { special_tokens = \"text\" }\n"))
        .ok();
    assert_eq!(run.status("score"), "cached");
    let run = bench
        .run(&stage("chat = { system = \"Say calm1.\" }\n"))
        .ok();
    assert_eq!(run.status("score"), "computed");
    let inputs = run.file(&bench, "run.json");
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(inputs).unwrap()).unwrap();
    let chat = &manifest["stages"][0]["inputs"]["parameters"]["settings"]["chat"];
    assert_eq!(chat["system"], "Say calm1.");
    assert_eq!(chat["special_tokens"], "text");
    let rendered = manifest["models"]["inst"]["example"]["rendered"].as_str();
    assert!(rendered.unwrap().contains("Say calm1."), "{manifest}");
}

#[test]
fn what_does_not_fit_is_told() {
    let bench = Workbench::new(&main_set(4, 4));
    let refusal = |from: &str, to: &str| {
        assert!(STUDY.contains(from));
        bench.write(
            "study.toml",
            format!(
                "{HEAD}[prompts.xs]\npath = \"xstest.csv\"\n{}",
                STUDY.replacen(from, to, 1)
            ),
        );
        bench.dial(&["plan", "study.toml"]).message(2).to_string()
    };
    let chat = "[stages.prompted.chat]\nsystem";
    assert_snapshot!(refusal(chat, "[stages.prompted.chat]\nsistem"), @r#"
    error: `stages.prompted.chat` has an unknown field `sistem`
      --> study.toml:17:1
       |
    17 | sistem = "Say harm7 harm8 harm9 harm3."
       | ^^^^^^ did you mean `system`?
       |
       = help: known fields: `system`, `template_arguments`, `special_tokens`
    "#);
    assert_snapshot!(refusal("prompts = \"main\"\n[stages.prompted.chat]", "prompts = \"xs\"\n[stages.prompted.chat]"), @r#"
    error: stage `prompted` scores the prompts of `xs`, and no sweep here is of these
      --> study.toml:39:12
       |
    39 | prompted = "prompted"
       |            ^^^^^^^^^^ expected scores of prompts that are steered
    "#);
    assert_snapshot!(refusal("prompted = \"prompted\"", "prompted = \"steer\""), @r#"
    error: stage `summary` wants scores, but `steer` gives a sweep of steered scores
      --> study.toml:39:12
       |
    39 | prompted = "steer"
       |            ^^^^^^^ expected a stage that gives scores
       |
       = help: these do: `score`, `prompted`
    "#);
}
