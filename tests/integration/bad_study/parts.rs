//! Studies whose parts are sound one by one and do not fit together.

use insta::assert_snapshot;

use super::{STUDY, refusal, refusal_of};

/// The holdout, xstest and summary stages of a whole study, to be spoiled.
const CONTROLS: &str = r#"
[stages.holdout]
model = "inst"
direction_model = "inst"
prompts = "main"
scores = "score"
split = "edge"
compare = "harmful"
seed = [0, 1]
n = 1
layer = 2
alpha = [0, 1]
[stages.xstest]
model = "inst"
prompts = "main"
direction = "holdout"
seed = 1
alpha = [0, 1]
[stages.summary]
steer = "steer"
holdout = "holdout"
"#;

/// What the program says to the study with its controls after a change.
#[track_caller]
fn refusal_of_controls(from: &str, to: &str) -> String {
    assert!(CONTROLS.contains(from), "`{from}` is not in the study");
    let study = format!("{STUDY}{}", CONTROLS.replacen(from, to, 1));
    let name = format!("{}.toml", blake3::hash(to.as_bytes()).to_hex());
    refusal_of(&name, &study, &[]).replace(&name, "study.toml")
}

/// Scores are joined by id, so those of other prompts with the same ids would give a wrong direction.
#[test]
fn scores_of_other_prompts_or_of_another_model() {
    let other = "[prompts.other]\npath = \"main.jsonl\"\n[stages.score]\nmodel = \"inst\"\nprompts = \"other\"\n";
    assert_snapshot!(refusal("[stages.score]\nmodel = \"inst\"\nprompts = \"main\"\n", other), @r#"
    error: stage `score` scores the prompts of `other`, not of `main`
      --> study.toml:13:10
       |
    12 | prompts = "main"
       |           ------ the prompts of this stage
    13 | scores = "score"
       |          ^^^^^^^ expected scores of the same prompts
    "#);
    let two = "[models.other]\nsource = \"models/inst\"\n[stages.score]\nmodel = \"other\"";
    assert_snapshot!(refusal("[stages.score]\nmodel = \"inst\"", two), @r#"
    error: stage `score` does not score model `inst`
      --> study.toml:13:10
       |
    11 | model = "inst"
       |         ------ the model of this stage
    12 | prompts = "main"
    13 | scores = "score"
       |          ^^^^^^^ it scores `other`
       |
       = help: add `inst` to the field `model` of stage `score`
    "#);
}

#[test]
fn stage_names_that_would_name_other_files() {
    assert_snapshot!(refusal("[stages.steer]", "[stages.\"score.means\"]\nkind = \"steer\""), @r#"
    error: stage name `score.means` cannot name a file
      --> study.toml:15:9
       |
    15 | [stages."score.means"]
       |         ^^^^^^^^^^^^^ expected letters, digits, `-` and `_`
    "#);
    assert_snapshot!(refusal("[stages.steer]", "[stages.\"../../out\"]\nkind = \"steer\""), @r#"
    error: stage name `../../out` cannot name a file
      --> study.toml:15:9
       |
    15 | [stages."../../out"]
       |         ^^^^^^^^^^^ expected letters, digits, `-` and `_`
    "#);
}

#[test]
fn a_template_borrowed_from_a_borrower() {
    let models = "source = \"models/inst\"\ntemplate_from = \"a\"\n[models.a]\nsource = \"models/inst\"\ntemplate_from = \"inst\"";
    assert_snapshot!(refusal("source = \"models/inst\"", models), @r#"
    error: model `a` has no template of its own to lend
     --> study.toml:3:17
      |
    3 | template_from = "a"
      |                 ^^^ expected a model without `template_from`
    ...
    6 | template_from = "inst"
      |                 ------ it borrows one itself

    error: model `inst` has no template of its own to lend
     --> study.toml:6:17
      |
    3 | template_from = "a"
      |                 --- it borrows one itself
    ...
    6 | template_from = "inst"
      |                 ^^^^^^ expected a model without `template_from`
    "#);
}

#[test]
fn an_ablation_with_alpha() {
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "mode = \"ablate\"\nalpha = [-2, 0, 2]"), @r#"
    error: `alpha` is given, but `mode` is an ablation
      --> study.toml:20:9
       |
    20 | alpha = [-2, 0, 2]
       |         ^^^^^^^^^^ plays no part
       |
       = help: remove `alpha`, or set `mode = "add"`
    "#);
}

#[test]
fn groups_larger_than_their_prompts() {
    assert_snapshot!(refusal("n = 4", "n = 7"), @r"
    error: `n = 7` asks for 7 prompts at the top and 7 at the bottom, but split `edge` has 12 prompts
      --> study.toml:13:5
       |
    13 | n = 7
       |     ^ at most 6
       |
       = help: lower `n`, or set `allow_overlap = true` to let prompts be in both groups and have it recorded
    ");
    assert_snapshot!(refusal("n = 4", "n = 40\nallow_overlap = true"), @r"
    error: `n = 40` asks for 40 prompts at the top and 40 at the bottom, but split `edge` has 12 prompts
      --> study.toml:13:5
       |
    13 | n = 40
       |     ^^ at most 12
    ");
    assert_snapshot!(refusal("n = 4", "n = 0"), @r"
    error: `n` must be at least 1: a direction is made of two groups of prompts
      --> study.toml:13:5
       |
    13 | n = 0
       |     ^
    ");
    assert_snapshot!(refusal_of_controls("n = 1", "n = 6"), @r"
    error: `n = 6` asks for 6 prompts at the top and 6 at the bottom, but seed 1 leaves 3 training prompts
      --> study.toml:29:5
       |
    29 | n = 6
       |     ^ at most 1
    ");
    assert_snapshot!(refusal_of_controls("n = 1", "n = 1\nfraction = 0.0001"), @r"
    error: seed 0 holds out none of the prompts of `edge`
      --> study.toml:28:9
       |
    28 | seed = [0, 1]
       |         ^ leaves nothing to try the direction on
       |
       = help: raise `fraction`, or add prompts to the split
    ");
}

#[test]
fn a_summary_of_splits_that_are_not_there() {
    assert_snapshot!(refusal_of_controls("steer = \"steer\"", "steer = \"steer\"\nharmful = \"harm\""), @r#"
    error: stage `steer` has no prompts called `harm`
      --> study.toml:40:11
       |
    40 | harmful = "harm"
       |           ^^^^^^ it has `edge`, `harmful`
       |
       = help: say which splits are compared with `edge` and `harmful`

    error: stage `holdout` has no prompts called `harm`
      --> study.toml:40:11
       |
    40 | harmful = "harm"
       |           ^^^^^^ it has `edge_train`, `edge_holdout`, `harmful`
       |
       = help: say which splits are compared with `edge` and `harmful`
    "#);
    let ablation = "[stages.ablate]\nkind = \"steer\"\nmodel = \"inst\"\nprompts = \"main\"\ndirection = \"direction\"\nmode = \"ablate\"\n\
                    [stages.summary]\nsteer = \"ablate\"";
    assert_snapshot!(refusal_of_controls("[stages.summary]\nsteer = \"steer\"", ablation), @r#"
    error: stage `ablate` has no α to summarise
      --> study.toml:45:9
       |
    45 | steer = "ablate"
       |         ^^^^^^^^ an ablation is one setting, not a sweep
    "#);
}

#[test]
fn seeds_that_no_direction_has() {
    assert_snapshot!(refusal_of_controls("seed = 1", "seed = [1, 2]"), @r"
    error: stage `holdout` makes no direction with seed 2
      --> study.toml:36:12
       |
    36 | seed = [1, 2]
       |            ^ its seeds are 0, 1
    ");
}

#[test]
fn openings_that_cannot_be_told_apart() {
    let score = |words: &str| format!("[score]\n{words}\n[stages.score]");
    assert_snapshot!(refusal("[stages.score]", &score("refuse = [\"\", \"no\"]")), @r#"
    error: `refuse` holds an empty string
     --> study.toml:6:11
      |
    6 | refuse = ["", "no"]
      |           ^^ expected the opening of an answer, e.g. `"Sorry"`
    "#);
    assert_snapshot!(refusal("[stages.score]", &score("refuse = \"harm\"\ncomply = \"harm\"")), @r"
    error: token 0 (``) of model `inst` is the first token of a `score.refuse` and of a `score.comply` string; remove one of them
     --> study.toml:5:1
      |
    5 | [score]
      | ^^^^^^^ the score rule
    ");
}

#[test]
fn more_new_tokens_than_the_context_holds() {
    let generate = "[stages.generate]\nmodel = \"inst\"\nprompts = \"main\"\nmax_new_tokens = 1000000\n[stages.steer]";
    assert_snapshot!(refusal("[stages.steer]", generate), @r"
    error: `max_new_tokens = 1000000` leaves no room for a prompt
      --> study.toml:18:18
       |
    18 | max_new_tokens = 1000000
       |                  ^^^^^^^ model `inst` reads at most 128 tokens
    ");
}

#[test]
fn no_stages() {
    assert_snapshot!(refusal_of("empty.toml", "[models.inst]\nsource = \"models/inst\"\n[stages]\n", &[]), @r"
    error: the study has no stages
     |
     = help: add at least one, e.g. `[stages.score]` with `model` and `prompts`
    ");
}

/// What is wrong in the text and what is wrong with the model it names are told together.
#[test]
fn problems_of_the_text_and_of_the_files_at_once() {
    let study = STUDY
        .replace("layer = [2]", "layer = [7]\nlayers = 3")
        .replace("split = \"edge\"", "split = \"none\"");
    assert_snapshot!(refusal_of("both.toml", &study, &[]), @r#"
    error: prompt set `main` has no split `none`
      --> both.toml:12:9
       |
    12 | split = "none"
       |         ^^^^^^ its splits are `edge`, `harmful`

    error: layer `7` is out of range for model `inst`
      --> both.toml:14:10
       |
    14 | layer = [7]
       |          ^ the model has 4 layers, 0 to 3

    error: `stages.direction` has an unknown field `layers`
      --> both.toml:15:1
       |
    15 | layers = 3
       | ^^^^^^ did you mean `layer`?
    "#);
}
