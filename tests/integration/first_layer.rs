//! The first site, where the last token of the chat is the same vector for every prompt: there is no direction, and the other layers have
//! theirs.

use serde_json::Value;

use crate::prompts::main_set;
use crate::workbench::{Run, Workbench};

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[prompts.xs]
path = "xstest.csv"
[stages.score]
model = "inst"
prompts = "main"
"#;

fn direction(layer: &str) -> String {
    format!(
        r#"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 4
layer = {layer}
"#
    )
}

/// Everything that takes directions.
const REST: &str = r#"
[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-1, 0, 1]
[stages.elsewhere]
kind = "steer"
model = "inst"
prompts = "main"
direction = "direction"
layer = [0, 1]
alpha = 1
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..2"
n = 2
layer = "all"
alpha = [-1, 0, 1]
[stages.random]
model = "inst"
prompts = "main"
seed = "0..3"
layer = "all"
alpha = [-1, 0, 1]
alpha_unit = "pre_norm"
reference = "direction"
[stages.xstest]
model = "inst"
prompts = "xs"
direction = "direction"
alpha = [0, 1]
[stages.generate]
model = "inst"
prompts = "main"
limit = 2
direction = "direction"
alpha = 1
max_new_tokens = 2
[stages.summary]
steer = "steer"
random = "random"
holdout = "holdout"
"#;

fn bench() -> Workbench {
    Workbench::new(&main_set(16, 6))
}

fn layers(run: &Run, bench: &Workbench, table: &str) -> Vec<String> {
    let table = run.table(bench, table);
    let mut layers: Vec<String> = table
        .0
        .iter()
        .map(|row| row.text("layer").to_string())
        .collect();
    layers.sort();
    layers.dedup();
    layers
}

fn findings(run: &Run, bench: &Workbench, stage: &str) -> Vec<String> {
    let text = std::fs::read_to_string(run.file(bench, "run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let stages = manifest["stages"].as_array().unwrap();
    let stage = stages.iter().find(|s| s["name"] == stage).unwrap();
    let findings = stage["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| finding.as_str().unwrap().to_string())
        .collect()
}

#[test]
fn it_is_left_out_with_a_finding_wherever_directions_go_and_the_others_are_as_without_it() {
    let bench = bench();
    let study = [HEAD, &direction("\"all\""), REST].concat();
    bench.write("study.toml", &study);
    let plan = bench.dial(&["plan", "study.toml", "--format", "json"]);
    assert_eq!(plan.code, 0, "{plan:?}");
    let run = bench.run(&study).ok();
    for table in [
        "direction",
        "direction.members",
        "steer",
        "holdout",
        "random",
        "xstest",
        "generate",
    ] {
        assert_eq!(layers(&run, &bench, table), ["1", "2", "3"], "{table}");
    }
    let shuffled = run.table(&bench, "direction.shuffled");
    assert_eq!(shuffled.with(&[("layer", "1")]).0.len(), 20);
    assert_eq!(shuffled.0.len(), 60);
    // A direction of another layer may act at the first.
    assert_eq!(layers(&run, &bench, "elsewhere"), ["0", "1"]);
    for stage in ["direction", "holdout"] {
        let [finding] = &findings(&run, &bench, stage)[..] else {
            panic!("{:?}", findings(&run, &bench, stage));
        };
        assert!(
            finding.starts_with("layer 0 is left out: at `resid_pre`, position -1, the mean activations of the two groups are the same"),
            "{finding}"
        );
    }
    let random = findings(&run, &bench, "random");
    assert_eq!(
        random,
        [
            "left out at layer 0: stage `direction` has no direction there to take the unit of α from"
        ]
    );
    // The bits of the others, and what steers with them, are those of a study that never asked.
    let without = self::bench();
    let rest = REST.replace("layer = \"all\"", "layer = [1, 2, 3]");
    let other = without
        .run(&[HEAD, &direction("[1, 2, 3]"), &rest].concat())
        .ok();
    for name in [
        "direction",
        "direction.shuffled",
        "steer",
        "holdout",
        "random",
        "generate",
    ] {
        let bytes = |run: &Run, bench: &Workbench| {
            std::fs::read(run.file(bench, &format!("tables/{name}.csv"))).unwrap()
        };
        assert_eq!(bytes(&run, &bench), bytes(&other, &without), "{name}");
    }
    let vector = |run: &Run, bench: &Workbench| {
        std::fs::read(run.file(bench, "directions/direction.layer2.resid_pre.safetensors")).unwrap()
    };
    assert_eq!(vector(&run, &bench), vector(&other, &without));
    assert_eq!(bench.run(&study).ok().all_computed(), []);
}

/// A range is how people write "all", and a list is as good: what can be had is given.
#[test]
fn it_is_left_out_of_a_list_too() {
    let bench = bench();
    let run = bench.run(&[HEAD, &direction("[0, 2]")].concat()).ok();
    assert_eq!(layers(&run, &bench, "direction"), ["2"]);
    assert!(
        run.said.stderr.contains("note: layer 0 is left out"),
        "{}",
        run.said.stderr
    );
}

#[test]
fn alone_it_is_an_error() {
    let said = bench().refusal(&[HEAD, &direction("0")].concat());
    let line = said.last_line(1);
    assert!(line.contains("the direction at layer 0 is zero"), "{line}");
    assert!(line.contains("the two groups do not differ"), "{line}");
}
