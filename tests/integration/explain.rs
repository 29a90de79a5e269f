//! Why a stage is not cached, said with what it was and what it is.

use insta::assert_snapshot;

use crate::prompts::{jsonl, main_set};
use crate::screens::{STUDY, bench, redacted};
use crate::workbench::{Workbench, files_below};

fn explain(bench: &Workbench, arguments: &[&str]) -> String {
    let said = bench.dial(&[&["explain", "study.toml"], arguments].concat());
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    redacted(&said.stdout)
}

#[test]
fn before_a_run_and_after_edits() {
    let bench = bench();
    assert_snapshot!(explain(&bench, &[]), @r"
    stage      would                    what differs       old → new
    score      run                      no earlier output
    direction  waits for score          no earlier output
    steer      waits for direction      no earlier output
    random     run                      no earlier output
    summary    waits for steer, random  no earlier output
    ");
    bench.run(STUDY).ok();
    assert_snapshot!(explain(&bench, &[]), @r"
    stage      would   what differs               old → new
    score      cached  made [when]
    direction  cached  made [when]
    steer      cached  made [when]
    random     cached  made [when]
    summary    cached  made [when]
    ");
    assert_snapshot!(explain(&bench, &["--set", "stages.steer.alpha=[-2,0,4]"]), @r"
    stage      would            what differs                                            old → new
    score      cached           made [when]
    direction  cached           made [when]
    steer      run              alpha                                                   [-2.0,0.0,2.0] → [-2.0,0.0,4.0]  (since [when])
    random     cached           made [when]
    summary    waits for steer  nothing else; cached if that gives what it gave before
    ");
    // Everything that a change to the prompts and to the score rule touches.
    bench.write("main.jsonl", jsonl(&main_set(13, 8)));
    assert_snapshot!(explain(&bench, &["--set", "score.threshold=0.5", "--set", "models.inst.source=models/base"]), @r"
    stage      would                    what differs                                            old → new
    score      run                      model `inst`, weights                                   2b7419d5 → 111111d5
                                        prompts `main`                                          f4e90aa4 → beb84e50
                                        score.threshold                                         0.0 → 0.5  (since [when])
    direction  waits for score          model `inst`, weights                                   2b7419d5 → 111111d5
                                        prompts `main`                                          f4e90aa4 → beb84e50
                                        score.threshold                                         0.0 → 0.5  (since [when])
    steer      waits for direction      model `inst`, weights                                   2b7419d5 → 111111d5
                                        prompts `main`                                          f4e90aa4 → beb84e50
                                        score.threshold                                         0.0 → 0.5  (since [when])
    random     run                      model `inst`, weights                                   2b7419d5 → 111111d5
                                        prompts `main`                                          f4e90aa4 → beb84e50
                                        score.threshold                                         0.0 → 0.5  (since [when])
    summary    waits for steer, random  nothing else; cached if that gives what it gave before
    ");
}

#[test]
fn one_stage_with_all_differences_and_long_lists_by_what_came_and_went() {
    let bench = bench();
    bench.run(STUDY).ok();
    let set = [
        "random",
        "--set",
        "stages.random.seed=\"1..60\"",
        "--set",
        "stages.random.layer=[1,2]",
        "--set",
        "chat.system=\"Answer briefly.\"",
    ];
    assert_snapshot!(explain(&bench, &set), @r#"
    stage   would  what differs  old → new
    random  run    layer         [2] → [1,2]
                   seed          3 values (− [0]) → 59 values (+ [3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20…)
                   chat.system   "You are a helpful assistant." → "Answer briefly."  (since [when])
    "#);
    let said = bench.dial(&["explain", "study.toml", "stear"]);
    assert_snapshot!(said.message(2), @"error: the study has no stage `stear` to explain; did you mean `steer`?");
}

#[test]
fn a_vanished_artifact_is_told() {
    let bench = bench();
    bench.run(STUDY).ok();
    for object in files_below(&bench.path("cache/v1/objects")) {
        std::fs::remove_file(object).unwrap();
    }
    assert_snapshot!(explain(&bench, &[]), @r"
    stage      would                    what differs                                            old → new
    score      run                      nothing; an artifact of it is gone from the cache
    direction  waits for score          nothing else; cached if that gives what it gave before
    steer      waits for direction      nothing else; cached if that gives what it gave before
    random     run                      nothing; an artifact of it is gone from the cache
    summary    waits for steer, random  nothing else; cached if that gives what it gave before
    ");
}

/// Neither cells nor artifacts are read: records alone say what is cached.
#[test]
fn explaining_and_planning_what_is_cached_read_records_only() {
    let bench = bench();
    bench.run(STUDY).ok();
    let before = (
        explain(&bench, &[]),
        bench.dial(&["plan", "study.toml"]).stdout,
    );
    std::fs::remove_dir_all(bench.path("cache/v1/packs")).unwrap();
    for object in files_below(&bench.path("cache/v1/objects")) {
        std::fs::write(object, "").unwrap();
    }
    assert_eq!(explain(&bench, &[]), before.0);
    assert_eq!(bench.dial(&["plan", "study.toml"]).stdout, before.1);
    assert!(!bench.path("cache/v1/damaged").exists());
}

#[test]
fn explanations_for_programs() {
    let bench = bench();
    bench.run(STUDY).ok();
    let said = bench.dial(&[
        "explain",
        "study.toml",
        "steer",
        "--format",
        "json",
        "--set",
        "stages.steer.alpha=[-2,0,4]",
    ]);
    let json: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_snapshot!(redacted(&serde_json::to_string_pretty(&json).unwrap()), @r#"
    {
      "stages": [
        {
          "created": "",
          "kind": "steer",
          "name": "steer",
          "nearest": {
            "created": "[when]",
            "differences": [
              {
                "name": "alpha",
                "new": [
                  -2.0,
                  0.0,
                  4.0
                ],
                "old": [
                  -2.0,
                  0.0,
                  2.0
                ],
                "part": "parameter"
              }
            ],
            "stage": "steer"
          },
          "status": "run",
          "unfetched": [],
          "waits_for": []
        }
      ]
    }
    "#);
}

#[test]
fn of_a_model_it_is_told_which_part_differs() {
    let bench = bench();
    bench.run(STUDY).ok();
    let dtype = ["score", "--set", "models.inst.dtype=bfloat16"];
    assert_snapshot!(explain(&bench, &dtype), @r"
    stage  would  what differs         old → new
    score  run    model `inst`, dtype  float32 → bfloat16  (since [when])
    ");
    let other = ["score", "--set", "models.inst.source=models/base"];
    assert_snapshot!(explain(&bench, &other), @r"
    stage  would  what differs           old → new
    score  run    model `inst`, weights  2b7419d5 → 111111d5  (since [when])
    ");
    let said = bench.dial(&["plan", "study.toml", "--set", "models.inst.dtype=bfloat16"]);
    let line = said.stdout.lines().find(|line| line.starts_with("score"));
    let line = line.unwrap();
    let changed = "changed: model `inst`, dtype float32 → bfloat16";
    assert!(line.contains(changed), "{line}");
}
