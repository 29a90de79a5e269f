//! Prompts and scores that do not allow what a stage asks.

use super::*;

fn said(study: &str, prompts: &[Prompt]) -> Said {
    Workbench::new(prompts).refusal(study)
}

#[test]
fn a_token_in_both_sets() {
    let study = format!("[score]\ncomply = [\"Sure\", \"Sorry\"]\n{STUDY}");
    assert_snapshot!(said(&study, &main_set(12, 8)).message(2), @r"
    error: token 14 (`Sorry`) of model `inst` is the first token of a `score.refuse` and of a `score.comply` string; remove one of them
     --> study.toml:1:1
      |
    1 | [score]
      | ^^^^^^^ the score rule
    ");
}

#[test]
fn groups_that_overlap() {
    let overlapping = STUDY.replace("n = 4", "n = 7");
    let bench = bench();
    let run = bench
        .run(&overlapping.replace("n = 7", "n = 7\nallow_overlap = true"))
        .ok();
    let note = run
        .said
        .stderr
        .lines()
        .find(|line| line.contains("note:"))
        .unwrap_or_default();
    assert_snapshot!(note.trim(), @"note: the direction: 2 prompts are both among the highest and the lowest scores: `edge-06`, `edge-02`");
    let manifest = std::fs::read_to_string(run.file(&bench, "run.json")).unwrap();
    assert!(
        manifest.contains("prompts are both among the highest and the lowest scores"),
        "{manifest}"
    );
    let members = run.table(&bench, "direction.members");
    assert_eq!(
        (
            members.with(&[("group", "top")]).0.len(),
            members.with(&[("group", "bottom")]).0.len()
        ),
        (7, 7)
    );
}

#[test]
fn a_direction_of_zero() {
    let mut prompts = main_set(4, 2);
    let text = prompts[0].text.clone();
    prompts[..4]
        .iter_mut()
        .for_each(|prompt| prompt.text.clone_from(&text));
    assert_snapshot!(said(&STUDY.replace("n = 4", "n = 2"), &prompts).last_line(1), @"error: stage `direction`: the direction at layer 2 is zero or not finite (norm 0): the two groups do not differ");
}

#[test]
fn a_threshold_that_leaves_a_group_empty() {
    let study = STUDY.replace("n = 4", "select = \"threshold\"\nt = 1000");
    assert_snapshot!(said(&study, &main_set(12, 8)).last_line(1), @"error: stage `direction`: the direction at layer 2 has an empty group: no prompt was selected on one side");
}

#[test]
fn a_prompt_longer_than_the_context() {
    let mut prompts = main_set(12, 8);
    prompts[3].text = (0..12)
        .map(|i| sentence(i, 1))
        .collect::<Vec<_>>()
        .join(" ");
    assert_snapshot!(said(STUDY, &prompts).last_line(1), @"error: stage `score`: prompt `edge-03` has 157 tokens in the chat template, but model `inst` reads at most 128; shorten it or leave it out");
}

#[test]
fn a_position_before_the_first_token() {
    let study = STUDY.replace("layer = [2]", "layer = [2]\nposition = -500");
    assert_snapshot!(said(&study, &main_set(12, 8)).last_line(1), @"error: stage `direction`: prompt `edge-10` has 25 tokens, so it has no position `-500`");
}

#[test]
fn models_that_are_fed_different_tokens() {
    let bench = bench();
    let folder = copied(&planted_models().join("inst"), bench.path("copy"));
    let path = folder.join("tokenizer_config.json");
    let template = std::fs::read_to_string(&path)
        .unwrap()
        .replace("<|im_end|>\\n", "<|im_end|> calm0\\n");
    std::fs::write(path, template).unwrap();
    let study = STUDY.replace(
        "[prompts.main]",
        "[models.other]\nsource = \"copy\"\n[prompts.main]",
    );
    let study = study.replacen("model = \"inst\"", "model = [\"inst\", \"other\"]", 1);
    assert_snapshot!(bench.refusal(&study).last_line(1), @"error: stage `score`: models `inst` and `other` are compared but would be fed different token ids, first for prompt `edge-00`; give one the other's template with `template_from`, or put them in stages of their own");
}

#[test]
fn a_failure_is_in_the_manifest_and_what_came_before_it_is_kept() {
    let bench = bench();
    let run = bench.run(&STUDY.replace("n = 4", "select = \"threshold\"\nt = 1000"));
    assert_eq!(
        (run.said.code, run.status("score"), run.status("direction")),
        (1, "computed", "failed")
    );
    let manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.file(&bench, "run.json")).unwrap()).unwrap();
    assert_eq!(manifest["status"], "failed");
    assert!(
        manifest["error"]
            .as_str()
            .unwrap()
            .starts_with("stage `direction`: "),
        "{manifest}"
    );
    assert_eq!(run.table(&bench, "score").0.len(), 20);
}
