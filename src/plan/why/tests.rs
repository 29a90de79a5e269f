use serde_json::json;

use super::*;
use crate::plan::Study;
use crate::spec::{self, Problems};

fn steer() -> StageSpec {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("study.toml");
    let text = "[models.m]\nsource = \"m\"\n[prompts.p]\npath = \"p\"\n\
                [stages.score]\nmodel = \"m\"\nprompts = \"p\"\n\
                [stages.d]\nkind = \"direction\"\nmodel = \"m\"\nprompts = \"p\"\nscores = \"score\"\n\
                split = \"edge\"\nn = 1\nlayer = 0\n\
                [stages.steer]\nmodel = \"m\"\nprompts = \"p\"\ndirection = \"d\"\nalpha = [0]\n";
    std::fs::write(&path, text).unwrap();
    let document = spec::load(&path, &[]).unwrap();
    let study = Study::read(document, "study", &mut Problems::default()).unwrap();
    let mut stages = study.stages.into_iter();
    stages.find(|spec| spec.name == "steer").unwrap()
}

fn parts(alphas: &Json, prompts: &str) -> Json {
    json!({
        "kind": "steer", "version": 1, "evaluation": 1, "models": ["m"], "prompts": [prompts], "stages": ["d"],
        "parameters": { "alpha": alphas, "settings": { "score": { "threshold": 0.0 } } },
    })
}

fn record(key_parts: Json) -> StageRecord {
    StageRecord {
        key_parts,
        ..StageRecord::default()
    }
}

fn reason(parts: &Json, records: &[StageRecord]) -> String {
    in_a_few_words(nearest(&steer(), parts, records, &Inputs::default()).as_ref())
}

#[test]
fn the_most_similar_record_of_the_kind_is_compared() {
    let mut other_kind = parts(&json!([0, 1, 2]), "p");
    other_kind["kind"] = json!("random");
    let records = [
        record(parts(&json!([5]), "q")),
        record(parts(&json!([0, 1]), "p")),
        record(other_kind),
    ];
    let now = parts(&json!([0, 1, 2]), "p");
    assert_eq!(reason(&now, &records), "changed: alpha [0,1] → [0,1,2]");
    assert_eq!(reason(&now, &records[2..]), "no earlier output");
    let now = parts(&json!([0, 1]), "p");
    assert_eq!(
        reason(&now, &records),
        "an artifact of it is gone from the cache"
    );
}

#[test]
fn of_equally_similar_records_the_newest_is_compared() {
    let at = |created: &str, alphas: Json| StageRecord {
        created: created.to_string(),
        ..record(parts(&alphas, "p"))
    };
    let records = [
        at("2026-01-01T00:00:00Z", json!([1])),
        at("2026-03-01T00:00:00Z", json!([3])),
        at("2026-02-01T00:00:00Z", json!([2])),
    ];
    let now = parts(&json!([4]), "p");
    assert_eq!(reason(&now, &records), "changed: alpha [3] → [4]");
}

#[test]
fn every_part_is_told_with_its_name_and_values() {
    let mut now = parts(&json!([0]), "prompts-now");
    now["version"] = json!(2);
    now["models"] = json!(["model-hash-now", "another"]);
    now["stages"] = json!([null]);
    let found = nearest(
        &steer(),
        &now,
        &[record(parts(&json!([0]), "p"))],
        &Inputs::default(),
    )
    .unwrap();
    let told: Vec<_> = found
        .differences
        .iter()
        .map(|d| (d.subject(), d.values(40)))
        .collect();
    let told: Vec<_> = told
        .iter()
        .map(|(s, (old, new))| (s.as_str(), old.as_str(), new.as_str()))
        .collect();
    // What an earlier stage will give is not known before it has run, and so no difference.
    assert_eq!(
        told,
        [
            ("the version of the stage's code", "1", "2"),
            ("model `m`", "m", "model-ha"),
            ("model `number 2`", "none", "another"),
            ("prompts `p`", "p", "prompts-"),
        ]
    );
}

#[test]
fn long_values_are_cut_and_long_lists_counted() {
    let mut now = parts(&json!((0..100).collect::<Vec<_>>()), "r");
    now["models"] = json!(["n"]);
    let text = reason(&now, &[record(parts(&json!([0, 1]), "p"))]);
    assert_eq!(text, "changed: model `m`, prompts `p` and 1 more");
    let now = parts(&json!((0..100).collect::<Vec<_>>()), "p");
    let text = reason(&now, &[record(parts(&json!([0, 1]), "p"))]);
    assert_eq!(
        text,
        "changed: alpha 2 values → 100 values (+ [2,3,4,5,6,7,8,9,10…)"
    );
}

#[test]
fn of_long_values_that_part_is_told_where_they_differ() {
    let told = |old: Json, new: Json| {
        let part = Part::Parameter;
        let difference = Difference {
            part,
            name: String::new(),
            of: None,
            old,
            new,
        };
        difference.values(24)
    };
    let start = "You are a helpful assistant.";
    let (old, new) = told(json!(start), json!(format!("{start} Be brief.")));
    assert_eq!(
        (old.as_str(), new.as_str()),
        ("…stant.\"", "…stant. Be brief.\"")
    );
    let (old, new) = told(json!(null), json!(start));
    assert_eq!(
        (old.as_str(), new.as_str()),
        ("none", "\"You are a helpful assi…")
    );
    let (up, down): (Vec<u32>, Vec<u32>) = ((0..20).collect(), (0..20).rev().collect());
    let (old, new) = told(json!(up), json!(down));
    assert_eq!(
        (old.as_str(), new.as_str()),
        ("20 values", "the same in another order")
    );
    let (old, new) = told(json!(up), json!(up[..18]));
    assert_eq!(
        (old.as_str(), new.as_str()),
        ("20 values (− [18,19])", "18 values")
    );
}

#[test]
fn an_input_that_is_there_in_another_place_is_no_difference() {
    let names = ["a", "b", "c"].map(str::to_string);
    let told = |earlier: Json, now: Json| {
        let mut list = Vec::new();
        compare_inputs(Part::Input, &names, &earlier, &now, &mut list);
        let one = |d: Difference| format!("{} {} {}", d.name, text(&d.old), text(&d.new));
        list.into_iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(
        told(json!(["x", "y"]), json!(["y"])),
        ["number 1 before \"x\" none"]
    );
    assert_eq!(told(json!(["y"]), json!(["x", "y"])), ["a none \"x\""]);
    assert_eq!(
        told(json!(["x", "y"]), json!(["z", "y"])),
        ["a \"x\" \"z\""]
    );
    let swapped = ["a \"x\" \"y\"", "b \"y\" \"x\""];
    assert_eq!(told(json!(["x", "y"]), json!(["y", "x"])), swapped);
    // What is not known yet may be any of those that are gone.
    for now in [json!([null]), json!([null, "x"]), json!(["x", null])] {
        assert_eq!(told(json!(["x"]), now.clone()), [""; 0], "{now}");
    }
    assert_eq!(told(json!(["x", "y"]), json!([null, "x"])), [""; 0]);
    let gone = ["number 2 before \"y\" none"];
    assert_eq!(told(json!(["x", "y"]), json!([null])), gone);
    assert_eq!(told(json!(["x"]), json!([null, "z"])), ["b none \"z\""]);
}
