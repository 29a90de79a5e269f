//! Score rules: what is read of a model after a prompt, how it becomes a number, and above which the prompt counts.
//!
//! `[score]` itself is the default rule, `refused`; each `[score.NAME]` is another. Whatever a rule reads, it reads behind the chat's generation
//! prompt, where the answer begins. Its texts are cut into tokens as they are written, no special tokens added: a space before a word is the
//! study's to write. Four kinds:
//!
//! | kind | score |
//! |---|---|
//! | `first_token` | logsumexp of the logits of the first tokens of `yes` − the same of `no` |
//! | `log_odds` | log(P + 1e-8) − log(1 − P + 1e-8), P = the probability of all first tokens of `yes` (Arditi et al. 2024, in float64) |
//! | `continuation` | logsumexp over the texts of `yes` of ln p(text) − the same of `no`; ln p(text) is the sum over all of its tokens |
//! | `multiple_choice` | ln p(answer) − the largest ln p of another choice: above 0 it is right, a tie is wrong |
//!
//! A tie is never above a threshold of 0. (lm-eval's `acc` takes the first of several equal choices.) `normalise` divides each text's
//! log-probability, before all else, by its number of tokens, or of characters (lm-eval's `acc_norm`).

use serde_json::{Value as Json, json};

use crate::prompts::Prompt;
use crate::spec::{Choice, Decode, Fields, Location, Node, Problems};

use super::StageError;
use super::declare::{Declaration, FieldType, KeyParts, Parameter, Together, declared, parameters};
use super::field_types::choices;
use super::settings::{ScoreRule, Settings, Words};
use crate::model::ScoreDtype;

mod gauge;
mod names;
mod reads;
mod study;

use gauge::Gauge;
pub(crate) use names::{
    BUILT, REFUSED, by_rule, rate_column, rate_in_words, rule_of, rule_of_rate, score_in_words,
};
pub(super) use reads::{OfRule, Readings, Reads, ReadsOne};
pub(crate) use study::Rules;

choices! {
    /// What a rule reads.
    pub(crate) enum RuleKind {
        /// the logits of first tokens, `yes` against `no`
        FirstToken = "first_token",
        /// the odds that the answer begins with a first token of `yes`
        LogOdds = "log_odds",
        /// the probabilities of whole texts, `yes` against `no` where that is given
        Continuation = "continuation",
        /// the probability of the right one of `choices` against the best of the others
        MultipleChoice = "multiple_choice",
    }
}

choices! {
    /// What a text's log-probability is divided by.
    pub(crate) enum Normalise {
        /// nothing
        None = "none",
        /// its number of tokens
        Tokens = "tokens",
        /// its number of characters, white space before it aside
        Characters = "characters",
    }
}

parameters! {
    /// A rule of the study's own, an entry of `[score]`.
    pub(crate) group NamedRule {
        /// What is read.
        kind: RuleKind = "first_token",
        /// Texts that speak for it; of `first_token` and `log_odds` the first token of each counts. Not of `multiple_choice`.
        yes: Option<Words>,
        /// Texts that speak against it; of `first_token`, and of `continuation` where the score is not the log-probability of `yes` alone.
        no: Option<Words>,
        /// What there is to choose from, at least two; of `multiple_choice`.
        choices: Option<Words>,
        /// The right choice, or `{ column = "NAME" }`: the field of the prompt file that holds it; of `multiple_choice`.
        answer: Option<Answer>,
        /// What each text's log-probability is divided by; of `continuation` and `multiple_choice`.
        normalise: Normalise = "none",
        /// A prompt with a score strictly above it counts. Of a `continuation` without `no` it must be given: its scores are below 0.
        threshold: f64 = 0.0,
        /// The dtype of the logits; of `first_token`.
        dtype: ScoreDtype = "float32",
    }
}

impl RuleKind {
    /// The fields that rules of this kind have, beside `kind` and `threshold`.
    fn fields(self) -> &'static [&'static str] {
        match self {
            RuleKind::FirstToken => &["yes", "no", "dtype"],
            RuleKind::LogOdds => &["yes"],
            RuleKind::Continuation => &["yes", "no", "normalise"],
            RuleKind::MultipleChoice => &["choices", "answer", "normalise"],
        }
    }
}

impl Together for NamedRule {
    fn read_together(fields: &mut Fields<'_, '_>, _: &Settings) -> Option<Self> {
        let kind = match fields.node("kind") {
            None => RuleKind::FirstToken,
            Some(_) => fields.optional("kind")?,
        };
        let has = |name: &str| kind.fields().contains(&name);
        let mut is_sound = true;
        for name in ["yes", "no", "choices", "answer", "normalise", "dtype"] {
            if let Some(node) = fields.node(name).filter(|_| !has(name)) {
                let message = format!(
                    "`{name}` plays no part in a rule of `kind = \"{}\"`",
                    kind.name()
                );
                let known = format!("it has `{}`", kind.fields().join("`, `"));
                fields.problems.error_at(&node.at, message).label(known);
                is_sound = false;
            }
        }
        let required = |fields: &mut Fields<'_, '_>, name: &'static str| -> Option<Option<Words>> {
            match has(name) {
                true => fields.required(name).map(Some),
                false => Some(None),
            }
        };
        let yes = required(fields, "yes");
        let choices = required(fields, "choices");
        let no = match kind {
            RuleKind::Continuation if fields.node("no").is_none() => Some(None),
            _ => required(fields, "no"),
        };
        let answer = match has("answer") {
            true => fields.required::<Answer>("answer").map(Some),
            false => Some(None),
        };
        let threshold = match (kind, &no) {
            (RuleKind::Continuation, Some(None)) => fields.required("threshold"),
            _ => fields.or("threshold", &json!(0.0)),
        };
        let rule = Self {
            kind,
            yes: yes?,
            no: no?,
            choices: choices?,
            answer: answer?,
            normalise: fields.or("normalise", &json!("none"))?,
            threshold: threshold?,
            dtype: fields.or("dtype", &json!("float32"))?,
        };
        (is_sound && rule.choices_are_sound(fields)).then_some(rule)
    }
}

impl NamedRule {
    /// Whether there is something to choose, and the answer is among it.
    fn choices_are_sound(&self, fields: &mut Fields<'_, '_>) -> bool {
        let (Some(choices), Some(answer)) = (&self.choices, &self.answer) else {
            return true;
        };
        let nodes = [fields.node("choices"), fields.node("answer")];
        let [Some(of_choices), Some(of_answer)] = nodes else {
            return true;
        };
        if choices.0.len() < 2 {
            fields
                .problems
                .error_at(&of_choices.at, "there is one choice, and nothing to choose")
                .label("expected two at least");
            return false;
        }
        let Answer::Text(text) = answer else {
            return true;
        };
        let is_there = choices.0.contains(text);
        if !is_there {
            let known = choices.0.iter().map(String::as_str);
            let listed = format!("they are `{}`", choices.0.join("`, `"));
            fields
                .problems
                .error_at(&of_answer.at, format!("`{text}` is none of the choices"))
                .suggest(text, known, &listed);
        }
        is_there
    }

    fn how(self) -> How {
        let words = |words: Option<Words>| words.map_or(Vec::new(), |words| words.0);
        let NamedRule { normalise, .. } = self;
        match self.kind {
            RuleKind::FirstToken => How::FirstToken {
                yes: words(self.yes),
                no: words(self.no),
                dtype: self.dtype,
            },
            RuleKind::LogOdds => How::LogOdds {
                yes: words(self.yes),
            },
            RuleKind::Continuation => How::Continuation {
                yes: words(self.yes),
                no: words(self.no),
                normalise,
            },
            RuleKind::MultipleChoice => How::MultipleChoice {
                choices: words(self.choices),
                answer: self.answer.unwrap_or(Answer::Text(String::new())),
                normalise,
            },
        }
    }
}

/// Which of the choices is right.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// This one, for every prompt.
    Text(String),
    /// The one that a field of the prompt file holds.
    Column(String),
}

impl Decode for Answer {
    fn decode(node: &Node, problems: &mut Problems) -> Option<Self> {
        if let Some(text) = node.as_str() {
            return Some(Answer::Text(text.to_string()));
        }
        if node.as_table().is_none() {
            return problems.mismatch(node, &Self::expected());
        }
        let mut fields = Fields::new(node, problems)?;
        let column = fields.required("column");
        fields.finish();
        column.map(Answer::Column)
    }

    fn expected() -> String {
        "one of the choices, or `{ column = \"NAME\" }`".into()
    }
}

impl FieldType for Answer {
    fn schema() -> Json {
        let column = json!({
            "type": "object", "properties": { "column": { "type": "string", "description": "The field of the prompt file." } },
            "required": ["column"], "additionalProperties": false,
        });
        json!({ "anyOf": [{ "type": "string" }, column] })
    }

    fn key(&self) -> Json {
        match self {
            Answer::Text(text) => json!(text),
            Answer::Column(column) => json!({ "column": column }),
        }
    }
}

/// How a score comes about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum How {
    FirstToken {
        yes: Vec<String>,
        no: Vec<String>,
        dtype: ScoreDtype,
    },
    LogOdds {
        yes: Vec<String>,
    },
    Continuation {
        yes: Vec<String>,
        /// Empty where the score is that of `yes` alone.
        no: Vec<String>,
        normalise: Normalise,
    },
    MultipleChoice {
        choices: Vec<String>,
        answer: Answer,
        normalise: Normalise,
    },
}

/// A score rule of a study.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rule {
    /// As tables, figures and other stages call it.
    pub(crate) name: String,
    pub(crate) how: How,
    /// A prompt with a score strictly above it counts.
    pub(crate) threshold: f64,
    /// All that decides its scores, for keys.
    parameters: Json,
    /// Where it is written; none of a default that is not.
    pub(crate) at: Option<Location>,
}

impl Rule {
    /// The default rule.
    pub(super) fn default_of(rule: &ScoreRule, at: Option<Location>) -> Self {
        Rule {
            name: REFUSED.to_string(),
            how: How::FirstToken {
                yes: rule.refuse.0.clone(),
                no: rule.comply.0.clone(),
                dtype: rule.dtype,
            },
            threshold: rule.threshold,
            parameters: rule.parameters(),
            at,
        }
    }

    fn named(name: &str, rule: NamedRule, at: &Location) -> Self {
        let mut parameters = KeyParts::new();
        rule.add_key("", &mut parameters);
        let has = |field: &str| {
            rule.kind.fields().contains(&field) || ["kind", "threshold"].contains(&field)
        };
        parameters.retain(|field, _| has(field));
        Rule {
            name: name.to_string(),
            threshold: rule.threshold,
            parameters: parameters.into(),
            at: Some(at.clone()),
            how: rule.how(),
        }
    }

    pub(crate) fn is_default(&self) -> bool {
        self.name == REFUSED
    }

    /// The kind, as a study file says it.
    pub(crate) fn kind(&self) -> &'static str {
        let kind = match self.how {
            How::FirstToken { .. } => RuleKind::FirstToken,
            How::LogOdds { .. } => RuleKind::LogOdds,
            How::Continuation { .. } => RuleKind::Continuation,
            How::MultipleChoice { .. } => RuleKind::MultipleChoice,
        };
        kind.name()
    }

    /// Whether it reads the logits of first tokens, at one place.
    pub(crate) fn is_of_first_tokens(&self) -> bool {
        matches!(self.how, How::FirstToken { .. } | How::LogOdds { .. })
    }

    /// Whether one of its texts is empty.
    pub(crate) fn has_empty_text(&self) -> bool {
        let (yes, no) = match &self.how {
            How::FirstToken { yes, no, .. } | How::Continuation { yes, no, .. } => (yes, &no[..]),
            How::LogOdds { yes } | How::MultipleChoice { choices: yes, .. } => (yes, &[][..]),
        };
        yes.iter().chain(no).any(String::is_empty)
    }

    /// Whether a score counts.
    pub(crate) fn counts(&self, score: f64) -> bool {
        score > self.threshold
    }

    /// The number of the right choice for a prompt; of no consequence where there is none.
    ///
    /// # Errors
    /// A prompt that names none of the choices.
    pub(super) fn answer(&self, prompt: &Prompt) -> Result<usize, StageError> {
        let How::MultipleChoice {
            choices, answer, ..
        } = &self.how
        else {
            return Ok(0);
        };
        let (wanted, column) = match answer {
            Answer::Text(text) => (text.as_str(), None),
            Answer::Column(column) => {
                let field = prompt.other.get(column).and_then(Json::as_str);
                (field.unwrap_or_default(), Some(column))
            }
        };
        // A space before a choice is the study's to write, and not the prompt file's.
        let mut found = choices.iter();
        let found = found.position(|choice| choice == wanted || choice.trim_start() == wanted);
        found.ok_or_else(|| {
            let (id, rule) = (&prompt.id, &self.name);
            let column = column.map_or("", String::as_str);
            let choices = choices.join("`, `");
            StageError::Data(match prompt.other.contains_key(column) {
                true => format!(
                    "prompt `{id}` has `{wanted}` in its field `{column}`, which is none of the choices of the score rule `{rule}`: `{choices}`"
                ),
                false => format!(
                    "prompt `{id}` has no field `{column}`, in which the score rule `{rule}` looks for the right one of `{choices}`"
                ),
            })
        })
    }
}

#[cfg(test)]
mod tests;
