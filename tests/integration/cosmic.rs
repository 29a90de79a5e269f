//! COSMIC's choice on the model of `tests/cosmic`, against what transformers computes there.

use std::path::Path;

use serde_json::Value;

use crate::prompts::Prompt;
use crate::workbench::{Run, Table, Workbench};

/// How far a cosine or a divergence may be from that of transformers: float32 in another order, through twenty layers.
const TOLERANCE: f64 = 5e-5;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cosmic")
}

fn reference() -> Value {
    let text = std::fs::read_to_string(folder().join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn rows<'r>(reference: &'r Value, key: &str) -> &'r Vec<Value> {
    reference[key].as_array().unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_string()
}

fn bench(reference: &Value) -> Workbench {
    let prompt = |prompt: &Value| Prompt {
        id: text(&prompt["id"]),
        text: text(&prompt["text"]),
        split: text(&prompt["split"]),
        category: "none".to_string(),
    };
    let prompts: Vec<Prompt> = rows(reference, "prompts").iter().map(prompt).collect();
    // The prompts that make directions are a set of their own.
    let (makers, others): (Vec<Prompt>, Vec<Prompt>) = prompts
        .into_iter()
        .partition(|prompt| prompt.split.starts_with("made"));
    let bench = Workbench::new(&others);
    let lines = makers.iter().map(|prompt| {
        serde_json::json!({ "id": prompt.id, "prompt": prompt.text, "split": prompt.split })
            .to_string()
    });
    bench.write("makers.jsonl", lines.collect::<Vec<_>>().join("\n"));
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        let content = std::fs::read(folder().join(file)).unwrap();
        bench.write(&format!("twenty/{file}"), content);
    }
    let template = "{% for message in messages %}w1 {{ message.content }} w2 {% endfor %}w3";
    bench.write("twenty/chat_template.jinja", template);
    bench
}

fn study(reference: &Value) -> String {
    let layers: Vec<String> = (1..20).map(|layer| layer.to_string()).collect();
    format!(
        r#"
[models.inst]
source = "twenty"
[chat]
system = false
[score]
refuse = ["w4", "w5"]
comply = ["w6", "w7"]
[prompts.main]
path = "main.jsonl"
[prompts.makers]
path = "makers.jsonl"
[stages.grid]
kind = "direction"
model = "inst"
prompts = "makers"
select = "splits"
a = "made_a"
b = "made_b"
position = "-4.."
layer = [{}]
[stages.select]
model = "inst"
prompts = "main"
direction = "grid"
harmful = "harmful"
harmless = "harmless"
method = "cosmic"
random = 0
max_kl = {}
"#,
        layers.join(", "),
        reference["max_kl"]
    )
}

#[track_caller]
fn assert_near(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() < TOLERANCE,
        "{what}: {found} and {expected}"
    );
}

fn assert_candidates(found: &Table, reference: &Value) {
    let expected = rows(reference, "candidates");
    assert_eq!(found.0.len(), expected.len());
    for (row, expected) in found.0.iter().zip(expected) {
        let place = format!(
            "position {} layer {}",
            expected["position"], expected["layer"]
        );
        assert_eq!(
            format!(
                "position {} layer {}",
                row.text("position"),
                row.text("layer")
            ),
            place
        );
        for number in ["bypass", "induce", "kl"] {
            assert_near(
                row.number(number),
                &expected[number],
                &format!("{number} at {place}"),
            );
        }
        assert_eq!(
            row.text("discarded"),
            text(&expected["discarded"]),
            "{place}"
        );
        let rank = expected["rank"].as_u64();
        let rank = rank.map_or(String::new(), |rank| rank.to_string());
        assert_eq!(row.text("rank"), rank, "{place}");
    }
}

#[test]
fn layers_cosines_and_the_choice_are_those_of_transformers() {
    let reference = reference();
    let bench = bench(&reference);
    let run: Run = bench.run(&study(&reference)).ok();
    let layers = run.table(&bench, "select.layers");
    let expected = rows(&reference, "layers");
    assert_eq!(layers.0.len(), expected.len());
    for (row, expected) in layers.0.iter().zip(expected) {
        let place = format!("layer {}", expected["layer"]);
        assert_near(row.number("cosine"), &expected["cosine"], &place);
        let is_compared = expected["compared"].as_bool().unwrap();
        assert_eq!(row.text("compared"), is_compared.to_string(), "{place}");
    }
    let choosing = |split: &str| {
        let prompts = rows(&reference, "prompts").iter();
        let of_half = prompts.filter(|p| p["half"] == "train" && p["split"] == split);
        of_half.count().to_string()
    };
    let checks = run
        .table(&bench, "select.checks")
        .with(&[("half", "train")]);
    for check in &checks.0 {
        assert_eq!(check.text("n_harmful"), choosing("harmful"));
        assert_eq!(check.text("n_harmless"), choosing("harmless"));
    }
    assert_candidates(&run.table(&bench, "select"), &reference);
}

/// Directions that come without prompts are compared where those that choose are least alike, and that is said.
#[test]
fn where_nothing_says_who_made_the_directions_the_prompts_that_choose_say_where() {
    let reference = reference();
    let bench = bench(&reference);
    let run = bench.run(&study(&reference)).ok();
    let files = crate::workbench::files_below(&run.file(&bench, "directions"));
    let one = files
        .iter()
        .find(|path| path.ends_with("grid.layer7.resid_pre.safetensors"))
        .unwrap();
    bench.write("one.safetensors", std::fs::read(one).unwrap());
    let (before, after) = (
        study(&reference),
        "[stages.grid]\nkind = \"vector\"\nmodel = \"inst\"\nfile = \"one.safetensors\"\nlayer = 7\n",
    );
    let (start, end) = (
        before.find("[stages.grid]").unwrap(),
        before.find("[stages.select]").unwrap(),
    );
    let elsewhere = format!("{}{after}{}", &before[..start], &before[end..])
        .replace("random = 0", "random = 0\nlast_layers = 0");
    let elsewhere = elsewhere.replace(
        &format!("max_kl = {}", reference["max_kl"]),
        "max_kl = 1000",
    );
    let run = bench.run(&elsewhere).ok();
    let told = "the prompts that made the directions of stage `grid` are not known here";
    assert!(run.said.stderr.contains(told), "{}", run.said.stderr);
    let cosines = |run: &Run| run.table(&bench, "select.layers").numbers("cosine");
    let all: Vec<f64> = rows(&reference, "layers")
        .iter()
        .map(|row| row["cosine"].as_f64().unwrap())
        .collect();
    assert!(
        cosines(&run)
            .iter()
            .zip(&all)
            .any(|(a, b)| (a - b).abs() > 0.01)
    );
}
