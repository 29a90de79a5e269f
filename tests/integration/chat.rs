//! The section `[chat]`, and what templates and tokenizers of other people's models do with it.

use std::path::PathBuf;

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::checkpoint::planted_models;
use crate::prompts::{Prompt, jsonl, main_set};
use crate::workbench::{Run, Workbench, copy_folder};

const STUDY: &str = r#"[models.inst]
source = "copy"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
"#;

/// As ChatML has it.
const PLAIN: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
/// With a system message of its own where none is given, as Qwen2.5 has it.
const DEFAULTING: &str = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a tiny model.<|im_end|>\n{% endif %}";
/// With a date before everything, as Llama 3.1 has it.
const DATED: &str = "<|im_start|>system\nCutting Knowledge Date: December 2023\nToday Date: {{ strftime_now('%d %b %Y') }}<|im_end|>\n";
const REFUSING: &str = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";

/// A bench whose folder `copy` has the planted model with another template.
fn bench(template: &str) -> Workbench {
    bench_with(template, &main_set(12, 8))
}

fn bench_with(template: &str, prompts: &[Prompt]) -> Workbench {
    let bench = Workbench::new(prompts);
    copy_folder(&planted_models().join("inst"), &bench.path("copy"));
    let config = json!({ "chat_template": template, "eos_token": "<|im_end|>" });
    bench.write("copy/tokenizer_config.json", config.to_string());
    bench
}

fn manifest(bench: &Workbench, run: &Run) -> Value {
    serde_json::from_slice(&std::fs::read(run.file(bench, "run.json")).unwrap()).unwrap()
}

fn findings(bench: &Workbench, run: &Run) -> Vec<String> {
    serde_json::from_value(manifest(bench, run)["findings"].clone()).unwrap()
}

#[test]
fn mistakes_are_told_where_they_are() {
    let bench = bench(PLAIN);
    let chat = "[chat]\nsystem = 3\nspecial_tokens = \"txt\"\n[chat.template_arguments]\nmessages = []\nbos_token = \"a\"\n\"a b\" = 1\ny = [1.5, nan]\n";
    assert_snapshot!(bench.refusal(&format!("{STUDY}{chat}")).message(2), @r#"
    error: `chat.system` is the integer `3`, not a string, or `false` to leave the system message out
     --> study.toml:9:10
      |
    9 | system = 3
      |          ^ expected a string, or `false` to leave the system message out

    error: `chat.special_tokens` cannot be `txt`
      --> study.toml:10:18
       |
    10 | special_tokens = "txt"
       |                  ^^^^^ did you mean `text`?
       |
       = help: it is one of `parsed`, `text`

    error: template argument `messages` cannot be given: the program sets it itself
      --> study.toml:12:1
       |
    12 | messages = []
       | ^^^^^^^^ remove it

    error: template argument `bos_token` cannot be given: the tokenizer's files say what it is
      --> study.toml:13:1
       |
    13 | bos_token = "a"
       | ^^^^^^^^^ remove it

    error: no template can have a variable `a b`
      --> study.toml:14:1
       |
    14 | "a b" = 1
       | ^^^^^ expected letters, digits and `_`

    error: `chat.template_arguments.y[1]` is the number `NaN`, not a finite number
      --> study.toml:15:11
       |
    15 | y = [1.5, nan]
       |           ^^^ expected a finite number
    "#);
    let chat = "[chat]\ntemplate_arguments = true\nsytem = false\n";
    assert_snapshot!(bench.refusal(&format!("{STUDY}{chat}")).message(2), @r#"
    error: `chat.template_arguments` is the boolean `true`, not a table, e.g. `{ enable_thinking = false }`
     --> study.toml:9:22
      |
    9 | template_arguments = true
      |                      ^^^^ expected a table, e.g. `{ enable_thinking = false }`

    error: `chat` has an unknown field `sytem`
      --> study.toml:10:1
       |
    10 | sytem = false
       | ^^^^^ did you mean `system`?
       |
       = help: known fields: `system`, `template_arguments`, `special_tokens`
    "#);
}

#[test]
fn a_template_that_takes_no_system_message_names_the_switch() {
    let bench = bench(&format!("{REFUSING}{PLAIN}"));
    assert_snapshot!(bench.refusal(STUDY).message(2), @r#"
    error: model `inst` takes no system message: chat template: System role not supported (line 1)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this model
      |
      = help: leave it out with `[chat] system = false`
    "#);
    let given = format!("{STUDY}[chat]\nsystem = \"Be brief.\"\n");
    assert_snapshot!(bench.refusal(&given).message(2), @r#"
    error: model `inst` takes no system message: chat template: System role not supported (line 1)
     --> study.toml:9:10
      |
    9 | system = "Be brief."
      |          ^^^^^^^^^^^ this system message
      |
      = help: leave it out with `[chat] system = false`
    "#);
    bench.run(&format!("{STUDY}[chat]\nsystem = false\n")).ok();
}

#[test]
fn a_template_that_ignores_the_prompt_is_an_error_before_the_run() {
    let bench = bench("<|im_start|>{{ messages[0].role }}<|im_end|>");
    bench.write("study.toml", STUDY);
    assert_snapshot!(bench.dial(&["plan", "study.toml"]).message(2), @r#"
    error: chat template: it ignores the prompt: `Why?` and `3 is a number` become the same tokens
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this model
    "#);
}

#[test]
fn a_template_without_end_is_an_error_of_the_plan() {
    let bench =
        bench("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}");
    bench.write("study.toml", STUDY);
    assert_snapshot!(bench.dial(&["plan", "study.toml"]).message(2), @r#"
    error: chat template: it does not come to an end within reason (line 1)
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this model
    "#);
}

#[test]
fn a_tokenizer_that_draws_is_refused() {
    let bench = bench(PLAIN);
    let path = bench.path("copy/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    tokenizer["model"] = json!({"type": "BPE", "dropout": 0.5, "vocab": {"a": 0}, "merges": []});
    bench.write("copy/tokenizer.json", tokenizer.to_string());
    assert_snapshot!(bench.refusal(STUDY).message(2), @r#"
    error: model `inst` cannot be used: `copy/tokenizer.json`: not a tokenizer that can be used: `dropout` is 0.5, so that the same text has other tokens every time, expected 0 or null; it is for training, so set it to null in the file
     --> study.toml:2:10
      |
    2 | source = "copy"
      |          ^^^^^^ this source
    "#);
}

#[test]
fn the_prompt_as_the_model_reads_it_is_in_the_manifest_and_the_report() {
    let bench = bench(PLAIN);
    let run = bench.run(STUDY).ok();
    let first = &main_set(12, 8)[0];
    let example = &manifest(&bench, &run)["models"]["inst"]["example"];
    let rendered = format!(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        first.text
    );
    assert_eq!(
        example,
        &json!({ "prompts": "main", "prompt": first.id, "rendered": rendered })
    );
    let page = std::fs::read_to_string(run.file(&bench, "report.html")).unwrap();
    let shown = rendered.replace('<', "&lt;").replace('>', "&gt;");
    assert!(page.contains(&shown.replace('/', "&#x2f;")) || page.contains(&shown));
    assert_eq!(findings(&bench, &run), [""; 0]);
}

#[test]
fn text_that_a_template_inserts_is_a_finding() {
    let without = format!("{STUDY}[chat]\nsystem = false\n");
    let told = |template: &str, study: &str| {
        let bench = bench(template);
        let run = bench.run(study).ok();
        findings(&bench, &run)
    };
    let inserts = "model `inst`: its chat template inserts text that the study does not give: ";
    let defaulting = format!("{DEFAULTING}{PLAIN}");
    assert_eq!(told(&defaulting, STUDY), [""; 0]);
    assert_eq!(
        told(&defaulting, &without),
        [format!("{inserts}`You are a tiny model.`")]
    );
    assert_eq!(told(PLAIN, &without), [""; 0]);
    let date = format!("{inserts}`Cutting Knowledge Date: December 2023 Today Date: 26 Jul 2024`");
    for study in [STUDY, &without] {
        assert_eq!(told(&format!("{DATED}{PLAIN}"), study), [date.as_str()]);
    }
    let user_only =
        "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(
        told(user_only, STUDY),
        ["model `inst`: its chat template leaves the system message out"]
    );
    assert_eq!(told(user_only, &without), [""; 0]);
}

/// Marks for training write nothing and change no number.
#[test]
fn generation_blocks_are_read_over() {
    let marked = PLAIN.replace(
        "{{ m.content }}",
        "{%- if 1 %}\n{% endif %}{%- generation -%} {{ m.content }} {%- endgeneration -%} ",
    );
    let (plain, marked) = (bench(PLAIN), bench(&marked));
    let rendered = |bench: &Workbench| {
        let run = bench.run(STUDY).ok();
        let example = manifest(bench, &run)["models"]["inst"]["example"]["rendered"].clone();
        (example, run.table(bench, "score").0.len())
    };
    assert_eq!(rendered(&marked).1, rendered(&plain).1);
    let text = rendered(&marked).0;
    assert!(!text.as_str().unwrap().contains("generation"), "{text}");
}

#[test]
fn template_arguments_change_the_text_and_with_it_the_numbers() {
    let bench = bench(&format!(
        "{PLAIN}{{% if enable_thinking is defined and enable_thinking is false %}}calm1 calm2{{% endif %}}"
    ));
    let plain = bench.run(STUDY).ok();
    assert_eq!(plain.status("score"), "computed");
    let study = format!("{STUDY}[chat]\ntemplate_arguments = {{ enable_thinking = false }}\n");
    let changed = bench.run(&study).ok();
    assert_eq!(changed.computed("score"), 20);
    assert_ne!(changed.tables(&bench), plain.tables(&bench));
    // The value that the template takes anyway gives the same text, and so the cells that are there.
    let same = bench.run(&study.replace("false", "true")).ok();
    assert_eq!((same.computed("score"), same.cached("score")), (0, 20));
    assert_eq!(same.tables(&bench), plain.tables(&bench));
    assert_eq!(bench.run(STUDY).ok().status("score"), "cached");
    // A name that the template does not know is told.
    let typo = bench
        .run(&study.replace("enable_thinking", "enable_thinkng"))
        .ok();
    assert_eq!(
        findings(&bench, &typo),
        [
            "model `inst`: its chat template does not read `enable_thinkng` of `chat.template_arguments`"
        ]
    );
}

#[test]
fn what_is_new_in_the_section_is_explained_under_its_name() {
    let bench = bench(PLAIN);
    let chat = "[chat]\ntemplate_arguments = { day = \"Monday\", deep = { a = 1 } }\n";
    bench.run(&format!("{STUDY}{chat}")).ok();
    let chat = "[chat]\ntemplate_arguments = { day = \"Sunday\", deep = { a = 2 } }\nspecial_tokens = \"text\"\n";
    bench.write("study.toml", format!("{STUDY}{chat}"));
    let said = bench.dial(&["explain", "study.toml", "score"]);
    let lines: Vec<&str> = said
        .stdout
        .lines()
        .map(|line| line.split("  (since").next().unwrap_or(line))
        .collect();
    assert_snapshot!(lines.join("\n"), @r#"
    stage  would  what differs                    old → new
    score  run    chat.special_tokens             none → "text"
                  chat.template_arguments.day     "Monday" → "Sunday"
                  chat.template_arguments.deep.a  1 → 2
    "#);
}

/// Five prompts, of which four spell out control tokens.
fn with_control() -> Vec<Prompt> {
    let mut prompts = main_set(6, 0);
    for (number, prompt) in prompts.iter_mut().enumerate().take(5) {
        prompt.text = match number {
            0 => "calm1 calm2".to_string(),
            _ => format!("calm{number} <|im_end|>. calm2 a<|im_start|>b calm3"),
        };
    }
    prompts
}

#[test]
fn control_tokens_in_prompts_are_told_or_read_as_text() {
    let bench = bench_with(PLAIN, &with_control());
    let parsed = bench.run(STUDY).ok();
    assert_snapshot!(findings(&bench, &parsed).join("\n"), @r#"prompt set `main`: a control token of model `inst` that a prompt spells out is read as such (4 of 6, first `edge-01` (`<|im_end|>`), `edge-02` (`<|im_end|>`), `edge-03` (`<|im_end|>`)); `[chat] special_tokens = "text"` makes it text"#);
    let text = bench
        .run(&format!("{STUDY}[chat]\nspecial_tokens = \"text\"\n"))
        .ok();
    assert_eq!(findings(&bench, &text), [""; 0]);
    // Prompts without control tokens have the ids that they had, and so their cells.
    assert_eq!((text.computed("score"), text.cached("score")), (4, 2));
    let named = bench
        .run(&format!("{STUDY}[chat]\nspecial_tokens = \"parsed\"\n"))
        .ok();
    assert_eq!(named.status("score"), "cached");
    let system = format!("{STUDY}[chat]\nsystem = \"Stop at <|im_end|>.\"\n");
    bench.write("main.jsonl", jsonl(&main_set(4, 0)));
    let run = bench.run(&system).ok();
    assert_eq!(
        findings(&bench, &run),
        [
            "the system message spells out `<|im_end|>`, a control token of model `inst`, which reads it as such; `[chat] special_tokens = \"text\"` makes it text"
        ]
    );
    // This tokenizer knows whole words only, and `<|im_end|>` is one of them.
    let mut alone = main_set(4, 0);
    alone[2].text = "calm1 <|im_end|> calm2".to_string();
    bench.write("main.jsonl", jsonl(&alone));
    let said = bench.refusal(&format!("{STUDY}[chat]\nspecial_tokens = \"text\"\n"));
    assert_snapshot!(said.last_line(1), @"error: stage `score`: prompt `edge-02`: tokenizer: control token `<|im_end|>` is a word of its vocabulary, too, so that it cannot be read as text");
}

/// A folder that lends its template lends what is wrong with it.
#[test]
fn a_lent_template_is_checked_with_the_borrower() {
    let bench = bench(&format!("{DATED}{PLAIN}"));
    let study = format!(
        "[models.lender]\nsource = \"copy\"\n{}",
        STUDY.replace("\"copy\"", "\"models/inst\"\ntemplate_from = \"lender\"")
    );
    let run = bench.run(&study).ok();
    assert_eq!(findings(&bench, &run).len(), 1);
    let _: PathBuf = run.file(&bench, "run.json");
}
