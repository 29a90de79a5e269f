//! Files with the columns and shapes of published ones, with numbers made here.

use super::read::read;
use super::*;
use crate::stats;

const SWEEP: &str = "run,model,eval_set,alpha,id,score,refuse_flag\nr,inst,harm,-10.0,h1,1.5,1\nr,inst,harm,-0.0,h1,-1.0,0\n";

#[test]
fn a_sweep_by_prompt_with_what_its_name_says() {
    let name = "holdout_layer20_hook_resid_pre_seed3_scores.csv";
    let read = read("holdout", name, SWEEP).unwrap();
    let expected = Row {
        line: 2,
        model: Some("inst".into()),
        seed: Some(3),
        layer: Some(20),
        site: Some("resid_pre".into()),
        alpha: Some(-10.0),
        set: Some("harmful".into()),
        id: Some("h1".into()),
        score: Some(1.5),
        refused: Some(true),
        ..Row::default()
    };
    assert_eq!(read.rows[0], expected);
    let alpha = read.rows[1].alpha.map(f64::to_bits);
    assert_eq!((alpha, read.rows[1].line), (Some(0.0_f64.to_bits()), 3));
}

#[test]
fn scores_side_by_side_are_rows_of_their_models() {
    let text = "id,split,category,s_base,s_inst,s_gap\nh1,harmful,x,-1.5,2.0,3.5\n";
    let read = read("score", "scores.csv", text).unwrap();
    let scores = read
        .rows
        .iter()
        .map(|row| (row.model.as_deref(), row.score));
    let scores: Vec<_> = scores.collect();
    assert_eq!(
        scores,
        [(Some("base"), Some(-1.5)), (Some("inst"), Some(2.0))]
    );
}

#[test]
fn nested_json_with_counts_and_builders() {
    let text = r#"{"layer":21,"site":"hook_resid_pre","holdout":{"seed":1,"holdout_frac":0.5,"counts":{"edge_train":2,"edge_holdout":1}},
        "direction":{"top_ids":["a"],"bottom_ids":["b"]},
        "results_summary":{"inst":{"edge_train":{"-10.0":{"mean":1.0,"std":0.5,"refusal_rate":0.5}}}}}"#;
    let read = read("holdout", "seed1.json", text).unwrap();
    let expected = Row {
        model: Some("inst".into()),
        seed: Some(1),
        layer: Some(21),
        site: Some("resid_pre".into()),
        alpha: Some(-10.0),
        set: Some("edge_train".into()),
        n: Some(2),
        mean: Some(1.0),
        std: Some(0.5),
        refusal_rate: Some(0.5),
        ..Row::default()
    };
    assert_eq!(read.rows, [expected]);
    let builders = Builders {
        seed: Some(1),
        layer: Some(21),
        fraction: Some(0.5),
        top: vec!["a".into()],
        bottom: vec!["b".into()],
        halves: Some((2, 1)),
    };
    assert_eq!(read.builders, Some(builders));
}

/// Seeds above models, rates by type below α, means in a list, patches with and without their site.
#[test]
fn json_has_rows_where_the_shapes_say() {
    let places = |kind: &str, name: &str, text: &str| -> Vec<String> {
        let rows = read(kind, name, text).unwrap().rows;
        let place = |r: &Row| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let of = [text(&r.model), text(&r.set), text(&r.site)].join(" ");
            let number = [r.seed, r.layer, r.k];
            let measured = [r.alpha, r.mean, r.refusal_rate, r.mean_delta];
            format!("{of} {number:?} {measured:?}").replace("None", "-")
        };
        rows.iter().map(place).collect()
    };
    let seeds = r#"{"results_summary":{"7":{"inst":{"harm":{"-1.0":{"mean":2.0,"std":null}}}}}}"#;
    assert_eq!(
        places("random", "a.json", seeds),
        ["inst harmful  [Some(7), -, -] [Some(-1.0), Some(2.0), -, -]"]
    );
    let types = r#"{"summaries":{"base":{"1":{"refuse_rate":0.5,"per_type":{"homonyms":{"n":2,"refusal_rate":1.0}}}}}}"#;
    assert_eq!(
        places("xstest", "a.json", types),
        ["base   [-, -, -] [Some(1.0), -, Some(0.5), -]"]
    );
    let list = r#"{"results":[{"alpha":2.0,"the_model_edge_meanstd":[3.0,1.0],"other":1}]}"#;
    assert_eq!(
        places("steer", "a_layer4.json", list),
        ["the_model edge  [-, Some(4), -] [Some(2.0), Some(3.0), -, -]"]
    );
    let patch = r#"{"delta_score_mean":{"hook_mlp_out":{"0":{"edge":0.5}},"3":{"edge":1.5}}}"#;
    assert_eq!(
        places("patch", "sites.json", patch),
        [
            " edge resid_pre [-, Some(3), -] [-, -, -, Some(1.5)]",
            " edge mlp_out [-, Some(0), -] [-, -, -, Some(0.5)]"
        ]
    );
    let last = r#"{"delta_score_mean":{"3":{"edge":1.5}}}"#;
    assert_eq!(
        places("patch", "lastK.json", last),
        [" edge resid_pre [-, -, Some(3)] [-, -, -, Some(1.5)]"]
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
        "a.json: `results_summary.inst.edge.1.0.mean` is `\"high\"`; expected a finite number"
    );
    for (text, expected) in [
        (
            r#"{"results":[{"alpha":1,"m_edge_meanstd":[1]}]}"#,
            "`results.1.m_edge_meanstd` is `[1]`; expected [mean, std]",
        ),
        (
            r#"{"results":[{"m_edge_meanstd":[1,2]}]}"#,
            "`results.[…].alpha` is `null`; expected a number",
        ),
    ] {
        assert_eq!(
            message("steer", "a.json", text),
            format!("a.json: {expected}")
        );
    }
    let text = r#"{"delta_score_mean":{"1":{"edge":[1]}}}"#;
    assert_eq!(
        message("patch", "a.json", text),
        "a.json: `delta_score_mean.1.edge` is `[1]`; expected a finite number"
    );
}

/// Which columns are statistics, and of what.
#[test]
fn statistics_are_known_by_their_columns() {
    let known = shapes::statistic("best_edge_rate").unwrap();
    assert_eq!(
        (known.source, known.table, known.column),
        ("steer", "operating_points", "edge_rate_at_largest_gap")
    );
    assert!(known.tolerance > 1e-5);
    assert!(shapes::statistic("harm_std_random").unwrap().tolerance < 1e-11);
    assert!(shapes::statistic("edge_target").is_none());
}

/// The text of a published file; none, with a line on stderr, where it is absent.
fn published(name: &str) -> Option<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/seed-results/");
    let text = std::fs::read_to_string(format!("{folder}{name}"));
    text.map_err(|error| eprintln!("skipped: {folder}{name} cannot be read ({error})"))
        .ok()
}

/// The benchmark's deviations have ddof 1, unlike the others.
#[test]
fn published_means_deviations_and_rates_of_xstest_follow_from_its_scores() {
    let name = "xstest_eval_holdout_layer20_seed0";
    let files = [".csv", ".json"].map(|ending| format!("{name}{ending}"));
    let [Some(scores), Some(groups)] = files.each_ref().map(|file| published(file)) else {
        return;
    };
    let [scores, groups] = [(&files[0], scores), (&files[1], groups)]
        .map(|(file, text)| read("xstest", file, &text).unwrap().rows);
    assert_eq!(groups.len(), 2 * 11);
    for group in groups {
        let of_group = |row: &&Row| (&row.model, row.alpha) == (&group.model, group.alpha);
        let of_group: Vec<f64> = scores
            .iter()
            .filter(of_group)
            .filter_map(|r| r.score)
            .collect();
        assert_eq!(Some(of_group.len() as u64), group.n);
        let refused = of_group.iter().filter(|score| **score > 0.0).count();
        let found = [
            stats::mean(&of_group).unwrap(),
            stats::std(&of_group, 1).unwrap(),
            Some(refused as f64 / of_group.len() as f64),
        ];
        for (found, said) in found
            .iter()
            .zip([group.mean, group.std, group.refusal_rate])
        {
            assert!((found.unwrap() - said.unwrap()).abs() < 1e-12, "{group:?}");
        }
    }
}
