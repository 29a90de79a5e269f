//! Directions from elsewhere: files of other programs steer as the directions that they were made of.

use serde_json::json;

use crate::checkpoint::{D_MODEL, refusal_direction};
use crate::prompts::main_set;
use crate::workbench::{Run, Workbench};

const DIRECTION: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = [2, 3]
"#;

fn vector(name: &str, more: &str) -> String {
    format!("[stages.{name}]\nkind = \"vector\"\nmodel = \"inst\"\n{more}\n")
}

fn steer(name: &str, direction: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"{direction}\"\nlayer = 2\nalpha = [-1, 0, 2]\n{more}\n"
    )
}

/// The same where the direction is at home.
fn at_home(name: &str, direction: &str, more: &str) -> String {
    steer(name, direction, more).replace("layer = 2\n", "")
}

/// CAST's file of the planted direction, twice as long, at the outputs of some layers.
pub fn cast_json(layers: &[usize]) -> String {
    let vector: Vec<f32> = refusal_direction().iter().map(|x| 2.0 * x).collect();
    let directions = layers
        .iter()
        .map(|layer| (layer.to_string(), json!(vector)));
    let directions: serde_json::Map<_, _> = directions.collect();
    let variances = layers.iter().map(|layer| (layer.to_string(), json!(0.5)));
    let variances: serde_json::Map<_, _> = variances.collect();
    json!({ "model_type": "qwen2", "directions": directions, "explained_variances": variances })
        .to_string()
}

/// llama.cpp's file of vectors by the number of their block.
fn gguf(hint: &str, vectors: &[(usize, Vec<f32>)]) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let entry =
        |key: &str, value: &str| [text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((vectors.len() as u64).to_le_bytes());
    bytes.extend(3u64.to_le_bytes());
    bytes.extend(entry("general.architecture", "controlvector"));
    bytes.extend(entry("controlvector.model_hint", hint));
    bytes.extend(text("controlvector.layer_count"));
    bytes.extend(5u32.to_le_bytes());
    bytes.extend((vectors.len() as i32).to_le_bytes());
    let mut offset = 0u64;
    for (block, vector) in vectors {
        bytes.extend(text(&format!("direction.{block}")));
        bytes.extend(1u32.to_le_bytes());
        bytes.extend((vector.len() as u64).to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += (4 * vector.len() as u64).next_multiple_of(32);
    }
    for (_, vector) in vectors {
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes
}

/// The vector of a direction's file, and its length before.
fn of_file(bytes: &[u8]) -> (Vec<f32>, f32) {
    let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let tensor = file.tensor(name).unwrap();
        let numbers = tensor.data().as_chunks::<4>().0.iter();
        numbers.map(|b| f32::from_le_bytes(*b)).collect()
    };
    (numbers("direction"), numbers("pre_norm")[0])
}

fn findings(bench: &Workbench, run: &Run) -> String {
    std::fs::read_to_string(run.file(bench, "run.json")).unwrap()
}

#[test]
fn a_direction_steers_alike_whatever_file_it_comes_back_in() {
    let bench = Workbench::new(&main_set(24, 20));
    let run = bench.run(DIRECTION).ok();
    let own = std::fs::read(run.file(&bench, "directions/direction.layer2.resid_pre.safetensors"))
        .unwrap();
    let (unit, length) = of_file(&own);
    let natural: Vec<f32> = unit.iter().map(|x| x * length).collect();
    bench.write("own.safetensors", &own);
    // What enters layer 2 is what layer 1 gives.
    bench.write(
        "control.gguf",
        gguf("qwen2", &[(1, natural.clone()), (3, natural.clone())]),
    );
    let cast = json!({ "model_type": "qwen2", "directions": { "1": natural }, "explained_variances": { "1": 0.4 } });
    bench.write("cast.svec", cast.to_string());
    let natural_units = "alpha_unit = \"pre_norm\"";
    let study = [
        DIRECTION,
        &vector("own", "file = \"own.safetensors\"\nlayer = 2"),
        &vector("control", "file = \"control.gguf\"\nsite = \"resid_pre\""),
        &vector("cast", "file = \"cast.svec\"\nlabel = \"refusal\"\nprompts = \"main\""),
        &vector("one", "file = \"cast.svec\"\nlength = \"unit\""),
        &steer("by_direction", "direction", ""),
        &steer("by_own", "own", ""),
        &steer("by_direction_naturally", "direction", natural_units),
        &steer("by_control", "control", natural_units),
        &at_home("by_cast", "cast", natural_units),
        &at_home("by_one", "one", natural_units),
        &at_home("by_share", "cast", "alpha_unit = \"resid_norm\""),
        "[stages.random]\nmodel = \"inst\"\nprompts = \"main\"\nseed = [0, 1]\nlayer = 2\nalpha = 1\nalpha_unit = \"pre_norm\"\nreference = \"control\"\n",
        "[stages.generate]\nmodel = \"inst\"\nprompts = \"main\"\nlimit = 2\ndirection = \"cast\"\nalpha = [0, 1]\nalpha_unit = \"pre_norm\"\nmax_new_tokens = 2\n",
    ]
    .concat();
    let run = bench.run(&study).ok();
    let scores = |stage: &str, direction: &str| {
        let table = run.table(&bench, stage);
        table.with(&[("direction", direction)]).numbers("score")
    };
    let learned = "harmful_minus_edge";
    // The very same cells.
    let of_direction = run.table(&bench, "by_direction").with(&[("layer", "2")]);
    assert_eq!(run.computed("by_own"), 0);
    let own = scores("by_own", "own");
    assert!(
        own.len() == 3 * 44
            && own
                .iter()
                .all(|score| of_direction.numbers("score").contains(score))
    );
    let close = |stage: &str, direction: &str, other: &[f64]| {
        let found = scores(stage, direction);
        assert_eq!(found.len(), other.len(), "{stage}");
        for (a, b) in found.iter().zip(other) {
            assert!((a - b).abs() < 1e-3 * (1.0 + b.abs()), "{stage}: {a} {b}");
        }
    };
    // Both directions are made to act at layer 2; the vector of layer 2 is the first of them.
    let naturally = &scores("by_direction_naturally", learned)[..3 * 44];
    close("by_control", "control", naturally);
    close("by_cast", "refusal", naturally);
    close("by_one", "cast", &scores("by_own", "own"));
    let table = run.table(&bench, "control");
    let row = table.only();
    assert_eq!(
        [row.text("layer"), row.text("site"), row.text("tensor")],
        ["2", "resid_pre", "direction.1"]
    );
    assert_eq!(
        [
            row.text("file"),
            row.text("made_for"),
            row.text("resid_norm")
        ],
        ["control.gguf", "qwen2", ""]
    );
    assert!((row.number("pre_norm") - f64::from(length)).abs() < 1e-4);
    let table = run.table(&bench, "cast");
    let row = table.only();
    assert_eq!(
        [row.text("direction"), row.text("layer"), row.text("site")],
        ["refusal", "1", "resid_post"]
    );
    assert_eq!(row.number("explained_variance"), 0.4);
    let control = std::fs::read_to_string(run.file(&bench, "tables/control.csv")).unwrap();
    assert!(!control.contains("explained_variance"), "{control}");
    let direction = run.table(&bench, "direction").with(&[("layer", "2")]);
    let norm = direction.only().number("resid_norm");
    assert!(
        (row.number("resid_norm") / norm - 1.0).abs() < 0.2,
        "{row:?}"
    );
    assert_eq!(run.table(&bench, "one").only().number("pre_norm"), 1.0);
    let told = findings(&bench, &run);
    for finding in [
        "of layers that the model does not have: 4",
        "CAST itself adds them at the layer's input",
    ] {
        assert!(told.contains(finding), "{finding}");
    }
    // The same file is the same stage; another content is another.
    let again = bench.run(&study).ok();
    assert!(again.all_computed().iter().all(|(_, cells)| *cells == 0));
    bench.write("cast.svec", cast_json(&[1]));
    let again = bench.run(&study).ok();
    assert_eq!(
        [again.status("control"), again.status("cast")],
        ["cached", "computed"]
    );
}

#[test]
fn a_run_with_vectors_is_shared_with_their_file_and_checked() {
    let bench = Workbench::new(&main_set(12, 8));
    bench.write("refusal.svec", cast_json(&[1, 2]));
    let study = [
        DIRECTION,
        &vector("vector", "file = \"refusal.svec\""),
        &steer("steer", "vector", ""),
    ];
    let run = bench.run(&study.concat()).ok();
    run.assert_comes_out_again(&bench, "models/inst");
    let said = bench.dial(&["unpack", "run.zip", "unpacked"]);
    assert_eq!(said.code, 0, "{said:?}");
    let unpacked = std::fs::read(bench.path("unpacked/files/refusal.svec")).unwrap();
    assert_eq!(unpacked, cast_json(&[1, 2]).into_bytes());
    for command in [["show", "runs/study/latest"], ["explain", "study.toml"]] {
        let said = bench.dial(&command);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = bench.dial(&["diff", "runs/study/latest", "runs/study/latest"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn a_file_for_another_model_is_told_and_refused_where_that_is_asked_for() {
    let bench = Workbench::new(&main_set(12, 8));
    bench.write("other.gguf", gguf("llama", &[(1, refusal_direction())]));
    let lenient = [DIRECTION, &vector("vector", "file = \"other.gguf\"")].concat();
    let run = bench.run(&lenient).ok();
    let told = "made for another model: its architecture is `llama`, and that of `inst` is `qwen2`";
    assert!(findings(&bench, &run).contains(told));
    let strict = [
        DIRECTION,
        &vector("vector", "file = \"other.gguf\"\nstrict = true"),
    ]
    .concat();
    let refused = bench.refusal(&strict);
    assert!(refused.message(2).contains(told), "{refused:?}");
}

#[test]
fn files_that_are_no_vectors_of_the_model_are_told_before_anything_runs() {
    let bench = Workbench::new(&main_set(12, 8));
    let refusal = |name: &str, bytes: &[u8], more: &str| {
        bench.write(name, bytes);
        let study = [
            DIRECTION,
            &vector("vector", &format!("file = \"{name}\"\n{more}")),
        ]
        .concat();
        bench.refusal(&study).message(2).to_string()
    };
    let narrow = gguf("qwen2", &[(1, vec![1.0; D_MODEL - 1])]);
    let zero = gguf(
        "qwen2",
        &[(1, vec![0.0; D_MODEL]), (2, refusal_direction())],
    );
    let (cast, deep) = (cast_json(&[1]), cast_json(&[7]));
    let infinite = gguf("qwen2", &[(1, vec![f32::INFINITY; D_MODEL])]);
    let cases: &[(&str, &[u8], &str, &str)] = &[
        (
            "direction.pt",
            b"PK\x03\x04archive/data.pkl",
            "",
            "is not opened; write its vectors as `.safetensors`",
        ),
        (
            "direction.npy",
            b"\x93NUMPY\x01\x00",
            "",
            "may hold a program",
        ),
        (
            "narrow.gguf",
            &narrow,
            "",
            "has 63 numbers, and the model's stream 64",
        ),
        (
            "zero.gguf",
            &zero,
            "",
            "`direction.1` of `zero.gguf` is of length 0",
        ),
        ("infinite.gguf", &infinite, "", "`inf` at index 0"),
        ("narrow.gguf", &narrow[..90], "", "ends within"),
        (
            "cast.svec",
            cast.as_bytes(),
            "layer = 3",
            "has no vector for layer 3",
        ),
        (
            "cast.svec",
            deep.as_bytes(),
            "",
            "no vector for a layer of the model, which has 4",
        ),
        (
            "cast.svec",
            cast.as_bytes(),
            "tensor = \"1\"",
            "take `tensor` out",
        ),
        (
            "cast.svec",
            cast.as_bytes(),
            "site = \"mlp_out\"",
            "not of `mlp_out`",
        ),
    ];
    for (name, bytes, more, told) in cases {
        let message = refusal(name, bytes, more);
        assert!(message.contains(told), "{name}: {message}");
        assert!(message.contains("study.toml:"), "{message}");
    }
    // The one that is sound can be had.
    let study = [
        DIRECTION,
        &vector("vector", "file = \"zero.gguf\"\nlayer = 2"),
    ]
    .concat();
    bench.run(&study).ok();
    // How long the stream is, nobody has measured.
    let study = [
        study,
        steer("steer", "vector", "alpha_unit = \"resid_norm\""),
    ]
    .concat();
    let said = bench.refusal(&study);
    assert!(
        said.stderr
            .contains("give the stage that reads it `prompts`"),
        "{said:?}"
    );
}
