//! What a cell's value depends on is in its key, and nothing else is: one case per field and one per non-field, counted in cells computed.

use std::sync::OnceLock;

use crate::checkpoint::{INSTRUCT, Recipe, config, copied, planted_models, write};
use crate::prompts::{Prompt, jsonl, main_set, sentence};
use crate::workbench::{Run, Workbench};

const EDGE: usize = 12;
const HARMFUL: usize = 8;

const STUDY: &str = r#"
[models.inst]
source = "models/inst"

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
n = 4
layer = [2]

[stages.steer]
model = "inst"
prompts = "main"
direction = "direction"
alpha = [-2, 0, 2]

[stages.random]
model = "inst"
prompts = "main"
seed = [0, 1]
layer = [2]
alpha = [-2, 0, 2]

[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = 0
n = 2
layer = 2
alpha = [-2, 2]

[stages.patch]
pairing = "prompts"
model = "inst"
donors = "harmful"
recipients = "edge"
prompts = "main"
layer = [1]
site = ["resid_pre"]

[stages.generate]
model = "inst"
prompts = "main"
limit = 2
max_new_tokens = 3
"#;

fn prompts() -> Vec<Prompt> {
    main_set(EDGE, HARMFUL)
}

/// A working folder in which the study has been run, and that run.
fn first() -> &'static (Workbench, Run) {
    static FIRST: OnceLock<(Workbench, Run)> = OnceLock::new();
    FIRST.get_or_init(|| {
        let bench = Workbench::new(&prompts());
        let run = bench.run(STUDY).ok();
        (bench, run)
    })
}

/// The run after a change to the study's text.
#[track_caller]
fn after_edit(from: &str, to: &str) -> Run {
    assert!(STUDY.contains(from), "`{from}` is not in the study");
    first().0.copy().run(&STUDY.replace(from, to)).ok()
}

/// The run after overrides.
#[track_caller]
fn after_set(overrides: &[&str]) -> Run {
    let arguments: Vec<&str> = overrides.iter().flat_map(|text| ["--set", text]).collect();
    first().0.copy().run_with(STUDY, &arguments).ok()
}

/// The run after a change to the prompts.
#[track_caller]
fn after_prompts(change: impl Fn(&mut Vec<Prompt>)) -> Run {
    let bench = first().0.copy();
    let mut changed = prompts();
    change(&mut changed);
    bench.write("main.jsonl", jsonl(&changed));
    bench.run(STUDY).ok()
}

/// The run after a change to a copy of the model, whose folder the closure is given.
#[track_caller]
fn after_model(change: impl Fn(&std::path::Path)) -> Run {
    let bench = first().0.copy();
    let folder = copied(&planted_models().join("inst"), bench.path("other"));
    change(&folder);
    bench.run(&STUDY.replace("models/inst", "other")).ok()
}

/// No cell was computed.
#[track_caller]
fn assert_nothing(run: &Run) {
    assert_eq!(run.all_computed(), [], "{}", run.said.stderr);
}

/// No stage was even run.
#[track_caller]
fn assert_all_cached(run: &Run) {
    assert_nothing(run);
    for stage in run.json["stages"].as_array().unwrap() {
        assert_eq!(stage["status"], "cached", "{stage}");
    }
}

/// Every stage computed as if there were no cache.
#[track_caller]
fn assert_everything(run: &Run) {
    for (stage, count) in [
        ("score", 20),
        ("direction", 8),
        ("steer", 40),
        ("random", 80),
        ("patch", 16),
        ("generate", 4),
    ] {
        assert_eq!(run.computed(stage), count, "{stage}\n{}", run.said.stderr);
    }
    assert!(run.computed("holdout") >= 40, "{}", run.said.stderr);
}

#[test]
fn a_first_run_computes_each_cell_once() {
    let run = &first().1;
    assert_everything(run);
    // α = 0 is the score evaluation; a continuation's score and a patched pair's two scores are it too.
    assert_eq!(
        (
            run.cached("steer"),
            run.cached("random"),
            run.cached("patch"),
            run.cached("generate")
        ),
        (20, 20, 16, 4)
    );
}

#[test]
fn a_second_run_reads_one_record_per_stage() {
    let run = first().0.copy().run(STUDY).ok();
    assert_all_cached(&run);
    assert_eq!(run.cached("steer"), 60);
    assert!(
        !run.said.stderr.contains("loading model"),
        "{}",
        run.said.stderr
    );
    assert_eq!(
        run.json["equivalent_forward_passes"],
        first().1.json["equivalent_forward_passes"]
    );
}

mod what_is_added {
    use super::*;

    #[test]
    fn an_alpha() {
        assert_eq!(
            after_set(&["stages.steer.alpha=[-2, 0, 1, 2]"]).all_computed(),
            [("steer", 20)]
        );
    }

    #[test]
    fn a_layer() {
        assert_eq!(
            after_set(&["stages.random.layer=[2, 3]"]).all_computed(),
            [("random", 80)]
        );
        assert_eq!(
            after_set(&["stages.direction.layer=[2, 3]"]).all_computed(),
            [("direction", 8), ("steer", 40)]
        );
        // Eight donors' activations and eight patched scores.
        assert_eq!(
            after_set(&["stages.patch.layer=[1, 2]"]).all_computed(),
            [("patch", 16)]
        );
    }

    #[test]
    fn a_prompt() {
        let run = after_prompts(|prompts| {
            let last = prompts.last().unwrap().clone();
            prompts.push(Prompt {
                id: "new".to_string(),
                text: sentence(500, 5),
                ..last
            });
        });
        // It is a donor too: its activation, and the score it gives.
        let expected = [
            ("score", 1),
            ("steer", 2),
            ("random", 4),
            ("holdout", 2),
            ("patch", 2),
        ];
        assert_eq!(run.all_computed(), expected);
        // The same activations give the same direction, and the wave stops there but for the new prompt.
        assert_eq!(
            (run.status("direction"), run.computed("direction")),
            ("computed", 0)
        );
    }

    #[test]
    fn a_seed() {
        assert_eq!(
            after_set(&["stages.random.seed=\"0..3\""]).all_computed(),
            [("random", 40)]
        );
    }

    #[test]
    fn a_site() {
        assert_eq!(
            after_set(&["stages.patch.site=[\"resid_pre\", \"attn_out\"]"]).all_computed(),
            [("patch", 16)]
        );
    }
}

mod what_does_not_matter;

mod what_matters;
