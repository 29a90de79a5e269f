//! A run never computes more than the plan said: random edits of a study, random losses of its cache.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

use crate::prompts::{jsonl, main_set};
use crate::workbench::{Workbench, files_below};

/// What a person does between two runs.
#[derive(Clone, Debug)]
enum Edit {
    Alphas(Vec<i8>),
    Layers(Vec<u8>),
    Seeds(u8),
    Prompts(usize),
    Threshold(bool),
    TwoModels(bool),
    NewTokens(u8),
    /// These packs, records and artifacts vanish: the places in the list of files, as far as there are so many.
    LosePacks(Vec<prop::sample::Index>),
    LoseRecords(Vec<prop::sample::Index>),
    LoseObjects(Vec<prop::sample::Index>),
}

#[derive(Clone, Debug)]
struct State {
    alphas: Vec<i8>,
    layers: Vec<u8>,
    seeds: u8,
    prompts: usize,
    threshold: bool,
    two_models: bool,
    new_tokens: u8,
}

impl State {
    /// Every kind of stage, some of which ask for cells in several rounds.
    fn study(&self) -> String {
        let State {
            alphas,
            layers,
            seeds,
            new_tokens,
            ..
        } = self;
        let models = match self.two_models {
            true => r#"["inst", "base"]"#,
            false => r#"["inst"]"#,
        };
        let threshold = if self.threshold { 0.5 } else { 0.0 };
        let common = format!("model = {models}\nprompts = \"main\"");
        format!(
            r#"
[models.inst]
source = "models/inst"
[models.base]
source = "models/base"
template_from = "inst"
[prompts.main]
path = "main.jsonl"
[score]
threshold = {threshold}
[stages.score]
{common}
[stages.direction]
model = "inst"
prompts = "main"
scores = "score"
split = "edge"
n = 2
layer = {layers:?}
[stages.steer]
{common}
direction = "direction"
alpha = {alphas:?}
[stages.scaled]
kind = "steer"
{common}
direction = "direction"
alpha_unit = "resid_norm"
alpha = {alphas:?}
[stages.random]
{common}
seed = "0..{seeds}"
layer = {layers:?}
alpha = {alphas:?}
[stages.holdout]
{common}
direction_model = "inst"
scores = "score"
split = "edge"
compare = "harmful"
seed = 0
n = 1
layer = {layers:?}
alpha = {alphas:?}
[stages.patch]
pairing = "prompts"
model = "inst"
donors = "harmful"
recipients = "edge"
prompts = "main"
layer = {layers:?}
site = ["resid_pre"]
[stages.generate]
{common}
limit = 2
direction = "direction"
alpha = {alphas:?}
max_new_tokens = {new_tokens}
[stages.summary]
steer = "steer"
random = "random"
"#
        )
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let lost = || prop::collection::vec(any::<prop::sample::Index>(), 1..6);
    prop_oneof![
        prop::collection::btree_set(-2_i8..3, 1..4)
            .prop_map(|s| Edit::Alphas(s.into_iter().collect())),
        prop::collection::btree_set(0_u8..4, 1..3)
            .prop_map(|s| Edit::Layers(s.into_iter().collect())),
        (1_u8..4).prop_map(Edit::Seeds),
        (6_usize..9).prop_map(Edit::Prompts),
        any::<bool>().prop_map(Edit::Threshold),
        any::<bool>().prop_map(Edit::TwoModels),
        (1_u8..4).prop_map(Edit::NewTokens),
        lost().prop_map(Edit::LosePacks),
        lost().prop_map(Edit::LoseRecords),
        lost().prop_map(Edit::LoseObjects),
    ]
}

fn apply(edit: &Edit, state: &mut State, bench: &Workbench) {
    let lose = |folder: &str, chosen: &[prop::sample::Index]| {
        let files = files_below(&bench.path(folder));
        for index in chosen.iter().filter(|_| !files.is_empty()) {
            // The same file may be chosen twice.
            let _ = std::fs::remove_file(&files[index.index(files.len())]);
        }
    };
    match edit {
        Edit::Alphas(alphas) => state.alphas.clone_from(alphas),
        Edit::Layers(layers) => state.layers.clone_from(layers),
        Edit::Seeds(seeds) => state.seeds = *seeds,
        Edit::Prompts(prompts) => state.prompts = *prompts,
        Edit::Threshold(threshold) => state.threshold = *threshold,
        Edit::TwoModels(two) => state.two_models = *two,
        Edit::NewTokens(count) => state.new_tokens = *count,
        Edit::LosePacks(chosen) => lose("cache/v1/packs", chosen),
        Edit::LoseRecords(chosen) => lose("cache/v1/stages", chosen),
        Edit::LoseObjects(chosen) => lose("cache/v1/objects", chosen),
    }
}

/// Cells by stage, as the plan promises them or the run computed them.
fn cells(json: &Value, field: &str) -> Vec<(String, u64)> {
    let stages = json["stages"].as_array().unwrap().iter();
    let of_stage = |stage: &Value| {
        let name = stage["name"].as_str().unwrap().to_string();
        (name, stage[field].as_u64().unwrap())
    };
    stages.map(of_stage).collect()
}

#[test]
fn a_run_computes_no_more_cells_than_the_plan_promised() {
    // A fixed seed: what is tried is the same everywhere, and a failure can be repeated.
    let config = Config {
        cases: 6,
        failure_persistence: None,
        max_shrink_iters: 20,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let edits = prop::collection::vec(prop::collection::vec(edit(), 1..4), 5);
    let outcome = runner.run(&edits, |rounds| {
        let bench = Workbench::new(&[]);
        let mut state = State {
            alphas: vec![-1, 0, 1],
            layers: vec![1],
            seeds: 2,
            prompts: 6,
            threshold: false,
            two_models: false,
            new_tokens: 2,
        };
        for edits in [vec![]].iter().chain(&rounds) {
            for edit in edits {
                apply(edit, &mut state, &bench);
            }
            bench.write("main.jsonl", jsonl(&main_set(state.prompts, 5)));
            bench.write("study.toml", state.study());
            let said = bench.dial(&["plan", "study.toml", "--format", "json", "--threads", "1"]);
            assert_eq!(said.code, 0, "{said:?}");
            let plan: Value = serde_json::from_str(&said.stdout).unwrap();
            let run = bench.run(&state.study()).ok();
            for stage in plan["stages"].as_array().unwrap() {
                let name = stage["name"].as_str().unwrap();
                if stage["status"] == "cached" {
                    prop_assert_eq!(run.status(name), "cached", "`{}`", name);
                }
            }
            let promised = cells(&plan, "computes_at_most");
            for ((stage, at_most), (name, computed)) in
                promised.iter().zip(cells(&run.json, "cells_computed"))
            {
                prop_assert_eq!(stage, &name);
                prop_assert!(
                    computed <= *at_most,
                    "`{}` computed {} cells, the plan promised at most {}",
                    name,
                    computed,
                    at_most
                );
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}
