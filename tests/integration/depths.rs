//! `layer = "all"` with models of unequal depth: every layer of each model, in every kind of stage, and the tables say which.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::checkpoint::{INSTRUCT, N_LAYERS, Recipe, write};
use crate::prompts::main_set;
use crate::workbench::{Run, Workbench};

const SHALLOW: usize = N_LAYERS - 1;
const PROMPTS: usize = 10;

const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[models.other]
source = "other"
[prompts.main]
path = "main.jsonl"
[stages.score]
model = "inst"
prompts = "main"
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 2
layer = 1
[stages.steer]
model = ["inst", "other"]
prompts = "main"
direction = "direction"
layer = "all"
alpha = [1, 2]
[stages.generate]
model = ["other", "inst"]
prompts = "main"
direction = "direction"
layer = "all"
alpha = 1
limit = 1
max_new_tokens = 1
[stages.random]
model = ["inst", "other"]
prompts = "main"
seed = 0
layer = "all"
alpha = [1, 2]
[stages.holdout]
model = ["inst", "other"]
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = 0
n = 1
layer = "all"
site = "resid_post"
alpha = [1, 2]
"#;

/// A folder with the model `inst`, and another of that many layers.
fn bench(layers: usize) -> Workbench {
    let bench = Workbench::new(&main_set(PROMPTS - 4, 4));
    write(&bench.path("other"), Recipe { layers, ..INSTRUCT });
    bench
}

/// The layers that a stage's table has of a model.
fn layers(run: &Run, bench: &Workbench, stage: &str, model: &str) -> BTreeSet<usize> {
    let rows = run.table(bench, stage).with(&[("model", model)]);
    let layers = rows.numbers("layer");
    layers.into_iter().map(|layer| layer as usize).collect()
}

/// What the key of a stage says of its models' depths.
fn depths(run: &Run, bench: &Workbench, stage: &str) -> Value {
    let text = std::fs::read_to_string(run.file(bench, "run.json")).unwrap();
    let manifest: Value = serde_json::from_str(&text).unwrap();
    let mut stages = manifest["stages"].as_array().unwrap().iter();
    let stage = stages.find(|found| found["name"] == stage).unwrap();
    stage["inputs"]["depths"].clone()
}

#[test]
fn every_layer_of_each_model_is_in_the_table_of_every_kind() {
    let bench = bench(SHALLOW);
    let run = bench.run(STUDY).ok();
    for stage in ["steer", "generate", "random", "holdout"] {
        let of = |model| layers(&run, &bench, stage, model);
        assert_eq!(of("inst"), (0..N_LAYERS).collect(), "{stage}");
        assert_eq!(of("other"), (0..SHALLOW).collect(), "{stage}");
    }
    // Only what was wrong has another key than before.
    assert_eq!(depths(&run, &bench, "steer"), json!([N_LAYERS, SHALLOW]));
    assert_eq!(depths(&run, &bench, "generate"), json!([SHALLOW, N_LAYERS]));
    for stage in ["score", "direction", "random", "holdout"] {
        assert_eq!(depths(&run, &bench, stage), Value::Null, "{stage}");
    }
}

#[test]
fn models_of_one_depth_have_the_keys_they_had() {
    let bench = bench(N_LAYERS);
    let run = bench.run(STUDY).ok();
    for stage in ["steer", "generate", "random", "holdout"] {
        assert_eq!(depths(&run, &bench, stage), Value::Null, "{stage}");
        let of = |model| layers(&run, &bench, stage, model);
        assert_eq!(
            (of("inst"), of("other")),
            ((0..N_LAYERS).collect(), (0..N_LAYERS).collect())
        );
    }
    // Named layers are the same whatever the depth.
    let shallow = self::bench(SHALLOW);
    let named = STUDY.replace("layer = \"all\"", "layer = [0, 2]");
    let run = shallow.run(&named).ok();
    assert_eq!(depths(&run, &shallow, "steer"), Value::Null);
}

#[test]
fn what_it_would_cost_is_what_is_computed() {
    let bench = bench(SHALLOW);
    bench.write("study.toml", STUDY);
    let plan = bench.dial(&["plan", "study.toml", "--format", "json"]);
    let plan: Value = serde_json::from_str(&plan.stdout).unwrap();
    let run = bench.run(STUDY).ok();
    let planned = |name: &str| {
        let mut stages = plan["stages"].as_array().unwrap().iter();
        let stage = stages.find(|stage| stage["name"] == name).unwrap();
        stage["cells_at_most"].as_u64().unwrap()
    };
    let rows = |name: &str| run.table(&bench, name).0.len() as u64;
    assert_eq!(planned("steer"), rows("steer"));
    assert_eq!(rows("steer"), ((N_LAYERS + SHALLOW) * 2 * PROMPTS) as u64);
    assert_eq!(planned("random"), rows("random"));
    // A score and a text for each row.
    assert_eq!(planned("generate"), 2 * rows("generate"));
}
