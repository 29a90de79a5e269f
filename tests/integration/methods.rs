//! Directions made otherwise than by the difference of means, and how well each tells the groups apart.

use serde_json::json;

use crate::checkpoint::{dot, refusal_direction};
use crate::prompts::main_set;
use crate::workbench::{Run, Workbench};

const HEAD: &str = r#"
[models.inst]
source = "models/inst"
[prompts.main]
path = "main.jsonl"
"#;

/// A direction of harmful and edge prompts.
fn direction(name: &str, more: &str) -> String {
    format!(
        "[stages.{name}]\nkind = \"direction\"\nmodel = \"inst\"\nprompts = \"main\"\nselect = \"splits\"\na = \"harmful\"\nb = \"edge\"\n{more}\n"
    )
}

fn vector(bench: &Workbench, run: &Run, file: &str) -> Vec<f32> {
    let bytes = std::fs::read(run.file(bench, &format!("directions/{file}.safetensors"))).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("direction").unwrap();
    let numbers = tensor.data().as_chunks::<4>().0.iter();
    numbers.map(|b| f32::from_le_bytes(*b)).collect()
}

const METHODS: [(&str, &str, &str); 6] = [
    ("means", "", ""),
    ("pairs", "method = \"pca\"", "_pca_pair"),
    (
        "differences",
        "method = \"pca\"\ncentring = \"difference\"",
        "_pca_difference",
    ),
    (
        "grand",
        "method = \"pca\"\ncentring = \"grand\"",
        "_pca_grand",
    ),
    (
        "logistic",
        "method = \"logistic\"\npenalty = 0.1",
        "_logistic",
    ),
    ("lda", "method = \"lda\"", "_lda"),
];

#[test]
fn every_method_finds_the_planted_direction_and_is_tried_on_prompts_that_did_not_make_it() {
    let bench = Workbench::new(&main_set(40, 40));
    let stages = METHODS.map(|(name, method, _)| {
        direction(
            name,
            &format!("layer = [2, 3]\nheld_out = 0.5\nseed = 1\n{method}"),
        )
    });
    let steers = METHODS.map(|(name, ..)| {
        format!("[stages.by_{name}]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"{name}\"\nalpha = [0, 1]\nalpha_unit = \"pre_norm\"\n")
    });
    let study = [HEAD, &stages.concat(), &steers.concat()].concat();
    let run = bench.run(&study).ok();
    let planted = refusal_direction();
    for (name, _, label) in METHODS {
        let found = vector(&bench, &run, &format!("{name}.layer2.resid_pre"));
        let cosine = dot(&found, &planted);
        let least = match name {
            // Of differences less their mean nothing is left of what they have in common; a discriminant reads quiet axes more than loud ones.
            "differences" => -1.0,
            "lda" => 0.1,
            _ => 0.7,
        };
        assert!(cosine > least, "{name}: {cosine}");
        let table = run.table(&bench, name).with(&[("layer", "2")]);
        assert_eq!(
            table.only().text("direction"),
            format!("harmful_minus_edge{label}")
        );
        let detection = run.table(&bench, &format!("{name}.detection"));
        let row = detection.with(&[("layer", "2")]);
        let row = row.only();
        let counts = ["n_train", "n_top", "n_bottom"].map(|column| row.number(column));
        assert_eq!(counts.iter().sum::<f64>(), 80.0, "{name}: {counts:?}");
        if name != "differences" {
            assert!(
                row.number("auroc") > 0.9 && row.number("auroc_train") > 0.9,
                "{row:?}"
            );
            assert!(row.number("auroc_low") <= row.number("auroc"));
            // Along it α = 1 raises what the model says as much as the groups differ.
            let steered = run
                .table(&bench, &format!("by_{name}"))
                .with(&[("layer", "2")]);
            let mean = |alpha: &str| steered.with(&[("alpha", alpha)]).mean("score");
            assert!(mean("1.0") > mean("0.0"), "{name}");
        }
        let chosen = detection.with(&[("chosen", "true")]);
        assert_eq!(chosen.0.len(), 1);
        // The prompts that try it are none of those that made it.
        let members = run
            .table(&bench, &format!("{name}.members"))
            .with(&[("layer", "2")]);
        assert_eq!(members.0.len() as f64, counts[0]);
        let shuffled = run.table(&bench, &format!("{name}.shuffled"));
        assert_eq!(shuffled.0.len(), 2 * 20);
    }
    // In pairs, both are on one side.
    let members = run.table(&bench, "pairs.members").with(&[("layer", "2")]);
    let of = |group: &str| -> Vec<String> {
        let rows = members.with(&[("group", group)]);
        let number = |id: &str| id.rsplit('-').next().unwrap().to_string();
        rows.0.iter().map(|row| number(row.text("id"))).collect()
    };
    assert_eq!(of("top"), of("bottom"));
    let again = bench.run(&study).ok();
    assert!(again.all_computed().iter().all(|(_, cells)| *cells == 0));
    let other = bench
        .run(&study.replace("penalty = 0.1", "penalty = 10"))
        .ok();
    assert_eq!(
        [other.status("logistic"), other.status("lda")],
        ["computed", "cached"]
    );
}

#[test]
fn what_makes_no_direction_is_told() {
    let bench = Workbench::new(&main_set(12, 8));
    let refused = |more: &str| {
        let study = [HEAD, &direction("direction", &format!("layer = 2\n{more}"))].concat();
        bench.refusal(&study).stderr
    };
    for (more, told) in [
        (
            "method = \"pca\"",
            "goes by pairs, and A has 8 prompts and B 12",
        ),
        (
            "method = \"pca\"\npair = \"split\"",
            "is not paired with one prompt of B",
        ),
        (
            "method = \"lda\"\naffine = true",
            "belongs to `method = \"mean_difference\"`",
        ),
        (
            "method = \"logistic\"\npenalty = 0",
            "penalty `0` is not above 0",
        ),
        ("held_out = 0.00001", "leaves no prompt of A to try it on"),
        ("penalty = 1.0", "`penalty`"),
        ("method = \"svm\"", "`logistic`"),
    ] {
        let said = refused(more);
        assert!(said.contains(told), "{more}: {said}");
    }
}

#[test]
fn a_column_pairs_prompts_wherever_they_stand() {
    let bench = Workbench::new(&[]);
    let mut lines = String::new();
    for (number, p) in main_set(20, 20).iter().enumerate() {
        // The last of one split goes with the first of the other.
        let pair = if p.split == "harmful" {
            39 - number
        } else {
            number
        };
        lines += &format!(
            "{}\n",
            json!({"id": p.id, "prompt": p.text, "split": p.split, "category": p.category, "topic": format!("t{pair}")})
        );
    }
    bench.write("main.jsonl", lines);
    let study = [
        HEAD,
        &direction(
            "paired",
            "layer = 2\nmethod = \"pca\"\npair = \"topic\"\nheld_out = 0.5",
        ),
        &direction("means", "layer = 2\npair = \"topic\"\nheld_out = 0.5"),
    ];
    let run = bench.run(&study.concat()).ok();
    for stage in ["paired", "means"] {
        let members = run.table(&bench, &format!("{stage}.members"));
        let of = |group: &str| -> Vec<usize> {
            let rows = members.with(&[("group", group)]);
            rows.0
                .iter()
                .map(|row| row.text("id").rsplit('-').next().unwrap().parse().unwrap())
                .collect()
        };
        let (top, bottom) = (of("top"), of("bottom"));
        assert_eq!(top.len(), bottom.len(), "{stage}");
        let mut partners: Vec<usize> = top.iter().map(|number| 19 - number).collect();
        if stage == "means" {
            partners.reverse();
        }
        assert_eq!(partners, bottom, "{stage}");
    }
}
