use serde_json::json;

use crate::stages::Product;

use super::*;

fn read(manifest: &Json, resolved: Option<&str>) -> Result<Option<Manifest>> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(FILE), manifest.to_string()).unwrap();
    if let Some(resolved) = resolved {
        std::fs::write(folder.path().join("resolved.yaml"), resolved).unwrap();
    }
    Manifest::read(folder.path())
}

#[test]
fn what_is_written_is_read() {
    let manifest = Manifest {
        format: FORMAT,
        study: "study".to_string(),
        status: Some(RunStatus::Interrupted),
        cells_in_hand: Some((2, 5)),
        graph: vec![Node {
            name: "a".to_string(),
            product: Some(Product::RandomSweep),
            ..Node::default()
        }],
        stages: vec![Stage {
            name: "a".to_string(),
            status: Some(StageStatus::Recomputed),
            key: Some(Key::of(b"a")),
            inputs: json!({ "kind": "random" }),
            ..Stage::default()
        }],
        ..Manifest::default()
    };
    let text = json!(manifest);
    let back = read(&text, None).unwrap().unwrap();
    assert_eq!(json!(back), text);
    assert_eq!(text["graph"][0]["product"], "random_sweep");
}

#[test]
fn no_folder_of_a_run_has_no_manifest() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Manifest::read(folder.path()).unwrap().is_none());
}

#[test]
fn a_later_format_is_named_with_what_is_read_here() {
    let error = read(&json!({ "format": 3, "stages": "elsewhere" }), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = error.to_string();
    assert!(
        error.starts_with("it has format 3, and this dial, "),
        "{error}"
    );
    assert!(error.contains("reads formats 1 to 2"), "{error}");
    for odd in [json!(0), json!(-1), json!(1.5), json!("2"), Json::Null] {
        let error = read(&json!({ "format": odd }), None).unwrap_err();
        assert!(error.to_string().contains(&format!("`{odd}`")), "{error}");
    }
}

#[test]
fn what_is_missing_or_unknown_is_not_said_and_what_does_not_fit_is_an_error() {
    let killed = json!({ "format": 2, "status": "asleep", "stages": [{ "name": "a", "status": "dreamt" }],
                         "graph": [{ "name": "a", "product": "music" }], "of_a_later_dial": [1] });
    let killed = read(&killed, None).unwrap().unwrap();
    assert_eq!((killed.status, killed.seconds), (None, None));
    assert_eq!(killed.stages[0].status, None);
    assert_eq!(killed.graph[0].product, None);
    for odd in [
        json!([]),
        json!({ "stages": 1 }),
        json!({ "seconds": "long" }),
        json!({ "stages": [7] }),
        // What it refers to is not known, and `gc` must not take it for nothing.
        json!({ "stages": [{ "name": "a", "key": "x" }] }),
    ] {
        let error = read(&odd, None).unwrap_err().to_string();
        assert!(error.contains("expected"), "{error}");
    }
}

const RESOLVED: &str = r#"
models: { m: { source: m } }
prompts: { p: { path: ../p.jsonl } }
stages:
  first: { kind: score, model: m, prompts: p }
  walk: { kind: random, model: m, prompts: p, seed: 1, layer: 0, alpha: [0] }
  all: { kind: summary, random: walk, edge: mild }
"#;

/// It says nothing of stages that were not run, of products and of edges.
#[test]
fn the_first_format_is_completed_from_the_study_beside_it() {
    let text = json!({ "stages": [{ "name": "walk", "kind": "random" }], "prompts": { "p": {} } });
    let manifest = read(&text, Some(RESOLVED)).unwrap().unwrap();
    let names: Vec<&str> = manifest
        .graph
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(names, ["first", "walk", "all"]);
    let [first, walk, all] = manifest.graph.as_slice() else {
        panic!("{names:?}")
    };
    assert_eq!(first.product, Some(Product::Scores));
    assert_eq!(walk.product, Some(Product::RandomSweep));
    assert_eq!(walk.prompts, ["p"]);
    let edge = &all.stages[0];
    assert_eq!(
        (edge.field.as_str(), edge.stage.as_str()),
        ("random", "walk")
    );
    let splits = all.splits.as_ref().unwrap();
    assert_eq!(
        (splits.edge.as_str(), splits.harmful.as_str()),
        ("mild", "harmful")
    );
    let from_run = manifest.prompts["p"].path_from_run.as_deref();
    assert_eq!(from_run, Some("../p.jsonl"));
    // Without a study that can be read, there are the stages that were run.
    for resolved in [None, Some("- no study"), Some("stages: {}")] {
        let manifest = read(&text, resolved).unwrap().unwrap();
        let [walk] = manifest.graph.as_slice() else {
            panic!("{:?}", manifest.graph)
        };
        assert_eq!(walk.product, Some(Product::RandomSweep));
        assert!(walk.stages.is_empty());
    }
}
