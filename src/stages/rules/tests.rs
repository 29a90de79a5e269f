//! How rules are written, what enters keys, and which names they cannot have.

use std::path::Path;

use serde_json::{Map, json};

use crate::spec::load_text;
use crate::stages::declare_tests::with_rules;

use super::reads::Reads;
use super::*;
use crate::stages::declare::Declared;

/// The rules of a study's text, or what is wrong with them.
fn read(text: &str) -> Result<Rules, String> {
    let document = load_text(Path::new("s.toml"), text, &[]).unwrap();
    let mut problems = Problems::default();
    let rules = Rules::read(
        document.root.as_table().unwrap().get("score"),
        &mut problems,
    );
    match problems.finish(&document.sources) {
        Ok(()) => Ok(rules),
        Err(problems) => Err(problems.to_string()),
    }
}

/// The rule `x` of these fields.
fn rule(fields: &str) -> Rule {
    let rules = read(&format!("[score.x]\n{fields}\n")).unwrap();
    Rule::clone(rules.own["x"].as_ref().unwrap())
}

#[track_caller]
fn refusal(fields: &str) -> String {
    read(&format!("[score.x]\n{fields}\n")).unwrap_err()
}

/// What a stage of these fields has in its key.
fn key(fields: &str, settings: &Settings) -> Json {
    let document = load_text(Path::new("s.toml"), fields, &[]).unwrap();
    let mut problems = Problems::default();
    let mut read = Fields::new(&document.root, &mut problems).unwrap();
    let reads = Reads::read(&mut read, &Declared::default(), settings).unwrap();
    read.finish();
    let mut key = KeyParts::new();
    reads.add_key("settings", &mut key);
    key.into()
}

#[test]
fn each_kind_has_its_own_fields_and_defaults() {
    let plain = rule("yes = \"Please\"\nno = [\"No\", \"Why\"]");
    assert_eq!(
        plain.parameters,
        json!({ "kind": "first_token", "yes": ["Please"], "no": ["No", "Why"], "threshold": 0.0, "dtype": "float32" })
    );
    let odds = rule("kind = \"log_odds\"\nyes = [\"I\", \"As\"]\nthreshold = 1");
    assert_eq!(
        odds.parameters,
        json!({ "kind": "log_odds", "yes": ["I", "As"], "threshold": 1.0 })
    );
    assert!(!odds.counts(1.0) && odds.counts(1.1));
    let agrees =
        rule("kind = \"continuation\"\nyes = \"Yes\"\nno = \"No\"\nnormalise = \"tokens\"");
    assert_eq!(
        agrees.parameters,
        json!({ "kind": "continuation", "yes": ["Yes"], "no": ["No"], "normalise": "tokens", "threshold": 0.0 })
    );
    let letter = rule(
        "kind = \"multiple_choice\"\nchoices = [\"A\", \"B\"]\nanswer = { column = \"right\" }",
    );
    assert_eq!(
        letter.parameters,
        json!({ "kind": "multiple_choice", "choices": ["A", "B"], "answer": { "column": "right" }, "normalise": "none", "threshold": 0.0 })
    );
}

#[test]
fn the_default_rule_is_written_as_ever() {
    let rules =
        read("[score]\nrefuse = \"No\"\ncomply = \"Yes\"\n[score.x]\nyes = \"a\"\nno = \"b\"\n");
    let rules = rules.unwrap();
    assert_eq!(rules.default_rule().name, REFUSED);
    assert_eq!(
        rules.default_rule().parameters,
        json!({ "refuse": ["No"], "comply": ["Yes"], "threshold": 0.0, "dtype": "float32" })
    );
    assert_eq!(rules.own.len(), 1);
    assert_eq!(read("").unwrap(), Rules::default());
}

#[test]
fn what_a_rule_lacks_or_cannot_have_is_told() {
    assert!(refusal("yes = \"a\"").contains("has no field `no`"));
    assert!(refusal("yes = []\nno = \"b\"").contains("`score.x.yes` is an empty list"));
    let odds = refusal("kind = \"log_odds\"\nyes = \"a\"\nno = \"b\"");
    assert!(
        odds.contains("`no` plays no part in a rule of `kind = \"log_odds\"`"),
        "{odds}"
    );
    let alone = refusal("kind = \"continuation\"\nyes = \"a\"");
    assert!(alone.contains("has no field `threshold`"), "{alone}");
    let one = refusal("kind = \"multiple_choice\"\nchoices = \"A\"\nanswer = \"A\"");
    assert!(one.contains("nothing to choose"), "{one}");
    let other = refusal("kind = \"multiple_choice\"\nchoices = [\"A\", \"B\"]\nanswer = \"C\"");
    assert!(other.contains("`C` is none of the choices"), "{other}");
    let odd = refusal("kind = \"multiple_choice\"\nchoices = [\"A\", \"B\"]\nanswer = 3");
    assert!(odd.contains("one of the choices, or `{ column"), "{odd}");
    let kind = refusal("kind = \"continuations\"\nyes = \"a\"");
    assert!(kind.contains("did you mean `continuation`?"), "{kind}");
}

#[test]
fn names_that_stand_for_something_else_are_refused() {
    for name in ["refuse", "comply", "threshold", "dtype"] {
        let told = read(&format!("[score.{name}]\nyes = \"a\"\nno = \"b\"\n")).unwrap_err();
        assert!(told.contains("is a key of the default rule"), "{told}");
        assert_eq!(told.matches("error").count(), 1, "{told}");
    }
    for name in [
        "refused", "score", "edge", "alpha", "means", "members", "x_means", "a_rate",
    ] {
        let told = read(&format!("[score.{name}]\nyes = \"a\"\nno = \"b\"\n")).unwrap_err();
        let message = format!("no score rule can be called `{name}`");
        assert!(told.contains(&message), "{told}");
    }
    for name in ["\"a b\"", "\"2x\"", "a-b", "\"a.b\""] {
        let told = read(&format!("[score.{name}]\nyes = \"a\"\nno = \"b\"\n")).unwrap_err();
        assert!(told.contains("cannot name a column"), "{told}");
    }
    let slip = read("[score]\ntreshold = 1\n").unwrap_err();
    assert!(slip.contains("did you mean `threshold`?"), "{slip}");
}

#[test]
fn a_key_has_the_rules_that_are_read_and_no_other() {
    let settings = with_rules(&["a", "b"]);
    let default = settings.rules.default.parameters();
    let chat = settings.chat.key();
    // As it was before there were others.
    let alone = json!({ "settings": { "chat": chat, "score": default } });
    assert_eq!(key("", &settings), alone);
    assert_eq!(key("read = \"refused\"", &settings), alone);
    assert_eq!(key("read = [\"refused\"]", &Settings::default()), alone);
    let a = settings.rules.own["a"].as_ref().unwrap().parameters.clone();
    let one = key("read = \"a\"", &settings);
    assert_eq!(
        one,
        json!({ "settings": { "chat": chat, "score": { "a": a } }, "read": ["a"] })
    );
    assert_eq!(one, key("read = [\"a\"]", &with_rules(&["a"])));
    let both = key("read = [\"refused\", \"a\"]", &settings);
    assert_eq!(both["settings"]["score"]["a"], a);
    assert_eq!(both["settings"]["score"]["refuse"], default["refuse"]);
    // The main table is of the first.
    assert_ne!(both, key("read = [\"a\", \"refused\"]", &settings));
}

#[test]
fn the_right_choice_is_the_studys_or_the_prompts() {
    let prompt = |fields: Json| Prompt {
        id: "p1".to_string(),
        text: String::new(),
        split: String::new(),
        category: String::new(),
        other: fields.as_object().cloned().unwrap_or(Map::new()),
        line: 1,
    };
    let written = "kind = \"multiple_choice\"\nchoices = [\" A\", \" B\"]\nanswer = ";
    let fixed = rule(&format!("{written}\" B\""));
    assert_eq!(fixed.answer(&prompt(json!({}))).unwrap(), 1);
    let of_file = rule(&format!("{written}{{ column = \"right\" }}"));
    let answer = |right: &str| of_file.answer(&prompt(json!({ "right": right })));
    assert_eq!(answer(" A").unwrap(), 0);
    // Without the space, which is the study's to write.
    assert_eq!(answer("B").unwrap(), 1);
    let told = answer("C").unwrap_err().to_string();
    assert!(
        told.contains("prompt `p1` has `C` in its field `right`"),
        "{told}"
    );
    assert!(of_file.answer(&prompt(json!({}))).is_err());
}

#[test]
fn columns_are_called_as_the_rule() {
    assert_eq!(rate_column(REFUSED), "refusal_rate");
    assert_eq!(rate_column("polite"), "polite_rate");
    for rule in [REFUSED, "polite"] {
        assert_eq!(rule_of_rate(&rate_column(rule)), Some(rule));
    }
    assert_eq!(rule_of_rate("rate_low"), None);
    assert_eq!(rate_in_words("polite"), "polite rate");
}
