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
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", read), @"");
    assert_snapshot!(refusal("alpha = [-2, 0, 2]", "alpha = [-2, 0, 2]\nread = \"polite\""), @"");
}

#[test]
fn a_rule_that_a_stage_of_scores_has_not_read() {
    assert_snapshot!(refusal_with("scores = \"score\"", "scores = \"score\"\nrule = \"polite\""), @"");
}

#[test]
fn names_that_are_taken() {
    assert_snapshot!(refusal("[models.inst]", "[score.threshold]\nyes = \"Sure\"\nno = \"Sorry\"\n[models.inst]"), @"");
    assert_snapshot!(refusal("[models.inst]", "[score.refused]\nyes = \"Sure\"\nno = \"Sorry\"\n[models.inst]"), @"");
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
    assert_snapshot!(read("yes = \"Sure calm0\"\nno = [\"Sorry\", \"Sure calm1\"]"), @"");
    assert_snapshot!(read("kind = \"continuation\"\nyes = \"Sure  calm0\"\nno = \"Sure calm0\""), @"");
    assert_snapshot!(read("kind = \"multiple_choice\"\nchoices = [\"Sure\", \" Sure\"]\nanswer = \"Sure\""), @"");
    assert_snapshot!(read("kind = \"log_odds\"\nyes = \" \""), @"");
    assert_snapshot!(read("kind = \"multiple_choice\"\nchoices = [\"Sure\", \"Sorry\"]\nanswer = { column = \"right\" }"), @"");
}

#[test]
fn a_summary_of_sweeps_by_different_rules() {
    let sweeps = "alpha = [-2, 0, 2]\nread = \"polite\"\n[stages.random]\nmodel = \"inst\"\nprompts = \"main\"\nseed = 0\nlayer = 2\nalpha = [-2, 0, 2]\n\
                  [stages.summary]\nsteer = \"steer\"\nrandom = \"random\"\n";
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", sweeps), @"");
    let named = format!("{sweeps}read = \"polite\"\n");
    assert_snapshot!(refusal_with("alpha = [-2, 0, 2]", &named), @"");
}
