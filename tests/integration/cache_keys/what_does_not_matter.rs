//! What is in no key.

use super::*;

#[test]
fn a_comment() {
    assert_all_cached(&after_edit(
        "[stages.steer]",
        "# why\n[stages.steer] # and how",
    ));
}

#[test]
fn the_name_of_a_stage() {
    let run = after_edit("[stages.steer]", "[stages.push]\nkind = \"steer\"");
    assert_all_cached(&run);
    assert_eq!(run.cached("push"), 60);
    let study = STUDY
        .replace("[stages.score]", "[stages.lean]\nkind = \"score\"")
        .replace("scores = \"score\"", "scores = \"lean\"");
    assert_all_cached(&first().0.copy().run(&study).ok());
}

#[test]
fn the_name_of_a_prompt_set() {
    let study = STUDY
        .replace("[prompts.main]", "[prompts.all]")
        .replace("prompts = \"main\"", "prompts = \"all\"");
    assert_all_cached(&first().0.copy().run(&study).ok());
}

/// It is shown in tables, so they are made again, of the cells that are there.
#[test]
fn the_name_of_a_model() {
    let study = STUDY
        .replace("[models.inst]", "[models.one]")
        .replace("model = \"inst\"", "model = \"one\"");
    assert_nothing(&first().0.copy().run(&study).ok());
}

#[test]
fn the_name_and_the_question_of_the_study() {
    assert_all_cached(&after_edit(
        "[models.inst]",
        "[study]\nname = \"other\"\nquestion = \"why?\"\n[models.inst]",
    ));
}

#[test]
fn the_ids_of_prompts() {
    let run = after_prompts(|prompts| {
        prompts
            .iter_mut()
            .for_each(|prompt| prompt.id.insert_str(0, "renamed-"))
    });
    // The holdout split is a hash of ids: its halves are others.
    let computed: Vec<&str> = run
        .all_computed()
        .into_iter()
        .map(|(stage, _)| stage)
        .collect();
    assert!(
        computed.iter().all(|stage| *stage == "holdout"),
        "{}",
        run.said.stderr
    );
}

#[test]
fn the_category_of_a_prompt() {
    assert_nothing(&after_prompts(|prompts| {
        prompts[0].category = "other".to_string()
    }));
}

#[test]
fn the_order_of_prompts() {
    // Patching pairs prompts by their order; these two have no partner.
    assert_nothing(&after_prompts(|prompts| {
        prompts.swap(HARMFUL + 1, HARMFUL + 2)
    }));
}

/// One byte holds no prompt: each block of them is prefilled, used and dropped.
#[test]
fn the_memory_for_prompts() {
    let bench = first().0.copy();
    let again = bench
        .run_with(STUDY, &["--memory", "1", "--cache", "other"])
        .ok();
    assert!(!again.all_computed().is_empty());
    assert_eq!(again.tables(&bench), first().1.tables(&first().0));
    assert_nothing(&bench.run_with(STUDY, &["--memory", "2GB"]).ok());
}

#[test]
fn the_threshold() {
    let bench = first().0.copy();
    let run = bench
        .run_with(STUDY, &["--set", "score.threshold=1e9"])
        .ok();
    assert_nothing(&run);
    assert_eq!(
        run.table(&bench, "score")
            .with(&[("refused", "true")])
            .0
            .len(),
        0
    );
}

#[test]
fn the_order_of_keys_and_stages() {
    let (models, stages) = STUDY.split_once("[stages.score]").unwrap();
    let reordered = models.to_string() + "[stages.score]" + stages;
    let reordered = reordered.replace(
        "model = \"inst\"\nprompts = \"main\"\ndirection",
        "prompts = \"main\"\nmodel = \"inst\"\ndirection",
    );
    let (before, generate) = reordered.split_once("[stages.generate]").unwrap();
    let study = format!("[stages.generate]{generate}\n{before}");
    assert_ne!(study, STUDY);
    assert_all_cached(&first().0.copy().run(&study).ok());
}

#[test]
fn the_order_of_a_list() {
    assert_nothing(&after_set(&[
        "stages.steer.alpha=[2, -2, 0]",
        "stages.random.seed=[1, 0]",
    ]));
}

#[test]
fn the_order_of_score_words_and_words_of_the_same_token() {
    assert_nothing(&after_set(&[
        "score.refuse=[\"Sorry\", \"I’m\", \"I'm\", \"I\", \"I see\"]",
    ]));
}

#[test]
fn the_place_of_the_files() {
    let bench = first().0.copy();
    copied(&planted_models().join("inst"), bench.path("elsewhere/copy"));
    bench.write("elsewhere/prompts.jsonl", jsonl(&prompts()));
    bench.write(
        "elsewhere/mine.toml",
        STUDY
            .replace("models/inst", "copy")
            .replace("main.jsonl", "prompts.jsonl"),
    );
    let said = bench.dial(&["plan", "elsewhere/mine.toml"]);
    assert!(said.stdout.ends_with("nothing to compute\n"), "{said:?}");
}

#[test]
fn the_format_of_the_study() {
    let bench = first().0.copy();
    let run = bench.run(STUDY).ok();
    let said = bench.dial(&["plan", run.file(&bench, "resolved.yaml").to_str().unwrap()]);
    assert!(said.stdout.ends_with("nothing to compute\n"), "{said:?}");
}

#[test]
fn the_number_of_threads() {
    assert_all_cached(&first().0.copy().run_with(STUDY, &["--threads", "2"]).ok());
}

#[test]
fn other_stages() {
    let (study, _) = STUDY.split_once("[stages.generate]").unwrap();
    assert_all_cached(&first().0.copy().run(study).ok());
}

#[test]
fn what_the_stream_is_called_between_two_blocks() {
    assert_nothing(&after_set(&[
        "stages.steer.layer=1",
        "stages.steer.site=\"resid_post\"",
    ]));
}
