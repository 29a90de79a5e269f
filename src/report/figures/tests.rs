//! Figures of small tables, with values worked out by hand.

use super::swept::spread;
use crate::manifest::Node;
use crate::report::{FinishedStage, Table};
use crate::stages::Splits;

fn stage(kind: &str, name: &str, csv: &str) -> FinishedStage {
    FinishedStage {
        name: kind.to_string(),
        kind: kind.to_string(),
        node: Node::default(),
        result: None,
        tables: vec![(name.to_string(), Table::from_csv(csv, "t.csv").unwrap())],
    }
}

#[test]
fn a_last_k_curve_has_what_each_layer_adds() {
    let table = "site,k,split,mean_delta,mean_recovery\nmlp_out,1,edge,0.5,\nmlp_out,2,edge,0.25,\nmlp_out,3,edge,2.0,\n";
    let figures = super::patch::figures(&stage("patch", "mean", table));
    let [total, added] = figures[0].panels.as_slice() else {
        panic!("{figures:?}")
    };
    assert_eq!(total.marks[0].x, [1.0, 2.0, 3.0]);
    assert_eq!(total.marks[0].y, [0.5, 0.25, 2.0]);
    // Of three layers, K = 1 patches layer 2, and K = 3 adds layer 0.
    assert_eq!(added.marks[0].x, [2.0, 1.0, 0.0]);
    assert_eq!(added.marks[0].y, [0.5, -0.25, 1.75]);
}

#[test]
fn a_histogram_counts_every_prompt_once() {
    let table =
        "model,id,split,score\nm,a,edge,-1.0\nm,b,edge,3.0\nm,c,edge,3.0\nm,d,harmful,0.5\n";
    let figures = super::score::figures(&stage("score", "", table));
    let counts: Vec<f64> = figures[0]
        .panels
        .iter()
        .map(|panel| panel.marks[0].y.iter().sum())
        .collect();
    assert_eq!(counts, [3.0, 1.0]);
    assert_eq!(
        figures[0].panels[0].marks[0]
            .y
            .iter()
            .copied()
            .fold(0.0, f64::max),
        2.0
    );
}

#[test]
fn a_spread_is_over_directions_at_each_alpha() {
    let spread = spread([(1.0, 0.5), (-1.0, 2.0), (1.0, 1.5), (-1.0, -2.0)]);
    let values: Vec<_> = spread
        .iter()
        .map(|s| (s.alpha, s.low, s.mean, s.high))
        .collect();
    assert_eq!(values, [(-1.0, -2.0, 0.0, 2.0), (1.0, 0.5, 1.0, 1.5)]);
}

#[test]
fn both_halves_of_a_holdout_are_of_the_edge_split() {
    let splits = Splits::default();
    assert_eq!(splits.split_of("edge_holdout"), "edge");
    assert_eq!(splits.split_of("edge_train"), "edge");
    assert_eq!(splits.split_of("harmful"), "harmful");
    // Of groups that a study names, both are divided.
    assert_eq!(splits.split_of("harmful_holdout"), "harmful");
    assert_eq!(splits.split_of("edgewise"), "edgewise");
}

#[test]
fn a_models_name_leads_no_figure_out_of_its_folder() {
    let models = ["../../b", "..\\..\\b", "inst"].map(str::to_string);
    let suffixes = models.each_ref().map(|model| super::suffix(&models, model));
    assert_eq!(
        suffixes,
        [".._.._b-0", ".._.._b-1", "inst"].map(|name| format!(".{name}"))
    );
    assert_eq!(super::suffix(&models[..1], &models[0]), "");
}
