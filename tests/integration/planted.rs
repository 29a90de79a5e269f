//! The whole study on a model whose refusal direction is known: every stage has a known answer.

mod patching;

use std::collections::HashSet;
use std::sync::OnceLock;

use safetensors::SafeTensors;

use crate::checkpoint::{D_MODEL, dot, refusal_direction};
use crate::prompts::main_set;
use crate::workbench::{Run, Table, Workbench};

const STUDY: &str = r#"
[models.inst]
source = "models/inst"
[models.base]
source = "models/base"
[prompts.main]
path = "main.jsonl"
[prompts.xstest]
path = "xstest.csv"

[stages.score]
model = ["base", "inst"]
prompts = "main"

[stages.patch]
pairing = "models"
donor = "inst"
recipient = "base"
prompts = "main"
layer = "all"
site = ["resid_pre", "attn_out", "mlp_out"]

[stages.patch_self]
kind = "patch"
pairing = "models"
donor = "inst"
recipient = "inst"
prompts = "main"
layer = "all"
site = ["resid_pre", "resid_mid", "attn_out", "mlp_out", "resid_post"]
limit = 8

[stages.patch_last_k]
kind = "patch"
pairing = "models"
donor = "inst"
recipient = "base"
prompts = "main"
cumulative = "last_k"
site = ["resid_post", "attn_out"]
limit = 8

[stages.patch_prompts]
kind = "patch"
pairing = "prompts"
model = "inst"
donors = "harmful"
recipients = "edge"
prompts = "main"
layer = "all"
site = "resid_pre"

[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 20
layer = [2, 3]

[stages.steer]
model = ["base", "inst"]
prompts = "main"
direction = "direction"
alpha = [-6, -3, 0, 3, 6]

[stages.ablate]
kind = "steer"
model = "inst"
prompts = "main"
direction = "direction"
mode = "ablate_all"

[stages.near_zero]
kind = "steer"
model = "inst"
prompts = "main"
direction = "direction"
alpha = [0, 1e-4]

[stages.generate]
model = "inst"
prompts = "main"
limit = 10
direction = "direction"
alpha = [-12, 0, 12]
max_new_tokens = 6

[stages.random]
model = "inst"
prompts = "main"
seed = "0..20"
layer = 2
alpha = [-6, -3, 0, 3, 6]

[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = "0..3"
n = 10
layer = 2
alpha = [-6, -3, 0, 3, 6]

[stages.xstest]
model = "inst"
prompts = "xstest"
direction = "holdout"
seed = 0
alpha = [-6, -3, 0, 3, 6]

[stages.summary]
steer = "steer"
holdout = "holdout"
random = "random"
xstest = "xstest"
"#;

/// The study, run once for all tests here.
fn study() -> &'static (Workbench, Run) {
    static STUDY_RUN: OnceLock<(Workbench, Run)> = OnceLock::new();
    STUDY_RUN.get_or_init(|| {
        let bench = Workbench::new(&main_set(60, 40));
        let run = bench.run(STUDY).ok();
        (bench, run)
    })
}

fn table(name: &str) -> Table {
    let (bench, run) = study();
    run.table(bench, name)
}

/// The vector and the norm in one of the run's safetensors files.
fn direction(file: &str) -> (Vec<f32>, f32) {
    let (bench, run) = study();
    let bytes = std::fs::read(run.file(bench, &format!("directions/{file}"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let numbers = |name: &str| -> Vec<f32> {
        let chunks = tensors
            .tensor(name)
            .unwrap()
            .data()
            .chunks_exact(4)
            .map(|c| c.to_vec())
            .collect::<Vec<_>>();
        chunks
            .iter()
            .map(|c| f32::from_le_bytes(c.as_slice().try_into().unwrap()))
            .collect()
    };
    (numbers("direction"), numbers("pre_norm")[0])
}

/// The steer sweep of one model, split and layer.
fn steered(model: &str, split: &str, layer: &str) -> Table {
    table("steer").with(&[("model", model), ("split", split), ("layer", layer)])
}

fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().map(f64::abs).fold(0.0, f64::max)
}

#[test]
fn harmful_words_raise_the_score_and_the_stronger_circuit_refuses_more() {
    let scores = table("score");
    let refused = |model: &str, split: &str| {
        let rows = scores.with(&[("model", model), ("split", split)]);
        rows.with(&[("refused", "true")]).0.len() as f64 / rows.0.len() as f64
    };
    assert_eq!(
        (refused("base", "edge"), refused("inst", "harmful")),
        (0.0, 1.0)
    );
    assert!(
        (0.3..0.7).contains(&refused("inst", "edge")),
        "{}",
        refused("inst", "edge")
    );
    assert!(
        (0.3..0.8).contains(&refused("base", "harmful")),
        "{}",
        refused("base", "harmful")
    );
    for row in table("score.wide").0 {
        let gap = row.number("s_inst") - row.number("s_base");
        assert_eq!(row.number("s_gap"), gap, "{row:?}");
    }
}

#[test]
fn the_extracted_direction_is_the_planted_one() {
    let r = refusal_direction();
    for layer in ["2", "3"] {
        let (vector, pre_norm) =
            direction(&format!("direction.layer{layer}.resid_pre.safetensors"));
        assert_eq!(vector.len(), D_MODEL);
        assert!(
            (dot(&vector, &vector) - 1.0).abs() < 1e-5,
            "not of unit length"
        );
        assert!(
            dot(&vector, &r) > 0.95,
            "layer {layer}: cosine {}",
            dot(&vector, &r)
        );
        let described = table("direction").with(&[("layer", layer)]);
        assert!((described.only().number("pre_norm") - f64::from(pre_norm)).abs() < 1e-5);
    }
    for seed in 0..3 {
        let (vector, _) = direction(&format!("holdout.layer2.resid_pre.seed{seed}.safetensors"));
        assert!(
            dot(&vector, &r) > 0.9,
            "seed {seed}: cosine {}",
            dot(&vector, &r)
        );
    }
}

/// The prompts differ in r most of all, so a shuffled direction is not orthogonal to it; but it is short, and of either sign.
#[test]
fn shuffled_labels_give_no_direction() {
    for layer in ["2", "3"] {
        let real = table("direction")
            .with(&[("layer", layer)])
            .only()
            .number("pre_norm");
        let shuffled = table("direction.shuffled").with(&[("layer", layer)]);
        let cosines = shuffled.numbers("cosine");
        assert_eq!(cosines.len(), 20);
        let mean = cosines.iter().sum::<f64>() / 20.0;
        let mean_size = cosines.iter().map(|cosine| cosine.abs()).sum::<f64>() / 20.0;
        assert!(
            mean.abs() < 0.25 && mean_size < 0.6,
            "layer {layer}: mean cosine {mean}, mean |cosine| {mean_size}"
        );
        assert!(
            largest(shuffled.numbers("pre_norm")) < 0.5 * real,
            "layer {layer}"
        );
        // What a shuffled difference of means does along the real direction, against the real difference.
        let along = shuffled
            .0
            .iter()
            .map(|row| row.number("cosine") * row.number("pre_norm"));
        let effect = along.sum::<f64>() / 20.0 / real;
        assert!(effect.abs() < 0.1, "layer {layer}: {effect}");
    }
}

#[test]
fn the_score_rises_with_alpha() {
    for model in ["base", "inst"] {
        for split in ["edge", "harmful"] {
            for layer in ["2", "3"] {
                let means = steered(model, split, layer).means_by_alpha();
                assert_eq!(means.len(), 5);
                assert!(
                    means.windows(2).all(|pair| pair[0].1 + 0.5 < pair[1].1),
                    "{model} {split} {layer}: {means:?}"
                );
            }
        }
    }
}

#[test]
fn alpha_zero_is_the_score_itself_and_steering_is_continuous_there() {
    let score = |id: &str| {
        table("score")
            .with(&[("model", "inst"), ("id", id)])
            .only()
            .number("score")
    };
    let near = table("near_zero").with(&[("layer", "2")]);
    for id in ["edge-00", "edge-17", "harmful-03"] {
        let rows = near.with(&[("id", id)]);
        assert_eq!(
            rows.with(&[("alpha", "0.0")]).only().number("score"),
            score(id)
        );
        // The slope is about 1.3 per unit of α, so 1e-4 moves the score by little; rounding adds some 1e-5.
        let beside = rows.with(&[("alpha", "0.0001")]).only().number("score");
        assert!(
            (beside - score(id)).abs() < 1e-3,
            "{id}: {beside} beside {}",
            score(id)
        );
    }
}

#[test]
fn ablating_the_direction_removes_what_tells_the_prompts_apart() {
    let gap = |rows: &Table| {
        rows.with(&[("split", "harmful")]).mean("score")
            - rows.with(&[("split", "edge")]).mean("score")
    };
    let before = gap(&table("score").with(&[("model", "inst")]));
    let ablated = table("ablate").with(&[("layer", "2")]);
    let after = gap(&ablated);
    // No α, and a name of its own: nobody should read it as steering by nothing.
    let row = &ablated.0[0];
    assert_eq!(row.text("alpha"), "");
    assert_eq!(row.text("direction"), "top_bottom_20_ablated_everywhere");
    assert!(after.abs() < 0.2 * before, "{after} of {before}");
}

#[test]
fn the_holdout_direction_transfers_and_random_ones_do_not() {
    let holdout = |set: &str| table("holdout").with(&[("set", set)]).slope();
    let (train, held_out) = (holdout("edge_train"), holdout("edge_holdout"));
    assert!(
        train > 1.0 && (held_out / train - 1.0).abs() < 0.1,
        "{held_out} on held-out prompts, {train} on training ones"
    );
    let learned = steered("inst", "edge", "2").slope();
    let random = table("random").with(&[("split", "edge")]);
    for seed in 0..20 {
        let slope = random.with(&[("seed", &seed.to_string())]).slope();
        assert!(
            slope.abs() < 0.5 * learned,
            "seed {seed}: {slope} against {learned}"
        );
    }
}

#[test]
fn the_controls_pass() {
    let comparisons = table("summary.learned_vs_random").with(&[("model", "inst"), ("layer", "2")]);
    for set in ["edge", "harmful"] {
        let rows = comparisons.with(&[("set", set)]);
        let row = rows.only();
        assert!(row.number("z") > 4.0, "{row:?}");
        // The smallest p that 20 random directions can give.
        assert_eq!(
            (row.number("p_one_sided"), row.number("p_two_sided")),
            (1.0 / 21.0, 1.0 / 21.0)
        );
        let steer = steered("inst", set, "2").slope();
        assert!((row.number("learned") - steer).abs() < 1e-9, "{row:?}");
    }
    let (_, run) = study();
    assert!(
        run.said
            .stderr
            .contains("model `inst`, layer 2: passed: effect, specific")
    );
}

#[test]
fn the_operating_point_answers_edge_prompts_and_refuses_harmful_ones() {
    let points = table("summary.operating_points").with(&[
        ("source", "steer"),
        ("model", "inst"),
        ("layer", "2"),
    ]);
    let row = points.only();
    assert_eq!(row.number("alpha_at_largest_gap"), -6.0);
    assert!(
        row.number("largest_gap") > 0.9 && row.number("gap_at_zero") < 0.6,
        "{row:?}"
    );
}

#[test]
fn xstest_marks_the_prompts_that_built_the_direction() {
    let rates = table("xstest.rates").with(&[("alpha", "0.0")]);
    let of = |label: &str| {
        rates
            .with(&[("type", "all"), ("label", label)])
            .only()
            .clone()
    };
    let built = table("xstest").with(&[("built_direction", "true"), ("alpha", "0.0")]);
    let built = built.0.len() as f64;
    assert!(built > 0.0);
    let counts = |label: &str| (of(label).number("n"), of(label).number("n_without"));
    assert_eq!(counts("safe"), (20.0, 20.0 - built));
    assert_eq!(counts("unsafe"), (16.0, 16.0));
    let types: HashSet<&str> = rates.0.iter().map(|row| row.text("type")).collect();
    // XSTest's 18, and the row of each label as a whole.
    assert_eq!(types.len(), 18 + 1);
}

#[test]
fn the_direction_decides_what_the_model_says() {
    let texts = table("generate").with(&[("layer", "2")]);
    for row in texts.with(&[("alpha", "12.0")]).0 {
        assert!(row.text("text").starts_with("Sorry"), "{row:?}");
        assert_eq!(row.text("xstest_prefix"), "true");
    }
    for row in texts.with(&[("alpha", "-12.0"), ("split", "edge")]).0 {
        assert!(row.text("text").starts_with("Sure"), "{row:?}");
        assert_eq!(row.text("xstest_prefix"), "false");
    }
    let unsteered = table("generate.agreement").with(&[
        ("layer", "2"),
        ("alpha", "0.0"),
        ("classifier", "xstest_prefix"),
    ]);
    assert!(unsteered.only().number("kappa") > 0.5);
}

#[test]
fn a_run_leaves_its_folder() {
    let (bench, run) = study();
    for name in [
        "study.toml",
        "resolved.yaml",
        "run.json",
        "log.jsonl",
        "tables/score.csv",
        "tables/score.parquet",
    ] {
        assert!(run.file(bench, name).is_file(), "no {name}");
    }
    assert_eq!(
        std::fs::read_to_string(run.file(bench, "study.toml")).unwrap(),
        STUDY
    );
    let latest = bench.path("runs/study/latest").canonicalize().unwrap();
    assert_eq!(latest, run.file(bench, "").canonicalize().unwrap());
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.file(bench, "run.json")).unwrap()).unwrap();
    assert_eq!(manifest["status"], "complete");
    assert_eq!(manifest["stages"].as_array().unwrap().len(), 14);
    // What the run wrote is a study that gives the same, from where it lies: everything is found.
    let again = bench.dial(&["plan", "runs/study/latest/resolved.yaml"]);
    assert!(again.stdout.ends_with("nothing to compute\n"), "{again:?}");
}
