//! Score rules that cannot be, or that nobody reads.

use insta::assert_snapshot;

use super::{STUDY, refusal, refusal_of};

const POLITE: &str = "[score.polite]\nyes = \"Sure\"\nno = \"Sorry\"\n[models.inst]";

/// What the program says to the study with another rule, after a change.
#[track_caller]
fn refusal_with(from: &str, to: &str) -> String {
    assert!(STUDY.contains(from), "`{from}` is not in the study");
    let study = STUDY
        .replacen("[models.inst]", POLITE, 1)
        .replacen(from, to, 1);
    let name = format!("{}.toml", blake3::hash(study.as_bytes()).to_hex());
    refusal_of(&name, &study, &[]).replace(&name, "study.toml")
}

#[test]
fn a_rule_that_is_not_there() {
    let read = "alpha = [-2, 0, 2]\nread = [\"refused\", \"polit\"]";
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", read), @r#"
    error: there is no score rule `polit`
      --> study.toml:23:20
       |
    23 | read = ["refused", "polit"]
       |                    ^^^^^^^ did you mean `polite`?
       |
       = help: another rule is a table `[score.polit]`
    "#);
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "alpha = [-2, 0, 2]\nread = \"polite\""), @r#"
    error: there is no score rule `polite`
      --> study.toml:20:8
       |
    20 | read = "polite"
       |        ^^^^^^^^ the study has `refused`
       |
       = help: another rule is a table `[score.polite]`
    "#);
}

#[test]
fn a_rule_that_a_stage_of_scores_has_not_read() {
    assert_snapshot!(refusal_with("scores = \"score\"", "scores = \"score\"\nrule = \"polite\""), @r#"
    error: stage `score` does not read the score rule `polite`
      --> study.toml:15:8
       |
    14 | scores = "score"
       |          ------- named here
    15 | rule = "polite"
       |        ^^^^^^^^ it reads `refused`
       |
       = help: add `polite` to the field `read` of stage `score`
    "#);
}

#[test]
fn names_that_are_taken() {
    assert_snapshot!(refusal("[models.inst]", "[score.threshold]\nyes = \"Sure\"\nno = \"Sorry\"\n[models.inst]"), @r#"
    error: no score rule can be called `threshold`
     --> study.toml:1:8
      |
    1 | [score.threshold]
      |        ^^^^^^^^^ `threshold` is a key of the default rule
      |
      = help: give the rule another name: tables and figures call it by that
    "#);
    assert_snapshot!(refusal("[models.inst]", "[score.refused]\nyes = \"Sure\"\nno = \"Sorry\"\n[models.inst]"), @r#"
    error: no score rule can be called `refused`
     --> study.toml:1:8
      |
    1 | [score.refused]
      |        ^^^^^^^ `refused` is the default rule, `[score]` itself
      |
      = help: give the rule another name: tables and figures call it by that
    "#);
}

#[test]
fn texts_that_a_model_cannot_tell_apart() {
    let rule = |fields: &str| format!("[score.polite]\n{fields}\n[models.inst]");
    let read = |fields: &str| {
        let study = STUDY.replacen("[models.inst]", &rule(fields), 1);
        let study = study.replacen(
            "prompts = \"main\"\n[stages.direction]",
            "prompts = \"main\"\nread = \"polite\"\n[stages.direction]",
            1,
        );
        let name = format!("{}.toml", blake3::hash(study.as_bytes()).to_hex());
        refusal_of(&name, &study, &[]).replace(&name, "study.toml")
    };
    assert_snapshot!(read("yes = \"Sure calm0\"\nno = [\"Sorry\", \"Sure calm1\"]"), @r#"
    error: token 16 (`Sure`) of model `inst` is the first token of a `score.polite.yes` and of a `score.polite.no` string; remove one of them
     --> study.toml:1:1
      |
    1 | [score.polite]
      | ^^^^^^^^^^^^^^ the score rule
    "#);
    assert_snapshot!(read("kind = \"continuation\"\nyes = \"Sure  calm0\"\nno = \"Sure calm0\""), @r#"
    error: `Sure  calm0` of `score.polite.yes` and `Sure calm0` of `score.polite.no` are the same tokens to model `inst`; remove one of them
     --> study.toml:1:1
      |
    1 | [score.polite]
      | ^^^^^^^^^^^^^^ the score rule
    "#);
    assert_snapshot!(read("kind = \"multiple_choice\"\nchoices = [\"Sure\", \" Sure\"]\nanswer = \"Sure\""), @r#"
    error: `Sure`, ` Sure` of `score.polite.choices` are the same tokens to model `inst`, which cannot choose between them
     --> study.toml:1:1
      |
    1 | [score.polite]
      | ^^^^^^^^^^^^^^ the score rule
    "#);
    assert_snapshot!(read("kind = \"log_odds\"\nyes = \" \""), @r#"
    error: tokenizer: ` ` has no tokens, expected a word with at least one
     --> study.toml:1:1
      |
    1 | [score.polite]
      | ^^^^^^^^^^^^^^ the score rule
    "#);
    assert_snapshot!(read("kind = \"multiple_choice\"\nchoices = [\"Sure\", \"Sorry\"]\nanswer = { column = \"right\" }"), @r#"
    error: prompt `edge-00` has no field `right`, in which the score rule `polite` looks for the right one of `Sure`, `Sorry`
      --> study.toml:11:11
       |
    11 | prompts = "main"
       |           ^^^^^^ so it is with 20 of 20 prompts
    "#);
}

#[test]
fn a_summary_of_sweeps_by_different_rules() {
    let sweeps = "alpha = [-2, 0, 2]\nread = \"polite\"\n[stages.random]\nmodel = \"inst\"\nprompts = \"main\"\nseed = 0\nlayer = 2\nalpha = [-2, 0, 2]\n\
                  [stages.summary]\nsteer = \"steer\"\nrandom = \"random\"\n";
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", sweeps), @r#"
    error: the sweeps of `steer` are by the score rule `polite`, those of `random` by `refused`
      --> study.toml:32:10
       |
    32 | random = "random"
       |          ^^^^^^^^ by `refused`
       |
       = help: say with `read` which rule is summarised, and name it in the field `read` of each sweep
    "#);
    let named = format!("{sweeps}read = \"polite\"\n");
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", &named), @r#"
    error: stage `random` does not read the score rule `polite`
      --> study.toml:33:8
       |
    32 | random = "random"
       |          -------- named here
    33 | read = "polite"
       |        ^^^^^^^^ it reads `refused`
       |
       = help: add `polite` to the field `read` of stage `random`
    "#);
}
