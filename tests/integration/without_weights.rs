//! A study whose model is here without its weights: it is planned, looked up and locked as with the whole model, and computes nothing.

use refusal_dial::inside::plan::{Fetch, open_study};
use refusal_dial::inside::spec;

use crate::prompts::main_set;
use crate::workbench::{SCORES, Workbench};

const STEERED: &str = r#"
[stages.random]
model = "inst"
prompts = "main"
seed = 0
layer = 1
alpha = [-2, 2]
[stages.generate]
model = "inst"
prompts = "main"
limit = 2
max_new_tokens = 3
"#;

const SENT: &str = "models.inst.source=sent/inst";

/// A bench with a finished run, and its model in `sent/inst` without its weights.
fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(4, 4));
    bench.run(&format!("{SCORES}{STEERED}")).ok();
    let document = spec::load(&bench.path("study.toml"), &[]).unwrap();
    let opened = open_study(document, "study", &bench.path("cache"), Fetch::Never);
    let opened = opened.map_err(|error| error.to_string()).unwrap();
    for (name, bytes) in opened.inputs.models["inst"]
        .write_recorded("models/inst")
        .unwrap()
    {
        bench.write(&format!("sent/inst/{name}"), bytes);
    }
    bench
}

#[test]
fn what_is_cached_needs_no_weights_and_what_is_not_says_so() {
    let bench = bench();
    let study = "study.toml";
    let plan = bench.dial(&["plan", study, "--set", SENT]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
    let explained = bench.dial(&["explain", study, "--set", SENT]);
    assert!(!explained.stdout.contains("run "), "{explained:?}");
    let run = bench.dial(&["run", study, "--set", SENT]);
    assert_eq!(run.code, 0, "{run:?}");

    let more = ["--set", "stages.random.alpha=[-2, 2, 3]"];
    let plan = bench.dial(&[&["plan", study, "--set", SENT], &more[..]].concat());
    assert_eq!(plan.code, 0, "{plan:?}");
    let run = bench.dial(&[&["run", study, "--set", SENT], &more[..]].concat());
    assert_ne!(run.code, 0, "{run:?}");
    let expected = "model `inst` is here without its weights (`";
    assert!(run.stderr.contains(expected), "{run:?}");
    assert!(
        run.stderr.contains("`--set models.inst.source=SOURCE`"),
        "{run:?}"
    );
    // With the model itself only what is new is computed: 8 prompts with one α.
    let run = bench.run_with(&format!("{SCORES}{STEERED}"), &more).ok();
    assert_eq!((run.computed("random"), run.computed("score")), (8, 0));
}

#[test]
fn its_lock_is_that_of_the_whole_model() {
    let bench = bench();
    let locked = bench.dial(&["lock", "study.toml"]);
    assert_eq!(locked.code, 0, "{locked:?}");
    let checked = bench.dial(&["lock", "study.toml", "--check=strict", "--set", SENT]);
    assert_eq!(checked.code, 0, "{checked:?}");

    // Other weights by their hash, everything else as it was: the folder contradicts itself.
    let path = bench.path("sent/inst/model.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let mut model: serde_json::Value = serde_json::from_str(&text).unwrap();
    let files = model["files"].as_array_mut().unwrap();
    let weights = files
        .iter_mut()
        .find(|file| file["weights"] == true)
        .unwrap();
    weights["blake3"] = "0".repeat(64).into();
    bench.write("sent/inst/model.json", model.to_string());
    let checked = bench.dial(&["lock", "study.toml", "--check", "--set", SENT]);
    assert_ne!(checked.code, 0, "{checked:?}");
    let expected = "the fingerprint of what lies here is `";
    assert!(checked.stderr.contains(expected), "{checked:?}");
}
