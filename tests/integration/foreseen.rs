//! What cached cells already decide, a plan knows, and a study that cannot run leaves nothing behind.

use serde_json::Value;

use crate::prompts::{jsonl, main_set};
use crate::screens::{STUDY, bench};
use crate::workbench::Workbench;

/// Of each stage, what it would do and how many cells it computes at most.
fn planned(bench: &Workbench, arguments: &[&str]) -> Vec<(String, String, u64)> {
    let said = bench.dial(&[&["plan", "study.toml", "--format", "json"], arguments].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let plan: Value = serde_json::from_str(&said.stdout).unwrap();
    let stages = plan["stages"].as_array().unwrap().iter();
    let text = |stage: &Value, field: &str| stage[field].as_str().unwrap().to_string();
    stages
        .map(|stage| {
            let cells = stage["computes_at_most"].as_u64().unwrap();
            (text(stage, "name"), text(stage, "status"), cells)
        })
        .collect()
}

#[test]
fn another_threshold_or_category_computes_no_cell_and_the_plan_says_so() {
    let bench = bench();
    bench.run(STUDY).ok();
    let before = bench.stage_records().len();
    let plan = planned(&bench, &["--set", "score.threshold=0.5"]);
    assert!(plan.iter().all(|(.., cells)| *cells == 0), "{plan:?}");
    assert!(
        plan.iter().any(|(_, status, _)| status == "run"),
        "{plan:?}"
    );
    assert_eq!(bench.stage_records().len(), before, "a plan keeps nothing");
    let run = bench
        .run_with(STUDY, &["--set", "score.threshold=0.5"])
        .ok();
    assert_eq!(run.all_computed(), []);
    let mut prompts = main_set(12, 8);
    prompts[0].category = "another".to_string();
    bench.write("main.jsonl", jsonl(&prompts));
    let plan = planned(&bench, &[]);
    assert!(plan.iter().all(|(.., cells)| *cells == 0), "{plan:?}");
    assert_eq!(bench.run(STUDY).ok().all_computed(), []);
}

#[test]
fn a_study_that_cannot_run_leaves_nothing_behind() {
    let bench = bench();
    bench.write("study.toml", STUDY.replace("layer = 2\n", "layer = 9\n"));
    let before = crate::workbench::files_below(&bench.path("."));
    for command in ["plan", "explain", "run"] {
        assert_eq!(bench.dial(&[command, "study.toml"]).code, 2);
    }
    assert_eq!(crate::workbench::files_below(&bench.path(".")), before);
    assert!(!bench.path("cache").exists());
}
