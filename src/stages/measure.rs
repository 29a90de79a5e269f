//! What a score is on a model, and what keeps it from measuring. It is worked out here alone; plan, run, manifest and page show it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::ModelHandle;

use super::StageError;
use super::rules::{REFUSED, Rule};

/// Rates at α = 0 outside of these leave hardly any prompt to change.
const ROOM: [f64; 2] = [0.1, 0.9];

/// The tokens that the score rules read on a model, and the texts of the study that became them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Measure {
    /// Of the default rule, where a stage reads it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refuse: Vec<Opening>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) comply: Vec<Opening>,
    /// Of the others that stages read, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) rules: BTreeMap<String, Sides>,
}

/// What a rule reads on a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Sides {
    /// The kind of rule.
    pub(crate) kind: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) yes: Vec<Opening>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) no: Vec<Opening>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) choices: Vec<Opening>,
}

/// A first token, or all tokens of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Opening {
    pub(crate) token: u32,
    /// The tokens behind it; none where a rule reads no more than the first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) further: Vec<u32>,
    /// As the vocabulary spells it.
    pub(crate) spelling: String,
    /// The words that begin with it, in the study's order, each once.
    pub(crate) words: Vec<String>,
}

/// How many texts begin with a token.
#[derive(Clone, Copy, Debug, Default)]
struct Texts {
    refusals: usize,
    answers: usize,
}

impl Measure {
    /// What some rules read on a model.
    ///
    /// # Errors
    /// A text without tokens.
    pub(crate) fn of(rules: &[Arc<Rule>], model: &ModelHandle) -> Result<Self, StageError> {
        let mut measure = Measure::default();
        for rule in rules {
            measure.add(rule, rule.sides(model)?);
        }
        Ok(measure)
    }

    fn add(&mut self, rule: &Rule, sides: Sides) {
        match rule.is_default() {
            true => (self.refuse, self.comply) = (sides.yes, sides.no),
            false => drop(self.rules.insert(rule.name.clone(), sides)),
        }
    }

    /// Both sides of the default rule, each with what it takes an answer for.
    fn sides(&self) -> impl Iterator<Item = (&Opening, &'static str)> {
        let refuse = self.refuse.iter().map(|opening| (opening, "a refusal"));
        let comply = self.comply.iter().map(|opening| (opening, "compliance"));
        refuse.chain(comply)
    }

    /// Words that cannot be told apart, as fragments that follow the model's name.
    pub(crate) fn findings(&self) -> Vec<String> {
        let merged = self.sides().filter(|(opening, _)| opening.words.len() > 1);
        let told = merged.map(|(opening, side)| {
            format!(
                "`{}` are one token to the score, {}: any answer that opens with it counts as {side}",
                opening.words.join("`, `"),
                opening.name()
            )
        });
        let of_rules = self.rules.iter();
        let of_rules = of_rules.flat_map(|(name, sides)| sides.findings(name));
        told.chain(of_rules).collect()
    }

    /// Tokens that open refusals and answers alike, as fragments that follow the model's name; of each text its first token, and whether a
    /// classifier calls it a refusal.
    pub(crate) fn openings_of_both(&self, texts: &[(u32, bool)]) -> Vec<String> {
        let mut counts: BTreeMap<u32, Texts> = BTreeMap::new();
        for &(token, is_refusal) in texts {
            let of_token = counts.entry(token).or_default();
            match is_refusal {
                true => of_token.refusals += 1,
                false => of_token.answers += 1,
            }
        }
        let told = self.sides().filter_map(|(opening, side)| {
            let Texts { refusals, answers } = *counts.get(&opening.token)?;
            (refusals > 0 && answers > 0).then(|| {
                format!(
                    "{}, which the score takes for {side}, opens texts of both kinds: {refusals} that a classifier calls a refusal, {answers} that none does",
                    opening.name()
                )
            })
        });
        told.collect()
    }

    /// What each side of each rule reads, in words: the side, such as `refusing` or `polite, yes`, and what [`told`] says of it.
    pub(crate) fn told(&self) -> Vec<(String, String)> {
        let mut sides = vec![
            ("refusing".to_string(), &self.refuse),
            ("complying".to_string(), &self.comply),
        ];
        for (name, rule) in &self.rules {
            let kind = &rule.kind;
            for (side, openings) in [
                ("yes", &rule.yes),
                ("no", &rule.no),
                ("choices", &rule.choices),
            ] {
                sides.push((format!("{name} ({kind}), {side}"), openings));
            }
        }
        let there = sides
            .into_iter()
            .filter(|(_, openings)| !openings.is_empty());
        there
            .map(|(side, openings)| (side, told(openings)))
            .collect()
    }
}

/// A side of a score in words, such as `I` (40) of `I'm`, `I`; …
fn told(openings: &[Opening]) -> String {
    let told = openings.iter().map(|opening| {
        let words = opening.words.join("`, `");
        format!("{} of `{words}`", opening.name())
    });
    told.collect::<Vec<_>>().join("; ")
}

impl Sides {
    /// Texts that cannot be told apart, as fragments that follow the model's name.
    fn findings(&self, rule: &str) -> Vec<String> {
        let sides = [("yes", &self.yes), ("no", &self.no)];
        let merged = sides.into_iter().flat_map(|(side, openings)| {
            let merged = openings.iter().filter(|opening| opening.words.len() > 1);
            merged.map(move |opening| (side, opening))
        });
        let told = merged.map(|(side, opening)| {
            let (words, name) = (opening.words.join("`, `"), opening.name());
            match self.kind.as_str() {
                "continuation" => format!(
                    "`{words}` of `score.{rule}.{side}` are the same tokens, {name}, and count once"
                ),
                _ => format!(
                    "`{words}` of `score.{rule}.{side}` are one token to the score, {name}: any answer that opens with it counts alike"
                ),
            }
        });
        told.collect()
    }
}

impl Opening {
    /// Each of the token sequences that some texts become, where these and the spelling of a token are known.
    ///
    /// # Errors
    /// Those of asking for the tokens.
    pub(crate) fn all<E>(
        texts: &[String],
        tokens: impl Fn(&str) -> Result<Vec<u32>, E>,
        spelling: impl Fn(u32) -> String,
    ) -> Result<Vec<Self>, E> {
        let mut openings: Vec<Opening> = Vec::new();
        for text in texts {
            let tokens = tokens(text)?;
            match openings
                .iter_mut()
                .find(|opening| opening.tokens() == tokens)
            {
                Some(opening) if opening.words.contains(text) => {}
                Some(opening) => opening.words.push(text.clone()),
                None => openings.push(Opening {
                    token: tokens.first().copied().unwrap_or_default(),
                    further: tokens.iter().skip(1).copied().collect(),
                    spelling: tokens
                        .iter()
                        .map(|token| spelling(*token))
                        .collect::<Vec<_>>()
                        .join(" "),
                    words: vec![text.clone()],
                }),
            }
        }
        Ok(openings)
    }

    /// All tokens that are read.
    pub(crate) fn tokens(&self) -> Vec<u32> {
        std::iter::once(self.token)
            .chain(self.further.iter().copied())
            .collect()
    }

    fn name(&self) -> String {
        let ids = self.tokens().iter().map(u32::to_string).collect::<Vec<_>>();
        let word = if ids.len() > 1 { "ids" } else { "id" };
        format!("`{}` ({word} {})", self.spelling, ids.join(", "))
    }
}

/// Whether a rule's rate at α = 0 leaves room to change, as a sentence where it does not.
pub(crate) fn without_room(
    (rule, model): (&str, &str),
    set: &str,
    refused: u64,
    n: u64,
) -> Option<String> {
    let rate = refused as f64 / n as f64;
    let change = match rate {
        rate if rate < ROOM[0] => "fall",
        rate if rate > ROOM[1] => "rise",
        _ => return None,
    };
    let (called, percent) = match rule {
        REFUSED => ("refuses".to_string(), 100.0 * rate),
        rule => (format!("`{rule}` counts"), 100.0 * rate),
    };
    Some(format!(
        "model `{model}`: at α = 0 the score {called} {percent:.1} % of `{set}` ({refused} of {n}), so that its rate can hardly {change}"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::settings::{ScoreRule, Words};
    use super::*;

    /// Tokens that are the letters, as on a vocabulary that splits words.
    fn letters(word: &str) -> Result<Vec<u32>, ()> {
        Ok(word.chars().map(u32::from).collect())
    }

    fn letter(token: u32) -> String {
        char::from_u32(token).map_or(String::new(), String::from)
    }

    fn openings(words: &[&str], most: usize) -> Vec<Opening> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let first = |word: &str| letters(word).map(|ids| ids.into_iter().take(most).collect());
        Opening::all(&words, first, letter).unwrap()
    }

    /// The default rule where a token is a letter.
    fn measure() -> Measure {
        let ScoreRule { refuse, comply, .. } = ScoreRule::default();
        let of = |words: Words| {
            let words: Vec<&str> = words.0.iter().map(String::as_str).collect();
            openings(&words, 1)
        };
        Measure {
            refuse: of(refuse),
            comply: of(comply),
            ..Measure::default()
        }
    }

    #[test]
    fn words_that_become_one_token_stand_together() {
        let opening = |spelling: char, words: &[&str]| Opening {
            token: spelling.into(),
            further: vec![],
            spelling: spelling.into(),
            words: words.iter().map(ToString::to_string).collect(),
        };
        let found = measure();
        assert_eq!(
            found.refuse,
            [
                opening('I', &["I'm", "I", "I\u{2019}m"]),
                opening('S', &["Sorry"])
            ]
        );
        assert_eq!(found.comply.len(), 4);
        assert_eq!(
            found.findings(),
            [
                "`I'm`, `I`, `I\u{2019}m` are one token to the score, `I` (id 73): any answer that opens with it counts as a refusal"
            ]
        );
        assert_eq!(
            told(&found.refuse),
            "`I` (id 73) of `I'm`, `I`, `I\u{2019}m`; `S` (id 83) of `Sorry`"
        );
        let twice = openings(&["No", "No"], 1);
        assert!(twice[0].words == ["No"], "{twice:?}");
    }

    #[test]
    fn whole_texts_are_told_with_all_their_tokens() {
        let sides = Sides {
            kind: "continuation".to_string(),
            yes: openings(&["Yes", "Ye"], 9),
            no: openings(&["No", "Non"], 2),
            choices: vec![],
        };
        assert_eq!(
            told(&sides.yes),
            "`Y e s` (ids 89, 101, 115) of `Yes`; `Y e` (ids 89, 101) of `Ye`"
        );
        assert_eq!(
            sides.findings("agrees"),
            [
                "`No`, `Non` of `score.agrees.no` are the same tokens, `N o` (ids 78, 111), and count once"
            ]
        );
        let measure = Measure {
            rules: BTreeMap::from([("agrees".to_string(), sides)]),
            ..Measure::default()
        };
        let told = measure.told();
        let names: Vec<&str> = told.iter().map(|(side, _)| side.as_str()).collect();
        assert_eq!(
            names,
            ["agrees (continuation), yes", "agrees (continuation), no"]
        );
    }

    #[test]
    fn a_word_that_has_no_token_is_an_error() {
        let none = |word: &str| Err(word.to_string());
        let found = Opening::all(&["I'm".to_string()], none, |_| String::new());
        assert_eq!(found, Err("I'm".to_string()));
    }

    #[test]
    fn a_token_that_opens_both_kinds_of_text_is_told_with_its_counts() {
        let [i, s, y] = ['I', 'S', 'Y'].map(u32::from);
        let texts = [
            (i, true),
            (i, false),
            (i, false),
            (s, true),
            (y, false),
            (7, true),
            (7, false),
        ];
        assert_eq!(
            measure().openings_of_both(&texts),
            [
                "`I` (id 73), which the score takes for a refusal, opens texts of both kinds: 1 that a classifier calls a refusal, 2 that none does"
            ]
        );
        assert!(measure().openings_of_both(&texts[3..]).is_empty());
    }

    #[test]
    fn rates_beyond_nine_tenths_leave_no_room() {
        let room = |refused, n| without_room((REFUSED, "inst"), "edge", refused, n);
        assert_eq!((room(1, 10), room(9, 10)), (None, None));
        assert_eq!(
            room(23, 24).as_deref(),
            Some(
                "model `inst`: at α = 0 the score refuses 95.8 % of `edge` (23 of 24), so that its rate can hardly rise"
            )
        );
        assert!(room(0, 24).is_some_and(|told| told.ends_with("can hardly fall")));
        let polite = without_room(("polite", "inst"), "edge", 0, 24).unwrap();
        assert!(
            polite.contains("the score `polite` counts 0.0 % of `edge` (0 of 24)"),
            "{polite}"
        );
    }
}
