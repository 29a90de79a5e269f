//! Activations as arrays: what a notebook reads is what directions are made of.

use insta::assert_snapshot;
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde_json::Value;

use crate::prompts::main_set;
use crate::workbench::{Run, Workbench, files_below};

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[models.base]
source = "models/base"
template_from = "inst"
[prompts.main]
path = "main.jsonl"
"#;

const STAGES: &str = r#"
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = 2
[stages.activations]
model = ["inst", "base"]
prompts = "main"
layer = [1, 2]
site = ["resid_pre", "mlp_post", "attn.hook_z"]
"#;

const FILE: &str = "tensors/activations.safetensors";
const PROMPTS: usize = 20;

fn bench() -> Workbench {
    Workbench::new(&main_set(12, 8))
}

fn bytes(bench: &Workbench, run: &Run, file: &str) -> Vec<u8> {
    std::fs::read(run.file(bench, file)).unwrap()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32);
    let words = tensor.data().as_chunks::<4>().0.iter();
    words.map(|word| f32::from_le_bytes(*word)).collect()
}

fn integers(file: &SafeTensors<'_>, name: &str) -> Vec<i64> {
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::I64);
    let words = tensor.data().as_chunks::<8>().0.iter();
    words.map(|word| i64::from_le_bytes(*word)).collect()
}

/// The mean of each column over some rows of so many numbers, in float64.
fn means(numbers: &[f32], width: usize, rows: &[usize]) -> Vec<f64> {
    let mean = |column: usize| {
        let of_row = |row: &usize| f64::from(numbers[row * width + column]);
        rows.iter().map(of_row).sum::<f64>() / rows.len() as f64
    };
    (0..width).map(mean).collect()
}

#[test]
fn the_arrays_are_what_a_direction_is_made_of_to_the_bit() {
    let bench = bench();
    let run = bench.run(&format!("{HEAD}{STAGES}")).ok();
    let bytes_of_file = bytes(&bench, &run, FILE);
    let file = SafeTensors::deserialize(&bytes_of_file).unwrap();
    let table = run.table(&bench, "activations");
    assert_eq!(table.0.len(), 2 * PROMPTS);
    let of_inst = table.with(&[("model", "inst")]);
    let rows_of = |split: &str| -> Vec<usize> {
        let rows = of_inst.with(&[("split", split)]).numbers("row");
        rows.into_iter().map(|row| row as usize).collect()
    };
    // The direction from these rows, as anybody would make it.
    let name = "inst.blocks.2.hook_resid_pre";
    let [rows, width] = file.tensor(name).unwrap().shape()[..] else {
        panic!("not a matrix")
    };
    assert_eq!(rows, PROMPTS);
    let numbers = floats(&file, name);
    let [a, b] = ["harmful", "edge"].map(|split| means(&numbers, width, &rows_of(split)));
    let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let length = difference.iter().map(|x| x * x).sum::<f64>().sqrt();
    let unit: Vec<f32> = difference.iter().map(|x| (x / length) as f32).collect();
    let direction = "directions/direction.layer2.resid_pre.safetensors";
    let direction = bytes(&bench, &run, direction);
    let direction = SafeTensors::deserialize(&direction).unwrap();
    assert_eq!(floats(&direction, "direction"), unit);
    // Another model has other vectors at the same place.
    assert_ne!(numbers, floats(&file, "base.blocks.2.hook_resid_pre"));
    assert!(numbers.iter().all(|number| number.is_finite()));
}

/// A direction of means over prompts is made of the means of what single tokens have, and so is what a condition holds against it.
#[test]
fn a_mean_over_a_prompt_is_that_of_its_tokens() {
    let bench = bench();
    let stages = r#"
[stages.direction]
model = "inst"
prompts = "main"
select = "splits"
a = "harmful"
b = "edge"
layer = [1, 2]
position = "mean"
geometry = true
held_out = 0.5
[stages.activations]
model = "inst"
prompts = "main"
layer = 2
position = "all"
[stages.condition]
model = "inst"
prompts = "main"
direction = "direction"
open = "harmful"
closed = "edge"
"#;
    let run = bench.run(&format!("{HEAD}{stages}")).ok();
    let bytes_of_file = bytes(&bench, &run, FILE);
    let file = SafeTensors::deserialize(&bytes_of_file).unwrap();
    let name = "inst.blocks.2.hook_resid_pre";
    let width = file.tensor(name).unwrap().shape()[1];
    let numbers = floats(&file, name);
    let table = run.table(&bench, "activations");
    let of_prompt = |id: &str| {
        let rows = table.with(&[("id", id)]).numbers("row");
        assert!(rows.len() > 5);
        let rows: Vec<usize> = rows.into_iter().map(|row| row as usize).collect();
        means(&numbers, width, &rows)
    };
    let members = run.table(&bench, "direction.members");
    let of_group = |group: &str| {
        let ids = members.with(&[("group", group), ("layer", "2")]);
        let all: Vec<Vec<f64>> = ids.0.iter().map(|row| of_prompt(row.text("id"))).collect();
        assert!(all.len() > 1);
        let mean =
            |column: usize| all.iter().map(|row| row[column]).sum::<f64>() / all.len() as f64;
        (0..width).map(mean).collect::<Vec<f64>>()
    };
    let (a, b) = (of_group("top"), of_group("bottom"));
    let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let length = difference.iter().map(|x| x * x).sum::<f64>().sqrt();
    let found = run.direction(&bench, "direction.layer2.resid_pre.mean");
    // A mean is rounded to float32 once.
    for (found, expected) in found.iter().zip(&difference) {
        assert!((f64::from(*found) - expected / length).abs() < 1e-6);
    }
    let told = run.table(&bench, "direction").with(&[("layer", "2")]);
    assert!((told.only().number("pre_norm") / length - 1.0).abs() < 1e-6);
    assert_eq!(
        [told.only().text("position"), told.only().text("token")],
        ["", ""]
    );
    for further in ["detection", "geometry"] {
        let table = run.table(&bench, &format!("direction.{further}"));
        assert_eq!(table.0.len(), 2, "{further}");
    }
    // The same numbers are what the condition goes by.
    let chosen = run.table(&bench, "condition.chosen");
    assert_eq!(chosen.only().text("over"), "mean");
    if chosen.only().text("layer") == "2" {
        for row in &run.table(&bench, "condition.likeness").0 {
            let h = of_prompt(row.text("id"));
            let along: f64 = h.iter().zip(&found).map(|(x, v)| x * f64::from(*v)).sum();
            let cosine = along / h.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((row.number("likeness") - cosine).abs() < 1e-5);
        }
    }
    assert_eq!(
        bench.run(&format!("{HEAD}{stages}")).ok().all_computed(),
        []
    );
}

#[test]
fn tables_and_metadata_say_what_everything_in_the_file_is() {
    let bench = bench();
    let run = bench.run(&format!("{HEAD}{STAGES}")).ok();
    let bytes = bytes(&bench, &run, FILE);
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = run.table(&bench, "activations.tensors");
    assert_eq!(tensors.0.len(), 2 * 2 * 3);
    for row in &tensors.0 {
        let tensor = file.tensor(row.text("tensor")).unwrap();
        let shape = [row.number("rows") as usize, row.number("width") as usize];
        assert_eq!(tensor.shape(), shape, "{row:?}");
        let site = match row.text("site") {
            "resid_pre" => "hook_resid_pre",
            "mlp_post" => "mlp.hook_post",
            _ => "attn.hook_z",
        };
        let (model, layer) = (row.text("model"), row.text("layer"));
        assert_eq!(row.text("tensor"), format!("{model}.blocks.{layer}.{site}"));
    }
    let widths = ["resid_pre", "mlp_post"].map(|site| {
        let of_site = tensors.with(&[("site", site), ("model", "inst"), ("layer", "1")]);
        of_site.only().number("width")
    });
    assert_ne!(
        widths[0], widths[1],
        "a site need not be as wide as the stream"
    );
    assert_eq!(file.names().len(), 12 + 2 * 2);
    // Every prompt has its token ids, and the row's token is where it says.
    for model in ["inst", "base"] {
        let ids = integers(&file, &format!("{model}.token_ids"));
        let offsets = integers(&file, &format!("{model}.token_offsets"));
        assert_eq!(offsets.len(), PROMPTS + 1);
        assert_eq!((offsets[0], offsets[PROMPTS]), (0, ids.len() as i64));
        let rows = run.table(&bench, "activations");
        for (number, row) in rows.with(&[("model", model)]).0.iter().enumerate() {
            let (start, end) = (offsets[number] as usize, offsets[number + 1] as usize);
            assert_eq!(row.number("row") as usize, number);
            assert_eq!(row.number("tokens") as usize, end - start);
            let index = row.number("index") as usize;
            assert_eq!(index, end - start - 1, "position -1 is the last token");
            assert_eq!(row.number("token_id") as i64, ids[start + index]);
            assert!(!row.text("token").is_empty());
        }
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let said = header.metadata().clone().unwrap();
    assert_eq!(said["position"], "-1");
    let models: Value = serde_json::from_str(&said["models"]).unwrap();
    assert_eq!(models["inst"]["n_layers"], 4, "{models}");
    assert!(said["about"].contains("token_offsets"));
}

#[test]
fn arrays_are_cached_shared_checked_and_unpacked_like_all_else() {
    let bench = bench();
    let study = format!("{HEAD}{STAGES}");
    let run = bench.run(&study).ok();
    let first = bytes(&bench, &run, FILE);
    assert_eq!(
        run.computed("activations"),
        2 * 2 * 3 * PROMPTS as u64 - PROMPTS as u64
    );
    let again = bench.run(&study).ok();
    assert_eq!(again.status("activations"), "cached");
    assert_eq!(bytes(&bench, &again, FILE), first);
    let forced = bench.run_with(&study, &["--force", "activations"]).ok();
    assert_eq!(forced.status("activations"), "recomputed");
    // The artifact gone, it is made again from its cells, to the bit.
    let object = blake3::hash(&first).to_hex().to_string();
    let stored = files_below(&bench.path("cache")).into_iter();
    let mut stored = stored.filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        object.ends_with(&*name) || name.contains(&object)
    });
    std::fs::remove_file(stored.next().unwrap()).unwrap();
    let again = bench.run(&study).ok();
    assert_eq!(
        (again.status("activations"), again.computed("activations")),
        ("computed", 0)
    );
    assert_eq!(bytes(&bench, &again, FILE), first);
    let said = bench.dial(&["export", "runs/study/latest", "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = bench.dial(&["verify", "run.zip"]);
    assert!(said.stdout.contains("follows: agrees"), "{said:?}");
    let said = bench.dial(&["unpack", "run.zip", "unpacked"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(
        std::fs::read(bench.path("unpacked").join(FILE)).unwrap(),
        first
    );
    let study = "unpacked/study.toml";
    let plan = bench.dial(&["plan", study, "--cache", "unpacked/cache"]);
    assert!(plan.stdout.contains("nothing to compute"), "{plan:?}");
}

#[test]
fn of_prompts_that_are_withheld_neither_arrays_nor_tokens_are_shared() {
    let bench = bench();
    let head = HEAD.replace("main.jsonl\"\n", "main.jsonl\"\nshare = false\n");
    bench.run(&format!("{head}{STAGES}")).ok();
    let said = bench.dial(&["export", "runs/study/latest", "-o", "run.zip"]);
    assert_eq!(said.code, 0, "{said:?}");
    let said = bench.dial(&["verify", "run.zip"]);
    assert!(said.stdout.contains("intact: agrees"), "{said:?}");
    let said = bench.dial(&["unpack", "run.zip", "unpacked"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!bench.path("unpacked/tensors").exists());
    let table = std::fs::read_to_string(bench.path("unpacked/tables/activations.csv")).unwrap();
    let header = table.lines().next().unwrap();
    assert_eq!(header, "model,row,id,split,category,position,index,tokens");
}

#[test]
fn places_that_are_not_there_are_told() {
    let bench = bench();
    let refusal = |layer: &str, site: &str| {
        let stage = format!(
            "[stages.activations]\nmodel = \"inst\"\nprompts = \"main\"\nlayer = {layer}\nsite = {site}\n"
        );
        bench.write("study.toml", format!("{HEAD}{stage}"));
        bench.dial(&["plan", "study.toml"]).message(2).to_string()
    };
    assert_snapshot!(refusal("[1, 9]", "[\"resid_pre\", \"resid_pre\"]"), @r#"
    error: layer `9` is out of range for model `inst`
      --> study.toml:12:13
       |
    12 | layer = [1, 9]
       |             ^ the model has 4 layers, 0 to 3

    error: `stages.activations.site` holds the string `resid_pre` twice
      --> study.toml:13:22
       |
    13 | site = ["resid_pre", "resid_pre"]
       |         -----------  ^^^^^^^^^^^ again here
       |         |
       |         first here
    "#);
    assert_snapshot!(refusal("[1, 9]", "\"mlp_pots\""), @r#"
    error: layer `9` is out of range for model `inst`
      --> study.toml:12:13
       |
    12 | layer = [1, 9]
       |             ^ the model has 4 layers, 0 to 3

    error: `stages.activations.site` cannot be `mlp_pots`
      --> study.toml:13:8
       |
    13 | site = "mlp_pots"
       |        ^^^^^^^^^^ did you mean `mlp_post`?
       |
       = help: it is one of `resid_pre`, `z`, `attn_out`, `resid_mid`, `mlp_post`, `mlp_out`, `resid_post`, `hook_resid_pre`, `attn.hook_z`, `hook_attn_out`, `hook_resid_mid`, `mlp.hook_post`, `hook_mlp_out`, `hook_resid_post`
    "#);
}
