//! Files with the columns and shapes of published ones, with numbers made here.

use super::*;

const SWEEP: &str = "run,model,eval_set,alpha,id,score,refuse_flag\nr,inst,harm,-10.0,h1,1.5,1\nr,inst,harm,-0.0,h1,-1.0,0\n";

#[test]
fn a_sweep_by_prompt_with_what_its_name_says() {
    let read = read(
        "holdout",
        "holdout_layer20_hook_resid_pre_seed3_scores.csv",
        SWEEP,
    )
    .unwrap();
    let first = &read.rows[0];
    assert_eq!((first.of.layer, first.of.seed), (Some(20), Some(3)));
    assert_eq!(first.of.site.as_deref(), Some("resid_pre"));
    assert_eq!(first.of.set.as_deref(), Some("harmful"));
    assert_eq!(
        first.measured,
        Measured::Score {
            score: 1.5,
            refused: Some(true)
        }
    );
    assert_eq!(
        read.rows[1].of.alpha.map(f64::to_bits),
        Some(0.0_f64.to_bits())
    );
    assert_eq!(read.rows[1].line, 3);
}

#[test]
fn scores_side_by_side_are_rows_of_their_models() {
    let text = "id,split,category,s_base,s_inst,s_gap\nh1,harmful,x,-1.5,2.0,3.5\n";
    let read = read("score", "scores.csv", text).unwrap();
    let models: Vec<&str> = read
        .rows
        .iter()
        .filter_map(|r| r.of.model.as_deref())
        .collect();
    assert_eq!(models, ["base", "inst"]);
}

#[test]
fn nested_json_with_counts_and_builders() {
    let text = r#"{"layer":21,"site":"hook_resid_pre","holdout":{"seed":1,"holdout_frac":0.5,"counts":{"edge_train":2,"edge_holdout":1}},
        "direction":{"top_ids":["a"],"bottom_ids":["b"]},
        "results_summary":{"inst":{"edge_train":{"-10.0":{"mean":1.0,"std":0.5,"refusal_rate":0.5}}}}}"#;
    let read = read("holdout", "seed1.json", text).unwrap();
    let row = &read.rows[0];
    assert_eq!(
        (row.of.seed, row.of.layer, row.of.alpha),
        (Some(1), Some(21), Some(-10.0))
    );
    let group = Measured::Group {
        n: Some(2),
        mean: Some(1.0),
        std: Some(0.5),
        rate: Some(0.5),
    };
    assert_eq!(row.measured, group);
    let builders = read.builders.unwrap();
    assert_eq!(
        (builders.halves, builders.fraction),
        (Some((2, 1)), Some(0.5))
    );
    assert_eq!(
        (builders.top, builders.bottom),
        (vec!["a".to_string()], vec!["b".to_string()])
    );
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let message =
        |kind: &str, name: &str, text: &str| read(kind, name, text).unwrap_err().to_string();
    let broken = SWEEP.replace("1.5", "high");
    assert_eq!(
        message("holdout", "a.csv", &broken),
        "a.csv:2:6: column `score` is `high`; expected a finite number"
    );
    assert_eq!(
        message("holdout", "a.csv", &SWEEP.replace(",-1.0,0", ",-1.0")),
        "a.csv:3: the row has 6 fields; expected 7, as in the header"
    );
    assert_eq!(
        message("steer", "a.csv", "id,model,score\n"),
        "a.csv:1: a table of kind `steer` needs a column `alpha`; the columns are `id`, `model`, `score`"
    );
    assert_eq!(
        message("score", "a.csv", "id,x\n"),
        "a.csv:1: a table of kind `score` needs a column `s_<model>` or `score`; the columns are `id`, `x`"
    );
    assert_eq!(
        message("score", "a.csv", "id,s_inst\n"),
        "a.csv: no rows below the header; expected at least one"
    );
    assert!(message("random", "a.json", "{\n 1").starts_with("a.json:2:2: not JSON"));
    assert!(message("random", "a.json", "{}").contains("nothing of kind `random`"));
    let text = r#"{"results_summary":{"inst":{"edge":{"1.0":{"mean":"high"}}}}}"#;
    assert_eq!(
        message("steer", "a.json", text),
        "a.json: `results_summary.inst.edge.1.0.mean` is `\"high\"`; expected a number"
    );
}
