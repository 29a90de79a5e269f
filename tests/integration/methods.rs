//! Directions made otherwise than by the difference of means, combinations of directions, and how well each tells the groups apart.

use serde_json::json;

use crate::checkpoint::{self, TWO, dot, refusal_direction};
use crate::prompts::{main_set, of_two_concepts};
use crate::workbench::Workbench;

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
        let found = run.direction(&bench, &format!("{name}.layer2.resid_pre"));
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

#[test]
fn directions_are_added_subtracted_and_projected_out_of_each_other() {
    let bench = Workbench::new(&of_two_concepts(60));
    checkpoint::write(&bench.path("models/two_combined"), TWO);
    let warmth = direction("warmth", "layer = [2, 3]")
        .replace("\"splits\"", "\"column\"\ncolumn = \"category\"")
        .replace("a = \"harmful\"", "a = \"warm\"")
        .replace("b = \"edge\"", "b = \"cold\"");
    let combine = |name: &str, more: &str| format!("[stages.{name}]\nkind = \"combine\"\n{more}\n");
    let head = HEAD.replace("models/inst", "models/two_combined");
    let directions = [
        head,
        direction("refusal", "layer = [2, 3]"),
        direction("harmless", "layer = [1, 2, 3]\nmethod = \"mean_b\""),
        warmth,
    ]
    .concat();
    let study = [
        directions.clone(),
        combine("sum", "of = [\"refusal\", \"warmth\"]"),
        combine(
            "difference",
            "of = [{ direction = \"refusal\", weight = 2 }, { direction = \"warmth\", weight = -0.5 }]\nlength = \"unit\"\nlayer = 2",
        ),
        combine("projected", "of = \"refusal\"\nwithout = \"harmless\""),
        combine("bare", "of = \"refusal\"\nwithout = [\"harmless\", \"warmth\"]\nlayer = 2"),
        "[stages.steer]\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"projected\"\nalpha = [0, 1]\nalpha_unit = \"pre_norm\"\n".to_string(),
    ]
    .concat();
    let run = bench.run(&study).ok();
    let of = |stage: &str| run.direction(&bench, &format!("{stage}.layer2.resid_pre"));
    let length = |stage: &str| {
        run.table(&bench, stage)
            .with(&[("layer", "2")])
            .only()
            .number("pre_norm")
    };
    let (refusal, warmth, harmless) = (of("refusal"), of("warmth"), of("harmless"));
    let check = |stage: &str, weights: [f64; 2]| {
        let sum: Vec<f64> = refusal
            .iter()
            .zip(&warmth)
            .map(|(r, w)| weights[0] * f64::from(*r) + weights[1] * f64::from(*w))
            .collect();
        let norm = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        for (found, wanted) in of(stage).iter().zip(&sum) {
            assert!((f64::from(*found) - wanted / norm).abs() < 1e-6, "{stage}");
        }
        assert!((length(stage) / norm - 1.0).abs() < 1e-9, "{stage}");
    };
    check("sum", [length("refusal"), length("warmth")]);
    check("difference", [2.0, -0.5]);
    // heretic's: nothing of the mean of the harmless prompts is left.
    let projected = of("projected");
    assert!(dot(&projected, &harmless).abs() < 1e-6);
    let along = dot(&refusal, &harmless);
    let left: Vec<f32> = refusal
        .iter()
        .zip(&harmless)
        .map(|(r, g)| r - along * g)
        .collect();
    let norm = dot(&left, &left).sqrt();
    assert!(
        left.iter()
            .zip(&projected)
            .all(|(l, p)| (l / norm - p).abs() < 1e-5)
    );
    let row = run.table(&bench, "projected").with(&[("layer", "2")]);
    assert!((row.only().number("left") - f64::from(norm)).abs() < 1e-5);
    assert!((length("projected") / length("refusal") - f64::from(norm)).abs() < 1e-5);
    for other in [&warmth, &harmless] {
        assert!(dot(&of("bare"), other).abs() < 1e-6);
    }
    let labels = ["sum", "difference", "projected", "bare"].map(|stage| {
        let table = run.table(&bench, stage).with(&[("layer", "2")]);
        table.only().text("direction").to_string()
    });
    assert_eq!(
        labels,
        [
            "refusal_plus_warmth",
            "2_refusal_minus_0.5_warmth",
            "refusal_without_harmless",
            "refusal_without_harmless_without_warmth"
        ]
    );
    let terms = run.table(&bench, "bare.terms");
    assert_eq!(terms.with(&[("role", "without")]).0.len(), 2);
    assert_eq!(
        terms.with(&[("role", "term")]).only().text("stage"),
        "refusal"
    );
    let steered = run.table(&bench, "steer").with(&[("layer", "2")]);
    assert!(
        steered.with(&[("alpha", "1.0")]).mean("score")
            > steered.with(&[("alpha", "0.0")]).mean("score")
    );
    run.assert_comes_out_again(&bench, "models/two_combined");
    let refused = |more: &str| {
        bench
            .refusal(&[directions.clone(), more.to_string()].concat())
            .stderr
    };
    let opposite = direction("opposite", "layer = [2, 3]")
        .replace("\"harmful\"", "\"x\"")
        .replace("\"edge\"", "\"harmful\"")
        .replace("\"x\"", "\"edge\"");
    for (more, told) in [
        (
            combine("two", "of = [\"harmless\", \"refusal\"]"),
            "stage `refusal` has no direction to go with that of layer 1, `resid_pre`, position -1; it has layer 2",
        ),
        (
            combine("two", "of = [\"refusal\", \"refusal\"]"),
            "is added twice",
        ),
        (
            combine("two", "of = \"refusal\"\nlayer = 1"),
            "makes no direction at layer 1",
        ),
        (
            combine("two", "of = \"refusal\"\nwithout = \"refusal\""),
            "nothing is left of `refusal_without_refusal` at layer 2",
        ),
        (
            [opposite, combine("two", "of = [\"refusal\", \"opposite\"]")].concat(),
            "cancels out",
        ),
        (combine("two", "of = []"), "a list of names"),
    ] {
        let said = refused(&more);
        assert!(said.contains(told), "{more}: {said}");
    }
}

#[test]
fn what_two_directions_do_to_each_other_is_read_of_the_stream_with_one_taken_out() {
    let bench = Workbench::new(&of_two_concepts(60));
    checkpoint::write(&bench.path("models/two_independent"), TWO);
    let warmth = direction("warmth", "layer = 2")
        .replace("\"splits\"", "\"column\"\ncolumn = \"category\"")
        .replace("a = \"harmful\"", "a = \"warm\"")
        .replace("b = \"edge\"", "b = \"cold\"");
    let independence = |more: &str| {
        format!(
            "[stages.independence]\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"refusal\"\nother = \"warmth\"\n{more}\n"
        )
    };
    let head = HEAD.replace("models/inst", "models/two_independent");
    let directions = [
        head,
        direction("refusal", "layer = [2, 3]\ngeometry = true"),
        warmth,
    ]
    .concat();
    let study = [
        directions.clone(),
        independence("at = 2\nlimit = 20"),
        independence("at = 2\nlimit = 20")
            .replace("stages.independence", "stages.itself")
            .replace("model =", "kind = \"independence\"\nmodel =")
            .replace("other = \"warmth\"", "other = \"refusal\""),
    ]
    .concat();
    let run = bench.run(&study).ok();
    let table = run.table(&bench, "independence");
    assert_eq!(table.0.len(), 2 * checkpoint::N_LAYERS);
    for row in &table.0 {
        // What is planted along the one is written and read by nothing of the other.
        assert_eq!(row.number("n"), 40.0);
        assert!(row.number("change").abs() < 0.15, "{row:?}");
        let change = row.number("mean_ablated") - row.number("mean");
        assert!((change - row.number("change")).abs() < 1e-9);
        assert!(row.number("change_low") <= row.number("change"));
    }
    // Without itself nothing is left of a direction, at any layer.
    let itself = run.table(&bench, "itself");
    for row in &itself.0 {
        assert!(
            row.number("mean_ablated").abs() < 1e-5 && row.number("std_ablated") < 1e-5,
            "{row:?}"
        );
        assert!(row.number("cosine") > 1.0 - 1e-9);
    }
    let at_two = itself.with(&[("layer", "2")]);
    assert!(at_two.0[0].number("std") > 0.01);
    let geometry = run.table(&bench, "refusal.geometry");
    assert_eq!(geometry.0.len(), 2);
    for row in &geometry.0 {
        // v is as much of μ_A − μ_B as there is.
        let gap = row.number("norm_a") * row.number("cosine_a_v")
            - row.number("norm_b") * row.number("cosine_b_v");
        assert!((gap / row.number("pre_norm") - 1.0).abs() < 1e-5, "{row:?}");
        assert!(row.number("auroc") > 0.9 && row.number("silhouette") < 1.0);
    }
    for figure in ["independence.independence.svg", "refusal.geometry.svg"] {
        assert!(
            run.file(&bench, &format!("figures/{figure}")).exists(),
            "{figure}"
        );
    }
    let again = bench.run(&study).ok();
    assert!(again.all_computed().iter().all(|(_, cells)| *cells == 0));
    for (more, told) in [
        ("", "has 2 directions, and not just one there is to compare"),
        ("at = 2\nlayer = [0, 9]", "layer `9` is out of range"),
        ("at = 2\nsplit = \"calm\"", "has no split `calm`"),
    ] {
        let said = bench
            .refusal(&[directions.clone(), independence(more)].concat())
            .stderr;
        assert!(said.contains(told), "{more}: {said}");
    }
}
