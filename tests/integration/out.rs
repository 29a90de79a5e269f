//! Where a direction goes: files of other programs, and weights without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use insta::assert_snapshot;
use serde_json::Value;

use crate::checkpoint::{self, copied};
use crate::families;
use crate::prompts::main_set;
use crate::workbench::{Said, Workbench, files_below};

const DIRECTION: &str = r#"
[models.inst]
source = "models/inst"
licence = "MIT"
[prompts.main]
path = "main.jsonl"
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = [1, 2]
"#;

const RUN: &str = "runs/study/latest";

/// A folder in which that was run.
fn bench() -> Workbench {
    let bench = Workbench::new(&main_set(12, 8));
    bench.run(DIRECTION).ok();
    bench
}

fn export(bench: &Workbench, arguments: &[&str]) -> Said {
    let command = ["vector", "export", RUN, "direction"];
    bench.dial(&[&command, arguments].concat())
}

fn orthogonalize(bench: &Workbench, arguments: &[&str]) -> Said {
    let command = ["model", "orthogonalize", RUN, "direction"];
    bench.dial(&[&command, arguments].concat())
}

/// Shapes and numbers by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// The float32 tensors of a file, and what it says of itself.
fn tensors(path: &Path) -> (Tensors, BTreeMap<String, String>) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        let numbers = view.data().as_chunks::<4>().0.iter();
        let numbers = numbers.map(|b| f32::from_le_bytes(*b)).collect();
        (name, (view.shape().to_vec(), numbers))
    });
    let said = header.metadata().clone().unwrap_or_default();
    (tensors.collect(), said.into_iter().collect())
}

#[test]
fn a_direction_comes_back_to_the_bit_from_safetensors_and_gguf() {
    let bench = bench();
    for file in ["own.safetensors", "control.gguf"] {
        let said = export(&bench, &["--layer", "2", "--output", file]);
        assert_eq!((said.code, said.stdout.trim()), (0, file), "{said:?}");
    }
    let said = tensors(&bench.path("own.safetensors")).1;
    let of = |key: &str| said.get(key).map(String::as_str).unwrap_or_default();
    assert_eq!(
        [
            of("model"),
            of("model_type"),
            of("layer"),
            of("site"),
            of("position")
        ],
        ["inst", "qwen2", "2", "resid_pre", "-1"]
    );
    assert_eq!(
        [
            of("study"),
            of("stage"),
            of("direction"),
            of("model_licence")
        ],
        ["study", "direction", "harmful_minus_edge", "MIT"]
    );
    assert_eq!(of("model_source"), "", "a path is nobody else's");
    let steer = |name: &str, direction: &str| {
        format!(
            "[stages.{name}]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"{direction}\"\nlayer = 2\nposition = \"all\"\nalpha = 2\n"
        )
    };
    let vector = |name: &str, more: &str| {
        format!("[stages.{name}]\nkind = \"vector\"\nmodel = \"inst\"\nstrict = true\n{more}\n")
    };
    let study = [
        &DIRECTION.replace("[1, 2]", "2"),
        &vector("own", "file = \"own.safetensors\""),
        &vector("control", "file = \"control.gguf\"\nsite = \"resid_pre\""),
        &steer("by_direction", "direction"),
        &steer("by_own", "own"),
        &steer("by_control", "control"),
    ];
    let run = bench.run(&study.map(String::as_str).concat()).ok();
    let made = run.direction(&bench, "direction.layer2.resid_pre");
    for stage in ["own", "control"] {
        let back = run.direction(&bench, &format!("{stage}.layer2.resid_pre"));
        assert!(
            made.iter()
                .zip(&back)
                .all(|(a, b)| a.to_bits() == b.to_bits()),
            "{stage}"
        );
        let [length, made] = [stage, "direction"].map(|stage| {
            let table = run.table(&bench, stage).with(&[("layer", "2")]);
            table.only().number("pre_norm")
        });
        assert!(
            (length / made - 1.0).abs() < 1e-6,
            "{stage}: {length} {made}"
        );
        // The very same cells.
        assert_eq!(run.computed(&format!("by_{stage}")), 0, "{stage}");
    }
    assert!(run.computed("by_direction") > 0);
}

#[test]
fn what_is_told_with_a_control_vector() {
    let bench = bench();
    let said = export(
        &bench,
        &["--layer", "2", "-o", "v.gguf", "--format", "json"],
    );
    let json: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(json["holds"], "direction.1");
    assert_eq!(json["direction"]["layer"], 2);
    let pre_norm = json["direction"]["pre_norm"].as_f64().unwrap();
    let notes = json["notes"].to_string();
    assert!(notes.contains("to every token"), "{notes}");
    assert!(
        notes.contains(&format!("is the scale {pre_norm}")),
        "{notes}"
    );
    assert!(
        said.stderr
            .contains("layer 2, `resid_pre`, position -1: direction.1"),
        "{said:?}"
    );
}

#[test]
fn what_cannot_be_had_is_told_and_nothing_is_written() {
    let bench = bench();
    let refused = |arguments: &[&str]| export(&bench, arguments).message(2).to_string();
    assert_snapshot!(refused(&["-o", "v.gguf"]), @r"
    error: stage `direction` has 2 directions that could be meant; say which
      --layer 1
      --layer 2
    ");
    assert_snapshot!(refused(&["--layer", "3", "-o", "v.gguf"]), @r"
    error: stage `direction` has no such direction; it has
      --layer 1
      --layer 2
    ");
    assert_snapshot!(refused(&["--layer", "1", "-o", "v.gguf"]), @"error: direction `harmful_minus_edge` is of `resid_pre` of layer 1, the output of block 0, and llama.cpp adds nothing before the output of block 1; write it as safetensors, or take a direction of another layer or site");
    assert_snapshot!(refused(&["--layer", "1", "-o", "v.bin"]), @"error: `v.bin` does not say in which form; let it end in `.safetensors` or `.gguf`, or name a folder and add `--as lora`");
    assert_snapshot!(refused(&["--layer", "1", "-o", "v.safetensors", "--model", "x"]), @"error: `--model` is given, and only an adapter (`--as lora`) asks for a model");
    assert!(refused(&["--site", "z", "-o", "v.gguf"]).contains("expected one of `resid_pre`"));
    let of_stage = |stage: &str| {
        let said = bench.dial(&["vector", "export", RUN, stage, "-o", "v.gguf"]);
        said.message(2).to_string()
    };
    assert_snapshot!(of_stage("direktion"), @"error: the run has no stage `direktion`; did you mean `direction`?");
    assert!(!bench.path("v.gguf").exists() && !bench.path("v.safetensors").exists());
    // What is there stays as it is.
    bench.write("there.safetensors", "mine");
    assert_snapshot!(refused(&["--layer", "1", "-o", "there.safetensors"]), @"error: `there.safetensors` exists already; name another place with `--output`, or remove it");
    assert_eq!(
        std::fs::read(bench.path("there.safetensors")).unwrap(),
        b"mine"
    );
    // A stage that made none, and a file that is damaged.
    let scored = format!("{DIRECTION}[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n");
    let run = bench.run(&scored).ok();
    assert_snapshot!(of_stage("score"), @"error: stage `score` left no direction; directions are left by `direction`");
    let file = run.file(&bench, "directions/direction.layer2.resid_pre.safetensors");
    std::fs::write(file, "not a file").unwrap();
    let said = export(&bench, &["--layer", "1", "-o", "v.safetensors"]);
    assert!(
        said.message(1).contains("it is no direction of a run"),
        "{said:?}"
    );
}

/// Scores of all prompts by their ids, from a table of one score a prompt.
fn scores(table: &crate::workbench::Table) -> BTreeMap<String, f64> {
    let rows = table.0.iter();
    rows.map(|row| (row.text("id").to_string(), row.number("score")))
        .collect()
}

/// Checks that scores of weights without a direction are those of the ablation: as near as float32 is, and nearer than the ablation is to none.
fn assert_ablated(
    name: &str,
    [weights, ablated, unedited]: [&BTreeMap<String, f64>; 3],
    tolerance: f64,
) {
    assert!(
        !weights.is_empty() && weights.len() == ablated.len(),
        "{name}"
    );
    let furthest = |other: &BTreeMap<String, f64>| {
        let pairs = ablated.iter().map(|(id, score)| (score - other[id]).abs());
        pairs.fold(0.0, f64::max)
    };
    let (wrong, effect) = (furthest(weights), furthest(unedited));
    assert!(wrong <= tolerance, "{name}: {wrong}");
    assert!(
        effect > 20.0 * tolerance,
        "{name}: an ablation that does nothing: {effect}"
    );
}

/// Sums of 64 products in float32, taken in another order, in four layers.
const TOLERANCE: f64 = 2e-4;

#[test]
fn weights_without_the_direction_score_as_the_ablation() {
    let bench = bench();
    let ablate = "[stages.steer]\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"direction\"\nmode = \"ablate_everywhere\"\n";
    let score = "[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n";
    let one = DIRECTION.replace("[1, 2]", "2");
    let run = bench.run(&[&one, ablate, score].concat()).ok();
    let said = orthogonalize(&bench, &["--output", "without", "--format", "json"]);
    let json: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
    // The embedding, and two matrices a layer.
    assert_eq!(
        [&json["ablated"], &json["untied"]],
        [&Value::from(9), &Value::from(false)]
    );
    let without = bench
        .run_with(
            &[&one, score].concat(),
            &["--set", "models.inst.source=without", "--only", "score"],
        )
        .ok();
    assert_ablated(
        "planted",
        [
            &scores(&without.table(&bench, "score")),
            &scores(&run.table(&bench, "steer")),
            &scores(&run.table(&bench, "score")),
        ],
        TOLERANCE,
    );
    // Settings and tokenizer are those of the model.
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let [own, copy] =
            ["models/inst", "without"].map(|of| std::fs::read(bench.path(of).join(file)).unwrap());
        assert_eq!(own, copy, "{file}");
    }
    let (_, about) = tensors(&bench.path("without/model.safetensors"));
    assert_eq!(
        [&about["format"], &about["layer"], &about["stage"]],
        ["pt", "2", "direction"]
    );
    // Nothing is left of it, and the rest is as it was.
    let [(own, _), (left, _)] =
        ["models/inst", "without"].map(|of| tensors(&bench.path(of).join("model.safetensors")));
    let v = run.direction(&bench, "direction.layer2.resid_pre");
    for row in left["model.embed_tokens.weight"].1.chunks(v.len()) {
        assert!(checkpoint::dot(row, &v).abs() < 1e-5);
    }
    assert_eq!(own["lm_head.weight"], left["lm_head.weight"]);
    assert_eq!(own.len(), left.len());
}

/// Of a family whose matrices do not add to the stream what they give.
const NORMALIZED: [&str; 6] = [
    "gemma2",
    "gemma3_multimodal",
    "gemma3_text",
    "glm4",
    "olmo2",
    "olmo3",
];

#[test]
fn every_family_is_ablated_for_good_or_refused() {
    let folders = families::folders();
    let bench = families::bench(&families::prompts(), &folders);
    let (tables, names) = families::models(&folders);
    let score = format!("[stages.score]\nmodel = {names}\nprompts = \"main\"\n");
    let stages = folders.iter().map(|(name, _)| {
        format!(
            "[stages.of_{name}]\nkind = \"direction\"\nmodel = \"{name}\"\nprompts = \"main\"\nselect = \"splits\"\na = \"harmful\"\nb = \"edge\"\nlayer = 1\n\
             [stages.without_{name}]\nkind = \"steer\"\nmodel = \"{name}\"\nprompts = \"main\"\ndirection = \"of_{name}\"\nmode = \"ablate_everywhere\"\n"
        )
    });
    let study = [
        tables,
        families::SETTINGS.to_string(),
        score.clone(),
        stages.collect(),
    ]
    .concat();
    let run = bench.run(&study).ok();
    let mut without = Vec::new();
    for (name, folder) in &folders {
        let (stage, target) = (format!("of_{name}"), format!("without/{name}"));
        let said = bench.dial(&["model", "orthogonalize", RUN, &stage, "-o", &target]);
        if NORMALIZED.contains(&name.as_str()) {
            assert!(
                said.message(1).contains("is normalized before it is added"),
                "{said:?}"
            );
            assert!(!bench.path(&target).exists());
            continue;
        }
        assert_eq!(said.code, 0, "{said:?}");
        let tied = |path: PathBuf| {
            let text = std::fs::read_to_string(path.join("config.json")).unwrap();
            let config: Value = serde_json::from_str(&text).unwrap();
            config["tie_word_embeddings"] == true
        };
        assert!(!tied(bench.path(&target)));
        assert_eq!(
            said.stderr.contains("tie_word_embeddings = false"),
            tied(folder.clone()),
            "{said:?}"
        );
        without.push((name.clone(), folder.clone()));
    }
    assert_eq!(without.len() + NORMALIZED.len(), folders.len());
    let (tables, names) = families::models(&without);
    let study = format!(
        "{tables}{}[stages.score]\nmodel = {names}\nprompts = \"main\"\n",
        families::SETTINGS
    );
    let scored = bench.run(&study.replace("tiny/", "without/")).ok();
    for (name, _) in &without {
        let of = |run: &crate::workbench::Run, stage: &str| {
            scores(&run.table(&bench, stage).with(&[("model", name)]))
        };
        let ablated = of(&run, &format!("without_{name}"));
        assert_ablated(
            name,
            [&of(&scored, "score"), &ablated, &of(&run, "score")],
            2e-5,
        );
    }
}

#[test]
fn an_adapter_takes_the_direction_out_of_the_same_matrices() {
    let mut folders = families::folders();
    folders.retain(|(name, _)| ["gpt2", "qwen3", "mixtral", "gemma2"].contains(&name.as_str()));
    let bench = families::bench(&families::prompts(), &folders);
    let (tables, _) = families::models(&folders);
    let stages = folders.iter().map(|(name, _)| {
        format!(
            "[stages.of_{name}]\nkind = \"direction\"\nmodel = \"{name}\"\nprompts = \"main\"\nselect = \"splits\"\na = \"harmful\"\nb = \"edge\"\nlayer = 1\n"
        )
    });
    let study = [tables, families::SETTINGS.to_string(), stages.collect()].concat();
    bench.run(&study).ok();
    let adapter = |name: &str| {
        let (stage, target) = (format!("of_{name}"), format!("lora/{name}"));
        bench.dial(&[
            "vector", "export", RUN, &stage, "--as", "lora", "-o", &target,
        ])
    };
    for (name, told) in [
        ("gemma2", "is normalized before it is added"),
        ("mixtral", "its MLPs are experts"),
    ] {
        let said = adapter(name);
        assert!(said.message(1).contains(told), "{said:?}");
        assert!(files_below(&bench.path("lora")).is_empty());
    }
    for (name, modules, biases) in [
        ("gpt2", &["c_proj"][..], true),
        ("qwen3", &["down_proj", "o_proj"], false),
    ] {
        let said = adapter(name);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(
            said.stderr.contains("the biases of these"),
            biases,
            "{said:?}"
        );
        let text = std::fs::read_to_string(bench.path(&format!("lora/{name}/adapter_config.json")))
            .unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["target_modules"], serde_json::json!(modules));
        assert_eq!(
            [&config["r"], &config["lora_alpha"]],
            [&Value::from(1), &Value::from(1)]
        );
        assert_eq!(
            config["base_model_name_or_path"],
            Value::Null,
            "a path is nobody else's"
        );
        let (stage, target) = (format!("of_{name}"), format!("without/{name}"));
        let said = bench.dial(&["model", "orthogonalize", RUN, &stage, "-o", &target]);
        assert_eq!(said.code, 0, "{said:?}");
        let [own, left, lora] = [
            format!("tiny/{name}/model.safetensors"),
            format!("{target}/model.safetensors"),
            format!("lora/{name}/adapter_model.safetensors"),
        ]
        .map(|path| tensors(&bench.path(&path)).0);
        // Two matrices of each of three layers, each with both its parts.
        assert_eq!(lora.len(), 12);
        for (key, (_, a)) in lora
            .iter()
            .filter(|(key, _)| key.ends_with("lora_A.weight"))
        {
            let module = key.strip_prefix("base_model.model.").unwrap();
            let weight = module.replace(".lora_A", "");
            let (_, b) = &lora[&key.replace("lora_A", "lora_B")];
            let (_, own) = &own[&weight];
            let sum = |i: usize| match config["fan_in_fan_out"] == true {
                // Stored as `[in, out]`.
                true => own[i] + a[i / b.len()] * b[i % b.len()],
                false => own[i] + b[i / a.len()] * a[i % a.len()],
            };
            let (_, left) = &left[&weight];
            assert_eq!(left.len(), a.len() * b.len());
            for (i, left) in left.iter().enumerate() {
                assert!((sum(i) - left).abs() < 1e-6, "{weight}[{i}]");
            }
        }
    }
}

#[test]
fn a_model_that_is_another_now_is_refused_unless_it_is_named() {
    let bench = bench();
    let one = ["--layer", "2", "-o", "without"];
    copied(&bench.path("models/inst"), bench.path("own"));
    bench.run(&DIRECTION.replace("models/inst", "own")).ok();
    copied(&bench.path("models/base"), bench.path("own"));
    let said = orthogonalize(&bench, &one);
    assert_snapshot!(said.message(2), @"error: model `inst` is not the one any more that the direction was made on (its fingerprint is another); name the one that is meant with `--model SOURCE`");
    std::fs::remove_dir_all(bench.path("own")).unwrap();
    let said = orthogonalize(&bench, &one);
    assert!(
        said.message(1)
            .contains("say where it is now with `--model SOURCE`"),
        "{said:?}"
    );
    assert!(!bench.path("without").exists());
    // Elsewhere it is the same; another one is told.
    let said = orthogonalize(&bench, &[&one[..], &["--model", "models/inst"]].concat());
    assert!(
        said.code == 0 && !said.stderr.contains("fingerprint"),
        "{said:?}"
    );
    let other = ["--layer", "2", "-o", "other", "--model", "models/base"];
    let said = orthogonalize(&bench, &other);
    assert!(
        said.code == 0 && said.stderr.contains("not the very model"),
        "{said:?}"
    );
    // What is there stays.
    let before = files_below(&bench.path("without")).len();
    let said = orthogonalize(&bench, &one);
    assert!(
        said.message(2).contains("`without` exists already"),
        "{said:?}"
    );
    assert_eq!(files_below(&bench.path("without")).len(), before);
}

/// Who is sent a run has its directions, and of its model what they say of it.
#[test]
fn a_direction_of_a_shared_file_goes_out_as_that_of_the_run() {
    let bench = bench();
    assert_eq!(bench.dial(&["export", RUN, "-o", "run.zip"]).code, 0);
    assert_eq!(bench.dial(&["unpack", "run.zip", "sent"]).code, 0);
    for (run, to) in [(RUN, "own"), ("sent", "theirs")] {
        for ending in ["gguf", "safetensors"] {
            let file = format!("{to}.{ending}");
            let arguments = [
                "vector",
                "export",
                run,
                "direction",
                "--layer",
                "2",
                "-o",
                &file,
            ];
            let said = bench.dial(&arguments);
            assert_eq!(said.code, 0, "{said:?}");
        }
    }
    for ending in ["gguf", "safetensors"] {
        let [own, theirs] = ["own", "theirs"]
            .map(|of| std::fs::read(bench.path(&format!("{of}.{ending}"))).unwrap());
        assert!(own == theirs, "{ending}");
    }
    let without = [
        "model",
        "orthogonalize",
        "sent",
        "direction",
        "--layer",
        "2",
        "-o",
        "without",
    ];
    let said = bench.dial(&without);
    assert!(
        said.message(2).contains("is here without its weights"),
        "{said:?}"
    );
    let said = bench.dial(&[&without[..], &["--model", "models/inst"]].concat());
    assert!(
        said.code == 0 && !said.stderr.contains("fingerprint"),
        "{said:?}"
    );
}

/// Directions of holdout seeds, and of stages that make none of their own.
#[test]
fn every_stage_that_leaves_directions_has_them() {
    let bench = Workbench::new(&main_set(12, 8));
    let more = r#"
[stages.holdout]
direction_model = "inst"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
seed = [0, 1]
alpha = 1
[stages.combine]
of = "direction"
layer = 2
[stages.places]
kind = "direction"
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
position = [-2, -1]
"#;
    bench.run(&[DIRECTION, more].concat()).ok();
    let export = |stage: &str, to: &str, which: &[&str]| {
        let arguments = ["vector", "export", RUN, stage, "-o", to];
        bench.dial(&[&arguments, which].concat())
    };
    assert_snapshot!(export("holdout", "h.gguf", &[]).message(2), @r"
    error: stage `holdout` has 2 directions that could be meant; say which
      --seed 0
      --seed 1
    ");
    assert_snapshot!(export("places", "p.gguf", &[]).message(2), @r"
    error: stage `places` has 2 directions that could be meant; say which
      --position -2
      --position -1
    ");
    for (stage, to, which) in [
        ("holdout", "h.safetensors", &["--seed", "1"][..]),
        ("places", "p.safetensors", &["--position", "-2"]),
        ("combine", "c.safetensors", &[]),
    ] {
        let said = export(stage, to, which);
        assert_eq!(said.code, 0, "{said:?}");
    }
    let said = |file: &str, key: &str| tensors(&bench.path(file)).1[key].clone();
    assert_eq!(said("h.safetensors", "seed"), "1");
    assert_eq!(said("p.safetensors", "position"), "-2");
    assert_eq!(said("c.safetensors", "stage"), "combine");
}

#[test]
fn a_disk_without_room_is_told_before_anything_is_written() {
    let bench = bench();
    let library = bench.library(
        "full",
        "#include <sys/statvfs.h>\n#include <string.h>\n\
         int statvfs(const char *path, struct statvfs *found) { memset(found, 0, sizeof *found); found->f_bavail = 3; found->f_frsize = 1000; return 0; }\n\
         int statvfs64(const char *path, struct statvfs *found) { return statvfs(path, found); }\n",
    );
    let arguments = [
        "model",
        "orthogonalize",
        RUN,
        "direction",
        "--layer",
        "2",
        "-o",
        "without",
    ];
    let mut command = bench.command(&arguments);
    let output = command.env("LD_PRELOAD", library).output().unwrap();
    let said = Said::of(output, &bench.path(""));
    let message = said.message(2);
    assert!(
        message.contains("3.00 kB are free on its disk"),
        "{message}"
    );
    assert!(!bench.path("without").exists());
}

/// Wherever it stops, there is no folder of half a model.
#[test]
fn a_stop_while_weights_are_written_leaves_nothing() {
    let bench = bench();
    let library = bench.library(
        "stops",
        "#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n#include <errno.h>\n\
         static int is_weights(int fd) { char link[64], path[4096]; sprintf(link, \"/proc/self/fd/%d\", fd); ssize_t n = readlink(link, path, sizeof path - 1); \
         if (n < 0) return 0; path[n] = 0; return strstr(path, \"model.safetensors\") && strstr(path, \".tmp-\"); }\n\
         ssize_t write(int fd, const void *bytes, size_t count) { static size_t written; \
         static ssize_t (*real)(int, const void *, size_t); if (!real) real = dlsym(RTLD_NEXT, \"write\"); \
         if (is_weights(fd) && (written += count) > 30000) { errno = ENOSPC; return -1; } return real(fd, bytes, count); }\n",
    );
    let arguments = [
        "model",
        "orthogonalize",
        RUN,
        "direction",
        "--layer",
        "2",
        "-o",
        "without",
    ];
    let before = files_below(&bench.path("")).len();
    let mut command = bench.command(&arguments);
    let output = command.env("LD_PRELOAD", library).output().unwrap();
    let said = Said::of(output, &bench.path(""));
    assert!(
        said.message(1)
            .contains("`model.safetensors` cannot be written: No space left"),
        "{said:?}"
    );
    assert_eq!(files_below(&bench.path("")).len(), before);
}
